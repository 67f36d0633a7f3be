"""Zip archives as carriers: what ordinary writers make, and what nobody should."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unclone
from unclone.errors import FormatError, UncloneError, UnsupportedError
from unclone.formats.npz import Npz
from unclone.formats.zip_carrier import check_contents, mend_checksums
from unclone.formats.zip_directory import Archive
from unclone.formats.zip_records import BLOCK_FOOTER, BLOCK_MAGIC
from unclone.records import Device, DeviceKey
from unclone.runtime.numpy import load


def npy(count: int = 8, seed: int = 1) -> bytes:
    out = io.BytesIO()
    np.save(out, np.random.default_rng(seed).normal(size=count).astype(np.float32))
    return out.getvalue()


MEMBERS = {"a.npy": npy(8, 1), "b.npy": npy(300, 2)}


class Unseekable(io.RawIOBase):
    """A pipe: zipfile then writes data descriptors."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)


def archive(
    method: int = zipfile.ZIP_STORED,
    *,
    piped: bool = False,
    zip64: bool = False,
    comment: bytes = b"",
    extra: bytes = b"",
) -> bytes:
    out: Any = Unseekable() if piped else io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        made.comment = comment
        for name, data in MEMBERS.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = method
            info.extra = extra
            with made.open(info, "w", force_zip64=zip64) as member:
                member.write(data)
    return out.data if piped else out.getvalue()


WRITERS: dict[str, bytes] = {
    "stored": archive(),
    "deflated": archive(zipfile.ZIP_DEFLATED),
    "through a pipe": archive(piped=True),
    "through a pipe, deflated": archive(zipfile.ZIP_DEFLATED, piped=True),
    "zip64 sizes": archive(zip64=True),
    "zip64 sizes through a pipe": archive(zip64=True, piped=True),
    "a comment": archive(comment="Vendor, ü".encode()),
    "extra fields": archive(extra=struct.pack("<2H4s", 0x7075, 4, b"kept")),
}


@pytest.mark.parametrize("what", WRITERS)
def test_archives_of_every_writer(what: str, tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path, bound = tmp_path / "m.npz", tmp_path / "b.npz"
    path.write_bytes(WRITERS[what])
    unclone.bind(path, device, bound)
    with zipfile.ZipFile(bound) as made, zipfile.ZipFile(path) as ordinary:
        assert made.testzip() is None
        assert made.comment == ordinary.comment
        for a, b in zip(made.infolist(), ordinary.infolist(), strict=True):
            assert (a.filename, a.date_time, a.file_size, a.external_attr) == (
                b.filename, b.date_time, b.file_size, b.external_attr,
            )  # fmt: skip
            assert (a.extra == b.extra) or b.compress_type
            assert made.read(a) != ordinary.read(b)
    loaded = load(bound, key)
    assert {
        name + ".npy": np.load(io.BytesIO(data)).tobytes() for name, data in zip("ab", MEMBERS.values(), strict=True)
    } == {name + ".npy": array.tobytes() for name, array in loaded.items()}
    if which("unzip"):
        assert subprocess.run(["unzip", "-tqq", str(bound)], check=False).returncode == 0


def test_a_file_packed_by_the_zip_program(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    if which("zip") is None:
        pytest.skip("the zip program is not installed")
    for name, data in MEMBERS.items():
        (tmp_path / name).write_bytes(data)
    subprocess.run(["zip", "-q", "m.npz", *MEMBERS], cwd=tmp_path, check=True)
    unclone.bind(tmp_path / "m.npz", device, tmp_path / "b.npz")
    assert load(tmp_path / "b.npz", key)["b"].tobytes() == MEMBERS["b.npy"][-1200:]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(WRITERS["a comment"]) - 1), st.sampled_from(list(WRITERS)))
def test_truncation_anywhere(tmp_path_factory: pytest.TempPathFactory, cut: int, what: str) -> None:
    path = tmp_path_factory.mktemp("cut") / "m.npz"
    path.write_bytes(WRITERS[what][: min(cut, len(WRITERS[what]) - 1)])
    with pytest.raises(FormatError):
        Npz().draft(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bits_never_do_more_than_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "m.npz"
    content = bytearray(WRITERS[data.draw(st.sampled_from(list(WRITERS)))])
    structure = [at for at in range(len(content)) if content[at : at + 2] == b"PK"]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(structure)) + data.draw(st.integers(0, 60))
        content[min(at, len(content) - 1)] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with contextlib.suppress(UncloneError):
        Npz().draft(path)


