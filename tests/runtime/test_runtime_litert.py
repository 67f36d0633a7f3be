"""LiteRT: an interpreter on the true weights, and what it costs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import unclone
from unclone.errors import FormatError, ParameterError, SlotError, TensorTamperedError
from unclone.formats.tflite import Tflite
from unclone.records import Device, DeviceKey
from unclone.runtime.litert import interpreter
from unclone.runtime.memory_file import memory_file, path_of, seal

sys.path.append(str(Path(__file__).parent.parent / "formats"))
from tflite_models import Model, fully_connected

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")

RNG = np.random.default_rng(1)
X = RNG.normal(0, 1, (3, 64)).astype(np.float32)


def network(path: Path, width: int = 64) -> Path:
    model = Model()
    x, h, y = (model.tensor(name, [3, size], "float32") for name, size in (("x", 64), ("h", width), ("y", 5)))
    first = model.constant("first", RNG.normal(0, 0.1, (width, 64)).astype(np.float32))
    bias = model.constant("bias", RNG.normal(0, 0.1, width).astype(np.float32))
    second = model.constant("second", RNG.normal(0, 0.1, (5, width)).astype(np.float32))
    fully_connected(model, x, first, bias, h)
    fully_connected(model, h, second, -1, y)
    model.ends([x], [y])
    return model.save(path)


def answer(made: Any) -> np.ndarray:
    made.allocate_tensors()
    made.set_tensor(made.get_input_details()[0]["index"], X)
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"])


def test_the_interpreter_gives_the_true_results(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path, bound = network(tmp_path / "m.tflite"), tmp_path / "b.tflite"
    unclone.bind(path, device, bound)
    true = answer(litert.Interpreter(model_path=str(path), num_threads=1))
    before = set(os.listdir("/proc/self/fd"))
    made = interpreter(bound, key, num_threads=1)
    np.testing.assert_array_equal(answer(made), true)
    assert not np.allclose(answer(litert.Interpreter(model_path=str(bound), num_threads=1)), true)
    bound.unlink()  # nothing of it is read again
    np.testing.assert_array_equal(answer(made), true)
    files = {name for name in set(os.listdir("/proc/self/fd")) - before if _is_memory(name)}
    assert len(files) <= 1, "besides the interpreter's own, no descriptor of the memory stays open"


def _is_memory(descriptor: str) -> bool:
    try:
        return "memfd:" in os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return False


def test_what_it_refuses(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    bound = tmp_path / "b.tflite"
    unclone.bind(network(tmp_path / "m.tflite"), device, bound)
    with pytest.raises(ParameterError, match="model_content would name another model"):
        interpreter(bound, key, model_content=b"")
    with pytest.raises(SlotError):
        interpreter(bound, DeviceKey(bytes(32)))
    save_file({"w": np.ones(9, dtype=np.float32)}, tmp_path / "m.safetensors")
    unclone.bind(tmp_path / "m.safetensors", device, tmp_path / "b.safetensors")
    with pytest.raises(FormatError, match="where tflite is needed"):
        interpreter(tmp_path / "b.safetensors", key)
    content = bytearray(bound.read_bytes())
    content[Tflite().layout(bound).regions["second"].offset] ^= 1
    bound.write_bytes(content)
    with pytest.raises(TensorTamperedError) as caught:
        interpreter(bound, key)
    assert caught.value.tensor == "second"


def test_a_sealed_file_in_memory_can_be_read_and_not_be_changed() -> None:
    with memory_file("unclone") as stream:
        stream.write(b"weights")
        seal(stream)
        path = path_of(stream)
        assert Path(path).read_bytes() == b"weights"
        with pytest.raises(PermissionError):
            os.pwrite(stream.fileno(), b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(stream.fileno(), 3)
        assert not os.get_inheritable(stream.fileno())
    assert not Path(path).exists()
