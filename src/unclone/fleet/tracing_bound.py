"""How sure a trace is: scores, and an exact bound on accusing a device that had no part (spec/tracing.md, section 5).

The score of a device is a sum of its codeword's signs with known coefficients. For a device that had no part in the
leak these signs are fair coins, independent of the coefficients, whatever was done to the weights. Nothing is assumed
of the leak, and no limit theorem is used.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.fleet.tracing_code import CHIPS, Carrier, codeword, codewords, signs
from unclone.keys import TraceKeys

__all__ = ["COALITIONS", "NAMED", "Scorer", "Standing", "best_devices", "log_chance", "log_tail", "weightings"]

NAMED: Final = 256
"""Devices that a trace names at most, the highest scores."""

COALITIONS: Final = (1, 4, 16)
"""Sizes that the weightings of the evidence suit; what is in between loses little."""

_ALWAYS: Final = 8  # judged however little they stand out
_DEVIATIONS: Final = 4.0  # no accusation is to be had below

_BATCH: Final = 64
_HALVINGS: Final = 40
_ROUNDING: Final = 1e-12  # of a sum of floats, generously


def log_tail(coefficients: NDArray[np.float64], means: NDArray[np.float64], score: float) -> float:
    """Natural logarithm of a bound on P(sum of coefficient times (sign - mean) >= score); at most 0.

    Chernoff's bound with the exact moment generating function of independent signs of these means. Any x gives a valid
    bound, so the search for the best one need not be exact.
    """
    magnitudes = np.abs(coefficients)
    power = float(magnitudes**2 @ (1 - means**2))
    if score <= 0 or power == 0:
        return 0.0
    likely = (1 + np.sign(coefficients) * means) / 2  # chance of the sign that speaks against the device
    logs, odds = np.log(likely), (1 - likely) / likely
    # How far the score is from the highest there can be, rounded up: exact where every sign agrees.
    highest = float(2 * magnitudes @ (1 - likely))
    gap = max(0.0, highest - score) + _ROUNDING * highest

    def exponent(x: float) -> float:
        return float(np.sum(logs + np.log1p(odds * np.exp(-2 * x * magnitudes)))) + x * gap

    def slope(x: float) -> float:
        against = odds * np.exp(-2 * x * magnitudes)
        return gap - float(2 * magnitudes @ (against / (1 + against)))

    low, high = 0.0, score / power
    while slope(high) < 0:  # ends: the slope rises to the gap, which is above 0
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return min(0.0, exponent(high))


class Scorer:
    """Scores of devices against what a leak shows, chip by chip, in single precision: to find the best, not to judge.

    Args:
        coefficients: shape ``(CHIPS,)``.
        means: of the chips' signs, shape ``(CHIPS,)``.
    """

    def __init__(self, coefficients: NDArray[np.float64], means: NDArray[np.float64]) -> None:
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        # The sum of eight chips by the byte that holds their signs: one look-up instead of eight products. Scaled, as
        # single precision has a narrow range; small enough to stay in the second-level cache.
        scaled = (coefficients / (np.abs(coefficients).max() or 1.0)).reshape(CHIPS // 8, 8)
        expected = np.sum(scaled * means.reshape(scaled.shape), axis=1, keepdims=True)
        self._table = (scaled @ (1.0 - 2.0 * bits.T) - expected).astype(np.float32).ravel()
        self._starts = 256 * np.arange(CHIPS // 8, dtype=np.intp)

    def scores(self, words: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores of codewords up to a common factor, shape ``(devices, CHIPS / 8)`` -> ``(devices,)``."""
        found: NDArray[np.float32] = self._table.take(self._starts + words).sum(axis=1)
        return found


@dataclass(frozen=True, slots=True)
class Standing:
    """A device that stands out.

    Attributes:
        device: its id.
        deviations: its score in standard deviations of an innocent device's, by the weighting that speaks most.
        log_chance: natural logarithm of the bound on an innocent device standing out as much, by any weighting.
    """

    device: str
    deviations: float
    log_chance: float


def weightings(chips: NDArray[np.float64], means: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Coefficients that suit one thief, and coalitions of ``COALITIONS``, which leave their mark where they agree.

    By how much more often a coalition agrees on a chip than its members' scores spread there.
    """
    minus = (1 - means) / 2
    return [chips * (minus ** (size - 1) + (1 - minus) ** (size - 1)) for size in COALITIONS]


def best_devices(
    chips: NDArray[np.float64], carrier: Carrier, keys: TraceKeys, devices: Iterable[str]
) -> tuple[int, list[Standing]]:
    """How many devices were compared, and those that stand out, best first.

    Args:
        chips: what the leak shows, shape ``(CHIPS,)``.
        carrier: of the model.
        keys: of the model.
        devices: ids.
    """
    weighted = weightings(chips, carrier.means)
    scorers = [Scorer(coefficients, carrier.means) for coefficients in weighted]
    best: list[list[tuple[float, str]]] = [[] for _ in weighted]
    count = 0
    for batch in _batches(devices):
        count += len(batch)
        words = codewords(keys, batch, carrier.shares)
        for number, scorer in enumerate(scorers):
            scores = scorer.scores(words).tolist()
            best[number] = heapq.nlargest(NAMED, {*best[number], *zip(scores, batch, strict=True)})
    found = {device for row in best for _, device in row}
    standings = [_standing(device, weighted, carrier, keys) for device in found]
    standings.sort(key=lambda standing: (standing.deviations, standing.device), reverse=True)
    judged = (
        replace(standing, log_chance=log_chance(standing.device, weighted, carrier, keys))
        for place, standing in enumerate(standings[:NAMED])
        if place < _ALWAYS or standing.deviations > _DEVIATIONS
    )
    return count, sorted(judged, key=lambda standing: (standing.log_chance, -standing.deviations))


def _scores(device: str, weighted: Sequence[NDArray[np.float64]], carrier: Carrier, keys: TraceKeys) -> list[float]:
    """Exact scores of one device, one for each weighting."""
    away = signs(codeword(keys, device, carrier.shares)) - carrier.means
    return [float(coefficients @ away) for coefficients in weighted]


def _standing(device: str, weighted: Sequence[NDArray[np.float64]], carrier: Carrier, keys: TraceKeys) -> Standing:
    spreads = [math.sqrt(float(coefficients**2 @ (1 - carrier.means**2))) for coefficients in weighted]
    scores = _scores(device, weighted, carrier, keys)
    most = max(score / spread if spread else 0.0 for score, spread in zip(scores, spreads, strict=True))
    return Standing(device, most, 0.0)


def log_chance(device: str, weighted: Sequence[NDArray[np.float64]], carrier: Carrier, keys: TraceKeys) -> float:
    """The least bound of any weighting, times their number: several looks are several chances to err."""
    scores = _scores(device, weighted, carrier, keys)
    tails = (log_tail(row, carrier.means, score) for row, score in zip(weighted, scores, strict=True))
    return min(0.0, min(tails) + math.log(len(weighted)))


def _batches(devices: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for device in devices:
        batch.append(device)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
