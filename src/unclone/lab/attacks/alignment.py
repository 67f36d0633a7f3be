"""Moved weights put back where a public base has similar ones: lines reordered, or a cat map's key told."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from unclone.errors import MissingExtraError
from unclone.lab.contracts import Array
from unclone.lab.schemes.cat_map import maps, scrambled

__all__ = ["MATCHERS", "Match", "Matcher", "match_both", "match_lines", "match_map", "similarity"]

_ROUNDS = 20
_FEW = 16  # rows that are exchanged in pairs
_RESTARTS = 3
_STEP = 1e-6
_LONGEST = 4096  # lines that an assignment is solved for
_SAMPLES, _MORE = 192, 8192
_KEPT = 64
_BATCH = 512


@dataclass(frozen=True)
class Match:
    """What lies like the base.

    Attributes:
        value: the file's values, moved.
        rows: how the first axis was reordered, where it was.
    """

    value: Array
    rows: Array | None = None


Matcher: TypeAlias = Callable[[Array, Array], Match]
"""(array of the file, array of the base, of two or more axes) -> the most similar that one kind of move can make."""


def similarity(value: Array, base: Array) -> float:
    """Cosine of two arrays."""
    return float(_unit(value.reshape(1, -1))[0] @ _unit(base.reshape(1, -1))[0])


def match_lines(value: Array, base: Array) -> Match:
    """The rows, or else the columns, in the best order.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    matches = []
    for axis in (0, 1):
        order = _assigned(_lines(base, axis), _lines(value, axis))
        matches.append(Match(np.take(value, order, axis), order if axis == 0 else None))
    return max(matches, key=lambda match: similarity(match.value, base))


def match_both(value: Array, base: Array) -> Match:
    """Rows and columns in the best orders: by turns, from each line's sorted values on.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    if max(value.shape[:2]) > _LONGEST:
        return Match(value)
    matches = [_by_turns(value, base, axis, _by_values(value, base, axis)) for axis in (0, 1)]
    if len(value) <= _FEW:
        rng = np.random.default_rng(0)
        matches += [_by_turns(value, base, 0, rng.permutation(len(value))) for _ in range(_RESTARTS)]
        matches = [_climbed(match, base) for match in matches]
    return max(matches, key=lambda match: similarity(match.value, base))


def _climbed(match: Match, base: Array) -> Match:
    """Two rows exchanged, the columns in the best order for that, as long as it helps: for few rows, all alike."""
    best, rows = match.value, np.arange(len(base)) if match.rows is None else match.rows
    pairs = list(itertools.combinations(range(len(base)), 2))
    idle = 0
    for first, second in itertools.cycle(pairs):
        if idle == len(pairs):
            return Match(best, rows)
        swap = np.arange(len(base))
        swap[[first, second]] = second, first
        moved = best[swap]
        moved = np.take(moved, _assigned(_lines(base, 1), _lines(moved, 1)), 1)
        idle += 1
        if similarity(moved, base) > similarity(best, base) + _STEP:
            best, rows, idle = moved, rows[swap], 0
    return Match(best, rows)


def _by_values(value: Array, base: Array, axis: int) -> Array:
    """An order of lines by what they hold, which does not depend on the order of the lines across."""
    mine, theirs = (_lines(np.sort(_numbers(array), axis=1 - axis), axis) for array in (base, value))
    return _assigned(mine - mine.mean(axis=0), theirs - theirs.mean(axis=0))


def _by_turns(value: Array, base: Array, axis: int, order: Array) -> Match:
    """From an order of the lines along ``axis``: those across, then those, until nothing is gained."""
    rows, best = np.arange(len(value)), -1.0
    moved = value
    for turn in range(_ROUNDS):
        moved = np.take(moved, order, axis)
        rows = rows if axis else rows[order]
        found = similarity(moved, base) if turn else -1.0
        if turn > 1 and found <= best:
            break
        axis, best = 1 - axis, found
        order = _assigned(_lines(base, axis), _lines(moved, axis))
    return Match(moved, rows)


def match_map(value: Array, base: Array) -> Match:
    """The square tiles put in order by the key of a cat map that fits the first tile best."""
    matrix, other = (_numbers(array.reshape(array.shape[0], -1)) for array in (value, base))
    if matrix.shape[0] > matrix.shape[1]:
        matrix, other = matrix.T, other.T
    side = matrix.shape[0]
    keys, powers = maps(side)
    best = np.arange(len(keys))
    places = np.random.default_rng(0).permutation(side * side)
    for samples, kept in ((_SAMPLES, _KEPT), (_MORE, 1)):
        points = np.array(np.divmod(places[:samples], side))
        scores = [_fit(matrix, other, part, points) for part in np.array_split(powers[best], 1 + len(best) // _BATCH)]
        best = best[np.argsort(-np.concatenate(scores), kind="stable")[:kept]]
    return Match(scrambled(value, keys[best[0]], back=True))


def _fit(matrix: Array, base: Array, powers: Array, points: Array) -> Array:
    """Cosines of the base at ``points``, shape ``(2, points)``, and of the matrix where maps send them."""
    side = len(matrix)
    moved = (powers @ points) % side
    cosines: Array = _unit(matrix[moved[:, 0], moved[:, 1]]) @ _unit(base[points[0], points[1]][None])[0]
    return cosines


MATCHERS: Final[tuple[Matcher, ...]] = (match_lines, match_map, match_both)
"""Simplest first."""


def _lines(array: Array, axis: int) -> Array:
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _assigned(mine: Array, theirs: Array) -> Array:
    """Which line of ``theirs`` is whose of ``mine``, by the sum of cosines."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MissingExtraError("scipy", "lab") from None
    order: Array = linear_sum_assignment(_unit(mine) @ _unit(theirs).T, maximize=True)[1]
    return order


def _unit(rows: Array) -> Array:
    """Rows of length one."""
    wide = _numbers(rows)
    units: Array = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return units


def _numbers(array: Array) -> Array:
    """``float64``; no numbers count as 0."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        numbers: Array = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return numbers
