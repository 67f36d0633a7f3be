"""TensorProto: what it is, where its bytes lie, and how it is rewritten (onnx.proto, message TensorProto)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import UnsupportedError
from unclone.formats.base import Literal, Piece
from unclone.formats.onnx_wire import FIXED32, FIXED64, LEN, VARINT, Edit, Field, Message, Source, field_bytes, varint

__all__ = [
    "DTYPES",
    "DTYPE_NUMBERS",
    "Tensor",
    "embed",
    "external_file",
    "make_external",
    "parse_tensor",
    "tensor_bytes",
]

DTYPES: Final = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    8: ("string", 0),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    14: ("complex64", 64),
    15: ("complex128", 128),
    16: ("bfloat16", 16),
    17: ("float8_e4m3fn", 8),
    18: ("float8_e4m3fnuz", 8),
    19: ("float8_e5m2", 8),
    20: ("float8_e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4_e2m1", 4),
    24: ("float8_e8m0", 8),
    25: ("uint2", 2),
    26: ("int2", 2),
}
"""TensorProto.DataType -> our dtype name, bits of one element."""

DTYPE_NUMBERS: Final = {name: number for number, (name, _) in DTYPES.items()}

_DIMS, _TYPE, _SEGMENT, _STRINGS, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 3, 6, 8, 9, 13, 14
_FLOATS, _INT32S, _INT64S, _DOUBLES, _UINT64S = 4, 5, 7, 10, 11
_WIRES: Final = {
    _DIMS: VARINT, _TYPE: VARINT, _SEGMENT: LEN, _FLOATS: FIXED32, _INT32S: VARINT, _STRINGS: LEN, _INT64S: VARINT,
    _NAME: LEN, _RAW: LEN, _DOUBLES: FIXED64, _UINT64S: VARINT, _EXTERNAL: LEN, _LOCATION: VARINT,
}  # fmt: skip
_TYPED: Final = {
    "float32": _FLOATS, "complex64": _FLOATS, "float64": _DOUBLES, "complex128": _DOUBLES, "int64": _INT64S,
    "uint32": _UINT64S, "uint64": _UINT64S,
}  # fmt: skip
_ONCE: Final = frozenset([_TYPE, _SEGMENT, _NAME, _RAW, _LOCATION])
_VARINT_BLOCK: Final = 1 << 20
_RANK_LIMIT: Final = 64
_SCALAR_BYTES: Final = 8


@dataclass(slots=True, eq=False)
class Tensor:
    """One tensor of a model.

    Attributes:
        message: its TensorProto; for ``value_float`` and its like, the whole AttributeProto.
        name: its own name, often empty.
        dtype: dtype name.
        shape: dimensions.
        nbytes: bytes of its elements.
        storage: ``raw`` (in the file at ``offset``), ``typed`` (``data`` holds the converted bytes), ``external`` (in
            ``location`` at ``offset``), ``attribute`` (a scalar or list attribute, in ``data``), or ``none`` (text, or
            empty).
        replaced: fields that a rewriting drops.
    """

    message: Message
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    storage: str = "none"
    offset: int = 0
    location: str = ""
    data: bytes | None = field(default=None, repr=False)
    replaced: list[Field] = field(default_factory=list, repr=False)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=object)) if self.shape else 1


def parse_tensor(source: Source, message: Message) -> Tensor:
    """Read a TensorProto.

    Raises:
        FormatError: malformed, or its size is not what its shape says.
        UnsupportedError: an unknown dtype, or a segmented tensor.
    """
    seen: dict[int, list[Field]] = {}
    for item in source.fields(message, _WIRES):
        if item.number in _ONCE and item.number in seen:
            raise source.bad(f"the tensor at byte {message.start} has field {item.number} twice")
        if item.number in _WIRES:
            seen.setdefault(item.number, []).append(item)
    name = source.text(seen[_NAME][0]) if _NAME in seen else ""
    if _SEGMENT in seen:
        raise UnsupportedError(
            f"{source.path}: tensor {name[:80]!r} is stored in segments, which nobody writes any more"
        )
    number = seen[_TYPE][0].value if _TYPE in seen else 0
    if number not in DTYPES:
        raise UnsupportedError(f"{source.path}: tensor {name[:80]!r} has the unknown data type {number}")
    dtype, bits = DTYPES[number]
    shape = tuple(int(size) for size in _numbers(source, seen.get(_DIMS, [])).view(np.int64))
    if len(shape) > _RANK_LIMIT:
        raise source.bad(f"tensor {name[:80]!r} has {len(shape)} dimensions")
    elements = 1
    for size in shape:
        if size < 0:
            raise source.bad(f"tensor {name[:80]!r} has a negative dimension")
        elements *= size
        if elements > 1 << 56:
            raise source.bad(f"tensor {name[:80]!r} is larger than any memory")
    tensor = Tensor(message, name, dtype, shape, -(-elements * bits // 8))
    _locate(source, tensor, seen)
    return tensor


def _locate(source: Source, tensor: Tensor, seen: dict[int, list[Field]]) -> None:
    typed = [number for number in (_FLOATS, _INT32S, _STRINGS, _INT64S, _DOUBLES, _UINT64S) if number in seen]
    external = _LOCATION in seen and seen[_LOCATION][0].value == 1
    label = f"tensor {tensor.name[:80]!r} at byte {tensor.message.start}"
    if len(typed) + (_RAW in seen) + external > 1:
        raise source.bad(f"{label} has its data in two places")
    if tensor.dtype == "string":
        if _RAW in seen or external:
            raise source.bad(f"{label} holds text as raw data")
        return
    if external:
        tensor.replaced = [*seen.get(_EXTERNAL, []), *seen[_LOCATION]]
        _read_external(source, tensor, seen.get(_EXTERNAL, []))
    elif _RAW in seen:
        tensor.storage, tensor.offset, tensor.replaced = "raw", seen[_RAW][0].body, seen[_RAW]
        if seen[_RAW][0].end - seen[_RAW][0].body != tensor.nbytes:
            raise source.bad(f"{label} of shape {list(tensor.shape)} does not have {tensor.nbytes} bytes of data")
        if tensor.nbytes <= _SCALAR_BYTES:
            tensor.data = source.read(tensor.offset, tensor.offset + tensor.nbytes)
    elif typed:
        if typed != [_TYPED.get(tensor.dtype, _INT32S)]:
            raise source.bad(f"{label} has data of another type than its own")
        tensor.storage, tensor.replaced = "typed", [*seen[typed[0]], *seen.get(_LOCATION, [])]
        tensor.data = _typed_bytes(source, tensor, typed[0], seen[typed[0]])
        if len(tensor.data) != tensor.nbytes:
            raise source.bad(f"{label} of shape {list(tensor.shape)} has another number of elements")
    elif tensor.nbytes:
        raise source.bad(f"{label} has no data")


def _typed_bytes(source: Source, tensor: Tensor, number: int, fields: list[Field]) -> bytes:
    """The bytes that ``raw_data`` would hold; sub-byte types are packed in the typed field already."""
    if number in (_FLOATS, _DOUBLES):
        width = 4 if number == _FLOATS else 8
        if any((item.end - item.body) % width for item in fields):
            raise source.bad(f"tensor {tensor.name[:80]!r} has broken packed numbers")
        return b"".join(source.read(item.body, item.end) for item in fields)
    width = min(8, max(1, DTYPES[DTYPE_NUMBERS[tensor.dtype]][1] // 8))
    return _numbers(source, fields, width).tobytes()


def _numbers(source: Source, fields: list[Field], width: int = 8) -> NDArray[np.uint64]:
    """Varints of repeated or packed fields, their low ``width`` bytes, as unsigned little-endian words."""
    parts: list[NDArray[np.uint64]] = []
    single: list[int] = []
    for item in fields:
        if item.wire == VARINT:
            single.append(item.value)
            continue
        if single:
            parts.append(np.array(single, dtype=np.uint64).astype(f"<u{width}"))
            single = []
        data = np.frombuffer(source.varints(item.body, item.end), dtype=np.uint8)
        start = 0
        while start < data.size:
            stop = min(start + _VARINT_BLOCK, data.size)
            while data[stop - 1] & 0x80:
                stop += 1
            parts.append(_decode_varints(source, data[start:stop]).astype(f"<u{width}"))
            start = stop
    if single:
        parts.append(np.array(single, dtype=np.uint64).astype(f"<u{width}"))
    return np.concatenate(parts) if parts else np.zeros(0, dtype=f"<u{width}")


def _decode_varints(source: Source, data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    ends = np.flatnonzero(data < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 10 or (data[ends[lengths == 10]] > 1).any():
        raise source.bad("a packed number has more than 64 bits")
    places = np.arange(data.size) - np.repeat(starts, lengths)
    parts = (data & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.bitwise_or.reduceat(parts, starts)


def _read_external(source: Source, tensor: Tensor, fields: list[Field]) -> None:
    entries: dict[str, str] = {}
    for item in fields:
        key = value = ""
        for part in source.fields(source.message(item, tensor.message), {1: LEN, 2: LEN}):
            if part.number == 1:
                key = source.text(part)
            elif part.number == 2:
                value = source.text(part)
        if key in entries:
            raise source.bad(f"tensor {tensor.name[:80]!r} has {key[:40]!r} of its external data twice")
        entries[key] = value
    location = entries.get("location", "")
    numbers = {}
    for key in ("offset", "length"):
        text = entries.get(key, "0" if key == "offset" else str(tensor.nbytes))
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise source.bad(f"tensor {tensor.name[:80]!r} has the {key} {text[:40]!r}")
        numbers[key] = int(text)
    if numbers["length"] != tensor.nbytes:
        raise source.bad(f"tensor {tensor.name[:80]!r} has {numbers['length']} bytes outside and needs {tensor.nbytes}")
    tensor.storage, tensor.location, tensor.offset = "external", location, numbers["offset"]


def external_file(source: Source, location: str) -> Path:
    """The file of external data, which must lie in the model's folder or below.

    Raises:
        FormatError: it is missing, no ordinary file, or elsewhere: absolute, by ``..``, or by a symbolic link.
    """
    parts = location.split("/")
    if not location or location.startswith("/") or "\\" in location or ":" in location or "\0" in location:
        raise source.bad(f"external data at {location[:80]!r}: only a path inside the model's folder is read")
    if ".." in parts:
        raise source.bad(f"external data at {location[:80]!r} would leave the model's folder")
    folder = Path(os.path.realpath(source.path.parent))
    try:
        file = Path(os.path.realpath(folder / location))
        if not file.is_relative_to(folder):
            raise source.bad(f"external data at {location[:80]!r} leaves the model's folder by a link")
        if not file.is_file():
            raise source.bad(f"external data {location[:80]!r} is missing or no ordinary file")
    except OSError as problem:
        raise source.bad(f"external data at {location[:80]!r}: {problem.strerror}") from None
    return file


def _dropped(tensor: Tensor) -> list[Edit]:
    return [Edit(item.start, item.end, (), 0, tensor.message) for item in tensor.replaced]


def embed(tensor: Tensor, piece: Piece) -> list[Edit]:
    """Edits that put the tensor's bytes (``piece``, ``nbytes`` long) into ``raw_data``, wherever they were."""
    end = tensor.message.end
    if tensor.storage == "raw":
        return [Edit(tensor.offset, tensor.offset + tensor.nbytes, [piece], tensor.nbytes, tensor.message)]
    if tensor.storage == "attribute":
        before = tensor_bytes(tensor)
        before += varint(_RAW << 3 | LEN) + varint(tensor.nbytes)
        # AttributeProto: name "value", type TENSOR, t.
        head = field_bytes(1, b"value") + field_bytes(20, 4)
        head += varint(5 << 3 | LEN) + varint(len(before) + tensor.nbytes) + before
        return [Edit(tensor.message.body, end, [Literal(head), piece], len(head) + tensor.nbytes, tensor.message)]
    head = varint(_RAW << 3 | LEN) + varint(tensor.nbytes)
    return [*_dropped(tensor), Edit(end, end, [Literal(head), piece], len(head) + tensor.nbytes, tensor.message)]


def make_external(tensor: Tensor, location: str, offset: int) -> list[Edit]:
    """Edits that take a raw tensor's bytes out, or leave an external one's, and point it at ``location``."""
    entries = {"location": location, "offset": str(offset), "length": str(tensor.nbytes)}
    data = b"".join(
        field_bytes(_EXTERNAL, field_bytes(1, key.encode()) + field_bytes(2, value.encode()))
        for key, value in entries.items()
    )
    data += field_bytes(_LOCATION, 1)
    end = tensor.message.end
    return [*_dropped(tensor), Edit(end, end, [Literal(data)], len(data), tensor.message)]


def tensor_bytes(tensor: Tensor) -> bytes:
    """The fields of a TensorProto before its data: dims and data type."""
    dims = b"".join(field_bytes(_DIMS, size) for size in tensor.shape)
    return dims + field_bytes(_TYPE, DTYPE_NUMBERS[tensor.dtype])
