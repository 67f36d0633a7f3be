"""Keras 3: a zip archive of a description and an HDF5 file of weights (spec/carriers.md, section 10).

The description is carried, never deserialised. The header lies in the archive's block for it (``zip_carrier``), so
that the archive has the members it had: with any more, Keras would unpack the whole archive to disk. The weights' file
gets a user block that holds the index alone, so that a bound archive, too, is restored without the HDF5 library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from unclone.errors import AlreadyBoundError, FormatError, UnsupportedError
from unclone.formats.base import Layout, Literal, Output, Region, Weight
from unclone.formats.hdf5 import Contents
from unclone.formats.hdf5_block import MAGIC, build, parse
from unclone.formats.keras_config import CONFIG_LIMIT, check_config
from unclone.formats.zip_carrier import bound_pieces, check_contents, mend_checksums, zip_layout
from unclone.formats.zip_directory import STORED, Archive, Member, names_in
from unclone.records import ClearTensor

__all__ = ["ASSETS", "CONFIG", "METADATA", "WEIGHTS", "Keras"]

CONFIG: Final = "config.json"
METADATA: Final = "metadata.json"
WEIGHTS: Final = "model.weights.h5"
ASSETS: Final = "assets/"

_ARRAYS: Final = (".npy", ".npz", ".h5", ".hdf5", ".safetensors", ".pt", ".pth", ".pkl", ".onnx", ".tflite", ".gguf")
"""Suffixes of assets that hold numbers rather than a vocabulary."""


class Keras:
    """The .keras format."""

    name = "keras"
    suffixes: tuple[str, ...] = (".keras",)

    def matches(self, path: Path, head: bytes) -> bool:
        """Whether it is a zip archive with a description and weights, or one that is called ``.keras``."""
        names = set(names_in(path, head) or ())
        if path.suffix.lower() in self.suffixes:
            return head.startswith(b"PK")
        return CONFIG in names and any(name.startswith("model.weights.") for name in names)

    def draft(self, path: Path) -> KerasDraft:
        """Take an ordinary archive apart.

        Raises:
            FormatError: malformed, truncated, damaged or hostile.
            UnsupportedError: something that may hold weights and cannot be masked, by name.
            AlreadyBoundError: it carries a header of ours.
            MissingExtraError: h5py is not installed.
        """
        with _opened(path) as descriptor:
            archive = Archive(descriptor, path)
            if archive.header is not None:
                raise AlreadyBoundError(f"{path} is bound already; bind the ordinary model instead")
            member = _weights(path, archive, descriptor)
            check_contents(descriptor, path, archive)
            return KerasDraft(path, archive, Contents(path, descriptor, member.data, member.nbytes))

    def layout(self, path: Path) -> Layout:
        """Find the header and every tensor; of a bound archive without the HDF5 library.

        Raises:
            FormatError: malformed, truncated or hostile.
        """
        with _opened(path) as descriptor:
            archive = Archive(descriptor, path)
            member = _weights(path, archive, descriptor)
            if archive.header is None:
                regions = Contents(path, descriptor, member.data, member.nbytes).regions
            else:
                regions = _indexed(path, descriptor, member)
            found = {region.name: replace(region, offset=member.data + region.offset) for region in regions}
            return zip_layout(path, archive, found)

    def mend(self, layout: Layout, streams: Sequence[BinaryIO]) -> None:  # noqa: ARG002 (found anew)
        """The CRC of the weights' file."""
        mend_checksums(streams[0].fileno())


class KerasDraft:
    """An ordinary .keras file, taken apart; see ``formats.base.Draft``."""

    def __init__(self, path: Path, archive: Archive, contents: Contents) -> None:
        check_config(f"{path}: {CONFIG}", archive.content(CONFIG, CONFIG_LIMIT))
        self._archive = archive
        self._contents = contents
        self.sources: Sequence[Path] = (path,)
        self.weights: Sequence[Weight] = contents.weights
        assets = [_asset(path, member) for member in archive.members if not _known(member.name)]
        taken = {weight.name for weight in contents.weights} | {tensor.name for tensor in contents.clear}
        for asset in assets:
            if asset.name in taken:
                raise FormatError(f"{path}: an asset and a dataset are both called {asset.name[:80]!r}")
        self.clear: Sequence[ClearTensor] = [*contents.clear, *assets]

    def outputs(self, output: Path, header: bytes, tag: str) -> Sequence[Output]:  # noqa: ARG002 (no side files)
        """One file: the same members, the weights' file behind its index; the header's block."""
        start, index = build(b"", self._contents.regions)
        weights = [Literal(start + index), *self._contents.masked()]
        return (Output(output, bound_pieces(self._archive, {WEIGHTS: weights}, self.weights, header)),)

    def encode_header(self, header: bytes) -> bytes:
        """The header's text as it is."""
        return header

    def finish(self, streams: Sequence[BinaryIO]) -> None:
        """The CRC of the weights' file."""
        mend_checksums(streams[0].fileno())


def _known(name: str) -> bool:
    return name in (CONFIG, METADATA, WEIGHTS) or name.endswith("/")


def _weights(path: Path, archive: Archive, descriptor: int) -> Member:
    """The member that holds the weights.

    Raises:
        FormatError: it is missing, or was bound and has lost its header.
        UnsupportedError: the weights are somewhere else, or compressed.
    """
    if WEIGHTS not in archive:
        for name in archive.names:
            if name.startswith("model.weights"):
                raise UnsupportedError(f"{path} keeps its weights in {name[:80]!r}; save it with {WEIGHTS} instead")
        raise FormatError(f"{path} is no Keras model: it has no {WEIGHTS}")
    if CONFIG not in archive:
        raise FormatError(f"{path} is no Keras model: it has no {CONFIG}")
    member = archive[WEIGHTS]
    if member.method != STORED:
        raise UnsupportedError(f"{path}: {WEIGHTS} is compressed; save the model with Keras, or repack it with zip -0")
    if archive.header is None and os.pread(descriptor, len(MAGIC), member.data) == MAGIC:
        raise FormatError(f"{path} was bound, and another program rewrote the archive: its header is lost")
    return member


def _indexed(path: Path, descriptor: int, member: Member) -> list[Region]:
    """The tensors as the index of a bound archive tells them; offsets counted from the member's data."""

    def read(offset: int, nbytes: int) -> bytes:
        return os.pread(descriptor, max(0, min(nbytes, member.nbytes - offset)), member.data + offset)

    block = parse(f"{path}: {WEIGHTS}", read, member.nbytes)
    if block.header:
        raise FormatError(f"{path}: {WEIGHTS} has a header of its own")
    return list(block.regions.values())


def _asset(path: Path, member: Member) -> ClearTensor:
    """What a layer keeps in a file of its own, a vocabulary as a rule.

    Raises:
        UnsupportedError: it may hold weights.
    """
    if not member.name.startswith(ASSETS):
        raise UnsupportedError(f"{path}: member {member.name[:80]!r} is not known to this release")
    if member.name.lower().endswith(_ARRAYS):
        raise UnsupportedError(f"{path}: asset {member.name[:80]!r} may hold weights; keep them in variables")
    return ClearTensor(member.name, "uint8", (member.nbytes,), "asset of a layer")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as problem:
        raise FormatError(f"cannot read {path}: {problem.strerror}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)
