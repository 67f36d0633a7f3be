"""The decisions of an enrolment: which cells, which debiasing, which code, for which noise; or the reason why not."""

from __future__ import annotations

from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.errors import EnrollmentError
from unclone.extractor import debias
from unclone.extractor.accounting import Accounting, account_cells, account_pairs, fairness
from unclone.extractor.codebook import Channel, code_for, failure_log10
from unclone.extractor.entropy import EntropyEstimate, estimate_entropy
from unclone.extractor.layout import Layout
from unclone.extractor.soft import ErrorRate, estimate_error_rate, field_log_odds
from unclone.extractor.structure import pair_distances

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unclone.extractor.codes import Code

    Bits = NDArray[np.uint8]
    Counts = NDArray[np.int64]

__all__ = ["Measured", "Plan", "channel_of", "make_plan", "measure_source"]

DEFAULT_RATE: Final = 0.15
LADDER: Final = (0.25, 0.20, 0.15, 0.12, 0.10, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02)
_ASSUMED: Final = 0.06
_LIMIT: Final = 0.40


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
        classes: weight class of each unit in use, shape ``(n,)``.
        units: the units in use.
        single: with one enrolment reading the biased cells are known better than the model says: probability that
            both cells of a differing pair are right, and that both are wrong.
    """
    out: list[tuple[float, float]] = []
    erased = float((classes == 0).mean())
    for label in range(1, int(classes.max(initial=0)) + 1):
        chosen = units[classes == label]
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


def make_plan(
    measured: Measured, key_bits: int, failure: float, error_rate: float | None, mode: str, stable: bool
) -> Plan:
    """Choose an enrolment; arguments as ``fuzzy.generate``.

    Raises:
        EnrollmentError: nothing fits; the message holds the figures.
    """
    modes = [debias.ERASURE, debias.PAIR_OUTPUT, debias.NONE] if mode == "auto" else [mode]
    rates = _rates(measured, error_rate)
    refusals: list[str] = []
    for candidate in modes:
        for distance in (
            [0] if candidate == debias.NONE else pair_distances(len(measured.counts), measured.entropy.period)
        ):
            outcome = _try(
                measured, Layout(len(measured.counts), distance), candidate, key_bits, failure, rates, stable
            )
            if isinstance(outcome, Plan):
                return outcome
            refusals.append(f"{candidate}: {outcome}")
            if "fair" not in outcome:
                break
    raise EnrollmentError("this memory cannot carry the key; " + "; ".join(dict.fromkeys(refusals)))


def _try(
    measured: Measured, layout: Layout, mode: str, key_bits: int, failure: float, rates: list[float], stable: bool
) -> Plan | str:
    refusal = ""
    for rate in rates:
        plan = _fit(measured, layout, mode, key_bits, rate, stable)
        if isinstance(plan, str):
            return plan
        if plan.accounting.residual < key_bits:
            reason = "".join(f"; {note}" for note in plan.accounting.notes)
            unfair = "not fair; " if plan.accounting.notes else ""
            return (
                f"{unfair}residual min-entropy {plan.accounting.residual:.1f} of {key_bits} bits "
                f"({plan.accounting.raw:.0f} raw, {plan.accounting.debiased:.0f} in {plan.code.n} symbols){reason}"
            )
        if plan.failure_log10 <= log10(failure):
            return plan
        refusal = (
            f"predicted failure 1e{plan.failure_log10:.1f} at a bit error rate of {rate:.1%}, "
            f"with {plan.code.n} symbols of {layout.units} from {layout.bits} bits; {failure:g} is asked for"
        )
    return refusal


def _fit(measured: Measured, layout: Layout, mode: str, key_bits: int, rate: float, stable: bool) -> Plan | str:
    enrol = measured.error_rate.estimate if measured.error_rate is not None else min(_ASSUMED, rate)
    odds = field_log_odds(measured.readings, enrol, rate)
    symbols = debias.symbols(measured.counts, odds, layout, mode)
    classes, levels = debias.quantise(symbols.strength)
    alive = np.flatnonzero(classes)
    pool = layout.units if mode == debias.ERASURE else len(alive)
    code = code_for(pool, key_bits)
    if code is None:
        return f"{pool} symbols are too few for {key_bits} key bits"
    if mode == debias.ERASURE:
        units = np.arange(code.n)
    elif stable:
        units = np.sort(alive[np.argsort(-classes[alive].astype(np.int64), kind="stable")[: code.n]])
    else:
        units = alive[: code.n]
    single = None
    if measured.readings == 1 and layout.distance:
        ones = float(measured.reference.mean())
        falls, rises = min(0.5, rate / (2.0 * ones)), min(0.5, rate / (2.0 * (1.0 - ones)))
        single = (1.0 - falls) * (1.0 - rises), falls * rises
        if mode == debias.CLASSIC:
            single = 1.0 - rate, rate
    channel = channel_of(symbols, classes[units], units, single)
    used = units[classes[units] > 0]
    if layout.distance:
        accounting = account_pairs(measured.entropy, fairness(symbols, layout), used, len(used), code.k)
    else:
        walk = np.empty(layout.bits, dtype=np.uint8)
        walk[layout.first_cells()] = classes
        accounting = account_cells(measured.entropy, measured.reference, walk, layout.first_cells()[used], code.k)
    return Plan(
        layout=layout,
        mode=mode,
        code=code,
        units=units,
        values=np.where(classes[units] > 0, symbols.values[units], 0).astype(np.uint8),
        classes=classes[units],
        levels=tuple(levels),
        rate=rate,
        failure_log10=failure_log10(code, channel),
        accounting=accounting,
    )
