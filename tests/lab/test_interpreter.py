"""The lab's interpreter of ONNX against ONNX Runtime, operator by operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from unclone.errors import UnsupportedError
from unclone.lab.entries import Entries, Entry
from unclone.lab.interpreter import OnnxNetwork

RNG = np.random.default_rng(0)
FLOAT = np.float32
ENTRIES = Entries((Entry("x", np.dtype(FLOAT), ()),))


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(FLOAT)


def whole(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


IMAGE, ROWS, FRAMES = (2, 3, 8, 8), (4, 6), (5, 2, 6)
RESIZED, SCALES = {"mode": "nearest"}, np.array([1, 1, 2, 3], dtype=FLOAT)

CASES: list[tuple[str, tuple[int, ...], dict[str, Any], list[Any]]] = [
    ("Gemm", ROWS, {"transB": 1, "alpha": 0.5, "beta": 2.0}, [normal(3, 6), normal(3)]),
    ("Gemm", ROWS, {"transA": 1}, [normal(4, 3)]),
    ("MatMul", FRAMES, {}, [normal(6, 3)]),
    ("Conv", IMAGE, {"pads": [1, 0, 2, 1], "strides": [2, 1]}, [normal(4, 3, 3, 3), normal(4)]),
    ("Conv", IMAGE, {"group": 3, "dilations": [2, 2]}, [normal(3, 1, 3, 3)]),
    ("Conv", IMAGE, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [normal(4, 3, 3, 3)]),
    ("Conv", IMAGE, {"auto_pad": "SAME_LOWER", "strides": [1, 1]}, [normal(4, 3, 2, 2)]),
    ("Conv", (2, 3, 9), {"pads": [1, 1]}, [normal(4, 3, 3)]),
    ("ConvTranspose", IMAGE, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, [normal(3, 4, 3, 3)]),
    ("MaxPool", IMAGE, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, []),
    ("AveragePool", IMAGE, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 0]}, []),
    ("AveragePool", IMAGE, {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, []),
    ("GlobalAveragePool", IMAGE, {}, []),
    ("GlobalMaxPool", IMAGE, {}, []),
    ("BatchNormalization", IMAGE, {"epsilon": 1e-3}, [normal(3), normal(3), normal(3), np.abs(normal(3))]),
    ("LayerNormalization", FRAMES, {"axis": -1}, [normal(6), normal(6)]),
    ("Reshape", IMAGE, {}, [whole(0, -1)]),
    ("Flatten", IMAGE, {"axis": 2}, []),
    ("InstanceNormalization", IMAGE, {"epsilon": 1e-3}, [normal(3), normal(3)]),
    ("LRN", IMAGE, {"size": 3, "alpha": 0.5}, []),
    ("LpNormalization", ROWS, {"axis": 1, "p": 2}, []),
    ("LpNormalization", ROWS, {"axis": 0, "p": 1}, []),
    ("Einsum", FRAMES, {"equation": "abc,cd->abd"}, [normal(6, 3)]),
    (
        "Resize",
        IMAGE,
        RESIZED | {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        [None, SCALES],
    ),
    ("Resize", IMAGE, RESIZED, [None, SCALES]),
    ("Resize", IMAGE, {"mode": "linear"}, [None, None, whole(2, 3, 11, 5)]),
    ("Resize", IMAGE, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, [None, SCALES]),
    ("Tile", ROWS, {}, [whole(2, 3)]),
    ("GatherElements", ROWS, {"axis": 1}, [np.array([[0, -1], [2, 3], [1, 1], [5, -6]], dtype=np.int64)]),
    ("GatherND", ROWS, {}, [np.array([[0, 1], [3, 5]], dtype=np.int64)]),
    ("DepthToSpace", (2, 8, 3, 2), {"blocksize": 2}, []),
    ("DepthToSpace", (2, 8, 3, 2), {"blocksize": 2, "mode": "CRD"}, []),
    ("SpaceToDepth", IMAGE, {"blocksize": 2}, []),
    ("Trilu", IMAGE, {"upper": 0}, [np.array(1, dtype=np.int64)]),
    ("CumSum", ROWS, {}, [np.array(1, dtype=np.int64)]),
    ("QuantizeLinear", ROWS, {}, [np.array(0.5, dtype=FLOAT), np.array(3, dtype=np.uint8)]),
    ("QuantizeLinear", ROWS, {"axis": 1}, [np.abs(normal(6)) / 50, np.array([0, 1, -3, 5, 127, -128], dtype=np.int8)]),
    ("DynamicQuantizeLinear", ROWS, {}, []),
    ("TopK", ROWS, {"axis": 1}, [whole(2)]),
    ("Pad", IMAGE, {"opset": 18}, [whole(1, 0, 2, 3), np.array(1.5, dtype=FLOAT), whole(3, 2)]),
    ("GroupNormalization", (2, 4, 3, 3), {"opset": 21, "num_groups": 2}, [normal(4), normal(4)]),
    ("GroupNormalization", (2, 4, 3, 3), {"opset": 18, "num_groups": 2}, [normal(2), normal(2)]),
    ("Transpose", IMAGE, {"perm": [0, 2, 3, 1]}, []),
    ("Squeeze", (2, 1, 3, 1), {}, [whole(1, -1)]),
    ("Unsqueeze", ROWS, {}, [whole(0, -1)]),
    ("Slice", IMAGE, {}, [whole(1, 7), whole(2**62, -(2**62)), whole(1, 3), whole(1, -2)]),
    ("Slice", IMAGE, {}, [whole(-3), whole(-1), whole(2)]),
    ("Gather", IMAGE, {"axis": 2}, [whole(1, -1)]),
    ("Concat", ROWS, {"axis": 1}, [normal(4, 2)]),
    ("Pad", IMAGE, {}, [whole(0, 0, 1, 2, 0, 0, 3, 0), np.array(1.5, dtype=FLOAT)]),
    ("Pad", IMAGE, {"mode": "reflect"}, [whole(0, 0, 1, 2, 0, 0, 3, 0)]),
    ("Expand", (2, 1, 3), {}, [whole(4, 1)]),
    ("ReduceMean", IMAGE, {"axes": [2, 3], "keepdims": 0}, []),
    ("ReduceSum", IMAGE, {}, [whole(1)]),
    ("ReduceMax", IMAGE, {"keepdims": 1}, []),
    ("ReduceL2", IMAGE, {"axes": [-1]}, []),
    *[(f"Reduce{kind}", IMAGE, {"axes": [1, 2]}, []) for kind in ("L1", "LogSumExp", "SumSquare", "Min")],
    ("Celu", ROWS, {"alpha": 0.7}, []),
    ("ThresholdedRelu", ROWS, {"alpha": 0.3}, []),
    ("Clip", ROWS, {}, [np.array(-0.5, dtype=FLOAT), np.array(0.7, dtype=FLOAT)]),
    ("Softmax", IMAGE, {"axis": 1}, []),
    ("LogSoftmax", ROWS, {}, []),
    ("LeakyRelu", ROWS, {"alpha": 0.3}, []),
    ("PRelu", IMAGE, {}, [np.abs(normal(3, 1, 1))]),
    ("Elu", ROWS, {"alpha": 0.7}, []),
    ("Selu", ROWS, {}, []),
    ("HardSigmoid", ROWS, {"alpha": 0.3}, []),
    ("HardSwish", ROWS, {}, []),
    ("Pow", ROWS, {}, [np.array(2.0, dtype=FLOAT)]),
    ("Where", ROWS, {}, []),
    ("Sum", ROWS, {}, [normal(6), normal(4, 1)]),
    ("Max", ROWS, {}, [normal(6)]),
    ("Min", ROWS, {}, [normal(6)]),
    ("Mean", ROWS, {}, [normal(6), normal(4, 1)]),
    *[(kind, ROWS, {}, [normal(6) + 3]) for kind in ("Add", "Sub", "Mul", "Div")],
    *[(kind, ROWS, {}, []) for kind in ("Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Softplus", "Softsign", "Neg", "Abs")],
    *[(kind, ROWS, {}, []) for kind in ("Ceil", "Round", "Floor", "Tan", "Atan", "Sign")],
    ("LSTM", FRAMES, {"hidden_size": 3}, [normal(1, 12, 6), normal(1, 12, 3), normal(1, 24)]),
    ("LSTM", FRAMES, {"hidden_size": 3, "direction": "bidirectional"}, [normal(2, 12, 6), normal(2, 12, 3)]),
    ("GRU", FRAMES, {"hidden_size": 3}, [normal(1, 9, 6), normal(1, 9, 3), normal(1, 18)]),
    ("GRU", FRAMES, {"hidden_size": 3, "linear_before_reset": 1}, [normal(1, 9, 6), normal(1, 9, 3), normal(1, 18)]),
    ("RNN", FRAMES, {"hidden_size": 3, "direction": "reverse"}, [normal(1, 3, 6), normal(1, 3, 3), normal(1, 6)]),
]


def build(kind: str, shape: tuple[int, ...], attributes: dict[str, Any], constants: list[Any]) -> Any:
    attributes = dict(attributes)
    opset = attributes.pop("opset", 17)
    # Codes come out in the type of their zero point, by default unsigned.
    coded = {"QuantizeLinear": constants[-1].dtype if constants else None, "DynamicQuantizeLinear": np.dtype(np.uint8)}
    kept = helper.np_dtype_to_tensor_dtype(coded.get(kind) or np.dtype(FLOAT))
    names = [f"c{number}" if value is not None else "" for number, value in enumerate(constants)]
    initialisers = [numpy_helper.from_array(v, n) for v, n in zip(constants, names, strict=True) if v is not None]
    outputs = {"TopK": ["y", "places"], "DynamicQuantizeLinear": ["y", "scale", "zero"]}.get(kind, ["y"])
    nodes = [helper.make_node(kind, ["x", *names], outputs, **attributes)]
    if kind == "Where":
        zero = numpy_helper.from_array(np.zeros(1, dtype=FLOAT), "zero")
        initialisers.append(zero)
        nodes = [
            helper.make_node("Greater", ["x", "zero"], ["positive"]),
            helper.make_node("Where", ["positive", "x", "zero"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", kept, None)],
        initialisers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize(
    ("kind", "shape", "attributes", "constants"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
def test_operators_compute_what_onnx_runtime_computes(
    kind: str, shape: tuple[int, ...], attributes: dict[str, Any], constants: list[Any]
) -> None:
    model = build(kind, shape, attributes, constants)
    inputs = np.random.default_rng(1).standard_normal(shape).astype(FLOAT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": inputs})[0]
    network = OnnxNetwork(model, frozenset(), "y", ENTRIES)
    found = network.forward({}, torch.from_numpy(inputs), training=False).numpy()
    assert np.allclose(found, expected.reshape(found.shape), rtol=1e-4, atol=1e-5)


def test_what_is_not_understood_is_named() -> None:
    with pytest.raises(UnsupportedError, match="Det"):
        OnnxNetwork(build("Det", (2, 3, 3), {}, []), frozenset(), "y", ENTRIES)


def test_what_the_output_does_not_depend_on_need_not_be_understood() -> None:
    model = build("Gemm", ROWS, {"transB": 1}, [normal(3, 6), normal(3)])
    model.graph.node.append(helper.make_node("Det", ["x"], ["of_no_use"]))
    inputs = normal(*ROWS)
    found = OnnxNetwork(model, frozenset(), "y", ENTRIES).forward({}, torch.from_numpy(inputs), training=False)
    weight, bias = (numpy_helper.to_array(item) for item in model.graph.initializer)
    assert np.allclose(found.numpy(), inputs @ weight.T + bias, atol=1e-5)


def test_training_sees_the_logits_behind_a_softmax() -> None:
    network = OnnxNetwork(build("Softmax", ROWS, {}, []), frozenset(), "y", ENTRIES)
    inputs = torch.from_numpy(normal(*ROWS))
    assert torch.equal(network.forward({}, inputs, training=True), inputs)
    assert network.ends_in("Softmax")


def test_training_sees_logarithms_of_probabilities_that_no_softmax_made() -> None:
    model = build("Exp", ROWS, {}, [])
    model.graph.node[0].output[0] = "powers"
    model.graph.initializer.append(numpy_helper.from_array(whole(1), "axis"))
    model.graph.node.append(helper.make_node("ReduceSum", ["powers", "axis"], ["sum"]))
    model.graph.node.append(helper.make_node("Div", ["powers", "sum"], ["y"]))
    network = OnnxNetwork(model, frozenset(), "y", ENTRIES)
    inputs = torch.from_numpy(normal(*ROWS))
    plain = network.forward({}, inputs, training=False)
    assert torch.allclose(plain, torch.softmax(inputs, 1))
    network.take_logarithm()
    assert torch.equal(network.forward({}, inputs, training=False), plain)
    assert torch.allclose(network.forward({}, inputs, training=True), torch.log_softmax(inputs, 1), atol=1e-5)


def test_weights_are_drawn_by_what_the_graph_does_with_them() -> None:
    weight = normal(50, 400)
    model = build("Gemm", (4, 400), {"transB": 1}, [weight, normal(50)])
    network = OnnxNetwork(model, frozenset(["c0", "c1"]), "y", ENTRIES)
    assert network.kinds == {"c0": "dense", "c1": "bias"}
    fresh, again, other = network.initialise(1), network.initialise(1), network.initialise(2)
    assert np.array_equal(fresh["c0"], again["c0"])
    assert not np.array_equal(fresh["c0"], other["c0"])
    assert fresh["c0"].std() == pytest.approx((2 / 400) ** 0.5, rel=0.05)
    assert not fresh["c1"].any()
    assert abs(np.corrcoef(fresh["c0"].ravel(), weight.ravel())[0, 1]) < 0.05
