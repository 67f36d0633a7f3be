"""Every KDF label and every HPKE call of the project; no other file derives, seals or opens a key.

The table of labels is in spec/bound-model.md and spec/device-record.md; a test compares it with ``LABELS``.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from unclone.errors import ParameterError, RecordError, SlotError, UnsupportedError
from unclone.records import KEY_BYTES, DeviceKey, Header, Slot

__all__ = [
    "HYBRID",
    "LABELS",
    "SEALED_KEY_BYTES",
    "SHORT_NAMES",
    "SUITE",
    "SUITES",
    "ContentKeys",
    "Suite",
    "TraceKeys",
    "check_suite",
    "content_keys",
    "device_trace_key",
    "header_mac",
    "new_content_key",
    "new_device_key",
    "open_device_key",
    "open_licence",
    "open_positions",
    "open_share",
    "open_slot",
    "public_key",
    "seal_device_key",
    "seal_licence",
    "seal_positions",
    "seal_share",
    "seal_slot",
    "share_check",
    "slot_hint",
    "stretch_passphrase",
    "suite_named",
    "trace_keys",
]

SUITE: Final = "hpke-x25519-sha256-aes256gcm"
"""RFC 9180 base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM: the default."""

HYBRID: Final = "hpke-mlkem768-x25519-sha256-aes256gcm"
"""The same with MLKEM768-X25519 (X-Wing, draft-connolly-cfrg-xwing-kem): safe while either of the two KEMs is."""

SEALED_KEY_BYTES: Final = KEY_BYTES + 16
HINT_BYTES: Final = 8

LABELS: Final = {
    "record seal": b"unclone v1 record seal",
    "device x25519": b"unclone v1 device x25519",
    "device hybrid mlkem768": b"unclone v1 device hybrid mlkem768",
    "device hybrid x25519": b"unclone v1 device hybrid x25519",
    "slot": b"unclone v1 slot",
    "slot hint": b"unclone v1 slot hint",
    "licence": b"unclone v1 licence",
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

_MLKEM_PUBLIC_BYTES: Final = 1184
_ZERO_NONCE: Final = bytes(12)
_POSITIONS_NONCE: Final = b"\xff" * 12


def _derive(key: DeviceKey, use: str, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt=None, info=LABELS[use]).derive(key.secret)


def _x25519_pair(key: DeviceKey) -> tuple[Any, bytes]:
    private = X25519PrivateKey.from_private_bytes(_derive(key, "device x25519", 32))
    return private, private.public_key().public_bytes_raw()


def _hybrid_pair(key: DeviceKey) -> tuple[Any, bytes]:
    mlkem = MLKEM768PrivateKey.from_seed_bytes(_derive(key, "device hybrid mlkem768", 64))
    x25519 = X25519PrivateKey.from_private_bytes(_derive(key, "device hybrid x25519", 32))
    public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(mlkem, x25519), public


def _hybrid_public(public: bytes) -> Any:
    return hpke.MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES]),
        X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:]),
    )


@dataclass(frozen=True, slots=True)
class Suite:
    """One HPKE suite: its sizes in bytes, and how it makes its keys.

    Attributes:
        name: as records, slots and licences spell it.
        public_bytes: length of a public key.
        sealed_bytes: length of 32 sealed bytes: a slot, a licence's content key, a part's share.
        hpke: the suite of ``cryptography``.
        pair: private key and public bytes of a device key.
        load: a public key from its bytes; ``ValueError`` if they are none.
    """

    name: str
    public_bytes: int
    sealed_bytes: int
    hpke: hpke.Suite = field(repr=False)
    pair: Callable[[DeviceKey], tuple[Any, bytes]] = field(repr=False)
    load: Callable[[bytes], Any] = field(repr=False)

    def seal(self, plaintext: bytes, public: bytes, info: bytes) -> bytes:
        """``enc || ciphertext`` (RFC 9180, single-shot base mode, empty associated data).

        Raises:
            RecordError: the public key is none, or a point of low order, for which anybody could open the seal.
        """
        try:
            return self.hpke.encrypt(plaintext, self.load(public), info)
        except ValueError:
            what = "none of its suite, or a point of low order"
            raise RecordError(f"a device's public key is not one: {what}; enrol the device again") from None

    def open(self, sealed: bytes, private: Any, info: bytes) -> bytes | None:
        """The 32 sealed bytes; ``None`` if they were altered, or are another device's."""
        try:
            plaintext = self.hpke.decrypt(sealed, private, info)
        except (InvalidTag, ValueError):
            return None
        return plaintext if len(plaintext) == KEY_BYTES else None


def _suite(name: str, kem: hpke.KEM, public_bytes: int, enc_bytes: int, pair: Any, load: Any) -> Suite:
    made = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    return Suite(name, public_bytes, enc_bytes + KEY_BYTES + 16, made, pair, load)


SUITES: Final = MappingProxyType(
    {
        suite.name: suite
        for suite in (
            _suite(SUITE, hpke.KEM.X25519, 32, 32, _x25519_pair, X25519PublicKey.from_public_bytes),
            _suite(HYBRID, hpke.KEM.MLKEM768_X25519, 1184 + 32, 1088 + 32, _hybrid_pair, _hybrid_public),
        )
    }
)
"""Every suite of this release, by name."""

SHORT_NAMES: Final = MappingProxyType({"x25519": SUITE, "hybrid": HYBRID})
"""What people call the suites."""


