"""Bound models in zip archives (spec/carriers.md, section 6); for every format whose file is one.

The header lies in a block between the last member and the central directory, as the signing block of an Android package
does: it is no member, so that ordinary tools list the same members, and nothing that follows from its content (a CRC)
stands under the MAC. Members keep their order, names and extra fields. A member whose data has the length it had stays
where it is, so that what its writer aligned stays aligned.

A format calls, in this order: ``Archive`` (zip_directory.py) to find its members, ``check_contents``, then in
``Draft.outputs`` ``bound_pieces`` with the new data of the members that it masks, and in ``Draft.finish`` and
``Format.mend`` ``mend_checksums``.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unclone.errors import FormatError
from unclone.formats.base import Copy, HeaderPiece, Layout, Literal, Masked, Piece, Region, Weight
from unclone.formats.zip_directory import Archive
from unclone.formats.zip_records import (
    BLOCK_FOOTER,
    BLOCK_MAGIC,
    DESCRIPTOR,
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    ENTRY,
    FULL16,
    FULL32,
    LOCAL,
    LOCATOR64,
    LOCATOR64_MAGIC,
    STORED,
    ZIP64_EXTRA,
    Member,
)

__all__ = ["bound_pieces", "check_contents", "masked_content", "mend_checksums", "zip_layout"]

_BLOCK: Final = 1 << 20
_VERSION_ZIP64: Final = 45


def masked_content(member: Member, holes: Iterable[tuple[int, int, int]]) -> list[Piece]:
    """The data of a stored member with parts of it masked.

    Args:
        member: stored.
        holes: (index of the weight, offset in the file, bytes), in the order of the file, within the member.
    """
    pieces: list[Piece] = []
    position = member.data
    for weight, offset, nbytes in holes:
        pieces += [Copy(0, position, offset - position), Masked(weight)]
        position = offset + nbytes
    pieces.append(Copy(0, position, member.data + member.nbytes - position))
    return [piece for piece in pieces if not isinstance(piece, Copy) or piece.nbytes]


def bound_pieces(
    archive: Archive, contents: Mapping[str, Sequence[Piece]], weights: Sequence[Weight], header: bytes
) -> list[Piece]:
    """The bound archive: ``contents`` in place of the data of members, the header's block, the directory.

    Members in ``contents`` are stored, whatever they were; all others are copied as they are. ``Copy`` pieces are of
    source 0, the archive itself. CRCs are those of the ordinary archive, to be mended.

    Args:
        archive: the ordinary archive.
        contents: new data by name of the member.
        weights: as in ``Draft.weights``.
        header: placeholder for the header's text.
    """
    pieces: list[Piece] = []
    entries: list[bytes] = []
    position = 0
    for member in archive.members:
        new = contents.get(member.name)
        nbytes = member.nbytes if new is None else sum(_length(piece, weights) for piece in new)
        if new is None or (member.method == STORED and nbytes == member.nbytes):
            pieces.append(Copy(0, member.start, member.data - member.start))
            pieces += [Copy(0, member.data, member.packed)] if new is None else new
            pieces.append(Copy(0, member.data + member.packed, member.end - member.data - member.packed))
            entries.append(member.entry if position == member.start else _moved(member, position))
            position += member.end - member.start
        else:
            start, entry = _stored_anew(member, nbytes, position)
            pieces += [Literal(start), *new]
            entries.append(entry)
            position += len(start) + nbytes
    block = BLOCK_FOOTER.pack(len(header), BLOCK_MAGIC)
    directory = b"".join(entries[number] for number in archive.order)
    start_of_directory = position + len(header) + len(block)
    end = _end_records(archive, start_of_directory, len(directory))
    return [*_merged(pieces), HeaderPiece(header), Literal(block + directory + end)]


def zip_layout(path: Path, archive: Archive, regions: Mapping[str, Region]) -> Layout:
    """The layout of an archive, bound or not, while its descriptor is open."""
    if archive.header is None:
        return Layout((path,), None, 0, 0, 0, dict(regions))
    offset, length = archive.header
    return Layout((path,), archive.header_text(), 0, offset, length, dict(regions))


def check_contents(descriptor: int, label: str | Path, archive: Archive) -> None:
    """Check the CRC of every stored member, so that binding never hides damage behind a new CRC.

    Raises:
        FormatError: a member is damaged; it is named.
    """
    stored = [member for member in archive.members if member.method == STORED]
    for member, crc in _checksums(descriptor, stored):
        if crc != member.crc:
            raise FormatError(f"{label}: member {member.name[:80]!r} is damaged: its CRC does not hold")


def mend_checksums(descriptor: int) -> None:
    """Give every stored member of an archive its true CRC, in local header, data descriptor and directory.

    Args:
        descriptor: open for reading and writing.

    Raises:
        FormatError: the archive is malformed.
    """
    archive = Archive(descriptor, "the bound archive")
    stored = [member for member in archive.members if member.method == STORED]
    for member, crc in _checksums(descriptor, stored):
        if crc != member.crc:
            for place in member.crc_places:
                os.pwrite(descriptor, struct.pack("<I", crc), place)


def _checksums(descriptor: int, members: Sequence[Member]) -> Iterator[tuple[Member, int]]:
    def checksum(member: Member) -> int:
        crc = 0
        for done in range(0, member.nbytes, _BLOCK):
            block = os.pread(descriptor, min(_BLOCK, member.nbytes - done), member.data + done)
            if not block:
                raise FormatError("the file became shorter while it was read")
            crc = zlib.crc32(block, crc)
        return crc

    if sum(member.nbytes for member in members) < _BLOCK:
        yield from ((member, checksum(member)) for member in members)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # zlib releases the GIL
        yield from zip(members, pool.map(checksum, members), strict=True)


def _length(piece: Piece, weights: Sequence[Weight]) -> int:
    match piece:
        case Literal(data) | HeaderPiece(data):
            return len(data)
        case Copy(_, _, nbytes):
            return nbytes
        case Masked(weight):
            return weights[weight].nbytes


def _merged(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same pieces, with copies that follow each other in the source made one."""
    last: Copy | None = None
    for piece in pieces:
        if isinstance(piece, Copy) and last is not None and last.offset + last.nbytes == piece.offset:
            last = Copy(0, last.offset, last.nbytes + piece.nbytes)
            continue
        if last is not None and last.nbytes:
            yield last
        last = piece if isinstance(piece, Copy) else None
        if last is None:
            yield piece
    if last is not None and last.nbytes:
        yield last


