"""Quantised ONNX models in the lab: computed as ONNX Runtime does, and trained as the numbers their codes stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from unclone.errors import ParameterError
from unclone.lab.attacks.public_base import public_base
from unclone.lab.entries import Entries, Entry
from unclone.lab.interpreter import OnnxNetwork
from unclone.lab.interpreter.codes import Code
from unclone.lab.jobs import locked_by
from unclone.lab.registry import attack_named, scheme_named
from unclone.lab.tasks.onnx_task import OnnxTask

quantization = pytest.importorskip("onnxruntime.quantization")

DIGITS = load_digits()
INPUTS, LABELS = (DIGITS.images / 16).astype(np.float32)[:, None], DIGITS.target
HALF = np.random.default_rng(0).permutation(len(LABELS))[: len(LABELS) // 2]  # as the task draws it


def convolutional(path: Path) -> Path:
    """A small network, untrained: convolution, addition, pooling, dense layers."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    values = {
        "k1": drawn(8, 1, 3, 3), "b1": rng.normal(0, 0.1, 8).astype(np.float32), "k2": drawn(8, 8, 3, 3),
        "w1": drawn(48, 128).T.copy(), "b2": rng.normal(0, 0.1, 48).astype(np.float32), "w2": drawn(10, 48),
        "b3": np.zeros(10, dtype=np.float32), "flat": np.array([0, 128], dtype=np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "k1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "k2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["s"]),
        helper.make_node("MaxPool", ["s"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["p", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "w1"], ["m"]),
        helper.make_node("Add", ["m", "b2"], ["h"]),
        helper.make_node("Relu", ["h"], ["r2"]),
        helper.make_node("Gemm", ["r2", "w2", "b3"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


class Calibration(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self._batches = iter([{"x": INPUTS[HALF[at : at + 50]]} for at in range(0, 200, 50)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def static(kind: str, *, per_channel: bool, unsigned: bool = False) -> Callable[[Path, Path], None]:
    def quantise(source: Path, target: Path) -> None:
        quantization.quantize_static(
            source, target, Calibration(), quant_format=getattr(quantization.QuantFormat, kind),
            per_channel=per_channel, activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QUInt8 if unsigned else quantization.QuantType.QInt8,
        )  # fmt: skip

    return quantise


def dynamic(source: Path, target: Path) -> None:
    quantization.quantize_dynamic(source, target, weight_type=quantization.QuantType.QInt8)


WAYS = {
    "QDQ": static("QDQ", per_channel=False),
    "QDQ of channels": static("QDQ", per_channel=True),
    "QDQ of uint8": static("QDQ", per_channel=False, unsigned=True),
    "QOperator": static("QOperator", per_channel=False),
    "QOperator of channels": static("QOperator", per_channel=True),
    "dynamic": dynamic,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network, trained by the lab in floats."""
    folder = tmp_path_factory.mktemp("float")
    task = OnnxTask(convolutional(folder / "fresh.onnx"), (INPUTS, LABELS))
    return task.model_file(task.fit(task.initialise(0), 900, 0), folder / "trained")


@pytest.fixture(params=list(WAYS))
def task(request: pytest.FixtureRequest, trained: Path, tmp_path: Path) -> OnnxTask:
    WAYS[request.param](trained, tmp_path / "int8.onnx")
    return OnnxTask(tmp_path / "int8.onnx", (INPUTS, LABELS))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_quantised_model_is_trained(task: OnnxTask) -> None:
    true = task.weights()
    assert {value.dtype.itemsize for name, value in true.items() if value.ndim > 1} == {1}
    assert task.trainable, task.untrainable  # so the interpreter and ONNX Runtime agree on it
    assert task.score(true) > 0.9
    fresh = task.initialise(1)
    assert {name: value.dtype for name, value in fresh.items()} == {name: value.dtype for name, value in true.items()}
    assert task.score(fresh) < 0.5
    assert task.score(task.fit(fresh, 900, 1)) > 0.9
    assert task.score(task.fit(true, 50, 1, effort=0.1)) > 0.85


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_codes_that_may_not_move_stay(task: OnnxTask) -> None:
    true = task.weights()
    moving = min(name for name, value in true.items() if value.ndim > 1)
    free = {name: np.zeros(value.shape, dtype=bool) for name, value in true.items()}
    free[moving][...] = True
    fitted = task.fit(true, 100, 0, effort=0.2, free=free)
    changed = {name for name in true if not np.array_equal(fitted[name], true[name])}
    assert changed == {moving}


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32"])
def test_codes_are_read_and_written_alike(kind: str) -> None:
    limits = np.iinfo(kind)
    codes = np.random.default_rng(0).integers(limits.min // 256, limits.max // 256, (64, 3), endpoint=True).astype(kind)
    code = Code(np.float32([[0.1, 3.0, 1e-4]]), np.float32(5), np.dtype(kind))
    if kind != "int32":
        codes[:4, 0] = [limits.min, limits.max, 0, 5]
        assert np.array_equal(code.codes(code.values(codes)), codes)
    assert code.values(np.full((1, 3), 5, dtype=kind)).tolist() == [[0.0, 0.0, 0.0]]
    assert code.codes(np.float32([[1e12, -1e12, 0.0]])).tolist() == [[limits.max, limits.min, 5]]


@pytest.fixture(scope="module")
def victim(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxTask:
    path = tmp_path_factory.mktemp("victim") / "int8.onnx"
    WAYS["QDQ of channels"](trained, path)
    return OnnxTask(path, (INPUTS, LABELS))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("attack", "scheme", "least"),
    [
        ("two-time-pad", "reused-pad", 0.95),
        ("helper-data", "bare-helper", 0.95),
        ("puf-modelling", "arbiter-pad", 0.7),
        ("public-base", "row-column-permutation", 0.95),
        ("public-base", "cat-map", 0.95),
        ("fine-tune", "paper-pad", 0.9),
        ("hill-climbing", "sign-flips", 0.6),
        ("position-detection", "nnsplitter", 0.9),
        ("prune", "few-weights", 0.6),
    ],
)
def test_attacks_on_codes_break_what_is_weak_and_not_the_default(
    victim: OnnxTask, attack: str, scheme: str, least: float
) -> None:
    def score(name: str, labels: int) -> float:
        locked = locked_by(scheme_named(name), victim, 0)
        return attack_named(attack).run(victim, locked, labels=labels, seed=0, effort=0.4).score

    assert score(scheme, 300) >= least
    own = score("unclone", 20)
    trained_alone = victim.score(victim.fit(victim.initialise(0), 20, 0, effort=0.4))
    if attack == "public-base":
        base = public_base(victim, 0, 0.4)
        trained_alone = victim.score(victim.fit(base, 20, 0, effort=0.4))
    assert own <= trained_alone + 0.1


def test_a_scheme_that_picks_by_magnitude_refuses_what_has_none(victim: OnnxTask) -> None:
    weights = {name: value.astype(np.uint8) for name, value in victim.weights().items()}
    for name in ("sign-flips", "few-weights", "gradient-picked", "nnsplitter"):
        with pytest.raises(ParameterError, match="int8 codes"):
            scheme_named(name).lock(weights, 0)


def test_codes_of_an_embedding_are_seen_through_the_look_up() -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (50, 8)).astype(np.int8)
    node = helper.make_node("DequantizeLinear", ["row", "s", "z"], ["y"], axis=1)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["row"]), node], "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [
            numpy_helper.from_array(codes, "table"), numpy_helper.from_array(np.float32(0.02), "s"),
            numpy_helper.from_array(np.int8(3), "z"),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    network = OnnxNetwork(model, frozenset(["table"]), "y", Entries((Entry("x", np.dtype("int64"), ()),)))
    assert network.kinds == {"table": "embedding"}
    assert np.allclose(network.codes["table"].values(codes), (codes.astype(np.float32) - 3) * 0.02)
    rows = torch.tensor([4, 7])
    found = network.forward({"table": torch.from_numpy(codes)}, rows, training=False)
    assert np.allclose(found.numpy(), (codes[[4, 7]].astype(np.float32) - 3) * 0.02)
