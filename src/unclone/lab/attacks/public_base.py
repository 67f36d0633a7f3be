"""A victim that was fine-tuned from a public model: what of the file lies near the base can be told, and put right."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from unclone.errors import ParameterError
from unclone.lab.attacks.alignment import MATCHERS, Match, Matcher, similarity
from unclone.lab.attacks.fitness import drawn
from unclone.lab.attacks.repair import Repair
from unclone.lab.attacks.training import clear_bits_start
from unclone.lab.contracts import Array, Locked, Outcome, Task, Weights
from unclone.lab.magnitudes import has_magnitudes
from unclone.lab.metrics import score_outputs

__all__ = ["PublicBase", "public_base"]

_SAMPLES = 2000
_ABOVE_NULL = 0.15
_SHUFFLES = 3


@dataclass
class PublicBase:
    """Match each tensor of the file with the base's, undo what moved its weights, and train on where that helps.

    A tensor is recognised when its cosine with the base's, best order of rows, columns or both or best key of a cat
    map, is clearly above that of its own values shuffled and moved likewise. Where nothing is, the start is the base,
    its magnitudes set right by the clear bits.
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


def _recovered(task: Task, locked: Locked, base: Weights, seed: int) -> tuple[Weights, dict[str, float]]:
    rng = np.random.default_rng([seed, 0xBA5E])
    repaired = Repair("zero", "zero").run(task, locked, labels=0, seed=seed, effort=1.0).weights or locked.weights
    # Outliers are repaired only where that brings a tensor nearer to the base: running variances have honest ones.
    result = {
        name: max((locked.weights[name], value), key=partial(similarity, base=base[name]))
        for name, value in repaired.items()
    }
    figures, recognised = [], 0
    names = [name for name, value in base.items() if value.ndim > 1 and has_magnitudes(value)]
    for name in names:
        same = np.array_equal(locked.weights[name], repaired[name])
        options = (locked.weights[name],) if same else (locked.weights[name], repaired[name])
        found = _aligned(options, base[name], rng)
        figures.append((found.as_is, found.best, found.null))
        result[name] = found.match.value
        if found.recognised:
            recognised += base[name].size
            bias = f"{name.removesuffix('weight')}bias"
            if found.match.rows is not None and bias in result and result[bias].shape == found.match.rows.shape:
                moved = result[bias][found.match.rows]
                result[bias] = max((result[bias], moved), key=partial(similarity, base=base[bias]))
    if not recognised:
        result = clear_bits_start(locked, base)
    means = np.mean(figures, axis=0) if figures else np.zeros(3)
    detail = dict(zip(("similarity", "matched", "null"), map(float, means), strict=True))
    detail["recognised"] = recognised / max(1, sum(base[name].size for name in names))
    return result, detail


@dataclass(frozen=True)
class _Alignment:
    """A tensor as it is kept; cosines with the base: as it lies, best moved, and of shuffled values, moved likewise."""

    match: Match
    as_is: float
    best: float
    null: float

    @property
    def recognised(self) -> bool:
        return self.best > self.null + _ABOVE_NULL


def _aligned(options: tuple[Array, ...], base: Array, rng: np.random.Generator) -> _Alignment:
    """By the move that makes one of ``options`` stand out most from shuffled values; of none that does, as it lies."""
    return max((_moved(matcher, options, base, rng) for matcher in MATCHERS), key=lambda found: found.best - found.null)


def _moved(matcher: Matcher, options: tuple[Array, ...], base: Array, rng: np.random.Generator) -> _Alignment:
    pairs = [(option, matcher(option, base)) for option in options]
    value, match = max(pairs, key=lambda pair: similarity(pair[1].value, base))
    found, null = _Alignment(match, similarity(value, base), similarity(match.value, base), -1.0), -1.0
    for _ in range(_SHUFFLES):
        if not found.recognised:
            break
        shuffled = rng.permutation(value.reshape(-1)).reshape(value.shape)
        null = max(null, similarity(matcher(shuffled, base).value, base))
        found = replace(found, null=null)
    # The order as it lies stands unless the best is clearly better: few columns match well by chance.
    clear = found.recognised and found.best > found.as_is + _ABOVE_NULL / 2
    return found if clear else replace(found, match=Match(value))
