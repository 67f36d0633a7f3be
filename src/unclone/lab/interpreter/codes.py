"""Integer weights as numbers that can be trained: what a code stands for, and how to write it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unclone.lab.contracts import Array
from unclone.lab.interpreter.node import Node

__all__ = ["Code", "codes_of"]

_MS: Final = "com.microsoft."
_SPREAD: Final = 32.0
"""Standard deviation of fresh codes where no scale is known: a quarter of the range of int8."""

_PLACES: Final[dict[str, dict[int, tuple[int | None, int | None]]]] = {
    "DequantizeLinear": {0: (1, 2)}, f"{_MS}DequantizeLinear": {0: (1, 2)}, "QLinearConv": {3: (4, 5), 8: (4, None)},
    "QLinearMatMul": {0: (1, 2), 3: (4, 5)}, f"{_MS}QGemm": {3: (4, 5), 6: (4, None)},
    f"{_MS}QLinearAdd": {0: (1, 2), 3: (4, 5)}, f"{_MS}QLinearMul": {0: (1, 2), 3: (4, 5)},
    "MatMulInteger": {0: (None, 2), 1: (None, 3)}, "ConvInteger": {1: (None, 3)},
}  # fmt: skip
"""Operator -> input of codes -> inputs of their scale and zero point."""


@dataclass(frozen=True)
class Code:
    """An integer weight's meaning: ``value = (code - zero) * unit``; arrays are broadcast over the weight.

    Attributes:
        unit: ``float32``.
        zero: ``float32``.
        dtype: of the codes.
    """

    unit: NDArray[np.float32]
    zero: NDArray[np.float32]
    dtype: np.dtype[Any]

    def values(self, codes: Array) -> NDArray[np.float32]:
        """What codes stand for, ``float32``."""
        found: NDArray[np.float32] = (codes.astype(np.float32) - self.zero) * self.unit
        return found

    def codes(self, values: Array) -> Array:
        """The nearest codes, saturated."""
        limits = np.iinfo(self.dtype)
        wide = np.rint(values.astype(np.float64) / self.unit + self.zero)
        return np.clip(wide, limits.min, limits.max).astype(self.dtype)


def codes_of(
    uses: Iterable[tuple[str, Node, int]], weights: Mapping[str, Array], constants: Mapping[str, Array], fans: Any
) -> dict[str, Code]:
    """The codes among ``weights``, by name.

    Args:
        uses: (weight, node, input's position).
        weights: of the model.
        constants: the initialisers that are no weights: scales and zero points.
        fans: weight name -> fan-in, 0 for a bias.
    """
    found: dict[str, Code] = {}
    for name, node, position in uses:
        value = weights[name]
        places = _PLACES.get(node.kind, {}).get(position)
        if places is None or name in found or np.issubdtype(value.dtype, np.floating):
            continue
        scale, zero = (_constant(node, place, constants, value) for place in places)
        if scale is None:
            scale = np.float32(np.sqrt(2 / max(fans[name], 1.0)) / _SPREAD)
        elif position in (6, 8):  # a bias is counted in units of the product
            factor = _constant(node, 1, constants, value)
            scale = scale * (np.float32(1) if factor is None else factor)
        offset = np.float32(0) if zero is None else zero
        found[name] = Code(np.asarray(scale, np.float32), np.asarray(offset, np.float32), value.dtype)
    return found


def _constant(node: Node, place: int | None, constants: Mapping[str, Array], value: Array) -> Any:
    """A scale or zero point, shaped to be broadcast over ``value``; ``None`` where there is none."""
    if place is None or len(node.inputs) <= place or node.inputs[place] not in constants:
        return None
    array = constants[node.inputs[place]].astype(np.float32)
    if array.size == 1:
        return array.reshape(())
    axes = [axis for axis, size in enumerate(value.shape) if size == array.size]
    if array.ndim > 1 or not axes:
        return np.median(array)
    wanted = node.get("axis", 1) % value.ndim if node.kind.endswith("DequantizeLinear") else _axis(node, value)
    shape = [1] * value.ndim
    shape[wanted if wanted in axes else axes[0]] = array.size
    return array.reshape(shape)


def _axis(node: Node, value: Array) -> int:
    """Where one scale for each output channel goes."""
    if value.ndim == 1 or node.kind in ("QLinearConv", "ConvInteger"):
        return 0
    return 0 if node.get("transB", 0) else value.ndim - 1
