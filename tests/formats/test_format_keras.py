"""Keras archives without Keras: members, descriptions that hide weights, and files meant to hurt."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unclone
from unclone.errors import AlreadyBoundError, FormatError, TamperedError, UncloneError, UnsupportedError
from unclone.formats import detect
from unclone.formats.keras import Keras
from unclone.formats.keras_config import check_config
from unclone.records import Device, DeviceKey

h5py = pytest.importorskip("h5py", reason="h5py is not installed")

CONFIG = json.dumps({"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense"}]}})
DTYPES = ["<f2", "<f4", "<f8", "|i1", "|u1", "<i4", "<i8"]


def weights(arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    return stream.getvalue()


def some_arrays() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1)
    made = {
        f"layers/dense_{n}/vars/0": np.frombuffer(rng.bytes(24 * np.dtype(kind).itemsize), dtype=kind).reshape(4, 6)
        for n, kind in enumerate(DTYPES)
    }
    made["optimizer/vars/0"] = np.array(7, dtype="<i8")
    return made


def archive(path: Path, members: dict[str, bytes | str], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as made:
        for name, data in members.items():
            made.writestr(zipfile.ZipInfo(name, (2025, 1, 2, 3, 4, 6)), data, method)
    return path


def ordinary(path: Path, **more: bytes | str) -> Path:
    members: dict[str, bytes | str] = {
        "metadata.json": '{"keras_version": "3.15.1"}',
        "config.json": CONFIG,
        "model.weights.h5": weights(some_arrays()),
    }
    return archive(path, members | more)


@pytest.mark.parametrize("bits", ["finite", "all"])
def test_every_dtype_is_masked_and_restored_to_the_bit(
    bits: str, tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    path, bound = ordinary(tmp_path / "m.keras"), tmp_path / "b.keras"
    header = unclone.bind(path, device, bound, bits=bits)
    true = some_arrays()
    assert {tensor.name for tensor in header.tensors} == set(true)
    assert not header.clear
    restored = unclone.restore(bound, key)
    assert {name: tensor.data.tobytes() for name, tensor in restored.items()} == {
        name: array.tobytes() for name, array in true.items()
    }
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(bound) as after:
        assert after.testzip() is None
        assert [item.date_time for item in after.infolist()] == [item.date_time for item in before.infolist()]
        assert after.namelist() == before.namelist()
        for name in ("config.json", "metadata.json"):
            assert after.read(name) == before.read(name)
        with h5py.File(io.BytesIO(after.read("model.weights.h5"))) as opened:
            for name, array in true.items():
                assert (opened[name].shape, opened[name].dtype) == (array.shape, array.dtype)
                assert array.size == 1 or opened[name][()].tobytes() != array.tobytes()


def test_the_restored_image_is_a_sound_archive(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    from unclone.model.image import write_image

    path, bound = ordinary(tmp_path / "m.keras"), tmp_path / "b.keras"
    unclone.bind(path, device, bound)
    with (tmp_path / "image").open("w+b") as stream:
        write_image(bound, key, [stream])
    with zipfile.ZipFile(tmp_path / "image") as image:
        assert image.testzip() is None
        with h5py.File(io.BytesIO(image.read("model.weights.h5"))) as opened:
            for name, array in some_arrays().items():
                assert opened[name][()].tobytes() == array.tobytes()


def test_a_bound_archive_needs_no_library(tmp_path: Path, device: Device) -> None:
    unclone.bind(ordinary(tmp_path / "m.keras"), device, tmp_path / "b.keras")
    script = (
        "import sys; sys.modules['h5py'] = None\n"
        "import unclone; unclone.restore(sys.argv[1], unclone.DeviceKey(bytes(range(32))))"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "b.keras"], check=True)


def test_vocabularies_stay_in_clear_by_name(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path = ordinary(tmp_path / "m.keras", **{"assets/": "", "assets/layers/lookup/vocabulary.txt": "a\nb\n"})
    header = unclone.bind(path, device, tmp_path / "b.keras")
    assert [(tensor.name, tensor.shape, tensor.reason) for tensor in header.clear] == [
        ("assets/layers/lookup/vocabulary.txt", (4,), "asset of a layer")
    ]
    assert len(unclone.restore(tmp_path / "b.keras", key)) == len(some_arrays())


def test_the_content_says_that_it_is_keras(tmp_path: Path) -> None:
    assert detect(ordinary(tmp_path / "m.zip")).name == "keras"
    assert detect(archive(tmp_path / "other.keras", {"a": "b"})).name == "keras"


def test_weights_where_hdf5_looks_for_a_superblock(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path = ordinary(tmp_path / "m.keras")
    start = next(iter(Keras().layout(path).regions.values())).offset  # anything behind the member's first byte
    first = path.read_bytes().index(b"\x89HDF")
    assert first < 2048 <= start
    ordinary(path, **{"metadata.json": '{"keras_version": "3.15.1"}' + " " * (2048 - first)})
    assert path.read_bytes()[2048:2056] == b"\x89HDF\r\n\x1a\n"
    unclone.bind(path, device, tmp_path / "b.keras")
    assert len(unclone.restore(tmp_path / "b.keras", key)) == len(some_arrays())


def test_a_bound_archive_is_not_bound_again(tmp_path: Path, device: Device) -> None:
    unclone.bind(ordinary(tmp_path / "m.keras"), device, tmp_path / "b.keras")
    with pytest.raises(AlreadyBoundError):
        unclone.bind(tmp_path / "b.keras", device, tmp_path / "c.keras")


def test_an_archive_that_was_packed_anew_says_so(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    unclone.bind(ordinary(tmp_path / "m.keras"), device, tmp_path / "b.keras")
    with zipfile.ZipFile(tmp_path / "b.keras") as bound:
        archive(tmp_path / "c.keras", {name: bound.read(name) for name in bound.namelist()})
    for act in (lambda: unclone.restore(tmp_path / "c.keras", key), lambda: Keras().draft(tmp_path / "c.keras")):
        with pytest.raises(FormatError, match="another program rewrote the archive"):
            act()


REFUSED: dict[str, tuple[dict[str, bytes | str], str]] = {
    "no weights": ({"config.json": CONFIG}, r"it has no model\.weights\.h5"),
    "no description": ({"model.weights.h5": weights(some_arrays())}, r"it has no config\.json"),
    "weights in npz": ({"config.json": CONFIG, "model.weights.npz": b""}, r"keeps its weights in 'model\.weights\.npz"),
    "weights that are no HDF5": ({"config.json": CONFIG, "model.weights.h5": b"PK"}, "HDF5 library says"),
    "a description that is no JSON": ({"config.json": "{"}, "no JSON"),
    "a description nested deeply": ({"config.json": "[" * 100_000}, "no JSON"),
    "an asset that is an array": ({"assets/table.npy": b"x"}, r"asset 'assets/table\.npy' may hold weights"),
    "a member of nobody": ({"extra.bin": b"x"}, r"member 'extra\.bin' is not known"),
    "an asset called like a dataset": (
        {"assets/a": b"x", "model.weights.h5": weights({"assets/a": np.ones(3)})},
        "both",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_archive_of_keras_is_refused_by_name(name: str, tmp_path: Path) -> None:
    members, message = REFUSED[name]
    path = tmp_path / "m.keras"
    if any(word in name for word in ("no weights", "no description", "npz", "no HDF5")):
        archive(path, members)
    else:
        ordinary(path, **members)
    with pytest.raises(FormatError, match=message):
        Keras().draft(path)


def test_compressed_weights_are_refused_with_the_fix(tmp_path: Path) -> None:
    members = {"config.json": CONFIG, "model.weights.h5": weights(some_arrays())}
    with pytest.raises(UnsupportedError, match=r"model\.weights\.h5 is compressed.*zip -0"):
        Keras().draft(archive(tmp_path / "m.keras", members, zipfile.ZIP_DEFLATED))


def test_damaged_weights_are_not_bound(tmp_path: Path) -> None:
    path = ordinary(tmp_path / "m.keras")
    region = Keras().layout(path).regions["layers/dense_0/vars/0"]
    content = bytearray(path.read_bytes())
    content[region.offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match="CRC"):
        Keras().draft(path)


MANY = [0.5 + n for n in range(65)]


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"layers": [{"class_name": "Normalization", "config": {"mean": [MANY]}}]}, r"layers\[0\]\.config\.mean"),
        ({"class_name": "__tensor__", "config": {"value": [[n] for n in range(65)], "dtype": "int32"}}, "its top"),
        ({"a": {"class_name": "__numpy__", "config": {"value": MANY}}}, "65 numbers in clear at a;"),
        ({"a": [[0.5, 1.5]] * 40}, "80 numbers in clear at a;"),
    ],
)
def test_weights_in_the_description_are_refused_by_their_place(config: Any, place: str) -> None:
    with pytest.raises(UnsupportedError, match=place):
        check_config("config.json", json.dumps(config))


@pytest.mark.parametrize(
    "config",
    [
        {"vocabulary": ["word"] * 1000},
        {"vocabulary": list(range(1000))},
        {"bins": MANY[:64]},
        {"class_name": "__tensor__", "config": {"value": MANY[:10], "dtype": "float32"}},
        {"layers": [{"rate": 0.5, "n": n} for n in range(500)]},
        {"flags": [True] * 100},
    ],
)
def test_settings_and_vocabularies_are_no_weights(config: Any) -> None:
    check_config("config.json", json.dumps(config))


def test_weights_in_the_description_of_an_older_model_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["model_weights/w"] = np.ones(3)
        file.attrs["model_config"] = json.dumps({"config": {"mean": MANY}}).encode()
    with pytest.raises(UnsupportedError, match=r"model_config holds 65 numbers in clear at config\.mean"):
        detect(tmp_path / "m.h5").draft(tmp_path / "m.h5")


def test_any_altered_byte_of_a_bound_archive_is_noticed(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path, bound = tmp_path / "m.keras", tmp_path / "b.keras"
    members = {"config.json": CONFIG, "model.weights.h5": weights({"w": np.arange(9.0)})}
    unclone.bind(archive(path, members), device, bound)
    content = bytearray(bound.read_bytes())
    for place in [*range(0, len(content), 37), len(content) - 1]:
        content[place] ^= 4
        bound.write_bytes(content)
        content[place] ^= 4
        with pytest.raises((FormatError, TamperedError, unclone.errors.KeyMaterialError)):
            unclone.restore(bound, key)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory, device: Device) -> tuple[bytes, bytes]:
    folder = tmp_path_factory.mktemp("contents")
    unclone.bind(ordinary(folder / "m.keras"), device, folder / "b.keras")
    return (folder / "m.keras").read_bytes(), (folder / "b.keras").read_bytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data(), bound=st.sampled_from([True, True, True, True, True, False]))
def test_damage_never_escapes_the_error_tree(
    tmp_path_factory: pytest.TempPathFactory, contents: tuple[bytes, bytes], data: st.DataObject, bound: bool
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "m.keras"
    content = bytearray(contents[bound])
    spans = [(0, 300), (len(content) - 700, len(content) - 1), (0, len(content) - 1), (300, 900)]
    for _ in range(data.draw(st.integers(1, 4))):
        low, high = data.draw(st.sampled_from(spans))
        place = data.draw(st.integers(low, high))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(content)
    with contextlib.suppress(UncloneError):
        Keras().layout(path)
