"""Quantised operators of ONNX on floats that hold whole numbers, so that gradients flow through the rounding.

Rounding lets the gradient pass as if it were not there, and stops it where a code saturates: the straight-through
estimator (Bengio et al., arXiv 1308.3432; Jacob et al., CVPR 2018), as in training with quantisation in mind.
"""

from __future__ import annotations

from typing import Any, Final

from unclone.errors import MissingExtraError
from unclone.lab.interpreter.layers import LAYERS
from unclone.lab.interpreter.node import Node, Operator, Tensors, given, refuse

try:
    import torch
except ImportError:
    raise MissingExtraError("torch", "lab") from None

__all__ = ["QUANTISED"]

_MS: Final = "com.microsoft."


def _on_axis(value: Any, rank: int, axis: int) -> Any:
    """One number for all, or one for each index of an axis, ready to be broadcast."""
    if value.dim() == 0 or value.numel() == 1:
        return value.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return value.reshape(shape)


def _coded(value: Any, offset: Any, low: float, high: float) -> Any:
    """Rounded, half to even, then moved to the zero point, and saturated."""
    inside = torch.minimum(torch.maximum(value, low - offset), high - offset)
    return inside + (inside.round() - inside).detach() + offset


def _quantise(node: Node, value: Any, scale: Any, zero: Any, *, axis: int = 1) -> Any:
    if node.get("block_size", 0) or node.get("output_dtype", 0):
        raise refuse(node, "block_size or output_dtype")
    kind = torch.uint8 if zero is None else zero.dtype
    if kind.is_floating_point or scale.dim() > 1:
        raise refuse(node, "floats of 8 bits, or scales of blocks")
    limits = torch.iinfo(kind)
    offset = torch.zeros(()) if zero is None else _on_axis(zero.float(), value.dim(), axis)
    return _coded(value / _on_axis(scale, value.dim(), axis), offset, limits.min, limits.max)


def _dequantise(node: Node, codes: Any, scale: Any, zero: Any, *, axis: int = 1) -> Any:
    if node.get("block_size", 0) or scale.dim() > 1:
        raise refuse(node, "block_size, or scales of blocks")
    offset = 0.0 if zero is None else _on_axis(zero.float(), codes.dim(), axis)
    return (codes.float() - offset) * _on_axis(scale, codes.dim(), axis)


def _quantize_linear(node: Node, inputs: Tensors) -> Any:
    return _quantise(node, inputs[0].float(), inputs[1], given(inputs, 2), axis=node.get("axis", 1))


def _dequantize_linear(node: Node, inputs: Tensors) -> Any:
    return _dequantise(node, inputs[0], inputs[1], given(inputs, 2), axis=node.get("axis", 1))


def _dynamic_quantize_linear(_: Node, inputs: Tensors) -> Any:
    value = inputs[0]
    with torch.no_grad():
        low, high = value.amin().clamp(max=0.0), value.amax().clamp(min=0.0)
        scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
        zero = (-low / scale).clamp(0, 255).round().to(torch.uint8)
    return _coded(value / scale, zero.float(), 0, 255), scale, zero


def _centred(codes: Any, zero: Any, axis: int) -> Any:
    return codes.float() if zero is None else codes.float() - _on_axis(zero.float(), codes.dim(), axis)


def _matmul_integer(_: Node, inputs: Tensors) -> Any:
    left = _centred(inputs[0], given(inputs, 2), inputs[0].dim() - 2)
    return left @ _centred(inputs[1], given(inputs, 3), inputs[1].dim() - 1)


def _conv_integer(node: Node, inputs: Tensors) -> Any:
    value, weight = _centred(inputs[0], given(inputs, 2), 1), _centred(inputs[1], given(inputs, 3), 0)
    return LAYERS["Conv"](node, [value, weight])


def _qlinear_conv(node: Node, inputs: Tensors) -> Any:
    value, weight = _dequantise(node, *inputs[:3]), _dequantise(node, *inputs[3:6], axis=0)
    bias = given(inputs, 8)
    terms = [value, weight] if bias is None else [value, weight, bias.float() * inputs[1] * inputs[4]]
    return _quantise(node, LAYERS["Conv"](node, terms), inputs[6], inputs[7])


def _qlinear_matmul(node: Node, inputs: Tensors) -> Any:
    left = _dequantise(node, *inputs[:3], axis=inputs[0].dim() - 2)
    right = _dequantise(node, *inputs[3:6], axis=inputs[3].dim() - 1)
    return _quantise(node, left @ right, inputs[6], inputs[7])


def _qgemm(node: Node, inputs: Tensors) -> Any:
    left = _dequantise(node, *inputs[:3])
    right = _dequantise(node, *inputs[3:6], axis=0 if node.get("transB", 0) else 1)
    bias = given(inputs, 6)
    terms = [left, right] if bias is None else [left, right, bias.float() * inputs[1] * inputs[4]]
    product = LAYERS["Gemm"](node, terms)
    return product if given(inputs, 7) is None else _quantise(node, product, inputs[7], given(inputs, 8))


def _of_two(kind: str) -> Operator:
    run = {"Add": torch.add, "Mul": torch.mul}[kind]

    def operator(node: Node, inputs: Tensors) -> Any:
        left, right = _dequantise(node, *inputs[:3]), _dequantise(node, *inputs[3:6])
        return _quantise(node, run(left, right), inputs[6], given(inputs, 7))

    return operator


def _of_one(run: Operator) -> Operator:
    def operator(node: Node, inputs: Tensors) -> Any:
        if node.get("channels_last", 0):
            raise refuse(node, "channels last")
        return _quantise(node, run(node, [_dequantise(node, *inputs[:3])]), inputs[3], given(inputs, 4))

    return operator


QUANTISED: Final[dict[str, Operator]] = {
    "QuantizeLinear": _quantize_linear,
    "DequantizeLinear": _dequantize_linear,
    f"{_MS}QuantizeLinear": _quantize_linear,
    f"{_MS}DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLinear": _dynamic_quantize_linear,
    "MatMulInteger": _matmul_integer,
    "ConvInteger": _conv_integer,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    f"{_MS}QGemm": _qgemm,
    f"{_MS}QLinearAdd": _of_two("Add"),
    f"{_MS}QLinearMul": _of_two("Mul"),
    f"{_MS}QLinearAveragePool": _of_one(LAYERS["AveragePool"]),
    f"{_MS}QLinearGlobalAveragePool": _of_one(LAYERS["GlobalAveragePool"]),
    f"{_MS}QLinearLeakyRelu": _of_one(
        lambda node, inputs: torch.nn.functional.leaky_relu(inputs[0], node.get("alpha", 0.01))
    ),
    f"{_MS}QLinearSigmoid": _of_one(lambda _, inputs: torch.sigmoid(inputs[0])),
}
"""By name; those of ONNX Runtime with their domain."""
