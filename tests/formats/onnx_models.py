"""Small ONNX models, one for each place where weights hide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx import helper as h

Builder = Callable[[Path], onnx.ModelProto]
MODELS: dict[str, Builder] = {}
RNG = np.random.default_rng(11)


def model(builder: Builder) -> Builder:
    MODELS[builder.__name__] = builder
    return builder


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def info(name: str, shape: list[int | str] | None = None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return h.make_tensor_value_info(name, kind, shape)


def make(
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
    *,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    opset: int = 17,
    **extra: object,
) -> onnx.ModelProto:
    graph = h.make_graph(nodes, "g", inputs or [info("x", [2, 8])], outputs or [info("y", ["a", "b"])], initializers)
    opsets = [h.make_opsetid("", opset), *extra.pop("opsets", [])]
    return h.make_model(graph, opset_imports=opsets, ir_version=10, **extra)


def constant(array: np.ndarray, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


@model
def initializers_in_raw_data(_: Path) -> onnx.ModelProto:
    return make(
        [
            h.make_node("Gemm", ["x", "W", "b"], ["h"]),
            h.make_node("Relu", ["h"], ["r"]),
            h.make_node("MatMul", ["r", "V"], ["y"]),
        ],
        [constant(weights(8, 40), "W"), constant(weights(40, seed=1), "b"), constant(weights(40, 40, seed=2), "V")],
    )


@model
def initializers_in_typed_fields(_: Path) -> onnx.ModelProto:
    half = weights(8, 4, seed=3).astype(np.float16)
    return make(
        [
            h.make_node("MatMul", ["x", "W"], ["h"]),
            h.make_node("Cast", ["H"], ["hf"], to=TensorProto.FLOAT),
            h.make_node("Cast", ["D"], ["df"], to=TensorProto.FLOAT),
            h.make_node("MatMul", ["x", "hf"], ["g"]),
            h.make_node("Add", ["h", "g"], ["s"]),
            h.make_node("Add", ["s", "df"], ["t"]),
            h.make_node("Reshape", ["t", "shape"], ["y"]),
        ],
        [
            h.make_tensor("W", TensorProto.FLOAT, [8, 4], weights(8, 4).ravel().tolist()),
            h.make_tensor("H", TensorProto.FLOAT16, [8, 4], half.ravel().tolist()),
            h.make_tensor("D", TensorProto.DOUBLE, [4], [0.5, -0.25, 3.0, 1e-3]),
            h.make_tensor("shape", TensorProto.INT64, [2], [4, -1]),
        ],
    )


@model
def constants_of_every_kind(_: Path) -> onnx.ModelProto:
    sparse = h.make_sparse_tensor(
        constant(np.array([0.5, -2.0, 0.75], dtype=np.float32), "s"), constant(np.array([1, 3, 6]), "i"), [8]
    )
    return make(
        [
            h.make_node("Constant", [], ["W"], value=constant(weights(8, 8), "")),
            h.make_node("Constant", [], ["f"], value_float=0.625),
            h.make_node("Constant", [], ["fs"], value_floats=weights(8, seed=5).tolist()),
            h.make_node("Constant", [], ["shape"], value_ints=[4, 4]),
            h.make_node("Constant", [], ["axis"], value_int=0),
            h.make_node("Constant", [], ["sp"], sparse_value=sparse),
            h.make_node("MatMul", ["x", "W"], ["h"]),
            h.make_node("Mul", ["h", "f"], ["m"]),
            h.make_node("Add", ["m", "fs"], ["a"]),
            h.make_node("Add", ["a", "sp"], ["b"]),
            h.make_node("CumSum", ["b", "axis"], ["c"]),
            h.make_node("Reshape", ["c", "shape"], ["y"]),
        ],
        [],
    )


@model
def sparse_initializer(_: Path) -> onnx.ModelProto:
    built = make([h.make_node("MatMul", ["x", "S"], ["y"])], [])
    values = constant(weights(12, seed=4), "S")
    positions = constant(np.sort(np.random.default_rng(2).choice(64, 12, replace=False)).astype(np.int64), "")
    built.graph.sparse_initializer.append(h.make_sparse_tensor(values, positions, [8, 8]))
    return built


def _branch(name: str, seed: int) -> onnx.GraphProto:
    return h.make_graph(
        [
            h.make_node("Constant", [], [f"{name}_c"], value=constant(weights(8, seed=seed), "")),
            h.make_node("MatMul", ["x", "W"], [f"{name}_h"]),
            h.make_node("Add", [f"{name}_h", f"{name}_c"], [f"{name}_o"]),
        ],
        name,
        [],
        [info(f"{name}_o", [2, 8])],
        [constant(weights(8, 8, seed=seed + 1), "W")],
    )


@model
def if_with_weights_in_its_branches(_: Path) -> onnx.ModelProto:
    return make(
        [
            h.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            h.make_node("Greater", ["sum", "limit"], ["cond"]),
            h.make_node("If", ["cond"], ["y"], then_branch=_branch("then", 20), else_branch=_branch("else", 30)),
        ],
        [constant(np.array(0.125, dtype=np.float32), "limit")],
    )


@model
def loop_with_weights_in_its_body(_: Path) -> onnx.ModelProto:
    body = h.make_graph(
        [
            h.make_node("MatMul", ["state", "inner"], ["t"]),
            h.make_node("Add", ["t", "outer"], ["next"]),
            h.make_node("Less", ["i", "stop"], ["go"]),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("c", [], TensorProto.BOOL), info("state", [2, 8])],
        [info("go", [], TensorProto.BOOL), info("next", [2, 8])],
        [constant(weights(8, 8, seed=7), "inner"), constant(np.array(5), "stop")],
    )
    return make(
        [h.make_node("Loop", ["trips", "yes", "x"], ["y"], body=body)],
        [constant(np.array(3), "trips"), constant(np.array(True), "yes"), constant(weights(8, seed=8), "outer")],
    )


@model
def scan_with_weights_in_its_body(_: Path) -> onnx.ModelProto:
    body = h.make_graph(
        [
            h.make_node("Add", ["s", "e"], ["t"]),
            h.make_node("MatMul", ["t", "R"], ["n"]),
            h.make_node("Identity", ["n"], ["o"]),
        ],
        "body",
        [info("s", [1, 8]), info("e", [8])],
        [info("n", [1, 8]), info("o", [1, 8])],
        [constant(weights(8, 8, seed=9), "R")],
    )
    return make(
        [h.make_node("Scan", ["start", "x"], ["last", "y"], body=body, num_scan_inputs=1)],
        [constant(weights(1, 8, seed=10), "start")],
        outputs=[info("y", [2, 1, 8])],
    )


@model
def function_with_a_constant(_: Path) -> onnx.ModelProto:
    function = h.make_function(
        "local",
        "Dense",
        ["a", "w"],
        ["z"],
        [
            h.make_node("Constant", [], ["k"], value=constant(weights(8, seed=12), "")),
            h.make_node("MatMul", ["a", "w"], ["m"]),
            h.make_node("Add", ["m", "k"], ["z"]),
        ],
        [h.make_opsetid("", 17)],
    )
    return make(
        [h.make_node("Dense", ["x", "W"], ["y"], domain="local")],
        [constant(weights(8, 8, seed=13), "W")],
        functions=[function],
        opsets=[h.make_opsetid("local", 1)],
    )


@model
def external_data(folder: Path) -> onnx.ModelProto:
    built = make(
        [
            h.make_node("MatMul", ["x", "W"], ["h"]),
            h.make_node("Add", ["h", "b"], ["i"]),
            h.make_node("Reshape", ["i", "s"], ["y"]),
        ],
        [constant(weights(8, 512), "W"), constant(weights(512, seed=1), "b"), constant(np.array([-1, 16]), "s")],
    )
    onnx.save(built, folder / "source.onnx", save_as_external_data=True, location="source.bin", size_threshold=1024)
    return onnx.load(folder / "source.onnx", load_external_data=False)


@model
def bfloat16_and_float8(_: Path) -> onnx.ModelProto:
    brain = weights(8, 8, seed=14).astype(ml_dtypes.bfloat16)
    tiny = weights(8, 8, seed=15).astype(ml_dtypes.float8_e4m3fn)
    return make(
        [
            h.make_node("Cast", ["B"], ["bf"], to=TensorProto.FLOAT),
            h.make_node("Cast", ["F"], ["ff"], to=TensorProto.FLOAT),
            h.make_node("MatMul", ["x", "bf"], ["m"]),
            h.make_node("MatMul", ["m", "ff"], ["y"]),
        ],
        [constant(brain, "B"), constant(tiny, "F")],
        opset=21,
    )


@model
def packed_int4(_: Path) -> onnx.ModelProto:
    codes = np.random.default_rng(16).integers(-8, 8, (8, 7)).astype(ml_dtypes.int4)
    return make(
        [
            h.make_node("DequantizeLinear", ["Q", "scale", "zero"], ["w"], axis=1),
            h.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        [
            constant(codes, "Q"),
            constant(np.linspace(0.1, 0.7, 7, dtype=np.float32), "scale"),
            constant(np.zeros(7, dtype=ml_dtypes.int4), "zero"),
        ],
        opset=21,
    )


@model
def shapes_computed_with_floats(_: Path) -> onnx.ModelProto:
    return make(
        [
            h.make_node("MatMul", ["x", "W"], ["h"]),
            h.make_node("Shape", ["h"], ["s"]),
            h.make_node("Cast", ["s"], ["sf"], to=TensorProto.FLOAT),
            h.make_node("Mul", ["sf", "factor"], ["scaled"]),
            h.make_node("Floor", ["scaled"], ["floored"]),
            h.make_node("Cast", ["floored"], ["size"], to=TensorProto.INT64),
            h.make_node("Reshape", ["h", "size"], ["r"]),
            h.make_node("Unsqueeze", ["r", "axes"], ["u"]),
            h.make_node("Resize", ["u", "", "scales"], ["z"], mode="nearest"),
            h.make_node("Squeeze", ["z", "axes"], ["q"]),
            h.make_node("Mul", ["q", "gain"], ["y"]),
        ],
        [
            constant(weights(8, 8), "W"),
            constant(np.array([2.0, 0.5], dtype=np.float32), "factor"),
            constant(np.array([0, 1]), "axes"),
            constant(np.array([1, 1, 2, 2], dtype=np.float32), "scales"),
            constant(np.array(1.7, dtype=np.float32), "gain"),
        ],
    )


@model
def fusions_that_look_at_constants(_: Path) -> onnx.ModelProto:
    """Convolution with batch normalisation, and a GELU and a layer normalisation spelled out."""
    channels = 16
    return make(
        [
            h.make_node("Conv", ["x", "K", "kb"], ["c"], pads=[1, 1, 1, 1]),
            h.make_node("BatchNormalization", ["c", "g", "bb", "mean", "var"], ["n"]),
            h.make_node("Div", ["n", "root2"], ["d"]),
            h.make_node("Erf", ["d"], ["e"]),
            h.make_node("Add", ["e", "one"], ["e1"]),
            h.make_node("Mul", ["n", "e1"], ["ge"]),
            h.make_node("Mul", ["ge", "half"], ["gelu"]),
            h.make_node("ReduceMean", ["gelu"], ["mu"], axes=[-1], keepdims=1),
            h.make_node("Sub", ["gelu", "mu"], ["dev"]),
            h.make_node("Pow", ["dev", "two"], ["sq"]),
            h.make_node("ReduceMean", ["sq"], ["v"], axes=[-1], keepdims=1),
            h.make_node("Add", ["v", "eps"], ["ve"]),
            h.make_node("Sqrt", ["ve"], ["sd"]),
            h.make_node("Div", ["dev", "sd"], ["norm"]),
            h.make_node("Mul", ["norm", "lg"], ["ln"]),
            h.make_node("Add", ["ln", "lb"], ["y"]),
        ],
        [
            constant(weights(channels, 3, 3, 3), "K"),
            constant(weights(channels, seed=1), "kb"),
            constant(1 + weights(channels, seed=2), "g"),
            constant(weights(channels, seed=3), "bb"),
            constant(weights(channels, seed=4), "mean"),
            constant(np.abs(weights(channels, seed=5)) + 0.1, "var"),
            *[
                constant(np.array(value, dtype=np.float32), name)
                for name, value in (("root2", 2**0.5), ("one", 1), ("half", 0.5), ("two", 2), ("eps", 1e-5))
            ],
            constant(1 + weights(8, seed=6), "lg"),
            constant(weights(8, seed=7), "lb"),
        ],
        inputs=[info("x", [2, 3, 8, 8])],
        outputs=[info("y", [2, channels, 8, 8])],
    )


@model
def embedding_and_index_tables(_: Path) -> onnx.ModelProto:
    table = np.random.default_rng(17).integers(0, 30, (100,)).astype(np.int64)
    lookup = np.random.default_rng(18).integers(-1000, 1000, (8, 9)).astype(np.int32)
    return make(
        [
            h.make_node("Gather", ["table", "ids"], ["buckets"]),
            h.make_node("Gather", ["E", "buckets"], ["e"]),
            h.make_node("Cast", ["lookup"], ["lf"], to=TensorProto.FLOAT),
            h.make_node("MatMul", ["e", "lf"], ["y"]),
        ],
        [constant(table, "table"), constant(weights(30, 8), "E"), constant(lookup, "lookup")],
        inputs=[info("ids", [5], TensorProto.INT64)],
    )


@model
def recurrent_network(_: Path) -> onnx.ModelProto:
    return make(
        [
            h.make_node("Unsqueeze", ["x", "axes"], ["u"]),
            h.make_node(
                "LSTM", ["u", "W", "R", "B", "lengths"], ["", "hidden"], hidden_size=6, activation_alpha=[0.1] * 3
            ),
            h.make_node("Squeeze", ["hidden", "axes"], ["y"]),
        ],
        [
            constant(weights(1, 24, 8), "W"),
            constant(weights(1, 24, 6, seed=1), "R"),
            constant(weights(1, 48, seed=2), "B"),
            constant(np.array([1, 1], dtype=np.int32), "lengths"),
            constant(np.array([0]), "axes"),
        ],
        inputs=[info("x", [2, 8])],
        outputs=[info("y", ["n", 6])],
    )


@model
def weights_from_outside_used_in_a_branch(_: Path) -> onnx.ModelProto:
    """The outer graph's weight and shape are used in a branch only; the branch's result is a shape outside."""
    inner = h.make_graph(
        [h.make_node("MatMul", ["x", "outer"], ["t1"]), h.make_node("Reshape", ["t1", "outer_shape"], ["t2"])],
        "then",
        [],
        [info("t2"), info("then_shape", [2], TensorProto.INT64)],
        [constant(np.array([8, 2]), "then_shape")],
    )
    other = h.make_graph(
        [h.make_node("Add", ["x", "bias"], ["e1"])],
        "else",
        [],
        [info("e1"), info("else_shape", [2], TensorProto.INT64)],
        [constant(weights(8, seed=3), "bias"), constant(np.array([2, 8]), "else_shape")],
    )
    return make(
        [
            h.make_node("If", ["cond"], ["z", "shape"], then_branch=inner, else_branch=other),
            h.make_node("Reshape", ["z", "shape"], ["y"]),
        ],
        [
            constant(np.array(True), "cond"),
            constant(weights(8, 8), "outer"),
            constant(np.array([4, 4]), "outer_shape"),
        ],
    )


@model
def four_bit_blocks(_: Path) -> onnx.ModelProto:
    """ONNX Runtime's MatMulNBits: packed codes, scales and zero points."""
    rng = np.random.default_rng(19)
    return make(
        [
            h.make_node(
                "MatMulNBits", ["x", "B", "S", "Z"], ["y"], domain="com.microsoft", K=64, N=16, bits=4, block_size=32
            )
        ],
        [
            constant(rng.integers(0, 256, (16, 2, 16)).astype(np.uint8), "B"),
            constant(rng.uniform(0.01, 0.1, 32).astype(np.float32), "S"),
            constant(rng.integers(0, 256, 16).astype(np.uint8), "Z"),
        ],
        inputs=[info("x", [3, 64])],
        opsets=[h.make_opsetid("com.microsoft", 1)],
    )


