"""TensorFlow Lite: a flatbuffer of graphs and buffers (spec/carriers.md, section 11).

Offsets in a flatbuffer are relative and lead forward, so a bound model is the ordinary one with a block put in after
its first eight bytes: a new root table, longer lists of buffers and metadata, and the header. All else keeps its place
relative to all else, byte for byte, but for the masked bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from unclone.errors import AlreadyBoundError
from unclone.formats.base import Copy, HeaderPiece, Layout, Literal, Masked, Output, Piece, Region, Weight
from unclone.formats.tflite_block import build_block
from unclone.formats.tflite_parse import FIRST, IDENTIFIER, Model, Tensor, parse
from unclone.formats.tflite_use import Use, check_operators, use_of
from unclone.formats.tflite_wire import Source
from unclone.records import ClearTensor

__all__ = ["Tflite"]

_POINTER: Final = 8


class Tflite:
    """The TensorFlow Lite format."""

    name = "tflite"
    suffixes: tuple[str, ...] = (".tflite",)

    def matches(self, path: Path, head: bytes) -> bool:  # noqa: ARG002 (the identifier decides)
        """Whether the identifier stands in its place."""
        return head[4:FIRST] == IDENTIFIER

    def draft(self, path: Path) -> TfliteDraft:
        """Take an ordinary model apart.

        Raises:
            FormatError: malformed, truncated or hostile.
            UnsupportedError: an operator, type or layout that is not understood, by name.
            AlreadyBoundError: it carries a header of ours.
        """
        with Source(path) as source:
            model = parse(source)
            if model.header >= 0:
                raise AlreadyBoundError(f"{path} is bound already; bind the ordinary model instead")
            check_operators(source, model)
            constants = _constants(source, model)
            uses = use_of(source, model, [user for constant in constants for user in constant.users])
            return TfliteDraft(source, model, constants, uses)

    def layout(self, path: Path) -> Layout:
        """Find the header and every constant tensor.

        Raises:
            FormatError: malformed, truncated or hostile.
        """
        with Source(path) as source:
            model = parse(source)
            regions = {c.region.name: c.region for c in _constants(source, model) if c.region.dtype != "string"}
            if model.header < 0:
                return Layout((path,), None, 0, 0, 0, regions)
            place = model.buffers[model.header]
            return Layout((path,), source.read(place.offset, place.nbytes), 0, place.offset, place.nbytes, regions)

    def mend(self, layout: Layout, streams: Sequence[BinaryIO]) -> None:
        """Nothing depends on the weights."""


@dataclass(frozen=True, slots=True)
class _Constant:
    """Bytes of a buffer, and the tensors, as (graph, tensor), that are made of them; the first gives its name."""

    region: Region
    users: list[tuple[int, int]] = field(default_factory=list)


class TfliteDraft:
    """An ordinary TensorFlow Lite model, taken apart; see ``formats.base.Draft``."""

    def __init__(
        self, source: Source, model: Model, constants: Sequence[_Constant], uses: dict[tuple[int, int], Use]
    ) -> None:
        self._model = model
        self._size = source.size
        self.sources: Sequence[Path] = (source.path,)
        weights: list[Weight] = []
        clear: list[ClearTensor] = []
        for constant in sorted(constants, key=lambda item: item.region.offset):
            region = constant.region
            use = Use(weight=not constant.users)
            for user in constant.users:
                use.add(uses[user])
            if use.clear:
                clear.append(ClearTensor(region.name, region.dtype, region.shape, use.clear))
            else:
                weights.append(Weight(region.name, region.dtype, region.shape, 0, region.offset, region.nbytes))
        self.weights: Sequence[Weight] = weights
        self.clear: Sequence[ClearTensor] = clear

    def outputs(self, output: Path, header: bytes, tag: str) -> Sequence[Output]:  # noqa: ARG002 (no side files)
        """One file: our block after the identifier, then everything as it was."""
        before, after = build_block(output, self._model, len(header))
        shift = len(before) + len(header) + len(after) - FIRST
        pieces: list[Piece] = [Literal(before), HeaderPiece(header), Literal(after)]
        position = FIRST
        for start, nbytes, piece in sorted(self._changes(shift), key=lambda change: change[:2]):
            if position < start:
                pieces.append(Copy(0, position, start - position))
            pieces.append(piece)
            position = start + nbytes
        if position < self._size:
            pieces.append(Copy(0, position, self._size - position))
        return (Output(output, pieces),)

    def _changes(self, shift: int) -> Iterator[tuple[int, int, Piece]]:
        """What is not as it was: first byte, length, what stands there. Absolute offsets move with what they name."""
        for number, weight in enumerate(self.weights):
            yield weight.offset, weight.nbytes, Masked(number)
        for pointer, offset in {(b.pointer, b.offset) for b in self._model.buffers if b.pointer}:
            yield pointer, _POINTER, Literal(struct.pack("<Q", offset + shift))

    def encode_header(self, header: bytes) -> bytes:
        """The header's text as it is."""
        return header

    def finish(self, streams: Sequence[BinaryIO]) -> None:
        """Nothing depends on the masked bytes."""


