"""Weights handed to ONNX Runtime without a copy, where its optimisation leaves them alone, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, numpy_helper
from onnx import helper as h

import unclone
from unclone.records import Device, DeviceKey
from unclone.runtime.onnx import session_from

ort.set_default_logger_severity(4)
RNG = np.random.default_rng(5)


def model(nodes: list[NodeProto], inputs: dict[str, list[int]], output: list[int], **tensors: np.ndarray) -> bytes:
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    built = h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(built)
    return built.SerializeToString()


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.1, shape).astype(np.float32)


def matmul() -> bytes:
    return model([h.make_node("MatMul", ["x", "W"], ["y"])], {"x": [2, 64]}, [2, 64], W=weights(64, 64))


def gemm() -> bytes:
    nodes = [h.make_node("Gemm", ["x", "W", "b"], ["y"], transB=1)]
    return model(nodes, {"x": [2, 64]}, [2, 96], W=weights(96, 64), b=weights(96))


def lstm() -> bytes:
    nodes = [h.make_node("LSTM", ["x", "W", "R"], ["h"], hidden_size=32), h.make_node("Identity", ["h"], ["y"])]
    return model(nodes, {"x": [3, 2, 16]}, [3, 1, 2, 32], W=weights(1, 128, 16), R=weights(1, 128, 32))


def embedding() -> bytes:
    nodes = [h.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64), h.make_node("Gather", ["W", "i"], ["y"])]
    return model(nodes, {"x": [4]}, [4, 64], W=weights(64, 64))


def turned_round() -> bytes:
    """The transpose optimiser turns W in place."""
    nodes = [
        h.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        h.make_node("Mul", ["t", "W"], ["m"]),
        h.make_node("Relu", ["m"], ["r"]),
        h.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 3, 1]),
    ]
    return model(nodes, {"x": [1, 8, 16, 4]}, [1, 8, 16, 4], W=weights(1, 4, 8, 16) * 9)


def normalised() -> bytes:
    """Fusion multiplies W by what follows: its value is looked at."""
    nodes = [
        h.make_node("MatMul", ["x", "W"], ["m"]),
        h.make_node("BatchNormalization", ["m", "scale", "bias", "mean", "var"], ["y"]),
    ]
    rest = {name: np.abs(weights(64)) for name in ("scale", "bias", "mean", "var")}
    return model(nodes, {"x": [2, 64]}, [2, 64], W=weights(64, 64), **rest)


def transposed_weight() -> bytes:
    """Constant folding turns W; the product uses what comes of it."""
    nodes = [h.make_node("Transpose", ["W"], ["V"], perm=[1, 0]), h.make_node("MatMul", ["x", "V"], ["y"])]
    return model(nodes, {"x": [2, 64]}, [2, 96], W=weights(96, 64))


def both_ways() -> bytes:
    """One weight, two operators: one takes it as it is, the other does not."""
    nodes = [
        h.make_node("MatMul", ["x", "W"], ["m"]),
        h.make_node("Relu", ["W"], ["V"]),
        h.make_node("MatMul", ["m", "V"], ["y"]),
    ]
    return model(nodes, {"x": [2, 64]}, [2, 64], W=weights(64, 64))


NETWORKS = [matmul, gemm, lstm, embedding, turned_round, normalised, transposed_weight, both_ways]


@pytest.mark.parametrize("network", NETWORKS, ids=[network.__name__ for network in NETWORKS])
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
def test_outputs_are_those_of_the_plain_model(
    network: object, level: str, tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    plain = network()  # type: ignore[operator]
    (tmp_path / "m.onnx").write_bytes(plain)
    unclone.bind(tmp_path / "m.onnx", device, tmp_path / "b.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    sessions = [
        ort.InferenceSession(plain, options),
        session_from(unclone.restore(tmp_path / "b.onnx", key), sess_options=options),
    ]
    shape = sessions[0].get_inputs()[0].shape
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 60
    expected, found = (session.run(None, {"x": x})[0] for session in sessions)
    assert found.tobytes() == expected.tobytes()


def test_a_weight_that_optimisation_looks_at_after_all(
    tmp_path: Path, device: Device, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unclone.runtime.onnx._MULTIPLIED_IN", ("", "nothing"))
    plain = normalised()
    (tmp_path / "m.onnx").write_bytes(plain)
    unclone.bind(tmp_path / "m.onnx", device, tmp_path / "b.onnx")
    x = {"x": weights(2, 64)}
    expected = ort.InferenceSession(plain).run(None, x)[0]
    assert session_from(unclone.restore(tmp_path / "b.onnx", key)).run(None, x)[0].tobytes() == expected.tobytes()


def test_no_copy_is_made(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    (tmp_path / "m.onnx").write_bytes(embedding())
    unclone.bind(tmp_path / "m.onnx", device, tmp_path / "b.onnx")
    restored = unclone.restore(tmp_path / "b.onnx", key)
    session = session_from(restored)
    x = {"x": np.arange(4, dtype=np.float32)}
    assert session.run(None, x)[0].any()
    restored.wipe()
    assert not session.run(None, x)[0].any()
