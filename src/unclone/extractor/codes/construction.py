"""Where a polar code puts its message: density evolution over the channel that the response really is.

A symmetric channel is kept as a mixture of binary symmetric channels, error probabilities and weights. After every
step it is merged into a fixed number of classes; merging outputs degrades a channel, so each error probability that
comes out is an upper bound for successive cancellation with the exact check rule (up to rounding).

Source: I. Tal and A. Vardy, "How to construct polar codes", IEEE Trans. Inf. Theory 59(10), 2013.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bit_error_rates", "message_positions"]

_Channel = tuple[NDArray[np.float64], NDArray[np.float64]]  # error probabilities, weights

_BINS = 64
_SCALE = 0.1  # below this log-likelihood ratio the classes are spaced evenly, above it by its logarithm
_HOPELESS = 1e-3  # sum of squared biases under which no position is worth a message bit
_SURE = 1e-20
_REACH = float(np.arcsinh(50 / _SCALE))


def _merge(p: NDArray[np.float64], w: NDArray[np.float64]) -> _Channel:
    p = np.clip(p, 1e-300, 0.5)
    place = np.arcsinh((np.log1p(-p) - np.log(p)) / _SCALE) * (_BINS / _REACH)
    index = np.minimum(place.astype(np.intp), _BINS - 1)
    weight = np.bincount(index, w, _BINS)
    errors = np.bincount(index, w * p, _BINS)
    used = weight > 1e-200  # far below any rate that matters, far above what breaks the division
    return errors[used] / weight[used], weight[used] / weight[used].sum()


def _check(a: _Channel, b: _Channel) -> _Channel:
    p = a[0][:, None] * (1 - b[0]) + b[0] * (1 - a[0][:, None])
    return _merge(p.reshape(-1), np.outer(a[1], b[1]).reshape(-1))


def _repeat(a: _Channel, b: _Channel) -> _Channel:
    x, y = a[0][:, None], b[0][None]
    weight = np.outer(a[1], b[1])
    both = x * y
    same = both + (1 - x) * (1 - y)
    less = np.minimum(x * (1 - y), y * (1 - x))
    differ = np.maximum(1 - same, 1e-300)
    p = np.stack([both / same, np.minimum(less / differ, 0.5)])
    return _merge(p.reshape(-1), np.stack([weight * same, weight * differ]).reshape(-1))


def bit_error_rates(
    m: int,
    n: int,
    drop: str,
    error: NDArray[np.float64],
    weight: NDArray[np.float64],
    wanted: NDArray[np.bool_] | None = None,
    quick: bool = False,
) -> NDArray[np.float64]:
    """Error probability of each of the ``2**m`` positions of u under successive cancellation.

    Args:
        m: logarithm of the mother length.
        n: symbols kept.
        drop: ``"first"`` or ``"last"``, as in :class:`~unclone.extractor.codes.PolarCode`.
        error: error probabilities of the classes of the channel, shape ``(classes,)``.
        weight: their shares, summing to 1.
        wanted: positions to work out, ``bool``, shape ``(2**m,)``; the others are 0.5 where that saves work.
        quick: do not tell apart positions that are all hopeless (0.5) or all sure (below 1e-20, an upper bound).

    Returns:
        ``float64``, shape ``(2**m,)``.
    """
    size = 1 << m
    kept = _merge(error, weight)
    lost: _Channel = (np.array([0.5]), np.array([1.0])) if drop == "first" else (np.array([1e-300]), np.array([1.0]))
    ids = np.zeros(size, dtype=np.intp)
    ids[slice(0, size - n) if drop == "first" else slice(n, size)] = 1
    return _evolve([kept, lost], ids, np.ones(size, dtype=np.bool_) if wanted is None else wanted, quick)


def _evolve(
    channels: list[_Channel], ids: NDArray[np.intp], wanted: NDArray[np.bool_], quick: bool
) -> NDArray[np.float64]:
    """``ids`` names the channel of each position of a node; equal pairs of channels are worked out once."""
    if not wanted.any():
        return np.full(ids.size, 0.5)
    if ids.size == 1:
        p, w = channels[int(ids[0])]
        return np.array([float((p * w).sum())])
    if quick:
        # A position below this node sees at most ids.size copies: capacities add up, and so do errors.
        if ids.size * max(float((1 - 2 * p) ** 2 @ w) for p, w in channels) < _HOPELESS:
            return np.full(ids.size, 0.5)
        sure = ids.size * max(float(p @ w) for p, w in channels)
        if sure < _SURE:
            return np.full(ids.size, sure)
    half = ids.size // 2
    pairs, index = np.unique(ids[:half] * len(channels) + ids[half:], return_inverse=True)
    ends = [(channels[int(pair) // len(channels)], channels[int(pair) % len(channels)]) for pair in pairs]
    left = _evolve([_check(a, b) for a, b in ends] if wanted[:half].any() else [], index, wanted[:half], quick)
    right = _evolve([_repeat(a, b) for a, b in ends] if wanted[half:].any() else [], index, wanted[half:], quick)
    return np.concatenate([left, right])


def message_positions(rates: NDArray[np.float64], k: int, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The k most reliable usable positions, ``bool`` of the shape of ``rates``; of equals the later ones."""
    order = np.lexsort((-np.arange(rates.size), rates))
    mask = np.zeros(rates.size, dtype=np.bool_)
    mask[order[usable[order]][:k]] = True
    return mask
