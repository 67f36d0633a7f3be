"""Few weights, picked by what hurts the model most, changed; positions and values are the secret."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unclone.lab.contracts import Array, Locked, Task, Weights
from unclone.lab.magnitudes import written
from unclone.lab.schemes.published import KeptValues, matrices_of

__all__ = ["PickedWeights"]

_SAMPLES = 1000
_STEPS = 0.1


@dataclass
class PickedWeights(KeptValues):
    """In each tensor of two or more axes the weights that the loss depends on most, pushed the way that raises it.

    SFGE adds noise in the direction of the gradient's sign; which weights and whither is read off a short training on
    false labels here, a gradient that every task offers.

    Attributes:
        each: weights of a tensor; SFGE takes 20.
        noise: how far each moves, in units of its tensor's largest magnitude.
    """

    name: str = "gradient-picked"
    each: int = 20
    noise: float = 3.0
    reference: str = "SFGE: Cai et al., ICCAD 2019; IEEE TC 2021"

    def lock(self, weights: Weights, seed: int) -> Locked:  # noqa: ARG002
        """Lock a copy without data: the largest weights, towards and past zero."""
        return self._lock(weights, {name: -weights[name].astype(np.float64) for name in matrices_of(weights)})

    def lock_model(self, task: Task, seed: int) -> Locked:
        """Lock the task's weights; ``seed`` stands for the device."""
        from unclone.lab.tasks.training import draw

        weights = task.weights()
        if not task.trainable:
            return self.lock(weights, seed)
        inputs, targets = draw(task.train_data(), min(task.train_size, _SAMPLES), seed)
        false = np.random.default_rng([seed, 0x5F6]).permutation(targets)
        moved = task.fit(weights, len(inputs), seed, effort=_STEPS, data=(inputs, false))
        return self._lock(weights, _difference(moved, weights))

    def _lock(self, weights: Weights, push: Weights) -> Locked:
        result: Weights = {name: value.copy() for name, value in weights.items()}
        secret: dict[str, tuple[Array, Array]] = {}
        for name, direction in push.items():
            value = weights[name]
            flat = result[name].reshape(-1)
            places = np.argsort(-np.abs(direction.reshape(-1)), kind="stable")[: self.each]
            up = direction.reshape(-1)[places] > 0
            secret[name] = (places, flat[places].copy())
            step = (self.noise * np.where(up, 1.0, -1.0)) * np.abs(value.astype(np.float64)).max()
            flat[places] = written(flat[places] + step, flat)
        return Locked(result, secret)


def _difference(moved: Weights, weights: Weights) -> Weights:
    return {name: moved[name].astype(np.float64) - weights[name] for name in matrices_of(weights)}
