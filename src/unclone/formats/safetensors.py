"""safetensors: 8 bytes of header length, a JSON header, the tensors (spec/carriers.md, section 2).

Every float and integer tensor is masked, also where an ordinary tool would not miss it: when in doubt, mask. Left in
clear, each with its reason: booleans, and integer buffers that are by name indices or counters rather than weights
(``CLEAR_NAMES``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

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

__all__ = ["CLEAR_NAMES", "DTYPES", "Parsed", "Safetensors", "clear_reason", "escape", "parse", "parse_json"]

_LENGTH_BYTES: Final = 8
_JSON_LIMIT: Final = 100_000_000  # the limit of the safetensors library
_ALIGNMENT: Final = 64  # a cache line: ciphers and XORs run faster on the mapped file
_METADATA: Final = "__metadata__"
_PREFIX: Final = json.dumps({_METADATA: {METADATA_KEY: ""}}, separators=(",", ":"))[:-3].encode()

DTYPES: Final = {
    "BOOL": ("bool", 8),
    "F4": ("float4_e2m1", 4),
    "F6_E2M3": ("float6_e2m3", 6),
    "F6_E3M2": ("float6_e3m2", 6),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "C64": ("complex64", 64),
    "F64": ("float64", 64),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
}
"""The file's dtype name -> our dtype name, bits of one element."""

CLEAR_NAMES: Final = frozenset(
    ["position_ids", "token_type_ids", "num_batches_tracked", "g_idx", "relative_position_index"]
)
"""Last part of the name of an integer buffer that is no weight."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A header that was checked, and where the tensors start."""

    metadata: dict[str, str] | None
    tensors: dict[str, dict[str, Any]]
    regions: dict[str, Region]
    data_start: int
    raw: bytes


