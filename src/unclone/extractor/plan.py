"""The decisions of an enrolment: which cells, which debiasing, which code, for which noise; or the reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.errors import EnrollmentError, ParameterError
from unclone.extractor import debias
from unclone.extractor.accounting import Accounting, Fairness, account_cells, account_pairs, fairness
from unclone.extractor.codebook import SLACK, Channel, failure_log10, polar_code, reed_muller_code
from unclone.extractor.layout import Layout
from unclone.extractor.soft import field_log_odds
from unclone.extractor.source import HIGHEST_RATE
from unclone.extractor.structure import pair_distances

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unclone.extractor.codes import Code
    from unclone.extractor.helper import Sketch
    from unclone.extractor.source import Measured

    Bits = NDArray[np.uint8]

__all__ = ["Plan", "Request", "channel_of", "make_plan", "plan_again"]

DEFAULT_RATE: Final = 0.15
LADDER: Final = (0.25, 0.20, 0.15, 0.12, 0.10, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02)
_ASSUMED: Final = 0.06
_MORE: Final = 96
_KEY_BITS: Final = (64, 512)
_UNFAIR: Final = "symbols are no fair coins"


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


def channel_of(symbols: debias.Symbols, classes: Bits, units: NDArray[np.int64]) -> Channel:
    """The channel of the symbols in use, as a mixture: one component per weight class, and the erasures.

    Args:
        symbols: of all units.
        classes: weight class of each unit of the memory, shape ``(units,)``.
        units: the units in use, shape ``(n,)``.
    """
    out: list[tuple[float, float]] = []
    erased = float((classes[units] == 0).mean())
    for label in range(1, int(classes.max(initial=0)) + 1):
        chosen = units[classes[units] == label]
        if not len(chosen):
            continue
        share = len(chosen) / len(units)
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
    stable: bool = False
    family: str = "polar"

    def __post_init__(self) -> None:
        if not _KEY_BITS[0] <= self.key_bits <= _KEY_BITS[1]:
            raise ParameterError(f"key_bits is {_KEY_BITS[0]} to {_KEY_BITS[1]}, not {self.key_bits}")
        if not 1e-15 <= self.failure <= 0.1:
            raise ParameterError(f"failure is 1e-15 to 0.1, not {self.failure}")
        if self.error_rate is not None and not 0.001 <= self.error_rate <= HIGHEST_RATE:
            raise ParameterError(f"error_rate is 0.001 to {HIGHEST_RATE}, not {self.error_rate}")
        if self.mode not in ("auto", *debias.MODES):
            raise ParameterError(f"debias is auto, {', '.join(debias.MODES)}, not {self.mode!r}")
        if self.family not in ("polar", "repetition"):
            raise ParameterError(f"code is polar or repetition, not {self.family!r}")


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
    advice = (
        "" if measured.error_rate is not None else "; more readings would show a lower bit error rate to design for"
    )
    raise EnrollmentError("this memory cannot carry the key; " + "; ".join(dict.fromkeys(refusals)) + advice)


def _try(measured: Measured, layout: Layout, mode: str, request: Request, rates: list[float]) -> Plan | str:
    refusal = ""
    for rate in rates:
        for plan in _plans(measured, layout, mode, request, rate):
            if isinstance(plan, str):
                return plan
            refusal = _shortfall(plan, request)
            if not refusal:
                return plan
    return refusal


def _shortfall(plan: Plan, request: Request) -> str:
    """Why a plan does not do, with the figures; empty if it does."""
    figures = plan.accounting
    if figures.residual < request.key_bits:
        return (
            "".join(f"{_UNFAIR}: {note}; " for note in figures.notes)
            + f"residual min-entropy {figures.residual:.1f} of {request.key_bits} bits "
            f"({figures.raw:.0f} raw, {figures.debiased:.0f} in {plan.code.n} symbols)"
        )
    if plan.failure_log10 > log10(request.failure):
        return (
            f"predicted failure 1e{plan.failure_log10:.1f} at a bit error rate of {plan.rate:.1%}, with {plan.code.n} "
            f"symbols out of {plan.layout.units} from {plan.layout.bits} bits; {request.failure:g} is asked for"
        )
    return ""


@dataclass(frozen=True, slots=True)
class _Material:
    """What a memory offers under one layout, debiasing and design rate."""

    measured: Measured
    layout: Layout
    mode: str
    rate: float
    symbols: debias.Symbols
    classes: Bits
    levels: tuple[int, ...]
    test: Fairness | None

    @classmethod
    def take(cls, measured: Measured, layout: Layout, mode: str, rate: float) -> _Material:
        enrol = measured.error_rate.estimate if measured.error_rate is not None else min(_ASSUMED, rate)
        odds = field_log_odds(measured.readings, enrol, rate)
        symbols = debias.symbols(measured.counts, odds, layout, mode, measured.entropy.period)
        classes, levels = debias.quantise(symbols.strength)
        test = fairness(symbols, layout) if layout.distance else None
        return cls(measured, layout, mode, rate, symbols, classes, tuple(levels), test)

    def account(self, units: NDArray[np.int64], k: int) -> Accounting:
        used = units[self.classes[units] > 0]
        if self.test is not None:
            return account_pairs(self.measured.entropy, self.test, self.layout, used, k)
        source = self.measured
        return account_cells(source.entropy, source.reference, self.layout, self.classes, used, k)

    def plan(self, units: NDArray[np.int64], code: Code, accounting: Accounting, key_bits: int) -> Plan:
        classes = self.classes[units]
        failure = 0.0  # not worth working out where the entropy does not suffice
        if accounting.residual >= key_bits:
            failure = failure_log10(code, channel_of(self.symbols, self.classes, units))
        return Plan(
            layout=self.layout,
            mode=self.mode,
            code=code,
            units=units,
            values=np.where(classes > 0, self.symbols.values[units], 0).astype(np.uint8),
            classes=classes,
            levels=self.levels,
            rate=self.rate,
            failure_log10=failure,
            accounting=accounting,
        )


def _plans(measured: Measured, layout: Layout, mode: str, request: Request, rate: float) -> Iterator[Plan | str]:
    """Candidate plans for one design rate; a single refusal if there are none."""
    material = _Material.take(measured, layout, mode, rate)
    classes = material.classes
    alive = np.flatnonzero(classes)
    pool = layout.units if mode == debias.ERASURE else len(alive)
    made = False
    for code in _codes(request, mode, pool):
        if mode == debias.ERASURE:
            units = np.arange(code.n)
        elif request.stable:
            units = np.sort(alive[np.argsort(-classes[alive].astype(np.int64), kind="stable")[: code.n]])
        else:
            units = alive[: code.n]
        accounting = material.account(units, code.k)
        if mode == debias.NONE and accounting.residual < request.key_bits and code.k < request.key_bits + _MORE:
            continue
        made = True
        yield material.plan(units, code, accounting, request.key_bits)
    if not made:
        yield f"{pool} symbols are too few for a key of {request.key_bits} bits"


def plan_again(measured: Measured, request: Request, sketch: Sketch, code: Code) -> Plan:
    """A plan on the units, the layout and the code of existing helper data.

    Raises:
        EnrollmentError: the memory no longer carries the key; the message holds the figures.
    """
    refusal = ""
    units = np.arange(code.n) if sketch.retained is None else np.flatnonzero(sketch.retained)
    for rate in _rates(measured, request.error_rate):
        material = _Material.take(measured, sketch.layout, sketch.debias, rate)
        plan = material.plan(units, code, material.account(units, code.k), request.key_bits)
        refusal = _shortfall(plan, request)
        if not refusal:
            return plan
    raise EnrollmentError(f"this memory cannot carry the key any more; {refusal}")


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
