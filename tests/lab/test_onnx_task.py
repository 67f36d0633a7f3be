"""A model of one's own: scored, trained where that can be, refused with a reason where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

import unclone
from unclone.errors import FormatError, InputError, NoWeightsError, ParameterError, UnsupportedError
from unclone.lab.contracts import Task
from unclone.lab.tasks import onnx_task
from unclone.lab.tasks.onnx_task import OnnxTask
from unclone.lab.tasks.training import run


def model_of(
    path: Path, *, classes: int = 10, last: str = "Softmax", batch: int | str = "batch", extra: list[Any] | None = None
) -> Path:
    """64-32-classes, untrained; the first layer's weights are in a Constant node, the bias in typed fields."""
    rng = np.random.default_rng(0)
    first = numpy_helper.from_array((0.2 * rng.standard_normal((64, 32))).astype(np.float32), "first")
    second = numpy_helper.from_array((0.2 * rng.standard_normal((32, classes))).astype(np.float32), "second")
    bias = helper.make_tensor("bias", TensorProto.FLOAT, [32], rng.standard_normal(32).astype(np.float32).tolist())
    nodes = [
        helper.make_node("Constant", [], ["w1"], value=first),
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Add", ["a", "bias"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        *(extra or []),
        helper.make_node("MatMul", ["c", "second"], ["d"]),
        helper.make_node(last, ["d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])],
        [bias, second],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    digits = load_digits()
    np.savez(tmp_path / "d.npz", inputs=(digits.data / 16)[:800], labels=digits.target[:800])
    return tmp_path / "d.npz"


def test_a_model_is_a_task_that_trains(tmp_path: Path, data: Path) -> None:
    task = OnnxTask(model_of(tmp_path / "m.onnx"), data)
    assert isinstance(task, Task)
    assert task.trainable, task.untrainable
    assert set(task.weights()) == {"w1", "bias", "second"}
    assert task.layers == {"w1": "dense", "bias": "bias", "second": "dense"}
    assert task.train_size == 400
    trained = task.fit(task.initialise(0), 400, 0)
    assert task.score(trained) > 0.85
    assert task.score(task.weights()) < 0.5


def test_a_bound_file_reads_masked_and_a_restored_one_scores(tmp_path: Path, data: Path) -> None:
    task = OnnxTask(model_of(tmp_path / "m.onnx"), data)
    good = task.fit(task.initialise(0), 400, 0)
    plain = task.model_file(good, tmp_path / "trained")
    device = unclone.enroll("sim:sram?seed=1")
    unclone.bind(plain, device, tmp_path / "bound.onnx")
    masked = task.read_file(tmp_path / "bound.onnx")
    assert all(not np.array_equal(masked[name], good[name]) for name in good)
    assert task.score(masked) < 0.5
    read = task.read_file(plain)
    assert all(np.array_equal(read[name], good[name]) for name in good)


def test_one_sample_at_a_time(tmp_path: Path, data: Path) -> None:
    task = OnnxTask(model_of(tmp_path / "m.onnx", batch=1), data)
    free = OnnxTask(model_of(tmp_path / "n.onnx"), data)
    assert task.trainable
    assert task.score(task.weights(), limit=50) == free.score(free.weights(), limit=50)
    assert task.score(task.fit(task.initialise(0), 400, 0), limit=50) > 0.8


def test_a_single_output_is_two_classes(tmp_path: Path) -> None:
    digits = load_digits()
    np.savez(tmp_path / "d.npz", x=digits.data / 16, y=(digits.target[:, None] > 4).astype(np.float32))
    for last in ("Sigmoid", "Identity"):
        task = OnnxTask(model_of(tmp_path / f"{last}.onnx", classes=1, last=last), tmp_path / "d.npz", "f1")
        assert task.outputs(task.weights(), task.test_data()[0][:5]).shape == (5, 2)
        assert task.score(task.fit(task.initialise(0), 800, 0)) > 0.8


def test_a_number_is_learnt_for_mae(tmp_path: Path) -> None:
    digits = load_digits()
    np.savez(tmp_path / "d.npz", x=digits.data / 16, y=digits.data.mean(axis=1))
    task = OnnxTask(model_of(tmp_path / "m.onnx", classes=1, last="Identity"), tmp_path / "d.npz", "mae")
    assert task.trainable
    assert task.score(task.fit(task.initialise(0), 800, 0)) > task.chance / 2
    assert task.chance < 0


def test_why_a_model_cannot_be_trained(tmp_path: Path, data: Path) -> None:
    extra = [helper.make_node("Hardmax", ["c0"], ["c"])]
    path = tmp_path / "m.onnx"
    nodes = [helper.make_node("Relu", ["b"], ["c0"]), *extra]
    model_of(path)
    model = onnx.load(path)
    kept = [node for node in model.graph.node if node.output[0] != "c"]
    at = next(index for index, node in enumerate(kept) if node.output[0] == "b") + 1
    del model.graph.node[:]
    model.graph.node.extend([*kept[:at], *nodes, *kept[at:]])
    onnx.save(model, path)
    task = OnnxTask(path, data)
    assert not task.trainable
    assert "Hardmax" in task.untrainable
    assert 0 <= task.score(task.weights()) < 0.5
    with pytest.raises(UnsupportedError, match="Hardmax"):
        task.initialise(0)


def test_a_slow_first_pass_is_not_taken_for_slow_training(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    passes = []

    def first_pass_slow(*arguments: Any) -> Any:
        clock[0] += 0.001 if passes else 10.0  # libraries start; ten seconds a pass would mean hours of training
        passes.append(1)
        return run(*arguments)

    monkeypatch.setattr(onnx_task, "run", first_pass_slow)
    monkeypatch.setattr(onnx_task.time, "thread_time", lambda: clock[0])
    assert OnnxTask(model_of(tmp_path / "m.onnx"), data).trainable
    monkeypatch.setattr(onnx_task.time, "thread_time", lambda: 10.0 * len(passes))
    assert "minutes" in OnnxTask(model_of(tmp_path / "m.onnx"), data).untrainable


def test_scores_in_a_map_for_each_sample_are_taken_out_of_it(tmp_path: Path, data: Path) -> None:
    plain, zipped = model_of(tmp_path / "m.onnx"), tmp_path / "z.onnx"
    model = onnx.load(plain)
    model.graph.node.append(helper.make_node("ZipMap", ["y"], ["z"], domain="ai.onnx.ml", classlabels_int64s=range(10)))
    scores = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.output[0].CopyFrom(helper.make_value_info("z", helper.make_sequence_type_proto(scores)))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    onnx.save(model, zipped)
    task, expected = OnnxTask(zipped, data), OnnxTask(plain, data)
    inputs = task.test_data()[0][:5]
    assert np.array_equal(task.outputs(task.weights(), inputs), expected.outputs(expected.weights(), inputs))
    assert task.trainable, task.untrainable


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros(3)}, "needs the arrays"),
        ({"x": np.zeros((30, 64)), "y": np.zeros(29)}, "29 labels"),
        ({"x": np.zeros((5, 64)), "y": np.zeros(5)}, "too few"),
        ({"x": np.zeros((30, 64)), "y": np.full(30, 0.5)}, "class numbers"),
        ({"x": np.zeros((30, 64)), "y": np.full(30, -1)}, "class numbers"),
        ({"x": np.zeros((30, 64)), "y": np.eye(30)}, "class numbers"),
        ({"x": np.zeros((30, 64)), "y": np.arange(30)}, "tells 10 classes"),
        ({"x": np.zeros((30, 63)), "y": np.zeros(30)}, "does not run"),
        ({"x": np.array([{}] * 30), "y": np.zeros(30)}, "cannot read"),
    ],
)
def test_data_that_do_not_fit_are_refused_with_the_reason(
    tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        OnnxTask(model_of(tmp_path / "m.onnx"), tmp_path / "d.npz")


def test_files_that_are_none_are_refused(tmp_path: Path, data: Path) -> None:
    (tmp_path / "junk").write_bytes(b"\x00\x01junk")
    with pytest.raises(FormatError, match="junk"):
        OnnxTask(tmp_path / "junk", data)
    with pytest.raises(FormatError, match="junk"):
        OnnxTask(model_of(tmp_path / "m.onnx"), tmp_path / "junk")
    with pytest.raises(ParameterError, match="bleu"):
        OnnxTask(model_of(tmp_path / "m.onnx"), data, "bleu")
    with pytest.raises((InputError, NoWeightsError)):
        OnnxTask(tmp_path / "missing.onnx", data)


def test_a_model_with_several_inputs_is_scored_and_trained(tmp_path: Path) -> None:
    model = two_inputs(tmp_path / "m.onnx")
    digits = load_digits()
    images, hints = digits.data.astype(np.float32) / 16, (digits.target % 3)[:, None].astype(np.int64)
    scale = np.ones(len(hints), dtype=np.float32)
    np.savez(tmp_path / "d.npz", image=images, hint=hints, scale=scale, labels=digits.target)
    task = OnnxTask(model, tmp_path / "d.npz")
    assert task.trainable, task.untrainable
    trained = task.fit(task.initialise(0), 800, 0)
    assert task.score(trained) > 0.9
    inputs = task.test_data()[0]
    assert inputs.dtype == np.float64  # whole numbers stay whole
    shuffled = inputs.copy()
    shuffled[:, 64] = 2 - shuffled[:, 64]  # another hint
    assert not np.allclose(task.outputs(trained, inputs), task.outputs(trained, shuffled))
    np.savez(tmp_path / "less.npz", image=images, labels=digits.target)
    with pytest.raises(FormatError, match="needs the arrays image, hint, scale and labels"):
        OnnxTask(model, tmp_path / "less.npz")
    np.savez(tmp_path / "odd.npz", image=images, hint=hints[:5], scale=scale, labels=digits.target)
    with pytest.raises(InputError, match="hint of shape"):
        OnnxTask(model, tmp_path / "odd.npz")


def two_inputs(path: Path) -> Path:
    """An image, a class modulo three looked up in a table, and a factor."""
    import onnx

    rng = np.random.default_rng(0)
    values = {
        "table": rng.normal(size=(3, 4)).astype(np.float32), "w": rng.normal(0, 0.1, (68, 10)).astype(np.float32),
        "b": np.zeros(10, dtype=np.float32), "flat": np.array([0, -1], dtype=np.int64),
        "column": np.array([-1, 1], dtype=np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["table", "hint"], ["looked"]),
        helper.make_node("Reshape", ["looked", "flat"], ["row"]),
        helper.make_node("Concat", ["image", "row"], ["both"], axis=1),
        helper.make_node("Gemm", ["both", "w", "b"], ["raw"]),
        helper.make_node("Reshape", ["scale", "column"], ["factor"]),
        helper.make_node("Mul", ["raw", "factor"], ["scores"]),
    ]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 64]),
        helper.make_tensor_value_info("hint", TensorProto.INT64, ["n", 1]),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, ["n"]),
    ]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
