"""Every KDF label and every HPKE call of the project; no other file derives, seals or opens a key.

The table of labels is in spec/bound-model.md and spec/device-record.md; a test compares it with ``LABELS``.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from unclone.errors import RecordError, SlotError, UnsupportedError
from unclone.records import KEY_BYTES, DeviceKey, Header, Slot

__all__ = [
    "LABELS",
    "PUBLIC_KEY_BYTES",
    "SEALED_KEY_BYTES",
    "SEALED_SHARE_BYTES",
    "SLOT_BYTES",
    "SUITE",
    "ContentKeys",
    "TraceKeys",
    "check_suite",
    "content_keys",
    "device_trace_key",
    "header_mac",
    "new_content_key",
    "new_device_key",
    "open_device_key",
    "open_positions",
    "open_share",
    "open_slot",
    "public_key",
    "seal_device_key",
    "seal_positions",
    "seal_share",
    "seal_slot",
    "share_check",
    "slot_hint",
    "stretch_passphrase",
    "trace_keys",
]

SUITE: Final = "hpke-x25519-sha256-aes256gcm"
"""RFC 9180 base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM."""

PUBLIC_KEY_BYTES: Final = 32
SEALED_KEY_BYTES: Final = KEY_BYTES + 16
SLOT_BYTES: Final = 32 + KEY_BYTES + 16
SEALED_SHARE_BYTES: Final = 32 + KEY_BYTES + 16
HINT_BYTES: Final = 8

LABELS: Final = {
    "record seal": b"unclone v1 record seal",
    "device x25519": b"unclone v1 device x25519",
    "slot": b"unclone v1 slot",
    "slot hint": b"unclone v1 slot hint",
    "aead": b"unclone v1 aead",
    "header": b"unclone v1 header",
    "positions": b"unclone v1 positions",
    "machine share": b"unclone v1 machine share",
    "machine check": b"unclone v1 machine check",
    "trace root": b"unclone v1 trace root",
    "trace carrier": b"unclone v1 trace carrier",
    "trace device": b"unclone v1 trace device",
}
"""Domain separation: one label for one use, never shared."""

_HPKE: Final = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_ZERO_NONCE: Final = bytes(12)
_POSITIONS_NONCE: Final = b"\xff" * 12


def check_suite(name: str) -> None:
    """Raise ``UnsupportedError`` for an HPKE suite this release does not know."""
    if name != SUITE:
        raise UnsupportedError(f"HPKE suite {name[:60]!r} is not known to this release; known: {SUITE}")


# --- device half -------------------------------------------------------------------------------------------------


def new_device_key() -> DeviceKey:
    """A fresh random device key."""
    return DeviceKey(secrets.token_bytes(KEY_BYTES))


def _private_key(key: DeviceKey) -> X25519PrivateKey:
    seed = HKDF(hashes.SHA256(), 32, salt=None, info=LABELS["device x25519"]).derive(key.secret)
    return X25519PrivateKey.from_private_bytes(seed)


def public_key(key: DeviceKey) -> bytes:
    """The HPKE public key of a device key, 32 bytes."""
    return _private_key(key).public_key().public_bytes_raw()


def _record_key(secret: bytes, context: bytes) -> bytes:
    salt = hashlib.sha256(context).digest()
    return HKDF(hashes.SHA256(), 32, salt=salt, info=LABELS["record seal"]).derive(secret)


def seal_device_key(key: DeviceKey, secret: bytes, context: bytes) -> bytes:
    """Seal a device key under a fuzzy extractor's secret, 48 bytes.

    The wrapping key serves once (``secret`` is fresh for every enrolment), hence the fixed nonce, as in HPKE.

    Args:
        key: the device key.
        secret: the extractor's secret.
        context: canonical bytes of everything else in the record; one changed bit changes the wrapping key.
    """
    return AESGCM(_record_key(secret, context)).encrypt(_ZERO_NONCE, bytes(key.secret), None)


def open_device_key(
    sealed: bytes, candidates: list[bytes], context: bytes, expected: bytes
) -> tuple[DeviceKey, bytes] | None:
    """The device key and the secret that opened it, if one of the candidates does and the public key is ``expected``.

    All candidates are tried whether or not an early one succeeds, so time says nothing of which.
    """
    found: tuple[DeviceKey, bytes] | None = None
    for secret in candidates:
        try:
            key = DeviceKey(AESGCM(_record_key(secret, context)).decrypt(_ZERO_NONCE, sealed, None))
        except InvalidTag:
            continue
        if found is None and hmac.compare_digest(public_key(key), expected):
            found = key, secret
    return found


def stretch_passphrase(passphrase: bytes, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    """The secret of a passphrase, 32 bytes: scrypt (RFC 7914), cost ``2 ** log_n``, memory ``128 * r * 2 ** log_n``."""
    return Scrypt(salt, 32, n=1 << log_n, r=r, p=p).derive(passphrase)


# --- machines ----------------------------------------------------------------------------------------------------


def _share_info(use: str, context: bytes, index: int) -> bytes:
    return LABELS[use] + hashlib.sha256(context).digest() + bytes([index])


def seal_share(share: bytes | bytearray, public: bytes, context: bytes, index: int) -> bytes:
    """Seal a part's share of a machine's key for the part's device, 80 bytes.

    Args:
        share: 32 bytes.
        public: the device's HPKE public key.
        context: canonical bytes of what the machine's record says beside shares and checks; any change of it, an
            older revision too, and the share does not open.
        index: the part's x-coordinate, 1 to 255.

    Raises:
        RecordError: the public key is a point of low order.
    """
    recipient = X25519PublicKey.from_public_bytes(public)
    try:
        return _HPKE.encrypt(bytes(share), recipient, _share_info("machine share", context, index))
    except ValueError:
        raise RecordError("a part's public key is not one: a point of low order; enrol the part again") from None


def open_share(sealed: bytes, key: DeviceKey, context: bytes, index: int) -> bytearray | None:
    """The share in ``sealed``; ``None`` if it was altered or is another device's."""
    try:
        return bytearray(_HPKE.decrypt(sealed, _private_key(key), _share_info("machine share", context, index)))
    except (InvalidTag, ValueError):
        return None


