"""Manipulated helper data, with a device that says whether it still gets its key.

After the survey of Delvaux, Gu, Schellekens and Verbauwhede, "Helper data algorithms for PUF-based key generation:
overview and analysis", IEEE TCAD 34(6), 2015. Where the key depends on the secret alone, the attacker erases all
symbols but an information set (altered reliabilities), which makes one wrong symbol decide; then he lets a position
read its neighbour's cell (moved positions). Pass or fail tells whether the two cells are equal, and the chain of these
comparisons tells the key. Where all helper data is hashed into the key, no changed helper data ever passes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

import unclone
from unclone.device_file import parse_device
from unclone.errors import ParameterError, UncloneError
from unclone.extractor.codebook import load_code
from unclone.extractor.fuzzy import parse_helper
from unclone.extractor.helper import Sketch
from unclone.lab.contracts import Array, Locked, Outcome, Task, Weights
from unclone.lab.magnitudes import is_code
from unclone.lab.schemes.bare_helper import HelperOracle, unpadded
from unclone.lab.schemes.published import words_of
from unclone.records import HelperData

__all__ = ["HelperManipulation", "recover_secrets"]

_TRIES = 5
_MORE = 15
_ATTEMPTS = 4
_ORDERS = 8
_SEGMENTS = 3
_LARGE = 8.0
_LARGE_CODE = 64.0


@dataclass
class HelperManipulation:
    """Compare neighbouring cells through the device's start-up, one by one, and solve for the secret."""

    name: str = "helper-data"
    reference: str = "Delvaux et al., IEEE TCAD 34(6), 2015"
    published: str = "the whole key, some start-ups for each bit"
    needs: str = "device"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:  # noqa: ARG002
        """Attack; ``detail``: ``start_ups``, ``altered_accepted`` (of them), ``secrets_left`` (0: none found).

        Raises:
            ParameterError: the scheme has no helper data.
        """
        start = time.process_time()
        device: HelperOracle | None = locked.info.get("device")
        if device is None and hasattr(locked.secret, "device"):
            device = _genuine(locked)
        if device is None:
            raise ParameterError("helper-data needs a scheme with a fuzzy extractor: bare-helper, or unclone's own")
        before, accepted = device.queries, device.passed
        weights = locked.weights
        for attempt in range(_ATTEMPTS):  # an information set may be out of reach from one start and not from another
            secrets = recover_secrets(device, seed + attempt)
            if secrets:
                weights = max((unpadded(locked.weights, secret) for secret in secrets), key=_plausible)
                break
        tried = device.queries - before
        detail = {
            "start_ups": float(tried),
            "altered_accepted": float(device.passed - accepted),
            "secrets_left": float(len(secrets)),
        }
        return Outcome(task.score(weights), weights, tried, time.process_time() - start, detail)


def _genuine(locked: Locked) -> HelperOracle:
    """A device of this package, which says no more than that it has its key or not."""
    record = parse_device(locked.secret.device)

    def accepts(helper: HelperData) -> bool:
        try:
            unclone.reconstruct(replace(record, helper=helper), locked.secret.source)
        except UncloneError:
            return False
        return True

    return HelperOracle(record.helper, accepts)


def _plausible(weights: Weights) -> float:
    """Share of values that a trained weight may have: not large, and of codes in the middle half of their range."""
    usual = []
    for name in words_of(weights):
        value = weights[name].reshape(-1)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            wide = value.astype(np.float64) - (128 if value.dtype == np.uint8 else 0)
            usual.append(np.abs(wide) < (_LARGE_CODE if is_code(value) else _LARGE))
    return float(np.concatenate(usual).mean())


