"""Layers of ONNX in torch: products, convolutions, pooling, normalisation, resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from unclone.errors import MissingExtraError
from unclone.lab.interpreter.node import Node, Operator, Tensors, given, integers, refuse

try:
    import torch
    from torch.nn import functional
except ImportError:
    raise MissingExtraError("torch", "lab") from None

__all__ = ["LAYERS"]


def _gemm(node: Node, inputs: Tensors) -> Any:
    left = inputs[0].T if node.get("transA", 0) else inputs[0]
    right = inputs[1].T if node.get("transB", 0) else inputs[1]
    product = node.get("alpha", 1.0) * (left @ right)
    if given(inputs, 2) is not None:
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
    padded = _padded(node, value, weight.shape[2:], 0.0)
    return run(
        padded,
        weight,
        given(inputs, 2),
        node.get("strides", ones),
        0,
        node.get("dilations", ones),
        int(node.get("group", 1)),
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
        inputs[0], weight, given(inputs, 2), node.get("strides", ones), pads[:rank],
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
    scale = inputs[1].reshape(shape)
    return functional.layer_norm(inputs[0], shape, scale, given(inputs, 2), node.get("epsilon", 1e-5))


def _instance_norm(node: Node, inputs: Tensors) -> Any:
    return functional.instance_norm(inputs[0], weight=inputs[1], bias=inputs[2], eps=node.get("epsilon", 1e-5))


def _group_norm(node: Node, inputs: Tensors) -> Any:
    value, scale, bias = inputs[:3]
    groups = int(node.attributes["num_groups"])
    if scale.numel() == groups != value.shape[1]:  # opset 18: of each group, from opset 21 on of each channel
        scale, bias = (item.repeat_interleave(value.shape[1] // groups) for item in (scale, bias))
    return functional.group_norm(value, groups, scale, bias, node.get("epsilon", 1e-5))


def _local_response_norm(node: Node, inputs: Tensors) -> Any:
    return functional.local_response_norm(
        inputs[0], int(node.attributes["size"]), node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    )


def _lp_norm(node: Node, inputs: Tensors) -> Any:
    return inputs[0] / inputs[0].norm(node.get("p", 2), node.get("axis", -1), keepdim=True)


def _einsum(node: Node, inputs: Tensors) -> Any:
    return torch.einsum(node.attributes["equation"], *inputs)


_LINEAR: Final = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _resize(node: Node, inputs: Tensors) -> Any:
    """What ``interpolate`` has: nearest, as exporters write it, and linear with half pixels or aligned corners."""
    value, rank = inputs[0], inputs[0].dim() - 2
    if node.get("axes") or node.get("keep_aspect_ratio_policy", "stretch") != "stretch" or node.get("antialias", 0):
        raise refuse(node, "axes, an aspect ratio or antialiasing")
    sizes, scales = given(inputs, 3), given(inputs, 2)
    shape = integers(sizes) if sizes is not None else _scaled(value.shape, scales)
    if shape[:2] != list(value.shape[:2]) or rank not in _LINEAR:
        raise refuse(node, "resizing of samples or channels")
    mode, where = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    rounding = node.get("nearest_mode", "round_prefer_floor")
    if mode == "nearest" and (where, rounding) == ("asymmetric", "floor"):
        return functional.interpolate(value, shape[2:], mode="nearest")
    whole = all(new % old == 0 for new, old in zip(shape[2:], value.shape[2:], strict=True))
    if mode == "nearest" and where == "half_pixel" and whole:  # every source lies nearest to one pixel: no rounding
        return functional.interpolate(value, shape[2:], mode="nearest-exact")
    if mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        aligned = where == "align_corners"
        return functional.interpolate(value, shape[2:], mode=_LINEAR[rank], align_corners=aligned)
    raise refuse(node, f"{mode} with {where}, {rounding}")


def _scaled(shape: Sequence[int], scales: Any) -> list[int]:
    return [int(size * scale) for size, scale in zip(shape, scales.tolist(), strict=True)]


def _pool_all(run: Callable[[Any, tuple[int, ...]], Any]) -> Operator:
    return lambda _, inputs: run(inputs[0], tuple(range(2, inputs[0].dim())))


LAYERS: Final[dict[str, Operator]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dropout": lambda _, inputs: inputs[0],
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _pool_all(lambda value, axes: value.mean(axes, keepdim=True)),
    "GlobalMaxPool": _pool_all(lambda value, axes: value.amax(axes, keepdim=True)),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MatMul": lambda _, inputs: torch.matmul(*inputs),
    "MaxPool": _max_pool,
    "Resize": _resize,
}
"""By name, of the standard domain."""
