"""What is left of the entropy, per device: raw, after debiasing, after the helper data.

Pairs: the symbols are fair and independent by construction if the cells of a pair are exchangeable and pairs are
independent (docs/extractor.md, theorem 1). That premise is tested on every symbol of the memory; a memory that passes
is accounted at one bit a symbol, a memory that fails at what the test statistic shows. Single cells: no such premise,
so the estimated bias, with its 99 % bound, is charged through the bounds of ``leakage``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.extractor.entropy import EntropyEstimate, markov, upper_share
from unclone.extractor.leakage import residual_entropy
from unclone.extractor.structure import pair_distances, phase_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unclone.extractor.debias import Symbols
    from unclone.extractor.layout import Layout

    Floats = NDArray[np.float64]

__all__ = ["Accounting", "Fairness", "account_cells", "account_pairs", "coarse", "fairness"]

_ALPHA: Final = 1e-7
_DISTANCE_CHARGE: Final = 12.0  # 6 distances, periods to 512
_REPORT_CHARGE: Final = 18.0  # coarse(): 101 x 101 x 17 values
_PHASES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Accounting:
    """Min-entropy in bits: of the cells used, of the symbols, and of the secret given all helper data."""

    raw: float
    debiased: float
    residual: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fairness:
    """Are the symbols of a memory fair coins?

    Attributes:
        fair: no test rejects at a level of 1e-7 each.
        excess: largest statistic in units of its own threshold; above 1 rejects.
        shares: probability of a one per unit (walk order) that accounts for a rejection; 1/2 if fair.
        reason: the test that rejected, with its figure; empty if fair.
    """

    fair: bool
    excess: float
    shares: Floats
    reason: str


def fairness(symbols: Symbols, layout: Layout) -> Fairness:
    """Test all symbols of a memory for bias, bias by position and dependence on their neighbours.

    In each phase class of the position (periods 1 to 512) the sum of signs is ``N(0, m)`` for m fair coins; the sum of
    squared standard scores over the classes is chi-squared and bounded by Laurent and Massart (2000, lemma 1). Products
    of neighbouring signs at distances 1 to 64 in the memory are tested the same way.
    """
    units = len(symbols.values)
    first = layout.first_cells()
    place = np.empty(units, dtype=np.int64)
    place[np.argsort(first, kind="stable")] = np.arange(units)
    signs = np.zeros(units)
    alive = symbols.strength > 0
    signs[place[alive]] = 2.0 * symbols.values[alive] - 1.0
    weight = np.abs(signs)
    t = -log(_ALPHA)
    worst, reason, shares = 0.0, "", np.full(units, 0.5)
    for period in (p for p in _PHASES if p * 8 <= units):
        phase = np.arange(units) % period
        total = np.bincount(phase, weights=signs, minlength=period)
        count = np.bincount(phase, weights=weight, minlength=period)
        statistic = float((total**2 / np.maximum(count, 1)).sum())
        excess = statistic / (period + 2.0 * sqrt(period * t) + 2.0 * t)
        if excess > max(worst, 1.0):
            reason = f"symbols are biased by position modulo {period} (chi-squared {statistic:.0f} for {period})"
            shares = (0.5 + 0.5 * total / np.maximum(count, 1))[phase[place]]
        worst = max(worst, excess)
    lags = [lag for lag in range(1, 65) if lag * 4 <= units]
    for lag in lags:
        product = signs[:-lag] * signs[lag:]
        pairs = float(np.abs(product).sum())
        # Hoeffding for a sum of independent signs, over all lags.
        excess = abs(float(product.sum())) / sqrt(2.0 * pairs * (t + log(2.0 * len(lags)))) if pairs else 0.0
        if excess > max(worst, 1.0):
            same = 0.5 + 0.5 * abs(float(product.sum())) / pairs
            reason = f"symbols at distance {lag} agree or differ in a share of {same:.3f}"
            shares = np.maximum(shares, same)
        worst = max(worst, excess)
    return Fairness(worst <= 1.0, worst, shares, reason)


def account_pairs(raw: EntropyEstimate, test: Fairness, layout: Layout, used: NDArray[np.int64], k: int) -> Accounting:
    """Accounting of paired cells.

    The raw figure counts ones, in the memory or in its phases: swapping the cells of a pair does not change it, so the
    report tells nothing about the symbols. A distance other than the usual one was chosen by looking at them, and is
    charged by the number of choices.

    Args:
        raw: estimate on the reference response.
        test: result of ``fairness`` on the whole memory.
        layout: of pairs.
        used: units of the code symbols that are not erased.
        k: message bits of the code.
    """
    alive = len(used)
    raw_bits = 2.0 * alive * min(raw.most_common_value, raw.per_phase)
    usual = layout.distance == pair_distances(layout.bits, 1)[0]
    charge = 0.0 if usual else _DISTANCE_CHARGE
    if test.fair:
        return Accounting(raw_bits, float(alive), max(0.0, min(k, alive) - charge))
    shares = test.shares[used]
    guess = np.maximum(shares, 1.0 - shares)
    debiased = float(-np.log2(guess).sum())
    residual = residual_entropy(shares, max(0, alive - k))
    return Accounting(raw_bits, debiased, max(0.0, min(residual, float(k)) - charge), (test.reason,))


def coarse(value: float, step: float) -> float:
    """``value`` rounded to a multiple of ``step``: what a report may publish about single cells."""
    return round(value / step) * step


def account_cells(
    raw: EntropyEstimate,
    reference: NDArray[np.uint8],
    layout: Layout,
    classes: NDArray[np.uint8],
    used: NDArray[np.int64],
    k: int,
) -> Accounting:
    """Accounting of single cells with published weight classes.

    Publishing a class is charged by estimating the bias within each class (and within each phase, if the bias is
    periodic), with its 99 % bound; dependence between neighbours by the Markov estimate. The three figures that the
    report then publishes about single cells are rounded (``coarse``) and charged by the number of their values.

    Args:
        raw: estimate on the reference response.
        reference: reference response, shape ``(bits,)``.
        layout: of single cells.
        classes: weight class of every unit of the memory, shape ``(bits,)``.
        used: the units used and not erased.
        k: message bits of the code.
    """
    cells = layout.first_cells()
    guess = np.full(len(reference), 0.5)
    for label in np.unique(classes):
        group = cells[classes == label]
        ones = float(reference[group].mean())
        guess[group] = upper_share(max(ones, 1.0 - ones), len(group))
    if raw.period > 1:
        ones_of, _ = phase_shares(reference, raw.period)
        by_phase = np.maximum(ones_of, 1.0 - ones_of)[np.arange(len(reference)) % raw.period]
        guess = np.maximum(guess, by_phase)
    shares = guess[cells[used]]
    raw_bits = len(used) * (float(-np.log2(shares).mean()) // 0.0625 * 0.0625)
    leaked = max(0, len(used) - k)
    residual = residual_entropy(shares, leaked)
    dependence = markov(reference)
    if dependence < raw.most_common_value - 0.02:
        residual = min(residual, max(0.0, dependence * len(used) - leaked))
    return Accounting(raw_bits, raw_bits, max(0.0, residual - _REPORT_CHARGE))