def recover_secrets(device: HelperOracle, seed: int) -> list[bytes]:
    """Few candidates for the extractor's secret (comparisons do not tell cells from their complements), or none: where
    the first altered helper data is refused.

    Args:
        device: to be started up with helper data of the attacker's.
        seed: of the information set that it begins with.
    """
    rng = np.random.default_rng([seed, 0xDE1])
    sketch = parse_helper(device.helper)
    code = load_code(sketch.code)
    generator = code.encode(np.eye(code.k, dtype=np.uint8)).T
    columns = [int("".join(map(str, row)), 2) for row in generator]
    units = np.flatnonzero(np.ones(sketch.layout.units) if sketch.retained is None else sketch.retained)

    def passes(kept: Sequence[int], reading: Array, tries: int = _TRIES) -> int:
        return sum(device(_altered(sketch, kept, reading)) for _ in range(tries))

    def equal(kept: Sequence[int], reading: Array) -> bool:
        # With one symbol wrong the key hardly ever comes, with all right it mostly does; few cells are in between.
        count = passes(kept, reading)
        return count > _TRIES / 2 if count in (0, _TRIES - 1, _TRIES) else passes(kept, reading, _MORE) > _MORE / 3

    # Some cells waver: the comparisons keep to the order of positions with which the device starts up most often.
    orders = [rng.permutation(code.n) for _ in range(_ORDERS)]
    starts = []
    for order in orders:
        first = _information_set(columns, order, code.k)
        starts.append(0 if first is None else passes(first, units))
    if not any(starts):
        return []
    order = orders[int(np.argmax(starts))]
    segments = [{0: 0}]  # position -> its cell, relative to that of the segment's first
    for position in range(code.n - 1):
        for reader, changed, reading in _neighbours(units, position, sketch.layout.units):
            kept = _information_set(columns, [reader, *order[~np.isin(order, changed)]], code.k)
            if kept is not None:
                segments[-1][position + 1] = segments[-1][position] ^ (not equal(kept, reading))
                break
        else:  # amid a long run of cells in use
            segments.append({position + 1: 0})
    longest = sorted(segments, key=len, reverse=True)[:_SEGMENTS]
    owner = {position: number for number, segment in enumerate(longest) for position in segment}
    known = _information_set(columns, owner, code.k)
    if known is None:
        return []
    word = np.array([longest[owner[position]][position] for position in known], dtype=np.uint8) ^ sketch.offset[known]
    owners = np.array([owner[position] for position in known])
    flips = itertools.product((0, 1), repeat=len(longest))
    words = [word ^ np.array(flip, dtype=np.uint8)[owners] for flip in flips]
    return [np.packbits(_solve(generator[known], candidate)).tobytes() for candidate in words]


def _neighbours(units: Array, position: int, cells: int) -> Iterator[tuple[int, Array, Array]]:
    """Ways to let one of the code positions ``position`` and the next read the other's cell.

    Positions read rising cells, so all between it and the next free cell move by one, upwards or downwards.

    Yields:
        (the position that reads its neighbour's cell, all positions that read another cell, the cells read).
    """
    free = np.setdiff1d(np.arange(cells), units)
    above, below = free[free > units[position + 1]], free[free < units[position]]
    if above.size:
        end = int(np.searchsorted(units, above[0]))
        reading = units.copy()
        reading[position:end] = np.append(units[position + 1 : end], above[0])
        yield position, np.arange(position, end), reading
    if below.size:
        start = int(np.searchsorted(units, below[-1]))
        reading = units.copy()
        reading[start : position + 2] = np.append(below[-1], units[start : position + 1])
        yield position + 1, np.arange(start, position + 2), reading


def _information_set(columns: Sequence[int], order: Iterable[int], k: int) -> list[int] | None:
    """Positions, in the given order of preference, that determine the message; ``None`` if they do not."""
    basis: dict[int, int] = {}
    chosen: list[int] = []
    for position in order:
        vector = columns[position]
        while vector:
            pivot = vector.bit_length()
            if pivot not in basis:
                basis[pivot] = vector
                chosen.append(int(position))
                break
            vector ^= basis[pivot]
        if len(chosen) == k:
            return sorted(chosen)
    return None


def _altered(sketch: Sketch, kept: Sequence[int], units: Array) -> HelperData:
    """Helper data that erases all but ``kept`` and lets the positions read ``units`` (rising)."""
    classes = np.zeros_like(sketch.classes)
    classes[kept] = 1
    retained = None
    if sketch.retained is not None:
        retained = np.zeros_like(sketch.retained)
        retained[units] = 1
    offset = np.where(classes > 0, sketch.offset, 0).astype(np.uint8)
    return Sketch(sketch.layout, sketch.debias, sketch.code, (0, 16), classes, offset, retained).pack()


def _solve(matrix: Array, right: Array) -> Array:
    """The message with ``matrix @ message == right`` over GF(2)."""
    rows = np.concatenate([matrix, right[:, None]], axis=1).astype(np.uint8)
    for column in range(matrix.shape[1]):
        pivot = column + int(np.argmax(rows[column:, column]))
        rows[[column, pivot]] = rows[[pivot, column]]
        rows[(rows[:, column] == 1) & (np.arange(len(rows)) != column)] ^= rows[column]
    return np.asarray(rows[:, -1])
