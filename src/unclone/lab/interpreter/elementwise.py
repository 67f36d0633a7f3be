"""Operators of ONNX that work on each number, or fold numbers into one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from unclone.errors import MissingExtraError
from unclone.lab.interpreter.node import Node, Operator, Tensors, axes_of, given, refuse

try:
    import torch
    from torch.nn import functional
except ImportError:
    raise MissingExtraError("torch", "lab") from None

__all__ = ["ELEMENTWISE"]

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


def _reduce(run: Callable[[Any, list[int], bool], Any]) -> Operator:
    def operator(node: Node, inputs: Tensors) -> Any:
        axes = axes_of(node, inputs, 1)
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return inputs[0]
            axes = list(range(inputs[0].dim()))
        return run(inputs[0], axes, bool(node.get("keepdims", 1)))

    return operator


def _clip(node: Node, inputs: Tensors) -> Any:
    low, high = (inputs[1], given(inputs, 2)) if len(inputs) > 1 else (node.get("min"), node.get("max"))
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


def _plain(run: Callable[..., Any]) -> Operator:
    return lambda _, inputs: run(*inputs)


def _arg_max(node: Node, inputs: Tensors) -> Any:
    return inputs[0].argmax(dim=node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))


def _gelu(node: Node, inputs: Tensors) -> Any:
    return functional.gelu(inputs[0], approximate=node.get("approximate", "none"))


_PLAIN: Final = {
    "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Atan": torch.atan, "Ceil": torch.ceil,
    "Cos": torch.cos, "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor,
    "Greater": torch.gt, "GreaterOrEqual": torch.ge, "HardSwish": functional.hardswish, "IsNaN": torch.isnan,
    "Less": torch.lt,
    "LessOrEqual": torch.le, "Log": torch.log, "Mish": functional.mish, "Mul": torch.mul, "Neg": torch.neg,
    "Not": torch.logical_not, "Or": torch.logical_or, "Pow": torch.pow, "Reciprocal": torch.reciprocal,
    "Relu": torch.relu, "Round": torch.round, "Selu": torch.selu, "Sigmoid": torch.sigmoid, "Sign": torch.sign,
    "Sin": torch.sin, "Softplus": functional.softplus, "Softsign": functional.softsign, "Sqrt": torch.sqrt,
    "Sub": torch.sub, "Tan": torch.tan, "Tanh": torch.tanh, "Where": torch.where, "Xor": torch.logical_xor,
}  # fmt: skip

_REDUCING: Final[dict[str, Callable[[Any, list[int], bool], Any]]] = {
    "ReduceL1": lambda value, axes, keep: value.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda value, axes, keep: torch.sqrt((value * value).sum(axes, keepdim=keep)),
    "ReduceLogSumExp": lambda value, axes, keep: value.logsumexp(axes, keepdim=keep),
    "ReduceMax": lambda value, axes, keep: value.amax(axes, keepdim=keep),
    "ReduceMean": lambda value, axes, keep: value.mean(axes, keepdim=keep),
    "ReduceMin": lambda value, axes, keep: value.amin(axes, keepdim=keep),
    "ReduceSum": lambda value, axes, keep: value.sum(axes, keepdim=keep),
    "ReduceSumSquare": lambda value, axes, keep: (value * value).sum(axes, keepdim=keep),
}

_PARAMETRISED: Final[dict[str, Operator]] = {
    "Celu": lambda node, inputs: functional.celu(inputs[0], node.get("alpha", 1.0)),
    "Elu": lambda node, inputs: functional.elu(inputs[0], node.get("alpha", 1.0)),
    "HardSigmoid": lambda node, inputs: torch.clamp(inputs[0] * node.get("alpha", 0.2) + node.get("beta", 0.5), 0, 1),
    "LeakyRelu": lambda node, inputs: functional.leaky_relu(inputs[0], node.get("alpha", 0.01)),
    "Mean": lambda _, inputs: sum(inputs[1:], inputs[0]) / len(inputs),
    "Mod": lambda node, inputs: (torch.fmod if node.get("fmod", 0) else torch.remainder)(*inputs),
    "PRelu": lambda _, inputs: torch.where(inputs[0] < 0, inputs[0] * inputs[1], inputs[0]),
    "ThresholdedRelu": lambda node, inputs: torch.where(inputs[0] > node.get("alpha", 1.0), inputs[0], 0.0),
}

ELEMENTWISE: Final[dict[str, Operator]] = {
    **{name: _plain(run) for name, run in _PLAIN.items()},
    **{name: _reduce(run) for name, run in _REDUCING.items()},
    **_PARAMETRISED,
    "ArgMax": _arg_max,
    "Cast": _cast,
    "Clip": _clip,
    "Div": _divide,
    "Gelu": _gelu,
    "LogSoftmax": _softmax(functional.log_softmax),
    "Max": _fold(torch.maximum),
    "Min": _fold(torch.minimum),
    "Softmax": _softmax(functional.softmax),
    "Sum": _fold(torch.add),
}
"""By name, of the standard domain."""
