"""The dial: what a partial binding masks, and that every byte stays authenticated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import unclone
from unclone import Device, DeviceKey
from unclone.errors import HeaderTamperedError, ParameterError, TensorTamperedError
from unclone.header import parse_header
from unclone.model import open_bound
from unclone.model.opening import read_bound

SELECTS = ("blocks", "random", "magnitude", "first-layers", "saliency")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(5)
    tensors = {
        "a": rng.normal(0, 0.1, (700, 500)).astype(np.float32),
        "b": rng.normal(0, 0.1, 400_000).astype(np.float16),
        "c": rng.integers(-128, 128, 300_001).astype(np.int8),
        "empty": np.zeros(0, dtype=np.float32),
        "d": np.array(0.5, dtype=np.float64),
    }
    tensors["b"][100_000:120_000] = 8
    path = tmp_path_factory.mktemp("dial") / "m.safetensors"
    save_file(tensors, path)
    return path, tensors


def bind(path: Path, device: Device, tmp_path: Path, select: str, share: float, **options: Any) -> Path:
    output = tmp_path / f"{select}.safetensors"
    if select == "saliency":
        options["saliency"] = {name: np.arange(value.size) for name, value in load_file(path).items()}
    unclone.bind(path, device, output, select=select, share=share, **options)
    return output


@pytest.mark.parametrize("cipher", ["aes-256-gcm", "chacha20-poly1305"])
@pytest.mark.parametrize("bits", ["finite", "all"])
@pytest.mark.parametrize("select", SELECTS)
def test_restored_bit_for_bit(
    model: tuple[Path, dict[str, np.ndarray[Any, Any]]],
    device: Device,
    key: DeviceKey,
    tmp_path: Path,
    select: str,
    bits: str,
    cipher: str,
) -> None:
    bound = bind(model[0], device, tmp_path, select, 0.3, bits=bits, cipher=cipher)
    for copy in (True, False, None):
        restored = unclone.restore(bound, key, copy=copy)
        for name, value in model[1].items():
            assert restored[name].data.tobytes() == value.tobytes(), (name, copy)
        restored.wipe()
    masked = load_file(bound)
    size = sum(value.nbytes for value in model[1].values())
    altered = sum(
        int((masked[name].reshape(-1).view(np.uint8) != value.reshape(-1).view(np.uint8)).sum())
        for name, value in model[1].items()
    )
    # A masked byte keeps its value once in 256 times, more often where some of its bits stay clear.
    assert 0.24 * size < altered < 0.36 * size


def test_the_wanted_blocks(model: tuple[Path, dict[str, np.ndarray[Any, Any]]], device: Device, tmp_path: Path) -> None:
    path, tensors = model
    masked = load_file(bind(path, device, tmp_path, "magnitude", 0.03, bits="all"))
    assert (masked["b"].view(np.uint16) != tensors["b"].view(np.uint16))[101_000:118_000].mean() > 0.99
    first = load_file(bind(path, device, tmp_path, "first-layers", 0.2, bits="all"))
    assert (first["d"] != tensors["d"]).all()  # the widest dtype lies first in the file
    assert (first["c"] == tensors["c"]).all()


@pytest.mark.parametrize("select", ["blocks", "random"])
def test_positions_are_drawn_afresh_and_not_in_clear(
    model: tuple[Path, dict[str, np.ndarray[Any, Any]]], device: Device, tmp_path: Path, select: str
) -> None:
    places = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        bound = bind(model[0], device, folder, select, 0.2, bits="all")
        places.append(load_file(bound)["b"].view(np.uint16) != model[1]["b"].view(np.uint16))
        header = unclone.inspect(bound)
        assert header.selection.select == select
        assert header.selection.share_ppm == 200_000
        assert bool(header.selection.positions) == (select == "blocks")
    assert (places[0] != places[1]).any()


@pytest.mark.parametrize("select", SELECTS)
def test_every_byte_is_authenticated(
    model: tuple[Path, dict[str, np.ndarray[Any, Any]]], device: Device, key: DeviceKey, tmp_path: Path, select: str
) -> None:
    bound = bind(model[0], device, tmp_path, select, 0.1)
    data = bound.read_bytes()
    layout, header = read_bound(bound)
    rng = np.random.default_rng(3)
    for region in layout.regions.values():
        for _ in range(4 if region.nbytes else 0):
            altered = bytearray(data)
            altered[region.offset + int(rng.integers(region.nbytes))] ^= 1 << int(rng.integers(8))
            bound.write_bytes(altered)
            with pytest.raises(TensorTamperedError) as caught:
                unclone.restore(bound, key)
            assert caught.value.tensor == region.name
    assert parse_header(layout.header or b"") == header


def test_the_header_says_the_share_and_is_bound(
    model: tuple[Path, dict[str, np.ndarray[Any, Any]]], device: Device, key: DeviceKey, tmp_path: Path
) -> None:
    bound = bind(model[0], device, tmp_path, "random", 0.1)
    data = bound.read_bytes()
    bound.write_bytes(data.replace(b'share_ppm\\":100000', b'share_ppm\\":100001'))
    with pytest.raises(HeaderTamperedError):
        unclone.restore(bound, key)


def test_one_tensor_at_a_time(
    model: tuple[Path, dict[str, np.ndarray[Any, Any]]], device: Device, key: DeviceKey, tmp_path: Path
) -> None:
    bound = bind(model[0], device, tmp_path, "blocks", 0.5)
    with open_bound(bound, key) as opened:
        assert set(opened.names) == set(model[1])
        for name in ("d", "a"):
            assert opened.restore([name])[name].data.tobytes() == model[1][name].tobytes()


def test_all_of_it_is_no_partial_binding(model: tuple[Path, Any], device: Device, tmp_path: Path) -> None:
    bound = bind(model[0], device, tmp_path, "random", 1.0)
    assert unclone.inspect(bound).selection.select == "all"


@pytest.mark.parametrize(
    "options",
    [
        {"share": 0.0},
        {"share": 1.5},
        {"share": float("nan")},
        {"share": 1e-9},
        {"share": 0.5, "select": "best"},
        {"share": 0.5, "select": "all"},
        {"share": 0.5, "select": "saliency"},
        {"share": 0.5, "select": "blocks", "saliency": {}},
        {"share": 0.5, "select": "saliency", "saliency": {}},
        {"share": 0.5, "select": "saliency", "saliency": dict.fromkeys("abcd", np.zeros(3)) | {"empty": np.zeros(0)}},
    ],
)
def test_what_is_refused(model: tuple[Path, Any], device: Device, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        unclone.bind(model[0], device, tmp_path / "b.safetensors", **options)
    assert not list(tmp_path.iterdir())


def test_verifying_what_is_masked_alone(
    model: tuple[Path, dict[str, np.ndarray[Any, Any]]], device: Device, key: DeviceKey, tmp_path: Path
) -> None:
    bound = bind(model[0], device, tmp_path, "first-layers", 0.3, bits="all")
    restored = unclone.restore(bound, key, verify="masked")
    for name, value in model[1].items():
        assert restored[name].data.tobytes() == value.tobytes()
    del restored
    layout, _ = read_bound(bound)
    data = bytearray(bound.read_bytes())
    data[layout.regions["c"].offset] ^= 1  # the last tensor of the file, in clear
    bound.write_bytes(data)
    with pytest.raises(TensorTamperedError, match="c"):
        unclone.restore(bound, key)
    assert unclone.restore(bound, key, verify="masked")["a"].data.tobytes() == model[1]["a"].tobytes()
    data[layout.regions["d"].offset] ^= 1
    bound.write_bytes(data)
    with pytest.raises(TensorTamperedError, match="d"):
        unclone.restore(bound, key, verify="masked")


@pytest.mark.parametrize("options", [{"copy": True}, {"lock": True}])
def test_verifying_in_part_is_for_mappings(
    model: tuple[Path, Any], device: Device, key: DeviceKey, tmp_path: Path, options: dict[str, bool]
) -> None:
    bound = bind(model[0], device, tmp_path, "blocks", 0.3)
    with pytest.raises(ParameterError, match="mapping"):
        unclone.restore(bound, key, verify="masked", **options)
    with pytest.raises(ParameterError, match="mapping"):
        unclone.restore(bind(model[0], device, tmp_path, "random", 0.3), key, verify="masked")
    with pytest.raises(ParameterError, match="verify"):
        unclone.restore(bound, key, verify="none")


def test_locked_memory(model: tuple[Path, Any], device: Device, key: DeviceKey, tmp_path: Path) -> None:
    bound = bind(model[0], device, tmp_path, "blocks", 0.3)
    with unclone.restore(bound, key, lock=True) as restored:
        locked = int(next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmLck" in x).split()[1])
        assert locked * 1024 >= restored.nbytes
        assert restored["a"].data.tobytes() == model[1]["a"].tobytes()
    assert not restored["a"].data.any()
