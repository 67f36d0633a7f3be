"""Bind and restore, seen from outside: safetensors, ordinary tools, errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import unclone
from unclone.errors import (
    AlreadyBoundError,
    FormatError,
    NotBoundError,
    NoWeightsError,
    OutputError,
    ParameterError,
    SlotError,
    TensorTamperedError,
)

BITS = ["finite", "all"]
CIPHERS = ["aes-256-gcm", "chacha20-poly1305"]


def true_bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("bits", BITS)
def test_restored_weights_are_the_original_to_the_bit(
    bits: str,
    cipher: str,
    model_file: Path,
    tensors: dict[str, np.ndarray],
    device: unclone.Device,
    key: unclone.DeviceKey,
    tmp_path: Path,
) -> None:
    bound = tmp_path / "bound.safetensors"
    header = unclone.bind(model_file, device, bound, bits=bits, cipher=cipher)
    assert header == unclone.inspect(bound)
    assert (header.bits, header.cipher, header.version) == (bits, cipher, 1)
    restored = unclone.restore(bound, key)
    assert set(restored) == set(tensors)
    for name, array in tensors.items():
        assert restored[name].data.tobytes() == true_bytes(array), name
        assert restored[name].shape == array.shape


@pytest.mark.parametrize("bits", BITS)
def test_a_bound_file_loads_in_the_ordinary_tool_with_other_values(
    bits: str, model_file: Path, tensors: dict[str, np.ndarray], device: unclone.Device, tmp_path: Path
) -> None:
    bound = tmp_path / "bound.safetensors"
    unclone.bind(model_file, device, bound, bits=bits)
    loaded = load_file(bound)
    for name, array in tensors.items():
        assert loaded[name].shape == array.shape
        assert loaded[name].dtype == array.dtype
        if array.size > 4:
            assert np.mean(loaded[name] == array) < 0.05, name
        if bits == "finite" and array.dtype.kind == "f":
            assert np.isfinite(loaded[name]).all(), name


def test_finite_keeps_the_sign_of_a_tensor_without_negative_values(
    model_file: Path, device: unclone.Device, tmp_path: Path
) -> None:
    unclone.bind(model_file, device, tmp_path / "bound.safetensors")
    loaded = load_file(tmp_path / "bound.safetensors")
    assert (loaded["norm"] >= 0).all()
    assert (loaded["layer.weight"] < 0).mean() == pytest.approx(0.5, abs=0.05)


def test_two_bindings_share_no_keystream(model_file: Path, device: unclone.Device, tmp_path: Path) -> None:
    for name in ("one", "two"):
        unclone.bind(model_file, device, tmp_path / f"{name}.safetensors", bits="all")
    one, two = (load_file(tmp_path / f"{name}.safetensors")["codes"] for name in ("one", "two"))
    same = int(np.sum(one == two))
    assert same < 30  # 1024 bytes, each equal with probability 1/256: P(X >= 30) < 1e-15


def test_many_devices_and_a_stranger(
    model_file: Path,
    device: unclone.Device,
    other_device: unclone.Device,
    key: unclone.DeviceKey,
    other_key: unclone.DeviceKey,
    tmp_path: Path,
) -> None:
    both, one = tmp_path / "both.safetensors", tmp_path / "one.safetensors"
    unclone.bind(model_file, [device, other_device], both)
    unclone.bind(model_file, device, one)
    first, second = unclone.restore(both, key), unclone.restore(both, other_key)
    assert all(np.array_equal(first[name].data, second[name].data) for name in first)
    with pytest.raises(SlotError):
        unclone.restore(one, other_key)


def test_some_tensors_only(
    model_file: Path, tensors: dict[str, np.ndarray], device: unclone.Device, key: unclone.DeviceKey, tmp_path: Path
) -> None:
    bound = tmp_path / "bound.safetensors"
    unclone.bind(model_file, device, bound)
    restored = unclone.restore(bound, key, tensors=["codes"])
    assert list(restored) == ["codes"]
    assert restored["codes"].data.tobytes() == true_bytes(tensors["codes"])
    with pytest.raises(ParameterError, match="'nothing'"):
        unclone.restore(bound, key, tensors=["nothing"])


def test_an_altered_tensor_is_named(
    model_file: Path, tensors: dict[str, np.ndarray], device: unclone.Device, key: unclone.DeviceKey, tmp_path: Path
) -> None:
    bound = tmp_path / "bound.safetensors"
    unclone.bind(model_file, device, bound)
    data = bytearray(bound.read_bytes())
    place = data.index(load_file(bound)["codes"].tobytes())
    data[place + 5] ^= 4
    bound.write_bytes(data)
    with pytest.raises(TensorTamperedError, match="'codes'") as caught:
        unclone.restore(bound, key)
    assert caught.value.tensor == "codes"
    assert list(unclone.restore(bound, key, tensors=["norm"])) == ["norm"]


def test_wiping_leaves_no_weights(
    model_file: Path, device: unclone.Device, key: unclone.DeviceKey, tmp_path: Path
) -> None:
    bound = tmp_path / "bound.safetensors"
    unclone.bind(model_file, device, bound)
    with unclone.restore(bound, key) as restored:
        view = restored["codes"].data
        assert view.any()
    assert not view.any()


def test_bound_twice_plain_and_weightless_files_are_refused(
    model_file: Path, device: unclone.Device, key: unclone.DeviceKey, tmp_path: Path
) -> None:
    bound = tmp_path / "bound.safetensors"
    unclone.bind(model_file, device, bound)
    with pytest.raises(AlreadyBoundError):
        unclone.bind(bound, device, tmp_path / "twice.safetensors")
    with pytest.raises(NotBoundError):
        unclone.restore(model_file, key)
    empty = tmp_path / "empty.safetensors"
    save_file({"nothing": np.zeros((0,), dtype=np.float32)}, empty)
    with pytest.raises(NoWeightsError):
        unclone.bind(empty, device, tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bound.safetensors",
        "empty.safetensors",
        model_file.name,
    ]


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, (2**31).to_bytes(8, "little") + b"{}", b"\x08\x00"])
def test_garbage_is_a_format_error(
    content: bytes, device: unclone.Device, key: unclone.DeviceKey, tmp_path: Path
) -> None:
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError):
        unclone.bind(path, device, tmp_path / "out")
    with pytest.raises(FormatError):
        unclone.restore(path, key)
    assert not (tmp_path / "out").exists()


def test_every_truncation_is_refused(
    model_file: Path, device: unclone.Device, key: unclone.DeviceKey, tmp_path: Path
) -> None:
    bound = tmp_path / "bound.safetensors"
    unclone.bind(model_file, device, bound)
    data = bound.read_bytes()
    for length in [*range(0, len(data), 97), len(data) - 1]:
        bound.write_bytes(data[:length])
        with pytest.raises(FormatError):
            unclone.restore(bound, key)


def test_options_and_outputs(model_file: Path, device: unclone.Device, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(ParameterError, match="at least one"):
        unclone.bind(model_file, [], out)
    with pytest.raises(ParameterError, match="twice"):
        unclone.bind(model_file, [device, device], out)
    with pytest.raises(ParameterError, match="finite or all"):
        unclone.bind(model_file, device, out, bits="some")
    with pytest.raises(ParameterError, match="rot13"):
        unclone.bind(model_file, device, out, cipher="rot13")
    with pytest.raises(OutputError, match="never replaces its input"):
        unclone.bind(model_file, device, model_file, force=True)
    out.write_bytes(b"old")
    with pytest.raises(OutputError, match="--force"):
        unclone.bind(model_file, device, out)
    assert out.read_bytes() == b"old"
    unclone.bind(model_file, device, out, force=True)
    assert unclone.inspect(out).format == "safetensors"


def test_a_read_only_folder_is_refused(model_file: Path, device: unclone.Device, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    folder = tmp_path / "sealed"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        unclone.bind(model_file, device, folder / "out.safetensors")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_bind_leaves_the_old_file(how: signal.Signals, device: unclone.Device, tmp_path: Path) -> None:
    model, out, record = tmp_path / "big.safetensors", tmp_path / "out.safetensors", tmp_path / "device.json"
    save_file({"w": np.ones(24_000_000, dtype=np.float32)}, model)
    unclone.save_device(device, record)
    out.write_bytes(b"old")
    command = [sys.executable, "-m", "unclone", "bind", str(model), "--to", str(record), "-o", str(out), "--force"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".~unclone-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(how)
    process.wait(30)
    assert process.returncode in (130, -how, 0)
    assert out.read_bytes()[:3] == b"old" or unclone.inspect(out).format == "safetensors"
    if how == signal.SIGINT:
        assert not list(tmp_path.glob(".~unclone-*"))
