"""How few response bits any code could do with: the normal approximation for mixtures of binary symmetric channels.

Source: Y. Polyanskiy, H. V. Poor, S. Verdu, "Channel coding rate in the finite blocklength regime", IEEE Trans. Inf.
Theory 56(5), 2010, equation (289): ``k = n C - sqrt(n V) Q^-1(failure) + log2(n) / 2`` bits. A response whose cells
have different, known error probabilities is a mixture: its information density has the variance of both. It is an
approximation, not a theorem about one length; it is the yardstick of a design, never its prediction.
"""

from __future__ import annotations

from math import log2, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unclone.errors import ParameterError

__all__ = ["as_mixture", "capacity_and_dispersion", "finite_length_bound"]

_LONGEST = 1 << 24


def as_mixture(error: ArrayLike, weight: ArrayLike | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Error probabilities and weights of a mixture, both ``float64`` of shape ``(classes,)``, weights summing to 1.

    Args:
        error: one bit error rate, or one per class of cells, from 0 to 0.5.
        weight: share of each class, not negative; equal shares if absent.

    Raises:
        ParameterError: not numbers, shapes that differ, or values out of range.
    """
    try:
        p = np.atleast_1d(np.asarray(error, dtype=np.float64))
        w = np.full(p.shape, 1.0) if weight is None else np.atleast_1d(np.asarray(weight, dtype=np.float64))
    except (TypeError, ValueError) as problem:
        raise ParameterError("error rates and weights must be numbers") from problem
    if p.ndim != 1 or p.shape != w.shape or p.size == 0:
        raise ParameterError("error rates and weights must be two lists of the same length")
    if not (np.isfinite(p).all() and np.isfinite(w).all() and (p >= 0).all() and (p <= 0.5).all()):
        raise ParameterError("error rates must lie from 0 to 0.5")
    if (w < 0).any() or not w.sum() > 0:
        raise ParameterError("weights must not be negative, nor all zero")
    return p, w / w.sum()


def capacity_and_dispersion(error: ArrayLike, weight: ArrayLike | None = None) -> tuple[float, float]:
    """Mean and variance of one symbol's information density, in bits and bits squared."""
    p, w = as_mixture(error, weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        good, bad = 1 + np.log2(1 - p), np.where(p > 0, 1 + np.log2(np.where(p > 0, p, 1)), 0.0)
    mean = float((w * ((1 - p) * good + p * bad)).sum())
    square = float((w * ((1 - p) * good**2 + p * bad**2)).sum())
    return mean, max(0.0, square - mean * mean)


def finite_length_bound(key_bits: int, failure: float, error: ArrayLike, weight: ArrayLike | None = None) -> int:
    """Response bits that the best code would need: the smallest n whose normal approximation reaches ``key_bits``.

    Args:
        key_bits: message bits.
        failure: share of failed reconstructions, between 0 and 0.5.
        error: bit error rate, or the rates of the classes of a mixture.
        weight: shares of the classes.

    Raises:
        ParameterError: a value out of range, or a channel that carries nothing.
    """
    if key_bits < 1 or not 0 < failure < 0.5:
        raise ParameterError("key bits must be positive and the failure target between 0 and 0.5")
    mean, variance = capacity_and_dispersion(error, weight)
    quantile = -NormalDist().inv_cdf(failure)

    def short(n: int) -> bool:
        return n * mean - sqrt(n * variance) * quantile + log2(n) / 2 < key_bits

    high = key_bits
    while short(high):
        high *= 2
        if high > _LONGEST:
            raise ParameterError("the channel carries too little information for any practical length")
    low = max(1, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if short(middle) else (low, middle)
    return high
