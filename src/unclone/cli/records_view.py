"""Records on the command line: which kind a file is, and what a machine's record says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unclone.machine import Machine
    from unclone.records import Device

__all__ = ["is_record", "load_recipient", "machine_json", "machine_rows"]

_LOOKED_AT = 64


def is_record(path: Path) -> bool:
    """Whether a file is meant as a record: a JSON object, as no model is."""
    try:
        with path.open("rb") as stream:
            return stream.read(_LOOKED_AT).lstrip().startswith(b"{")
    except OSError:
        return False  # who reads it as a model says what is wrong


def load_recipient(path: Path) -> Device | Machine:
    """The record of a device or of a machine.

    Raises:
        RecordError: neither, or malformed.
        RecordAlteredError: it does not match its own digest.
        UnsupportedError: another version or suite.
    """
    import unclone
    from unclone import canonical
    from unclone.errors import RecordError
    from unclone.files import read_bounded
    from unclone.machine import load_machine
    from unclone.machine.file import FORMAT, MACHINE_LIMIT

    try:
        value = canonical.parse(read_bounded(path, MACHINE_LIMIT, RecordError))
    except (ValueError, RecursionError) as problem:
        if isinstance(problem, RecordError):
            raise
        return unclone.load_device(path)  # which says what is wrong with it
    machine = isinstance(value, dict) and value.get("format") == FORMAT
    return load_machine(path) if machine else unclone.load_device(path)


def machine_json(machine: Machine) -> dict[str, Any]:
    """The public facts of a machine's record, as JSON values."""
    return {
        "name": machine.name,
        "id": machine.id.hex(),
        "revision": machine.revision,
        "need": machine.need,
        "suite": machine.suite,
        "public_key": machine.public_key.hex(),
        "parts": [
            {
                "name": part.name,
                "index": part.index,
                "device": part.device.name,
                "root": part.device.root,
                "source": part.device.source,
                "public_key": part.device.public_key.hex(),
            }
            for part in machine.parts
        ],
    }


def machine_rows(machine: Machine) -> list[tuple[str, str]]:
    """The same as lines for people."""
    rows = [
        ("machine", machine.name or "(no name)"),
        ("id", machine.id.hex()),
        ("revision", str(machine.revision)),
        ("needs", f"{machine.need} of {len(machine.parts)} parts"),
    ]
    for part in machine.parts:
        kind = part.device.source if part.device.root == "puf" else f"{part.device.root}, not a PUF"
        rows.append((f"  {part.name}", f"{part.device.name or '(no name)'}: {kind}"))
    return rows
