"""Protobuf wire format: a bounded reader, and edits that leave every other byte as it was.

Works on the file, not on a parsed copy, so unknown fields survive and memory stays small. Stricter than protobuf where
leniency would let two readers see two models: a field that may stand once stands once, groups are refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from unclone.errors import FormatError
from unclone.formats.base import Copy, HeaderPiece, Literal, Piece

__all__ = [
    "FIXED32",
    "FIXED64",
    "LEN",
    "VARINT",
    "Edit",
    "Field",
    "Message",
    "Source",
    "apply",
    "field_bytes",
    "varint",
]

VARINT: Final = 0
FIXED64: Final = 1
LEN: Final = 2
FIXED32: Final = 5

_WINDOW: Final = 1 << 16
_DEPTH_LIMIT: Final = 96
_MESSAGE_LIMIT: Final = 2_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A length-delimited field: tag at ``start``, length at ``length_at``, content from ``body`` to ``end``."""

    start: int
    length_at: int
    body: int
    end: int
    parent: Message | None
    depth: int


class Field(NamedTuple):
    """One field: ``value`` of a varint, else the content lies from ``body`` to ``end``; the tag is at ``start``."""

    number: int
    wire: int
    value: int
    start: int
    length_at: int
    body: int
    end: int


class Source:
    """A file, read through a small window (not a memory map: a file that shrinks meanwhile must not end the process).

    Args:
        path: the file.
        content: reads from a first byte to the byte after the last, in place of the file: bytes that were verified.

    Raises:
        FormatError: the file cannot be read, or what is asked for is malformed.
    """

    def __init__(self, path: Path, content: Callable[[int, int], bytes] | None = None) -> None:
        self.path = path
        self._content = content
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as problem:
            raise FormatError(f"cannot read {path}: {problem.strerror}") from None
        self.size = os.fstat(self._descriptor).st_size
        self._window = b""
        self._window_at = 0
        self._messages = 0

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @property
    def root(self) -> Message:
        """The file as one message."""
        return Message(0, 0, 0, self.size, None, 0)

    def bad(self, what: str) -> FormatError:
        """An error about this file."""
        return FormatError(f"{self.path}: {what}")

    def read(self, start: int, end: int) -> bytes:
        """Bytes from ``start`` to ``end``."""
        if self._content is not None:
            return self._content(start, end)
        try:
            data = os.pread(self._descriptor, end - start, start)
        except OSError as problem:
            raise self.bad(f"cannot be read: {problem.strerror}") from None
        if len(data) != end - start:
            raise self.bad("became shorter while it was read")
        return data

    def text(self, field: Field) -> str:
        """A string field."""
        try:
            return self.read(field.body, field.end).decode()
        except UnicodeDecodeError:
            raise self.bad(f"a name at byte {field.body} is not UTF-8") from None

    def message(self, field: Field, parent: Message) -> Message:
        """A field as a message of its own; counts it, so that nesting and numbers stay bounded."""
        self._messages += 1
        if parent.depth >= _DEPTH_LIMIT:
            raise self.bad(f"nested deeper than {_DEPTH_LIMIT}")
        if self._messages > _MESSAGE_LIMIT:
            raise self.bad(f"has more than {_MESSAGE_LIMIT} parts")
        return Message(field.start, field.length_at, field.body, field.end, parent, parent.depth + 1)

    def fields(self, message: Message, expected: dict[int, int]) -> Iterator[Field]:
        """The fields of a message, in file order.

        Args:
            message: where to read.
            expected: number -> wire type; a field of another wire type is refused, where a parser might skip it.
                Repeated numbers may also come packed (``LEN``).
        """
        position = message.body
        while position < message.end:
            field = self._field(position, message.end)
            wanted = expected.get(field.number)
            if wanted is not None and field.wire not in (wanted, LEN if wanted != LEN else wanted):
                raise self.bad(f"field {field.number} at byte {position} has wire type {field.wire}")
            yield field
            position = field.end

    def varints(self, start: int, end: int) -> bytes:
        """Raw bytes of packed varints, which must end with a whole one."""
        data = self.read(start, end)
        if data and data[-1] & 0x80:
            raise self.bad(f"packed numbers at byte {start} are truncated")
        return data

    def _field(self, start: int, limit: int) -> Field:
        tag, position = self.varint(start, limit)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise self.bad(f"field number {number} at byte {start}")
        if wire == VARINT:
            value, end = self.varint(position, limit)
            return Field(number, wire, value, start, position, position, end)
        length_at = position
        if wire == LEN:
            length, position = self.varint(position, limit)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise self.bad(f"wire type {wire} at byte {start}")
        if length > limit - position:
            raise self.bad(f"is truncated or malformed: field {number} at byte {start} has {length} bytes")
        return Field(number, wire, 0, start, length_at, position, position + length)

    def varint(self, position: int, limit: int) -> tuple[int, int]:
        """The varint at ``position`` and where it ends."""
        if not self._window_at <= position <= self._window_at + len(self._window) - 10:
            self._window_at = position
            self._window = self.read(position, min(position + _WINDOW, self.size))
        window, index = self._window, position - self._window_at
        stop = min(len(window), limit - self._window_at)
        value = shift = 0
        while index < stop and shift < 70:
            byte = window[index]
            index += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value, self._window_at + index
            shift += 7
        raise self.bad(f"is truncated or malformed: no whole number at byte {position}")


