"""Recorded readings: every format, every option, every damage."""

from __future__ import annotations

import io
import os
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unclone.errors import SourceError
from unclone.puf import open_source
from unclone.puf.readings import SIZE_LIMIT
from unclone.puf.recorded import RecordedSource, describe_recordings

RNG = np.random.default_rng(11)
READINGS = RNG.integers(0, 256, (4, 32), dtype=np.uint8)
BITS = np.unpackbits(READINGS, axis=1)
FLEET = RNG.integers(0, 256, (3, 4, 32), dtype=np.uint8)


def opened(uri: str) -> np.ndarray:
    source = open_source(uri)
    assert isinstance(source, RecordedSource)
    assert source.kind == "file"
    return np.stack([source.evaluate() for _ in range(len(source.readings))])


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    valid = np.ones((3, 4), dtype=bool)
    valid[2, 1] = False
    path = tmp_path / "many.npz"
    np.savez_compressed(
        path, one=READINGS, bits=BITS, fleet=FLEET, valid=valid, temps=np.arange(4.0), names=np.array(["a", "b", "c"])
    )
    return path


def test_packed_and_plain_arrays_are_the_same_readings(archive: Path) -> None:
    assert np.array_equal(opened(f"file:{archive}?array=one"), BITS)
    assert np.array_equal(opened(f"file:{archive}?array=bits"), BITS)


def test_the_only_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", unknown=READINGS, time=np.arange(4.0), labels=np.zeros(4, dtype=np.uint8))
    assert np.array_equal(opened(f"file:{tmp_path}/a.npz"), BITS)


def test_every_option(archive: Path) -> None:
    at = f"file:{archive}?array=one"
    assert np.array_equal(opened(f"{at}&first=1&last=2"), BITS[1:3])
    assert np.array_equal(opened(f"{at}&offset=5&length=40"), BITS[:, 5:45])
    assert np.array_equal(opened(f"{at}&order=lsb"), np.unpackbits(READINGS, axis=1, bitorder="little"))
    fleet = f"file:{archive}?array=fleet&index="
    assert np.array_equal(opened(f"{fleet}1"), np.unpackbits(FLEET[1], axis=1))
    assert np.array_equal(opened(f"{fleet}2&valid=valid"), np.unpackbits(FLEET[2][[0, 2, 3]], axis=1))


def test_packed_says_what_the_values_cannot(tmp_path: Path) -> None:
    quiet = np.zeros((2, 16), dtype=np.uint8)
    quiet[:, 3] = 1
    np.save(tmp_path / "q.npy", quiet)
    assert opened(f"file:{tmp_path}/q.npy").shape == (2, 16)
    assert opened(f"file:{tmp_path}/q.npy?packed=yes").shape == (2, 128)
    np.save(tmp_path / "p.npy", READINGS)
    with pytest.raises(SourceError, match="other than 0 and 1"):
        open_source(f"file:{tmp_path}/p.npy?packed=no")


