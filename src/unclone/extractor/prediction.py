"""How often a polar code fails on a given response: rare failures by splitting, and a quick bound.

A word fails when the true message is not in the decoder's list. At one failure in 1e9 nobody waits for failures, so the
event is approached in stages. Each word has a margin (``PolarCode.margins``): by how little the true path stayed in the
list. Stage by stage the margin is made to shrink: the words below the current level are copied, each copy is changed a
little by a Markov chain that keeps the channel's distribution and the level, and the failure probability is the product
of the shares that passed each level. By linearity the all-zero word serves for all, as long as ties are broken
at random.

Sources: S. K. Au and J. L. Beck, "Estimation of small failure probabilities in high dimensions by subset simulation",
Probabilistic Eng. Mech. 16(4), 2001; the union bound: E. Arikan, IEEE Trans. Inf. Theory 55(7), 2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, log10

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unclone.errors import ParameterError
from unclone.extractor.bounds import as_mixture
from unclone.extractor.codes.construction import bit_error_rates, message_positions
from unclone.extractor.codes.polar import PolarCode

__all__ = ["RareFailure", "construct", "rare_failure"]

_PASS = 0.2  # share of words that should pass a level
_MOVES = 2  # Markov steps per level
_FLOOR = (
    5.0  # standard error in decades times the root of the words, as seen over many runs: a few runs may agree by luck
)
_ACCEPT = 0.35  # acceptance aimed at by the size of the steps


@dataclass(frozen=True)
class RareFailure:
    """An estimated failure probability, as its decimal logarithm.

    Attributes:
        log10: of the mean of the independent runs.
        error: standard error, from the runs' spread, and at least what so few words usually show.
        decoded: words decoded.
    """

    log10: float
    error: float
    decoded: int


def rare_failure(
    code: PolarCode,
    error: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    words: int = 1000,
    runs: int = 4,
    seed: int = 0,
    least: float = 1e-16,
) -> RareFailure:
    """Estimate how often ``code`` fails on a mixture of binary symmetric channels whose classes the decoder knows.

    Args:
        code: a polar code.
        error: bit error rate, or the rates of the classes.
        weight: shares of the classes.
        words: words per level.
        runs: independent runs.
        seed: of the random numbers; the result is reproducible.
        least: stop where the probability is certainly smaller than this, and report what was reached.
    """
    p, w = as_mixture(error, weight)
    if words < 20 or runs < 1:
        raise ParameterError("splitting needs at least 20 words and one run")
    ratio = np.log((1 - p) / np.maximum(p, 1e-30))
    values = np.concatenate([ratio, -ratio]).astype(np.float32)
    shares = np.cumsum(np.concatenate([w * (1 - p), w * p]))[:-1]
    results = [_run(code, values, shares, words, np.random.default_rng((seed, run)), least) for run in range(runs)]
    logs = np.array([total for total, _ in results])
    relative = 10.0 ** (logs - logs.max())  # the mean of the probabilities, not of their logarithms, is unbiased
    mean = float(relative.mean())
    spread = float(relative.std(ddof=1)) / runs**0.5 / mean / log(10) if runs > 1 else 0.3
    return RareFailure(
        float(logs.max()) + log10(mean),
        max(_FLOOR / (words * runs) ** 0.5, spread),
        sum(decoded for _, decoded in results),
    )


def _run(
    code: PolarCode,
    values: NDArray[np.float32],
    shares: NDArray[np.float64],
    words: int,
    rng: np.random.Generator,
    least: float,
) -> tuple[float, int]:
    def draw() -> NDArray[np.intp]:
        return np.searchsorted(shares, rng.random((words, code.n)))

    symbols = draw()
    margin = code.margins(values[symbols], rng)
    total, decoded, rate = 0.0, words, 0.1
    while True:
        level, share = _level(margin)
        total += log10(share)
        if level < 0 or total < log10(least):
            return total, decoded
        passed = rng.permutation(np.flatnonzero(margin <= level))
        copies = np.resize(passed, words)
        symbols, margin = symbols[copies], margin[copies]
        for _ in range(_MOVES):
            moved = np.where(rng.random(symbols.shape) < rate, draw(), symbols)
            reached = code.margins(values[moved], rng)
            decoded += words
            accepted = reached <= level
            symbols[accepted], margin[accepted] = moved[accepted], reached[accepted]
            rate = float(np.clip(rate * np.exp(accepted.mean() - _ACCEPT), 0.005, 0.5))


def _level(margin: NDArray[np.float32]) -> tuple[float, float]:
    """The next level and the share of words at or below it; -1 where enough words fail outright.

    Hard decisions give few distinct margins, so the share is only near the one aimed at.
    """
    failed = float((margin < 0).mean())
    if failed >= _PASS:
        return -1.0, failed
    order = np.sort(margin)
    levels, first = np.unique(order, return_index=True)
    share = np.append(first[1:], order.size) / order.size
    useful = share < 0.75
    if not useful.any():  # nearly all at one value: take it as it is, the chain spreads them
        return float(levels[0]), float(share[0])
    best = int(np.abs(np.log(share[useful] / _PASS)).argmin())
    return float(levels[best]), float(share[best])


def construct(
    n: int, k: int, list_size: int, error: ArrayLike, weight: ArrayLike | None = None, drop: str | None = None
) -> tuple[PolarCode, float]:
    """The polar code whose message sits in the most reliable positions for a channel, and a bound on its failure.

    The bound is the union over message positions of the error of successive cancellation by degraded density
    evolution. It holds for a list of one with the exact check rule; a list of 8 or more under min-sum stays well
    below it in every case measured.

    Args:
        n: code length.
        k: message bits.
        list_size: of the decoder.
        error: bit error rate, or the rates of the classes.
        weight: shares of the classes.
        drop: ``"first"`` punctures, ``"last"`` shortens; by default shortening from rate 1/2 upward.
    """
    p, w = as_mixture(error, weight)
    if not 1 <= k <= n <= 65536:
        raise ParameterError("expected 1 <= k <= n <= 65536")
    m = max(1, (n - 1).bit_length())
    kind = drop or ("last" if 2 * k > n else "first")
    rates = bit_error_rates(m, n, kind, p, w, quick=True)
    usable = np.zeros(1 << m, dtype=np.bool_)
    usable[slice((1 << m) - n, None) if kind == "first" else slice(0, n)] = True
    info = message_positions(rates, k, usable)
    return PolarCode(info, n, list_size, kind), min(1.0, float(rates[info].sum()))
