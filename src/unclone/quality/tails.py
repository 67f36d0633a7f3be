"""Tails of the distributions that the checks lean on, from the standard library alone."""

from __future__ import annotations

from math import exp, inf, lgamma, log, log1p

__all__ = ["binomial_upper", "chi_square_upper"]

_TERMS = 100_000


def binomial_upper(count: int, trials: int, probability: float) -> float:
    """Natural logarithm of P(X >= count) for X ~ Binomial(trials, probability).

    Summed from ``count`` upwards by the ratio of neighbouring terms. A sum of independent draws with *different*
    probabilities has a lighter tail beyond its mean + 1 (Hoeffding 1956), so unequal cells err on the safe side.
    """
    if count <= 0:
        return 0.0
    if count > trials or probability <= 0.0:
        return -inf
    if probability >= 1.0:
        return 0.0
    odds = probability / (1.0 - probability)
    first = lgamma(trials + 1) - lgamma(count + 1) - lgamma(trials - count + 1)
    first += count * log(probability) + (trials - count) * log1p(-probability)
    term = total = 1.0
    for k in range(count, min(trials, count + _TERMS)):
        term *= (trials - k) / (k + 1) * odds
        total += term
        if term < total * 1e-16:
            break
    return min(0.0, first + log(total))


def chi_square_upper(statistic: float, freedom: int) -> float:
    """Natural logarithm of P(X >= statistic) for X ~ chi-square with ``freedom`` degrees of freedom.

    The regularised incomplete gamma function by its series or by Lentz's continued fraction (Abramowitz and Stegun
    6.5.29 and 6.5.31).
    """
    if statistic <= 0.0:
        return 0.0
    a, x = freedom / 2.0, statistic / 2.0
    front = a * log(x) - x - lgamma(a)
    if x < a + 1.0:
        term = total = 1.0 / a
        for k in range(1, _TERMS):
            term *= x / (a + k)
            total += term
            if term < total * 1e-16:
                break
        lower = exp(front + log(total))
        return log1p(-lower) if lower < 1.0 else -inf
    tiny = 1e-300
    b = x + 1.0 - a
    c, d = 1.0 / tiny, 1.0 / b
    h = d
    for k in range(1, _TERMS):
        an = -k * (k - a)
        b += 2.0
        d = 1.0 / (an * d + b or tiny)
        c = b + an / c or tiny
        h *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return min(0.0, front + log(h))
