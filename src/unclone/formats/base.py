"""What a format tells the binder: where the weights lie, and how the header is carried. No cryptography here.

Binding    ``Format.draft(path)`` -> ``Draft``: the weights, what stays in clear, and each output file as a list of
           pieces, so that a model is streamed and never held in memory.
Restoring  ``Format.layout(path)`` -> ``Layout``: where the header and every tensor lie in a bound file.

A format refuses what it does not understand, by name; it never leaves a weight out in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from unclone.records import ClearTensor

__all__ = [
    "HEADER_LIMIT",
    "METADATA_KEY",
    "Copy",
    "Draft",
    "Format",
    "HeaderPiece",
    "Layout",
    "Literal",
    "Masked",
    "Output",
    "Piece",
    "Region",
    "Weight",
]

METADATA_KEY: Final = "unclone"
"""Name of the metadata entry that carries the header."""

HEADER_LIMIT: Final = 32 * 2**20
"""A header longer than this many bytes is refused before it is read."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor to be masked.

    Attributes:
        name: unique within the model.
        dtype: lower-case dtype name (``mask.DTYPES``), or the format's block type, for example ``"q8_0"``.
        shape: dimensions.
        source: index into ``Draft.sources``, or ``-1`` where ``data`` holds the bytes.
        offset: first byte in the source.
        nbytes: length in bytes, in the source and in the output.
        pattern: the ``finite`` bit pattern, where the format knows it (block types); else ``None``: from the dtype.
        data: the bytes of a small tensor that had to be rewritten (for example typed ONNX fields as raw data).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: int
    offset: int
    nbytes: int
    pattern: bytes | None = None
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes written as they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Copy:
    """A range of a source file written as it is."""

    source: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Masked:
    """The masked bytes of ``Draft.weights[weight]``; each weight stands in exactly one piece."""

    weight: int


@dataclass(frozen=True, slots=True)
class HeaderPiece:
    """Room for the header: a placeholder, replaced by ``Draft.encode_header`` of the same length at the end."""

    placeholder: bytes


Piece = Literal | Copy | Masked | HeaderPiece


@dataclass(frozen=True, slots=True)
class Output:
    """One output file; exactly one piece of one output is a ``HeaderPiece``."""

    path: Path
    pieces: Sequence[Piece]


class Draft(Protocol):
    """An ordinary model, taken apart for binding."""

    @property
    def sources(self) -> Sequence[Path]:
        """Files that pieces copy from, the model itself first."""
        ...

    @property
    def weights(self) -> Sequence[Weight]:
        """The tensors to mask, in file order."""
        ...

    @property
    def clear(self) -> Sequence[ClearTensor]:
        """The tensors left in clear, each with its reason."""
        ...

    def outputs(self, output: Path, header: bytes, tag: str) -> Sequence[Output]:
        """The files to write, the model itself (``output``) first.

        Args:
            output: where the bound model goes.
            header: canonical header text with zero tags: final in length, not in content.
            tag: 8 hex digits, fresh for this binding, for the names of side files (``model.onnx.<tag>.data``).
        """
        ...

    def encode_header(self, header: bytes) -> bytes:
        """The header as it stands in the file; same length for texts that differ only in tags, digests and MAC."""
        ...

    def finish(self, streams: Sequence[BinaryIO]) -> None:
        """Mend what depends on the masked bytes (checksums) in the written outputs, before they are digested."""
        ...


@dataclass(frozen=True, slots=True)
class Region:
    """Where a tensor lies in a model file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A model file as it lies.

    Attributes:
        files: the model itself first, then its side files.
        header: header text, or ``None`` for a model that is not bound.
        header_file: index into ``files``.
        header_offset: first byte of the encoded header text.
        header_nbytes: its length as encoded in the file.
        regions: every tensor whose bytes stand in one piece, masked or not, by name; in a bound model that is every
            tensor but text and empty ones.
    """

    files: tuple[Path, ...]
    header: bytes | None
    header_file: int
    header_offset: int
    header_nbytes: int
    regions: dict[str, Region]


class Format(Protocol):
    """One model file format."""

    name: str
    suffixes: tuple[str, ...]

    def matches(self, path: Path, head: bytes) -> bool:
        """Whether a file that starts with ``head`` (up to 4 KiB) looks like this format."""
        ...

    def draft(self, path: Path) -> Draft:
        """Take an ordinary model apart.

        Raises:
            FormatError: malformed, truncated or hostile.
            UnsupportedError: something this release does not understand, named.
            AlreadyBoundError: bound already.
        """
        ...

    def layout(self, path: Path) -> Layout:
        """Find the header and every tensor. Bounds are checked against the real file sizes before anything is used.

        Raises:
            FormatError: malformed, truncated or hostile.
        """
        ...

    def mend(self, layout: Layout, streams: Sequence[BinaryIO]) -> None:
        """Mend what depends on the weights (checksums) in a restored image: the files with their true weights."""
        ...
