"""Codes whose failures were measured: the committed table ``designs.json``, made by ``tools/make_designs.py``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import sqrt
from typing import Any

__all__ = ["Measured", "measured_codes"]

_DEVIATIONS = 2.0  # standard errors added to every estimate


@dataclass(frozen=True)
class Measured:
    """One measured code.

    Attributes:
        code: its specification.
        points: bit error rates, rising, and the decimal logarithm of the failure there, two standard errors high.
    """

    code: dict[str, int | str]
    points: tuple[tuple[float, float], ...]

    def log_failure(self, error: float) -> float:
        """Decimal logarithm of the failure at a bit error rate; 0 above the measured range.

        Between two points the square root of the negative logarithm is taken as linear (it is nearly, since the error
        exponent grows as the square of the distance to the threshold). Below the range the lowest point serves: the
        failure only falls with the error rate, and nothing is extrapolated.
        """
        if error <= self.points[0][0]:
            return self.points[0][1]
        for (p0, y0), (p1, y1) in zip(self.points, self.points[1:], strict=False):
            if error <= p1:
                share = (error - p0) / (p1 - p0)
                root = (1 - share) * sqrt(-y0) + share * sqrt(-y1)
                return -root * root
        return 0.0


@cache
def measured_codes() -> tuple[Measured, ...]:
    """All codes of the table, the shortest first, of equal lengths the smaller list first."""
    text = resources.files("unclone.extractor").joinpath("designs.json").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = json.loads(text)["codes"]
    found = [Measured(entry["code"], _upper(entry["points"])) for entry in entries]
    return tuple(sorted(found, key=lambda entry: (entry.code["n"], entry.code["list"])))


def _upper(points: list[list[float]]) -> tuple[tuple[float, float], ...]:
    """Points raised by the statistical error and made monotone, worst side up."""
    out: list[tuple[float, float]] = []
    highest = -1e9
    for rate, log, error in sorted(points):
        highest = max(highest, min(0.0, log + _DEVIATIONS * error))
        out.append((rate, highest))
    return tuple(out)
