"""Lines of an import: where records and an export's lines stand in files, and what each says."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from unclone import canonical
from unclone.canonical import CanonicalError
from unclone.errors import InputError, ReconstructionError, RecordError
from unclone.files import read_bounded
from unclone.fleet.exporting import FIELDS
from unclone.fleet.rows import REVOKED, pack_record
from unclone.machine.file import FORMAT as MACHINE_FORMAT
from unclone.machine.file import MACHINE_LIMIT

__all__ = ["LINE_LIMIT", "Item", "lines_of", "parse_chunk", "parse_line", "starts_with"]

LINE_LIMIT: Final = MACHINE_LIMIT
_DEVICE_LINE: Final = b'{"type":"device","record":'
_BARE_DEVICE: Final = b'{"digest":"'  # canonical records begin so

Item = tuple[str, str, Any]
"""Where it stood, its type (``"bad"`` for what was skipped), and its content."""


def starts_with(path: Path, magic: bytes) -> bool:
    """Whether a file does."""
    with _opened(path) as stream:
        return stream.read(len(magic)) == magic


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as problem:
        raise RecordError(f"cannot read {path}: {problem.strerror}") from None


def lines_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Where and what: one for each record or line."""
    if path.is_dir():
        for file in sorted(path.glob("*.json")):
            yield str(file), read_bounded(file, LINE_LIMIT, RecordError)
    elif path.suffix == ".csv":
        yield from _csv_lines(path)
    else:
        with _opened(path) as stream:
            first = stream.readline(LINE_LIMIT + 1)
            rest = b"" if _is_object(first) else stream.read(LINE_LIMIT)
        if rest or not _is_object(first):
            yield str(path), first + rest  # one record, spread over lines
            return
        with _opened(path) as stream:
            number = 0
            while line := stream.readline(LINE_LIMIT + 1):
                number += 1
                if len(line) > LINE_LIMIT:
                    raise RecordError(f"{path}:{number}: longer than {LINE_LIMIT} bytes")
                if line.strip():
                    yield f"{path}:{number}", line


def _is_object(line: bytes) -> bool:
    line = line.strip()
    return line.startswith(b"{") and line.endswith(b"}")


def _csv_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    csv.field_size_limit(LINE_LIMIT)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if "record" not in (reader.fieldnames or ()):
                raise RecordError(f"{path} has no column 'record'")
            for row in reader:
                line = {"type": "device", "record": json.loads(row["record"] or "")}
                yield f"{path}:{reader.line_num}", json.dumps(line).encode()
                if row.get("state") == REVOKED:
                    gone = {
                        "type": "revocation",
                        "kind": "device",
                        "key": row["key"],
                        "reason": row.get("reason") or "",
                    }
                    yield f"{path}:{reader.line_num}", json.dumps(gone).encode()
    except OSError as problem:
        raise RecordError(f"cannot read {path}: {problem.strerror}") from None
    except (csv.Error, ValueError) as problem:
        if isinstance(problem, RecordError):
            raise
        raise RecordError(f"{path}: not CSV as 'unclone fleet export' writes it") from None


def parse_chunk(skip_bad: bool, chunk: list[tuple[str, bytes]]) -> list[Item]:
    """Parse lines; runs in a worker."""
    items: list[Item] = []
    for where, line in chunk:
        try:
            items.append((where, *parse_line(line)))
        except (InputError, ReconstructionError) as problem:
            if not skip_bad:
                raise type(problem)(f"{where}: {problem}") from None
            items.append((where, "bad", f"{where}: {problem}"))
    return items


def parse_line(line: bytes) -> tuple[str, Any]:
    """Type and content of a line.

    Raises:
        RecordError: it is none.
    """
    line = line.strip()
    if line.startswith(_DEVICE_LINE) and line.endswith(b"}"):  # as exports have it: no need to parse it twice
        return "device", pack_record("device", line[len(_DEVICE_LINE) : -1])
    if line.startswith(_BARE_DEVICE):
        return "device", pack_record("device", line)
    try:
        value = canonical.parse(line)
        if not isinstance(value, dict):
            raise CanonicalError("not an object")
        if "format" in value and "type" not in value:
            kind = "machine" if value["format"] == MACHINE_FORMAT else "device"
            return kind, pack_record(kind, line)
        kind = value.pop("type", None)
        if kind in ("device", "machine"):
            return kind, pack_record(kind, canonical.encode(value.get("record")))
        if kind not in FIELDS:
            raise CanonicalError("its type is none of device, machine, " + ", ".join(FIELDS))
        return kind, _checked(value, FIELDS[kind])
    except CanonicalError as problem:
        raise RecordError(f"malformed: {problem}") from None
    except (ValueError, RecursionError) as problem:
        if isinstance(problem, InputError):
            raise
        raise RecordError("not JSON") from None


def _checked(value: Mapping[str, Any], fields: Mapping[str, type]) -> dict[str, Any]:
    """Exactly these members, each of its type, bytes from hexadecimal."""
    if value.keys() != fields.keys():
        odd = sorted(value.keys() ^ fields.keys())
        raise CanonicalError(f"members missing or unknown: {', '.join(name[:40] for name in odd[:5])}")
    out: dict[str, Any] = {}
    for name, wanted in fields.items():
        item = value[name]
        if type(item) is not (str if wanted is bytes else wanted):
            raise CanonicalError(f"{name} is not {'hexadecimal' if wanted is bytes else wanted.__name__}")
        out[name] = bytes.fromhex(str(item)) if wanted is bytes else item
    return out
