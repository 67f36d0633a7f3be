"""Repair without data: an outlier is no trained weight."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from unclone.lab.contracts import Array, Locked, Outcome, Task, Weights

__all__ = ["Repair", "UseAsIs"]

_SPREADS = 5.0
_FEWEST = 8  # of fewer numbers no spread can be told


@dataclass
class UseAsIs:
    """The file as it lies, in any ordinary tool."""

    name: str = "use-as-is"
    reference: str = "the file as it lies"
    published: str = ""
    needs: str = "none"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:  # noqa: ARG002
        """Score; ``labels``, ``seed`` and ``effort`` are not used."""
        return Outcome(task.score(locked.weights), locked.weights)


@dataclass
class Repair:
    """Replace every value further than 5 robust standard deviations from the tensor's median, or no number.

    Attributes:
        name: as on the command line.
        how: ``"clip"`` to that bound, ``"zero"``, or the ``"median"``.
    """

    name: str
    how: str
    reference: str = "folklore; robust scale: Rousseeuw and Croux, JASA 88, 1993"
    published: str = ""
    needs: str = "none"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:  # noqa: ARG002
        """Repair and score; ``labels``, ``seed`` and ``effort`` are not used."""
        start = time.process_time()
        weights = self.apply(locked.weights)
        return Outcome(task.score(weights), weights, seconds=time.process_time() - start)

    def apply(self, weights: Weights) -> Weights:
        """The repaired weights."""
        return {name: self._tensor(value) for name, value in weights.items()}

    def _tensor(self, value: Array) -> Array:
        if not np.issubdtype(value.dtype, np.floating) or value.size < _FEWEST:
            return value
        with np.errstate(invalid="ignore"):  # signalling NaNs
            wide = value.astype(np.float64)
        finite = wide[np.isfinite(wide)]
        middle = float(np.median(finite)) if finite.size else 0.0
        # 1.4826: of a normal distribution, the standard deviation in units of the median absolute deviation.
        bound = _SPREADS * 1.4826 * float(np.median(np.abs(finite - middle))) if finite.size else 0.0
        outlier = ~(np.abs(wide - middle) <= bound)
        if self.how == "clip":
            repaired = np.clip(np.nan_to_num(wide, nan=middle), middle - bound, middle + bound)
        else:
            repaired = np.where(outlier, 0.0 if self.how == "zero" else middle, wide)
        return repaired.astype(value.dtype)