def share_check(share: bytes | bytearray, context: bytes, index: int) -> bytes:
    """Public 32 bytes that tell a share from a forged one. A share is uniform, so they reveal nothing to search for."""
    return hashlib.sha256(_share_info("machine check", context, index) + share).digest()


# --- the joint ---------------------------------------------------------------------------------------------------


def slot_hint(public: bytes, file_id: bytes) -> bytes:
    """Eight bytes by which a device finds its slot without trying each."""
    return hashlib.sha256(LABELS["slot hint"] + file_id + public).digest()[:HINT_BYTES]


def seal_slot(content_key: bytes, public: bytes, file_id: bytes) -> Slot:
    """Seal a content key for the owner of a public key (RFC 9180, single-shot base mode).

    Raises:
        RecordError: the public key is a point of low order, for which anybody could open the slot.
    """
    recipient = X25519PublicKey.from_public_bytes(public)
    try:
        sealed = _HPKE.encrypt(content_key, recipient, LABELS["slot"] + file_id)
    except ValueError:
        raise RecordError("the device's public key is not one: a point of low order; enrol the device again") from None
    return Slot(SUITE, slot_hint(public, file_id), sealed)


def open_slot(slots: tuple[Slot, ...], key: DeviceKey, file_id: bytes) -> bytes:
    """The content key, from the slot that is meant for this device.

    Raises:
        SlotError: no slot is, or it was altered.
    """
    private = _private_key(key)
    hint = slot_hint(private.public_key().public_bytes_raw(), file_id)
    for slot in slots:
        if slot.suite == SUITE and hmac.compare_digest(slot.hint, hint):
            try:
                content_key = _HPKE.decrypt(slot.sealed, private, LABELS["slot"] + file_id)
            except InvalidTag:
                continue
            if len(content_key) == KEY_BYTES:
                return content_key
    raise SlotError("this model holds no slot for this device, or the slot was altered")


# --- model half --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContentKeys:
    """Keys of one binding; each 32 bytes."""

    aead: bytes = field(repr=False)
    header: bytes = field(repr=False)
    positions: bytes = field(repr=False)


def new_content_key() -> bytes:
    """A fresh random content key; one for each binding, so no keystream is ever used twice."""
    return secrets.token_bytes(KEY_BYTES)


def content_keys(content_key: bytes, file_id: bytes) -> ContentKeys:
    """The key schedule of a binding (HKDF-Expand, RFC 5869 section 2.3; the content key is uniform already)."""

    def expand(use: str) -> bytes:
        return HKDFExpand(hashes.SHA256(), 32, LABELS[use] + file_id).derive(content_key)

    return ContentKeys(expand("aead"), expand("header"), expand("positions"))


def seal_positions(keys: ContentKeys, bitmap: bytes) -> bytes:
    """Seal the bitmap of masked blocks (AES-256-GCM; the key serves once, hence the fixed nonce), 16 bytes longer."""
    return AESGCM(keys.positions).encrypt(_POSITIONS_NONCE, bitmap, None)


def open_positions(keys: ContentKeys, sealed: bytes) -> bytes | None:
    """The bitmap of masked blocks; ``None`` if it was altered."""
    try:
        return AESGCM(keys.positions).decrypt(_POSITIONS_NONCE, sealed, None)
    except InvalidTag:
        return None


def header_mac(keys: ContentKeys, header: bytes, carrier_digest: bytes) -> bytes:
    """HMAC-SHA256 over the canonical header without its MAC, followed by the carrier's digest (32 bytes)."""
    return hmac.digest(keys.header, header + carrier_digest, "sha256")


def check_header_mac(keys: ContentKeys, header: bytes, carrier_digest: bytes, parsed: Header) -> bool:
    """Whether the header's MAC holds."""
    return hmac.compare_digest(header_mac(keys, header, carrier_digest), parsed.mac)


# --- tracing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TraceKeys:
    """Keys of the fingerprints of one model; each 32 bytes."""

    root: bytes = field(repr=False)
    carrier: bytes = field(repr=False)


def trace_keys(key: DeviceKey, model: bytes) -> TraceKeys:
    """The keys of a model's fingerprints (spec/tracing.md, section 2).

    Args:
        key: the vendor's trace key.
        model: digest that tells the model from the vendor's others, so that no two share a carrier.
    """
    root = HKDF(hashes.SHA256(), 32, salt=model, info=LABELS["trace root"]).derive(key.secret)
    return TraceKeys(root, HKDFExpand(hashes.SHA256(), 32, LABELS["trace carrier"]).derive(root))


def device_trace_key(keys: TraceKeys, device: bytes) -> bytes:
    """The key of one device's codeword, 32 bytes."""
    return HKDFExpand(hashes.SHA256(), 32, LABELS["trace device"] + device).derive(keys.root)
