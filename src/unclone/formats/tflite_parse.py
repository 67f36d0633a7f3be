"""Reads a TensorFlow Lite model: graphs, tensors, buffers and metadata, strictly (schema.fbs, version 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from unclone.formats.base import HEADER_LIMIT, METADATA_KEY
from unclone.formats.tflite_ops import OPERATORS
from unclone.formats.tflite_wire import Source, Table, Vector

__all__ = ["DTYPES", "FIRST", "IDENTIFIER", "Buffer", "Graph", "Model", "Operator", "Root", "Tensor", "parse"]

IDENTIFIER: Final = b"TFL3"
FIRST: Final = 8
"""The first byte after the root's offset and the identifier."""

DTYPES: Final = {
    0: ("float32", 32), 1: ("float16", 16), 2: ("int32", 32), 3: ("uint8", 8), 4: ("int64", 64), 5: ("string", 0),
    6: ("bool", 8), 7: ("int16", 16), 8: ("complex64", 64), 9: ("int8", 8), 10: ("float64", 64),
    11: ("complex128", 128), 12: ("uint64", 64), 15: ("uint32", 32), 16: ("uint16", 16), 17: ("int4", 4),
    18: ("bfloat16", 16), 19: ("int2", 2), 20: ("uint4", 4), 21: ("float8_e4m3fn", 8), 22: ("float8_e5m2", 8),
}  # fmt: skip
"""TensorType -> our dtype name, bits of one element. RESOURCE and VARIANT have no constants."""

_VERSION: Final = 3
_NAME_LIMIT: Final = 4096
_RANK_LIMIT: Final = 64
_SIZE_LIMIT: Final = 1 << 56
_CUSTOM: Final = OPERATORS.index("CUSTOM")
_COMPOSITE: Final = OPERATORS.index("STABLEHLO_COMPOSITE")
_BLOCKWISE: Final = 2
# Fields that the schema gives each table: more than these are a newer schema's.
_MODEL, _GRAPH, _TENSOR, _OPERATOR, _CODE, _BUFFER, _METADATA = 10, 6, 11, 14, 4, 3, 2
_QUANTIZATION, _BLOCKS, _COMPOSITE_OPTIONS = 7, 4, 5


