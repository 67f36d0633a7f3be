"""What a response repeats: periodic bias, constant blocks, blocks that occur twice, autocorrelation.

Every search states the probability with which it would find as much in independent cells that have the same (periodic)
bias, corrected for everything it tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.quality.tails import chi_square_upper

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]
    Floats = NDArray[np.float64]

__all__ = ["Block", "PhaseBias", "autocorrelation", "constant_block", "phase_bias", "repeated_block"]

LONGEST_PERIOD: Final = 512
FALSE_ALARM: Final = 1e-9
_GRAM: Final = 64
_LAGS: Final = 64


@dataclass(frozen=True, slots=True)
class PhaseBias:
    """Bias that repeats with a period: data lines, columns, words.

    Attributes:
        period: in cells; 1 where there is none.
        shares: share of ones of each phase, ``period`` values.
        log_probability: natural logarithm of the chance of it in cells of one common bias, over all periods tried.
    """

    period: int
    shares: tuple[float, ...]
    log_probability: float

    @property
    def spread(self) -> float:
        """Standard deviation of the phases' shares beyond what counting alone gives, between 0 and 0.5."""
        return float(np.std(self.shares))


def phase_bias(response: Bits, longest: int = LONGEST_PERIOD) -> PhaseBias:
    """The period that explains the response best, of 2 to ``longest`` cells.

    Each period is tested for equal shares of ones in all its phases with the chi-square test (Pearson; phases with 5
    expected ones and zeros at least, Cochran's rule), Bonferroni-corrected; among the significant ones Schwarz's
    criterion chooses, which prefers a true period to its multiples.

    Args:
        response: shape ``(bits,)``.
        longest: longest period to try.
    """
    bits, ones = len(response), int(response.sum())
    share = ones / bits
    variance = share * (1.0 - share)
    best, best_score = PhaseBias(1, (share,), 0.0), 0.0
    for period in range(2, longest + 1):
        rows, rest = divmod(bits, period)
        if rows * min(share, 1.0 - share) < 5.0:
            break
        counts = response[: rows * period].reshape(rows, period).sum(axis=0, dtype=np.int64)
        counts[:rest] += response[rows * period :]
        cells = np.full(period, rows)
        cells[:rest] += 1
        statistic = float(((counts - share * cells) ** 2 / cells).sum() / variance)
        score = statistic - (period - 1) * log(bits)
        if score > best_score:
            chance = chi_square_upper(statistic, period - 1) + log(longest)
            if chance < log(FALSE_ALARM):
                best, best_score = PhaseBias(period, tuple((counts / cells).tolist()), chance), score
    return best


def _cell_shares(response: Bits, period: int) -> Floats:
    """Estimated probability of a one for each cell, from its phase, kept off 0 and 1 by Laplace's rule."""
    phase = np.arange(len(response)) % period
    cells = np.bincount(phase, minlength=period)
    shares: Floats = ((np.bincount(phase, weights=response, minlength=period) + 1.0) / (cells + 2.0))[phase]
    return shares


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of cells that chance does not explain.

    Attributes:
        start: first cell.
        length: cells.
        lag: distance to the stretch it repeats; 0 for a constant block.
        log_probability: natural logarithm of the chance of such a block anywhere in the response (union bound).
    """

    start: int
    length: int
    lag: int
    log_probability: float


def _runs(equal: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends of the stretches of ``True``."""
    edges = np.flatnonzero(np.diff(equal.astype(np.int8), prepend=0, append=0))
    return edges[::2], edges[1::2]


def constant_block(response: Bits, period: int = 1) -> Block | None:
    """The least likely stretch of equal bits, ``None`` if chance explains it or it is shorter than 64 cells."""
    shares = _cell_shares(response, period)
    best: Block | None = None
    for value in (0, 1):
        logs = np.concatenate(([0.0], np.cumsum(np.log(shares if value else 1.0 - shares))))
        starts, ends = _runs(response == value)
        long = ends - starts >= _GRAM
        starts, ends = starts[long], ends[long]
        if len(starts):
            chances = logs[ends] - logs[starts] + log(2 * len(response))
            i = int(np.argmin(chances))
            if chances[i] < log(FALSE_ALARM) and (best is None or chances[i] < best.log_probability):
                best = Block(int(starts[i]), int(ends[i] - starts[i]), 0, float(chances[i]))
    return best


def repeated_block(response: Bits, period: int = 1) -> Block | None:
    """The least likely stretch that occurs twice, exactly; ``None`` if chance explains it.

    Two addresses of one cell give the same bit in one reading, so aliased memory repeats without any noise. Equal
    stretches of 64 cells (found by sorting) propose the 64 most frequent distances, along which equal stretches are
    measured in full.

    Args:
        response: one reading, shape ``(bits,)``.
        period: of the bias; cells of one phase agree more often.
    """
    bits = len(response)
    if bits < 2 * _GRAM:
        return None
    grams = np.zeros(bits - _GRAM + 1, dtype=np.uint64)
    for i in range(_GRAM):
        grams = (grams << np.uint64(1)) | response[i : i + len(grams)]
    order = np.argsort(grams, kind="stable")
    same = np.flatnonzero(grams[order[1:]] == grams[order[:-1]])
    if not len(same):
        return None
    found, counts = np.unique(order[same + 1] - order[same], return_counts=True)
    shares = _cell_shares(response, period)
    best: Block | None = None
    for lag in found[np.argsort(-counts, kind="stable")[:_LAGS]].tolist():
        a, b = shares[:-lag], shares[lag:]
        logs = np.concatenate(([0.0], np.cumsum(np.log(a * b + (1.0 - a) * (1.0 - b)))))
        starts, ends = _runs(response[:-lag] == response[lag:])
        chances = logs[ends] - logs[starts] + 2 * log(bits)
        i = int(np.argmin(chances))
        if chances[i] < log(FALSE_ALARM) and (best is None or chances[i] < best.log_probability):
            best = Block(int(starts[i] + lag), int(ends[i] - starts[i]), int(lag), float(chances[i]))
    return best


def autocorrelation(response: Bits, period: int = 1) -> tuple[Floats, float]:
    """Correlation of a response with itself at every lag, the periodic bias taken out.

    Returns:
        The coefficients at lags 1 to ``bits - 1``, and the value that the largest of them exceeds in absolute value
        with a probability below 1e-9 for independent cells (Hoeffding's bound over all lags).
    """
    phase = np.arange(len(response)) % period
    cells = np.bincount(phase, minlength=period)
    centred = response - (np.bincount(phase, weights=response, minlength=period) / cells)[phase]
    power = float((centred**2).sum())
    bits = len(response)
    if power < 1.0:  # wholly periodic: nothing is left to correlate
        return np.zeros(bits - 1), 1.0
    spectrum = np.fft.rfft(centred, 1 << (2 * bits - 1).bit_length())
    coefficients: Floats = np.fft.irfft(np.abs(spectrum) ** 2)[1:bits] / power
    return coefficients, sqrt(2.0 * log(2.0 * bits / FALSE_ALARM) / bits)
