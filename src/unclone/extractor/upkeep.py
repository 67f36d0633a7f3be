"""Helper data in the field: how much noise there is and how much it still bears, and new helper data after ageing."""

from __future__ import annotations

from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from unclone.errors import EnrollmentError, ParameterError
from unclone.extractor import debias
from unclone.extractor.codebook import SLACK, Channel, failure_log10, load_code
from unclone.extractor.fuzzy import Generated, checked_readings, measure_readings, parse_helper, seal_plan
from unclone.extractor.plan import Request, plan_again

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unclone.extractor.codes import Code
    from unclone.extractor.helper import Sketch
    from unclone.records import HelperData

    Bits = NDArray[np.uint8]
    Floats = NDArray[np.float64]

__all__ = ["Correction", "measure", "regenerate"]

_STEPS: Final = 8  # bit error rate to 0.002


@dataclass(frozen=True, slots=True)
class Correction:
    """What a reconstruction had to correct.

    Attributes:
        symbols: code symbols that carry something (not erased at enrolment).
        errors: symbols that the reading has wrong.
        erasures: symbols on which the reading says nothing (of a pair, one cell flipped).
        error_rate: bit error rate of the cells used, between enrolment and now, weighed as the decoder weighs them:
            cells that flickered at enrolment count little.
        failure_log10: log10 of the predicted failure of a reconstruction under as much noise as now.
        reach: bit error rate at which that prediction would meet the failure asked about, at most 0.5.
        margin: ``reach / error_rate``: how often the present noise fits in; below 1 it is too late.
    """

    symbols: int
    errors: int
    erasures: int
    error_rate: float
    failure_log10: float
    reach: float
    margin: float


def measure(readings: NDArray[np.uint8], helper: HelperData, secret: bytes, *, failure: float = 1e-9) -> Correction:
    """Compare a reading with what was enrolled, given the right secret.

    Several readings are measured one by one and averaged: the figures are those of a single reading.

    Args:
        readings: ``uint8`` 0/1, shape ``(M, bits)`` or ``(bits,)``.
        helper: the helper data that the secret opens.
        secret: the right candidate of ``reproduce``.
        failure: failure probability that ``reach`` and ``margin`` refer to.

    Raises:
        RecordError: the helper data is malformed.
        ParameterError: readings or secret do not fit the helper data.
    """
    data = checked_readings(readings)
    sketch = parse_helper(helper)
    code = load_code(sketch.code)
    if data.shape[1] != sketch.layout.bits:
        raise ParameterError(f"a reading has {data.shape[1]} bits, the helper data {sketch.layout.bits}")
    if len(secret) != (code.k + 7) // 8:
        raise ParameterError(f"the secret has {len(secret)} bytes, this helper data takes {(code.k + 7) // 8}")
    if not 1e-15 <= failure <= 0.1:
        raise ParameterError(f"failure is 1e-15 to 0.1, not {failure}")
    message = np.unpackbits(np.frombuffer(secret, dtype=np.uint8))[: code.k]
    enrolled = 2.0 * (code.encode(message) ^ sketch.offset) - 1.0
    said = debias.scores(data, 1, sketch.first_cells(), sketch.layout.distance, sketch.debias) * enrolled
    alive = sketch.classes > 0
    errors = float((said[:, alive] < 0).sum()) / len(data)
    erasures = float((said[:, alive] == 0).sum()) / len(data)
    flips = _flip_rates(said, sketch)
    paired = sketch.debias not in (debias.NONE, debias.CLASSIC)
    cells = (2 if paired else 1) * int(alive.sum())
    weight = np.array(sketch.levels, dtype=np.float64)[sketch.classes]
    rate = float(((1.0 - said) / 2.0).mean(axis=0) @ weight) / max(float(weight.sum()), 1.0)
    now = failure_log10(code, _channel(sketch, flips, 1.0, paired))
    reach = _reach(code, sketch, flips, paired, log10(failure))
    return Correction(
        symbols=int(alive.sum()),
        errors=round(errors),
        erasures=round(erasures),
        error_rate=rate,
        failure_log10=now,
        reach=reach,
        margin=reach / max(rate, 0.5 / max(cells, 1)),
    )


