"""ONNX: weights in initialisers, constants, subgraphs, functions and external data (spec/carriers.md, section 4).

Works on the protobuf wire format, without the onnx package: a bound model is its original byte for byte, but for the
masked bytes, the tensors that had to be moved into ``raw_data``, and one metadata entry at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

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
from unclone.formats.onnx_graph import Model
from unclone.formats.onnx_parse import parse_model
from unclone.formats.onnx_tensor import Tensor, embed, external_file, make_external
from unclone.formats.onnx_use import reasons
from unclone.formats.onnx_wire import LEN, VARINT, Edit, Message, Source, apply, field_bytes, varint
from unclone.records import ClearTensor

__all__ = ["PROTOBUF_LIMIT", "Onnx"]

PROTOBUF_LIMIT: Final = 2**31 - 1
_METADATA_PROPS: Final = 14
_DATA_ALIGNMENT: Final = 4096
_SHARING_LIMIT: Final = 4
_TOP: Final = {
    1: VARINT, 2: LEN, 3: LEN, 4: LEN, 5: VARINT, 6: LEN, 7: LEN, 8: LEN, 14: LEN, 20: LEN, 25: LEN, 26: LEN
}  # fmt: skip


class Onnx:
    """The ONNX format."""

    name = "onnx"
    suffixes: tuple[str, ...] = (".onnx",)

    def matches(self, path: Path, head: bytes) -> bool:
        """Whether the top level reads as a ModelProto with a graph (ONNX has no magic number)."""
        if path.suffix.lower() in self.suffixes:
            return True
        if not head or head[0] >> 3 not in _TOP or head[0] & 7 != _TOP[head[0] >> 3]:
            return False
        try:
            with Source(path) as source:
                # Unknown fields may be there; but no other wire format starts like this by chance and ends in time.
                return any(item.number == 7 for item in source.fields(source.root, _TOP))
        except FormatError:
            return False

    def draft(self, path: Path) -> OnnxDraft:
        """Take an ordinary model apart.

        Raises:
            FormatError: malformed, truncated or hostile.
            UnsupportedError: an operator or data type that is not understood, by name.
            AlreadyBoundError: it carries a header of ours.
        """
        with Source(path) as source:
            model = parse_model(source)
            if model.header is not None:
                raise AlreadyBoundError(f"{path} is bound already; bind the ordinary model instead")
            files = _files(source, model)
            return OnnxDraft(source, files, model, reasons(model, path))

    def layout(self, path: Path) -> Layout:
        """Find the header and every tensor whose bytes stand in one piece (in a bound model: all but text).

        Raises:
            FormatError: malformed, truncated or hostile.
        """
        with Source(path) as source:
            model = parse_model(source)
            files = _files(source, model)
            regions = {}
            for name, tensor in model.tensors.items():
                if tensor.storage in ("raw", "external"):
                    file = files[tensor.location] if tensor.storage == "external" else 0
                    regions[name] = Region(name, tensor.dtype, tensor.shape, file, tensor.offset, tensor.nbytes)
            paths = (path, *_paths(source, files))
            if model.header is None:
                return Layout(paths, None, 0, 0, 0, regions)
            offset, length = model.header
            if length > HEADER_LIMIT:
                raise source.bad(f"the header of the bound model is longer than {HEADER_LIMIT} bytes")
            return Layout(paths, source.read(offset, offset + length), 0, offset, length, regions)

    def mend(self, layout: Layout, streams: Sequence[BinaryIO]) -> None:
        """Nothing depends on the weights."""


def _files(source: Source, model: Model) -> dict[str, int]:
    """Location of external data -> index of its file, the model itself being 0; sizes are checked."""
    files: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name, tensor in model.tensors.items():
        if tensor.storage != "external":
            continue
        if tensor.location not in files:
            sizes[tensor.location] = external_file(source, tensor.location).stat().st_size
            files[tensor.location] = len(files) + 1
        if tensor.offset + tensor.nbytes > sizes[tensor.location]:
            raise source.bad(f"external data of tensor {name[:80]!r} ends beyond {tensor.location[:80]!r}")
    return files


def _paths(source: Source, files: dict[str, int]) -> list[Path]:
    return [external_file(source, location) for location in files]


class OnnxDraft:
    """An ordinary ONNX model, taken apart; see ``formats.base.Draft``."""

    def __init__(self, source: Source, files: dict[str, int], model: Model, why: dict[Tensor, str]) -> None:
        self._root: Message = source.root
        self.sources: Sequence[Path] = (source.path, *_paths(source, files))
        ordered = sorted(
            model.tensors.items(),
            key=lambda item: (files.get(item[1].location, 0), item[1].offset, item[1].message.start),
        )
        weights: list[Weight] = []
        clear: list[ClearTensor] = []
        self._places: list[tuple[Tensor, Piece]] = []
        for name, tensor in ordered:
            moved = tensor.data if tensor.storage in ("typed", "attribute") else None
            file = -1 if moved is not None else files.get(tensor.location, 0)
            if not why[tensor]:
                self._places.append((tensor, Masked(len(weights))))
                weights.append(Weight(name, tensor.dtype, tensor.shape, file, tensor.offset, tensor.nbytes, data=moved))
                continue
            clear.append(ClearTensor(name, tensor.dtype, tensor.shape, why[tensor]))
            if moved is not None:
                self._places.append((tensor, Literal(moved)))
            elif tensor.storage == "external":
                self._places.append((tensor, Copy(file, tensor.offset, tensor.nbytes)))
        self.weights: Sequence[Weight] = weights
        self.clear: Sequence[ClearTensor] = clear
        outside = sum(tensor.nbytes for tensor, _ in self._places if tensor.storage == "external")
        if outside > _SHARING_LIMIT * sum(path.stat().st_size for path in self.sources):
            raise UnsupportedError(f"{source.path}: too many tensors share the same external data")

    def outputs(self, output: Path, header: bytes, tag: str) -> Sequence[Output]:
        """The model, and one file ``<model>.<tag>.data`` if it has external data."""
        entry = field_bytes(1, METADATA_KEY.encode()) + varint(2 << 3 | LEN) + varint(len(header))
        entry = varint(_METADATA_PROPS << 3 | LEN) + varint(len(entry) + len(header)) + entry
        metadata: list[Piece] = [Literal(entry), HeaderPiece(header)]
        end = self._root.end
        edits = [Edit(end, end, metadata, len(entry) + len(header), self._root)]
        data: list[Piece] = []
        position = 0
        location = f"{output.name}.{tag}.data"
        for tensor, piece in self._places:
            if tensor.storage != "external":
                edits += embed(tensor, piece)
                continue
            padding = -position % _DATA_ALIGNMENT if tensor.nbytes >= _DATA_ALIGNMENT else -position % 64
            edits += make_external(tensor, location, position + padding)
            data += [Literal(bytes(padding)), piece]
            position += padding + tensor.nbytes
        pieces = apply(self._root, edits, PROTOBUF_LIMIT)
        if pieces is None:
            raise UnsupportedError(
                f"{output}: with our header, the file would pass protobuf's 2 GiB; save the model with external data"
            )
        outputs = [Output(output, pieces)]
        if any(tensor.storage == "external" for tensor, _ in self._places):
            outputs.append(Output(output.parent / location, data))
        return outputs

    def encode_header(self, header: bytes) -> bytes:
        """The header's text as it is."""
        return header

    def finish(self, streams: Sequence[BinaryIO]) -> None:
        """Nothing depends on the masked bytes."""
