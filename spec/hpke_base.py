"""HPKE base mode, single shot, of the one suite the project uses: RFC 9180 over X25519, HKDF-SHA256 and AES-256-GCM.

Part of the second implementation: written from the RFC, so that the package's HPKE is checked by another.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEM = b"KEM" + (0x0020).to_bytes(2, "big")
_SUITE = b"HPKE" + b"".join(n.to_bytes(2, "big") for n in (0x0020, 0x0001, 0x0002))


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


def _schedule(secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and nonce of the first message: section 5.1, mode base."""
    context = b"\x00" + _extract(_SUITE, b"", b"psk_id_hash", b"") + _extract(_SUITE, b"", b"info_hash", info)
    prk = _extract(_SUITE, secret, b"secret", b"")
    return _expand(_SUITE, prk, b"key", context, 32), _expand(_SUITE, prk, b"base_nonce", context, 12)


def open_sealed(private: bytes, info: bytes, enc: bytes, ciphertext: bytes) -> bytes:
    """Open(enc, ciphertext) with empty associated data."""
    try:
        key, nonce = _schedule(shared_secret(private, enc, enc + public_key(private)), info)
        return AESGCM(key).decrypt(nonce, ciphertext, b"")
    except (InvalidTag, ValueError):
        raise OpenError from None


def seal(recipient: bytes, info: bytes, plaintext: bytes, ephemeral: bytes) -> tuple[bytes, bytes]:
    """Seal with a given ephemeral private key, for known-answer tests: (enc, ciphertext)."""
    enc = public_key(ephemeral)
    key, nonce = _schedule(shared_secret(ephemeral, recipient, enc + recipient), info)
    return enc, AESGCM(key).encrypt(nonce, plaintext, b"")
