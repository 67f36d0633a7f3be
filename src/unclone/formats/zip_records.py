"""Records of zip archives: their layouts (PKWARE APPNOTE 6.3.10, sections 4.3 to 4.5), a member, and its content."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from unclone.errors import FormatError

__all__ = [
    "BLOCK_FOOTER",
    "BLOCK_MAGIC",
    "DEFLATED",
    "DESCRIPTOR",
    "DESCRIPTOR_MAGIC",
    "END",
    "END64",
    "END64_MAGIC",
    "END_MAGIC",
    "ENTRY",
    "ENTRY_MAGIC",
    "FULL16",
    "FULL32",
    "LOCAL",
    "LOCAL_MAGIC",
    "LOCATOR64",
    "LOCATOR64_MAGIC",
    "STORED",
    "ZIP64_EXTRA",
    "Member",
    "inflated",
    "widened",
]

STORED: Final = 0
DEFLATED: Final = 8

BLOCK_MAGIC: Final = b"unclone\n"
BLOCK_FOOTER: Final = struct.Struct("<Q8s")
"""Ends the header block: length of the header's text, magic number."""

LOCAL: Final = struct.Struct("<4s5H3I2H")
ENTRY: Final = struct.Struct("<4s6H3I5H2I")
END: Final = struct.Struct("<4s4H2IH")
END64: Final = struct.Struct("<4sQ2H2I4Q")
LOCATOR64: Final = struct.Struct("<4sIQI")
LOCAL_MAGIC: Final = b"PK\x03\x04"
ENTRY_MAGIC: Final = b"PK\x01\x02"
END_MAGIC: Final = b"PK\x05\x06"
END64_MAGIC: Final = b"PK\x06\x06"
LOCATOR64_MAGIC: Final = b"PK\x06\x07"
DESCRIPTOR_MAGIC: Final = b"PK\x07\x08"
FULL16: Final = 0xFFFF
FULL32: Final = 0xFFFFFFFF
ZIP64_EXTRA: Final = 1

DESCRIPTOR: Final = 0x0008
_INFLATE_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One member, as directory, local header and data descriptor agree on it.

    Attributes:
        name: as ``zipfile`` decodes it.
        method: ``STORED`` or ``DEFLATED``.
        flags: general purpose bits.
        crc: CRC-32 of the content.
        nbytes: bytes of the content.
        packed: bytes of the data in the file; equal to ``nbytes`` if stored.
        start: first byte of the local header.
        data: first byte of the data.
        end: byte after the data, or after the data descriptor if there is one.
        crc_places: where in the file the CRC stands, 4 bytes each: local header, descriptor, directory.
        entry: its entry in the central directory, as it is.
    """

    name: str
    method: int
    flags: int
    crc: int
    nbytes: int
    packed: int
    start: int
    data: int
    end: int
    crc_places: tuple[int, ...]
    entry: bytes


def widened(extra: bytes, values: list[tuple[int, int]], *, local: bool = False) -> tuple[int, ...]:
    """Values, or those of the zip64 field (id 1) where they are full; the field lists those alone, in order.

    In a local header it has to hold both sizes (APPNOTE 4.5.3), also where only one is full.

    Args:
        extra: the extra fields.
        values: (value, the number that says it is full).
        local: whether of a local header.

    Raises:
        ValueError: the field is missing, cut off, or there twice.
    """
    rest = _zip64_field(extra)
    listed = local and rest is not None and any(value == full for value, full in values)
    wide = []
    for value, full in values:
        width = 4 if full == FULL16 else 8
        if value == full and (rest is not None or full != FULL16):
            if rest is None or len(rest) < width:
                raise ValueError("lacks its zip64 sizes")
            value = int.from_bytes(rest[:width], "little")
            rest = rest[width:]
        elif listed and rest is not None:
            rest = rest[width:]
        wide.append(value)
    return tuple(wide)


def _zip64_field(extra: bytes) -> bytes | None:
    found = None
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if 4 + length > len(extra):
            raise ValueError("has an extra field that is cut off")
        if kind == ZIP64_EXTRA:
            if found is not None:
                raise ValueError("has two zip64 fields")
            found = extra[4 : 4 + length]
        extra = extra[4 + length :]
    return found


def inflated(read: Callable[[int, int], bytes], member: Member, bad: Callable[[str], FormatError]) -> bytes:
    """The content of a deflated member; never more than ``member.nbytes`` bytes are made.

    Args:
        read: data of the member at (offset, bytes).
        member: of method ``DEFLATED``.
        bad: makes the error.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    out = bytearray()
    at = 0
    try:
        while at < member.packed and len(out) <= member.nbytes and not engine.eof:
            data = read(at, min(_INFLATE_BLOCK, member.packed - at))
            at += len(data)
            out += engine.decompress(data, member.nbytes - len(out) + 1)
    except zlib.error:
        raise bad(f"member {member.name[:80]!r} is no valid deflate stream") from None
    if not engine.eof or len(out) != member.nbytes or engine.unused_data or at < member.packed:
        raise bad(f"member {member.name[:80]!r} does not inflate to its {member.nbytes} bytes")
    return bytes(out)
