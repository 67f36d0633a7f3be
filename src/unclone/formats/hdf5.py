"""HDF5, as Keras writes it, weights and older whole models, and other files of arrays (spec/carriers.md, section 9).

The header lies in a user block, before the first byte of the ordinary file. An ordinary file is parsed by the HDF5
library in a process of its own (``hdf5_child``); a bound one by its user block alone (``hdf5_block``), so that nothing
is given to the library before it is verified.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from unclone.errors import AlreadyBoundError, FormatError
from unclone.formats.base import Copy, HeaderPiece, Layout, Literal, Masked, Output, Piece, Region, Weight
from unclone.formats.hdf5_block import MAGIC, SIGNATURE, build, parse
from unclone.formats.hdf5_child import tree_apart
from unclone.formats.hdf5_tree import Dataset
from unclone.formats.keras_config import check_config
from unclone.records import ClearTensor

__all__ = ["Contents", "Hdf5", "Hdf5Draft"]

_FIRST_USER_BLOCK: Final = 512


class Contents:
    """The tensors of an ordinary HDF5 file that lies in a range of a file.

    Args:
        path: the file.
        descriptor: the same, open.
        start: first byte of the HDF5 file in it.
        size: its length.

    Attributes:
        weights: what is masked; offsets counted from the start of ``path``, in their order.
        clear: what stays as it is, with the reason.
        regions: every tensor that stands in one piece; offsets counted from ``start``.

    Raises:
        FormatError: malformed, truncated or hostile.
        UnsupportedError: something that may hold weights and cannot be masked, by name.
        MissingExtraError: h5py is not installed.
    """

    def __init__(self, path: Path, descriptor: int, start: int, size: int) -> None:
        self.start, self.size = start, size
        self.weights: list[Weight] = []
        self.clear: list[ClearTensor] = []
        self.regions: list[Region] = []
        position = len(SIGNATURE)
        tree = tree_apart(path, descriptor, start, size)
        check_config(f"{path}: model_config", tree.config)
        for item in tree.datasets:
            if item.offset >= 0:
                if item.offset < position:
                    raise FormatError(f"{path}: dataset {item.name[:80]!r} shares bytes with another")
                position = item.offset + item.nbytes
                self.regions.append(Region(item.name, item.dtype, item.shape, 0, item.offset, item.nbytes))
            self._sort_in(item)
        if position > size:
            raise FormatError(f"{path} is truncated: its datasets end at byte {position}, the file at {size}")

    def _sort_in(self, item: Dataset) -> None:
        if item.clear:
            self.clear.append(ClearTensor(item.name, item.dtype, item.shape, item.clear))
        else:
            self.weights.append(Weight(item.name, item.dtype, item.shape, 0, self.start + item.offset, item.nbytes))

    def masked(self) -> Iterator[Piece]:
        """The ordinary file with its weights masked."""
        position = self.start
        for number, weight in enumerate(self.weights):
            if position < weight.offset:
                yield Copy(0, position, weight.offset - position)
            yield Masked(number)
            position = weight.offset + weight.nbytes
        if position < self.start + self.size:
            yield Copy(0, position, self.start + self.size - position)


class Hdf5:
    """The HDF5 format."""

    name = "hdf5"
    suffixes: tuple[str, ...] = (".h5", ".hdf5")

    def matches(self, path: Path, head: bytes) -> bool:
        """Whether the file starts with our user block, or has a superblock where the library looks for one."""
        if head.startswith((MAGIC, SIGNATURE)):
            return True
        if head.startswith(b"PK"):  # an HDF5 file within an archive, wherever it happens to stand
            return False
        with _opened(path) as (descriptor, size):
            place = _FIRST_USER_BLOCK
            while place + len(SIGNATURE) <= size:
                if os.pread(descriptor, len(SIGNATURE), place) == SIGNATURE:
                    return True
                place *= 2
        return False

    def draft(self, path: Path) -> Hdf5Draft:
        """Take an ordinary file apart.

        Raises:
            FormatError: malformed, truncated or hostile.
            UnsupportedError: something that may hold weights and cannot be masked, by name.
            AlreadyBoundError: it carries a header of ours.
            MissingExtraError: h5py is not installed.
        """
        with _opened(path) as (descriptor, size):
            if os.pread(descriptor, len(MAGIC), 0) == MAGIC:
                raise AlreadyBoundError(f"{path} is bound already; bind the ordinary model instead")
            return Hdf5Draft(path, Contents(path, descriptor, 0, size))

    def layout(self, path: Path) -> Layout:
        """Find the header and every tensor; of a bound file without the HDF5 library.

        Raises:
            FormatError: malformed, truncated or hostile.
        """
        with _opened(path) as (descriptor, size):
            if os.pread(descriptor, len(MAGIC), 0) != MAGIC:
                regions = Contents(path, descriptor, 0, size).regions
                return Layout((path,), None, 0, 0, 0, {region.name: region for region in regions})
            block = parse(str(path), lambda offset, nbytes: os.pread(descriptor, nbytes, offset), size)
        return Layout((path,), block.header, 0, block.header_offset, len(block.header), block.regions)

    def mend(self, layout: Layout, streams: Sequence[BinaryIO]) -> None:
        """Nothing depends on the weights."""


class Hdf5Draft:
    """An ordinary HDF5 file, taken apart; see ``formats.base.Draft``."""

    def __init__(self, path: Path, contents: Contents) -> None:
        self._contents = contents
        self.sources: Sequence[Path] = (path,)
        self.weights: Sequence[Weight] = contents.weights
        self.clear: Sequence[ClearTensor] = contents.clear

    def outputs(self, output: Path, header: bytes, tag: str) -> Sequence[Output]:  # noqa: ARG002 (no side files)
        """One file: our user block, then the ordinary file."""
        before, after = build(header, self._contents.regions)
        pieces = [Literal(before), HeaderPiece(header), Literal(after), *self._contents.masked()]
        return (Output(output, pieces),)

    def encode_header(self, header: bytes) -> bytes:
        """The header's text as it is."""
        return header

    def finish(self, streams: Sequence[BinaryIO]) -> None:
        """HDF5 has no checksum over contiguous data."""


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """An open file and its length."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as problem:
        raise FormatError(f"cannot read {path}: {problem.strerror}") from None
    try:
        yield descriptor, os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
