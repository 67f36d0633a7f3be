"""A victim that was fine-tuned from a public model: what of the file lies near the base can be told, and put right."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from unclone.errors import MissingExtraError, ParameterError
from unclone.lab.attacks.fitness import drawn
from unclone.lab.attacks.repair import Repair
from unclone.lab.attacks.training import clear_bits_start
from unclone.lab.contracts import Array, Locked, Outcome, Task, Weights
from unclone.lab.metrics import score_outputs

__all__ = ["PublicBase", "matched", "public_base", "similarity"]

_SAMPLES = 2000
_ABOVE_NULL = 0.2


@dataclass
class PublicBase:
    """Match each tensor of the file with the base's, undo permutations, and train on where that helps.

    A tensor is recognised when its cosine with the base's, best order of rows or columns, is clearly above that of
    its own values shuffled. Where nothing is, the start is the base, its magnitudes set right by the clear bits.
    """

    name: str = "public-base"
    reference: str = "ArrowMatch and GroupCover, on known bases"
    published: str = "permutations and linear masks: 97 to 98 % of the secret weights recovered"
    needs: str = "base"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        """Match, train and score.

        ``detail``: ``baseline`` (the base trained with the same labels), ``similarity`` (mean cosine of file and base
        as they lie), ``matched`` (in the best order), ``null`` (of shuffled values), ``recognised`` (share of the
        weights), ``before_training``.

        Raises:
            ParameterError: the task cannot train.
            MissingExtraError: scipy is not installed.
        """
        if not task.trainable:
            raise ParameterError(f"public-base trains, and {task.name} cannot be trained")
        base = public_base(task, seed, effort)
        start = time.process_time()
        begin, detail = _recovered(task, locked, base, seed)
        helps = not detail["recognised"] or _training_helps(task, begin, labels, seed, effort)
        weights = task.fit(begin, labels, seed, effort=effort) if helps else begin
        seconds = time.process_time() - start
        detail["before_training"] = task.score(begin)
        score = task.score(weights)
        same = all(np.array_equal(begin[name], value) for name, value in base.items())
        detail["baseline"] = score if same else task.score(task.fit(base, labels, seed, effort=effort))
        return Outcome(score, weights, seconds=seconds, detail=detail)


def _training_helps(task: Task, begin: Weights, labels: int, seed: int, effort: float) -> bool:
    """Whether training on half of the attacker's labels does better on the other half than no training."""
    inputs, targets = drawn(task, labels, seed)
    half = len(inputs) // 2
    if not half:
        return True
    trial = task.fit(begin, half, seed, effort=effort, data=(inputs[:half], targets[:half]))
    before, after = (
        score_outputs(task.metric, task.outputs(weights, inputs[half:]), targets[half:]) for weights in (begin, trial)
    )
    return after > before


def public_base(task: Task, seed: int, effort: float) -> Weights:
    """A model that is to the victim what a public base is, made backwards: the victim trained on to other classes.

    Trained on up to half of the data, with the classes renamed (or the numbers reversed), so that the two are as near
    as fine-tuning leaves them, and the base alone does not solve the victim's task.
    """
    data = drawn(task, max(1, min(task.train_size // 2, _SAMPLES)), seed + 1)
    inputs, targets = data
    if task.metric == "mae":
        renamed = targets.max() + targets.min() - targets
    else:
        classes = int(targets.max()) + 1
        renamed = (targets + 1 + seed % max(1, classes - 1)) % classes
    return task.fit(task.weights(), len(inputs), seed + 1, effort=effort, data=(inputs, renamed.astype(targets.dtype)))


def similarity(value: Array, base: Array) -> float:
    """Cosine of two arrays."""
    return float(_unit(value.reshape(1, -1))[0] @ _unit(base.reshape(1, -1))[0])


def matched(value: Array, base: Array) -> tuple[Array, Array, int]:
    """``value`` with its rows, or else its columns, in the order that is most like ``base``.

    Returns:
        The reordered array; the order; the axis, 0 or 1.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MissingExtraError("scipy", "lab") from None
    candidates = []
    for axis in (0, 1):
        mine, theirs = (_unit(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)) for array in (base, value))
        _, order = linear_sum_assignment(mine @ theirs.T, maximize=True)
        candidates.append((np.take(value, order, axis=axis), order, axis))
    return max(candidates, key=lambda candidate: similarity(candidate[0], base))


def _recovered(task: Task, locked: Locked, base: Weights, seed: int) -> tuple[Weights, dict[str, float]]:
    rng = np.random.default_rng([seed, 0xBA5E])
    repaired = Repair("zero", "zero").run(task, locked, labels=0, seed=seed, effort=1.0).weights or locked.weights
    # Outliers are repaired only where that brings a tensor nearer to the base: running variances have honest ones.
    result = {
        name: max((locked.weights[name], value), key=partial(similarity, base=base[name]))
        for name, value in repaired.items()
    }
    figures, recognised = [], 0
    names = [name for name, value in base.items() if value.ndim > 1 and np.issubdtype(value.dtype, np.floating)]
    for name in names:
        options = (locked.weights[name], repaired[name])
        ordered = [matched(option, base[name]) for option in options]
        best_option = int(np.argmax([similarity(found, base[name]) for found, _, _ in ordered]))
        value, (found, order, axis) = options[best_option], ordered[best_option]
        result[name] = value
        shuffled = rng.permutation(value.reshape(-1)).reshape(value.shape)
        null = similarity(matched(shuffled, base[name])[0], base[name])
        as_is, best = similarity(value, base[name]), similarity(found, base[name])
        figures.append((as_is, best, null))
        if best > null + _ABOVE_NULL:
            recognised += value.size
            # The order as it lies stands unless the best is clearly better: few columns match well by chance.
            if best > as_is + _ABOVE_NULL / 2:
                result[name] = found
                bias = f"{name.removesuffix('weight')}bias"
                if axis == 0 and bias in result and result[bias].shape == order.shape:
                    result[bias] = result[bias][order]
    if not recognised:
        result = clear_bits_start(locked, base)
    means = np.mean(figures, axis=0) if figures else np.zeros(3)
    detail = dict(zip(("similarity", "matched", "null"), map(float, means), strict=True))
    detail["recognised"] = recognised / max(1, sum(base[name].size for name in names))
    return result, detail


def _unit(rows: Array) -> Array:
    """Rows of length one, ``float64``; no numbers count as 0."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = np.nan_to_num(rows.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    units: Array = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return units
