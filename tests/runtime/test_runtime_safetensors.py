"""safetensors on true weights: the same dictionary as the ordinary loader's."""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file as load_plain
from safetensors.numpy import save_file

import unclone
from unclone.errors import FormatError, MissingExtraError, ParameterError, TensorTamperedError, UnsupportedError
from unclone.records import Device, DeviceKey
from unclone.runtime.safetensors import arrays_of, load_file, safe_open

RNG = np.random.default_rng(3)
ARRAYS = {
    "f": RNG.normal(size=(5, 7)).astype(np.float32),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 3), np.float16),
    "flags": RNG.integers(0, 2, 9).astype(bool),
    "codes": RNG.integers(-9, 9, (3, 3)).astype(np.int8),
}


def bind(folder: Path, arrays: dict[str, np.ndarray], device: Device) -> Path:
    save_file(arrays, folder / "m.safetensors")
    unclone.bind(folder / "m.safetensors", device, folder / "b.safetensors")
    return folder / "b.safetensors"


def test_load_file_gives_what_the_ordinary_one_gives(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    loaded = load_file(bind(tmp_path, ARRAYS, device), key)
    plain = load_plain(tmp_path / "m.safetensors")
    assert set(loaded) == set(plain)
    for name, array in plain.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes()
        assert loaded[name].flags.writeable


def test_brain_floats_and_their_absence(
    tmp_path: Path, device: Device, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = bind(tmp_path, {"b": RNG.normal(size=8).astype(ml_dtypes.bfloat16)}, device)
    assert load_file(bound, key)["b"].dtype == ml_dtypes.bfloat16
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(MissingExtraError, match="ml_dtypes"):
        load_file(bound, key)


def test_types_that_numpy_has_not(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    text = b'{"q":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}'
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\x12\x34")
    unclone.bind(tmp_path / "m.safetensors", device, tmp_path / "b.safetensors")
    with pytest.raises(UnsupportedError, match="float4_e2m1"):
        load_file(tmp_path / "b.safetensors", key)
    assert unclone.restore(tmp_path / "b.safetensors", key)["q"].data.tobytes() == b"\x12\x34"


def test_wiping_overwrites_the_arrays(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    with unclone.restore(bind(tmp_path, ARRAYS, device), key) as restored:
        array = arrays_of(restored)["f"]
        assert array.any()
    assert not array.any()


def test_another_format(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    import onnx
    from onnx import helper as h
    from onnx import numpy_helper

    graph = h.make_graph(
        [h.make_node("Identity", ["w"], ["y"])], "g", [], [], [numpy_helper.from_array(ARRAYS["f"], "w")]
    )
    onnx.save(h.make_model(graph), tmp_path / "m.onnx")
    unclone.bind(tmp_path / "m.onnx", device, tmp_path / "b.onnx")
    with pytest.raises(FormatError, match="onnx"):
        load_file(tmp_path / "b.onnx", key)


def test_lazily_as_the_library_does(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import safe_open as plain_open
    from safetensors.torch import save_file as save_torch

    torch.manual_seed(0)
    tensors = {
        "w": torch.randn(40, 30),
        "b16": torch.randn(7).to(torch.bfloat16),
        "f8": torch.randn(4, 4).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
    }
    save_torch(tensors, tmp_path / "m.safetensors", metadata={"author": 'a "b"'})
    unclone.bind(tmp_path / "m.safetensors", device, tmp_path / "b.safetensors")
    with (
        plain_open(tmp_path / "m.safetensors", "pt") as plain,
        safe_open(tmp_path / "b.safetensors", key, "pt") as mine,
    ):
        assert sorted(mine.keys()) == sorted(plain.keys())
        assert mine.offset_keys() == list(plain.offset_keys())
        assert mine.metadata() == plain.metadata()
        for name in plain.keys():  # noqa: SIM118 (it is no dict)
            assert torch.equal(
                mine.get_tensor(name).reshape(-1).view(torch.uint8),
                plain.get_tensor(name).reshape(-1).view(torch.uint8),
            )
            assert mine.get_slice(name).get_shape() == plain.get_slice(name).get_shape()
            assert mine.get_slice(name).get_dtype() == plain.get_slice(name).get_dtype()
        assert torch.equal(mine.get_slice("w")[3:5, ::2], plain.get_slice("w")[3:5, ::2])
        with pytest.raises(ParameterError, match="no tensor"):
            mine.get_tensor("v")
        with pytest.raises(ParameterError, match="no tensor"):
            mine.get_slice("v")
    with pytest.raises(FormatError, match="closed"):
        mine.get_tensor("w")
    whole = load_file(tmp_path / "b.safetensors", key, framework="pt")
    assert all(
        torch.equal(whole[name].reshape(-1).view(torch.uint8), tensors[name].reshape(-1).view(torch.uint8))
        for name in tensors
    )
    with pytest.raises(ParameterError, match="framework"):
        load_file(tmp_path / "b.safetensors", key, framework="jax")
    with pytest.raises(ParameterError, match="device"):
        safe_open(tmp_path / "b.safetensors", key, device="cuda:0")


def test_an_altered_tensor_harms_nobody_but_itself(tmp_path: Path, device: Device, key: DeviceKey) -> None:

    save_file({"a": np.ones(50, dtype=np.float32), "b": np.ones(50, dtype=np.float32)}, tmp_path / "m.safetensors")
    unclone.bind(tmp_path / "m.safetensors", device, tmp_path / "b.safetensors")
    data = bytearray((tmp_path / "b.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "b.safetensors").write_bytes(data)
    with safe_open(tmp_path / "b.safetensors", key) as opened:
        assert (opened.get_tensor("a") == 1).all()
        with pytest.raises(TensorTamperedError, match="b"):
            opened.get_tensor("b")
