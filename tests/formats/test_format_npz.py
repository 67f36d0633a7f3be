"""numpy .npz: every type and order, numpy's own reader, and archives meant to hurt."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unclone
from unclone.errors import AlreadyBoundError, FormatError, NoWeightsError, UncloneError, UnsupportedError
from unclone.formats.npz import Npz
from unclone.records import Device, DeviceKey
from unclone.runtime.numpy import load

NUMBERS = ["<f2", "<f4", "<f8", "<c8", "<c16", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<m8[ns]"]


def random(kind: str, shape: Any, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind[1] == "f":
        return np.asarray(rng.normal(0, 0.1, shape)).astype(kind)
    if kind[1] == "c":
        return np.asarray(rng.normal(0, 0.1, shape) + 1j * rng.normal(0, 0.1, shape)).astype(kind)
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * np.dtype(kind).itemsize), dtype=kind).reshape(shape)


def every_type() -> dict[str, np.ndarray]:
    arrays = {f"t/{kind[1:]}": random(kind, (4, 6)) for kind in NUMBERS}
    arrays["raw"] = np.frombuffer(np.random.default_rng(2).bytes(24), dtype="V4").reshape(2, 3)
    arrays["columns"] = np.asfortranarray(random("<f4", (5, 7)))
    arrays["scalar"] = np.array(0.123)
    arrays["empty"] = np.zeros((0, 3), np.float32)
    arrays["flags"] = np.arange(9) % 2 == 0
    arrays["labels"] = np.array(["cat", "dög"])
    arrays["bytes"] = np.array([b"x", b"yy"])
    arrays["bn.num_batches_tracked"] = np.array(7)
    return arrays


CLEAR = {"flags", "labels", "bytes", "bn.num_batches_tracked"}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("bits", ["finite", "all"])
def test_every_type_is_masked_and_restored_to_the_bit(
    bits: str, save: Any, tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    arrays = every_type()
    path, bound = tmp_path / "m.npz", tmp_path / "b.npz"
    save(path, **arrays)
    header = unclone.bind(path, device, bound, bits=bits)
    assert {tensor.name for tensor in header.clear} == CLEAR
    with np.load(bound, allow_pickle=False) as opened:
        assert opened.files == list(arrays)
        for name, array in arrays.items():
            assert (opened[name].dtype, opened[name].shape) == (array.dtype, array.shape)
            assert opened[name].flags.fnc == array.flags.fnc
            assert same(opened[name], array) == (name in CLEAR or not array.size)
            if bits == "finite" and array.dtype.kind in "fc":
                assert np.isfinite(opened[name]).all()
    loaded = load(bound, key)
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert same(loaded[name], array)
        assert loaded[name].flags.fnc == array.flags.fnc
        assert loaded[name].flags.writeable
    with zipfile.ZipFile(bound) as archive:
        assert archive.testzip() is None
    with pytest.raises(AlreadyBoundError):
        unclone.bind(bound, device, tmp_path / "c.npz")


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8).filter(
            lambda name: not name.startswith(("/", "\\")) and name != "file"
        ),
        st.tuples(st.sampled_from(NUMBERS), st.lists(st.integers(0, 4), max_size=4), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_any_names_shapes_and_orders_survive(
    tmp_path_factory: pytest.TempPathFactory, device: Device, key: DeviceKey, plan: dict[str, Any], packed: bool
) -> None:
    folder = tmp_path_factory.mktemp("round")
    arrays = {
        name: np.asarray(random(kind, shape), order="F" if column else "C")
        for name, (kind, shape, column) in plan.items()
    }
    path, bound = folder / "m.npz", folder / "b.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(name + ".npy", content.getvalue())
    if not any(array.nbytes for array in arrays.values()):
        with pytest.raises(NoWeightsError):
            unclone.bind(path, device, bound)
        return
    if any(".." in name.replace("\\", "/").split("/")[:-1] for name in arrays):
        with pytest.raises(FormatError):
            unclone.bind(path, device, bound)
        return
    unclone.bind(path, device, bound)
    with np.load(bound) as opened:
        assert opened.files == list(arrays)
        for name, array in arrays.items():
            assert (opened[name].shape, opened[name].dtype) == (array.shape, array.dtype)
    loaded = load(bound, key)
    assert all(same(loaded[name], array) for name, array in arrays.items())


def array_of(descr: str, shape: str = "(2,)", data: bytes = bytes(8), version: int = 1) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    form = "<H" if version == 1 else "<I"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(form, len(text)) + text + data


def archive(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in members:
            file.writestr(name, data)
    return out.getvalue()


HOSTILE = {
    "objects": (array_of("'|O'"), UnsupportedError, "objects"),
    "records": (array_of("[('a', '<f4'), ('b', '<i4')]"), UnsupportedError, "records"),
    "big-endian": (array_of("'>f4'"), UnsupportedError, "big-endian"),
    "an unknown type": (array_of("'<q7'"), UnsupportedError, "type"),
    "long doubles": (array_of("'<f16'", "(1,)", bytes(16)), UnsupportedError, "<f16"),
    "a number as type": (array_of("7"), UnsupportedError, "records"),
    "a negative size": (array_of("'<f4'", "(-1,)"), FormatError, "shape"),
    "a huge shape": (array_of("'<f4'", "(9999999999, 9999999999)"), FormatError, "memory"),
    "an endless shape": (array_of("'<f4'", "(2,) * 9"), FormatError, "literal"),
    "more than there is": (array_of("'<f4'", "(3,)"), FormatError, "needs 12 bytes"),
    "less than there is": (array_of("'<f4'", "(1,)"), FormatError, "needs 4 bytes"),
    "code": (array_of("__import__('os').system('touch /tmp/owned')"), FormatError, "literal"),
    "deep nesting": (array_of("(" * 4000), FormatError, "literal"),
    "a long header": (array_of("'<f4'" + " " * 12_000), FormatError, "limit"),
    "a huge header": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", FormatError, "limit"),
    "no header": (b"\x93NUMPY\x01\x00\xff\x00", FormatError, "truncated"),
    "an unknown version": (b"\x93NUMPY\x09\x00" + bytes(60), FormatError, "version"),
    "not an array": (b"hello", FormatError, "no numpy array"),
    "another member in it": ({"a.npy": array_of("'<f4'"), "notes.txt": b"x"}, UnsupportedError, "no array"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_arrays_are_refused(what: str, tmp_path: Path, device: Device) -> None:
    content, kind, message = HOSTILE[what]
    members = content.items() if isinstance(content, dict) else [("w.npy", content)]
    (tmp_path / "m.npz").write_bytes(archive(*members))
    with pytest.raises(kind, match=message):
        unclone.bind(tmp_path / "m.npz", device, tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()
    with contextlib.suppress(UncloneError):
        Npz().layout(tmp_path / "m.npz")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_header(version: int, tmp_path: Path, device: Device, key: DeviceKey) -> None:
    data = np.arange(1, 3, dtype="<f4").tobytes()
    (tmp_path / "m.npz").write_bytes(archive(("w.npy", array_of("'<f4'", data=data, version=version))))
    unclone.bind(tmp_path / "m.npz", device, tmp_path / "b.npz")
    assert load(tmp_path / "b.npz", key)["w"].tolist() == [1, 2]


def test_an_archive_without_weights(tmp_path: Path, device: Device) -> None:
    np.savez(tmp_path / "m.npz")
    with pytest.raises(NoWeightsError):
        unclone.bind(tmp_path / "m.npz", device, tmp_path / "b.npz")


def test_a_restored_image_is_the_ordinary_archive_to_numpy(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    arrays = every_type()
    np.savez(tmp_path / "m.npz", **arrays)
    unclone.bind(tmp_path / "m.npz", device, tmp_path / "b.npz")
    restored = unclone.restore(tmp_path / "b.npz", key)
    with (tmp_path / "b.npz").open("r+b") as stream:
        for name, tensor in restored.items():
            stream.seek(restored.layout.regions[name].offset)
            stream.write(tensor.data.tobytes())
        stream.flush()
        Npz().mend(restored.layout, [stream])
    with np.load(tmp_path / "b.npz") as opened:
        assert all(same(opened[name], array) for name, array in arrays.items())
