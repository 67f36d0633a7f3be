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

__all__ = ["MAX_PERIOD", "Repetition", "find_copy", "find_period", "find_repetition", "pair_distances", "phase_shares"]

MAX_PERIOD: Final = 512
_MARGIN: Final = 5.0
_Z_REPEAT: Final = 7.0
_SHARE_REPEAT: Final = 0.05
_SEED: Final = 40
_SEEDS: Final = 20_000
_STRETCH: Final = 512
_Z_COPY: Final = 8.0


def _entropy_nats(share: Floats) -> Floats:
    p = np.clip(share, 1e-12, 1.0 - 1e-12)
    entropy: Floats = -(p * np.log(p) + (1.0 - p) * np.log1p(-p))
    return entropy


def phase_shares(response: Bits, period: int) -> tuple[Floats, NDArray[np.int64]]:
    """Share of ones and number of cells in each phase class ``i mod period``, two arrays of shape ``(period,)``."""
    rows, rest = divmod(len(response), period)
    ones = response[: rows * period].reshape(rows, period).sum(axis=0, dtype=np.int64)
    ones[:rest] += response[rows * period :]
    cells = np.full(period, rows)
    cells[:rest] += 1
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
    if power < 1.0:  # wholly periodic
        return Repetition(period, 1.0, sqrt(bits))
    spectrum = np.fft.rfft(centred, 1 << (2 * bits - 1).bit_length())
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[1:bits] / power
    lag = int(np.argmax(np.abs(correlation))) + 1
    share = float(correlation[lag - 1])
    score = share * sqrt(bits)
    if abs(share) < _SHARE_REPEAT or abs(share) * sqrt(bits) < _Z_REPEAT:
        return None
    return Repetition(lag, share, score)


def find_copy(response: Bits, period: int = 1) -> Repetition | None:
    """A stretch of 512 cells that repeats another one, at any distance, plain or inverted, with some noise.

    Aliased addresses give the same cells twice in one reading. Equal windows of 40 cells are the seeds (one sort finds
    them); around each seed the agreement of 512 cells is compared with what two independent stretches with the same
    periodic bias would show. Copies that differ in 5 % of the cells are found in 98 of 100 cases (tests).

    Args:
        response: one reading or the reference, shape ``(bits,)``.
        period: result of ``find_period``.

    Returns:
        ``None`` if nothing exceeds 8 standard deviations; ``share`` is then the agreement of the stretch.
    """
    bits = len(response)
    if bits < 2 * _STRETCH:
        return None
    windows = np.zeros(bits - _SEED + 1, dtype=np.uint64)
    for i in range(_SEED):
        windows = (windows << np.uint64(1)) | response[i : i + len(windows)]
    keys = np.minimum(windows, windows ^ np.uint64((1 << _SEED) - 1))
    order = np.argsort(keys, kind="stable")
    equal = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    equal = equal[:: 1 + len(equal) // _SEEDS]
    one, other = order[equal], order[equal + 1]
    apart = other - one >= _STRETCH // 8
    one, other = one[apart], other[apart]
    if not len(one):
        return None
    # The seed lies at the end, in the middle or at the start of the stretch.
    start = np.concatenate([one + _SEED - _STRETCH, one + (_SEED - _STRETCH) // 2, one])
    lag = np.tile(other - one, 3)
    keep = (start >= 0) & (start + lag + _STRETCH <= bits)
    start, lag = start[keep], lag[keep]
    if not len(start):
        return None
    shares, _ = phase_shares(response, period)
    own = start[:, None] + np.arange(_STRETCH)
    a, b = shares[own % period], shares[(own + lag[:, None]) % period]
    expected = a * b + (1.0 - a) * (1.0 - b)
    agreement = (response[own] == response[own + lag[:, None]]).mean(axis=1)
    spread = np.sqrt((expected * (1.0 - expected)).mean(axis=1) / _STRETCH)
    score = (agreement - expected.mean(axis=1)) / np.maximum(spread, 1e-3)
    worst = int(np.argmax(np.abs(score)))
    if abs(float(score[worst])) < _Z_COPY:
        return None
    return Repetition(int(lag[worst]), float(agreement[worst]), float(score[worst]))


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
