"""The carrier: every byte of a bound model's files that is neither masked nor part of the header."""

from __future__ import annotations

import hashlib
import itertools
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from unclone.errors import FormatError, HeaderTamperedError
from unclone.formats import Layout, Region
from unclone.records import Header, MaskedTensor

__all__ = [
    "KEPT_LIMIT",
    "Carrier",
    "Hole",
    "carrier_digest",
    "layout_holes",
    "masked_regions",
    "read_carrier",
    "read_exactly",
    "visible_ranges",
]

_BLOCK = 1 << 20
KEPT_LIMIT = 32 << 20
"""A larger carrier is digested and forgotten."""


@dataclass(frozen=True, slots=True, order=True)
class Hole:
    """A range of a file that the carrier's digest leaves out, because something else authenticates it."""

    file: int
    offset: int
    nbytes: int


def masked_regions(layout: Layout, header: Header) -> list[tuple[MaskedTensor, Region]]:
    """Each masked tensor of the header with its place in the file.

    Raises:
        HeaderTamperedError: header and file disagree.
    """
    pairs = []
    for tensor in header.tensors:
        region = layout.regions.get(tensor.name)
        if region is None:
            raise HeaderTamperedError(f"tensor {tensor.name!r} of the header is not in the file")
        if (region.dtype, region.shape, region.nbytes) != (tensor.dtype, tensor.shape, tensor.nbytes):
            raise HeaderTamperedError(f"tensor {tensor.name!r} has another dtype, shape or size in the file")
        pairs.append((tensor, region))
    return pairs


def layout_holes(layout: Layout, regions: Iterable[Region]) -> list[Hole]:
    """The holes of a bound model: its masked tensors and its header."""
    holes = [Hole(region.file, region.offset, region.nbytes) for region in regions]
    return [*holes, Hole(layout.header_file, layout.header_offset, layout.header_nbytes)]


class Carrier:
    """The bytes beside the weights, as they were digested.

    Attributes:
        digest: SHA-256, 32 bytes.
        kept: whether the bytes were kept; a carrier above 32 MiB is not.
    """

    def __init__(self, digest: bytes, kept: bool, parts: Sequence[list[tuple[int, bytes]]]) -> None:
        self.digest = digest
        self.kept = kept
        self._parts = parts

    def read(self, file: int, start: int, end: int) -> bytes:
        """The bytes from ``start`` to ``end`` of a file, with zeros in the holes."""
        out = bytearray(end - start)
        parts = self._parts[file]
        first = max(bisect_right(parts, start, key=lambda part: part[0]) - 1, 0)
        for at, data in itertools.islice(parts, first, None):
            if at >= end:
                break
            low, high = max(at, start), min(at + len(data), end)
            if low < high:
                out[low - start : high - start] = data[low - at : high - at]
        return bytes(out)


def carrier_digest(descriptors: Sequence[int], holes: Iterable[Hole]) -> bytes:
    """SHA-256 over each file in turn: its length (8 bytes, little-endian), then its bytes outside the holes.

    Args:
        descriptors: open files, in the order of the layout.
        holes: ranges to leave out, in any order, not overlapping.

    Raises:
        FormatError: holes overlap or leave the file.
    """
    return read_carrier(descriptors, holes, keep=0).digest


def read_carrier(descriptors: Sequence[int], holes: Iterable[Hole], *, keep: int = KEPT_LIMIT) -> Carrier:
    """Digest the carrier as ``carrier_digest`` does, and keep its bytes if they are at most ``keep``."""
    digest = hashlib.sha256()
    ordered = sorted(holes)
    parts: list[list[tuple[int, bytes]]] = [[] for _ in descriptors]
    total = 0
    for number, descriptor in enumerate(descriptors):
        length = os.fstat(descriptor).st_size
        digest.update(length.to_bytes(8, "little"))
        for start, end in visible_ranges(length, [hole for hole in ordered if hole.file == number]):
            for offset in range(start, end, _BLOCK):
                data = read_exactly(descriptor, min(_BLOCK, end - offset), offset)
                digest.update(data)
                total += len(data)
                if total <= keep:
                    parts[number].append((offset, data))
    return Carrier(digest.digest(), total <= keep, parts)


def visible_ranges(length: int, holes: list[Hole]) -> Iterator[tuple[int, int]]:
    """The ranges (first byte, byte after the last) of a file of ``length`` bytes outside the sorted ``holes``."""
    position = 0
    for hole in holes:
        if hole.nbytes == 0:
            continue
        if hole.offset < position:
            raise FormatError("two tensors of the model share bytes")
        if position < hole.offset:
            yield position, hole.offset
        position = hole.offset + hole.nbytes
    if position > length:
        raise FormatError("a tensor lies beyond the end of the file")
    if position < length:
        yield position, length


def read_exactly(descriptor: int, nbytes: int, offset: int) -> bytes:
    """``nbytes`` bytes at ``offset``; ``FormatError`` where the file ends sooner."""
    data = os.pread(descriptor, nbytes, offset)
    if len(data) != nbytes:
        raise FormatError("the file became shorter while it was read")
    return data
