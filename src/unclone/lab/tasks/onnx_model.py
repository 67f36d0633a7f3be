"""ONNX models as the lab wants them: every constant an initialiser, its bytes in one piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unclone.errors import FormatError, MissingExtraError, UnsupportedError
from unclone.lab.contracts import Array

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as problem:
    raise MissingExtraError(str(problem.name), "lab") from None

__all__ = ["canonical", "declared_batch", "element_type", "inputs_of", "with_weights"]

_LARGEST = 2**31 - 1 - 2**20


def canonical(path: Path) -> Any:
    """Load a model; constants of the main graph become initialisers, external and typed data raw.

    Where scikit-learn's converter ends in a map of classes to scores for each sample, the scores take its place.

    Raises:
        FormatError: it is no ONNX model.
        UnsupportedError: too large for one protobuf message.
    """
    try:
        model = onnx.load(path)
    except Exception as problem:  # google.protobuf.DecodeError, OSError, ValueError, onnx's own
        raise FormatError(f"cannot read {path} as ONNX: {str(problem)[:200]}") from None
    graph = model.graph
    if not graph.node:
        raise FormatError(f"{path} holds no graph")
    kept = []
    for node in graph.node:
        value = next((item.t for item in node.attribute if item.name == "value" and item.HasField("t")), None)
        if node.op_type == "Constant" and value is not None:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)
    _unzip(graph)
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.STRING and not tensor.HasField("raw_data"):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(np.array(numpy_helper.to_array(tensor)), name))
    if model.ByteSize() > _LARGEST:
        raise UnsupportedError(f"{path} is larger than 2 GiB, which the lab does not evaluate")
    return model


def _unzip(graph: Any) -> None:
    maps = {node.output[0]: node for node in graph.node if node.op_type == "ZipMap"}
    for output in graph.output:
        if output.name in maps:
            node = maps[output.name]
            output.CopyFrom(helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))
            graph.node.remove(node)


def with_weights(model: Any, weights: Mapping[str, Array]) -> Any:
    """A copy of a canonical model with other weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = np.ascontiguousarray(weights[tensor.name]).tobytes()
    return copy


def inputs_of(model: Any) -> list[Any]:
    """The graph's inputs, without initialisers that old models list among them.

    Raises:
        UnsupportedError: there is none, or one is no tensor.
    """
    names = {item.name for item in model.graph.initializer}
    found = [item for item in model.graph.input if item.name not in names]
    if not found or any(not item.type.HasField("tensor_type") for item in found):
        raise UnsupportedError("the model takes no tensors, which the lab cannot evaluate")
    return found


def declared_batch(inputs: Sequence[Any]) -> int:
    """The fixed number of samples that a model was exported for; 0 where it is free."""
    dimensions = inputs[0].type.tensor_type.shape.dim
    return int(dimensions[0].dim_value) if dimensions else 0


def element_type(entry: Any) -> Any:
    """The numpy dtype of a graph's input."""
    return helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
