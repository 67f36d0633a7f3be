"""What an ONNX graph uses each weight for, and how an untrained one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from unclone.lab.contracts import Array
from unclone.lab.interpreter.node import Node
from unclone.lab.interpreter.recurrent import RECURRENT

__all__ = ["Uses", "roles_of", "uses_of"]

Uses = list[tuple[str, Node, int]]
"""(weight, node, position of the input)."""

_PASSING: Final = frozenset(
    ["Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast", "Expand", "Gather"]
    + [f"{domain}{kind}" for domain in ("", "com.microsoft.") for kind in ("QuantizeLinear", "DequantizeLinear")]
)
_PRODUCTS: Final = {
    "Gemm": (1, 0), "MatMul": (1, 0), "MatMulInteger": (1, 0), "QLinearMatMul": (3, 0), "com.microsoft.QGemm": (3, 0),
}  # fmt: skip
"""Operator -> positions of the right and the left factor."""
_CONVOLUTIONS: Final = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}


def uses_of(nodes: Sequence[Node], weights: Mapping[str, Array]) -> Uses:
    """Where each weight is used, also through a transposition, a reshape or the like."""
    alias = {name: name for name in weights}
    found = []
    for node in nodes:
        for position, name in enumerate(node.inputs):
            if name in alias:
                found.append((alias[name], node, position))
        if node.kind in _PASSING and node.inputs[0] in alias:
            alias[node.outputs[0]] = alias[node.inputs[0]]
    return found


def roles_of(uses: Uses, weights: Mapping[str, Array]) -> tuple[dict[str, str], dict[str, float]]:
    """Kind of each weight, and how to draw it: fan-in, or minus the constant it starts from (0 or -1)."""
    kinds = dict.fromkeys(weights, "other")
    fans: dict[str, float] = {}
    for name, node, position in uses:
        shape = weights[name].shape
        kind, fan = _role(node, position, shape)
        if name not in fans or kinds[name] == "other":
            kinds[name], fans[name] = kind, fan
    for name, value in weights.items():
        if name not in fans:
            fans[name] = float(np.prod(value.shape[1:])) if value.ndim > 1 else 0.0
    return kinds, fans


def _role(node: Node, position: int, shape: tuple[int, ...]) -> tuple[str, float]:
    rank = len(shape)
    if node.kind in _PRODUCTS:
        if position not in _PRODUCTS[node.kind] or rank < 2:
            return "bias", 0.0
        rows = position == _PRODUCTS[node.kind][0] and not node.get("transB", 0)
        return "dense", float(shape[-2] if rows else shape[-1])
    if node.kind in _CONVOLUTIONS:
        kernel = position == _CONVOLUTIONS[node.kind]
        return ("convolutional", float(np.prod(shape[1:]))) if kernel else ("bias", 0.0)
    if node.kind in RECURRENT:
        return ("recurrent", float(shape[-1])) if position in (1, 2) else ("bias", 0.0)
    if node.kind in ("BatchNormalization", "InstanceNormalization", "LayerNormalization"):
        scale = position == 1 or (node.kind == "BatchNormalization" and position == 4)
        return "normalisation", -1.0 if scale else 0.0
    if node.kind == "Gather" and position == 0:
        return "embedding", float(shape[-1]) if rank > 1 else 1.0
    if node.kind in ("Mul", "Div"):
        return "normalisation", -1.0
    if node.kind in ("Add", "Sub"):
        return "bias", 0.0
    if node.kind == "PRelu":
        return "other", -0.25
    return "other", float(np.prod(shape[1:])) if rank > 1 else 0.0
