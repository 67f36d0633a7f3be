"""The pad of the paper with the PUF that the paper gives it: an arbiter PUF, which answers challenges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from unclone.lab.contracts import Array, Locked, Weights
from unclone.lab.schemes.published import words_of, xored
from unclone.puf.arbiter import ArbiterPUF
from unclone.puf.challenges import expand_challenges

__all__ = ["ArbiterPad", "Pairs", "pad_of"]

_BLOCK = 1 << 17

Answer: TypeAlias = Callable[[Array], Array]
"""Challenges, 0/1, shape ``(n, stages)`` -> answers, 0/1, shape ``(n,)``."""


@dataclass(frozen=True)
class Pairs:
    """Challenges, ``uint8`` of 0/1, shape ``(n, stages)``, and what the device answered, shape ``(n,)``."""

    challenges: Array
    answers: Array


@dataclass
class ArbiterPad:
    """Every bit of every word XORed with the answer of a k-XOR arbiter PUF to a public challenge of its own.

    Whoever held the device for a moment, or knows some weights, has challenge-response pairs.

    Attributes:
        chains: k; 1 is the plain arbiter PUF of arXiv 2603.10753.
        observed: pairs that the pirate has, with the noise of the PUF.
    """

    name: str = "arbiter-pad"
    chains: int = 1
    observed: int = 5000
    stages: int = 64
    noisiness: float = 0.01
    reference: str = "arXiv 2603.10753; k-XOR: Suh and Devadas, DAC 2007"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock a copy; ``seed`` stands for the device.

        ``info``: ``"observed"`` (``Pairs``), ``"schedule"`` (names -> public seed of the challenges), ``"stages"``.
        """
        chip = ArbiterPUF(seed, stages=self.stages, k=self.chains, noisiness=0.0)
        schedule = {name: f"weights {name}".encode() for name in words_of(weights)}
        pad = pad_of(weights, schedule, self.stages, chip.evaluate)
        noisy = ArbiterPUF(seed, stages=self.stages, k=self.chains, noisiness=self.noisiness, noise_seed=1)
        challenges = expand_challenges(b"observed", self.observed, self.stages)
        pairs = Pairs(challenges, noisy.evaluate(challenges))
        info = {"observed": pairs, "schedule": schedule, "stages": self.stages, "chains": self.chains}
        return Locked(xored(weights, pad), pad, info)

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        return xored(locked.weights, locked.secret)

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one PUF response for each bit of the weights, at each start"


def pad_of(weights: Weights, schedule: dict[str, bytes], stages: int, answer: Answer) -> Weights:
    """A pad for the tensors in ``schedule``: one answer for each bit, most significant bit of a byte first."""
    pad: Weights = {}
    for name, seed in schedule.items():
        value = weights[name]
        count = 8 * value.nbytes
        # Tensors above the longest schedule get one for each block of bits.
        answers = [
            answer(expand_challenges(seed + start.to_bytes(8, "big"), min(_BLOCK, count - start), stages))
            for start in range(0, count, _BLOCK)
        ]
        pad[name] = np.packbits(np.concatenate(answers)).view(f"u{value.itemsize}").reshape(value.shape)
    return pad
