"""numpy .npz: a zip archive of arrays (spec/carriers.md, section 8).

Every array of numbers is masked, as in safetensors; text and booleans stay in clear. Arrays that were deflated are
stored: masked bytes do not compress.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from unclone.errors import AlreadyBoundError, FormatError, UnsupportedError
from unclone.formats.base import Layout, Literal, Masked, Output, Piece, Region, Weight
from unclone.formats.npy import NPY_HEADER_LIMIT, NpyHeader, npy_header
from unclone.formats.safetensors import CLEAR_NAMES
from unclone.formats.zip_carrier import bound_pieces, check_contents, masked_content, mend_checksums, zip_layout
from unclone.formats.zip_directory import STORED, Archive, Member, names_in
from unclone.records import ClearTensor

__all__ = ["Npz"]

_SUFFIX: Final = ".npy"
_HEAD: Final = NPY_HEADER_LIMIT + 12
_INFLATED_LIMIT: Final = 1 << 30


class Npz:
    """The .npz format."""

    name = "npz"
    suffixes: tuple[str, ...] = (".npz",)

    def matches(self, path: Path, head: bytes) -> bool:
        """Whether it is a zip archive of arrays alone, or one that is called ``.npz``."""
        names = names_in(path, head)
        if path.suffix.lower() in self.suffixes:
            return names is not None or head.startswith(b"PK")
        return bool(names) and all(name.endswith(_SUFFIX) for name in names or ())

    def draft(self, path: Path) -> NpzDraft:
        """Take an ordinary archive apart.

        Raises:
            FormatError: malformed, truncated, damaged or hostile.
            UnsupportedError: an array of objects, records or big-endian numbers, or a member that is no array.
            AlreadyBoundError: it carries a header of ours.
        """
        with _opened(path) as stream:
            archive = Archive(stream.fileno(), path)
            if archive.header is not None:
                raise AlreadyBoundError(f"{path} is bound already; bind the ordinary model instead")
            check_contents(stream.fileno(), path, archive)
            return NpzDraft(path, archive)

    def layout(self, path: Path) -> Layout:
        """Find the header and every array that is stored.

        Raises:
            FormatError: malformed, truncated or hostile.
        """
        with _opened(path) as stream:
            archive = Archive(stream.fileno(), path)
            regions: dict[str, Region] = {}
            for member in archive.members:
                if member.method == STORED:
                    array = _array(path, member, archive.head(member, _HEAD))
                    regions[_name(path, member)] = _region(path, member, array)
            return zip_layout(path, archive, regions)

    def mend(self, layout: Layout, streams: Sequence[BinaryIO]) -> None:  # noqa: ARG002 (found anew)
        """The CRCs of the arrays."""
        mend_checksums(streams[0].fileno())


class NpzDraft:
    """An ordinary .npz, taken apart; see ``formats.base.Draft``. The archive is open only while it is made."""

    def __init__(self, path: Path, archive: Archive) -> None:
        self._archive = archive
        self.sources: Sequence[Path] = (path,)
        weights: list[Weight] = []
        clear: list[ClearTensor] = []
        self._contents: dict[str, Sequence[Piece]] = {}
        inflated = 0
        for member in archive.members:
            content = None
            if member.method != STORED:
                inflated += member.nbytes
                if inflated > _INFLATED_LIMIT:
                    raise UnsupportedError(
                        f"{path} inflates to more than {_INFLATED_LIMIT} bytes; save it with numpy.savez, uncompressed"
                    )
                content = archive.content(member.name, _INFLATED_LIMIT)
            head = archive.head(member, _HEAD) if content is None else content
            array = _array(path, member, head)
            region = _region(path, member, array)
            reason = _reason(region)
            if reason:
                clear.append(ClearTensor(region.name, region.dtype, region.shape, reason))
                if content is not None:
                    self._contents[member.name] = [Literal(content)]
                continue
            number = len(weights)
            data = None if content is None else content[array.start :]
            place = (region.offset, 0) if data is None else (0, -1)
            weights.append(
                Weight(region.name, region.dtype, region.shape, place[1], place[0], region.nbytes, data=data)
            )
            if content is None:
                self._contents[member.name] = masked_content(member, [(number, region.offset, region.nbytes)])
            else:
                self._contents[member.name] = [Literal(content[: array.start]), Masked(number)]
        self.weights: Sequence[Weight] = weights
        self.clear: Sequence[ClearTensor] = clear

    def outputs(self, output: Path, header: bytes, tag: str) -> Sequence[Output]:  # noqa: ARG002 (no side files)
        """One file: the header's block before the directory, every array stored."""
        return (Output(output, bound_pieces(self._archive, self._contents, self.weights, header)),)

    def encode_header(self, header: bytes) -> bytes:
        """The header's text as it is."""
        return header

    def finish(self, streams: Sequence[BinaryIO]) -> None:
        """The CRCs of the masked arrays."""
        mend_checksums(streams[0].fileno())


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as problem:
        raise FormatError(f"cannot read {path}: {problem.strerror}") from None


def _name(path: Path, member: Member) -> str:
    if not member.name.endswith(_SUFFIX):
        raise UnsupportedError(f"{path}: member {member.name[:80]!r} is no array; only those are bound")
    return member.name.removesuffix(_SUFFIX)


def _array(path: Path, member: Member, head: bytes) -> NpyHeader:
    label = f"{path}: array {_name(path, member)[:80]!r}"
    array = npy_header(head[:_HEAD], label)
    if array.start + array.nbytes != member.nbytes:
        raise FormatError(f"{label} needs {array.nbytes} bytes of data, and has {member.nbytes - array.start}")
    return array


def _region(path: Path, member: Member, array: NpyHeader) -> Region:
    return Region(_name(path, member), array.dtype, array.extent, 0, member.data + array.start, array.nbytes)


def _reason(region: Region) -> str:
    """Why an array stays in clear; empty for a weight."""
    if region.dtype == "string":
        return "text"
    if region.dtype == "bool":
        return "boolean"
    if "int" in region.dtype and re.split(r"[./]", region.name)[-1] in CLEAR_NAMES:
        return "index or counter, by its name"
    return ""
