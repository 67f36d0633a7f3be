"""The usual ONNX operators in torch, so that gradients flow through a model of somebody else.

An operator is ``(node, inputs) -> outputs``; an input that is left out is ``None``. Semantics are those
of the ONNX operator reference, opset 13 and later, and of earlier opsets where an attribute became an input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from unclone.errors import MissingExtraError, UnsupportedError

try:
    import torch
    from torch.nn import functional
except ImportError:
    raise MissingExtraError("torch", "lab") from None

__all__ = ["OPERATORS", "Node", "Operator", "Tensors", "refuse"]

Tensors = Sequence[Any]


@dataclass(frozen=True)
class Node:
    """One node of a graph.

    Attributes:
        kind: operator.
        name: for messages.
        inputs: value names, ``""`` for what is left out.
        outputs: value names.
        attributes: by name; tensors as numpy arrays.
        opset: version of the standard operators.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 13

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)


Operator = Callable[[Node, Tensors], Any]
"""Returns one tensor, or a tuple of them."""


def refuse(node: Node, what: str) -> UnsupportedError:
    """The error for what is not understood."""
    return UnsupportedError(f"operator {node.kind}: {what} is not understood by the lab's interpreter")


def _ints(value: Any) -> list[int]:
    return [int(item) for item in value.reshape(-1).tolist()] if isinstance(value, torch.Tensor) else list(value)


def _axes(node: Node, inputs: Tensors, position: int) -> list[int] | None:
    """Axes as an attribute (earlier opsets) or an input."""
    if len(inputs) > position and inputs[position] is not None:
        return _ints(inputs[position])
    value = node.get("axes")
    return None if value is None else list(value)


def _gemm(node: Node, inputs: Tensors) -> Any:
    left = inputs[0].T if node.get("transA", 0) else inputs[0]
    right = inputs[1].T if node.get("transB", 0) else inputs[1]
    product = node.get("alpha", 1.0) * (left @ right)
    if len(inputs) > 2 and inputs[2] is not None:
        product = product + node.get("beta", 1.0) * inputs[2]
    return product