@dataclass(frozen=True, slots=True)
class Buffer:
    """Where a buffer's bytes lie; ``pointer`` is the place of its ``offset`` field where they are outside the
    flatbuffer, else 0."""

    offset: int
    nbytes: int
    pointer: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor, constant or not; ``parameters`` are the tensors that hold its scales and zero points."""

    name: str
    dtype: str
    bits: int
    shape: tuple[int, ...]
    buffer: int
    sparse: bool
    quantised: bool
    parameters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator: its name (``custom:<code>`` for custom ones), tensors, and bytes of free options."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: int
    condition: int = -1


@dataclass(frozen=True, slots=True)
class Graph:
    """A subgraph."""

    tensors: list[Tensor]
    operators: list[Operator]


@dataclass(frozen=True, slots=True)
class Root:
    """What the root table holds: scalars, and where its offset fields lead, by field number."""

    version: int
    targets: dict[int, int]
    buffers: list[int]
    metadata: list[int]


@dataclass(frozen=True, slots=True)
class Model:
    """A model. ``header`` is the number of the buffer that holds ours, or -1; ``described`` the buffers that other
    metadata name, ``notes`` their names."""

    root: Root
    graphs: list[Graph]
    buffers: list[Buffer]
    described: frozenset[int]
    notes: frozenset[str]
    header: int


def parse(source: Source) -> Model:
    """Read everything but the bytes of the buffers.

    Raises:
        FormatError: malformed, truncated or hostile.
        UnsupportedError: a version, operator or layout that is not understood, by name.
    """
    start = source.read(0, min(FIRST, source.size))
    if len(start) < FIRST or start[4:] != IDENTIFIER:
        raise source.bad("not a TensorFlow Lite model")
    position = source.follow(0)
    if position < FIRST:
        raise source.bad("its root table lies over its identifier")
    top = Table(source, position, _MODEL)
    root = _root(source, top)
    buffers = [_buffer(source, Table(source, at, _BUFFER)) for at in root.buffers]
    codes = [_code(source, table) for table in top.tables(1, _CODE)]
    graphs = [_graph(source, table, codes, len(buffers)) for table in top.tables(2, _GRAPH)]
    names = [_metadata(source, Table(source, at, _METADATA), len(buffers)) for at in root.metadata]
    headers = [number for name, number in names if name == METADATA_KEY]
    if len(headers) > 1:
        raise source.bad("the header of a bound model stands twice")
    described = {number for name, number in names if name != METADATA_KEY}
    described.update(number for number in top.numbers(5, signed=False) if number < len(buffers))
    header = headers[0] if headers else -1
    if headers:
        _check_header(source, buffers, graphs, header)
    return Model(root, graphs, buffers, frozenset(described), frozenset(name for name, _ in names), header)


def _root(source: Source, top: Table) -> Root:
    version = top.number(0, 4)
    if version != _VERSION:
        raise source.unsupported(f"TensorFlow Lite schema version {version}; version {_VERSION} is read")
    for number, what in ((8, "groups of external buffers"), (9, "external buffers")):
        found = top.vector(number)
        if found is not None and found.count:
            raise source.unsupported(f"the model has {what}; save it with its buffers inside")
    targets = {number: target for number in range(1, _MODEL) if (target := top.target(number))}
    buffers, metadata = top.vector(4), top.vector(6)
    return Root(version, targets, buffers.targets() if buffers else [], metadata.targets() if metadata else [])


def _buffer(source: Source, table: Table) -> Buffer:
    offset, nbytes = table.number(1, 8), table.number(2, 8)
    data: Vector | None = table.vector(0, 1, data=True)
    if offset > 1:  # 0 and 1 say that the buffer is inside
        if data is not None and data.count:
            raise source.bad(f"the buffer at byte {table.position} has bytes in two places")
        if offset < FIRST or offset + nbytes > source.size:
            raise source.bad(f"is truncated or malformed: a buffer of {nbytes} bytes at byte {offset}")
        return Buffer(offset, nbytes, table.place(1, 8))
    return Buffer(data.start, data.count) if data is not None else Buffer(0, 0)


def _code(source: Source, table: Table) -> str:
    number = max(table.number(0, 1, signed=True), table.number(3, 4, signed=True))
    if number == _CUSTOM:
        return f"custom:{table.text(1, _NAME_LIMIT)}"
    if not 0 <= number < len(OPERATORS):
        raise source.unsupported(f"built-in operator number {number} is not known to this release")
    return OPERATORS[number]


def _graph(source: Source, table: Table, codes: list[str], buffers: int) -> Graph:
    tensors = [_tensor(source, item, buffers) for item in table.tables(0, _TENSOR)]
    operators = [_operator(source, item, codes, len(tensors)) for item in table.tables(3, _OPERATOR)]
    if any(number >= len(tensors) for tensor in tensors for number in tensor.parameters):
        raise source.bad("scales of a tensor are in a tensor that is not there")
    return Graph(tensors, operators)


def _tensor(source: Source, table: Table, buffers: int) -> Tensor:
    name = table.text(3, _NAME_LIMIT)
    shape = table.numbers(0)
    if len(shape) > _RANK_LIMIT:
        raise source.bad(f"tensor {name[:80]!r} has {len(shape)} dimensions")
    number = table.number(1, 1, signed=True)
    dtype, bits = DTYPES.get(number, (f"type {number}", 0))
    buffer = table.number(2, 4)
    if buffer >= buffers and buffer:
        raise source.bad(f"tensor {name[:80]!r} is in buffer {buffer} of {buffers}")
    if table.number(10, 4):
        raise source.unsupported(
            f"tensor {name[:80]!r} is in an external buffer; save the model with its buffers inside"
        )
    details = table.table(4, _QUANTIZATION)
    parameters: tuple[int, ...] = ()
    quantised = False
    if details is not None:
        scales = details.vector(2, data=True)
        quantised = details.number(4, 1) != 0 or (scales is not None and scales.count > 0)
        if details.number(4, 1) == _BLOCKWISE:
            blocks = details.table(5, _BLOCKS)
            places = (blocks.number(place, 4, -1, signed=True) for place in (0, 1)) if blocks else ()
            parameters = tuple(place for place in places if place >= 0)
    return Tensor(name, dtype, bits, shape, buffer, table.target(6) != 0, quantised, parameters)


def _operator(source: Source, table: Table, codes: list[str], tensors: int) -> Operator:
    number = table.number(0, 4)
    if number >= len(codes):
        raise source.bad(f"an operator has code {number} of {len(codes)}")
    name = codes[number]
    if table.number(9, 8) > 1 or table.number(10, 8):
        raise source.unsupported(f"operator {name[:80]} keeps its options outside the model's tables")
    inputs, outputs = table.numbers(1), table.numbers(2)
    if any(not -1 <= item < tensors for item in (*inputs, *outputs, *table.numbers(8))):
        raise source.bad(f"operator {name[:80]} names a tensor that is not there")
    custom = table.vector(5, 1, data=True)
    options = custom.count if custom else 0
    condition = -1
    if name == OPERATORS[_COMPOSITE]:
        composite = table.table(12, _COMPOSITE_OPTIONS)
        attributes = composite.vector(2, 1, data=True) if composite else None
        options += attributes.count if attributes else 0
    elif name in ("WHILE", "STABLEHLO_WHILE"):
        settings = table.table(4 if name == "WHILE" else 12, 2)
        condition = settings.number(0, 4, signed=True) if settings else -1
    return Operator(name, inputs, outputs, options, condition)


def _metadata(source: Source, table: Table, buffers: int) -> tuple[str, int]:
    name, buffer = table.text(0, _NAME_LIMIT), table.number(1, 4)
    if buffer >= buffers:
        raise source.bad(f"metadata {name[:80]!r} is in buffer {buffer} of {buffers}")
    return name, buffer


def _check_header(source: Source, buffers: list[Buffer], graphs: list[Graph], number: int) -> None:
    if buffers[number].nbytes > HEADER_LIMIT:
        raise source.bad(f"the header of the bound model is longer than {HEADER_LIMIT} bytes")
    if buffers[number].pointer or any(tensor.buffer == number for graph in graphs for tensor in graph.tensors):
        raise source.bad("the header of the bound model is not in its place; another program rewrote the file")
