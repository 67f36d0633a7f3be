"""Pruning and quantisation as repair: what is lost in them may be the lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from unclone.lab.attacks.fitness import Fitness
from unclone.lab.contracts import Array, Locked, Outcome, Task, Weights
from unclone.lab.magnitudes import has_magnitudes, written

__all__ = ["PRUNE", "QUANTISE", "Compression", "prune", "quantise"]

Setting = tuple[float, Callable[[Array], Array]]


@dataclass
class Compression:
    """Compress the file in several ways and keep the one that does best on the attacker's labels.

    Attributes:
        name: as on the command line.
        settings: (what ``detail["setting"]`` says, what it does to the finite numbers of a tensor).
    """

    name: str
    settings: Sequence[Setting] = field(repr=False)
    reference: str
    published: str = ""
    needs: str = "labels"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:  # noqa: ARG002
        """Choose and score; ``detail``: ``setting``, ``own_score`` on the attacker's labels. Nothing is trained."""
        start = time.process_time()
        fitness = Fitness(task, labels, seed)
        judged = []
        for setting, change in self.settings:
            weights: Weights = {name: _changed(value, change) for name, value in locked.weights.items()}
            judged.append((fitness(weights), setting, weights))
        (own, _), setting, weights = max(judged, key=lambda candidate: candidate[0])
        detail = {"setting": setting, "own_score": own}
        return Outcome(task.score(weights), weights, fitness.queries, time.process_time() - start, detail)


def prune(value: Array, share: float, *, largest: bool) -> Array:
    """A copy with the ``share`` of smallest magnitudes, or of largest, set to 0."""
    result = value.reshape(-1).copy()
    order = np.argsort(np.abs(result), kind="stable")
    count = round(share * result.size)
    result[order[result.size - count :] if largest else order[:count]] = 0
    return result.reshape(value.shape)


def quantise(value: Array, bits: int, quantile: float) -> Array:
    """Rounded to ``2 ** bits - 1`` even levels, the outermost at a quantile of the magnitudes; more is clipped."""
    widest = float(np.quantile(np.abs(value), quantile)) if value.size else 0.0
    if widest == 0:
        return value.copy()
    levels = 2 ** (bits - 1) - 1
    rounded: Array = np.clip(np.round(value / widest * levels), -levels, levels) * (widest / levels)
    return rounded


def _changed(value: Array, change: Callable[[Array], Array]) -> Array:
    """``change`` on the tensor's finite numbers as ``float64``; the others become 0; of integers, codes alone."""
    if not has_magnitudes(value) or not value.size:
        return value
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = np.nan_to_num(value.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return written(change(wide), value)


_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)

PRUNE = Compression(
    "prune",
    [
        *((-share, partial(prune, share=share, largest=True)) for share in _SHARES),
        *((share, partial(prune, share=share, largest=False)) for share in _SHARES),
    ],
    "pruning by magnitude, as in Han et al., NeurIPS 2015; the largest as well (setting below 0)",
)

QUANTISE = Compression(
    "quantise",
    [(bits, partial(quantise, bits=bits, quantile=quantile)) for bits in (8, 4) for quantile in (1.0, 0.99, 0.9, 0.7)],
    "uniform quantisation after training with a clipped range, as in Banner et al., NeurIPS 2019",
)
