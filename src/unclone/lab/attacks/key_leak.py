"""Part of the key known: does the protection wear off bit by bit, or hold until what is left can be tried out?"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from unclone.lab.attacks.keyed import BoundModelGuess, keyed
from unclone.lab.contracts import Array, Locked, Outcome, Task

__all__ = ["KNOWN", "KeyLeak"]

KNOWN: Final = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""Shares of the key's bits."""

_TRIABLE: Final = 14
"""Unknown bits that are tried out here; 2**14 keys take a second."""

_SAMPLES: Final = 2000
"""Of the test split, for the points of the curve."""


@dataclass
class KeyLeak:
    """Some bits of the key are known, by whatever side channel; the others are guessed, or tried out if they are few.

    The score is that at 90 % of the key: a scheme that gives the model back then wears off with every bit. Under a
    cipher there is nothing before the rest can be tried out, which takes 2**(unknown - 1) tries on average.

    Attributes:
        known: share of the bits for the score.
    """

    name: str = "key-leak"
    known: float = 0.9
    reference: str = "graded leakage of column swap: arXiv 2510.24422"
    published: str = "85 % of the key: 93 of 96 % accuracy"
    needs: str = "device"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:  # noqa: ARG002
        """The whole curve; ``detail``: ``known_0.5`` and so on, each a score, and ``tried``, the keys tried out.

        Raises:
            ParameterError: the scheme has no key that a guess can be tried for.
        """
        start = time.process_time()
        tried = 0
        detail: dict[str, float] = {}
        with keyed(locked, seed) as model:
            order = np.random.default_rng([seed, 0x1EA]).permutation(model.truth.size)
            for share in KNOWN:
                unknown = order[round(share * order.size) :]
                key = model.truth.copy()
                key[unknown] = model.guess[unknown]
                if isinstance(model, BoundModelGuess) and 0 < unknown.size <= _TRIABLE:
                    tried += _try_out(model, key, unknown)
                detail[f"known_{share:g}"] = task.score(model.weights(key), limit=_SAMPLES)
                if share == self.known:
                    best = model.weights(key)
        seconds = time.process_time() - start
        return Outcome(task.score(best), best, tried, seconds, {**detail, "tried": float(tried)})


def _try_out(model: BoundModelGuess, key: Array, unknown: Array) -> int:
    """Set the unknown bits of ``key`` right, by the tag of the header; the number of keys tried."""
    for number, bits in enumerate(itertools.product((0, 1), repeat=unknown.size)):
        key[unknown] = bits
        if model.opens(key):
            return number + 1
    raise AssertionError("the right key does not open the header")
