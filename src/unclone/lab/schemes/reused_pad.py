"""A keystream used twice: what happens to a pad, or a stream cipher without fresh nonces, at the second release."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unclone.lab.contracts import Locked, Weights
from unclone.lab.magnitudes import written
from unclone.lab.schemes.published import words_of, xored

__all__ = ["ReusedPad", "earlier_version"]

_DRIFT = 0.05


def earlier_version(weights: Weights, seed: int) -> Weights:
    """The release before: every weight a few per cent away, as after another round of training."""
    rng = np.random.default_rng([seed, 0x01D])
    result = dict(weights)
    for name in words_of(weights):
        value = weights[name]
        drift = _DRIFT * float(value.std()) * rng.standard_normal(value.shape)
        result[name] = written(value + drift, value)
    return result


@dataclass
class ReusedPad:
    """All words XORed with a pad that the PUF answers alike at each release, as any PUF does to the same challenges.

    ``info``: ``"earlier"``, the release before: the file, under the same pad, and its true weights, which got out (a
    demo, a machine that was never bound).
    """

    name: str = "reused-pad"
    reference: str = "after arXiv 2603.10753, which has no versions"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock a copy; ``seed`` stands for the device."""
        rng = np.random.default_rng([seed, 0x2BAD])
        pad: Weights = {}
        for name in words_of(weights):
            value = weights[name]
            words = rng.integers(0, 256, value.nbytes, dtype=np.uint8)
            pad[name] = words.view(f"u{value.itemsize}").reshape(value.shape)
        known = earlier_version(weights, seed)
        return Locked(xored(weights, pad), pad, {"earlier": (xored(known, pad), known)})

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        return xored(locked.weights, locked.secret)

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one PUF response for each bit of the weights, at each start"
