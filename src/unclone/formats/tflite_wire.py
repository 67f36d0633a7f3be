"""Flatbuffers, as far as a TensorFlow Lite model needs them, read with every offset checked.

The library of the format trusts offsets; this reader does not. It reads through a few pages, counts what it reads
against a budget (a small file can name the same table a million times), and keeps the ranges of everything it has
read, so that weights that share bytes with structure are found out. Source: flatbuffers.dev, "FlatBuffer Internals".
"""

from __future__ import annotations

import os
from array import array
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Final

from unclone.errors import FormatError, UnsupportedError

__all__ = ["OFFSET", "Source", "Table", "Vector"]

OFFSET: Final = 4
"""Bytes of an offset to a table, a vector or a string."""

_PAGE: Final = 1 << 16
_PAGES: Final = 64
_BUDGET: Final = 1 << 20
_LARGEST_TABLE: Final = 4096


class Source:
    """The file, through a small cache of pages.

    Raises:
        FormatError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as problem:
            raise FormatError(f"cannot read {path}: {problem.strerror}") from None
        self.size = os.fstat(self._descriptor).st_size
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._vtables: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._left = _BUDGET
        self._seen = array("Q")

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def bad(self, what: str) -> FormatError:
        """An error about this file."""
        return FormatError(f"{self.path}: {what}")

    def unsupported(self, what: str) -> UnsupportedError:
        """An error about something in this file that is not understood."""
        return UnsupportedError(f"{self.path}: {what}")

    def read(self, offset: int, nbytes: int) -> bytes:
        """Bytes at ``offset``."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise self.bad(f"is truncated or malformed: {nbytes} bytes at byte {offset} of {self.size}")
        if nbytes > _PAGE:
            data = os.pread(self._descriptor, nbytes, offset)
        else:
            first, start = divmod(offset, _PAGE)
            data = self._page(first)[start : start + nbytes]
            if len(data) < nbytes:
                data += self._page(first + 1)[: nbytes - len(data)]
        if len(data) != nbytes:
            raise self.bad("became shorter while it was read")
        return data

    def _page(self, number: int) -> bytes:
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = os.pread(self._descriptor, _PAGE, number * _PAGE)
            if len(self._pages) > _PAGES:
                self._pages.popitem(last=False)
        return page

    def number(self, offset: int, nbytes: int, *, signed: bool = False) -> int:
        """The little-endian integer at ``offset``."""
        return int.from_bytes(self.read(offset, nbytes), "little", signed=signed)

    def spend(self, start: int, end: int, units: int = 1) -> None:
        """Count the structure from ``start`` to ``end`` against the budget, and remember where it is.

        Raises:
            FormatError: the model is made of more parts than any is.
        """
        self._left -= units
        if self._left < 0:
            raise self.bad(f"names its parts more than {_BUDGET} times")
        self._seen.extend((start, end))

    def structure(self) -> list[tuple[int, int]]:
        """Every range read so far: first byte, byte after the last."""
        return list(zip(self._seen[::2], self._seen[1::2], strict=True))

    def follow(self, at: int) -> int:
        """Where the offset at ``at`` leads."""
        target = at + self.number(at, OFFSET)
        if target == at or target > self.size - OFFSET:
            raise self.bad(f"an offset at byte {at} leads out of the file")
        return target

    def vtable(self, position: int) -> tuple[int, tuple[int, ...]]:
        """Length of the table's own bytes, and the place of each field in it (0: absent)."""
        found = self._vtables.get(position)
        if found is not None:
            return found
        length, own = self.number(position, 2), self.number(position + 2, 2)
        if length < 4 or length % 2 or not 4 <= own <= _LARGEST_TABLE or length > _LARGEST_TABLE:
            raise self.bad(f"the vtable at byte {position} is malformed")
        raw = self.read(position, length)
        fields = tuple(int.from_bytes(raw[n : n + 2], "little") for n in range(4, length, 2))
        if any(field and not 4 <= field < own for field in fields):
            raise self.bad(f"a field of the vtable at byte {position} lies outside its table")
        self.spend(position, position + length)
        self._vtables[position] = own, fields
        return own, fields


