"""Neurons exchanged in pairs as a key says: the column swap of a PUF-based binary network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unclone.lab.contracts import Array, Locked, Weights

__all__ = ["ColumnSwap", "swapped"]


@dataclass
class ColumnSwap:
    """Bit k of a key says whether neurons 2k and 2k+1 are exchanged, weights and bias alike, unseen by the next layer.

    The scheme of Rajendran et al., IEEE Embedded Systems Letters 2025, as arXiv 2510.24422 describes it, on weights
    of any type. A neuron is an entry of the first axis, as torch has it; there it is a column.

    Attributes:
        bits: of the key at most; a network with more pairs of neurons is locked at evenly spaced ones.
    """

    name: str = "column-swap"
    bits: int = 256
    reference: str = "Rajendran et al., IEEE ESL 2025, attacked in arXiv 2510.24422"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock a copy; ``seed`` stands for the device. ``info["pairs"]``: (tensors, neuron, neuron) of each key bit."""
        pairs = self._pairs(weights)
        key = np.random.default_rng([seed, 0x5A9]).integers(0, 2, len(pairs), dtype=np.uint8)
        return Locked(swapped(weights, pairs, key), key, {"pairs": pairs})

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        return swapped(locked.weights, locked.info["pairs"], locked.secret)

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one key bit for each two neurons, one move of each weight when it is loaded"

    def _pairs(self, weights: Weights) -> list[tuple[tuple[str, ...], int, int]]:
        pairs = []
        for name, value in weights.items():
            if value.ndim < 2:
                continue
            bias = weights.get(name.removesuffix("weight") + "bias")
            tensors = (name,) if bias is None or bias.shape != value.shape[:1] else (name, f"{name[:-6]}bias")
            pairs += [(tensors, first, first + 1) for first in range(0, value.shape[0] - 1, 2)]
        chosen = np.unique(np.linspace(0, len(pairs) - 1, min(self.bits, len(pairs))).round().astype(int))
        return [pairs[index] for index in chosen]


def swapped(weights: Weights, pairs: list[tuple[tuple[str, ...], int, int]], key: Array) -> Weights:
    """A copy with the pairs of set key bits exchanged; its own inverse.

    Args:
        weights: left alone.
        pairs: see ``ColumnSwap.lock``.
        key: 0 or 1 for each pair, shape ``(pairs,)``.
    """
    result: dict[str, Any] = {name: value.copy() for name, value in weights.items()}
    for (tensors, first, second), bit in zip(pairs, key, strict=True):
        if bit:
            for name in tensors:
                result[name][[first, second]] = result[name][[second, first]]
    return result
