"""numpy: load on true arrays, from .npz and safetensors files."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import unclone
from unclone.errors import FormatError, SlotError, TensorTamperedError
from unclone.formats import detect
from unclone.records import Device, DeviceKey
from unclone.runtime.numpy import arrays_of, load

RNG = np.random.default_rng(4)
ARRAYS = {
    "w": RNG.normal(size=(6, 4)).astype(np.float32),
    "columns": np.asfortranarray(RNG.normal(size=(3, 5))),
    "labels": np.array(["a", "bc"]),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 2)),
}


def bind(folder: Path, device: Device) -> Path:
    np.savez(folder / "m.npz", **ARRAYS)
    unclone.bind(folder / "m.npz", device, folder / "b.npz")
    return folder / "b.npz"


def test_npz_as_numpy_gives_it(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    loaded = load(bind(tmp_path, device), key)
    with np.load(tmp_path / "m.npz") as plain:
        assert list(loaded) == plain.files
        for name in plain.files:
            assert (loaded[name].dtype, loaded[name].shape) == (plain[name].dtype, plain[name].shape)
            assert loaded[name].tobytes() == plain[name].tobytes()
            assert loaded[name].flags.f_contiguous == plain[name].flags.f_contiguous


def test_safetensors_too(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    save_file({"w": ARRAYS["w"]}, tmp_path / "m.safetensors")
    unclone.bind(tmp_path / "m.safetensors", device, tmp_path / "b.safetensors")
    assert np.array_equal(load(tmp_path / "b.safetensors", key)["w"], ARRAYS["w"])


def test_wiping_overwrites_the_arrays(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    with unclone.restore(bind(tmp_path, device), key) as restored:
        arrays = arrays_of(restored)
        assert arrays["columns"].any()
    assert not arrays["columns"].any()
    assert not arrays["w"].any()


def test_foreign_keys_changed_arrays_and_other_formats(
    tmp_path: Path, device: Device, key: DeviceKey, other_key: DeviceKey
) -> None:
    bound = bind(tmp_path, device)
    with pytest.raises(SlotError):
        load(bound, other_key)
    region = detect(bound).layout(bound).regions["columns"]
    content = bytearray(bound.read_bytes())
    content[region.offset + 9] ^= 4
    bound.write_bytes(content)
    with pytest.raises(TensorTamperedError, match="columns"):
        load(bound, key)
    with contextlib.suppress(ImportError):
        import torch

        torch.save({"w": torch.ones(9)}, tmp_path / "m.pt")
        unclone.bind(tmp_path / "m.pt", device, tmp_path / "b.pt")
        with pytest.raises(FormatError, match="torch"):
            load(tmp_path / "b.pt", key)


def test_headers_are_those_that_were_verified(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    bound = bind(tmp_path, device)
    restored = unclone.restore(bound, key)
    bound.write_bytes(bound.read_bytes().replace(b"'<f4'", b"'<i4'"))
    assert arrays_of(restored)["w"].dtype == np.float32
