"""Putting a leaked tensor back in order: rows and columns that a thief permuted, rescaled or negated.

Neurons may be permuted, those before a ReLU scaled, and those before an odd function negated, without changing what a
network computes. The original tells which row is which: magnitudes are first freed of every scale (Sinkhorn and Knopp
1967), a row is then known by its sorted values, which a permutation of the columns leaves alone; once some rows stand
right, columns are known by their correlation, and then rows again.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["align"]

_ROUNDS: Final = 3
_BALANCING: Final = 8
_LARGEST: Final = 8192
"""Longer axes (vocabularies) are taken as they are: their table of likeness would not fit."""

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def align(ours: Floats, leaked: Floats) -> Floats | None:
    """The leaked tensor in the original's order, scale and signs; rows and columns that match nothing are NaN.

    Args:
        ours: the original, shape ``(rows, columns, kernel)``.
        leaked: of the same shape; NaN is what the leak lost.

    Returns:
        Shape of ``ours``, or ``None`` where nothing matches.
    """
    known, there = _balanced(ours), _balanced(leaked)
    orders = [_match(_signatures(known, axis), _signatures(there, axis)) for axis in (0, 1)]
    for _ in range(_ROUNDS):
        # Alternate: what one axis knows helps the other; an axis that begins wrong is mended by the right one.
        for axis in (1, 0):
            orders[axis] = _match_along(known, there, axis, orders)
    rows, columns = orders
    placed = leaked[np.ix_(rows, columns)]
    placed[rows < 0] = np.nan
    placed[:, columns < 0] = np.nan
    if not np.isfinite(placed).any():
        return None
    placed *= _signs(ours, placed)
    for axis in (0, 1, 0, 1):
        placed /= _scales(ours, placed, axis)
    return placed


def _balanced(tensor: Floats) -> Floats:
    """Magnitudes, scaled so that every row and every column has the same mean square; 0 for what is lost."""
    powers = np.nan_to_num(tensor) ** 2
    for _ in range(_BALANCING):
        for axes in ((1, 2), (0, 2)):
            mean = powers.mean(axis=axes, keepdims=True)
            powers /= np.where(mean > 0, mean, 1)
    balanced: Floats = np.sqrt(powers)
    return balanced


def _flat(tensor: Floats, axis: int) -> Floats:
    return np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)


def _telling(rows: Floats) -> Floats:
    """What tells a row from the others, of unit length."""
    apart = rows - rows.mean(axis=0) if rows.shape[0] > 1 else rows
    lengths = np.linalg.norm(apart, axis=1, keepdims=True)
    found: Floats = apart / np.where(lengths > 0, lengths, 1)
    return found


def _signatures(tensor: Floats, axis: int) -> Floats:
    return _telling(np.sort(_flat(tensor, axis), axis=1))


def _match_along(known: Floats, there: Floats, axis: int, orders: list[Indices]) -> Indices:
    """Which leaked slice along ``axis`` is which, the other axis being in its present order."""
    other = orders[1 - axis]
    sure = other >= 0
    if not sure.any():
        return orders[axis]
    ordered = np.take(there, other[sure], axis=1 - axis)
    return _match(_telling(_flat(np.compress(sure, known, axis=1 - axis), axis)), _telling(_flat(ordered, axis)))


def _match(ours: Floats, there: Floats) -> Indices:
    """For each row of ``ours`` the row of ``there`` most like it; -1 where another has the better claim."""
    if len(ours) > _LARGEST:
        return np.arange(len(ours))
    likeness = ours @ there.T
    best = likeness.argmax(axis=1)
    worth = likeness[np.arange(best.size), best]
    found = np.full(best.size, -1, dtype=np.intp)
    by_worth = np.argsort(-worth, kind="stable")
    _, first = np.unique(best[by_worth], return_index=True)
    winners = by_worth[first]
    winners = winners[worth[winners] > 0]
    found[winners] = best[winners]
    return found


def _signs(ours: Floats, placed: Floats) -> Floats:
    """+1 or -1 for each row and column, as the signs of the products say by majority; shape ``(rows, columns, 1)``."""
    products = np.nansum(ours * placed, axis=2)
    rows = np.sign(products[:, np.abs(products).sum(axis=0).argmax()])
    columns = np.ones(products.shape[1])
    for _ in range(_ROUNDS):
        columns = np.where(rows @ products < 0, -1.0, 1.0)
        rows = np.where(products @ columns < 0, -1.0, 1.0)
    found: Floats = np.outer(rows, columns)[:, :, None]
    return found


def _scales(ours: Floats, placed: Floats, axis: int) -> Floats:
    """Least-squares scale of each slice along ``axis``, to divide by; 1 where there is none."""
    others = tuple(number for number in range(3) if number != axis)
    kept = np.isfinite(placed)
    cross = np.sum(ours * placed, axis=others, where=kept, keepdims=True)
    power = np.sum(ours * ours, axis=others, where=kept, keepdims=True)
    scale = np.divide(cross, power, out=np.ones_like(cross), where=power > 0)
    return np.where(scale == 0, 1.0, scale)
