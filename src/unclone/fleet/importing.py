"""Import: record files, JSON lines, CSV, and the merging of another registry.

Whatever the way in, records pass their parser, and content that is there already changes nothing: an import that was
broken off is started again and goes on.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from unclone import canonical
from unclone.canonical import CanonicalError
from unclone.errors import InputError, ReconstructionError, RecordError
from unclone.files import read_bounded
from unclone.fleet.bulk import batches, in_parallel
from unclone.fleet.exporting import FIELDS, export_lines
from unclone.fleet.registry import BATCH, Registry, open_registry
from unclone.fleet.rows import REVOKED, LicenceRow, ModelRow, Packed, ReleaseRow, pack_record
from unclone.fleet.writing import Counts, Writer
from unclone.machine.file import FORMAT as MACHINE_FORMAT
from unclone.machine.file import MACHINE_LIMIT

__all__ = ["Imported", "import_path", "read_records"]

LINE_LIMIT: Final = MACHINE_LIMIT
_DEVICE_LINE: Final = b'{"type":"device","record":'
_BARE_DEVICE: Final = b'{"digest":"'  # canonical records begin so
_LINES: Final = 250  # lines that a worker parses at a time
_SQLITE: Final = b"SQLite format 3\0"
_ERRORS_KEPT: Final = 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: counts by type of line, and what was skipped (the first 20, with the reason)."""

    counts: dict[str, Counts] = field(default_factory=dict)
    skipped: int = 0
    reasons: tuple[str, ...] = ()

    @property
    def total(self) -> Counts:
        """The counts of all types together."""
        return sum(self.counts.values(), Counts())


def import_path(
    registry: Registry,
    path: Path,
    *,
    skip_bad: bool = False,
    workers: int = 1,
    backend: str = "loky",
    scheduler: str = "",
    progress: Callable[[int], None] | None = None,
    batch: int = BATCH,
) -> Imported:
    """Import a record, a folder of records, JSON lines, CSV (with a ``record`` column), or another SQLite registry.

    Args:
        registry: where it goes.
        path: what is imported; the kind is told by its content, CSV by its suffix.
        skip_bad: go on after a line or file that cannot be taken, and say so at the end.
        workers: processes that parse; see ``bulk.in_parallel``.
        backend: of joblib.
        scheduler: of Dask or Ray.
        progress: called with the number of lines taken so far.
        batch: lines in one transaction.

    Raises:
        InputError: the path cannot be read, or a line cannot be taken and not ``skip_bad``; the message names file and
            line. What came before it is in.
    """
    if path.is_file() and _starts_with(path, _SQLITE):
        with open_registry(str(path)) as other:
            return _Import(registry, skip_bad, progress, batch).run(_from_registry(other))
    chunks = batches(_lines(path), _LINES)
    parse = partial(_parse_chunk, skip_bad)
    parsed = in_parallel(parse, chunks, workers=workers, backend=backend, scheduler=scheduler)
    return _Import(registry, skip_bad, progress, batch).run(item for chunk in parsed for item in chunk)


def read_records(paths: Iterable[Path]) -> list[Packed]:
    """Device and machine records from their files.

    Raises:
        RecordError: a file is no record.
        RecordAlteredError: a record does not match its own digest.
    """
    chunk = [(str(path), read_bounded(path, LINE_LIMIT, RecordError)) for path in paths]
    items = _parse_chunk(False, chunk)
    for where, kind, _ in items:
        if kind not in ("device", "machine"):
            raise RecordError(f"{where}: not a record but an export's line; 'unclone fleet import' takes it")
    return [packed for _, _, packed in items]


# -- reading -------------------------------------------------------------------------------------------------------


def _starts_with(path: Path, magic: bytes) -> bool:
    with _opened(path) as stream:
        return stream.read(len(magic)) == magic


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as problem:
        raise RecordError(f"cannot read {path}: {problem.strerror}") from None


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
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


Item = tuple[str, str, Any]
"""Where it stood, its type (``"bad"`` for what was skipped), and its content."""


