"""The decisions of an enrolment: which cells, which debiasing, which code, for which noise; or the reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.errors import EnrollmentError
from unclone.extractor import debias
from unclone.extractor.accounting import Accounting, account_cells, account_pairs, fairness
from unclone.extractor.codebook import SLACK, Channel, failure_log10, polar_code, reed_muller_code
from unclone.extractor.entropy import EntropyEstimate, estimate_entropy
from unclone.extractor.layout import Layout
from unclone.extractor.soft import ErrorRate, estimate_error_rate, field_log_odds
from unclone.extractor.structure import pair_distances

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unclone.extractor.codes import Code

    Bits = NDArray[np.uint8]
    Counts = NDArray[np.int64]

__all__ = ["Measured", "Plan", "Request", "channel_of", "make_plan", "measure_source"]

DEFAULT_RATE: Final = 0.15
LADDER: Final = (0.25, 0.20, 0.15, 0.12, 0.10, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02)
_ASSUMED: Final = 0.06
_LIMIT: Final = 0.40
_MORE: Final = 96
_UNFAIR: Final = "symbols are no fair coins"


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
    if rate is not None and rate.estimate > _LIMIT:
        raise EnrollmentError(
            f"two readings differ in {rate.estimate:.1%} of the bits: this is not one and the same device"
        )
    entropy = estimate_entropy(reference)
    if entropy.repetition is not None:
        copy = entropy.repetition
        raise EnrollmentError(
            f"the memory repeats itself: cells {copy.lag} bits apart correlate by {copy.share:.2f} "
            f"({abs(copy.score):.0f} deviations); read only the part that is not a copy"
        )
    return Measured(counts, readings, reference, rate, entropy)


@dataclass(frozen=True, slots=True)
class Plan:
    """A feasible enrolment.

    Attributes:
        layout, mode, code: of the sketch.
        units: units that are code symbols, in walk order, shape ``(n,)``.
        values: their symbols (secret).
        classes, levels: their published weights.
        rate: bit error rate designed for.
        failure_log10: bound at that rate.
        accounting: of the entropy.
    """

    layout: Layout
    mode: str
    code: Code
    units: NDArray[np.int64]
    values: Bits
    classes: Bits
    levels: tuple[int, ...]
    rate: float
    failure_log10: float
    accounting: Accounting


def channel_of(
    symbols: debias.Symbols, classes: Bits, units: NDArray[np.int64], single: tuple[float, float] | None
) -> Channel:
    """The channel of the symbols in use, as a mixture: one component per weight class, and the erasures.

    Args:
        symbols: of all units.
        classes: weight class of each unit of the memory, shape ``(units,)``.
        units: the units in use, shape ``(n,)``.
        single: with one enrolment reading, probability that a symbol is read right and that it is read wrong, which
            take the place of the model's.
    """
    out: list[tuple[float, float]] = []
    erased = float((classes[units] == 0).mean())
    for label in range(1, int(classes.max(initial=0)) + 1):
        chosen = units[classes[units] == label]
        if not len(chosen):
            continue
        share = len(chosen) / len(units)
        if single is not None:
            right, wrong = single
            decisive, error = right + wrong, wrong / (right + wrong)
        else:
            weight = symbols.decisive[chosen]
            decisive = float(weight.mean())
            error = float((weight * (1.0 - symbols.agree[chosen])).mean()) / decisive
        out.append((share * decisive, error))
        erased += share * (1.0 - decisive)
    return [*out, (erased, 0.5)]


def _rates(measured: Measured, error_rate: float | None) -> list[float]:
    """Design rates to try, the highest first."""
    least = measured.error_rate.upper if measured.error_rate is not None else DEFAULT_RATE
    if error_rate is not None:
        if measured.error_rate is not None and measured.error_rate.estimate > error_rate:
            raise EnrollmentError(
                f"two readings differ in {measured.error_rate.estimate:.2%} of the bits, "
                f"more than the error_rate of {error_rate:.2%} to design for"
            )
        return [error_rate]
    return sorted({least, *(rate for rate in LADDER if rate > least)}, reverse=True)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for; fields as the arguments of ``fuzzy.generate``."""

    key_bits: int
    failure: float
    error_rate: float | None
    mode: str
    stable: bool
    family: str


