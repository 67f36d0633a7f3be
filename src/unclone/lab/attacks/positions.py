"""Binding in part: which weights are masked, told by how unlikely their values are, and what that is worth."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from unclone.errors import ParameterError
from unclone.lab.attacks.fitness import Fitness
from unclone.lab.contracts import Array, Locked, Outcome, Task, Weights
from unclone.lab.magnitudes import has_magnitudes

__all__ = ["PositionDetection", "implausibility", "ranking_quality"]

_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass
class PositionDetection:
    """Rank the weights by implausibility, zero the most suspicious, train them and the rest.

    How many are zeroed is chosen on the attacker's labels, before training. Where even the best is no better there
    than chance, by three standard errors (it is the best of several), the file is of no use and a fresh network is
    trained instead.
    """

    name: str = "position-detection"
    reference: str = "this package; the outliers of arXiv 2603.10753's pad"
    published: str = ""
    needs: str = "labels"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        """Detect, zero, train and score.

        ``detail``: ``auc`` of masked against clear weights (1/2 is chance; absent where no weight is clear),
        ``masked`` (share that is), ``zeroed`` (share), ``useful`` (whether training starts from the file),
        ``before_training`` (the score of what was zeroed).

        Raises:
            ParameterError: the task cannot train, or has no weights that can be ranked.
        """
        if not task.trainable:
            raise ParameterError(f"position-detection trains, and {task.name} cannot be trained")
        start = time.process_time()
        suspicion = {name: implausibility(value) for name, value in locked.weights.items() if has_magnitudes(value)}
        if not suspicion:
            raise ParameterError(
                f"position-detection ranks magnitudes, and {task.name} has no floats and no int8 codes"
            )
        fitness = Fitness(task, labels, seed)
        zeroed, share = _best_zeroing(locked.weights, suspicion, fitness)
        useful = _above_chance(task, fitness, zeroed)
        weights = task.fit(zeroed if useful else task.initialise(seed), labels, seed, effort=effort)
        seconds = time.process_time() - start
        detail = {
            "zeroed": share,
            "useful": float(useful),
            "before_training": task.score(zeroed),
            **_detection(task, locked, suspicion),
        }
        return Outcome(task.score(weights), weights, fitness.queries, seconds, detail)


def implausibility(value: Array) -> Array:
    """Distance of each weight from what is usual in its tensor, ``float64``, of the shape of ``value``.

    Clear weights of one tensor are alike in magnitude; a masked word has an exponent drawn at random, far too large
    or far too small. So: the deviation of the binary logarithm of the magnitude from its median, where above; below
    the median small values are usual, and count only as far as a density that is flat at zero makes them rare.
    What is no number is as unlikely as can be; an exact 0 is a pruned weight, and likely.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # signalling NaNs; the logarithm of 0
        wide = np.abs(value.astype(np.float64))
        logarithm = np.log2(wide)
    usable = np.isfinite(logarithm)
    middle = float(np.median(logarithm[usable])) if usable.any() else 0.0
    above = np.maximum(logarithm - middle, 0.0)
    below = np.maximum(middle - logarithm - 1.0, 0.0)
    # Among n weights the smallest is about 2**-log2(n) of the median: no surprise before that.
    expected = np.log2(max(2, value.size))
    found: Array = np.where(logarithm >= middle, above, below / expected)
    found[~usable] = np.where(wide[~usable] == 0, 0.0, np.inf)
    return found


def ranking_quality(suspicion: Array, masked: Array) -> float:
    """Area under the ROC curve, ties counting one half (Mann and Whitney, 1947).

    Args:
        suspicion: larger means masked, shape ``(weights,)``.
        masked: boolean, shape ``(weights,)``; some are and some are not.
    """
    _, ranks, counts = np.unique(suspicion, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts - 1) / 2
    positives = int(np.count_nonzero(masked))
    total = float(mean_rank[ranks.reshape(-1)][masked].sum()) - positives * (positives + 1) / 2
    return total / (positives * (masked.size - positives))


def _best_zeroing(weights: Weights, suspicion: Weights, fitness: Fitness) -> tuple[Weights, float]:
    every = np.concatenate([value.reshape(-1) for value in suspicion.values()])
    candidates = []
    for share in _SHARES:
        # Strictly above: where everything ties, nothing stands out. What is no number goes in any case.
        limit = float(np.quantile(every, 1 - share, method="lower")) if share else np.inf
        changed = dict(weights)
        for name, values in suspicion.items():
            changed[name] = np.where((values > limit) | np.isinf(values), 0, weights[name]).astype(weights[name].dtype)
        candidates.append((fitness(changed), share, changed))
    _, share, zeroed = max(candidates, key=lambda candidate: candidate[0])
    return zeroed, share


def _above_chance(task: Task, fitness: Fitness, weights: Weights) -> bool:
    score = fitness(weights)[0]
    if task.metric == "mae":
        return score > task.chance
    return score > task.chance + 3 * math.sqrt(task.chance * (1 - task.chance) / len(fitness.targets))


def _detection(task: Task, locked: Locked, suspicion: Weights) -> dict[str, float]:
    """What the ranking was worth: told with the truth, which the attacker has not."""
    true = task.weights()
    masked = np.concatenate([_differs(locked.weights[name], true[name]) for name in suspicion])
    found = {"masked": float(masked.mean())}
    if masked.any() and not masked.all():
        every = np.concatenate([value.reshape(-1) for value in suspicion.values()])
        found["auc"] = ranking_quality(every, masked)
    return found


def _differs(value: Array, true: Array) -> Array:
    words = np.dtype(f"u{value.itemsize}")
    changed: Array = (np.ascontiguousarray(value).view(words) != np.ascontiguousarray(true).view(words)).reshape(-1)
    return changed
