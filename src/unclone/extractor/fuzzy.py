"""The fuzzy extractor: a secret from a noisy response, with public helper data.

``generate`` hides a fresh random secret behind the response (code offset, Juels and Wattenberg 1999; Dodis et al.
2008); ``reproduce`` finds it again from a noisy response, as a short list of candidates. Which candidate is right is
decided by who holds something sealed under it: this module has no key, no hash and no oracle. Manipulated helper data
gives wrong candidates, nothing else, provided that *all* of it enters the key derivation (spec/device-record.md).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from unclone.errors import EnrollmentError, ParameterError
from unclone.extractor import debias
from unclone.extractor.accounting import coarse
from unclone.extractor.codebook import load_code
from unclone.extractor.debias import STEP, scores
from unclone.extractor.helper import Sketch
from unclone.extractor.plan import Plan, Request, make_plan
from unclone.extractor.source import Measured, measure_source
from unclone.records import EnrollmentReport, HelperData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]

__all__ = ["MAX_READINGS", "Generated", "generate", "reproduce", "reproduce_many"]

MAX_READINGS: Final = 100
_TOGETHER: Final = 1024


@dataclass(frozen=True, slots=True)
class Generated:
    """Result of ``generate``: public helper data, the secret, and what was measured."""

    helper: HelperData
    secret: bytes
    report: EnrollmentReport

    def __repr__(self) -> str:
        return f"Generated(helper={self.helper.scheme!r}, secret=<secret>)"


def checked_readings(readings: NDArray[Any]) -> Bits:
    data = np.asarray(readings)
    if data.ndim == 1:
        data = data[None]
    if data.dtype != np.uint8 or data.ndim != 2 or not data.size:
        raise ParameterError(f"readings are uint8 of shape (readings, bits), got {data.dtype} {data.shape}")
    if len(data) > MAX_READINGS:
        raise ParameterError(f"at most {MAX_READINGS} readings, got {len(data)}")
    if data.max() > 1:
        raise ParameterError("readings hold 0 and 1 only; unpack bytes with numpy.unpackbits")
    return data


def count_ones(data: Bits) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = data.sum(axis=0, dtype=np.int64)
    return counts


def generate(
    readings: NDArray[np.uint8],
    *,
    key_bits: int = 128,
    failure: float = 1e-9,
    error_rate: float | None = None,
    debias: str = "auto",
    code: str = "polar",
    selection: str = "auto",
    reliability: NDArray[Any] | None = None,
    reliability_readings: int = 15,
    rng: Any = None,
) -> Generated:
    """Enrol: helper data and a fresh secret from readings of one device.

    Args:
        readings: ``uint8`` 0/1, shape ``(N, bits)``, N from 1 to 100.
        key_bits: min-entropy that must be left in the secret, given all helper data, in bits; 64 to 512.
        failure: accepted probability that one reconstruction fails.
        error_rate: bit error rate between an enrolment and a field reading to design for. By default the highest of
            a ladder up to 25 % that this memory carries, and at least the upper 99.9 % bound of what was measured
            (15 % for a single reading, which measures nothing).
        debias: ``"auto"`` or one of ``debias.MODES``. ``auto`` takes ``erasure``, else ``pair-output``, else ``none``.
        code: ``"polar"``, or ``"repetition"`` for the simple repetition-Reed-Muller code, which needs more response.
        selection: ``"stable"`` takes the most reliable units where the debiasing lets units be chosen (not
            ``erasure``), ``"first"`` the first ones, ``"auto"`` is ``stable`` when there is more than one reading.
        reliability: share of agreeing readings per cell, 0.5 to 1, shape ``(bits,)``, when it was measured before;
            the values then come from the majority of ``readings``.
        reliability_readings: how many readings are behind ``reliability``.
        rng: a numpy ``Generator`` for reproducible vectors; the operating system's randomness by default.

    Returns:
        Helper data, the secret (message bits, packed) and the report.

    Raises:
        EnrollmentError: this memory cannot carry the key; the message says why, with the figure.
        ParameterError: an argument is out of range.
    """
    data = checked_readings(readings)
    if selection not in ("auto", "stable", "first"):
        raise ParameterError(f"selection is auto, stable or first, not {selection!r}")
    stable = selection == "stable" or (selection == "auto" and (len(data) > 1 or reliability is not None))
    request = Request(key_bits, failure, error_rate, debias, stable, code)
    if data.shape[1] < 64:
        raise EnrollmentError(f"{data.shape[1]} bits cannot carry a key of {key_bits} bits")
    measured = measure_readings(data, reliability, reliability_readings)
    plan = make_plan(measured, request)
    return seal_plan(plan, measured, len(data), key_bits, rng)


def measure_readings(data: Bits, reliability: NDArray[Any] | None = None, behind: int = 15) -> Measured:
    """Counts, estimates and checks; arguments as for ``generate``."""
    if reliability is not None:
        return measure_source(*_with_reliability(data, reliability, behind))
    _check_consistency(data)
    return measure_source(count_ones(data), len(data))


def _check_consistency(data: Bits) -> None:
    """Refuse a reading that is far from the others: old data in the first one, a bad capture, another device."""
    if len(data) < 3:
        return
    middle = 2 * count_ones(data) > len(data)
    far = (data != middle).mean(axis=1)
    usual = float(np.median(far))
    worst = int(np.argmax(far))
    if far[worst] > 2.0 * usual + 0.05:
        raise EnrollmentError(
            f"reading {worst} differs from the majority in {far[worst]:.1%} of the bits, the others in {usual:.1%}: "
            "old data after a short power-off, a bad capture, or another device; leave it out"
        )


def _with_reliability(data: Bits, reliability: NDArray[Any], behind: int) -> tuple[NDArray[np.int64], int]:
    share = np.asarray(reliability, dtype=np.float64)
    if share.shape != data.shape[1:] or not np.all((share >= 0.5) & (share <= 1.0)):
        raise ParameterError(f"reliability is 0.5 to 1 per cell, shape {data.shape[1:]}")
    if not 1 <= behind <= MAX_READINGS:
        raise ParameterError(f"reliability_readings is 1 to {MAX_READINGS}, not {behind}")
    agree = np.rint(share * behind).astype(np.int64)
    return np.where(2 * count_ones(data) > len(data), agree, behind - agree), behind


def seal_plan(plan: Plan, measured: Measured, readings: int, key_bits: int, rng: Any) -> Generated:
    message = _message(plan.code.k, rng)
    sketch = _sketch(plan, message)
    rate = measured.error_rate
    ones, error = float(measured.reference.mean()), rate.estimate if rate is not None else plan.rate
    if plan.mode == debias.NONE:
        ones, error = coarse(ones, 0.01), coarse(error, 0.005)
    notes = [f"{plan.mode} debiasing, designed for a bit error rate of {plan.rate:.1%}"]
    if rate is None:
        notes.append("one reading: the bit error rate was not measured")
    elif plan.rate < 1.5 * rate.estimate:
        notes.append("little margin: designed for less than 1.5 times the bit error rate that was measured")
    if plan.accounting.notes:
        notes.append("a test found the symbols unfair; what it found is charged")
    report = EnrollmentReport(
        readings=readings,
        response_bits=plan.layout.bits,
        ones_ppm=round(ones * 1e6),
        error_rate_ppm=round(error * 1e6),
        raw_entropy_millibits=int(plan.accounting.raw * 1000),
        debiased_entropy_millibits=int(plan.accounting.debiased * 1000),
        residual_entropy_millibits=int(plan.accounting.residual * 1000),
        key_bits=key_bits,
        failure_log10_milli=round(plan.failure_log10 * 1000),
        notes=tuple(notes),
    )
    return Generated(sketch.pack(), np.packbits(message).tobytes(), report)


def _message(count: int, rng: Any) -> Bits:
    if rng is not None:
        drawn: Bits = rng.integers(0, 2, count, dtype=np.uint8)
        return drawn
    return np.unpackbits(np.frombuffer(secrets.token_bytes((count + 7) // 8), dtype=np.uint8))[:count]


def _sketch(plan: Plan, message: Bits) -> Sketch:
    offset = np.where(plan.classes > 0, plan.code.encode(message) ^ plan.values, 0).astype(np.uint8)
    retained = None
    if plan.mode != debias.ERASURE:
        retained = np.zeros(plan.layout.units, dtype=np.uint8)
        retained[plan.units] = 1
    return Sketch(plan.layout, plan.mode, plan.code.spec(), plan.levels, plan.classes, offset, retained)


def parse_helper(helper: HelperData) -> Sketch:
    return Sketch.parse(helper, lambda spec: load_code(spec).n)


def _likelihoods(data: Bits, sketch: Sketch) -> NDArray[np.float32]:
    """Log-likelihood ratios of the code bits, positive where 0 is likelier, shape ``(n,)``."""
    if data.shape[1] != sketch.layout.bits:
        return np.zeros(len(sketch.offset), dtype=np.float32)
    first = sketch.first_cells()
    said = scores(count_ones(data), len(data), first, sketch.layout.distance, sketch.debias)
    weight = np.array(sketch.levels, dtype=np.float64)[sketch.classes] / STEP
    return (said * weight * (2.0 * sketch.offset - 1.0)).astype(np.float32)


def reproduce(readings: NDArray[np.uint8], helper: HelperData) -> list[bytes]:
    """Candidate secrets from a fresh response, the likeliest first; their number depends on the code alone.

    A foreign device, a reading of another length and altered helper data give candidates too: wrong ones.

    Args:
        readings: ``uint8`` 0/1, shape ``(M, bits)`` or ``(bits,)``, M from 1 to 100; more withstand more noise.
        helper: from ``generate``.

    Raises:
        RecordError: the helper data is malformed.
        ParameterError: ``readings`` is no array of bits.
    """
    return reproduce_many([readings], [helper])[0]


def reproduce_many(readings: Sequence[NDArray[np.uint8]], helpers: Sequence[HelperData]) -> list[list[bytes]]:
    """``reproduce`` for many devices at once; those that share a code are decoded together."""
    if len(readings) != len(helpers):
        raise ParameterError(f"{len(readings)} sets of readings for {len(helpers)} records")
    out: list[list[bytes]] = []
    for start in range(0, len(helpers), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        out += _reproduce_together(readings[part], helpers[part])
    return out


def _reproduce_together(readings: Sequence[NDArray[np.uint8]], helpers: Sequence[HelperData]) -> list[list[bytes]]:
    groups: dict[int, tuple[Any, list[int], list[NDArray[np.float32]]]] = {}
    for index, (one, helper) in enumerate(zip(readings, helpers, strict=True)):
        sketch = parse_helper(helper)
        code = load_code(sketch.code)
        _, members, rows = groups.setdefault(id(code), (code, [], []))
        members.append(index)
        rows.append(_likelihoods(checked_readings(one), sketch))
    out: list[list[bytes]] = [[] for _ in helpers]
    for code, members, rows in groups.values():
        packed = np.packbits(code.decode(np.stack(rows)), axis=-1)
        for index, candidates in zip(members, packed, strict=True):
            out[index] = [candidate.tobytes() for candidate in candidates]
    return out
