"""Figures of merit of PUF responses: pure functions on ``uint8`` arrays of 0/1.

``readings`` are of one device, shape ``(readings, bits)``; ``references`` are one response per device, shape
``(devices, bits)``. Names follow Maiti, Gunreddy, Schaumont 2013 ("A systematic method to evaluate and compare the
performance of physical unclonable functions"), Hori et al. 2010 ("Quantitative and statistical performance evaluation
of arbiter physical unclonable functions on FPGAs", ReConFig) and ISO/IEC 20897-1:2020, whose steadiness, randomness and
uniqueness are requirements that these figures measure.
"""

from __future__ import annotations

from math import exp, lgamma, log, log2
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]
    Floats = NDArray[np.float64]

__all__ = [
    "alias_entropy",
    "alias_entropy_fair",
    "bit_aliasing",
    "bit_error_rate",
    "correctness",
    "diffuseness",
    "distances",
    "inter_distances",
    "intra_distances",
    "leave_one_out",
    "randomness",
    "reference_of",
    "reliability",
    "steadiness",
    "uniformity",
    "uniqueness",
    "uniqueness_hori",
]

DIFFUSENESS_WORD: Final = 128


def _checked(responses: Bits, least: int = 1) -> Bits:
    if responses.ndim != 2 or responses.dtype != np.uint8 or responses.shape[0] < least or not responses.shape[1]:
        raise ParameterError(
            f"responses are a uint8 array of 0/1 with shape ({least} or more, bits), "
            f"not {responses.dtype} {responses.shape}"
        )
    if responses.max() > 1:
        raise ParameterError("responses hold values other than 0 and 1; unpack them with numpy.unpackbits first")
    return responses


def reference_of(readings: Bits) -> Bits:
    """The majority of the readings (ties: 0), shape ``(bits,)``."""
    ones = _checked(readings).sum(axis=0, dtype=np.int64)
    reference: Bits = (2 * ones > len(readings)).astype(np.uint8)
    return reference


def uniformity(responses: Bits) -> Floats:
    """Share of ones of each response, shape ``(responses,)``, ideal 0.5 (Maiti et al. 2013, section 3)."""
    share: Floats = _checked(responses).mean(axis=1, dtype=np.float64)
    return share


def distances(one: Bits, other: Bits) -> Floats:
    """Fractional Hamming distance of every row of ``one`` to every row of ``other``, shape ``(rows, rows)``."""
    if _checked(one).shape[1] != _checked(other).shape[1]:
        raise ParameterError(f"responses of {one.shape[1]} and {other.shape[1]} bits cannot be compared")
    words = _words(other)
    counts = [np.bitwise_count(row ^ words).sum(axis=1, dtype=np.int64) for row in _words(one)]
    distance: Floats = np.stack(counts) / one.shape[1]
    return distance


def _words(responses: Bits) -> NDArray[np.uint64]:
    """64 cells a word, the last one filled up with zeros, shape ``(rows, words)``."""
    packed = np.packbits(responses, axis=1)
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view(np.uint64)


def _pairs(responses: Bits) -> Floats:
    pairs: Floats = distances(responses, responses)[np.triu_indices(len(responses), 1)]
    return pairs


def intra_distances(readings: Bits) -> Floats:
    """Distances of all pairs of readings of one device, shape ``(N (N - 1) / 2,)``, ideal 0."""
    return _pairs(_checked(readings, 2))


def inter_distances(references: Bits) -> Floats:
    """Distances of all pairs of devices, shape ``(D (D - 1) / 2,)``, ideal 0.5."""
    return _pairs(_checked(references, 2))


def bit_error_rate(readings: Bits) -> float:
    """Mean distance of two readings: ``mean 2 c (N - c) / (N (N - 1))`` with c ones of N, unbiased for any N >= 2."""
    count = len(_checked(readings, 2))
    ones = readings.sum(axis=0, dtype=np.float64)
    return float((2.0 * ones * (count - ones)).mean() / (count * (count - 1)))