def test_npy_bool_and_fortran_order(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", BITS.astype(bool))
    np.save(tmp_path / "f.npy", np.asfortranarray(READINGS))
    np.save(tmp_path / "d.npy", FLEET)
    assert np.array_equal(opened(f"file:{tmp_path}/b.npy"), BITS)
    assert np.array_equal(opened(f"file:{tmp_path}/f.npy"), BITS)
    assert np.array_equal(opened(f"file:{tmp_path}/d.npy?index=2"), np.unpackbits(FLEET[2], axis=1))


def test_dumps_in_a_folder_are_read_in_natural_order(tmp_path: Path) -> None:
    for i, reading in enumerate(READINGS):
        (tmp_path / f"read{i * 4}.bin").write_bytes(reading.tobytes())  # read0, read4, read8, read12
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert np.array_equal(opened(f"file:{tmp_path}"), BITS)
    assert np.array_equal(opened(f"file:{tmp_path}/read*.bin"), BITS)
    assert np.array_equal(opened(f"file:{tmp_path}/read8.bin"), BITS[2:3])


def test_one_dump_may_hold_several_readings(tmp_path: Path) -> None:
    (tmp_path / "all.bin").write_bytes(READINGS.tobytes())
    assert np.array_equal(opened(f"file:{tmp_path}/all.bin?reading_bytes=32"), BITS)
    with pytest.raises(SourceError, match="multiple of reading_bytes"):
        open_source(f"file:{tmp_path}/all.bin?reading_bytes=33")


def test_text_with_separators_and_comments(tmp_path: Path) -> None:
    lines = ["# captured at 25 degrees", *(",".join(map(str, row)) + "\r" for row in BITS.tolist()), ""]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    (tmp_path / "a.txt").write_text("\ufeff" + "\n".join("".join(map(str, row)) for row in BITS.tolist()), "utf-8")
    assert np.array_equal(opened(f"file:{tmp_path}/a.csv"), BITS)
    assert np.array_equal(opened(f"file:{tmp_path}/a.txt"), BITS)


def test_readings_begin_again_or_run_out(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", READINGS)
    source = open_source(f"file:{tmp_path}/a.npy?first=1")
    rows = [source.evaluate() for _ in range(4)]
    assert np.array_equal(rows[3], rows[0])
    once = open_source(f"file:{tmp_path}/a.npy?mode=once")
    for _ in range(4):
        once.evaluate()
    with pytest.raises(SourceError, match="holds 4 readings"):
        once.evaluate()


def test_every_device_of_a_file_is_described(archive: Path) -> None:
    found = describe_recordings(archive)
    assert [(item.name, item.readings, item.bits) for item in found] == [
        ("one", 4, 256),
        ("bits", 4, 256),
        ("fleet[0]", 4, 256),
        ("fleet[1]", 4, 256),
        ("fleet[2]", 3, 256),
    ]
    assert np.array_equal(opened(found[4].uri), np.unpackbits(FLEET[2][[0, 2, 3]], axis=1))


def test_awkward_names_are_escaped_in_addresses(tmp_path: Path) -> None:
    folder = tmp_path / "50% & more?"
    folder.mkdir()
    np.savez(folder / "a #1.npz", **{"chip+1 &x": READINGS, "b": READINGS})
    found = describe_recordings(folder / "a #1.npz")
    assert [item.name for item in found] == ["chip+1 &x", "b"]
    assert all(np.array_equal(opened(item.uri), BITS) for item in found)


def test_a_folder_of_folders_holds_a_device_each(tmp_path: Path) -> None:
    for name in ("chip-a", "chip-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "r.bin").write_bytes(READINGS[0].tobytes())
    assert [(item.name, item.bits) for item in describe_recordings(tmp_path)] == [("chip-a", 256), ("chip-b", 256)]


def test_the_error_gives_addresses_that_work(archive: Path) -> None:
    with pytest.raises(SourceError, match="3 arrays of readings") as caught:
        open_source(f"file:{archive}")
    addresses = [word for word in str(caught.value).split() if word.startswith("file:")]
    assert len(addresses) == 5
    assert all(opened(address).shape[1] == 256 for address in addresses)
    with pytest.raises(SourceError, match="several devices; try one of: file:"):
        open_source(f"file:{archive}?array=fleet")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("array=none", "no uint8 or bool array 'none'"),
        ("array=temps", "no uint8 or bool array 'temps'"),
        ("array=fleet&index=3", "does not fit"),
        ("array=fleet&index=-1", "does not fit"),
        ("array=fleet&index=0,0", "does not fit"),
        ("array=one&index=0", "does not fit"),
        ("array=fleet&index=0&valid=temps", "not a bool array"),
        ("array=one&valid=valid", "not a bool array"),
        ("array=one&first=4", "leave no reading"),
        ("array=one&first=2&last=1", "leave no reading"),
        ("array=one&offset=256", "leave the reading"),
        ("array=one&offset=250&length=7", "leave the reading"),
        ("array=one&order=big", "msb or lsb"),
        ("array=one&mode=never", "cycle or once"),
        ("array=one&reading_bytes=32", "unknown option reading_bytes"),
        ("array=one&nonsense=1", "unknown option nonsense"),
    ],
)
def test_bad_options_say_what_is_wrong(archive: Path, options: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        open_source(f"file:{archive}?{options}")


def header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.npy", b"", "not an .npy file"),
        ("short.npy", header((4, 32)) + b"x" * 127, "truncated"),
        ("long.npy", header((4, 32)) + b"x" * 129, "truncated or too long"),
        ("huge.npy", header((1 << 40, 1 << 20)), "larger than"),
        ("float.npy", header((4, 32), "<f8") + bytes(1024), "no uint8 or bool array"),
        ("bool.npy", header((2, 2), "|b1") + b"\1\0\2\1", "damaged"),
        ("version.npy", b"\x93NUMPY\x09\x00" + bytes(64), "not an .npy file"),
        ("garbage.npz", b"PK\3\4" + bytes(64), "not an .npz archive"),
        ("empty.csv", b"\n\n", "holds no reading"),
        ("two.csv", b"0,1,2\n", "other than 0 and 1"),
        ("ragged.csv", b"0101\n010\n", "has 3 bits"),
        ("empty.bin", b"", "is damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=words):
        open_source(f"file:{tmp_path / name}")


def test_missing_files_and_unequal_dumps(tmp_path: Path) -> None:
    for name in ("x.npz", "x.npy", "x.csv", "x.bin", "*.bin"):
        with pytest.raises(SourceError, match="cannot read"):
            open_source(f"file:{tmp_path}/{name}")
    (tmp_path / "a.bin").write_bytes(b"abcd")
    (tmp_path / "b.bin").write_bytes(b"abc")
    with pytest.raises(SourceError, match="3 bytes, and the first dump 4"):
        open_source(f"file:{tmp_path}")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", allow_pickle=True, bad=np.array([print, len], dtype=object), good=READINGS)
    assert np.array_equal(opened(f"file:{tmp_path}/o.npz"), BITS)
    with pytest.raises(SourceError, match="no uint8"):
        open_source(f"file:{tmp_path}/o.npz?array=bad")


def test_an_archive_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as stream:
        stream.write(header((4, SIZE_LIMIT // 2)))
        for _ in range(64):
            stream.write(bytes(1 << 20))
    with pytest.raises(SourceError, match="larger than"):
        open_source(f"file:{path}")


def test_an_archive_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "more.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header((4, 32)) + bytes(10_000_000))
    with pytest.raises(SourceError, match="too long"):
        open_source(f"file:{path}")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 2000), suffix=st.booleans())
def test_only_source_errors_leave_the_parsers(tmp_path: Path, place: int, value: int, cut: int, suffix: bool) -> None:
    stream = io.BytesIO()
    if suffix:
        np.savez_compressed(stream, a=READINGS, b=FLEET)
    else:
        np.save(stream, READINGS)
    data = bytearray(stream.getvalue())
    data[place % len(data)] = value
    path = tmp_path / ("fuzz.npz" if suffix else "fuzz.npy")
    path.write_bytes(data[: len(data) - cut] if cut < 1000 else data)
    with suppress(SourceError):
        for item in describe_recordings(path):
            opened(item.uri)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, READINGS)
    assert np.array_equal(opened(f"file:{path}"), BITS)
    np.save(path, READINGS ^ 255)
    os.utime(path, ns=(1, 1))
    assert np.array_equal(opened(f"file:{path}"), BITS ^ 1)
