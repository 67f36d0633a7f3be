"""Lines of each matrix in a secret order: every value stays in clear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unclone.lab.contracts import Array, Locked, Weights

__all__ = ["Permutation"]


@dataclass
class Permutation:
    """The columns of each tensor of two or more axes in a secret order, and on demand the rows too, with their biases.

    An order of its own for each tensor, so that no layer fits the next.

    Attributes:
        rows: whether rows are permuted as well.
    """

    name: str = "permutation"
    rows: bool = False
    reference: str = "permutation of layers, attacked by GroupCover and ArrowMatch"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock a copy; ``seed`` stands for the device."""
        rng = np.random.default_rng([seed, 0xC01])
        secret: dict[str, dict[int, Array]] = {}
        for name, value in weights.items():
            if value.ndim > 1:
                secret[name] = {1: rng.permutation(value.shape[1])}
                if self.rows:
                    secret[name][0] = rng.permutation(value.shape[0])
                    bias = f"{name.removesuffix('weight')}bias"
                    if bias in weights and weights[bias].shape == value.shape[:1]:
                        secret[bias] = {0: secret[name][0]}
        return Locked(_reordered(weights, secret), secret)

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        back = {
            name: {axis: np.argsort(order) for axis, order in orders.items()} for name, orders in locked.secret.items()
        }
        return _reordered(locked.weights, back)

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one move of each weight when it is loaded"


def _reordered(weights: Weights, orders: dict[str, dict[int, Array]]) -> Weights:
    result = {}
    for name, value in weights.items():
        moved = value.copy()
        for axis, order in orders.get(name, {}).items():
            moved = np.take(moved, order, axis)
        result[name] = np.ascontiguousarray(moved)
    return result
