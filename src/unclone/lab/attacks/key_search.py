"""A key space that can be tried out, and a test for the right key that needs no data."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from unclone.lab.attacks.fitness import Fitness
from unclone.lab.contracts import Array, Locked, Outcome, Task, Weights
from unclone.lab.schemes.cat_map import CatKey, maps, scrambled

__all__ = ["KeySearch", "key_order", "line_spread"]

_LARGEST = (1 << 31) - 1
_SIDE = 128
_TILES = 8


@dataclass
class KeySearch:
    """Rank all keys by how much lines differ in size, and try the first on the attacker's labels.

    Trained neurons and their inputs differ in size; the map takes lines to lines, and along the wrong ones that levels
    out. So a key is judged by two directions in the scrambled matrix, and no data are needed for the ranking.

    Attributes:
        budget: keys tried with labels, times the effort.
    """

    name: str = "key-search"
    budget: int = 100
    reference: str = "chaotic maps: Mukherjee and Chakraborty, IEEE TCAD 2023"
    published: str = "chaotic-map encryption of weights is broken; no figure readable"
    needs: str = "labels"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        """Search; ``detail``: ``found`` (1 where all weights are right), ``rank`` (of the key taken, from 0)."""
        start = time.process_time()
        fitness = Fitness(task, labels, seed)
        ranked = key_order(locked.weights)[: max(1, round(self.budget * effort))]
        scores = [fitness(_opened(locked.weights, key)) for key in ranked]
        rank = max(range(len(ranked)), key=scores.__getitem__)
        weights = _opened(locked.weights, ranked[rank])
        seconds = time.process_time() - start
        found = all(np.array_equal(weights[name], value) for name, value in task.weights().items())
        detail = {"found": float(found), "rank": float(rank)}
        return Outcome(task.score(weights), weights, fitness.queries, seconds, detail)


def _opened(weights: Weights, key: CatKey) -> Weights:
    return {name: scrambled(value, key, back=True) if value.ndim > 1 else value for name, value in weights.items()}


def key_order(weights: Weights) -> list[CatKey]:
    """The keys that differ on these weights, most plausible first; of keys that do the same, one."""
    matrices = [value.reshape(value.shape[0], -1) for value in weights.values() if value.ndim > 1]
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]
    keys, _ = maps(min(_LARGEST, math.lcm(*(matrix.shape[0] for matrix in wide))))
    # One key for all: the small matrices tell it, at a cost that goes with the square of the side.
    few = max(_SIDE, min((matrix.shape[0] for matrix in wide), default=0))
    wide = [matrix for matrix in wide if matrix.shape[0] <= few]
    total = np.zeros(len(keys))
    for matrix in wide:
        spread = cache(partial(line_spread, _tiles(matrix)))
        for index, key in enumerate(keys):
            (a, b), (c, d) = key.matrix(matrix.shape[0]).tolist()
            total[index] += matrix.size * (spread((b, d), across=False) + spread((a, c), across=True))
    return [keys[index] for index in np.argsort(-total, kind="stable")]


def _tiles(matrix: Array) -> Array:
    """Squares of the first square tiles' values, ``float64``, shape ``(tiles, side, side)``; no numbers count as 0."""
    side = matrix.shape[0]
    count = min(_TILES, matrix.shape[1] // side)
    with np.errstate(invalid="ignore", over="ignore"):  # of a bound file anything may come
        squares = np.nan_to_num(np.square(matrix[:, : count * side].astype(np.float64)), posinf=0.0)
    tiles: Array = squares.reshape(side, count, side).transpose(1, 0, 2)
    return tiles


def line_spread(squares: Array, direction: tuple[int, int], *, across: bool) -> float:
    """Variance of the logarithmic norms of the lines in a direction, modulo the side.

    Args:
        squares: shape ``(tiles, side, side)``.
        direction: what the map made of a row's direction, or of a column's.
        across: a column lies in one tile; a row goes through all.
    """
    side = squares.shape[1]
    x, y = np.indices((side, side))
    line = (direction[0] * y - direction[1] * x) % side  # the same all along a line
    parts = squares if across else squares.sum(axis=0, keepdims=True)
    sums = [np.bincount(line.reshape(-1), part.reshape(-1), side) for part in parts]
    return float(np.var(np.log(np.concatenate(sums) + 1e-24)))
