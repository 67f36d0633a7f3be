"""Few weights, picked by what hurts the model most, changed; positions and values are the secret."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unclone.lab.contracts import Array, Locked, Task, Weights
from unclone.lab.schemes.published import floats_of

__all__ = ["PickedWeights"]

_SAMPLES = 1000
_STEPS = 0.1


@dataclass
class PickedWeights:
    """In each tensor of two or more axes the weights that the loss depends on most, pushed the way that raises it.

    Which and whither is read off a short training on false labels, a gradient that every task offers. SFGE adds noise
    in the direction of the gradient's sign. NNSplitter picks by reinforcement learning and keeps every value within
    its tensor's range, so that none stands out; here the pick is the same for both.

    Attributes:
        each: weights of a tensor, at least.
        share: of a tensor's weights, where that is more.
        within: values stay in the tensor's range, or else move by three times its largest magnitude.
    """

    name: str = "gradient-picked"
    each: int = 20
    share: float = 0.0
    within: bool = False
    reference: str = "SFGE: Cai et al., ICCAD 2019; IEEE TC 2021"

    def lock(self, weights: Weights, seed: int) -> Locked:  # noqa: ARG002
        """Lock a copy without data: the largest weights, towards and past zero."""
        return self._lock(weights, {name: -weights[name] for name in floats_of(weights)})

    def lock_model(self, task: Task, seed: int) -> Locked:
        """Lock the task's weights; ``seed`` stands for the device."""
        from unclone.lab.tasks.training import draw

        weights = task.weights()
        if not task.trainable:
            return self.lock(weights, seed)
        inputs, targets = draw(task.train_data(), min(task.train_size, _SAMPLES), seed)
        false = np.random.default_rng([seed, 0x5F6]).permutation(targets)
        moved = task.fit(weights, len(inputs), seed, effort=_STEPS, data=(inputs, false))
        return self._lock(weights, {name: moved[name] - weights[name] for name in floats_of(weights)})

    def _lock(self, weights: Weights, push: Weights) -> Locked:
        result: Weights = {name: value.copy() for name, value in weights.items()}
        secret: dict[str, tuple[Array, Array]] = {}
        for name, direction in push.items():
            value = weights[name]
            if value.ndim < 2 or not value.size:
                continue
            flat = result[name].reshape(-1)
            count = min(flat.size, max(self.each, round(self.share * flat.size)))
            places = np.argsort(-np.abs(direction.reshape(-1)), kind="stable")[:count]
            up = direction.reshape(-1)[places] > 0
            secret[name] = (places, flat[places].copy())
            if self.within:
                flat[places] = np.where(up, value.max(), value.min())
            else:
                flat[places] += np.where(up, 3, -3).astype(value.dtype) * np.abs(value).max()
        return Locked(result, secret)

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        result = {name: value.copy() for name, value in locked.weights.items()}
        for name, (places, values) in locked.secret.items():
            result[name].reshape(-1)[places] = values
        return result

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one position and value for each changed weight in protected memory"
