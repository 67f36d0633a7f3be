"""Zip archives, read strictly: every byte belongs to one member, the header block or the directory.

The central directory is what ordinary readers believe; here the local headers and data descriptors must say the same,
and nothing may hide between them. So a byte range of a member, once found, is the range that every reader will use.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from unclone.errors import FormatError, UnsupportedError
from unclone.formats.base import HEADER_LIMIT
from unclone.formats.zip_records import (
    BLOCK_FOOTER,
    BLOCK_MAGIC,
    DEFLATED,
    DESCRIPTOR,
    DESCRIPTOR_MAGIC,
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    ENTRY,
    ENTRY_MAGIC,
    FULL16,
    FULL32,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR64,
    LOCATOR64_MAGIC,
    STORED,
    Member,
    inflated,
    widened,
)

__all__ = ["STORED", "Archive", "Member", "names_in"]

_UTF8: Final = 0x0800
_ENCRYPTED: Final = 0x0001 | 0x0040 | 0x2000  # a password, strong encryption, a masked directory
_PATCHED: Final = 0x0020
_COMMENT_LIMIT: Final = 0xFFFF
_DIRECTORY_LIMIT: Final = 64 << 20
_RATIO_LIMIT: Final = 1032  # deflate cannot do better


class Archive:
    """The directory of one open archive. The data of members is neither read nor kept.

    Args:
        descriptor: open for reading; only positioned reads are made. It is not closed.
        label: name of the file in errors.

    Attributes:
        members: in the order of the file.
        order: their positions in ``members``, in the order of the directory.
        end_of_members: byte after the last member.
        header: (offset, bytes) of the text in the header block, or ``None``.
        comment: the archive's.
        zip64: whether the archive has zip64 end records.
        size: of the file.

    Raises:
        FormatError: malformed, truncated or hostile.
        UnsupportedError: encrypted, of several disks, or packed in a way that is not understood.
    """

    def __init__(self, descriptor: int, label: str | Path) -> None:
        self._descriptor = descriptor
        self._label = label
        self.size = os.fstat(descriptor).st_size
        end = self._find_end()
        directory_start, directory_end, count = self._end_records(end)
        self.directory_start = directory_start
        self.comment = self._read(end + END.size, self.size - end - END.size)
        listed = self._directory(directory_start, directory_end, count)
        members = sorted(listed, key=lambda member: member.start)
        self.members = tuple(members)
        place = {id(member): number for number, member in enumerate(members)}
        self.order = tuple(place[id(member)] for member in listed)
        self.end_of_members = self._check_contiguous(directory_start)
        self.header = self._header_block(directory_start)
        self._by_name = {member.name: member for member in members}

    @classmethod
    def open(cls, path: Path) -> Archive:
        """The directory of the archive at ``path``; the file is closed again.

        Raises:
            FormatError: cannot be read, and as above.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as problem:
            raise FormatError(f"cannot read {path}: {problem.strerror}") from None
        try:
            return cls(descriptor, path)
        finally:
            os.close(descriptor)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Member:
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members in the order of the file."""
        return tuple(member.name for member in self.members)

    def bad(self, what: str) -> FormatError:
        """An error about this file."""
        return FormatError(f"{self._label}: {what}")

    def _read(self, offset: int, nbytes: int) -> bytes:
        data = os.pread(self._descriptor, nbytes, offset) if offset >= 0 and nbytes > 0 else b""
        if len(data) != max(nbytes, 0) or offset < 0:
            raise self.bad("the zip archive is truncated")
        return data

    def _find_end(self) -> int:
        length = min(self.size, END.size + _COMMENT_LIMIT)
        tail = self._read(self.size - length, length)
        at = tail.rfind(END_MAGIC)  # the last one alone: readers disagree about a comment that holds another
        if 0 <= at <= length - END.size and at + END.size + END.unpack_from(tail, at)[-1] == length:
            return self.size - length + at
        raise self.bad("the zip archive is truncated or damaged: it has no end record")

    def _end_records(self, end: int) -> tuple[int, int, int]:
        """Where the directory starts and ends, and its number of entries."""
        _, disk, first_disk, here, count, nbytes, start, _ = END.unpack(self._read(end, END.size))
        stop = end
        self.zip64 = end >= LOCATOR64.size and self._read(end - LOCATOR64.size, 4) == LOCATOR64_MAGIC
        self.end64 = b""
        if self.zip64:
            _, disk64, stop, disks = LOCATOR64.unpack(self._read(end - LOCATOR64.size, LOCATOR64.size))
            if stop + END64.size + LOCATOR64.size != end or disk64 or disks > 1:
                raise self.bad("the zip64 end records of the archive are malformed, or it spans disks")
            self.end64 = self._read(stop, END64.size)
            found = END64.unpack(self.end64)
            if found[0] != END64_MAGIC or found[1] != END64.size - 12:
                raise self.bad("the zip64 end record of the archive is malformed")
            wide = found[4:]
            for narrow, value, full in zip(
                (disk, first_disk, here, count, nbytes, start), wide, (FULL16,) * 4 + (FULL32,) * 2, strict=True
            ):
                if narrow not in (value, full):
                    raise self.bad("the two end records of the zip archive contradict each other")
            disk, first_disk, here, count, nbytes, start = wide
        if disk or first_disk or here != count:
            raise UnsupportedError(f"{self._label}: a zip archive of several disks")
        if start + nbytes != stop:
            raise self.bad("the zip archive has data before it, or its directory is not where it should be")
        if nbytes > _DIRECTORY_LIMIT:
            raise self.bad(f"a zip directory of {nbytes} bytes is over the limit of {_DIRECTORY_LIMIT}")
        if count * ENTRY.size > nbytes:
            raise self.bad(f"{count} members do not fit a zip directory of {nbytes} bytes")
        return start, stop, count

    def _directory(self, start: int, stop: int, count: int) -> list[Member]:
        data = self._read(start, stop - start)
        members: list[Member] = []
        names: set[str] = set()
        position = 0
        for _ in range(count):
            if position + ENTRY.size > len(data) or data[position : position + 4] != ENTRY_MAGIC:
                raise self.bad("the zip directory is malformed")
            lengths = ENTRY.unpack_from(data, position)[10:13]
            after = position + ENTRY.size + sum(lengths)
            if after > len(data):
                raise self.bad("the zip directory is malformed")
            member = self._member(data[position:after], start + position, start)
            if member.name in names:
                raise self.bad(f"two members are called {member.name[:80]!r}")
            names.add(member.name)
            members.append(member)
            position = after
        if position != len(data):
            raise self.bad("the zip directory holds more than its members")
        return members

    def _member(self, entry: bytes, place: int, limit: int) -> Member:
        fields = ENTRY.unpack_from(entry)
        _, _, _, flags, method, _, _, crc, packed, nbytes, n_name, n_extra, _, disk, _, _, start = fields
        raw = entry[ENTRY.size : ENTRY.size + n_name]
        extra = entry[ENTRY.size + n_name : ENTRY.size + n_name + n_extra]
        name = self._name(raw, flags)
        if flags & (_ENCRYPTED | _PATCHED):
            raise UnsupportedError(f"{self._label}: member {name[:80]!r} is encrypted or a patch")
        if method not in (STORED, DEFLATED):
            raise UnsupportedError(f"{self._label}: member {name[:80]!r} is packed by method {method}")
        narrow = [(nbytes, FULL32), (packed, FULL32), (start, FULL32), (disk, FULL16)]
        nbytes, packed, start, disk = self._wide(name, extra, narrow)
        if disk:
            raise UnsupportedError(f"{self._label}: a zip archive of several disks")
        if method == STORED and nbytes != packed:
            raise self.bad(f"member {name[:80]!r} is stored, and has two sizes")
        if nbytes > packed * _RATIO_LIMIT + 64:
            raise self.bad(f"member {name[:80]!r} claims {nbytes} bytes from {packed}")
        if start + LOCAL.size + packed > limit:
            raise self.bad(f"is truncated: member {name[:80]!r} ends beyond the archive's data")
        return self._located(entry, place, (name, raw, flags, method, crc, nbytes, packed, start))

    def _located(self, entry: bytes, place: int, known: tuple[str, bytes, int, int, int, int, int, int]) -> Member:
        """Check the local header and the descriptor against the directory's word."""
        name, raw, flags, method, crc, nbytes, packed, start = known
        fields = LOCAL.unpack(self._read(start, LOCAL.size))
        magic, _, local_flags, local_method, _, _, local_crc, local_packed, local_nbytes, n_name, n_extra = fields
        rest = self._read(start + LOCAL.size, n_name + n_extra)
        if magic != LOCAL_MAGIC or rest[:n_name] != raw or (local_flags, local_method) != (flags, method):
            raise self.bad(f"member {name[:80]!r} and the zip directory contradict each other")
        local_nbytes, local_packed = self._wide(
            name, rest[n_name:], [(local_nbytes, FULL32), (local_packed, FULL32)], local=True
        )
        local = (local_crc, local_nbytes, local_packed)
        later = bool(flags & DESCRIPTOR)
        if local != (crc, nbytes, packed) and not (later and local == (0, 0, 0)):
            raise self.bad(f"member {name[:80]!r} and the zip directory contradict each other")
        data = start + LOCAL.size + n_name + n_extra
        end = data + packed
        places = [] if later and not local_crc else [start + 14]
        if later:
            crc_place, end = self._descriptor_of(name, end, crc, packed, nbytes)
            places.append(crc_place)
        places.append(place + 16)
        return Member(name, method, flags, crc, nbytes, packed, start, data, end, tuple(places), entry)

    def _descriptor_of(self, name: str, at: int, crc: int, packed: int, nbytes: int) -> tuple[int, int]:
        """Where the CRC in a data descriptor stands, and the byte after it. Four forms are in use."""
        found = os.pread(self._descriptor, 24, at)
        for magic in (DESCRIPTOR_MAGIC, b""):
            for form in ("<I2Q", "<3I"):
                if form == "<3I" and max(packed, nbytes) > FULL32:
                    continue
                wanted = magic + struct.pack(form, crc, packed, nbytes)
                if found.startswith(wanted):
                    return at + len(magic), at + len(wanted)
        raise self.bad(f"the data descriptor of member {name[:80]!r} contradicts the zip directory")

    def _name(self, raw: bytes, flags: int) -> str:
        try:
            name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
        except UnicodeDecodeError:
            raise self.bad("the name of a member is not UTF-8") from None
        if not name or "\0" in name or name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise self.bad(f"a member is called {name[:80]!r}, which leaves the archive or is no name")
        return name

    def _wide(self, name: str, extra: bytes, values: list[tuple[int, int]], *, local: bool = False) -> tuple[int, ...]:
        try:
            return widened(extra, values, local=local)
        except ValueError as problem:
            raise self.bad(f"member {name[:80]!r} {problem}") from None

    def _check_contiguous(self, directory_start: int) -> int:
        position = 0
        for member in self.members:
            if member.start != position:
                what = "overlaps another" if member.start < position else "leaves a hole before it"
                raise self.bad(f"member {member.name[:80]!r} {what}")
            position = member.end
        if position > directory_start:
            raise self.bad("the last member of the zip archive overlaps its directory")
        return position

    def _header_block(self, stop: int) -> tuple[int, int] | None:
        start = self.end_of_members
        if start == stop:
            return None
        if stop - start < BLOCK_FOOTER.size:
            raise self.bad("bytes before the zip directory belong to no member")
        length, magic = BLOCK_FOOTER.unpack(self._read(stop - BLOCK_FOOTER.size, BLOCK_FOOTER.size))
        if magic != BLOCK_MAGIC or length != stop - start - BLOCK_FOOTER.size:
            raise self.bad("bytes before the zip directory belong to no member")
        if length > HEADER_LIMIT:
            raise self.bad(f"the header of the bound model is longer than {HEADER_LIMIT} bytes")
        return start, length

    def header_text(self) -> bytes | None:
        """The text in the header block, or ``None``. The archive's descriptor must still be open."""
        return None if self.header is None else self._read(*self.header)

    def head(self, member: Member, limit: int) -> bytes:
        """The first ``limit`` bytes of a stored member, or all of them. The archive's descriptor must still be open."""
        return self._read(member.data, min(limit, member.nbytes))

    def content(self, name: str, limit: int) -> bytes:
        """The content of a member, inflated, its CRC checked. The archive's descriptor must still be open.

        Raises:
            FormatError: longer than ``limit`` bytes, damaged, or a deflate stream that lies about its length.
        """
        member = self._by_name[name]
        if member.nbytes > limit:
            raise self.bad(f"member {name[:80]!r} has {member.nbytes} bytes, over the limit of {limit}")
        if member.method == STORED:
            data = self._read(member.data, member.nbytes)
        else:
            data = inflated(lambda at, nbytes: self._read(member.data + at, nbytes), member, self.bad)
        if zlib.crc32(data) != member.crc:
            raise self.bad(f"member {name[:80]!r} is damaged: its CRC does not hold")
        return data


def names_in(path: Path, head: bytes) -> Iterable[str] | None:
    """Names of the members for telling formats apart; ``None`` for what is no readable archive."""
    if not head.startswith((LOCAL_MAGIC, END_MAGIC)):
        return None
    try:
        return Archive.open(path).names
    except FormatError:
        return None
