"""Operators of ONNX that move numbers about: shapes, slices, indices, constants."""

from __future__ import annotations

from typing import Any, Final

from unclone.errors import MissingExtraError
from unclone.lab.interpreter.node import Node, Operator, Tensors, axes_of, given, integers, refuse

try:
    import torch
    from torch.nn import functional
except ImportError:
    raise MissingExtraError("torch", "lab") from None

__all__ = ["SHAPES"]


def _reshape(node: Node, inputs: Tensors) -> Any:
    shape = integers(inputs[1]) if len(inputs) > 1 else list(node.attributes["shape"])
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
    axes = axes_of(node, inputs, 1)
    return inputs[0].squeeze() if axes is None else inputs[0].squeeze(tuple(axes))


def _unsqueeze(node: Node, inputs: Tensors) -> Any:
    value = inputs[0]
    axes = axes_of(node, inputs, 1) or []
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
        starts, ends = integers(inputs[1]), integers(inputs[2])
        axes = range(len(starts)) if given(inputs, 3) is None else integers(inputs[3])
        steps = [1] * len(starts) if given(inputs, 4) is None else integers(inputs[4])
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
    sizes = node.get("split") if given(inputs, 1) is None else integers(inputs[1])
    if sizes is None:
        size = -(-inputs[0].shape[axis] // len(node.outputs))
        return torch.split(inputs[0], size, axis)
    return torch.split(inputs[0], list(sizes), axis)


def _pad(node: Node, inputs: Tensors) -> Any:
    pads = integers(inputs[1]) if len(inputs) > 1 else list(node.attributes["pads"])
    axes = given(inputs, 3)
    if axes is not None:
        pads = _of_all_axes(pads, integers(axes), inputs[0].dim())
    fill = node.get("value", 0.0) if given(inputs, 2) is None else float(inputs[2])
    mode = node.get("mode", "constant")
    rank = len(pads) // 2
    flat = [amount for axis in reversed(range(rank)) for amount in (pads[axis], pads[rank + axis])]
    if mode == "constant":
        return functional.pad(inputs[0], flat, value=fill)
    if mode not in ("reflect", "edge") or any(flat[-4:]):
        raise refuse(node, f"mode {mode}")
    return functional.pad(inputs[0], flat[:-4], mode={"edge": "replicate"}.get(mode, mode))


def _of_all_axes(pads: list[int], axes: list[int], rank: int) -> list[int]:
    whole = [0] * (2 * rank)
    for number, axis in enumerate(axes):
        whole[axis % rank], whole[rank + axis % rank] = pads[number], pads[len(axes) + number]
    return whole


def _expand(_: Node, inputs: Tensors) -> Any:
    shape = torch.broadcast_shapes(tuple(inputs[0].shape), tuple(integers(inputs[1])))
    return inputs[0].expand(shape)


def _constant(node: Node, _: Tensors) -> Any:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            value = torch.as_tensor(node.attributes[name])
            return value.float() if value.is_floating_point() else value
    raise refuse(node, "its value")


def _constant_of_shape(node: Node, inputs: Tensors) -> Any:
    value = node.get("value")
    scalar = torch.zeros(1) if value is None else torch.as_tensor(value)
    return torch.full(tuple(integers(inputs[0])), scalar.item(), dtype=scalar.dtype)


def _transpose(node: Node, inputs: Tensors) -> Any:
    return inputs[0].permute(node.get("perm", list(reversed(range(inputs[0].dim())))))


def _shape(node: Node, inputs: Tensors) -> Any:
    sizes = list(inputs[0].shape)[node.get("start", 0) : node.get("end")]
    return torch.tensor(sizes, dtype=torch.int64)


def _gather_elements(node: Node, inputs: Tensors) -> Any:
    axis = node.get("axis", 0) % inputs[0].dim()
    indices = inputs[1].long()
    return inputs[0].gather(axis, torch.where(indices < 0, indices + inputs[0].shape[axis], indices))


def _gather_nd(node: Node, inputs: Tensors) -> Any:
    if node.get("batch_dims", 0):
        raise refuse(node, "batch_dims")
    return inputs[0][tuple(inputs[1].long().unbind(-1))]


def _tile(_: Node, inputs: Tensors) -> Any:
    return inputs[0].repeat(*integers(inputs[1]))


def _range(_: Node, inputs: Tensors) -> Any:
    start, limit, step = (value.item() for value in inputs)
    return torch.arange(start, limit, step, dtype=inputs[0].dtype)


def _depth_to_space(node: Node, inputs: Tensors) -> Any:
    block = int(node.attributes["blocksize"])
    samples, channels, height, width = inputs[0].shape
    rest = channels // block**2
    if node.get("mode", "DCR") == "CRD":
        parts = inputs[0].reshape(samples, rest, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = inputs[0].reshape(samples, block, block, rest, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(samples, rest, height * block, width * block)


def _space_to_depth(node: Node, inputs: Tensors) -> Any:
    block = int(node.attributes["blocksize"])
    samples, channels, height, width = inputs[0].shape
    parts = inputs[0].reshape(samples, channels, height // block, block, width // block, block)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(samples, channels * block**2, height // block, width // block)


def _trilu(node: Node, inputs: Tensors) -> Any:
    shift = 0 if given(inputs, 1) is None else int(inputs[1])
    return torch.triu(inputs[0], shift) if node.get("upper", 1) else torch.tril(inputs[0], shift)


def _cum_sum(node: Node, inputs: Tensors) -> Any:
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise refuse(node, "exclusive or reverse")
    return inputs[0].cumsum(int(inputs[1]))


def _top_k(node: Node, inputs: Tensors) -> Any:
    (count,) = integers(inputs[1])
    return tuple(inputs[0].topk(count, node.get("axis", -1), bool(node.get("largest", 1))))


SHAPES: Final[dict[str, Operator]] = {
    "Concat": lambda node, inputs: torch.cat(list(inputs), node.attributes["axis"]),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cum_sum,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": lambda _, inputs: inputs[0],
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda _, inputs: torch.tensor(inputs[0].numel()),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
"""By name, of the standard domain."""
