"""What the enrolment readings show of a device, and the memories that are refused before any key is thought of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.errors import EnrollmentError
from unclone.extractor.entropy import EntropyEstimate, estimate_entropy
from unclone.extractor.soft import ErrorRate, estimate_error_rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]
    Counts = NDArray[np.int64]

__all__ = ["HIGHEST_RATE", "Measured", "measure_source"]

HIGHEST_RATE: Final = 0.40
"""Bit error rate between two readings beyond which they are not taken for one device's."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the enrolment readings show.

    Attributes:
        counts: ones per cell, shape ``(bits,)``.
        readings: number N of readings behind ``counts``.
        reference: majority of the readings (ties: 0), shape ``(bits,)``.
        error_rate: between single readings; ``None`` for one reading.
        entropy: estimates on ``reference``.
    """

    counts: Counts
    readings: int
    reference: Bits
    error_rate: ErrorRate | None
    entropy: EntropyEstimate


def measure_source(counts: Counts, readings: int) -> Measured:
    """Estimate and check a source.

    Raises:
        EnrollmentError: constant memory, cells that repeat others, or noise that leaves nothing.
    """
    reference = (2 * counts > readings).astype(np.uint8)
    ones = float(reference.mean())
    if min(ones, 1.0 - ones) < 0.01:
        raise EnrollmentError(f"the memory is constant: the share of ones is {ones:.4f}")
    rate = estimate_error_rate(counts, readings) if readings > 1 else None
    if rate is not None and rate.estimate > HIGHEST_RATE:
        raise EnrollmentError(
            f"two readings differ in {rate.estimate:.1%} of the bits: this is not one and the same device"
        )
    entropy = estimate_entropy(reference)
    if entropy.repetition is not None:
        copy = entropy.repetition
        raise EnrollmentError(
            f"the memory repeats itself: cells {copy.lag} bits apart agree by {copy.share:.2f}, {abs(copy.score):.0f} "
            "standard deviations from chance; read only the part that is not a copy"
        )
    return Measured(counts, readings, reference, rate, entropy)