def leave_one_out(readings: Bits) -> Floats:
    """Distance of each reading to the majority of the others, shape ``(readings,)``; a tie counts one half."""
    count = len(_checked(readings, 2))
    twice = 2 * readings.sum(axis=0, dtype=np.int64)
    out = np.empty(count)
    for i, reading in enumerate(readings):
        margin = twice - 2 * reading - (count - 1)
        out[i] = np.where(margin == 0, 0.5, (margin > 0) != reading).mean()
    return out


def reliability(readings: Bits) -> float:
    """``1 - mean distance to the reference``, ideal 1 (Maiti et al. 2013).

    They take one reading at nominal conditions as the reference; here it is the majority of all other readings.
    """
    return 1.0 - float(leave_one_out(readings).mean())


def steadiness(readings: Bits) -> float:
    """``1 + mean over cells of log2 max(p, 1 - p)``, p the share of ones over the readings; ideal 1 (Hori)."""
    share = _checked(readings, 2).mean(axis=0, dtype=np.float64)
    return 1.0 + float(np.log2(np.maximum(share, 1.0 - share)).mean())


def correctness(readings: Bits) -> float:
    """``1 - 2 x mean distance to the majority of all readings``, ideal 1 (Hori)."""
    reference = reference_of(_checked(readings, 2))
    return 1.0 - 2.0 * float((readings != reference).mean())


def randomness(readings: Bits) -> float:
    """``-log2 max(p, 1 - p)``, p the share of ones over all cells and readings; ideal 1 (Hori)."""
    share = float(_checked(readings).mean(dtype=np.float64))
    return abs(float(np.log2(max(share, 1.0 - share))))


def diffuseness(response: Bits, word: int = DIFFUSENESS_WORD) -> float | None:
    """``4 / (K^2 L) x sum of the distances in bits of all pairs of K identifiers of L bits``, ideal (K - 1) / K (Hori).

    A memory has one long response and no challenges, so its consecutive words of ``word`` bits stand for the
    identifiers. Shape ``(bits,)``; ``None`` for fewer than two words.
    """
    words = response[: len(response) // word * word].reshape(-1, word)
    return _column_spread(words) if len(words) > 1 else None


def uniqueness(references: Bits) -> float:
    """Mean distance of all pairs of devices, ideal 0.5 (Maiti et al. 2013)."""
    return float(inter_distances(references).mean())


def uniqueness_hori(references: Bits) -> float:
    """``4 / (N^2 L) x sum of the distances in bits of all pairs of N devices``, ideal (N - 1) / N (Hori)."""
    return _column_spread(_checked(references, 2))


def _column_spread(rows: Bits) -> float:
    # In a column with c ones of N, c (N - c) pairs differ.
    ones = rows.sum(axis=0, dtype=np.float64)
    return float((4.0 * ones * (len(rows) - ones)).mean() / len(rows) ** 2)


def bit_aliasing(references: Bits) -> Floats:
    """Share of devices in which a cell is 1, shape ``(bits,)``, ideal 0.5 (Maiti et al. 2013)."""
    share: Floats = _checked(references, 2).mean(axis=0, dtype=np.float64)
    return share


def alias_entropy(references: Bits) -> float:
    """Mean over cells of ``-log2 max(p, 1 - p)`` with p the bit aliasing: bits of min-entropy a cell.

    Low by chance with few devices; compare it with ``alias_entropy_fair``.
    """
    share = bit_aliasing(references)
    return abs(float(np.log2(np.maximum(share, 1.0 - share)).mean()))


def alias_entropy_fair(devices: int) -> float:
    """Expected ``alias_entropy`` of fair, independent cells in so many devices: 0.5 for two, 1 in the limit."""
    scale = lgamma(devices + 1) - devices * log(2.0)
    chances = [exp(scale - lgamma(k + 1) - lgamma(devices - k + 1)) for k in range(devices + 1)]
    return -sum(chance * log2(max(k, devices - k) / devices) for k, chance in enumerate(chances))
