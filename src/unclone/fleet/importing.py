"""Import: record files, JSON lines, CSV, and the merging of another registry.

Whatever the way in, records pass their parser, and content that is there already changes nothing: an import that was
broken off is started again and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from unclone.errors import InputError, RecordError
from unclone.files import read_bounded
from unclone.fleet.bulk import batches, in_parallel
from unclone.fleet.exporting import export_lines
from unclone.fleet.lines import LINE_LIMIT, Item, lines_of, parse_chunk, parse_line, starts_with
from unclone.fleet.registry import BATCH, Registry, open_registry
from unclone.fleet.rows import LicenceRow, ModelRow, Packed, ReleaseRow
from unclone.fleet.writing import Counts, Writer

__all__ = ["Imported", "import_path", "read_records"]

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
    if path.is_file() and starts_with(path, _SQLITE):
        with open_registry(str(path)) as other:
            return _Import(registry, skip_bad, progress, batch).run(_from_registry(other))
    chunks = batches(lines_of(path), _LINES)
    parse = partial(parse_chunk, skip_bad)
    parsed = in_parallel(parse, chunks, workers=workers, backend=backend, scheduler=scheduler)
    return _Import(registry, skip_bad, progress, batch).run(item for chunk in parsed for item in chunk)


def read_records(paths: Iterable[Path]) -> list[Packed]:
    """Device and machine records from their files.

    Raises:
        RecordError: a file is no record.
        RecordAlteredError: a record does not match its own digest.
    """
    chunk = [(str(path), read_bounded(path, LINE_LIMIT, RecordError)) for path in paths]
    items = parse_chunk(False, chunk)
    for where, kind, _ in items:
        if kind not in ("device", "machine"):
            raise RecordError(f"{where}: not a record but an export's line; 'unclone fleet import' takes it")
    return [packed for _, _, packed in items]


def _from_registry(other: Registry) -> Iterator[Item]:
    """Another registry's content, by the same way as its export."""
    for number, line in enumerate(export_lines(other), 1):
        yield (f"{other.url}:{number}", *parse_line(line))


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