@model
def quantised_operators(_: Path) -> onnx.ModelProto:
    """QLinearConv with an int32 bias, between a quantiser and a dequantiser."""
    rng = np.random.default_rng(20)
    zero8, zero_u = np.array(0, dtype=np.int8), np.array(128, dtype=np.uint8)
    return make(
        [
            h.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
            h.make_node("QLinearConv", ["q", "xs", "xz", "W", "ws", "wz", "ys", "yz", "bias"], ["c"]),
            h.make_node("DequantizeLinear", ["c", "ys", "yz"], ["d"]),
            h.make_node("DequantizeLinear", ["late", "ls", "lz"], ["l"]),
            h.make_node("Add", ["d", "l"], ["y"]),
        ],
        [
            *[
                constant(np.array(value, dtype=np.float32), name)
                for name, value in (("xs", 0.02), ("ys", 0.1), ("ls", 0.01))
            ],
            constant(zero_u, "xz"),
            constant(rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8), "W"),
            constant(np.full(4, 0.01, dtype=np.float32), "ws"),
            constant(np.zeros(4, dtype=np.int8), "wz"),
            constant(zero_u, "yz"),
            constant(rng.integers(-900, 900, 4).astype(np.int32), "bias"),
            constant(rng.integers(-128, 128, (4, 1, 1)).astype(np.int8), "late"),
            constant(zero8, "lz"),
        ],
        inputs=[info("x", [1, 3, 6, 6])],
        outputs=[info("y", [1, 4, 4, 4])],
    )