def _flip_rates(said: Floats, sketch: Sketch) -> Floats:
    """Share of flipped cells in each weight class, half a flip added (Jeffreys), shape ``(classes,)``."""
    out = np.zeros(len(sketch.levels))
    for label in range(1, len(sketch.levels)):
        part = said[:, sketch.classes == label]
        flipped = float((1.0 - part).sum()) / 2.0
        out[label] = min(0.5, (flipped + 0.5) / (part.size + 1.0))
    return out


def _channel(sketch: Sketch, flips: Floats, factor: float, paired: bool) -> Channel:
    """The symbols' channel when each cell flips ``factor`` times as often, the two cells of a pair independently."""
    out: list[tuple[float, float]] = []
    silent = 0.0
    for label, flip in enumerate(flips):
        share = float((sketch.classes == label).mean())
        if label == 0:
            silent += share
            continue
        p = min(0.5, float(flip) * factor)
        if not paired:
            out.append((share, p))
            continue
        decisive = (1.0 - p) ** 2 + p**2
        out.append((share * decisive, p**2 / decisive))
        silent += share * (1.0 - decisive)
    return [*out, (silent, 0.5)]


def _reach(code: Code, sketch: Sketch, flips: Floats, paired: bool, target: float) -> float:
    """Bit error rate at which the prediction meets the target, by bisection on a common factor of all flip rates."""
    used = np.bincount(sketch.classes, minlength=len(flips)) * np.array(sketch.levels, dtype=np.float64)
    mean = float((used * flips).sum() / max(float(used.sum()), 1.0))
    low, high = 0.0, 0.5
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if failure_log10(code, _channel(sketch, flips, middle / mean, paired)) <= target:
            low = middle
        else:
            high = middle
    return low


def regenerate(
    readings: NDArray[np.uint8],
    helper: HelperData,
    *,
    key_bits: int = 128,
    failure: float = 1e-9,
    error_rate: float | None = None,
    rng: Any = None,
) -> Generated:
    """New helper data and a new secret for a device that has helper data already, safe beside the old one.

    The same cells stay at the same code positions of the same code, so both sets of helper data together leave both
    secrets uniform (docs/extractor.md, theorem 2). That needs pairs whose cells are exchangeable and symbols that can
    be erased in place: ``erasure`` and ``pair-output``. For ``none`` and ``classic`` it is refused.

    Call it only with helper data that has just opened what was sealed under it: layout and code are taken from it.

    Args:
        readings: fresh readings, as for ``generate``.
        helper: the helper data in use.
        key_bits, failure, error_rate, rng: as for ``generate``.

    Raises:
        EnrollmentError: this debiasing cannot be refreshed, or the memory no longer carries the key.
        RecordError: the helper data is malformed.
        ParameterError: an argument is out of range.
    """
    sketch = parse_helper(helper)
    if sketch.debias not in (debias.ERASURE, debias.PAIR_OUTPUT):
        raise EnrollmentError(
            f"helper data with debiasing {sketch.debias!r} cannot be refreshed: two sets of it would leak together; "
            "enrol anew and retire what was sealed for the old record"
        )
    data = checked_readings(readings)
    if data.shape[1] != sketch.layout.bits:
        raise ParameterError(f"a reading has {data.shape[1]} bits, the helper data {sketch.layout.bits}")
    code = load_code(sketch.code)
    if code.k < key_bits + SLACK:
        raise EnrollmentError(f"the code in use carries {code.k} bits, too few for a key of {key_bits} bits")
    request = Request(key_bits, failure, error_rate, sketch.debias)
    measured = measure_readings(data)
    return seal_plan(plan_again(measured, request, sketch, code), measured, len(data), key_bits, rng)
