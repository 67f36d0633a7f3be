"""A key space that can be tried out, and a test for the right key that needs no data."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from unclone.errors import ParameterError
from unclone.lab.attacks.fitness import Fitness
from unclone.lab.contracts import Array, Locked, Outcome, Task, Weights
from unclone.lab.schemes.cat_map import KEYS, CatKey, scrambled

__all__ = ["KeySearch", "order_in_lines"]

_KEPT = 32
_ROUNDS = 3
_RESTARTS = 6


@dataclass
class KeySearch:
    """Try each tensor's keys: trained neurons differ in size, and scrambled positions level that out.

    Small tensors do not tell by themselves: of the best few keys of each, the attacker's labels choose.
    """

    name: str = "key-search"
    reference: str = "chaotic maps: Mukherjee and Chakraborty, IEEE TCAD 2023"
    published: str = "chaotic-map encryption of weights is broken; no figure readable"
    needs: str = "labels"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:  # noqa: ARG002
        """Search; ``detail``: ``keys_right`` (share of tensors), ``tried``.

        Raises:
            ParameterError: the scheme has no key space that can be tried out.
        """
        start = time.process_time()
        names = [name for name, value in locked.weights.items() if value.ndim > 1]
        secret = locked.secret
        if not (isinstance(secret, dict) and all(isinstance(key, CatKey) for key in secret.values())):
            raise ParameterError("key-search needs a scheme whose keys can be tried out: cat-map")
        fitness = Fitness(task, labels, seed)
        kept = {name: _most_ordered(locked.weights[name]) for name in names}
        rng = np.random.default_rng([seed, 0x4E7])
        climbs = [_climb(locked.weights, kept, fitness, rng if restart else None) for restart in range(_RESTARTS)]
        _, weights = max(climbs, key=lambda climb: climb[0])
        seconds = time.process_time() - start
        true = task.weights()
        right = float(np.mean([np.array_equal(weights[name], true[name]) for name in names]))
        detail = {"keys_right": right, "tried": float(len(names) * len(KEYS))}
        return Outcome(task.score(weights), weights, fitness.queries, seconds, detail)


def _climb(
    weights: Weights, kept: dict[str, list[Array]], fitness: Fitness, rng: np.random.Generator | None
) -> tuple[tuple[float, float], Weights]:
    """Tensor by tensor, what does best on the labels; from the most ordered, or from a random choice."""
    start = {name: found[rng.integers(len(found)) if rng else 0] for name, found in kept.items()}
    weights = {**weights, **start}
    best = fitness(weights)
    for name in [name for _ in range(_ROUNDS) for name in kept]:
        for value in kept[name]:
            changed = {**weights, name: value}
            score = fitness(changed)
            if score > best:
                best, weights = score, changed
    return best, weights


def _most_ordered(value: Array) -> list[Array]:
    """What the keys give, most ordered first."""
    opened = {found.tobytes(): found for found in (scrambled(value, key, back=True) for key in KEYS)}
    return sorted(opened.values(), key=order_in_lines, reverse=True)[:_KEPT]


def order_in_lines(value: Array) -> float:
    """How much rows and columns differ in size: the variance of their logarithmic norms."""
    matrix = value.reshape(value.shape[0], -1).astype(np.float64)
    return sum(float(np.var(np.log(np.linalg.norm(matrix, axis=axis) + 1e-12))) for axis in (0, 1))
