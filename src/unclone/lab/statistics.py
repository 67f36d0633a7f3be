"""Statistics of the lab: spread over seeds, and exact bounds of proportions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unclone.errors import MissingExtraError, ParameterError

__all__ = ["Comparison", "binomial_bounds", "compare"]


@dataclass(frozen=True)
class Comparison:
    """An attack against its baseline, over seeds.

    Attributes:
        mean: of the attack's scores.
        baseline: mean of the baseline's.
        gain: difference of the two.
        spread: standard deviation, over the seeds, of the difference of an attack and a baseline: that of the attack's
            scores and of the baseline's, added in quadrature. With one seed, and at least, the sampling error of the
            test set.
    """

    mean: float
    baseline: float
    gain: float
    spread: float

    @property
    def gains(self) -> bool:
        """Whether the attack beats its baseline by more than the spread."""
        return self.gain > self.spread


def compare(attack: Sequence[float], baseline: Sequence[float], *, samples: int = 0) -> Comparison:
    """Compare scores over seeds.

    Args:
        attack: one score for each seed.
        baseline: likewise.
        samples: size of the test set, for scores that are shares; 0 for others.

    Raises:
        ParameterError: no score.
    """
    if not attack or not baseline:
        raise ParameterError("nothing to compare: no score")
    mean, reference = float(np.mean(attack)), float(np.mean(baseline))
    squares = [float(np.var(scores, ddof=1)) if len(scores) > 1 else 0.0 for scores in (attack, baseline)]
    floor = 0.0
    if samples:
        shares = [min(max(value, 0.0), 1.0) for value in (mean, reference)]
        floor = math.sqrt(sum(share * (1 - share) for share in shares) / samples)
    return Comparison(mean, reference, mean - reference, max(math.sqrt(sum(squares)), floor))


def binomial_bounds(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided bounds of a proportion (Clopper and Pearson, Biometrika 26, 1934).

    Raises:
        ParameterError: no trial, or more hits than trials.
    """
    if trials < 1 or not 0 <= hits <= trials:
        raise ParameterError(f"{hits} of {trials} is no proportion")
    try:
        from scipy.stats import beta
    except ImportError:
        raise MissingExtraError("scipy", "lab") from None
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.ppf(1 - tail, hits + 1, trials - hits))
    return low, high