@dataclass(frozen=True, slots=True)
class _Parts:
    """A directory entry in parts."""

    fields: list[int | bytes]
    name: bytes
    extra: bytes
    comment: bytes

    @classmethod
    def of(cls, entry: bytes) -> _Parts:
        fields = list(ENTRY.unpack_from(entry))
        lengths = [int(fields[number]) for number in (10, 11, 12)]
        name_end = ENTRY.size + lengths[0]
        extra_end = name_end + lengths[1]
        return cls(fields, entry[ENTRY.size : name_end], entry[name_end:extra_end], entry[extra_end:])


def _moved(member: Member, position: int) -> bytes:
    return _entry(_Parts.of(member.entry), member.flags, member.method, member.packed, member.nbytes, position)


def _stored_anew(member: Member, nbytes: int, position: int) -> tuple[bytes, bytes]:
    """Local header and directory entry of a member that is stored with other data than it had."""
    parts = _Parts.of(member.entry)
    flags = member.flags & ~DESCRIPTOR & ~0x0006  # no descriptor; no word on how hard deflate tried
    extra = struct.pack("<2H2Q", ZIP64_EXTRA, 16, nbytes, nbytes) if nbytes >= FULL32 else b""
    size = FULL32 if extra else nbytes
    extra += _without_zip64(parts.extra)
    version = max(int(parts.fields[2]), _VERSION_ZIP64 if nbytes >= FULL32 else 10)
    time, date = parts.fields[5:7]
    local = LOCAL.pack(
        b"PK\x03\x04", version, flags, STORED, time, date, member.crc, size, size, len(parts.name), len(extra)
    )
    return local + parts.name + extra, _entry(parts, flags, STORED, nbytes, nbytes, position)


def _entry(parts: _Parts, flags: int, method: int, packed: int, nbytes: int, position: int) -> bytes:
    """A directory entry with other sizes and another place, the rest kept."""
    wide = [value for value in (nbytes, packed, position) if value >= FULL32]
    extra = struct.pack(f"<2H{len(wide)}Q", ZIP64_EXTRA, 8 * len(wide), *wide) if wide else b""
    extra += _without_zip64(parts.extra)
    fields = list(parts.fields)
    fields[2] = max(int(fields[2]), _VERSION_ZIP64) if wide else fields[2]
    fields[3:5] = flags, method
    fields[8:10] = min(packed, FULL32), min(nbytes, FULL32)
    fields[11] = len(extra)
    fields[16] = min(position, FULL32)
    return ENTRY.pack(*fields) + parts.name + extra + parts.comment


def _without_zip64(extra: bytes) -> bytes:
    kept = b""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind != ZIP64_EXTRA:
            kept += extra[: 4 + length]
        extra = extra[4 + length :]
    return kept + extra


def _end_records(archive: Archive, start: int, nbytes: int) -> bytes:
    count = len(archive.members)
    records = b""
    if archive.zip64 or start >= FULL32 or nbytes >= FULL32 or count >= FULL16:
        made, needed = END64.unpack(archive.end64)[2:4] if archive.end64 else (_VERSION_ZIP64, _VERSION_ZIP64)
        records += END64.pack(END64_MAGIC, END64.size - 12, made, needed, 0, 0, count, count, nbytes, start)
        records += LOCATOR64.pack(LOCATOR64_MAGIC, 0, start + nbytes, 1)
    short = min(count, FULL16)
    end = END.pack(END_MAGIC, 0, 0, short, short, min(nbytes, FULL32), min(start, FULL32), len(archive.comment))
    return records + end + archive.comment
