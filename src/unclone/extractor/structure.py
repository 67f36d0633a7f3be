"""What a memory looks like before it is trusted: periodic bias and repeated contents.

Both searches are exact over their range: every period up to ``MAX_PERIOD`` is compared by its likelihood, and every
lag by the autocorrelation of the whole response (one FFT).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]
    Floats = NDArray[np.float64]

__all__ = ["MAX_PERIOD", "Repetition", "find_period", "find_repetition", "pair_distances", "phase_shares"]

MAX_PERIOD: Final = 512
_MARGIN: Final = 5.0
_Z_REPEAT: Final = 7.0
_SHARE_REPEAT: Final = 0.05


def _entropy_nats(share: Floats) -> Floats:
    p = np.clip(share, 1e-12, 1.0 - 1e-12)
    entropy: Floats = -(p * np.log(p) + (1.0 - p) * np.log1p(-p))
    return entropy


def phase_shares(response: Bits, period: int) -> tuple[Floats, NDArray[np.int64]]:
    """Share of ones and number of cells in each phase class ``i mod period``, two arrays of shape ``(period,)``."""
    phase = np.arange(len(response)) % period
    cells = np.bincount(phase, minlength=period)
    ones = np.bincount(phase, weights=response, minlength=period)
    return ones / np.maximum(cells, 1), cells


def find_period(response: Bits, longest: int = MAX_PERIOD) -> int:
    """The period of the bias, 1 if there is none.

    Every period P is scored by the log-likelihood it gains over one common share of ones, less the Bayesian
    information criterion's ``(P - 1) / 2 * ln(bits)`` (Schwarz 1978) and ``ln(longest) + 5`` for having tried them all.
    Multiples of a true period gain no more and pay more, so the shortest one wins.

    Args:
        response: shape ``(bits,)``.
        longest: largest period to try; periods with fewer than 8 cells a phase are left out.
    """
    bits = len(response)
    common = _entropy_nats(np.array([response.mean()]))[0] * bits
    best, best_score = 1, 0.0
    for period in range(2, min(longest, bits // 8) + 1):
        shares, cells = phase_shares(response, period)
        gain = common - float((cells * _entropy_nats(shares)).sum())
        score = gain - 0.5 * (period - 1) * log(bits) - log(longest) - _MARGIN
        if score > best_score:
            best, best_score = period, score
    return best


@dataclass(frozen=True, slots=True)
class Repetition:
    """Cells that repeat others.

    Attributes:
        lag: distance in bits between a cell and its copy.
        share: correlation at this lag, which is the share of cells that repeat (negative: inverted copies).
        score: the same in standard deviations of independent cells.
    """

    lag: int
    share: float
    score: float


def find_repetition(response: Bits, period: int = 1) -> Repetition | None:
    """The strongest repetition at any lag, ``None`` if it explains less than 5 % of the memory or 7 deviations.

    An aliased or copied window correlates with its original; the periodic bias, which correlates too, is removed first.
    Over all lags of a memory of 2**20 bits a false alarm has a probability below 1e-5.

    Args:
        response: one reading or the reference, shape ``(bits,)``.
        period: result of ``find_period``.
    """
    shares, _ = phase_shares(response, period)
    bits = len(response)
    centred = response - shares[np.arange(bits) % period]
    power = float((centred**2).sum())
    if power < 1.0:
        return Repetition(1, 1.0, sqrt(bits))
    spectrum = np.fft.rfft(centred, 1 << (2 * bits - 1).bit_length())
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[1:bits] / power
    lag = int(np.argmax(np.abs(correlation))) + 1
    share = float(correlation[lag - 1])
    score = share * power / sqrt(float((centred**2).mean() ** 2) * (bits - lag))
    if abs(share) < _SHARE_REPEAT or abs(share) * sqrt(bits) < _Z_REPEAT:
        return None
    return Repetition(lag, share, score)


def pair_distances(bits: int, period: int) -> list[int]:
    """Distances at which cells may be paired, the preferred one first: all are multiples of the period.

    The preferred one is 1024 (a quarter of smaller memories, rounded down to a power of two), so that any bias with a
    period that divides it is the same for both cells of a pair, found or not.
    """
    preferred = min(1024, 1 << max(0, (bits // 4).bit_length() - 1))
    out: list[int] = []
    for size in (preferred, preferred * 2, preferred // 2, preferred * 4, preferred // 4, preferred // 8):
        distance = size // period * period if size >= period else period
        if 0 < distance <= bits // 2 and distance not in out:
            out.append(distance)
    return out
