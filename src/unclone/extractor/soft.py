"""Soft information: how reliable a cell is, estimated from few readings, and what a fresh reading then says.

The cells follow the heterogeneous-error model of Maes ("An accurate probabilistic reliability model for silicon PUFs",
CHES 2013): cell i has a fixed skew ``lambda * z_i`` with ``z_i ~ N(0, 1)``; one reading gives 1 when the skew plus
fresh noise ``N(0, 1)`` is positive, so its one-probability is ``Phi(lambda * z_i)``. Two readings then differ in a
share ``e = arccos(rho) / pi`` of the cells, ``rho = lambda**2 / (1 + lambda**2)`` (orthant probability of the
bivariate normal), which turns a measured bit error rate into ``lambda`` and back without a search.

In the field the noise is larger (temperature, supply, age): it is scaled so that an enrolment reading and a field
reading differ at the design error rate. The prior is symmetric on purpose: every figure here is a public function of
how many of the N readings were 1, so a weight computed from it can be published (docs/extractor.md, "Leakage").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import acos, cos, erf, log, pi, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]

__all__ = ["ErrorRate", "cell_score", "error_rate_between", "estimate_error_rate", "field_log_odds", "skew_spread"]

_GRID: Final = 1201
_REACH: Final = 6.0
_FLOOR: Final = 1e-4
_PRIOR: Final = 0.125
_Z999: Final = 3.0902


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Bit error rate between two single readings.

    Attributes:
        estimate: share of differing cells, mean over all pairs of readings.
        upper: upper 99.9 % confidence bound over the choice of cells (cells independent, readings dependent).
    """

    estimate: float
    upper: float


def estimate_error_rate(counts: Counts, readings: int) -> ErrorRate:
    """Bit error rate from the ones counted per cell.

    For one cell with count c of N, ``2 c (N - c) / (N (N - 1))`` is the share of differing pairs of readings; its mean
    over the cells is unbiased. The bound is the central limit over cells plus ``ln(1000) / cells``, which keeps it
    above zero when no difference was seen (a rule-of-three bound at 99.9 %).

    Args:
        counts: ones per cell, shape ``(bits,)``.
        readings: number of readings N, at least 2.

    Raises:
        ParameterError: fewer than two readings.
    """
    if readings < 2:
        raise ParameterError("a bit error rate needs two readings or more")
    share = 2.0 * counts * (readings - counts) / (readings * (readings - 1))
    mean = float(share.mean())
    spread = float(share.std()) / sqrt(len(counts))
    return ErrorRate(mean, min(0.5, mean + _Z999 * spread + log(1000) / len(counts)))


def skew_spread(error_rate: float) -> float:
    """``lambda``, the spread of the cells' skew in units of the noise, for a bit error rate in (0, 0.5)."""
    rho = cos(pi * min(max(error_rate, _FLOOR), 0.5 - _FLOOR))
    return sqrt(rho / (1.0 - rho))


def error_rate_between(spread: float, noise: float) -> float:
    """Bit error rate between an enrolment reading (noise 1) and a field reading (noise ``noise``)."""
    return acos(spread**2 / sqrt((1.0 + spread**2) * (noise**2 + spread**2))) / pi


def _field_noise(spread: float, design_rate: float) -> float:
    """Noise that makes ``error_rate_between`` equal ``design_rate``; never below the enrolment's own."""
    rho = cos(pi * min(max(design_rate, _FLOOR), 0.5 - _FLOOR))
    return sqrt(max(1.0, spread**4 / (rho**2 * (1.0 + spread**2)) - spread**2))


@lru_cache(maxsize=64)
def _one_probabilities(readings: int, enrol_rate: float, design_rate: float) -> tuple[float, ...]:
    z = np.linspace(-_REACH, _REACH, _GRID)
    spread = skew_spread(enrol_rate)
    noise = _field_noise(spread, design_rate)
    enrol = np.array([0.5 * (1.0 + erf(spread * x / sqrt(2.0))) for x in z])
    field = np.array([0.5 * (1.0 + erf(spread * x / (noise * sqrt(2.0)))) for x in z])
    enrol = np.clip(enrol, 1e-300, 1.0 - 1e-16)
    ones, zeros = np.log(enrol), np.log(np.clip(1.0 - enrol, 1e-300, 1.0))
    out = []
    for count in range(readings + 1):
        weight = -0.5 * z**2 + count * ones + (readings - count) * zeros
        weight = np.exp(weight - weight.max())
        out.append(float((weight * field).sum() / weight.sum()))
    # Numerical integration is symmetric up to rounding; make it exact, so that weights are symmetric bit for bit.
    return tuple(0.5 * (out[c] + 1.0 - out[readings - c]) for c in range(readings + 1))


def field_log_odds(readings: int, enrol_rate: float, design_rate: float) -> Floats:
    """Log-odds that a field reading of a cell is 1, given that c of N enrolment readings were.

    Posterior mean over the skew (numerical integration of the model above); for N = 1 it is
    ``ln((1 - e) / e)`` with e the design error rate, whatever the enrolment's.

    Args:
        readings: N.
        enrol_rate: bit error rate between two enrolment readings.
        design_rate: bit error rate to expect between an enrolment reading and a field reading.

    Returns:
        shape ``(N + 1,)``, in nats, antisymmetric and rising in c.
    """
    # Rounding the rates makes the cache useful; 1e-6 is far below their own uncertainty.
    rates = round(enrol_rate, 6), round(max(design_rate, enrol_rate), 6)
    ones = np.array(_one_probabilities(readings, *rates))
    return np.log(ones / (1.0 - ones))


def cell_score(counts: Counts | NDArray[np.uint8], readings: int) -> Floats:
    """What M field readings of a cell say, scaled to -1..1 for a single one.

    Log-odds of the next reading under a Beta(1/8, 1/8) prior of the cell's one-probability (the Beta-binomial form of
    the same model), divided by its value for one reading: repeated readings count, but less than independent ones,
    since a cell that errs tends to err again.

    Args:
        counts: ones among the M readings, any shape.
        readings: M.
    """
    table = np.log((np.arange(readings + 1) + _PRIOR) / (readings - np.arange(readings + 1) + _PRIOR))
    scaled: Floats = (table / log((1 + _PRIOR) / _PRIOR))[counts]
    return scaled
