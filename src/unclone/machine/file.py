"""Machine records as JSON files, and back (spec/machine.md)."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from unclone import canonical
from unclone.canonical import CanonicalError
from unclone.device_file import parse_device, render_device
from unclone.errors import RecordAlteredError, RecordError, UnsupportedError
from unclone.files import atomic_output
from unclone.keys import check_suite
from unclone.machine.record import MAX_PARTS, Machine, Part
from unclone.record_file import RecordFormat, check_members

__all__ = [
    "FORMAT",
    "MACHINE_LIMIT",
    "VERSION",
    "load_machine",
    "parse_machine",
    "render_machine",
    "save_machine",
    "share_context",
]

FORMAT: Final = "unclone-machine"
VERSION: Final = 1
MACHINE_LIMIT: Final = 64 * 2**20
PART_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ID_BYTES: Final = 16
_CHECK_BYTES: Final = 32
_REVISIONS: Final = 2**31
_FORMAT: Final = RecordFormat(
    "machine record",
    FORMAT,
    VERSION,
    frozenset(["format", "version", "name", "id", "revision", "need", "suite", "public_key", "parts", "digest"]),
)
_PART_MEMBERS: Final = frozenset(["name", "index", "device", "share", "check"])


def share_context(machine: Machine) -> bytes:
    """Canonical bytes of the record without shares, checks and digest: hashed into every share's seal and check."""
    value = _to_json(machine)
    for part in value["parts"]:
        del part["share"], part["check"]
    return canonical.encode(value)


def render_machine(machine: Machine) -> bytes:
    """The record as indented JSON, with the digest of its canonical form."""
    return _FORMAT.render(_to_json(machine))


def save_machine(machine: Machine, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a record.

    Raises:
        OutputError: the file exists and ``force`` is not given, or its folder cannot be written.
    """
    with atomic_output(Path(path), force=force) as stream:
        stream.write(render_machine(machine))


def load_machine(path: str | os.PathLike[str]) -> Machine:
    """Read a record.

    Raises:
        RecordError: not a machine record, or malformed.
        RecordAlteredError: it, or a device record in it, does not match its own digest.
        UnsupportedError: another version or suite.
    """
    return _FORMAT.load(path, MACHINE_LIMIT, parse_machine)


def parse_machine(data: bytes) -> Machine:
    """The record in ``data``; white space and the order of members carry nothing.

    Raises:
        RecordError: not a machine record, or malformed.
        RecordAlteredError: it, or a device record in it, does not match its own digest.
        UnsupportedError: another version or suite.
    """
    return _FORMAT.parse(data, _from_json)[0]


def _to_json(machine: Machine) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": machine.name,
        "id": machine.id.hex(),
        "revision": machine.revision,
        "need": machine.need,
        "suite": machine.suite,
        "public_key": canonical.b64encode(machine.public_key),
        "parts": [
            {
                "name": part.name,
                "index": part.index,
                "device": json.loads(render_device(part.device)),
                "share": canonical.b64encode(part.share),
                "check": part.check.hex(),
            }
            for part in machine.parts
        ],
    }


def _from_json(value: dict[str, Any]) -> Machine:
    name, suite, parts = value["name"], value["suite"], value["parts"]
    if not isinstance(name, str) or len(name) > 256 or not isinstance(suite, str):
        raise CanonicalError("name or suite is not a string of at most 256 characters")
    public_bytes = check_suite(suite).public_bytes
    if not isinstance(parts, list) or not 2 <= len(parts) <= MAX_PARTS:
        raise CanonicalError(f"parts is not an array of 2 to {MAX_PARTS}")
    machine = Machine(
        name=name,
        id=_hex(value, "id", _ID_BYTES),
        revision=_integer(value, "revision", 1, _REVISIONS),
        need=_integer(value, "need", 2, len(parts)),
        suite=suite,
        public_key=_base64(value, "public_key", public_bytes),
        parts=tuple(_part(part) for part in parts),
    )
    for taken in ("name", "index"):
        if len({getattr(part, taken) for part in machine.parts}) != len(parts):
            raise CanonicalError(f"two parts have the same {taken}")
    if len({part.device.public_key for part in machine.parts}) != len(parts):
        raise CanonicalError("two parts are the same device")
    return machine


def _part(value: Any) -> Part:
    if not isinstance(value, dict):
        raise CanonicalError("a part is not an object")
    check_members(value, _PART_MEMBERS)
    name = value["name"]
    if not isinstance(name, str) or not PART_NAME.fullmatch(name):
        raise CanonicalError("a part's name is not 1 to 64 of A-Z a-z 0-9 . _ -")
    if not isinstance(value["device"], dict):
        raise CanonicalError(f"device of part {name} is not an object")
    try:
        device = parse_device(canonical.encode(value["device"]))
    except (RecordError, RecordAlteredError, UnsupportedError) as problem:
        raise type(problem)(f"part {name}: {problem}") from None
    return Part(
        name=name,
        index=_integer(value, "index", 1, 255),
        device=device,
        share=_base64(value, "share", check_suite(device.suite).sealed_bytes),
        check=_hex(value, "check", _CHECK_BYTES),
    )


def _integer(value: dict[str, Any], name: str, low: int, high: int) -> int:
    number = value[name]
    if type(number) is not int or not low <= number <= high:
        raise CanonicalError(f"{name} is not an integer of {low} to {high}")
    return number


def _base64(value: dict[str, Any], name: str, length: int) -> bytes:
    data = canonical.b64decode(value[name])
    if len(data) != length:
        raise CanonicalError(f"{name} is not {length} bytes long")
    return data


def _hex(value: dict[str, Any], name: str, length: int) -> bytes:
    text = value[name]
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * length}}}", text):
        raise CanonicalError(f"{name} is not {length} bytes of lower-case hexadecimal")
    return bytes.fromhex(text)
