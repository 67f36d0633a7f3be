"""What is wrong with the labels of a fleet: swapped readings, and devices that are one and the same."""

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


def check_fleet(devices: Mapping[str, Bits]) -> list[Finding]:
    """Swapped labels, and devices that are one and the same. Devices of different lengths are not compared.

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
        found += _swapped(group, table, devices, {frozenset((i, j)) for i, j, _, _ in same})
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
