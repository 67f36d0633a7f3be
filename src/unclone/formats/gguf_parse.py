"""Reads a GGUF file's metadata and tensor infos, strictly and through a small window."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unclone.errors import FormatError, UnsupportedError
from unclone.formats.base import HEADER_LIMIT, METADATA_KEY, Region
from unclone.formats.gguf_blocks import TYPES, UNBOUND, BlockType

__all__ = ["MAGIC", "STRING", "GgufTensor", "Parsed", "Reader", "parse"]

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_FIXED: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, STRING, _ARRAY = 4, 8, 9
_COUNT_LIMIT: Final = 1_000_000
_STRINGS_LIMIT: Final = 1 << 24
_ARRAY_DEPTH: Final = 4
_KEY_LIMIT: Final = 65_535
_NAME_LIMIT: Final = 4096
_DIMENSIONS: Final = 8
_WINDOW: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor and the type of its blocks."""

    region: Region
    kind: BlockType


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file holds: where its parts end, and the header's (offset, length) if there is one."""

    start: bytes
    metadata_count: int
    metadata_end: int
    infos_end: int
    data_start: int
    alignment: int
    size: int
    header: tuple[int, int] | None
    tensors: Sequence[GgufTensor]


class Reader:
    """The file, through a window, with a position."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as problem:
            raise FormatError(f"cannot read {path}: {problem.strerror}") from None
        self.size = os.fstat(self._descriptor).st_size
        self.position = 0
        self._window = b""
        self._window_at = 0

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def bad(self, what: str) -> FormatError:
        """An error about this file."""
        return FormatError(f"{self.path}: {what}")

    def read(self, offset: int, nbytes: int) -> bytes:
        """Bytes at ``offset``."""
        data = os.pread(self._descriptor, nbytes, offset)
        if len(data) != nbytes:
            raise self.bad("is truncated")
        return data

    def skip(self, nbytes: int) -> None:
        """Go on by ``nbytes``, which must be there."""
        if nbytes > self.size - self.position:
            raise self.bad(f"is truncated or malformed: {nbytes} bytes at byte {self.position}")
        self.position += nbytes

    def take(self, nbytes: int) -> bytes:
        """The next bytes."""
        start = self.position
        self.skip(nbytes)
        if not self._window_at <= start <= self._window_at + len(self._window) - nbytes:
            self._window_at = start
            self._window = self.read(start, min(max(_WINDOW, nbytes), self.size - start))
        return self._window[start - self._window_at : start - self._window_at + nbytes]

    def number(self, nbytes: int) -> int:
        """The next unsigned integer."""
        return int.from_bytes(self.take(nbytes), "little")

    def text(self, limit: int) -> str:
        """The next string, of at most ``limit`` bytes."""
        length = self.number(8)
        if length > limit:
            raise self.bad(f"a name of {length} bytes at byte {self.position} is over the limit of {limit}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise self.bad(f"a name at byte {self.position} is not UTF-8") from None


def parse(reader: Reader) -> Parsed:
    """Read the file up to its tensors.

    Raises:
        FormatError: malformed, truncated or hostile.
        UnsupportedError: a version or tensor type that is not understood, by name.
    """
    start = reader.take(16)
    version, tensors, metadata = (
        struct.unpack("<IQ", start[4:])[0],
        int.from_bytes(start[8:], "little"),
        reader.number(8),
    )
    if start[:4] != MAGIC:
        raise reader.bad("not a GGUF file")
    if version not in _VERSIONS:
        raise UnsupportedError(f"{reader.path}: GGUF version {version}; versions 2 and 3, little-endian, are read")
    if tensors > _COUNT_LIMIT or metadata > _COUNT_LIMIT:
        raise reader.bad(f"{tensors} tensors and {metadata} metadata entries are over the limit of {_COUNT_LIMIT}")
    header, alignment = _metadata(reader, metadata)
    metadata_end = reader.position
    infos = [_info(reader) for _ in range(tensors)]
    infos_end = reader.position
    data_start = -(-infos_end // alignment) * alignment
    placed = _place(reader, infos, data_start, alignment)
    return Parsed(start, metadata, metadata_end, infos_end, data_start, alignment, reader.size, header, placed)


def _metadata(reader: Reader, count: int) -> tuple[tuple[int, int] | None, int]:
    keys: set[str] = set()
    header, alignment = None, 32
    for _ in range(count):
        key = reader.text(_KEY_LIMIT)
        if key in keys:
            raise reader.bad(f"the metadata entry {key[:80]!r} stands twice")
        keys.add(key)
        kind = reader.number(4)
        if key == METADATA_KEY:
            if kind != STRING:
                raise reader.bad(f"the metadata entry {key!r} is no string")
            length = reader.number(8)
            if length > HEADER_LIMIT:
                raise reader.bad(f"the header of the bound model is longer than {HEADER_LIMIT} bytes")
            header = (reader.position, length)
            reader.skip(length)
        elif key == "general.alignment":
            alignment = reader.number(4) if kind == _UINT32 else 0
            if alignment == 0 or alignment & (alignment - 1) or alignment > 1 << 20:
                raise reader.bad("general.alignment is no power of two up to 2^20")
        else:
            _skip_value(reader, kind, 0)
    return header, alignment


def _skip_value(reader: Reader, kind: int, depth: int) -> None:
    if kind in _FIXED:
        reader.skip(_FIXED[kind])
    elif kind == STRING:
        reader.skip(reader.number(8))
    elif kind == _ARRAY and depth < _ARRAY_DEPTH:
        inner, count = reader.number(4), reader.number(8)
        if inner in _FIXED:
            reader.skip(count * _FIXED[inner])
            return
        if count > _STRINGS_LIMIT:
            raise reader.bad(f"an array of {count} parts at byte {reader.position} is over the limit")
        for _ in range(count):
            _skip_value(reader, inner, depth + 1)
    else:
        raise reader.bad(f"metadata of type {kind} at byte {reader.position}, or nested too deep")


def _info(reader: Reader) -> tuple[str, tuple[int, ...], BlockType, int, int]:
    """Name, dimensions (the fastest first), type, bytes, offset."""
    name = reader.text(_NAME_LIMIT)
    rank = reader.number(4)
    if rank > _DIMENSIONS:
        raise reader.bad(f"tensor {name[:80]!r} has {rank} dimensions")
    shape = tuple(reader.number(8) for _ in range(rank))
    elements = 1
    for size in shape:
        elements *= size
        if elements > 1 << 56:
            raise reader.bad(f"tensor {name[:80]!r} is larger than any memory")
    number = reader.number(4)
    kind = TYPES.get(number)
    if kind is None:
        label = UNBOUND.get(number, f"number {number}")
        raise UnsupportedError(
            f"{reader.path}: tensor {name[:80]!r} is of type {label}, which this release does not bind"
        )
    if (shape[0] if shape else 1) % kind.elements:
        raise reader.bad(f"rows of tensor {name[:80]!r} are no whole blocks of {kind.name}")
    return name, shape, kind, elements // kind.elements * kind.nbytes, reader.number(8)


def _place(
    reader: Reader, infos: Sequence[tuple[str, tuple[int, ...], BlockType, int, int]], start: int, alignment: int
) -> list[GgufTensor]:
    placed: list[GgufTensor] = []
    names: set[str] = set()
    position = 0
    for name, shape, kind, nbytes, offset in infos:
        if name in names:
            raise reader.bad(f"two tensors are called {name[:80]!r}")
        names.add(name)
        if offset != position:
            what = "overlaps another" if offset < position else "leaves a hole before it"
            raise reader.bad(f"tensor {name[:80]!r} {what}")
        if start + offset + nbytes > reader.size:
            raise reader.bad(f"is truncated: tensor {name[:80]!r} ends beyond the file")
        placed.append(GgufTensor(Region(name, kind.name, shape, 0, start + offset, nbytes), kind))
        position = -(-(offset + nbytes) // alignment) * alignment
    return placed
