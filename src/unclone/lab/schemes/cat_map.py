"""Positions scrambled by a chaotic map with a small key, as for on-device transformers and many nets before them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from unclone.lab.contracts import Array, Locked, Weights

__all__ = ["KEYS", "CatKey", "CatMap", "DualKey", "DualScrambling", "maps", "scrambled", "tiled"]


class CatKey(NamedTuple):
    """Parameters: (x, y) -> (x + a*y, b*x + (a*b + 1)*y) modulo the side, so many times."""

    rounds: int
    a: int
    b: int

    def matrix(self, side: int) -> Array:
        """All rounds at once: ``int64``, shape ``(2, 2)``, modulo ``side``."""
        one, power = np.array([[1, self.a], [self.b, self.a * self.b + 1]]) % side, np.eye(2, dtype=np.int64)
        for _ in range(self.rounds):
            power = one @ power % side
        return power


KEYS: Final[tuple[CatKey, ...]] = tuple(
    itertools.starmap(CatKey, itertools.product(range(1, 6), range(1, 65), range(1, 65)))
)
"""The key space, 20,480.

ACSAC 2025's artefact ships one fixed key, three rounds of [[1, 1], [1, 2]], and draws others with two to five rounds
and entries up to 100. Larger ones would not help: a matrix of side n has fewer than n**3 maps (the order of
SL(2, Z/n)), 23 bits for the 192 of DeiT-tiny.
"""


@lru_cache(maxsize=64)
def maps(side: int) -> tuple[list[CatKey], Array]:
    """The keys that differ on matrices of a side, and their maps, ``int64``, shape ``(keys, 2, 2)``."""
    rounds, a, b = np.array(KEYS).T
    one = np.array([[np.ones_like(a), a], [b, a * b + 1]]).transpose(2, 0, 1) % side
    powers = np.broadcast_to(np.eye(2, dtype=np.int64), one.shape)
    for done in range(int(rounds.max())):
        powers = np.where((rounds > done)[:, None, None], one @ powers % side, powers)
    _, first = np.unique(powers.reshape(-1, 4), axis=0, return_index=True)
    return [KEYS[index] for index in first], powers[first]


@dataclass
class CatMap:
    """The Arnold cat map on every matrix, filters as rows, in square tiles; what no tile covers stays.

    One key for the file. Every value stays, and so do the statistics of the whole tensor.
    """

    name: str = "cat-map"
    reference: str = "ChaoW: Lin et al., IEEE TCAD 2020"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock a copy; ``seed`` stands for the device."""
        secret = KEYS[np.random.default_rng([seed, 0xCA7]).integers(len(KEYS))]
        return Locked(_mapped(weights, secret), secret)

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        return _mapped(locked.weights, locked.secret, back=True)

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one move of each weight when it is loaded"


class DualKey(NamedTuple):
    """The map's key, and for each width the secret order of the lines across it."""

    cat: CatKey
    orders: dict[int, Array]


@dataclass
class DualScrambling:
    """ACSAC 2025: the cat map on attention's square matrices, one secret order of rows for feed-forward layers.

    A tensor that whole square tiles cover counts as attention's; of any other matrix the lines of the shorter side are
    permuted, of a convolution the filters, in the same order wherever their number is the same, as the hidden size is
    in a transformer. Biases stay.
    The artefact locks chosen layers alone and opens them again at each inference; here all layers are locked.
    """

    name: str = "cat-map-permutation"
    reference: str = "Securing On-device Transformers, ACSAC 2025"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock a copy; ``seed`` stands for the device."""
        rng = np.random.default_rng([seed, 0xD0A1])
        widths = sorted({value.shape[_axis(value)] for value in weights.values() if value.ndim > 1})
        secret = DualKey(KEYS[rng.integers(len(KEYS))], {width: rng.permutation(width) for width in widths})
        return Locked({name: _dual(value, secret) for name, value in weights.items()}, secret)

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        return {name: _dual(value, locked.secret, back=True) for name, value in locked.weights.items()}

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one move of each weight; inference 1.6 to 2.5 times slower where opened layer by layer (published)"


def _matrix(value: Array) -> Array:
    return value.reshape(value.shape[0], -1)


def tiled(value: Array) -> bool:
    """Whether whole square tiles cover the tensor, as a matrix with its filters as rows."""
    short, long = sorted(_matrix(value).shape)
    return bool(short > 1 and long % short == 0)


def _dual(value: Array, key: DualKey, *, back: bool = False) -> Array:
    if value.ndim < 2:
        return value.copy()
    if tiled(value):
        return scrambled(value, key.cat, back=back)
    order = key.orders[value.shape[_axis(value)]]
    return np.ascontiguousarray(np.take(value, np.argsort(order) if back else order, _axis(value)))


def _axis(value: Array) -> int:
    """Across which lines are permuted."""
    return int(np.argmin(value.shape)) if value.ndim == 2 else 0


def _mapped(weights: Weights, key: CatKey, *, back: bool = False) -> Weights:
    return {
        name: scrambled(value, key, back=back) if value.ndim > 1 else value.copy() for name, value in weights.items()
    }


def scrambled(value: Array, key: CatKey, *, back: bool = False) -> Array:
    """A copy of an array of two or more axes with its square tiles scrambled, or put in order again."""
    matrix = _matrix(value)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    side = wide.shape[0]
    places = np.indices((side, side))
    x, y = np.tensordot(key.matrix(side), places, 1) % side
    result = wide.copy()
    for start in range(0, wide.shape[1] - side + 1, side):
        tile, out = wide[:, start : start + side], result[:, start : start + side]
        if back:
            out[places[0], places[1]] = tile[x, y]
        else:
            out[x, y] = tile[places[0], places[1]]
    return np.ascontiguousarray(result if wide is matrix else result.T).reshape(value.shape)
