"""Which cells make which code symbol: a public function of the memory's size, never of what the cells hold.

Pairs are ``(a, a + distance)`` inside blocks of ``2 * distance`` bits, so the two cells of a pair share their phase for
every period that divides ``distance``. Code symbols walk over the pairs with a stride near the golden section, which
spreads neighbouring cells over the code word and a short code over the whole memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Index = NDArray[np.int64]

__all__ = ["MAX_BITS", "Layout", "stride_of"]

MAX_BITS: Final = 1 << 26
"""Largest response, in bits, that enrolment and helper data accept (8 MiB)."""


def stride_of(units: int) -> int:
    """Smallest integer from ``units * 618 // 1000`` (at least 1) that is coprime to ``units``."""
    stride = max(1, units * 618 // 1000)
    while gcd(stride, units) != 1:
        stride += 1
    return stride


@dataclass(frozen=True, slots=True)
class Layout:
    """The units (cells, or pairs of cells) of a response, in the order of the code symbols.

    Attributes:
        bits: length of one reading.
        distance: bits between the two cells of a pair; 0 means that a unit is one cell.
    """

    bits: int
    distance: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise ParameterError(f"bits is {self.bits}, outside 1..{MAX_BITS}")
        if not 0 <= self.distance <= self.bits // 2:
            raise ParameterError(f"distance is {self.distance}, outside 0..bits/2 = {self.bits // 2}")

    @property
    def units(self) -> int:
        """Number of units: ``bits``, or the pairs in whole blocks of ``2 * distance`` bits."""
        if self.distance == 0:
            return self.bits
        return self.bits // (2 * self.distance) * self.distance

    def first_cells(self, count: int | None = None) -> Index:
        """Position of the first (or only) cell of each unit in walk order, shape ``(count,)``."""
        units = self.units
        walk = np.arange(units if count is None else min(count, units), dtype=np.int64)
        unit = walk * stride_of(units) % units
        if self.distance == 0:
            return unit
        return unit // self.distance * (2 * self.distance) + unit % self.distance
