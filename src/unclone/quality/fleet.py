"""What is wrong between devices: swapped readings, devices that are one and the same, content that devices share."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.quality import metrics
from unclone.quality.checks import LEAST_BITS, Finding
from unclone.quality.structure import FALSE_ALARM
from unclone.quality.tails import binomial_upper

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]
    Floats = NDArray[np.float64]

__all__ = ["check_fleet"]

_CONSTANT: Final = 0.01
_WINDOW: Final = 512
_SHARED: Final = 0.05


def check_fleet(devices: Mapping[str, Bits]) -> list[Finding]:
    """Swapped labels, and devices that share all or some of their content at the same addresses.

    Devices of different lengths are not compared.

    Args:
        devices: readings of each device, shape ``(readings, bits)``.
    """
    names = list(devices)
    references = {name: metrics.reference_of(devices[name]) for name in names}
    found = []
    for bits in sorted({response.size for response in references.values()}):
        group = [name for name in names if references[name].size == bits]
        if len(group) < 2 or bits < LEAST_BITS:
            continue
        table = np.stack([references[name] for name in group])
        same = _same_devices(table)
        found += [_same_device(group[i], group[j], apart, expected) for i, j, apart, expected in same]
        pairs = {frozenset((i, j)) for i, j, _, _ in same}
        found += _shared(group, table, pairs)
        found += _swapped(group, table, devices, pairs)
    return found


def _expected(shares: Floats) -> Floats:
    """Distance of two independent devices of these shares of ones, shape ``(devices, devices)``."""
    expected: Floats = shares[:, None] * (1.0 - shares) + (1.0 - shares[:, None]) * shares
    return expected


def _same_devices(references: Bits) -> list[tuple[int, int, float, float]]:
    """Pairs of devices that are nearer than chance, with their distance and the expected one."""
    count, bits = references.shape
    apart = metrics.distances(references, references)
    expected = _expected(metrics.uniformity(references))
    close = np.triu((apart < 0.5 * expected) & (expected > _CONSTANT), 1)
    found = []
    for i, j in np.argwhere(close).tolist():
        agreeing = bits - round(float(apart[i, j]) * bits)
        if binomial_upper(agreeing, bits, 1.0 - float(expected[i, j])) + 2 * log(count) < log(FALSE_ALARM):
            found.append((i, j, float(apart[i, j]), float(expected[i, j])))
    return found


def _same_device(one: str, other: str, apart: float, expected: float) -> Finding:
    text = (
        f"{one} and {other} differ in {apart:.1%} of the cells, where independent devices of their bias differ in "
        f"{expected:.1%}: one device twice, or cells that do not tell devices apart"
    )
    return Finding("same_device", "fatal", text, apart, device=one)


def _shared(names: list[str], references: Bits, same: set[frozenset[int]]) -> list[Finding]:
    """Windows in which a device is much nearer to one before it than their biases, and their other windows, explain."""
    count, bits = references.shape
    windows = bits // _WINDOW
    if windows < 4:
        return []
    cells = references[:, : windows * _WINDOW].reshape(count, windows, _WINDOW)
    shares = cells.mean(axis=2)
    packed = np.packbits(cells, axis=2)
    tried = log(windows) + 2 * log(count)
    found = []
    for j in range(1, count):
        others = [i for i in range(j) if frozenset((i, j)) not in same]
        if not others:
            continue
        apart = np.bitwise_count(packed[others] ^ packed[j]).sum(axis=2, dtype=np.int64)
        expected = shares[others] * (1.0 - shares[j]) + (1.0 - shares[others]) * shares[j]
        # Cells that lean the same way in every device shorten all distances; only a window that stands out is content.
        expected = np.minimum(expected, np.median(apart, axis=1, keepdims=True) / _WINDOW)
        close = (apart < 0.5 * expected * _WINDOW) & (expected > _CONSTANT)
        for k, w in np.argwhere(close).tolist():
            chance = binomial_upper(_WINDOW - int(apart[k, w]), _WINDOW, 1.0 - float(expected[k, w]))
            close[k, w] = chance + tried < log(FALSE_ALARM)
        if close.any():
            nearest = int(np.argmax(close.sum(axis=1)))
            found.append(
                _shared_windows(names[j], names[others[nearest]], close[nearest], int(close.any(axis=1).sum()))
            )
    return found


def _shared_windows(name: str, other: str, close: NDArray[np.bool_], sharing: int) -> Finding:
    share = float(close.mean())
    more = f" (and with {sharing - 1} more devices)" if sharing > 1 else ""
    text = (
        f"{name} shares {share:.1%} of its cells with {other}{more}, from cell {int(np.argmax(close)) * _WINDOW} on: "
        "program or data, not start-up values; read around them"
    )
    return Finding("shared_window", "fatal" if share >= _SHARED else "warning", text, share, device=name)


def _swapped(
    names: list[str], references: Bits, devices: Mapping[str, Bits], same: set[frozenset[int]]
) -> list[Finding]:
    found = []
    for index, name in enumerate(names):
        readings = devices[name]
        if len(readings) < 2:
            continue
        own = metrics.leave_one_out(readings)
        others = metrics.distances(readings, references)
        others[:, index] = np.inf
        for i in np.flatnonzero(others.min(axis=1) < own).tolist():
            other = int(np.argmin(others[i]))
            if frozenset((index, other)) in same:
                continue
            # Nearer by chance (a dead or random reading lies half-way from everybody) is not a label.
            chance_level = float(_expected(metrics.uniformity(np.stack([readings[i], references[other]])))[0, 1])
            if others[i, other] > 0.5 * chance_level:
                continue
            text = (
                f"reading {i} of {name} is {others[i, other]:.1%} away from {names[other]} and {own[i]:.1%} from "
                f"{name}: its label is swapped"
            )
            found.append(Finding("swapped_label", "fatal", text, float(others[i, other]), device=name, reading=i))
    return found