@dataclass(frozen=True, slots=True)
class Edit:
    """``pieces`` (``nbytes`` long) instead of the bytes from ``start`` to ``end``.

    Attributes:
        owner: the innermost message around them, whose length changes.
    """

    start: int
    end: int
    pieces: Sequence[Piece]
    nbytes: int
    owner: Message


def apply(root: Message, edits: Iterable[Edit], limit: int) -> list[Piece] | None:
    """The file with the edits made and every enclosing length mended; ``None`` if it would pass ``limit`` bytes."""
    todo = list(edits)
    grown: dict[int, dict[Message, int]] = {}

    def grow(message: Message, nbytes: int) -> None:
        level = grown.setdefault(message.depth, {})
        level[message] = level.get(message, 0) + nbytes

    for edit in todo:
        grow(edit.owner, edit.nbytes - (edit.end - edit.start))
    for depth in range(max(grown, default=0), 0, -1):
        for message, nbytes in grown.get(depth, {}).items():
            assert message.parent is not None  # noqa: S101 (only the root has none)
            length = varint(message.end - message.body + nbytes)
            if nbytes:
                todo.append(Edit(message.length_at, message.body, [Literal(length)], len(length), message.parent))
                nbytes += len(length) - (message.body - message.length_at)
            grow(message.parent, nbytes)
    if root.end - root.body + sum(grown.get(0, {}).values()) > limit:
        return None
    return _stitch(root, todo)


def _stitch(root: Message, edits: list[Edit]) -> list[Piece]:
    # At one place: what is put in comes before what is taken out, and the inner message before the outer one.
    edits.sort(key=lambda edit: (edit.start, edit.end, -edit.owner.depth))
    pieces: list[Piece] = []
    position = root.body
    for edit in edits:
        if edit.start > position:
            pieces.append(Copy(0, position, edit.start - position))
        pieces.extend(edit.pieces)
        position = edit.end
    if position < root.end:
        pieces.append(Copy(0, position, root.end - position))
    return _joined(pieces)


def _joined(pieces: list[Piece]) -> list[Piece]:
    """The same with neighbouring literals in one."""
    joined: list[Piece] = []
    run: list[bytes] = []
    for piece in [*pieces, HeaderPiece(b"")]:
        if isinstance(piece, Literal):
            run.append(piece.data)
            continue
        if run:
            joined.append(Literal(b"".join(run)))
            run = []
        joined.append(piece)
    return joined[:-1]


def varint(value: int) -> bytes:
    """``value`` as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field_bytes(number: int, content: bytes | int) -> bytes:
    """A field: a varint for an int, length-delimited for bytes."""
    if isinstance(content, int):
        return varint(number << 3 | VARINT) + varint(content)
    return varint(number << 3 | LEN) + varint(len(content)) + content
