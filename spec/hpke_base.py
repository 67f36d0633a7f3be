"""HPKE base mode, single shot, of the project's two suites: RFC 9180 with HKDF-SHA256 and AES-256-GCM, over X25519 or
over ML-KEM-768 and X25519 together (draft-connolly-cfrg-xwing-kem).

Part of the second implementation: written from RFC and draft, so that the package's HPKE is checked by another.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEM = b"KEM" + (0x0020).to_bytes(2, "big")
_X25519, _HYBRID = (b"HPKE" + b"".join(n.to_bytes(2, "big") for n in (kem, 0x0001, 0x0002)) for kem in (0x0020, 0x647A))

X25519 = "hpke-x25519-sha256-aes256gcm"
HYBRID = "hpke-mlkem768-x25519-sha256-aes256gcm"
PUBLIC_BYTES = {X25519: 32, HYBRID: 1184 + 32}
ENC_BYTES = {X25519: 32, HYBRID: 1088 + 32}
SEALED_BYTES = {suite: length + 48 for suite, length in ENC_BYTES.items()}


class OpenError(Exception):
    """The ciphertext is not for this key, or was altered."""


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    """RFC 5869, section 2.2."""
    return hmac.digest(salt or bytes(32), ikm, hashlib.sha256)


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2.3."""
    block, out = b"", b""
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([len(out) // 32 + 1]), hashlib.sha256)
        out += block
    return out[:length]


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hkdf_extract(salt, b"HPKE-v1" + suite + label + ikm)


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return hkdf_expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def public_key(private: bytes) -> bytes:
    """X25519 of a private key and the base point."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def shared_secret(private: bytes, peer: bytes, context: bytes) -> bytes:
    """The DHKEM's shared secret: section 4.1, ``ExtractAndExpand(DH(private, peer), enc || recipient)``."""
    exchanged = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(peer))
    return _expand(_KEM, _extract(_KEM, b"", b"eae_prk", exchanged), b"shared_secret", context, 32)


def combine(mlkem: bytes, x25519: bytes, ephemeral: bytes, recipient: bytes) -> bytes:
    """X-Wing's combiner: the two shared secrets, and the X25519 public keys of sender and recipient."""
    return hashlib.sha3_256(mlkem + x25519 + ephemeral + recipient + bytes.fromhex("5c2e2f2f5e5c")).digest()


def _schedule(suite: bytes, secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and nonce of the first message: section 5.1, mode base."""
    context = b"\x00" + _extract(suite, b"", b"psk_id_hash", b"") + _extract(suite, b"", b"info_hash", info)
    prk = _extract(suite, secret, b"secret", b"")
    return _expand(suite, prk, b"key", context, 32), _expand(suite, prk, b"base_nonce", context, 12)


def open_sealed(private: bytes, info: bytes, enc: bytes, ciphertext: bytes) -> bytes:
    """Open(enc, ciphertext) with empty associated data."""
    try:
        key, nonce = _schedule(_X25519, shared_secret(private, enc, enc + public_key(private)), info)
        return AESGCM(key).decrypt(nonce, ciphertext, b"")
    except (InvalidTag, ValueError):
        raise OpenError from None


def seal(recipient: bytes, info: bytes, plaintext: bytes, ephemeral: bytes) -> tuple[bytes, bytes]:
    """Seal with a given ephemeral private key, for known-answer tests: (enc, ciphertext)."""
    enc = public_key(ephemeral)
    key, nonce = _schedule(_X25519, shared_secret(ephemeral, recipient, enc + recipient), info)
    return enc, AESGCM(key).encrypt(nonce, plaintext, b"")


# --- hybrid: private keys are (ML-KEM seed of 64 bytes, X25519 private key) ---------------------------------------


def hybrid_public(seed: bytes, private: bytes) -> bytes:
    """Encapsulation key and X25519 public key."""
    return MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw() + public_key(private)


def open_hybrid(seed: bytes, private: bytes, info: bytes, enc: bytes, ciphertext: bytes) -> bytes:
    """Open(enc, ciphertext) of the hybrid suite with empty associated data."""
    try:
        mlkem = MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(enc[:1088])
        x25519 = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(enc[1088:]))
        key, nonce = _schedule(_HYBRID, combine(mlkem, x25519, enc[1088:], public_key(private)), info)
        return AESGCM(key).decrypt(nonce, ciphertext, b"")
    except (InvalidTag, ValueError):
        raise OpenError from None


def seal_hybrid(
    recipient: bytes, info: bytes, plaintext: bytes, encapsulated: tuple[bytes, bytes], ephemeral: bytes
) -> tuple[bytes, bytes]:
    """Seal with a given ephemeral key and a given result of ML-KEM, (ciphertext, shared secret): (enc, ciphertext)."""
    peer = X25519PublicKey.from_public_bytes(recipient[1184:])
    exchanged = X25519PrivateKey.from_private_bytes(ephemeral).exchange(peer)
    public = public_key(ephemeral)
    key, nonce = _schedule(_HYBRID, combine(encapsulated[1], exchanged, public, recipient[1184:]), info)
    return encapsulated[0] + public, AESGCM(key).encrypt(nonce, plaintext, b"")


# --- device keys: device-record.md, section 5 -------------------------------------------------------------------------


def _derived(device_key: bytes, use: str, length: int) -> bytes:
    return hkdf_expand(hkdf_extract(b"", device_key), b"unclone v1 device " + use.encode(), length)


def hybrid_private(device_key: bytes) -> tuple[bytes, bytes]:
    return _derived(device_key, "hybrid mlkem768", 64), _derived(device_key, "hybrid x25519", 32)


def device_public(suite: str, device_key: bytes) -> bytes:
    """The public key that a device key has in a suite."""
    if suite == HYBRID:
        return hybrid_public(*hybrid_private(device_key))
    return public_key(_derived(device_key, "x25519", 32))


def device_open(suite: str, device_key: bytes, info: bytes, sealed: bytes) -> bytes:
    """What ``sealed``, enc and ciphertext, holds for a device; raises OpenError."""
    enc, ciphertext = sealed[: ENC_BYTES[suite]], sealed[ENC_BYTES[suite] :]
    if suite == HYBRID:
        return open_hybrid(*hybrid_private(device_key), info, enc, ciphertext)
    return open_sealed(_derived(device_key, "x25519", 32), info, enc, ciphertext)