def _parse_chunk(skip_bad: bool, chunk: list[tuple[str, bytes]]) -> list[Item]:
    """Parse lines; runs in a worker."""
    items: list[Item] = []
    for where, line in chunk:
        try:
            items.append((where, *_parse_line(line)))
        except (InputError, ReconstructionError) as problem:
            if not skip_bad:
                raise type(problem)(f"{where}: {problem}") from None
            items.append((where, "bad", f"{where}: {problem}"))
    return items


def _parse_line(line: bytes) -> tuple[str, Any]:
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


def _from_registry(other: Registry) -> Iterator[Item]:
    """Another registry's content, by the same way as its export."""
    for number, line in enumerate(export_lines(other), 1):
        yield (f"{other.url}:{number}", *_parse_line(line))


# -- writing -------------------------------------------------------------------------------------------------------


class _Import:
    """Takes parsed items in, ``BATCH`` in a transaction."""

    def __init__(self, registry: Registry, skip_bad: bool, progress: Callable[[int], None] | None, batch: int) -> None:
        self._registry = registry
        self._skip_bad = skip_bad
        self._batch = batch
        self._progress = progress
        self._counts: dict[str, Counts] = {}
        self._skipped = 0
        self._reasons: list[str] = []

    def run(self, items: Iterable[Item]) -> Imported:
        done = 0
        for batch in batches(items, self._batch):
            try:
                counts = self._take(batch)
            except InputError:
                if not self._skip_bad:
                    raise
                counts = [pair for item in batch for pair in self._take_alone(item)]
            for kind, count in counts:
                self._counts[kind] = self._counts.get(kind, Counts()) + count
            done += len(batch)
            if self._progress is not None:
                self._progress(done)
        return Imported(self._counts, self._skipped, tuple(self._reasons))

    def _take(self, batch: list[Item]) -> list[tuple[str, Counts]]:
        """A batch in one transaction, in runs of one type."""
        out = []
        skipped: list[str] = []
        with self._registry.writing() as writer:
            run: list[Item] = []
            for item in batch:
                if item[1] == "bad":
                    skipped.append(item[2])
                    continue
                if run and run[-1][1] != item[1]:
                    out.append((run[-1][1], _apply(writer, run)))
                    run = []
                run.append(item)
            if run:
                out.append((run[-1][1], _apply(writer, run)))
        for reason in skipped:
            self._skip(reason)
        return out

    def _take_alone(self, item: Item) -> list[tuple[str, Counts]]:
        try:
            return self._take([item])
        except InputError as problem:
            self._skip(str(problem))
            return []

    def _skip(self, reason: str) -> None:
        self._skipped += 1
        if len(self._reasons) < _ERRORS_KEPT:
            self._reasons.append(reason)


def _apply(writer: Writer, run: list[Item]) -> Counts:
    kind = run[0][1]
    values = [item[2] for item in run]
    try:
        if kind in ("device", "machine"):
            return writer.add_records(kind, values)
        if kind == "model":
            return sum((writer.add_model(ModelRow(**value)) for value in values), Counts())
        if kind == "release":
            return writer.add_releases(ReleaseRow(**value) for value in values)
        if kind == "licence":
            return writer.add_licences((LicenceRow(**value) for value in values), replace=True)
        change = _measure if kind == "measurement" else _revoke
        news = sum(change(writer, value) for value in values)
        return Counts(added=news, unchanged=len(values) - news)
    except InputError as problem:
        span = run[0][0] if len(run) == 1 else f"{run[0][0]} to {run[-1][0]}"
        raise type(problem)(f"{span}: {problem}") from None


def _measure(writer: Writer, value: dict[str, Any]) -> bool:
    figures = {name: item for name, item in value.items() if name != "key"}
    return writer.measure(value["key"], **figures)


def _revoke(writer: Writer, value: dict[str, Any]) -> bool:
    key: Any = value["key"]
    if value["kind"] == "licence":
        key = (key[:16], key[16:])
    return writer.revoke(value["kind"], key, value["reason"])
