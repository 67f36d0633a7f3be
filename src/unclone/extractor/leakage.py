"""What a code offset leaves: bounds on the average min-entropy of a response once its syndrome is public.

With a linear (n, k) code the helper data tells the syndrome of the n symbols, one of ``2**(n - k)``, and nothing else.
Three bounds, from coarse to fine:

* ``n - k`` bound (Dodis, Ostrovsky, Reyzin, Smith 2008, lemma 2.2): ``H_inf(X) - (n - k)``.
* Renyi bound: for each syndrome the attacker guesses one response, and these guesses form a set A of at most
  ``2**(n - k)`` responses, so he wins with ``P(A)``; by Hoelder's inequality
  ``P(A) <= |A|**(1 - 1/a) * (sum P**a)**(1/a)``, hence ``H >= (a - 1)/a * (H_a(X) - (n - k))`` for each order a > 1.
  It holds for independent symbols with any mixture of biases; ``a -> inf`` is the n - k bound.
* exact set bound for equally biased symbols: ``P(A)`` is at most the sum of the ``2**(n - k)`` likeliest responses
  (Delvaux, Gu, Verbauwhede, Hiller, Yu, "Efficient fuzzy extraction of PUF-induced secrets: theory and applications",
  CHES 2016, worst-case bound).
"""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING

import numpy as np

from unclone.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["nk_bound", "renyi_bound", "residual_entropy", "set_bound"]


def _guess(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    guess = np.maximum(shares, 1.0 - shares)
    if guess.size == 0 or not np.all((guess >= 0.5) & (guess <= 1.0)):
        raise ParameterError("shares of ones lie between 0 and 1")
    return guess


def nk_bound(shares: NDArray[np.float64], leaked: int) -> float:
    """``H_inf(X) - leaked``, in bits, not below 0.

    Args:
        shares: probability of a one for each symbol, shape ``(n,)``; symbols are independent.
        leaked: bits of syndrome, n - k.
    """
    return max(0.0, float(-np.log2(_guess(shares)).sum()) - leaked)


def renyi_bound(shares: NDArray[np.float64], leaked: int) -> float:
    """Best of the Renyi bounds over a grid of orders, in bits; arguments as ``nk_bound``."""
    guess, cells = np.unique(_guess(shares), return_counts=True)
    best = nk_bound(shares, leaked)
    with np.errstate(under="ignore"):
        for order in np.geomspace(1.001, 512.0, 240):
            total = float((cells * np.log2(guess**order + (1.0 - guess) ** order)).sum()) / (1.0 - order)
            best = max(best, (order - 1.0) / order * (total - leaked))
    return best


def set_bound(share: float, n: int, leaked: int) -> float:
    """Worst-case bound of Delvaux et al. 2016 for n independent symbols with the same share of ones, in bits."""
    p = float(_guess(np.array([share]))[0])
    if not 0 <= leaked <= n:
        raise ParameterError(f"leaked is {leaked}, outside 0..n = {n}")
    left = 1 << leaked
    logs: list[float] = []
    if p == 1.0:
        return 0.0
    words = 1
    for weight in range(n + 1):
        size = min(words, left)
        if size == 0:
            break
        left -= size
        words = words * (n - weight) // (weight + 1)
        logs.append(_log2(size) + (n - weight) * log2(p) + weight * log2(1.0 - p))
    peak = max(logs)
    return max(0.0, -(peak + log2(sum(2.0 ** (value - peak) for value in logs))))


def _log2(value: int) -> float:
    shift = max(0, value.bit_length() - 60)
    return log2(value >> shift) + shift


def residual_entropy(shares: NDArray[np.float64], leaked: int) -> float:
    """The best bound that applies, in bits: never more than ``n - leaked``."""
    best = renyi_bound(shares, leaked)
    if shares.size and float(np.ptp(shares)) == 0.0:
        best = max(best, set_bound(float(shares[0]), len(shares), leaked))
    return min(best, float(len(shares) - leaked))
