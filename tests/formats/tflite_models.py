"""Small TensorFlow Lite models, written with the format's own generated code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

S = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed")

TYPES = {
    "float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "string": 5, "bool": 6, "int16": 7, "complex64": 8,
    "int8": 9, "float64": 10, "complex128": 11, "uint64": 12, "uint32": 15, "uint16": 16, "int4": 17, "bfloat16": 18,
    "int2": 19, "uint4": 20, "float8_e4m3fn": 21, "float8_e5m2": 22,
}  # fmt: skip


class Model:
    """A model under construction; graph 0 is the main one."""

    def __init__(self) -> None:
        self.root = S.ModelT()
        self.root.version = 3
        self.root.description = "made for a test"
        self.root.buffers = [S.BufferT()]
        self.root.metadata = []
        self.root.operatorCodes = []
        self.root.subgraphs = []
        self.graph()

    def graph(self) -> int:
        graph = S.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        graph.name = f"graph {len(self.root.subgraphs)}"
        self.root.subgraphs.append(graph)
        return len(self.root.subgraphs) - 1

    def buffer(self, data: bytes) -> int:
        made = S.BufferT()
        made.data = np.frombuffer(data, dtype=np.uint8)
        self.root.buffers.append(made)
        return len(self.root.buffers) - 1

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        data: bytes | np.ndarray | None = None,
        *,
        graph: int = 0,
        buffer: int = 0,
        scale: float | None = None,
    ) -> int:
        made = S.TensorT()
        made.name, made.shape, made.type = name, list(shape), TYPES[dtype]
        made.buffer = buffer
        if data is not None:
            made.buffer = self.buffer(data if isinstance(data, bytes) else data.tobytes())
        if scale is not None:
            made.quantization = S.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [0]
        tensors = self.root.subgraphs[graph].tensors
        tensors.append(made)
        return len(tensors) - 1

    def constant(self, name: str, array: np.ndarray, *, graph: int = 0, scale: float | None = None) -> int:
        return self.tensor(name, array.shape, str(array.dtype), array, graph=graph, scale=scale)

    def operator(
        self,
        code: str | int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: tuple[str, Any] | None = None,
        *,
        custom: bytes | None = None,
        graph: int = 0,
    ) -> None:
        kind = S.OperatorCodeT()
        number = code if isinstance(code, int) else getattr(S.BuiltinOperator, code, S.BuiltinOperator.CUSTOM)
        kind.builtinCode, kind.deprecatedBuiltinCode, kind.version = number, min(number, 127), 1
        if number == S.BuiltinOperator.CUSTOM:
            kind.customCode = code
        self.root.operatorCodes.append(kind)
        made = S.OperatorT()
        made.opcodeIndex = len(self.root.operatorCodes) - 1
        made.inputs, made.outputs = list(inputs), list(outputs)
        if options is not None:
            made.builtinOptionsType, made.builtinOptions = getattr(S.BuiltinOptions, options[0]), options[1]
        if custom is not None:
            made.customOptions = np.frombuffer(custom, dtype=np.uint8)
        self.root.subgraphs[graph].operators.append(made)

    def metadata(self, name: str, data: bytes) -> None:
        entry = S.MetadataT()
        entry.name, entry.buffer = name, self.buffer(data)
        self.root.metadata.append(entry)

    def ends(self, inputs: Sequence[int], outputs: Sequence[int], graph: int = 0) -> None:
        self.root.subgraphs[graph].inputs, self.root.subgraphs[graph].outputs = list(inputs), list(outputs)

    def build(self) -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.root.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def save(self, path: Path) -> Path:
        path.write_bytes(self.build())
        return path


def fully_connected(model: Model, x: int, w: int, b: int, y: int, graph: int = 0) -> None:
    model.operator(
        "FULLY_CONNECTED", [x, w, b], [y], ("FullyConnectedOptions", S.FullyConnectedOptionsT()), graph=graph
    )


def small_network(seed: int = 1) -> Model:
    """Two layers with a reshape between them, metadata, and a signature."""
    rng = np.random.default_rng(seed)
    model = Model()
    x = model.tensor("x", [2, 8], "float32")
    w = model.constant("w1", rng.normal(0, 0.3, (12, 8)).astype(np.float32))
    b = model.constant("b1", rng.normal(0, 0.3, 12).astype(np.float32))
    h = model.tensor("h", [2, 12], "float32")
    shape = model.constant("shape", np.array([4, 6], dtype=np.int32))
    r = model.tensor("r", [4, 6], "float32")
    v = model.constant("w2", rng.normal(0, 0.3, (3, 6)).astype(np.float32))
    y = model.tensor("y", [4, 3], "float32")
    fully_connected(model, x, w, b, h)
    model.operator("RESHAPE", [h, shape], [r], ("ReshapeOptions", S.ReshapeOptionsT()))
    fully_connected(model, r, v, -1, y)
    model.ends([x], [y])
    model.metadata("min_runtime_version", b"1.5.0".ljust(16, b"\0"))
    model.metadata("author", "vendor é".encode())
    signature = S.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [S.TensorMapT()], [S.TensorMapT()]
    signature.inputs[0].name, signature.inputs[0].tensorIndex = "x", x
    signature.outputs[0].name, signature.outputs[0].tensorIndex = "y", y
    model.root.signatureDefs = [signature]
    return model
