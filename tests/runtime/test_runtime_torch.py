"""torch: load and load_into on true weights, from checkpoints and safetensors files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import unclone
from recorded_data import data_folder
from unclone.errors import FormatError, MissingExtraError, ParameterError, SlotError, TensorTamperedError
from unclone.formats import detect
from unclone.records import Device, DeviceKey
from unclone.runtime.torch import load, load_into, object_of, state_dict

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")


def network() -> Any:
    torch.manual_seed(5)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 3)
    )


def bind(folder: Path, value: Any, device: Device) -> Path:
    torch.save(value, folder / "m.pt")
    unclone.bind(folder / "m.pt", device, folder / "b.pt", force=True)
    return folder / "b.pt"


@pytest.mark.parametrize("device_of_module", ["cpu", "meta"])
@pytest.mark.parametrize("nest", [None, "state_dict", "model_state_dict", "model"])
def test_a_module_gets_the_true_weights(
    nest: str | None, device_of_module: str, tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    true = network().eval()
    state = true.state_dict()
    bound = bind(tmp_path, state if nest is None else {nest: state, "epoch": 3}, device)
    with torch.device(device_of_module):
        other = network().eval()
    result = load_into(other, bound, key)
    assert not result.missing_keys
    assert not result.unexpected_keys
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(other(x), true(x))
    clone = network()
    clone.load_state_dict(
        torch.load(bound, weights_only=True) if nest is None else torch.load(bound, weights_only=True)[nest]
    )
    assert not torch.allclose(clone.eval()(x), true(x))


def test_a_prefix_is_stripped_on_request(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    state = {"module." + name: value for name, value in network().state_dict().items()}
    bound = bind(tmp_path, state, device)
    with pytest.raises(ParameterError, match=r'prefix="module\."'):
        load_into(network(), bound, key)
    other = network()
    assert not load_into(other, bound, key, prefix="module.").missing_keys
    assert torch.equal(other[0].weight, state["module.0.weight"])
    part = torch.nn.Conv2d(1, 4, 3, device="meta")
    load_into(part, bound, key, prefix="module.0.")
    assert torch.equal(part.weight, state["module.0.weight"])


def test_what_does_not_fit_is_told(tmp_path: Path, device: Device, key: DeviceKey, other_key: DeviceKey) -> None:
    bound = bind(tmp_path, network().state_dict(), device)
    with pytest.raises(ParameterError, match="does not fit"):
        load_into(torch.nn.Linear(2, 2), bound, key)
    assert load_into(torch.nn.Linear(2, 2), bound, key, strict=False).missing_keys == ["weight", "bias"]
    with pytest.raises(SlotError):
        load(bound, other_key)
    with pytest.raises(FormatError, match="state dict"):
        load_into(network(), bind(tmp_path, [torch.ones(3)], device), key)


def test_types_of_the_file_are_kept(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    half = network().to(torch.bfloat16)
    other = network()
    load_into(other, bind(tmp_path, half.state_dict(), device), key)
    assert other[0].weight.dtype == torch.bfloat16
    assert torch.equal(other[0].weight, half[0].weight)


def test_tensors_are_views_of_one_buffer_and_zero_when_wiped(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    bound = bind(tmp_path, {"a": torch.ones(64), "b": torch.ones(3, 5)}, device)
    with unclone.restore(bound, key) as restored:
        value = object_of(restored)
        places = [tensor.data.ctypes.data for tensor in restored.values()]
        assert [value[name].data_ptr() for name in ("a", "b")] == places
        assert value["b"].all()
        assert set(state_dict(restored)) == {"a", "b"}
    assert not value["a"].any()
    assert not value["b"].any()


def test_a_changed_storage_is_named(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    bound = bind(tmp_path, network().state_dict(), device)
    region = detect(bound).layout(bound).regions["3.weight"]
    content = bytearray(bound.read_bytes())
    content[region.offset + 5] ^= 1
    bound.write_bytes(content)
    with pytest.raises(TensorTamperedError, match=r"3\.weight"):
        load(bound, key)


def test_a_partly_bound_checkpoint(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    value = {"w": torch.randn(300, 1000), "b": torch.randn(7)}
    torch.save(value, tmp_path / "m.pt")
    unclone.bind(tmp_path / "m.pt", device, tmp_path / "b.pt", share=0.1, select="blocks")
    loaded = load(tmp_path / "b.pt", key)
    assert all(torch.equal(loaded[name], value[name]) for name in value)


def test_safetensors_as_tensors(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    value = {
        "half": torch.randn(4, 2).to(torch.bfloat16),
        "eighth": torch.randn(6).to(torch.float8_e4m3fn),
        "codes": torch.arange(6, dtype=torch.int8).reshape(2, 3),
        "empty": torch.zeros(0, 2),
        "scalar": torch.tensor(2.5),
    }
    safetensors_torch.save_file(value, tmp_path / "m.safetensors")
    unclone.bind(tmp_path / "m.safetensors", device, tmp_path / "b.safetensors")
    loaded = load(tmp_path / "b.safetensors", key)
    for name, tensor in value.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(loaded[name].float(), tensor.float())
    state = network().state_dict()
    safetensors_torch.save_file(state, tmp_path / "n.safetensors")
    unclone.bind(tmp_path / "n.safetensors", device, tmp_path / "c.safetensors")
    other = network()
    load_into(other, tmp_path / "c.safetensors", key)
    assert torch.equal(other[3].weight, state["3.weight"])


def test_another_format_and_no_torch(
    tmp_path: Path, device: Device, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "m.npz", w=np.ones(9))
    unclone.bind(tmp_path / "m.npz", device, tmp_path / "b.npz")
    with pytest.raises(FormatError, match="npz"):
        load(tmp_path / "b.npz", key)
    save_file({"w": np.ones(9)}, tmp_path / "m.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="torch"):
        load(tmp_path / "m.safetensors", key)


def digits() -> tuple[Any, Any]:
    path = data_folder() / "tasks" / "mnist.npz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    with np.load(path) as data:
        images = torch.from_numpy(data["x_test"][:2000].astype(np.float32) / 255)
        labels = torch.from_numpy(data["y_test"][:2000].astype(np.int64))
    return ((images.reshape(-1, 1, 28, 28) - 0.1307) / 0.3081), labels


def test_a_real_network_saved_on_a_card(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    package = importlib.util.find_spec("ccexam")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the package ccexam 1.0.0, which carries the network, is not installed")
    images, labels = digits()
    path = Path(package.submodule_search_locations[0]) / "weights" / "mnist.pth"
    unclone.bind(path, device, tmp_path / "b.pth")
    nn = torch.nn

    def block() -> Any:
        class Digits(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.features = nn.Sequential(
                    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                    nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                )  # fmt: skip
                self.classifier = nn.Sequential(nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10))

            def forward(self, x: Any) -> Any:
                return self.classifier(self.features(x).flatten(1))

        return Digits().eval()

    def hits(model: Any) -> int:
        with torch.no_grad():
            return int((model(images).argmax(1) == labels).sum())

    with torch.device("meta"):
        genuine = block()
    load_into(genuine, tmp_path / "b.pth", key, map_location="cpu")
    clone = block()
    clone.load_state_dict(torch.load(tmp_path / "b.pth", map_location="cpu", weights_only=True))
    assert hits(genuine) > 0.98 * len(labels)
    assert hits(clone) < 0.3 * len(labels)