def _constants(source: Source, model: Model) -> list[_Constant]:
    """The bytes of all buffers but empty ones, metadata and our header, each once."""
    found: dict[tuple[int, int], _Constant] = {}
    names: set[str] = set()
    described = {_span(model, number) for number in model.described}
    for number, graph in enumerate(model.graphs):
        for place, tensor in enumerate(graph.tensors):
            span = _span(model, tensor.buffer)
            if not span[1]:
                continue
            if span in described:
                raise source.unsupported(f"tensor {tensor.name[:80]!r} is metadata as well: to be masked or not?")
            _check_size(source, tensor, span[1])
            if span not in found:
                region = _region(source, tensor, _name(source, names, number, place, tensor), span)
                found[span] = _Constant(region)
            found[span].users.append((number, place))
    for number in range(len(model.buffers)):
        span = _span(model, number)
        if span[1] and span not in found and span not in described and number != model.header:
            name = f"buffer[{number}]"
            if name in names:
                raise source.bad(f"a tensor is called {name!r}")
            found[span] = _Constant(Region(name, "uint8", (span[1],), 0, *span))
    _check_overlaps(source, model, list(found))
    return list(found.values())


def _span(model: Model, buffer: int) -> tuple[int, int]:
    """Where the bytes of a buffer lie; (0, 0) where there are none."""
    found = model.buffers[buffer] if buffer < len(model.buffers) else None
    return (found.offset, found.nbytes) if found is not None and found.nbytes else (0, 0)


def _name(source: Source, names: set[str], graph: int, place: int, tensor: Tensor) -> str:
    name = f"subgraph[{graph}]/{tensor.name}" if graph else tensor.name
    if not tensor.name or name in names:
        name = f"{name}#{place}"
    if name in names:
        raise source.bad(f"two tensors are called {name[:80]!r}")
    names.add(name)
    return name


def _region(source: Source, tensor: Tensor, name: str, span: tuple[int, int]) -> Region:
    shape = tensor.shape
    if tensor.sparse and tensor.bits:  # the values that are there; where they go is structure
        if span[1] * 8 % tensor.bits:
            raise source.bad(f"tensor {name[:80]!r} has {span[1]} bytes, no whole number of {tensor.dtype}")
        shape = (span[1] * 8 // tensor.bits,)
    return Region(name, tensor.dtype, shape, 0, *span)


def _check_size(source: Source, tensor: Tensor, nbytes: int) -> None:
    if not tensor.bits or tensor.sparse:  # text has its own; what has no size is refused by its use
        return
    bits = tensor.bits
    for dimension in tensor.shape:
        if dimension < 0:
            raise source.bad(f"the constant {tensor.name[:80]!r} has the shape {tensor.shape}")
        bits *= dimension
        if bits >= 1 << 64:
            raise source.bad(f"tensor {tensor.name[:80]!r} is larger than any memory")
    if -(-bits // 8) != nbytes:
        raise source.bad(
            f"tensor {tensor.name[:80]!r} is {tensor.shape} of {tensor.dtype}, and has {nbytes} bytes instead"
        )


def _check_overlaps(source: Source, model: Model, spans: Sequence[tuple[int, int]]) -> None:
    """Refuse weights that share bytes with each other, with metadata, or with the tables."""
    known = {_span(model, number) for number in (*model.described, *([model.header] if model.header >= 0 else []))}
    ours = [(start, start + nbytes, True) for start, nbytes in {*spans, *known} if nbytes]
    structure = [(start, end, False) for start, end in source.structure()]
    end_of_ours = end_of_structure = 0
    for start, end, weight in sorted([*ours, *structure, (0, FIRST, False)]):
        if start < end_of_ours or (weight and start < end_of_structure):
            raise source.bad(f"two parts of the model share the bytes from {start}")
        if weight:
            end_of_ours = end
        else:
            end_of_structure = max(end_of_structure, end)
