"""A key from a fuzzy extractor whose helper data nobody authenticates: the textbook's code offset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from unclone import extractor
from unclone.enrollment import read_source
from unclone.lab.contracts import Array, Locked, Weights
from unclone.lab.schemes.published import words_of, xored
from unclone.puf import PUF, open_source
from unclone.records import HelperData

__all__ = ["BareHelper", "HelperOracle", "unpadded"]

KeyOf = Callable[[bytes, HelperData], bytes]


@dataclass
class HelperOracle:
    """A device in the attacker's hands, as he sees it: he writes helper data, the device starts up or does not.

    Attributes:
        helper: what it was enrolled with: public.
        queries: start-ups so far.
        passed: those with altered helper data that gave the key.
    """

    helper: HelperData
    accepts: Callable[[HelperData], bool] = field(repr=False)
    queries: int = 0
    passed: int = 0

    def __call__(self, helper: HelperData) -> bool:
        """Whether the device gets its key."""
        self.queries += 1
        accepted = self.accepts(helper)
        self.passed += accepted and helper != self.helper
        return accepted


@dataclass
class BareHelper:
    """Weights under a keystream of a key that is the hash of the extractor's secret alone, never of the helper data.

    Attributes:
        error_rate: of the simulated memory.
    """

    name: str = "bare-helper"
    error_rate: float = 0.1
    reference: str = "code offset: Dodis et al., SIAM J. Comput. 38(1), 2008"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock a copy; ``seed`` stands for the device. ``info["device"]``: ``HelperOracle``."""
        chip = open_source(f"sim:sram?seed={seed}&bits=4096&ber={self.error_rate}&noise_seed=1")
        made = extractor.generate(
            read_source(chip, 9),
            debias="none",
            code="repetition",
            key_bits=64,
            error_rate=0.15,
            failure=0.1,
            rng=np.random.default_rng([seed, 0xBA2E]),
        )
        oracle = HelperOracle(made.helper, lambda helper: made.secret in extractor.reproduce(_read(chip), helper))
        return Locked(unpadded(weights, made.secret), made.secret, {"device": oracle})

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        return unpadded(locked.weights, locked.secret)

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one pass over the weights when they are loaded"


def _read(chip: PUF) -> Array:
    return read_source(chip, 15)


def unpadded(weights: Weights, secret: bytes) -> Weights:
    """The words XORed with the keystream of the key; twice is not at all."""
    pad = {}
    for name in words_of(weights):
        value = weights[name]
        stream = hashlib.shake_256(hashlib.sha256(secret).digest() + name.encode()).digest(value.nbytes)
        pad[name] = np.frombuffer(stream, dtype=f"u{value.itemsize}").reshape(value.shape)
    return xored(weights, pad)