def test_every_flipped_bit_of_a_bound_file_is_found(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    (tmp_path / "m.npz").write_bytes(WRITERS["through a pipe"])
    unclone.bind(tmp_path / "m.npz", device, tmp_path / "b.npz")
    content = (tmp_path / "b.npz").read_bytes()
    start = content.index(b'{"bits"')
    chosen = random.Random(7).sample(range(8 * len(content)), 250)
    for bit in [*chosen, *range(8 * (start - 4), 8 * (start + 2))]:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        (tmp_path / "c.npz").write_bytes(changed)
        with pytest.raises(UncloneError):
            unclone.restore(tmp_path / "c.npz", key)


def patched(change: Callable[[bytearray], bytes | bytearray | None]) -> bytes:
    content = bytearray(WRITERS["stored"])
    return bytes(change(content) or content)


def put(where: str, offset: int, form: str, *values: int) -> Callable[[bytearray], None]:
    """Write at an offset from an entry of the directory, a local header, or the end record."""

    def change(content: bytearray) -> None:
        start = {
            "entry": content.index(b"PK\x01\x02"),
            "second": content.rindex(b"PK\x01\x02"),
            "local": 0,
            "second local": content.rindex(b"PK\x03\x04"),
            "end": content.rindex(b"PK\x05\x06"),
        }[where]
        struct.pack_into("<" + form, content, start + offset, *values)

    return change


def both(*changes: Callable[[bytearray], None]) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        for one in changes:
            one(content)

    return change


def insert(where: bytes, data: bytes, shift: int = 0) -> Callable[[bytearray], bytes]:
    """Put bytes before the first ``where``; the end record is told so if ``shift``."""

    def change(content: bytearray) -> bytes:
        at = content.index(where)
        made = content[:at] + data + content[at:]
        end = made.rindex(b"PK\x05\x06")
        if shift:
            struct.pack_into("<I", made, end + 16, struct.unpack_from("<I", made, end + 16)[0] + len(data))
        return bytes(made)

    return change


HOSTILE: dict[str, tuple[Callable[[bytearray], Any], type[Exception], str]] = {
    "a password": (both(put("entry", 8, "H", 1), put("local", 6, "H", 1)), UnsupportedError, "encrypted"),
    "a masked directory": (put("entry", 8, "H", 0x2000), UnsupportedError, "encrypted"),
    "an unknown method": (both(put("entry", 10, "H", 14), put("local", 8, "H", 14)), UnsupportedError, "method 14"),
    "another method in the member": (put("local", 8, "H", 8), FormatError, "contradict"),
    "another CRC in the member": (put("local", 14, "I", 7), FormatError, "contradict"),
    "another size in the member": (put("local", 22, "I", 7), FormatError, "contradict"),
    "another name in the member": (put("local", 30, "B", 0x62), FormatError, "contradict"),
    "a wrong CRC": (both(put("entry", 16, "I", 7), put("local", 14, "I", 7)), FormatError, "damaged"),
    "overlapping members": (put("second", 42, "I", 0), FormatError, "contradict|overlap"),
    "a member twice": (
        both(put("second", 46, "B", 0x61), put("second local", 30, "B", 0x61)),
        FormatError,
        "two members",
    ),
    "a member beyond the end": (put("second", 42, "I", 0xFFFFFF00), FormatError, "truncated"),
    "a huge member": (put("entry", 20, "2I", 0x7FFFFFFF, 0x7FFFFFFF), FormatError, "truncated"),
    "two sizes of a stored member": (put("entry", 20, "I", 9), FormatError, "two sizes"),
    "zip64 without its field": (put("entry", 24, "I", 0xFFFFFFFF), FormatError, "zip64"),
    "several disks": (put("end", 4, "H", 1), UnsupportedError, "disks"),
    "a member on another disk": (put("entry", 34, "H", 1), UnsupportedError, "disks"),
    "more members than there are": (both(put("end", 8, "H", 3), put("end", 10, "H", 3)), FormatError, "malformed|fit"),
    "fewer members than there are": (both(put("end", 8, "H", 1), put("end", 10, "H", 1)), FormatError, "more than"),
    "a directory elsewhere": (put("end", 16, "I", 3), FormatError, "before it|directory"),
    "a huge directory": (put("end", 12, "I", 0xFFFFFFF0), FormatError, "directory"),
    "a hole between members": (put("entry", 42, "I", 1), FormatError, "contradict|truncated"),
    "data before the directory": (insert(b"PK\x01\x02", b"hidden" * 9, 1), FormatError, "no member"),
    "data before the directory, untold": (insert(b"PK\x01\x02", b"hidden" * 9), FormatError, "directory"),
    "a header block that lies": (
        insert(b"PK\x01\x02", b"{}" + BLOCK_FOOTER.pack(3, BLOCK_MAGIC), 1),
        FormatError,
        "no member",
    ),
    "a script before it": (lambda content: b"#!/bin/sh\n" + content, FormatError, "before it|directory|no model"),
    "an end record in the comment": (
        lambda content: content[:-2] + struct.pack("<H", 22) + b"PK\x05\x06" + bytes(18),
        FormatError,
        "before it|directory",
    ),
    "bytes after it": (lambda content: content + b"x", FormatError, "no end record"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_refused(what: str, tmp_path: Path) -> None:
    change, kind, message = HOSTILE[what]
    path = tmp_path / "m.npz"
    path.write_bytes(patched(change))
    with pytest.raises(kind, match=message):
        Npz().draft(path)


@pytest.mark.parametrize("name", ["../a.npy", "/a.npy", "a/../../b.npy", "..\\a.npy", "\\a.npy"])
def test_names_that_leave_the_archive(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as made:
        made.writestr(name, npy())
    with pytest.raises(FormatError, match="leaves the archive"):
        Npz().draft(tmp_path / "m.npz")


def deflated(data: bytes, claim: int | None = None, tail: bytes = b"") -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = engine.compress(data) + engine.flush() + tail
    size = len(data) if claim is None else claim
    crc = zlib.crc32(data)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(packed), size, 5, 0) + b"a.npy" + packed
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, len(packed), size, 5, 0, 0, 0, 0, 0, 0)
    entry += b"a.npy"
    return local + entry + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local), 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (deflated(bytes(50_000_000), claim=100), "inflate"),
        (deflated(npy(), claim=5), "inflate|truncated"),
        (deflated(npy(), claim=9999), "inflate"),
        (deflated(npy(), claim=0x7FFFFFFF), "claims"),
        (deflated(npy(), tail=b"hidden"), "inflate"),
        (deflated(bytes(8_000_000)), "no numpy array"),
    ],
    ids=["a bomb that lies", "too little", "too much", "an impossible ratio", "hidden data", "zeros"],
)
def test_deflate_streams_that_lie(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        Npz().draft(tmp_path / "m.npz")


def test_more_than_a_gibibyte_of_deflated_arrays_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unclone.formats.npz._INFLATED_LIMIT", 1000)
    (tmp_path / "m.npz").write_bytes(WRITERS["deflated"])
    with pytest.raises(UnsupportedError, match=r"numpy\.savez, uncompressed"):
        Npz().draft(tmp_path / "m.npz")


def test_checksums_are_mended_wherever_they_stand(tmp_path: Path) -> None:
    for what in ("stored", "through a pipe", "zip64 sizes through a pipe"):
        path = tmp_path / "m.zip"
        content = bytearray(WRITERS[what])
        at = content.index(MEMBERS["b.npy"])
        content[at + 200] ^= 0xFF
        path.write_bytes(content)
        with path.open("r+b") as stream:
            with pytest.raises(FormatError, match="damaged"):
                check_contents(stream.fileno(), path, Archive(stream.fileno(), path))
            mend_checksums(stream.fileno())
            check_contents(stream.fileno(), path, Archive(stream.fileno(), path))
        with zipfile.ZipFile(path) as made:
            assert made.testzip() is None


@pytest.mark.slow
def test_archives_above_four_gibibytes(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    if os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize < 12 << 30:
        pytest.skip("needs 12 GiB of disk")
    big = np.full((4 << 30) + 4096, 3, dtype=np.uint8)
    np.savez(tmp_path / "m.npz", big=big, small=np.arange(5.0))
    unclone.bind(tmp_path / "m.npz", device, tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "b.npz") as made:
        assert [info.file_size for info in made.infolist()] == [big.size + 128, 40 + 128]
        assert made.testzip() is None
    loaded = load(tmp_path / "b.npz", key)
    assert loaded["small"].tolist() == [0, 1, 2, 3, 4]
    assert (loaded["big"] == 3).all()