def _padded(node: Node, value: Any, kernel: Sequence[int], fill: float) -> Any:
    """Apply ``pads`` or ``auto_pad``."""
    rank = len(kernel)
    auto = node.get("auto_pad", "NOTSET")
    pads = list(node.get("pads", [0] * 2 * rank))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        strides, dilations = node.get("strides", [1] * rank), node.get("dilations", [1] * rank)
        for axis in range(rank):
            size = value.shape[2 + axis]
            reach = (kernel[axis] - 1) * dilations[axis] + 1
            total = max(0, (-(-size // strides[axis]) - 1) * strides[axis] + reach - size)
            small, large = total // 2, total - total // 2
            pads[axis], pads[rank + axis] = (small, large) if auto == "SAME_UPPER" else (large, small)
    elif auto not in ("NOTSET", "VALID"):
        raise refuse(node, f"auto_pad {auto}")
    if not any(pads):
        return value
    flat = [amount for axis in reversed(range(rank)) for amount in (pads[axis], pads[rank + axis])]
    return functional.pad(value, flat, value=fill)


def _conv(node: Node, inputs: Tensors) -> Any:
    value, weight = inputs[0], inputs[1]
    rank = weight.dim() - 2
    run = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    ones = [1] * rank
    bias = inputs[2] if len(inputs) > 2 else None
    padded = _padded(node, value, weight.shape[2:], 0.0)
    return run(
        padded, weight, bias, node.get("strides", ones), 0, node.get("dilations", ones), int(node.get("group", 1))
    )


def _conv_transpose(node: Node, inputs: Tensors) -> Any:
    weight = inputs[1]
    rank = weight.dim() - 2
    pads = node.get("pads", [0] * 2 * rank)
    if pads[:rank] != pads[rank:] or node.get("auto_pad", "NOTSET") != "NOTSET" or node.get("output_shape"):
        raise refuse(node, "uneven padding")
    run = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    ones = [1] * rank
    return run(
        inputs[0], weight, inputs[2] if len(inputs) > 2 else None, node.get("strides", ones), pads[:rank],
        node.get("output_padding", [0] * rank), int(node.get("group", 1)), node.get("dilations", ones),
    )  # fmt: skip


def _max_pool(node: Node, inputs: Tensors) -> Any:
    kernel = node.attributes["kernel_shape"]
    rank = len(kernel)
    if len(node.outputs) > 1:
        raise refuse(node, "indices")
    run = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
    value = _padded(node, inputs[0], kernel, float("-inf"))
    ones = [1] * rank
    return run(value, kernel, node.get("strides", ones), 0, node.get("dilations", ones), bool(node.get("ceil_mode", 0)))


def _average_pool(node: Node, inputs: Tensors) -> Any:
    kernel = node.attributes["kernel_shape"]
    rank = len(kernel)
    strides, ceil = node.get("strides", [1] * rank), bool(node.get("ceil_mode", 0))
    run = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank - 1]
    padded = _padded(node, inputs[0], kernel, 0.0)
    mean = run(padded, kernel, strides, 0, ceil)
    if padded.shape == inputs[0].shape or node.get("count_include_pad", 0):
        return mean
    share = run(_padded(node, torch.ones_like(inputs[0]), kernel, 0.0), kernel, strides, 0, ceil)
    return mean / share


def _batch_norm(node: Node, inputs: Tensors) -> Any:
    value, scale, bias, mean, variance = inputs[:5]
    shape = [1, -1] + [1] * (value.dim() - 2)
    factor = scale / torch.sqrt(variance + node.get("epsilon", 1e-5))
    return value * factor.reshape(shape) + (bias - mean * factor).reshape(shape)


def _layer_norm(node: Node, inputs: Tensors) -> Any:
    axis = node.get("axis", -1) % inputs[0].dim()
    shape = list(inputs[0].shape[axis:])
    bias = inputs[2] if len(inputs) > 2 else None
    return functional.layer_norm(inputs[0], shape, inputs[1].reshape(shape), bias, node.get("epsilon", 1e-5))


def _reshape(node: Node, inputs: Tensors) -> Any:
    shape = _ints(inputs[1]) if len(inputs) > 1 else list(node.attributes["shape"])
    if not node.get("allowzero", 0):
        shape = [inputs[0].shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    declared = node.get("declared_batch")  # a model exported for one sample: let the batch through
    if declared and shape and shape[0] == declared and inputs[0].shape[0] != declared:
        shape[0] = inputs[0].shape[0]
    return torch.reshape(inputs[0], tuple(shape))


def _flatten(node: Node, inputs: Tensors) -> Any:
    axis = node.get("axis", 1) % (inputs[0].dim() + 1)
    rows = 1
    for size in inputs[0].shape[:axis]:
        rows *= size
    return inputs[0].reshape(rows, -1)


def _squeeze(node: Node, inputs: Tensors) -> Any:
    axes = _axes(node, inputs, 1)
    return inputs[0].squeeze() if axes is None else inputs[0].squeeze(tuple(axes))


def _unsqueeze(node: Node, inputs: Tensors) -> Any:
    value = inputs[0]
    axes = _axes(node, inputs, 1) or []
    rank = value.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _slice(node: Node, inputs: Tensors) -> Any:
    value = inputs[0]
    if len(inputs) == 1:
        starts, ends = list(node.attributes["starts"]), list(node.attributes["ends"])
        axes, steps = node.get("axes", range(len(starts))), [1] * len(starts)
    else:
        starts, ends = _ints(inputs[1]), _ints(inputs[2])
        axes = _ints(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else range(len(starts))
        steps = _ints(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        chosen = range(value.shape[axis])[slice(start, end if abs(end) < 2**31 - 1 else _open(end, step), step)]
        value = value.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
    return value


def _open(end: int, step: int) -> int | None:
    """An end beyond all sizes."""
    return None if (end > 0) == (step > 0) else end


def _gather(node: Node, inputs: Tensors) -> Any:
    axis = node.get("axis", 0) % max(inputs[0].dim(), 1)
    indices = inputs[1].long()
    flat = indices.reshape(-1)
    flat = torch.where(flat < 0, flat + inputs[0].shape[axis], flat)
    if axis == 0 and inputs[0].dim() == 2 and inputs[0].is_floating_point():
        return functional.embedding(flat, inputs[0]).reshape(*indices.shape, -1)
    rows = inputs[0].index_select(axis, flat)
    return rows.reshape((*inputs[0].shape[:axis], *indices.shape, *inputs[0].shape[axis + 1 :]))


def _split(node: Node, inputs: Tensors) -> Any:
    axis = node.get("axis", 0)
    sizes = _ints(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else node.get("split")
    if sizes is None:
        size = -(-inputs[0].shape[axis] // len(node.outputs))
        return torch.split(inputs[0], size, axis)
    return torch.split(inputs[0], list(sizes), axis)


def _pad(node: Node, inputs: Tensors) -> Any:
    pads = _ints(inputs[1]) if len(inputs) > 1 else list(node.attributes["pads"])
    fill = float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else node.get("value", 0.0)
    mode = node.get("mode", "constant")
    rank = len(pads) // 2
    if len(inputs) > 3 and inputs[3] is not None:
        raise refuse(node, "axes")
    flat = [amount for axis in reversed(range(rank)) for amount in (pads[axis], pads[rank + axis])]
    if mode == "constant":
        return functional.pad(inputs[0], flat, value=fill)
    if mode not in ("reflect", "edge") or any(flat[-4:]):
        raise refuse(node, f"mode {mode}")
    return functional.pad(inputs[0], flat[:-4], mode={"edge": "replicate"}.get(mode, mode))


def _expand(_: Node, inputs: Tensors) -> Any:
    shape = torch.broadcast_shapes(tuple(inputs[0].shape), tuple(_ints(inputs[1])))
    return inputs[0].expand(shape)


_TYPES: Final = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float32, 11: torch.float32, 16: torch.float32,
}  # fmt: skip
"""Floats of any width are float32 here."""


def _cast(node: Node, inputs: Tensors) -> Any:
    kind = node.attributes["to"]
    if kind not in _TYPES:
        raise refuse(node, f"data type {kind}")
    return inputs[0].to(_TYPES[kind])


def _constant(node: Node, _: Tensors) -> Any:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            value = torch.as_tensor(node.attributes[name])
            return value.float() if value.is_floating_point() else value
    raise refuse(node, "its value")


def _constant_of_shape(node: Node, inputs: Tensors) -> Any:
    value = node.get("value")
    scalar = torch.zeros(1) if value is None else torch.as_tensor(value)
    return torch.full(tuple(_ints(inputs[0])), scalar.item(), dtype=scalar.dtype)


def _reduce(run: Callable[[Any, list[int], bool], Any]) -> Operator:
    def operator(node: Node, inputs: Tensors) -> Any:
        axes = _axes(node, inputs, 1)
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return inputs[0]
            axes = list(range(inputs[0].dim()))
        return run(inputs[0], axes, bool(node.get("keepdims", 1)))

    return operator


def _clip(node: Node, inputs: Tensors) -> Any:
    low = inputs[1] if len(inputs) > 1 else node.get("min")
    high = inputs[2] if len(inputs) > 2 else node.get("max")
    return inputs[0] if low is None and high is None else torch.clamp(inputs[0], low, high)


def _softmax(run: Callable[..., Any]) -> Operator:
    def operator(node: Node, inputs: Tensors) -> Any:
        axis = node.get("axis", -1 if node.opset >= 13 else 1)
        if node.opset >= 13:
            return run(inputs[0], dim=axis)
        shape = inputs[0].shape  # before opset 13: over all axes from this one on
        return run(inputs[0].flatten(axis % len(shape)), dim=-1).reshape(shape)

    return operator


def _fold(run: Callable[[Any, Any], Any]) -> Operator:
    def operator(_: Node, inputs: Tensors) -> Any:
        result = inputs[0]
        for value in inputs[1:]:
            result = run(result, value)
        return result

    return operator


def _divide(_: Node, inputs: Tensors) -> Any:
    if inputs[0].is_floating_point():
        return inputs[0] / inputs[1]
    return torch.div(inputs[0], inputs[1], rounding_mode="trunc")


def _transpose(node: Node, inputs: Tensors) -> Any:
    return inputs[0].permute(node.get("perm", list(reversed(range(inputs[0].dim())))))


def _plain(run: Callable[..., Any]) -> Operator:
    return lambda _, inputs: run(*inputs)


def _pool_all(run: Callable[[Any, tuple[int, ...]], Any]) -> Operator:
    return lambda _, inputs: run(inputs[0], tuple(range(2, inputs[0].dim())))


def _arg_max(node: Node, inputs: Tensors) -> Any:
    return inputs[0].argmax(dim=node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))


def _shape(node: Node, inputs: Tensors) -> Any:
    sizes = list(inputs[0].shape)[node.get("start", 0) : node.get("end")]
    return torch.tensor(sizes, dtype=torch.int64)


def _gelu(node: Node, inputs: Tensors) -> Any:
    return functional.gelu(inputs[0], approximate=node.get("approximate", "none"))


OPERATORS: Final[dict[str, Operator]] = {
    "Abs": _plain(torch.abs), "Add": _plain(torch.add), "And": _plain(torch.logical_and), "ArgMax": _arg_max,
    "AveragePool": _average_pool, "BatchNormalization": _batch_norm, "Cast": _cast, "Clip": _clip,
    "Concat": lambda node, inputs: torch.cat(list(inputs), node.attributes["axis"]),
    "Constant": _constant, "ConstantOfShape": _constant_of_shape, "Conv": _conv, "ConvTranspose": _conv_transpose,
    "Cos": _plain(torch.cos), "Div": _divide, "Dropout": lambda _, inputs: inputs[0],
    "Elu": lambda node, inputs: functional.elu(inputs[0], node.get("alpha", 1.0)),
    "Equal": _plain(torch.eq), "Erf": _plain(torch.erf), "Exp": _plain(torch.exp), "Expand": _expand,
    "Flatten": _flatten, "Floor": _plain(torch.floor), "Gather": _gather, "Gelu": _gelu, "Gemm": _gemm,
    "GlobalAveragePool": _pool_all(lambda value, axes: value.mean(axes, keepdim=True)),
    "GlobalMaxPool": _pool_all(lambda value, axes: value.amax(axes, keepdim=True)),
    "Greater": _plain(torch.gt), "GreaterOrEqual": _plain(torch.ge),
    "HardSigmoid": lambda node, inputs: torch.clamp(
        inputs[0] * node.get("alpha", 0.2) + node.get("beta", 0.5), 0, 1
    ),
    "HardSwish": _plain(functional.hardswish), "Identity": lambda _, inputs: inputs[0],
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda node, inputs: functional.leaky_relu(inputs[0], node.get("alpha", 0.01)),
    "Less": _plain(torch.lt), "LessOrEqual": _plain(torch.le), "Log": _plain(torch.log),
    "LogSoftmax": _softmax(functional.log_softmax), "MatMul": _plain(torch.matmul), "Max": _fold(torch.maximum),
    "MaxPool": _max_pool, "Mean": lambda _, inputs: sum(inputs[1:], inputs[0]) / len(inputs),
    "Min": _fold(torch.minimum), "Mish": _plain(functional.mish),
    "Mod": lambda node, inputs: (torch.fmod if node.get("fmod", 0) else torch.remainder)(*inputs),
    "Mul": _plain(torch.mul), "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not), "Or": _plain(torch.logical_or), "PRelu": lambda _, inputs: torch.where(
        inputs[0] < 0, inputs[0] * inputs[1], inputs[0]
    ),
    "Pad": _pad, "Pow": _plain(torch.pow), "Reciprocal": _plain(torch.reciprocal),
    "ReduceL2": _reduce(lambda value, axes, keep: torch.sqrt((value * value).sum(axes, keepdim=keep))),
    "ReduceMax": _reduce(lambda value, axes, keep: value.amax(axes, keepdim=keep)),
    "ReduceMean": _reduce(lambda value, axes, keep: value.mean(axes, keepdim=keep)),
    "ReduceMin": _reduce(lambda value, axes, keep: value.amin(axes, keepdim=keep)),
    "ReduceSum": _reduce(lambda value, axes, keep: value.sum(axes, keepdim=keep)),
    "Relu": _plain(torch.relu), "Reshape": _reshape, "Selu": _plain(torch.selu), "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid), "Sign": _plain(torch.sign), "Sin": _plain(torch.sin), "Slice": _slice,
    "Softmax": _softmax(functional.softmax), "Softplus": _plain(functional.softplus),
    "Softsign": _plain(functional.softsign), "Split": _split, "Sqrt": _plain(torch.sqrt), "Squeeze": _squeeze,
    "Sub": _plain(torch.sub), "Sum": _fold(torch.add), "Tanh": _plain(torch.tanh), "Transpose": _transpose,
    "Unsqueeze": _unsqueeze, "Where": _plain(torch.where),
}  # fmt: skip
"""By name, of the standard domain."""
