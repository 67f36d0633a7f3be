"""How sure a trace is: scores, and an exact bound on accusing a device that had no part (spec/tracing.md, section 5).

The score of a device is a sum of its codeword's signs with known coefficients. For a device that had no part in the
leak these signs are fair coins, independent of the coefficients, whatever was done to the weights. Nothing is assumed
of the leak, and no limit theorem is used.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.fleet.tracing_code import CHIPS, codeword, codewords, signs
from unclone.keys import TraceKeys

__all__ = ["NAMED", "Scorer", "best_devices", "log_tail"]

NAMED: Final = 256
"""Devices that a trace names at most, the highest scores."""

_BATCH: Final = 64
_HALVINGS: Final = 40
_ROUNDING: Final = 1e-12  # of a sum of floats, generously


def log_tail(coefficients: NDArray[np.float64], score: float) -> float:
    """Natural logarithm of a bound on P(sum of +-coefficients >= score) for fair independent signs; at most 0.

    Chernoff's bound with the exact moment generating function, the product of cosh(x c): never above Hoeffding's
    exp(-score^2 / 2 sum c^2). Any x gives a valid bound, so the search for the best one need not be exact.
    """
    magnitudes = np.abs(coefficients)
    power = float(magnitudes @ magnitudes)
    if score <= 0 or power == 0:
        return 0.0
    # How far the score is from the highest there can be, rounded up: exact where every sign agrees.
    total = float(magnitudes.sum())
    gap = max(0.0, total - score) + _ROUNDING * total

    def exponent(x: float) -> float:
        return float(np.sum(np.log1p(np.exp(-2 * x * magnitudes)) - math.log(2))) + x * gap

    def slope(x: float) -> float:
        return gap - float(magnitudes @ (1 - np.tanh(x * magnitudes)))

    low = high = score / power  # Hoeffding's own; the best is at least that, as tanh(x) <= x
    while slope(high) < 0:  # ends: the slope rises to the gap, which is above 0
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return min(0.0, exponent(high))


class Scorer:
    """Scores of devices against what a leak shows, chip by chip, in single precision: to find the best, not to judge.

    Args:
        coefficients: sums over the weights of each chip, ``float64``, shape ``(CHIPS,)``.
    """

    def __init__(self, coefficients: NDArray[np.float64]) -> None:
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        # The sum of eight chips by the byte that holds their signs: one look-up instead of eight products. Scaled, as
        # single precision has a narrow range; small enough to stay in the second-level cache.
        scaled = coefficients / (np.abs(coefficients).max() or 1.0)
        self._table = (scaled.reshape(CHIPS // 8, 8) @ (1.0 - 2.0 * bits.T)).astype(np.float32).ravel()
        self._starts = 256 * np.arange(CHIPS // 8, dtype=np.intp)

    def scores(self, words: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores of codewords up to a common factor, shape ``(devices, CHIPS / 8)`` -> ``(devices,)``."""
        found: NDArray[np.float32] = self._table.take(self._starts + words).sum(axis=1)
        return found


def best_devices(
    coefficients: NDArray[np.float64], keys: TraceKeys, devices: Iterable[str]
) -> tuple[int, list[tuple[float, str]]]:
    """How many devices were compared, and the ``NAMED`` best as (exact score, id), best first."""
    scorer = Scorer(coefficients)
    count = 0
    best: list[tuple[float, str]] = []
    for batch in _batches(devices):
        count += len(batch)
        scores = scorer.scores(codewords(keys, batch)).tolist()
        best = heapq.nlargest(NAMED, {*best, *zip(scores, batch, strict=True)})
    exact = ((float(signs(codeword(keys, device)).astype(np.float64) @ coefficients), device) for _, device in best)
    return count, sorted(exact, reverse=True)


def _batches(devices: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for device in devices:
        batch.append(device)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
