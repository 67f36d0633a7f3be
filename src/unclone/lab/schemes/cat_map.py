"""Positions scrambled by a chaotic map with a small key, as for on-device transformers and many nets before them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from unclone.lab.contracts import Array, Locked, Weights

__all__ = ["KEYS", "CatKey", "CatMap", "scrambled"]


class CatKey(NamedTuple):
    """Parameters of one tensor: (x, y) -> (x + a*y, b*x + (a*b + 1)*y) modulo the side, so many times."""

    rounds: int
    a: int
    b: int


KEYS: Final = tuple(itertools.starmap(CatKey, itertools.product(range(1, 9), range(1, 9), range(1, 9))))
"""The key space: nine bits. The published artefact has one fixed key, 3 rounds of [[1, 1], [1, 2]]."""


@dataclass
class CatMap:
    """The Arnold cat map on every matrix, filters as rows, in square tiles; what no tile covers stays.

    ACSAC 2025 scrambles the attention matrices of a transformer so and permutes its other layers; ChaoW (Lin et al.,
    IEEE TCAD 2020) does it to convolutions. Every value stays, and so do the statistics of the whole tensor.
    """

    name: str = "cat-map"
    reference: str = "ACSAC 2025, on-device transformers; ChaoW, IEEE TCAD 2020"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock a copy; ``seed`` stands for the device."""
        rng = np.random.default_rng([seed, 0xCA7])
        secret = {name: KEYS[rng.integers(len(KEYS))] for name, value in weights.items() if value.ndim > 1}
        return Locked(_mapped(weights, secret), secret)

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        return _mapped(locked.weights, locked.secret, back=True)

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one move of each weight when it is loaded; inference 1.6 to 2.5 times slower where layer by layer"


def _mapped(weights: Weights, keys: dict[str, CatKey], *, back: bool = False) -> Weights:
    return {
        name: scrambled(value, keys[name], back=back) if name in keys else value.copy()
        for name, value in weights.items()
    }


def scrambled(value: Array, key: CatKey, *, back: bool = False) -> Array:
    """A copy of an array of two or more axes with its square tiles scrambled, or put in order again."""
    matrix = value.reshape(value.shape[0], -1)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    side = wide.shape[0]
    x, y = places = np.indices((side, side))
    for _ in range(key.rounds):
        x, y = (x + key.a * y) % side, (key.b * x + (key.a * key.b + 1) * y) % side
    result = wide.copy()
    for start in range(0, wide.shape[1] - side + 1, side):
        tile, out = wide[:, start : start + side], result[:, start : start + side]
        if back:
            out[places[0], places[1]] = tile[x, y]
        else:
            out[x, y] = tile[places[0], places[1]]
    return np.ascontiguousarray(result if wide is matrix else result.T).reshape(value.shape)
