"""The user block of a bound HDF5 file: header and index before the first byte of the ordinary file.

HDF5 leaves the bytes before its superblock to applications, in a size of 512 bytes times a power of two, and every
reader finds the superblock behind them (HDF5 File Format Specification, section II.A). All offsets within the file
count from there, so the ordinary file follows unchanged.

The index says where every tensor lies. It is authenticated with the rest of the carrier, so a bound file is verified
and restored without the HDF5 library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from unclone import canonical
from unclone.errors import FormatError
from unclone.formats.base import HEADER_LIMIT, Region

__all__ = ["FIXED_BYTES", "MAGIC", "SIGNATURE", "Block", "build", "parse"]

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
"""First bytes of an HDF5 superblock."""

MAGIC: Final = b"unclone hdf5\r\n\x1a\n"
"""First bytes of our user block."""

FIXED_BYTES: Final = len(MAGIC) + 16
"""Magic, length of the header text, length of the index (8 bytes each, little-endian)."""

_SMALLEST: Final = 512
_INDEX_LIMIT: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Block:
    """A user block as it lies.

    Attributes:
        header: header text.
        header_offset: its first byte, counted from the block's.
        size: length of the block; there the ordinary file starts.
        regions: tensors by name, offsets counted from the block's first byte.
    """

    header: bytes
    header_offset: int
    size: int
    regions: dict[str, Region]


def build(header: bytes, regions: list[Region]) -> tuple[bytes, bytes]:
    """What stands before the header text and what follows it, up to the ordinary file.

    Args:
        header: header text, final in length.
        regions: every tensor that stands in one piece; offsets counted from the ordinary file's first byte.
    """
    index = canonical.encode([[r.name, r.dtype, list(r.shape), r.offset, r.nbytes] for r in regions])
    used = FIXED_BYTES + len(header) + len(index)
    start = MAGIC + len(header).to_bytes(8, "little") + len(index).to_bytes(8, "little")
    return start, index + bytes(block_size(used) - used)


def block_size(used: int) -> int:
    """The smallest size of a user block that holds ``used`` bytes."""
    return max(_SMALLEST, 1 << (used - 1).bit_length())


def lengths(path: str, fixed: bytes) -> tuple[int, int]:
    """Lengths of header and index, from the first ``FIXED_BYTES`` bytes.

    Raises:
        FormatError: over their limits, or cut off.
    """
    if len(fixed) < FIXED_BYTES or not fixed.startswith(MAGIC):
        raise FormatError(f"{path} is truncated within its user block")
    header = int.from_bytes(fixed[len(MAGIC) : len(MAGIC) + 8], "little")
    index = int.from_bytes(fixed[len(MAGIC) + 8 : FIXED_BYTES], "little")
    if header > HEADER_LIMIT:
        raise FormatError(f"{path}: the header of the bound model is longer than {HEADER_LIMIT} bytes")
    if index > _INDEX_LIMIT:
        raise FormatError(f"{path}: the index of the bound model is longer than {_INDEX_LIMIT} bytes")
    return header, index


def parse(path: str, read: Any, size: int) -> Block:
    """Check a user block and what it says of the file behind it.

    Args:
        path: the file's name, for errors.
        read: ``read(offset, nbytes) -> bytes``, fewer at the end.
        size: length of the block and the ordinary file together.

    Raises:
        FormatError: malformed, truncated or hostile.
    """
    header_nbytes, index_nbytes = lengths(path, read(0, FIXED_BYTES))
    used = FIXED_BYTES + header_nbytes + index_nbytes
    block = block_size(used)
    if read(block, len(SIGNATURE)) != SIGNATURE:
        raise FormatError(f"{path}: no HDF5 file at byte {block}, where its user block ends; truncated or altered")
    header = read(FIXED_BYTES, header_nbytes)
    entries = _index(path, read(FIXED_BYTES + header_nbytes, index_nbytes))
    regions: dict[str, Region] = {}
    position = block + len(SIGNATURE)
    for entry in entries:
        region = _region(path, entry, block)
        if region.name in regions:
            raise FormatError(f"{path}: tensor {region.name[:80]!r} stands twice in the index")
        if region.offset < position:
            raise FormatError(f"{path}: tensor {region.name[:80]!r} overlaps what stands before it")
        position = region.offset + region.nbytes
        regions[region.name] = region
    if position > size:
        raise FormatError(f"{path} is truncated: its tensors end at byte {position}, the file at {size}")
    return Block(header, FIXED_BYTES, block, regions)


def _index(path: str, data: bytes) -> list[Any]:
    try:
        entries = canonical.decode(data)
    except canonical.CanonicalError as problem:
        raise FormatError(f"{path}: the index of the bound model is malformed: {problem}") from None
    if not isinstance(entries, list):
        raise FormatError(f"{path}: the index of the bound model is no list")
    return entries


def _region(path: str, entry: Any, block: int) -> Region:
    match entry:
        case [str(name), str(dtype), list(shape), int(offset), int(nbytes)] if (
            len(shape) <= 64
            and all(type(n) is int and n > 0 for n in [*shape, nbytes])
            and type(offset) is int
            and offset >= 0
            and math.prod(shape) < 1 << 62
        ):
            return Region(name, dtype, tuple(shape), 0, block + offset, nbytes)
    raise FormatError(f"{path}: the index of the bound model has a malformed entry")
