"""Min-entropy of bits: the estimators of NIST SP 800-90B that fit PUF responses, per phase class, and over a fleet.

The four SP 800-90B estimators (sections 6.3.1 to 6.3.4) are computed on a bit string exactly as the standard says and
agree with the reference implementation (Debian's ``sp800-90b-entropy-assessment``) on the same bits; a slow test checks
it. They need long strings and know nothing of periods, hence ``per_phase``. All results are bits of min-entropy per
cell, between 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.errors import ParameterError
from unclone.extractor.structure import Repetition, find_copy, find_period, find_repetition, phase_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]
    Floats = NDArray[np.float64]

__all__ = [
    "EntropyEstimate",
    "alias_entropy",
    "collision",
    "compression",
    "estimate_entropy",
    "markov",
    "most_common_value",
    "per_phase",
    "upper_share",
]

_Z99: Final = 2.5758293035489008
_BLOCK: Final = 6
_DICTIONARY: Final = 1000


def _checked(bits: Bits, least: int) -> Bits:
    if bits.ndim != 1 or len(bits) < least:
        raise ParameterError(f"this estimator needs one row of {least} bits or more, got shape {bits.shape}")
    return bits


def upper_share(share: float, count: int) -> float:
    """Upper 99 % bound of a share seen among ``count`` draws, as SP 800-90B section 6.3.1 has it, at most 1."""
    return min(1.0, share + _Z99 * sqrt(share * (1.0 - share) / max(count - 1, 1)))


def most_common_value(bits: Bits) -> float:
    """Most common value estimate, SP 800-90B section 6.3.1, with its upper 99 % bound. Shape ``(bits,)``."""
    ones = float(_checked(bits, 2).mean())
    return -log2(upper_share(max(ones, 1.0 - ones), len(bits)))


def collision(bits: Bits) -> float:
    """Collision estimate, SP 800-90B section 6.3.2.

    For bits the expected collision time is ``2 + 2 p (1 - p)``, so the standard's equation is solved in closed form.
    """
    text = _checked(bits, 8).tobytes()
    times: list[int] = []
    i, end = 0, len(text)
    while i + 1 < end:
        time = 2 if text[i] == text[i + 1] else 3
        if i + time > end:
            break
        times.append(time)
        i += time
    values = np.array(times, dtype=np.float64)
    bound = float(values.mean()) - _Z99 * float(values.std(ddof=1)) / sqrt(len(values))
    inside = 1.25 - 0.5 * bound
    return 1.0 if inside < 0.0 else -log2(min(1.0, 0.5 + sqrt(inside)))


def markov(bits: Bits) -> float:
    """Markov estimate of order one, SP 800-90B section 6.3.3: the likeliest of all 128-bit sequences."""
    data = _checked(bits, 2)
    one = float(data.mean())
    before, after = data[:-1], data[1:]
    ones = int(before.sum())
    zeros = len(before) - ones
    p11 = float(after[before == 1].mean()) if ones else 0.0
    p01 = float(after[before == 0].mean()) if zeros else 0.0
    p10, p00 = 1.0 - p11, 1.0 - p01
    if not ones:
        p10 = 0.0
    if not zeros:
        p00 = 0.0

    def lg(value: float) -> float:
        return log2(value) if value > 0.0 else float("-inf")

    def times(count: int, value: float) -> float:
        return count * lg(value) if count else 0.0

    zero = 1.0 - one
    best = max(
        lg(zero) + times(127, p00),
        lg(zero) + times(64, p01) + times(63, p10),
        lg(zero) + lg(p01) + times(126, p11),
        lg(one) + lg(p10) + times(126, p00),
        lg(one) + times(64, p10) + times(63, p01),
        lg(one) + times(127, p11),
    )
    return min(1.0, -best / 128)


def compression(bits: Bits) -> float:
    """Compression estimate (Maurer's universal statistic), SP 800-90B section 6.3.4.

    Raises:
        ParameterError: fewer than 6 x 1002 bits.
    """
    data = _checked(bits, _BLOCK * (_DICTIONARY + 2))
    blocks = data[: len(data) // _BLOCK * _BLOCK].reshape(-1, _BLOCK) @ (1 << np.arange(_BLOCK - 1, -1, -1))
    last = [0] * (1 << _BLOCK)
    gaps: list[int] = []
    for i, block in enumerate(blocks.tolist(), start=1):
        if i > _DICTIONARY:
            gaps.append(i - last[block] if last[block] else i)
        last[block] = i
    logs = np.log2(np.array(gaps, dtype=np.float64))
    v = len(logs)
    mean = float(logs.mean())
    sigma = 0.5907 * sqrt(max(0.0, float((logs**2).sum()) / (v - 1) - mean**2))
    bound = mean - _Z99 * sigma / sqrt(v)
    low, high = 2.0**-_BLOCK, 1.0
    if bound >= _compression_mean(low, v):
        return 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if _compression_mean(middle, v) > bound:
            low = middle
        else:
            high = middle
    return -log2(high) / _BLOCK


def _compression_mean(p: float, v: int) -> float:
    q = (1.0 - p) / ((1 << _BLOCK) - 1)
    return _gap_mean(p, v) + ((1 << _BLOCK) - 1) * _gap_mean(q, v)


def _gap_mean(z: float, v: int) -> float:
    total = _DICTIONARY + v
    u = np.arange(1, total + 1, dtype=np.float64)
    power = (1.0 - z) ** (u - 1.0) if z < 1.0 else np.where(u == 1.0, 1.0, 0.0)
    terms = np.log2(u) * power
    before = np.concatenate(([0.0], np.cumsum(terms)[:-1]))
    return float((z * z * before + z * terms)[_DICTIONARY:].sum()) / v


def per_phase(bits: Bits, period: int) -> float:
    """Most common value in each phase class ``i mod period``, averaged in bits: the bound for periodic bias.

    No confidence term per phase: the larger of two estimated shares already errs upwards, and with few cells a phase a
    99 % bound for each of them would be far below the truth.
    """
    shares, cells = phase_shares(_checked(bits, 2), period)
    guess = np.maximum(shares, 1.0 - shares)
    return float(-(cells * np.log2(np.clip(guess, 0.5, 1.0))).sum()) / len(bits)


def alias_entropy(responses: Bits) -> float:
    """Min-entropy per cell that is left when the attacker has read other devices (bit aliasing, Maiti et al. 2013).

    The share of devices in which a cell is 1 is known to the attacker from a fleet. With few devices the larger share
    is above 1/2 by chance alone, so the estimate is low (safe); ``1 - E`` for fair coins over the same number of
    devices is what to compare it with.

    Args:
        responses: one reference response per device, shape ``(devices, bits)``.

    Raises:
        ParameterError: fewer than two devices.
    """
    if responses.ndim != 2 or len(responses) < 2:
        raise ParameterError(f"alias entropy needs (devices, bits) with two devices or more, got {responses.shape}")
    ones = responses.mean(axis=0)
    return float(-np.log2(np.maximum(ones, 1.0 - ones)).mean())


@dataclass(frozen=True, slots=True)
class EntropyEstimate:
    """Min-entropy of a response, in bits per cell, by several estimators.

    Attributes:
        bits: cells looked at.
        ones: share of ones.
        period: period of the bias, 1 if none was found (``structure.find_period``).
        most_common_value, collision, markov: SP 800-90B sections 6.3.1 to 6.3.3.
        compression: section 6.3.4; ``None`` below 6 x 1002 bits. Low even for ideal bits; a warning sign, not a bound.
        per_phase: most common value within the phases of ``period``.
        repetition: cells that repeat others, if any.
    """

    bits: int
    ones: float
    period: int
    most_common_value: float
    collision: float
    markov: float
    compression: float | None
    per_phase: float
    repetition: Repetition | None

    @property
    def bound(self) -> float:
        """The figure that accounting uses: the least of most common value, Markov and per phase."""
        return min(self.most_common_value, self.markov, self.per_phase)


def estimate_entropy(bits: Bits) -> EntropyEstimate:
    """All estimators on one response or one string of debiased symbols, shape ``(bits,)``, at least 64 bits."""
    data = _checked(np.ascontiguousarray(bits, dtype=np.uint8), 64)
    period = find_period(data)
    return EntropyEstimate(
        bits=len(data),
        ones=float(data.mean()),
        period=period,
        most_common_value=most_common_value(data),
        collision=collision(data),
        markov=markov(data),
        compression=compression(data) if len(data) >= _BLOCK * (_DICTIONARY + 2) else None,
        per_phase=per_phase(data, period),
        repetition=find_repetition(data, period) or find_copy(data, period),
    )
