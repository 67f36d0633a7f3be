"""Debiasing: from cells to code symbols that are fair coins however biased the cells are.

Two cells of the same phase class are alike before they are measured (exchangeable: swapping them changes nothing about
the distribution). If their enrolment counts differ, which of the two holds more ones is then a fair coin, given
everything that does not change when they are swapped. That is von Neumann's trick, and the symbol here. Pairs that do
not differ carry no symbol.

=============  =====================================================================================================
``none``       a unit is one cell; for memories whose residual entropy suffices as it is
``classic``    von Neumann: differing pairs, packed; at reconstruction only the first cell is looked at
``pair-output``  the same, both cells are looked at: a flip of one cell becomes an erasure instead of an error
               (pair-output von Neumann of Maes, van der Leest, van der Sluis, Willems, "Secure key generation from
               biased PUFs", CHES 2015)
``erasure``    pairs stay at fixed code positions, those that do not differ are erased (their epsilon-2O-VN): enrolments
               of one device with the same parameters may all be published
=============  =====================================================================================================

The published weight of a pair is a function of both cells' counts that does not change when they are swapped. A weight
per cell would tell: in a memory biased to one, the more reliable cell of a differing pair is likelier the one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.extractor.layout import Layout
from unclone.extractor.soft import cell_score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]

__all__ = [
    "CLASSIC",
    "ERASURE",
    "MODES",
    "NONE",
    "PAIR_OUTPUT",
    "Symbols",
    "field_ones",
    "quantise",
    "scores",
    "symbols",
]

NONE: Final = "none"
CLASSIC: Final = "classic"
PAIR_OUTPUT: Final = "pair-output"
ERASURE: Final = "erasure"
MODES: Final = (NONE, CLASSIC, PAIR_OUTPUT, ERASURE)

MAX_CLASSES: Final = 8
"""Weight classes including class 0, the erasure: 3 bits a symbol."""

STEP: Final = 16
"""A level is a log-likelihood ratio in units of 1/16 nat."""

_WEAKEST: Final = 0.25
_STRONGEST: Final = 15.0


@dataclass(frozen=True, slots=True)
class Symbols:
    """Symbols of all units in walk order; the secret half of enrolment.

    Attributes:
        values: 0/1, shape ``(units,)``; 1 when the first cell holds more ones (or, for a single cell, the majority).
        strength: log-likelihood ratio with which a decisive field reading speaks, nats, shape ``(units,)``; 0 where
            there is no symbol.
        decisive: probability that a field reading is decisive (the two cells differ), shape ``(units,)``.
        agree: probability that a decisive reading is right, shape ``(units,)``.
    """

    values: Bits
    strength: Floats
    decisive: Floats
    agree: Floats


def field_ones(counts: Counts, log_odds: Floats, period: int) -> Floats:
    """Probability of a one in the field for each cell, for predictions only; shape ``(bits,)``.

    The log-odds come from a symmetric prior. In a biased memory as many cells flip up as down as long as its share of
    ones stays, so the rarer value flips more often: in each phase of the bias the flips are shared out evenly.

    Args:
        counts: ones among N readings, shape ``(bits,)``.
        log_odds: for each count, shape ``(N + 1,)``.
        period: of the bias.
    """
    odds = log_odds[counts]
    flips = 1.0 / (1.0 + np.exp(np.abs(odds)))
    one = odds > 0
    group = 2 * (np.arange(len(counts)) % period) + one
    total = np.bincount(group, weights=flips, minlength=2 * period).reshape(period, 2)
    factor = total.sum(axis=1, keepdims=True) / np.maximum(2.0 * total, 1e-12)
    flips = np.minimum(0.5, flips * factor.reshape(-1)[group])
    ones: Floats = np.where(one, 1.0 - flips, flips)
    return ones


def symbols(counts: Counts, log_odds: Floats, layout: Layout, mode: str, period: int = 1) -> Symbols:
    """Symbols from the ones counted per cell.

    Args:
        counts: ones among N readings, shape ``(bits,)``.
        log_odds: field log-odds of a one for each count, shape ``(N + 1,)`` (``soft.field_log_odds``).
        layout: the units.
        mode: one of ``MODES``.
        period: of the bias; for ``decisive`` and ``agree`` alone.
    """
    first = layout.first_cells()
    odds = log_odds[counts[first]]
    ones = field_ones(counts, log_odds, period)
    own = ones[first]
    if layout.distance == 0:
        values = (odds > 0).astype(np.uint8)
        return Symbols(values, np.abs(odds), np.ones(len(first)), np.where(values == 1, own, 1.0 - own))
    other = counts[first + layout.distance]
    strength = np.abs(odds - log_odds[other])
    values = (counts[first] > other).astype(np.uint8)
    if mode == CLASSIC:
        return Symbols(values, strength, np.ones(len(first)), np.where(values == 1, own, 1.0 - own))
    theirs = ones[first + layout.distance]
    up, down = own * (1.0 - theirs), (1.0 - own) * theirs
    right, wrong = np.where(values == 1, up, down), np.where(values == 1, down, up)
    return Symbols(values, strength, right + wrong, np.maximum(0.5, right / (right + wrong)))


def quantise(strength: Floats) -> tuple[NDArray[np.uint8], list[int]]:
    """Weight classes of units and the level of each class.

    Class 0 means erased and has level 0; the others rise. Up to seven distinct strengths are kept as they are; more are
    put into seven equal intervals. Strengths below 1/4 nat are erased, above 15 nats cut.

    Returns:
        classes, shape ``(units,)``, and levels in units of 1/16 nat.
    """
    rounded = np.minimum(np.rint(strength * STEP), _STRONGEST * STEP).astype(np.int64)
    rounded[rounded < _WEAKEST * STEP] = 0
    levels = np.unique(rounded[rounded > 0])
    if len(levels) >= MAX_CLASSES:
        low, high = int(levels[0]), int(levels[-1])
        centres = low + (high - low) * (2 * np.arange(MAX_CLASSES - 1) + 1) // (2 * (MAX_CLASSES - 1))
        bucket = np.minimum((rounded - low) * (MAX_CLASSES - 1) // (high - low), MAX_CLASSES - 2)
        rounded = np.where(rounded > 0, centres[np.maximum(bucket, 0)], 0)
        levels = np.unique(rounded[rounded > 0])
    classes = np.searchsorted(levels, rounded, side="left") + 1
    classes[rounded == 0] = 0
    return classes.astype(np.uint8), [0, *(int(level) for level in levels)]


def scores(counts: Counts | Bits, readings: int, first: NDArray[np.int64], distance: int, mode: str) -> Floats:
    """What M field readings say about symbols, -1 (surely 0) to 1 (surely 1) for a single reading.

    Args:
        counts: ones among the M readings, shape ``(..., bits)``.
        readings: M.
        first: first cells of the symbols, shape ``(n,)``.
        distance: of the layout.
        mode: one of ``MODES``.

    Returns:
        shape ``(..., n)``.
    """
    own = cell_score(counts[..., first], readings)
    if mode in (NONE, CLASSIC):
        return own
    return 0.5 * (own - cell_score(counts[..., first + distance], readings))