class Safetensors:
    """The safetensors format."""

    name = "safetensors"
    suffixes: tuple[str, ...] = (".safetensors",)

    def matches(self, path: Path, head: bytes) -> bool:
        """Whether the file starts with a plausible length and a JSON object."""
        length = int.from_bytes(head[:_LENGTH_BYTES], "little")
        if head[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{":
            return False
        # A hostile length is still safetensors, so that the parser names what is wrong with it.
        return path.suffix.lower() in self.suffixes or length <= path.stat().st_size - _LENGTH_BYTES

    def draft(self, path: Path) -> SafetensorsDraft:
        """Take an ordinary file apart.

        Raises:
            FormatError: malformed, truncated or hostile.
            AlreadyBoundError: it carries a header of ours.
        """
        parsed = parse(path)
        if METADATA_KEY in (parsed.metadata or {}):
            raise AlreadyBoundError(f"{path} is bound already; bind the ordinary model instead")
        return SafetensorsDraft(path, parsed)

    def layout(self, path: Path) -> Layout:
        """Find the header and every tensor.

        Raises:
            FormatError: malformed, truncated or hostile.
        """
        parsed = parse(path)
        text = (parsed.metadata or {}).get(METADATA_KEY)
        if text is None:
            return Layout((path,), None, 0, 0, 0, parsed.regions)
        encoded = escape(text.encode())
        if not parsed.raw.startswith(_PREFIX + encoded + b'"'):
            raise FormatError(
                f"{path}: the header of a bound model is not in its place; another program rewrote the file"
            )
        if len(text) > HEADER_LIMIT:
            raise FormatError(f"{path}: the header of the bound model is longer than {HEADER_LIMIT} bytes")
        offset = _LENGTH_BYTES + len(_PREFIX)
        return Layout((path,), text.encode(), 0, offset, len(encoded), parsed.regions)

    def mend(self, layout: Layout, streams: Sequence[BinaryIO]) -> None:
        """Nothing depends on the weights."""


class SafetensorsDraft:
    """An ordinary safetensors file, taken apart; see ``formats.base.Draft``."""

    def __init__(self, path: Path, parsed: Parsed) -> None:
        self._parsed = parsed
        self.sources: Sequence[Path] = (path,)
        weights: list[Weight] = []
        clear: list[ClearTensor] = []
        self._order: list[tuple[Region, int | None]] = []
        for region in sorted(parsed.regions.values(), key=lambda item: (item.offset, item.nbytes)):
            reason = clear_reason(region)
            if reason:
                clear.append(ClearTensor(region.name, region.dtype, region.shape, reason))
                self._order.append((region, None))
            else:
                self._order.append((region, len(weights)))
                weights.append(Weight(region.name, region.dtype, region.shape, 0, region.offset, region.nbytes))
        self.weights: Sequence[Weight] = weights
        self.clear: Sequence[ClearTensor] = clear

    def outputs(self, output: Path, header: bytes, tag: str) -> Sequence[Output]:  # noqa: ARG002 (no side files)
        """One file: our header first in the metadata, everything else as it was."""
        tail = {_METADATA: self._parsed.metadata or {}, **self._parsed.tensors}
        text = json.dumps(tail, ensure_ascii=False, separators=(",", ":"))
        # `{"__metadata__":{` is replaced by the same with our member before the others.
        rest = text[len(_PREFIX) - len(f'"{METADATA_KEY}":"') :].encode()
        rest = b'"' + (b"," if self._parsed.metadata else b"") + rest
        encoded = escape(header)
        length = len(_PREFIX) + len(encoded) + len(rest)
        padding = -length % _ALIGNMENT
        if length + padding > _JSON_LIMIT:
            raise UnsupportedError(
                f"{output}: with our header, the file's would pass {_JSON_LIMIT} bytes; shard the model"
            )
        start = (length + padding).to_bytes(_LENGTH_BYTES, "little") + _PREFIX
        pieces: list[Piece] = [Literal(start), HeaderPiece(encoded), Literal(rest + b" " * padding)]
        pieces += [
            Copy(0, region.offset, region.nbytes) if weight is None else Masked(weight)
            for region, weight in self._order
        ]
        return (Output(output, pieces),)

    def encode_header(self, header: bytes) -> bytes:
        """The header's text inside a JSON string."""
        return escape(header)

    def finish(self, streams: Sequence[BinaryIO]) -> None:
        """Nothing depends on the masked bytes."""


def clear_reason(region: Region) -> str:
    """Why a tensor stays in clear; empty for a weight."""
    if region.dtype == "bool":
        return "boolean"
    if "int" in region.dtype and region.name.rsplit(".", 1)[-1] in CLEAR_NAMES:
        return "index or counter, by its name"
    return ""


def escape(text: bytes) -> bytes:
    """The inside of a JSON string; ASCII in, ASCII out."""
    return json.dumps(text.decode())[1:-1].encode("ascii")


def parse(path: Path) -> Parsed:
    """The header of a file, checked against the file's size.

    Raises:
        FormatError: malformed, truncated or hostile.
    """
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            start = stream.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            if len(start) < _LENGTH_BYTES:
                raise FormatError(f"{path} is truncated: {size} bytes hold no safetensors header")
            if length > _JSON_LIMIT:
                raise FormatError(f"{path}: a header of {length} bytes is over the limit of {_JSON_LIMIT}")
            if length > size - _LENGTH_BYTES:
                raise FormatError(f"{path} is truncated: its header has {length} bytes, the file {size}")
            raw = stream.read(length)
    except OSError as problem:
        raise FormatError(f"cannot read {path}: {problem.strerror}") from None
    value = parse_json(path, raw)
    metadata = value.pop(_METADATA, None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(item, str) for item in metadata.values())
    ):
        raise FormatError(f"{path}: {_METADATA} is not a map of strings")
    data_start = _LENGTH_BYTES + length
    regions = {name: _region(path, name, entry, data_start) for name, entry in value.items()}
    _check_contiguous(path, regions, data_start, size)
    return Parsed(metadata, value, regions, data_start, raw)


def parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    """A JSON object in which no name stands twice.

    Raises:
        FormatError: it is none.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise FormatError(f"{path}: a name stands twice in the header")
        return value

    if not raw.startswith(b"{"):
        raise FormatError(f"{path}: the safetensors header does not start with {{")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8
    except FormatError:
        raise
    except (ValueError, RecursionError) as problem:
        raise FormatError(f"{path}: the safetensors header is no JSON: {type(problem).__name__}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path}: the safetensors header is no JSON object")
    return value


def _region(path: Path, name: str, entry: Any, data_start: int) -> Region:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{path}: tensor {name[:80]!r} needs exactly dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise UnsupportedError(f"{path}: tensor {name[:80]!r} has the unknown dtype {str(kind)[:40]!r}")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{path}: tensor {name[:80]!r} has a malformed shape or offsets")
    dtype, width = DTYPES[kind]
    bits = width
    for dimension in shape:
        bits *= dimension
        if bits >= 1 << 64:
            raise FormatError(f"{path}: tensor {name[:80]!r} is larger than any memory")
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise FormatError(
            f"{path}: tensor {name[:80]!r} is {shape} of {kind}, and has {offsets[1] - offsets[0]} bytes instead"
        )
    return Region(name, dtype, tuple(shape), 0, data_start + offsets[0], offsets[1] - offsets[0])


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _check_contiguous(path: Path, regions: dict[str, Region], data_start: int, size: int) -> None:
    position = data_start
    for region in sorted(regions.values(), key=lambda item: (item.offset, item.nbytes)):
        if region.offset != position:
            what = "overlaps another" if region.offset < position else "leaves a hole before it"
            raise FormatError(f"{path}: tensor {region.name[:80]!r} {what}")
        position += region.nbytes
    if position != size:
        what = "truncated" if position > size else "followed by bytes that belong to no tensor"
        raise FormatError(f"{path} is {what}: its tensors end at byte {position}, the file at {size}")