class Vector:
    """A vector: ``count`` elements of ``width`` bytes from ``start``."""

    __slots__ = ("_source", "count", "start", "width")

    def __init__(self, source: Source, position: int, width: int, *, data: bool = False) -> None:
        self.count = source.number(position, OFFSET)
        self.start = position + OFFSET
        self.width = width
        self._source = source
        if self.count * width > source.size - self.start:
            raise source.bad(f"is truncated or malformed: a vector at byte {position} has {self.count} elements")
        if data:  # not read here, so it costs nothing
            source.spend(position, self.start)
        else:
            source.spend(position, self.start + self.count * width, 1 + self.count)

    def numbers(self, *, signed: bool = True) -> tuple[int, ...]:
        """The elements as integers."""
        raw = self._source.read(self.start, self.count * self.width)
        return tuple(
            int.from_bytes(raw[n : n + self.width], "little", signed=signed) for n in range(0, len(raw), self.width)
        )

    def tables(self, known: int) -> list[Table]:
        """The elements as tables."""
        source = self._source
        return [Table(source, source.follow(self.start + OFFSET * n), known) for n in range(self.count)]

    def targets(self) -> list[int]:
        """Where the elements lead."""
        return [self._source.follow(self.start + OFFSET * n) for n in range(self.count)]


class Table:
    """A table at ``position``, of which this release knows the first ``known`` fields.

    Raises:
        FormatError: malformed.
        UnsupportedError: it uses a field of a newer schema, which may hold anything.
    """

    __slots__ = ("_fields", "_own", "_source", "position")

    def __init__(self, source: Source, position: int, known: int) -> None:
        vtable = position - source.number(position, 4, signed=True)
        if vtable < 8:
            raise source.bad(f"the table at byte {position} has no vtable in the file")
        self.position = position
        self._source = source
        self._own, self._fields = source.vtable(vtable)
        if position + self._own > source.size:
            raise source.bad(f"is truncated: a table at byte {position}")
        if any(self._fields[known:]):
            raise source.unsupported(f"the table at byte {position} has fields of a newer schema")
        source.spend(position, position + self._own)

    def place(self, field: int, nbytes: int) -> int:
        """Where a field lies; 0 if it is absent."""
        at = self._fields[field] if field < len(self._fields) else 0
        if not at:
            return 0
        if at + nbytes > self._own:
            raise self._source.bad(f"field {field} of the table at byte {self.position} leaves it")
        return self.position + at

    def number(self, field: int, nbytes: int, default: int = 0, *, signed: bool = False) -> int:
        """A scalar field."""
        at = self.place(field, nbytes)
        return self._source.number(at, nbytes, signed=signed) if at else default

    def target(self, field: int) -> int:
        """Where an offset field leads; 0 if it is absent."""
        at = self.place(field, OFFSET)
        return self._source.follow(at) if at else 0

    def table(self, field: int, known: int) -> Table | None:
        """A table in a field."""
        target = self.target(field)
        return Table(self._source, target, known) if target else None

    def vector(self, field: int, width: int = OFFSET, *, data: bool = False) -> Vector | None:
        """A vector in a field; ``data``: of bytes that are not read as structure."""
        target = self.target(field)
        return Vector(self._source, target, width, data=data) if target else None

    def numbers(self, field: int, width: int = 4, *, signed: bool = True) -> tuple[int, ...]:
        """The integers of a vector; none if it is absent."""
        found = self.vector(field, width)
        return found.numbers(signed=signed) if found else ()

    def tables(self, field: int, known: int) -> list[Table]:
        """The tables of a vector; none if it is absent."""
        found = self.vector(field)
        return found.tables(known) if found else []

    def text(self, field: int, limit: int) -> str:
        """A string of at most ``limit`` bytes; empty if it is absent."""
        target = self.target(field)
        if not target:
            return ""
        source = self._source
        length = source.number(target, OFFSET)
        if length > limit:
            raise source.bad(f"a name of {length} bytes at byte {target} is over the limit of {limit}")
        raw = source.read(target + OFFSET, length)
        source.spend(target, target + OFFSET + length, 1 + length // 8)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise source.bad(f"a name at byte {target} is not UTF-8") from None