def check_suite(name: str) -> Suite:
    """The suite of that name; ``UnsupportedError`` for one that this release does not know."""
    suite = SUITES.get(name)
    if suite is None:
        raise UnsupportedError(f"HPKE suite {name[:60]!r} is not known to this release; known: {', '.join(SUITES)}")
    return suite


def suite_named(short: str) -> str:
    """The suite's full name for ``"x25519"`` or ``"hybrid"``.

    Raises:
        ParameterError: for any other.
    """
    if short not in SHORT_NAMES:
        raise ParameterError(f"suite is {' or '.join(SHORT_NAMES)}, not {short[:40]!r}")
    return SHORT_NAMES[short]


# --- device half -------------------------------------------------------------------------------------------------


def new_device_key() -> DeviceKey:
    """A fresh random device key."""
    return DeviceKey(secrets.token_bytes(KEY_BYTES))


def public_key(key: DeviceKey, suite: str = SUITE) -> bytes:
    """The HPKE public key of a device key in a suite, ``Suite.public_bytes`` long."""
    return check_suite(suite).pair(key)[1]


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
    sealed: bytes, candidates: list[bytes], context: bytes, expected: bytes, suite: str = SUITE
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
        if found is None and hmac.compare_digest(public_key(key, suite), expected):
            found = key, secret
    return found


def stretch_passphrase(passphrase: bytes, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    """The secret of a passphrase, 32 bytes: scrypt (RFC 7914), cost ``2 ** log_n``, memory ``128 * r * 2 ** log_n``."""
    return Scrypt(salt, 32, n=1 << log_n, r=r, p=p).derive(passphrase)


# --- machines ----------------------------------------------------------------------------------------------------


def _share_info(use: str, context: bytes, index: int) -> bytes:
    return LABELS[use] + hashlib.sha256(context).digest() + bytes([index])


def seal_share(share: bytes | bytearray, public: bytes, context: bytes, index: int, suite: str = SUITE) -> bytes:
    """Seal a part's share of a machine's key for the part's device, ``Suite.sealed_bytes`` long.

    Args:
        share: 32 bytes.
        public: the device's HPKE public key.
        context: canonical bytes of what the machine's record says beside shares and checks; any change of it, an
            older revision too, and the share does not open.
        index: the part's x-coordinate, 1 to 255.
        suite: the device's suite.

    Raises:
        RecordError: the public key is none, or a point of low order.
    """
    return check_suite(suite).seal(bytes(share), public, _share_info("machine share", context, index))


def open_share(sealed: bytes, key: DeviceKey, context: bytes, index: int, suite: str = SUITE) -> bytearray | None:
    """The share in ``sealed``; ``None`` if it was altered or is another device's."""
    known = check_suite(suite)
    share = known.open(sealed, known.pair(key)[0], _share_info("machine share", context, index))
    return None if share is None else bytearray(share)


def share_check(share: bytes | bytearray, context: bytes, index: int) -> bytes:
    """Public 32 bytes that tell a share from a forged one. A share is uniform, so they reveal nothing to search for."""
    return hashlib.sha256(_share_info("machine check", context, index) + share).digest()


# --- the joint ---------------------------------------------------------------------------------------------------


def slot_hint(public: bytes, file_id: bytes) -> bytes:
    """Eight bytes by which a device finds its slot without trying each."""
    return hashlib.sha256(LABELS["slot hint"] + file_id + public).digest()[:HINT_BYTES]


def seal_slot(content_key: bytes, public: bytes, file_id: bytes, suite: str = SUITE) -> Slot:
    """Seal a content key for the owner of a public key.

    Raises:
        RecordError: the public key is none, or a point of low order.
    """
    sealed = check_suite(suite).seal(content_key, public, LABELS["slot"] + file_id)
    return Slot(suite, slot_hint(public, file_id), sealed)


def open_slot(slots: tuple[Slot, ...], key: DeviceKey, file_id: bytes) -> bytes:
    """The content key, from the slot that is meant for this device.

    Raises:
        SlotError: no slot is, or it was altered.
    """
    pairs: dict[str, tuple[Any, bytes]] = {}
    for slot in slots:
        suite = check_suite(slot.suite)
        if slot.suite not in pairs:
            pairs[slot.suite] = suite.pair(key)
        private, public = pairs[slot.suite]
        if hmac.compare_digest(slot.hint, slot_hint(public, file_id)):
            content_key = suite.open(slot.sealed, private, LABELS["slot"] + file_id)
            if content_key is not None:
                return content_key
    raise SlotError(
        "this model holds no slot for this device, or the slot was altered; a release needs the device's licence"
    )


def _licence_info(terms: bytes) -> bytes:
    return LABELS["licence"] + hashlib.sha256(terms).digest()


def seal_licence(content_key: bytes, public: bytes, terms: bytes, suite: str) -> bytes:
    """Seal a release's content key for one device, ``Suite.sealed_bytes`` long.

    Args:
        content_key: 32 bytes.
        public: the device's HPKE public key.
        terms: canonical bytes of the licence without ``sealed``; with one changed bit it does not open.
        suite: the device's suite.

    Raises:
        RecordError: the public key is none, or a point of low order.
    """
    return check_suite(suite).seal(content_key, public, _licence_info(terms))


def open_licence(sealed: bytes, key: DeviceKey, terms: bytes, suite: str) -> bytes | None:
    """The content key in a licence; ``None`` if it was altered or is another device's."""
    known = check_suite(suite)
    return known.open(sealed, known.pair(key)[0], _licence_info(terms))


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