def make_plan(measured: Measured, request: Request) -> Plan:
    """Choose an enrolment.

    Raises:
        EnrollmentError: nothing fits; the message holds the figures.
    """
    bits = len(measured.counts)
    rates = _rates(measured, request.error_rate)
    modes = [debias.ERASURE, debias.PAIR_OUTPUT, debias.NONE] if request.mode == "auto" else [request.mode]
    refusals: list[str] = []
    for mode in modes:
        for distance in [0] if mode == debias.NONE else pair_distances(bits, measured.entropy.period):
            outcome = _try(measured, Layout(bits, distance), mode, request, rates)
            if isinstance(outcome, Plan):
                return outcome
            refusals.append(f"{mode}: {outcome}")
            if not outcome.startswith(_UNFAIR):
                break
    raise EnrollmentError("this memory cannot carry the key; " + "; ".join(dict.fromkeys(refusals)))


def _try(measured: Measured, layout: Layout, mode: str, request: Request, rates: list[float]) -> Plan | str:
    refusal = ""
    for rate in rates:
        for plan in _plans(measured, layout, mode, request, rate):
            if isinstance(plan, str):
                return plan
            if plan.accounting.residual < request.key_bits:
                figures = plan.accounting
                return (
                    "".join(f"{_UNFAIR}: {note}; " for note in figures.notes)
                    + f"residual min-entropy {figures.residual:.1f} of {request.key_bits} bits "
                    f"({figures.raw:.0f} raw, {figures.debiased:.0f} in {plan.code.n} symbols)"
                )
            if plan.failure_log10 <= log10(request.failure):
                return plan
            refusal = (
                f"predicted failure 1e{plan.failure_log10:.1f} at a bit error rate of {rate:.1%}, with "
                f"{plan.code.n} symbols out of {layout.units} from {layout.bits} bits; {request.failure:g} is asked for"
            )
    return refusal


def _plans(measured: Measured, layout: Layout, mode: str, request: Request, rate: float) -> Iterator[Plan | str]:
    """Candidate plans for one design rate; a single refusal if there are none."""
    enrol = measured.error_rate.estimate if measured.error_rate is not None else min(_ASSUMED, rate)
    odds = field_log_odds(measured.readings, enrol, rate)
    symbols = debias.symbols(measured.counts, odds, layout, mode)
    classes, levels = debias.quantise(symbols.strength)
    alive = np.flatnonzero(classes)
    pool = layout.units if mode == debias.ERASURE else len(alive)
    single = _single(measured, mode, rate) if measured.readings == 1 else None
    test = fairness(symbols, layout) if layout.distance else None
    made = False
    for code in _codes(request, mode, pool):
        if mode == debias.ERASURE:
            units = np.arange(code.n)
        elif request.stable:
            units = np.sort(alive[np.argsort(-classes[alive].astype(np.int64), kind="stable")[: code.n]])
        else:
            units = alive[: code.n]
        used = units[classes[units] > 0]
        if test is not None:
            accounting = account_pairs(measured.entropy, test, used, len(used), code.k)
        else:
            accounting = account_cells(measured.entropy, measured.reference, layout, classes, used, code.k)
            if accounting.residual < request.key_bits and code.k < request.key_bits + _MORE:
                continue
        made = True
        yield Plan(
            layout=layout,
            mode=mode,
            code=code,
            units=units,
            values=np.where(classes[units] > 0, symbols.values[units], 0).astype(np.uint8),
            classes=classes[units],
            levels=tuple(levels),
            rate=rate,
            failure_log10=failure_log10(code, channel_of(symbols, classes, units, single)),
            accounting=accounting,
        )
    if not made:
        yield f"{pool} symbols are too few for a key of {request.key_bits} bits"


def _codes(request: Request, mode: str, pool: int) -> Iterator[Code]:
    """Codes to try. Pairs: one, which depends on the pool and the key alone. Cells: short ones first, which leak less,
    with as many message bits as the bias of the cells may cost."""
    extra = (SLACK,) if mode != debias.NONE else range(SLACK, _MORE + 1, SLACK)
    sizes = [pool] if mode != debias.NONE else [1 << m for m in range(8, pool.bit_length())]
    for size in sizes:
        for more in extra:
            if request.family == "polar":
                code: Code | None = polar_code(size, request.key_bits + more)
            else:
                code = reed_muller_code(size, request.key_bits + more)
            if code is not None:
                yield code


def _single(measured: Measured, mode: str, rate: float) -> tuple[float, float]:
    """With one reading: probability that a symbol is read right, and that it is read wrong, at a bit error rate."""
    if mode in (debias.NONE, debias.CLASSIC):
        return 1.0 - rate, rate
    ones = float(measured.reference.mean())
    falls, rises = min(0.5, rate / (2.0 * ones)), min(0.5, rate / (2.0 * (1.0 - ones)))
    return (1.0 - falls) * (1.0 - rises), falls * rises
