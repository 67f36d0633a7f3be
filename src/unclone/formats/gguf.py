"""GGUF: key-value metadata, tensor infos, aligned tensors (spec/carriers.md, section 4; ggml's docs/gguf.md).

Every tensor is masked. In block types, ``finite`` masks codes, sub-scales and minima whole, and of a block's
half-precision scale the sign (where any is negative), the mantissa and the low exponent bits that leave it within a
factor of about two of the tensor's largest: a clone gets wrong numbers, not infinities.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import AlreadyBoundError, FormatError, UnsupportedError
from unclone.formats.base import (
    HEADER_LIMIT,
    METADATA_KEY,
    Copy,
    HeaderPiece,
    Layout,
    Literal,
    Masked,
    Output,
    Piece,
    Region,
    Weight,
)
from unclone.records import ClearTensor

__all__ = ["TYPES", "BlockType", "Gguf"]

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_FIXED: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_COUNT_LIMIT: Final = 1_000_000
_STRINGS_LIMIT: Final = 1 << 24
_ARRAY_DEPTH: Final = 4
_KEY_LIMIT: Final = 65_535
_NAME_LIMIT: Final = 4096
_DIMENSIONS: Final = 8
_WINDOW: Final = 1 << 18
_SCAN: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class BlockType:
    """A tensor type: ``nbytes`` bytes hold ``elements`` elements; half-precision scales start at ``scales``."""

    name: str
    elements: int
    nbytes: int
    scales: tuple[int, ...] = ()


TYPES: Final = {
    0: BlockType("float32", 1, 4),
    1: BlockType("float16", 1, 2),
    2: BlockType("q4_0", 32, 18, (0,)),
    3: BlockType("q4_1", 32, 20, (0, 2)),
    6: BlockType("q5_0", 32, 22, (0,)),
    7: BlockType("q5_1", 32, 24, (0, 2)),
    8: BlockType("q8_0", 32, 34, (0,)),
    10: BlockType("q2_k", 256, 84, (80, 82)),
    11: BlockType("q3_k", 256, 110, (108,)),
    12: BlockType("q4_k", 256, 144, (0, 2)),
    13: BlockType("q5_k", 256, 176, (0, 2)),
    14: BlockType("q6_k", 256, 210, (208,)),
    20: BlockType("iq4_nl", 32, 18, (0,)),
    23: BlockType("iq4_xs", 256, 136, (0,)),
    24: BlockType("int8", 1, 1),
    25: BlockType("int16", 1, 2),
    26: BlockType("int32", 1, 4),
    27: BlockType("int64", 1, 8),
    28: BlockType("float64", 1, 8),
    30: BlockType("bfloat16", 1, 2),
}
"""ggml_type -> layout of its blocks (ggml-common.h)."""

_UNBOUND: Final = {
    9: "q8_1", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 21: "iq3_s", 22: "iq2_s",
    29: "iq1_m", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4", 40: "nvfp4", 41: "q1_0",
}  # fmt: skip


class Gguf:
    """The GGUF format."""

    name = "gguf"
    suffixes: tuple[str, ...] = (".gguf",)

    def matches(self, path: Path, head: bytes) -> bool:  # noqa: ARG002 (the magic number decides)
        """Whether the file starts with the magic number."""
        return head.startswith(MAGIC)

    def draft(self, path: Path) -> GgufDraft:
        """Take an ordinary model apart.

        Raises:
            FormatError: malformed, truncated or hostile.
            UnsupportedError: a version or tensor type that is not understood, by name.
            AlreadyBoundError: it carries a header of ours.
        """
        with _Reader(path) as reader:
            parsed = _parse(reader)
            if parsed.header is not None:
                raise AlreadyBoundError(f"{path} is bound already; bind the ordinary model instead")
            return GgufDraft(path, parsed, [_pattern(reader, tensor) for tensor in parsed.tensors])

    def layout(self, path: Path) -> Layout:
        """Find the header and every tensor.

        Raises:
            FormatError: malformed, truncated or hostile.
        """
        with _Reader(path) as reader:
            parsed = _parse(reader)
            regions = {tensor.region.name: tensor.region for tensor in parsed.tensors}
            if parsed.header is None:
                return Layout((path,), None, 0, 0, 0, regions)
            offset, length = parsed.header
            return Layout((path,), reader.read(offset, length), 0, offset, length, regions)


@dataclass(frozen=True, slots=True)
class _Tensor:
    region: Region
    kind: BlockType


@dataclass(frozen=True, slots=True)
class _Parsed:
    start: bytes
    metadata_count: int
    metadata_end: int
    infos_end: int
    data_start: int
    alignment: int
    size: int
    header: tuple[int, int] | None
    tensors: Sequence[_Tensor]


class GgufDraft:
    """An ordinary GGUF file, taken apart; see ``formats.base.Draft``."""

    def __init__(self, path: Path, parsed: _Parsed, patterns: Sequence[bytes | None]) -> None:
        self._parsed = parsed
        self.sources: Sequence[Path] = (path,)
        self.clear: Sequence[ClearTensor] = ()
        self.weights: Sequence[Weight] = [
            Weight(t.region.name, t.region.dtype, t.region.shape, 0, t.region.offset, t.region.nbytes, pattern)
            for t, pattern in zip(parsed.tensors, patterns, strict=True)
        ]

    def outputs(self, output: Path, header: bytes, tag: str) -> Sequence[Output]:  # noqa: ARG002 (no side files)
        """One file: our entry last in the metadata, everything else as it was."""
        parsed = self._parsed
        key = METADATA_KEY.encode()
        entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", _STRING, len(header))
        infos = parsed.infos_end - parsed.metadata_end
        before = parsed.metadata_end + len(entry) + len(header) + infos
        pieces: list[Piece] = [
            Literal(parsed.start + struct.pack("<Q", parsed.metadata_count + 1)),
            Copy(0, 24, parsed.metadata_end - 24),
            Literal(entry),
            HeaderPiece(header),
            Copy(0, parsed.metadata_end, infos),
            Literal(bytes(-before % parsed.alignment)),
        ]
        position = parsed.data_start
        for number, weight in enumerate(self.weights):
            pieces += [Copy(0, position, weight.offset - position), Masked(number)]
            position = weight.offset + weight.nbytes
        pieces.append(Copy(0, position, parsed.size - position))
        return (Output(output, [piece for piece in pieces if not isinstance(piece, Copy) or piece.nbytes]),)

    def encode_header(self, header: bytes) -> bytes:
        """The header's text as it is."""
        return header

    def finish(self, streams: Sequence[BinaryIO]) -> None:
        """Nothing depends on the masked bytes."""


