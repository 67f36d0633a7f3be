"""The rows of a registry as frozen values, and how records become rows. Nothing in them is secret."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from unclone.canonical import CanonicalError
from unclone.device_file import RECORD_LIMIT, parse_canonical, render_device
from unclone.errors import RecordError, RegistryError
from unclone.machine import Machine
from unclone.machine.file import MACHINE_LIMIT, parse_machine, render_machine
from unclone.records import Device

__all__ = [
    "ACTIVE",
    "HEALTH",
    "REVOKED",
    "DeviceRow",
    "LicenceRow",
    "MachineRow",
    "ModelRow",
    "Packed",
    "ReleaseRow",
    "device_tallies",
    "key_digest",
    "pack_device",
    "pack_machine",
    "pack_record",
    "unpack_record",
]

T = TypeVar("T")
ACTIVE: Final = "active"
REVOKED: Final = "revoked"
HEALTH: Final = ("good", "refresh", "late")


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device. ``key`` is the SHA-256 of its public key, ``record`` that of its record's canonical form.

    The figures are those of ``EnrollmentReport``. ``health`` is ``"unknown"`` or the state that was measured last
    (``"good"``, ``"refresh"``, ``"late"``), ``margin_milli`` 1000 times the margin then.
    """

    id: int
    seq: int
    key: bytes
    name: str
    root: str
    source: str
    suite: str
    public_key: bytes
    record: bytes
    readings: int
    response_bits: int
    ones_ppm: int
    error_rate_ppm: int
    residual_entropy_millibits: int
    key_bits: int
    failure_log10_milli: int
    health: str
    margin_milli: int
    measured_at: int
    added_at: int
    state: str = ACTIVE
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MachineRow:
    """A machine of several devices; ``key`` and ``record`` as in ``DeviceRow``, the rest as in its record."""

    id: int
    seq: int
    key: bytes
    name: str
    machine_id: bytes
    revision: int
    need: int
    parts: int
    suite: str
    public_key: bytes
    record: bytes
    added_at: int
    state: str = ACTIVE
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model that is released under this name; ``digest`` is the SHA-256 of the ordinary file, or empty."""

    name: str
    format: str
    digest: bytes = b""
    notes: str = ""
    added_at: int = 0
    id: int = 0
    seq: int = 0


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """A bound file.

    Attributes:
        file_id: its 16 bytes.
        model: name of the model.
        format: name of its carrier format.
        created: seconds since 1970 UTC.
        vendor_hint: hint of the slot that the vendor keeps for itself, at most 32 bytes, may be empty.
        rekeys: file id of the release that it takes the place of, or empty.
        device: key digest of the only device it is for, or empty for a release for many.
        notes: free text.
    """

    file_id: bytes
    model: str
    format: str
    created: int
    vendor_hint: bytes = b""
    rekeys: bytes = b""
    device: bytes = b""
    notes: str = ""
    state: str = ACTIVE
    reason: str = ""
    id: int = 0
    seq: int = 0


@dataclass(frozen=True, slots=True)
class LicenceRow:
    """A licence of one device (or machine) for one release.

    Attributes:
        release: file id of the release, 16 bytes.
        device: key digest of the device or machine, 32 bytes.
        text: the licence file as it was issued, ASCII.
        created: seconds since 1970 UTC.
        not_after: seconds since 1970 UTC, 0 for no end.
    """

    release: bytes
    device: bytes
    text: str
    created: int
    not_after: int = 0
    state: str = ACTIVE
    reason: str = ""
    id: int = 0
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Packed:
    """A parsed record on its way in.

    Attributes:
        kind: ``"device"`` or ``"machine"``.
        key: SHA-256 of its public key.
        digest: SHA-256 of the record's canonical form.
        body: the canonical form, deflated (RFC 1950).
        columns: the columns that come from the record.
    """

    kind: str
    key: bytes
    digest: bytes
    body: bytes = field(repr=False)
    columns: Mapping[str, Any] = field(repr=False)


def key_digest(public_key: bytes) -> bytes:
    """What a registry knows a device by: SHA-256 of its public key."""
    return hashlib.sha256(public_key).digest()


def pack_device(device: Device) -> Packed:
    """A device record as it enters a registry.

    It is rendered and parsed once more, so that nothing but a valid record comes in, whoever made the object.

    Raises:
        RecordError: this is no valid record.
    """
    return pack_record("device", _rendered(render_device, device))


def pack_machine(machine: Machine) -> Packed:
    """A machine record as it enters a registry; see ``pack_device``."""
    return pack_record("machine", _rendered(render_machine, machine))


def pack_record(kind: str, text: bytes) -> Packed:
    """The text of a record, parsed, as it enters a registry.

    Raises:
        RecordError: this is no valid record.
        RecordAlteredError: it does not match its own digest.
        UnsupportedError: another version or suite.
    """
    if kind == "device":
        return _pack_device(*parse_canonical(text))
    return _pack_machine(parse_machine(text), _canonical(text))


def _rendered(render: Callable[[T], bytes], record: T) -> bytes:
    try:
        return render(record)
    except CanonicalError as problem:
        raise RecordError(f"the record is malformed: {problem}") from None


def _canonical(text: bytes) -> bytes:
    """The canonical form of what a parser has taken: no duplicate names, no floats, so this is ``canonical.encode``."""
    return json.dumps(json.loads(text), ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode("ascii")


def _pack_device(device: Device, text: bytes) -> Packed:
    _check_texts(device.name, device.root, device.source)
    report = device.report
    columns = {
        "name": device.name,
        "root": device.root,
        "source": device.source,
        "suite": device.suite,
        "public_key": device.public_key,
        "readings": report.readings,
        "response_bits": report.response_bits,
        "ones_ppm": report.ones_ppm,
        "error_rate_ppm": report.error_rate_ppm,
        "residual_entropy_millibits": report.residual_entropy_millibits,
        "key_bits": report.key_bits,
        "failure_log10_milli": report.failure_log10_milli,
    }
    return _pack("device", device.public_key, text, columns)


def _pack_machine(machine: Machine, text: bytes) -> Packed:
    _check_texts(machine.name)
    columns = {
        "name": machine.name,
        "machine_id": machine.id,
        "revision": machine.revision,
        "need": machine.need,
        "parts": len(machine.parts),
        "suite": machine.suite,
        "public_key": machine.public_key,
    }
    return _pack("machine", machine.public_key, text, columns)


def _pack(kind: str, public_key: bytes, text: bytes, columns: Mapping[str, Any]) -> Packed:
    # A record is mostly base64 of noise and runs of one letter: matching runs alone is twice as fast, and no larger.
    deflater = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    body = deflater.compress(text) + deflater.flush()
    return Packed(kind, key_digest(public_key), hashlib.sha256(text).digest(), body, columns)


def unpack_record(body: bytes, digest: bytes) -> bytes:
    """The record's canonical text from a row's ``body``.

    Raises:
        RegistryError: it is not what ``digest`` says.
    """
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(body, max(RECORD_LIMIT, MACHINE_LIMIT))
    except zlib.error:
        text = b""
    if hashlib.sha256(text).digest() != digest:
        raise RegistryError("a stored record does not match its digest: run 'unclone fleet verify'")
    return text


def device_tallies(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The (facet, bucket) pairs under which a device is counted, so that pages need not count rows."""
    return [
        ("devices", "all"),
        ("state", row["state"]),
        ("health", row["health"]),
        ("root", row["root"][:64]),
        ("error rate", f"{min(max(row['error_rate_ppm'], 0), 500_000) // 10_000:02d}"),
        ("entropy", f"{min(max(row['residual_entropy_millibits'], 0) // 16_000, 64) * 16:04d}"),
    ]


def _check_texts(*texts: str) -> None:
    """PostgreSQL has no NUL in its texts; a name that only one of the databases takes is no name."""
    for text in texts:
        if "\0" in text:
            raise RecordError(f"a name with a NUL character does not go into a registry: {text[:40]!r}")
