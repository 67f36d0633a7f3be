"""Few weights chosen together, each kept within its tensor's range so that none stands out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from unclone.lab.contracts import Array, Locked, Task, Weights
from unclone.lab.magnitudes import written
from unclone.lab.metrics import chance_level, score_outputs
from unclone.lab.schemes.published import KeptValues, matrices_of

__all__ = ["NNSplitter"]

_SAMPLES = 1000
_STEPS = 0.1
_NEAR = 0.02
_NEAREST = 0.8  # of the way to the end: equal values would give themselves away


@dataclass
class NNSplitter(KeptValues):
    """A few weights of the whole model moved near an end of their tensor's range; true values and positions are secret.

    NNSplitter (ICML 2023) picks filters with a controller trained by reinforcement, its reward the accuracy lost, and
    optimises the changes within the range. Here the choice is greedy and of first order: what a short training on
    false labels would gain by each move, read off anew in each round, until the training data are answered by chance.

    Attributes:
        share: of the weights of tensors of two or more axes, moved in one round.
        rounds: at most.
    """

    name: str = "nnsplitter"
    share: float = 0.001
    rounds: int = 20
    reference: str = "NNSplitter, ICML 2023, its controller replaced by a greedy choice"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock a copy without data: the largest weights, to the other end of their range."""
        rng = np.random.default_rng([seed, 0x5F6])
        push = {name: -weights[name].astype(np.float64) for name in matrices_of(weights)}
        return _locked(weights, _moved(weights, weights, push, self.rounds * self._count(weights), rng))

    def lock_model(self, task: Task, seed: int) -> Locked:
        """Lock the task's weights; ``seed`` stands for the device."""
        from unclone.lab.tasks.training import draw

        true = task.weights()
        if not task.trainable:
            return self.lock(true, seed)
        inputs, targets = draw(task.train_data(), min(task.train_size, _SAMPLES), seed)
        rng = np.random.default_rng([seed, 0x5F6])
        false = rng.permutation(targets)
        changed, rounds = true, 0
        while rounds < self.rounds and not _at_chance(task, changed, inputs, targets):
            trained = task.fit(changed, len(inputs), seed + rounds, effort=_STEPS, data=(inputs, false))
            push = {name: trained[name].astype(np.float64) - changed[name] for name in matrices_of(true)}
            changed = _moved(changed, true, push, self._count(true), rng)
            rounds += 1
        return _locked(true, changed)

    def _count(self, weights: Weights) -> int:
        return math.ceil(self.share * sum(weights[name].size for name in matrices_of(weights)))


def _at_chance(task: Task, weights: Weights, inputs: Array, targets: Array) -> bool:
    score = score_outputs(task.metric, task.outputs(weights, inputs), targets)
    return score <= chance_level(task.metric, targets) + _NEAR


def _moved(weights: Weights, true: Weights, push: Weights, count: int, rng: np.random.Generator) -> Weights:
    """A copy with the ``count`` unchanged weights that gain most moved near the end they are pushed to."""
    ends = {}
    for name, way in push.items():
        low, high = true[name].min(), true[name].max()
        far = np.where(way > 0, high, low) * rng.uniform(_NEAREST, 1, way.shape).astype(np.float32)
        ends[name] = written(np.clip(far, low, high), true[name])
    gains = {}
    for name, way in push.items():
        reach = np.abs(ends[name].astype(np.float64) - weights[name])
        gains[name] = np.where(weights[name] == true[name], np.abs(way) * reach, -1)
    every = np.concatenate([gain.reshape(-1) for gain in gains.values()])
    chosen = np.zeros(every.size, dtype=bool)
    chosen[np.argsort(-every, kind="stable")[:count]] = True
    result, start = {name: value.copy() for name, value in weights.items()}, 0
    for name, gain in gains.items():
        mine = chosen[start : start + gain.size].reshape(gain.shape) & (gain > 0)
        result[name][mine] = ends[name][mine]
        start += gain.size
    return result


def _locked(true: Weights, changed: Weights) -> Locked:
    secret: dict[str, tuple[Array, Array]] = {}
    for name in matrices_of(true):
        places = np.flatnonzero(changed[name] != true[name])
        secret[name] = (places, true[name].reshape(-1)[places])
    return Locked({name: value.copy() for name, value in changed.items()}, secret)