class _Reader:
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

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def bad(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: {what}")

    def read(self, offset: int, nbytes: int) -> bytes:
        data = os.pread(self._descriptor, nbytes, offset)
        if len(data) != nbytes:
            raise self.bad("is truncated")
        return data

    def skip(self, nbytes: int) -> None:
        if nbytes > self.size - self.position:
            raise self.bad(f"is truncated or malformed: {nbytes} bytes at byte {self.position}")
        self.position += nbytes

    def take(self, nbytes: int) -> bytes:
        start = self.position
        self.skip(nbytes)
        if not self._window_at <= start <= self._window_at + len(self._window) - nbytes:
            self._window_at = start
            self._window = self.read(start, min(max(_WINDOW, nbytes), self.size - start))
        return self._window[start - self._window_at : start - self._window_at + nbytes]

    def number(self, nbytes: int) -> int:
        return int.from_bytes(self.take(nbytes), "little")

    def text(self, limit: int) -> str:
        length = self.number(8)
        if length > limit:
            raise self.bad(f"a name of {length} bytes at byte {self.position} is over the limit of {limit}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise self.bad(f"a name at byte {self.position} is not UTF-8") from None


def _parse(reader: _Reader) -> _Parsed:
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
    return _Parsed(start, metadata, metadata_end, infos_end, data_start, alignment, reader.size, header, placed)


def _metadata(reader: _Reader, count: int) -> tuple[tuple[int, int] | None, int]:
    keys: set[str] = set()
    header, alignment = None, 32
    for _ in range(count):
        key = reader.text(_KEY_LIMIT)
        if key in keys:
            raise reader.bad(f"the metadata entry {key[:80]!r} stands twice")
        keys.add(key)
        kind = reader.number(4)
        if key == METADATA_KEY:
            if kind != _STRING:
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


def _skip_value(reader: _Reader, kind: int, depth: int) -> None:
    if kind in _FIXED:
        reader.skip(_FIXED[kind])
    elif kind == _STRING:
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


def _info(reader: _Reader) -> tuple[str, tuple[int, ...], BlockType, int, int]:
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
        label = _UNBOUND.get(number, f"number {number}")
        raise UnsupportedError(
            f"{reader.path}: tensor {name[:80]!r} is of type {label}, which this release does not bind"
        )
    if (shape[0] if shape else 1) % kind.elements:
        raise reader.bad(f"rows of tensor {name[:80]!r} are no whole blocks of {kind.name}")
    return name, shape, kind, elements // kind.elements * kind.nbytes, reader.number(8)


def _place(
    reader: _Reader, infos: Sequence[tuple[str, tuple[int, ...], BlockType, int, int]], start: int, alignment: int
) -> list[_Tensor]:
    placed: list[_Tensor] = []
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
        placed.append(_Tensor(Region(name, kind.name, shape, 0, start + offset, nbytes), kind))
        position = -(-(offset + nbytes) // alignment) * alignment
    return placed


def _pattern(reader: _Reader, tensor: _Tensor) -> bytes | None:
    """The ``finite`` pattern of a block type, one block long."""
    kind, region = tensor.kind, tensor.region
    if not kind.scales:
        return None
    pattern = np.full(kind.nbytes, 0xFF, dtype=np.uint8)
    step = _SCAN - _SCAN % kind.nbytes
    tops, negative = [0] * len(kind.scales), [False] * len(kind.scales)
    for done in range(0, region.nbytes, step):
        data = reader.read(region.offset + done, min(step, region.nbytes - done))
        blocks = np.frombuffer(data, dtype=np.uint8).reshape(-1, kind.nbytes)
        for number, place in enumerate(kind.scales):
            words = np.ascontiguousarray(blocks[:, place : place + 2]).view("<u2")[:, 0]
            tops[number] = max(tops[number], _top_exponent(words))
            negative[number] = negative[number] or bool((words >> 15).any())
    for number, place in enumerate(kind.scales):
        word = _scale_mask(tops[number], negative=negative[number])
        pattern[place : place + 2] = np.frombuffer(word.to_bytes(2, "little"), dtype=np.uint8)
    return pattern.tobytes()


def _top_exponent(words: NDArray[np.uint16]) -> int:
    """The largest exponent field of a finite half-precision number."""
    exponents = (words >> 10) & 31
    finite = exponents[exponents < 31]
    return int(finite.max()) if finite.size else 0


def _scale_mask(top: int, *, negative: bool) -> int:
    """Mantissa, the low exponent bits that keep a scale within about twice the largest, and the sign if any has one."""
    bits = 0
    while bits < 5 and top | ((2 << bits) - 1) <= min(top + 1, 30):
        bits += 1
    return (1 << (10 + bits)) - 1 | (0x8000 if negative else 0)
