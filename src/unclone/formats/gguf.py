"""GGUF: key-value metadata, tensor infos, aligned tensors (spec/carriers.md, section 5; ggml's docs/gguf.md).

Every tensor is masked; which bits of a block, ``gguf_blocks`` says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import AlreadyBoundError
from unclone.formats.base import (
    METADATA_KEY,
    Copy,
    HeaderPiece,
    Layout,
    Literal,
    Masked,
    Output,
    Piece,
    Weight,
)
from unclone.formats.gguf_blocks import block_pattern
from unclone.formats.gguf_parse import MAGIC, STRING, GgufTensor, Parsed, Reader, parse
from unclone.records import ClearTensor

__all__ = ["Gguf"]

_SCAN: Final = 1 << 20


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
        with Reader(path) as reader:
            parsed = parse(reader)
            if parsed.header is not None:
                raise AlreadyBoundError(f"{path} is bound already; bind the ordinary model instead")
            return GgufDraft(path, parsed, [block_pattern(t.kind, _blocks(reader, t)) for t in parsed.tensors])

    def layout(self, path: Path) -> Layout:
        """Find the header and every tensor.

        Raises:
            FormatError: malformed, truncated or hostile.
        """
        with Reader(path) as reader:
            parsed = parse(reader)
            regions = {tensor.region.name: tensor.region for tensor in parsed.tensors}
            if parsed.header is None:
                return Layout((path,), None, 0, 0, 0, regions)
            offset, length = parsed.header
            return Layout((path,), reader.read(offset, length), 0, offset, length, regions)

    def mend(self, layout: Layout, streams: Sequence[BinaryIO]) -> None:
        """Nothing depends on the weights."""


class GgufDraft:
    """An ordinary GGUF file, taken apart; see ``formats.base.Draft``."""

    def __init__(self, path: Path, parsed: Parsed, patterns: Sequence[bytes | None]) -> None:
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
        entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", STRING, len(header))
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


def _blocks(reader: Reader, tensor: GgufTensor) -> Iterator[NDArray[np.uint8]]:
    """A tensor's blocks, some at a time."""
    kind, region = tensor.kind, tensor.region
    step = max(_SCAN - _SCAN % kind.nbytes, kind.nbytes)
    for done in range(0, region.nbytes, step):
        data = reader.read(region.offset + done, min(step, region.nbytes - done))
        yield np.frombuffer(data, dtype=np.uint8).reshape(-1, kind.nbytes)
