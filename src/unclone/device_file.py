"""Device records as JSON files, and back (spec/device-record.md)."""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from unclone import canonical
from unclone.canonical import CanonicalError
from unclone.files import atomic_output
from unclone.keys import SEALED_KEY_BYTES, check_suite
from unclone.record_file import RecordFormat
from unclone.records import Device, EnrollmentReport, HelperData

__all__ = [
    "FORMAT",
    "RECORD_LIMIT",
    "VERSION",
    "load_device",
    "parse_canonical",
    "parse_device",
    "render_device",
    "save_device",
    "seal_context",
]

FORMAT: Final = "unclone-device"
VERSION: Final = 1
RECORD_LIMIT: Final = 4 * 2**20
_MEMBERS: Final = (
    "format", "version", "name", "root", "source", "suite", "public_key", "helper", "sealed_key", "report", "digest",
)  # fmt: skip
_FORMAT: Final = RecordFormat("device record", FORMAT, VERSION, frozenset(_MEMBERS))


def seal_context(device: Device) -> bytes:
    """Canonical bytes of the record without ``sealed_key`` and ``digest``: hashed into the key that seals."""
    value = _to_json(device)
    del value["sealed_key"]
    return canonical.encode(value)


def render_device(device: Device) -> bytes:
    """The record as indented JSON, with the digest of its canonical form."""
    return _FORMAT.render(_to_json(device))


def save_device(device: Device, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a record.

    Raises:
        OutputError: the file exists and ``force`` is not given, or its folder cannot be written.
    """
    with atomic_output(Path(path), force=force) as stream:
        stream.write(render_device(device))


def load_device(path: str | os.PathLike[str]) -> Device:
    """Read a record.

    Raises:
        RecordError: not a record, or malformed.
        RecordAlteredError: it does not match its own digest.
        UnsupportedError: another version or suite.
    """
    return _FORMAT.load(path, RECORD_LIMIT, parse_device)


def parse_device(data: bytes) -> Device:
    """The record in ``data``; white space and the order of members carry nothing.

    Raises:
        RecordError: not a record, or malformed.
        RecordAlteredError: it does not match its own digest.
        UnsupportedError: another version or suite.
    """
    return parse_canonical(data)[0]


def parse_canonical(data: bytes) -> tuple[Device, bytes]:
    """The record in ``data``, and its canonical form, digest included; errors as of ``parse_device``."""
    return _FORMAT.parse(data, _from_json)


def _to_json(device: Device) -> dict[str, Any]:
    report = asdict(device.report)
    report["notes"] = list(device.report.notes)
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": device.name,
        "root": device.root,
        "source": device.source,
        "suite": device.suite,
        "public_key": canonical.b64encode(device.public_key),
        "helper": {"scheme": device.helper.scheme, "fields": dict(device.helper.fields)},
        "sealed_key": canonical.b64encode(device.sealed_key),
        "report": report,
    }


def _from_json(value: dict[str, Any]) -> Device:
    helper = value["helper"]
    if not isinstance(helper, dict) or helper.keys() != {"scheme", "fields"} or not isinstance(helper["fields"], dict):
        raise CanonicalError("helper is not an object with scheme and fields")
    device = Device(
        name=_text(value, "name"),
        root=_text(value, "root"),
        source=_text(value, "source"),
        suite=_text(value, "suite"),
        public_key=canonical.b64decode(value["public_key"]),
        helper=HelperData(_text(helper, "scheme"), helper["fields"]),
        sealed_key=canonical.b64decode(value["sealed_key"]),
        report=_report(value["report"]),
    )
    suite = check_suite(device.suite)
    if len(device.public_key) != suite.public_bytes:
        raise CanonicalError(f"public_key is not {suite.public_bytes} bytes long")
    if len(device.sealed_key) != SEALED_KEY_BYTES:
        raise CanonicalError(f"sealed_key is not {SEALED_KEY_BYTES} bytes long")
    return device


def _text(value: dict[str, Any], name: str) -> str:
    text = value[name]
    if not isinstance(text, str) or len(text) > 256:
        raise CanonicalError(f"{name} is not a string of at most 256 characters")
    return text


def _report(value: Any) -> EnrollmentReport:
    names = {field.name for field in fields(EnrollmentReport)}
    if not isinstance(value, dict) or value.keys() != names:
        raise CanonicalError("report has missing or unknown members")
    notes = value["notes"]
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise CanonicalError("report.notes is not a list of strings")
    figures = {name: value[name] for name in names - {"notes"}}
    if not all(type(figure) is int for figure in figures.values()):
        raise CanonicalError("a figure of the report is not an integer")
    return EnrollmentReport(**figures, notes=tuple(notes))
