"""What is wrong with a device's readings, and with a fleet's labels.

Thresholds, and how often they go off on clean independent cells:

=====================  ========  ====================================================================================
code                   severity  found when
=====================  ========  ====================================================================================
``constant``           fatal     fewer than 1 % ones, or zeros, in the majority of the readings
``dead_reading``       fatal     the same in one reading, while the majority is alive
``constant_block``     fatal     equal bits in a row, chance below 1e-9 given the (periodic) bias, 64 cells at least
``repeated_block``     fatal     a stretch that occurs twice exactly, chance below 1e-9: aliased or copied memory
``repetition``         fatal     autocorrelation of 5 % or more at some lag, chance below 1e-9
``remanence``          fatal     the first reading is an outlier (as below, from 5 % further), or holds blocks, or in a
                                 window differs from the others by 25 % or more: old data
``outlier_reading``    fatal     nearest other reading three times as far as is usual for this device and 15 % further,
                                 or 30 % from the majority of the others; ``warning`` from 5 % further
``foreign_region``     fatal     windows of 512 cells of one reading with 25 % errors or more, chance below 1e-9, that
                                 add 5 % errors to the reading; ``warning`` if less: the majority outvotes them
``not_one_device``     fatal     two readings differ in more than 40 % of the cells on average
``repeated_reading``   warning   two readings are equal, and noise makes that less likely than 1e-9
``drift``              warning   distant readings differ by half as much again as neighbouring ones: temperature, ageing
``bias``               warning   share of ones outside 0.4 to 0.6
``lane_bias``          warning   bias that repeats with a period, chance below 1e-9, and a spread of 2 % or more
``swapped_label``      fatal     a reading is nearer to another device than to the rest of its own
``same_device``        fatal     two devices are much nearer to each other than their biases explain
``shared_window``      fatal     windows of 512 cells in which two devices are, chance below 1e-9, and that make up 5 %
                                 of the cells; ``warning`` if less: program or data at the same address
=====================  ========  ====================================================================================

The last three are in ``check_fleet``. The chances are union bounds over everything that was tried.
Outliers are thresholds: readings of measured silicon in order of temperature, from -23.5 to 70 degrees, or over a day,
stay within them; a single reading at a far temperature among others at one temperature does not, and cannot be told
from old data.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone.quality import metrics
from unclone.quality.structure import (
    FALSE_ALARM,
    PhaseBias,
    autocorrelation,
    constant_block,
    phase_bias,
    repeated_block,
)
from unclone.quality.tails import binomial_upper

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]
    Floats = NDArray[np.float64]

__all__ = ["LEAST_BITS", "Finding", "check"]

_CONSTANT: Final = 0.01
_REPETITION: Final = 0.05
_OUTLIER_TIMES: Final = 3.0
_OUTLIER_EXCESS: Final = 0.15
_SUSPECT_EXCESS: Final = 0.05
_FOREIGN: Final = 0.30
_WINDOW: Final = 512
_WINDOW_ERRORS: Final = 0.25
_LANE_SPREAD: Final = 0.02
LEAST_BITS: Final = 128


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a device.

    Attributes:
        code: kind of the finding, a word of the table above.
        severity: ``"fatal"`` (not to be enrolled as it is) or ``"warning"``.
        message: what was seen, with its figure, and what to do.
        figure: the figure at fault, in the unit that the message gives.
        device: name of the device, empty where only one is looked at.
        reading: index of the reading at fault, if it is one.
    """

    code: str
    severity: str
    message: str
    figure: float
    device: str = ""
    reading: int | None = None


def check(readings: Bits, *, bias: PhaseBias | None = None) -> list[Finding]:
    """Everything that is wrong with one device's readings, the fatal findings first.

    Args:
        readings: shape ``(readings, bits)``; remanence and outliers take three readings or more to be seen.
        bias: result of ``phase_bias`` on the majority, if it is at hand.

    Raises:
        ParameterError: not a ``uint8`` array of 0/1 of that shape.
    """
    reference = metrics.reference_of(readings)
    ones = float(reference.mean())
    if min(ones, 1.0 - ones) < _CONSTANT:
        return [Finding("constant", "fatal", f"the memory is constant: its share of ones is {ones:.4f}", ones)]
    found = _dead(readings)
    if not found:
        bias = bias or phase_bias(reference)
        found = _noise(readings)
        found += _structure(readings, reference, bias, remanent=any(item.code == "remanence" for item in found))
        found += _bias(float(metrics.uniformity(readings).mean()), bias)
    return sorted(found, key=lambda item: item.severity != "fatal")


def _dead(readings: Bits) -> list[Finding]:
    shares = metrics.uniformity(readings)
    return [
        Finding(
            "dead_reading",
            "fatal",
            f"reading {i} is constant: its share of ones is {shares[i]:.4f}; leave it out",
            float(shares[i]),
            reading=i,
        )
        for i in np.flatnonzero(np.minimum(shares, 1.0 - shares) < _CONSTANT).tolist()
    ]


def _structure(readings: Bits, reference: Bits, bias: PhaseBias, *, remanent: bool) -> list[Finding]:
    if len(reference) < LEAST_BITS:
        return []
    found = []
    period = bias.period
    constant = constant_block(reference, period)
    repeated = constant and repeated_block(_masked(reference, constant.start, constant.length), period)
    repeated = repeated if constant else repeated_block(reference, period)
    if constant:
        text = f"{constant.length} cells from {constant.start} on are all equal: no PUF cells; read around them"
        found.append(Finding("constant_block", "fatal", text, float(constant.length)))
    if repeated:
        text = (
            f"{repeated.length} cells from {repeated.start} on repeat those {repeated.lag} cells before them: "
            "aliased or copied memory; read each cell once (offset and length of the source)"
        )
        found.append(Finding("repeated_block", "fatal", text, float(repeated.length)))
    if not found:
        coefficients, limit = autocorrelation(reference, period)
        lag = int(np.argmax(np.abs(coefficients)))
        value = float(coefficients[lag])
        if abs(value) > max(limit, _REPETITION):
            text = f"cells {lag + 1} apart are correlated by {value:.3f}: they do not vary independently"
            found.append(Finding("repetition", "fatal", text, value))
    if not found and not remanent and len(readings) > 1:
        old = constant_block(readings[0], period) or repeated_block(readings[0], period)
        if old:
            text = (
                f"the first reading alone holds {old.length} structured cells from {old.start} on: old data; leave the "
                "memory without power for longer, or drop the reading"
            )
            found.append(Finding("remanence", "fatal", text, float(old.length), reading=0))
    return found


def _masked(response: Bits, start: int, length: int) -> Bits:
    """The response without a stretch, so that a second search does not find the same again."""
    return np.delete(response, slice(start, start + length))


def _noise(readings: Bits) -> list[Finding]:
    count, bits = readings.shape
    if count < 2:
        return []
    rate = metrics.bit_error_rate(readings)
    own = metrics.leave_one_out(readings)
    pairs = metrics.distances(readings, readings)
    found = _equal(pairs, bits) + _outliers(pairs, own)
    known = {item.reading for item in found if item.severity == "fatal"}
    found += [item for item in _regions(readings) if item.reading not in known]
    if not any(item.severity == "fatal" for item in found):
        if rate > 0.40:
            text = f"two readings differ in {rate:.1%} of the cells: this is not one and the same device"
            found.append(Finding("not_one_device", "fatal", text, rate))
        found += _drift(pairs)
    return found


def _equal(pairs: Floats, bits: int) -> list[Finding]:
    upper = pairs[np.triu_indices(len(pairs), 1)]
    usual = float(np.median(upper))
    if upper.min() > 0.0 or usual == 0.0 or bits * np.log1p(-usual) + log(upper.size) > log(FALSE_ALARM):
        return []
    i, j = np.argwhere(np.triu(pairs == 0.0, 1))[0].tolist()
    text = f"readings {i} and {j} are equal, where two others differ in {usual:.1%}: the same reading twice"
    return [Finding("repeated_reading", "warning", text, 0.0, reading=j)]


def _outliers(pairs: Floats, own: Floats) -> list[Finding]:
    if len(pairs) < 3:
        return []
    nearest = np.where(np.eye(len(pairs), dtype=bool), np.inf, pairs).min(axis=1)
    found = []
    for i in range(len(pairs)):
        usual = float(np.median(np.delete(nearest, i)))
        excess = float(nearest[i]) - usual
        far = nearest[i] > _OUTLIER_TIMES * usual
        foreign = own[i] > _FOREIGN and own[i] > 2.0 * np.median(own)
        suspect = far and excess > _SUSPECT_EXCESS
        if not (foreign or suspect):
            continue
        text = (
            f"reading {i} is {own[i]:.1%} away from the majority of the others and {nearest[i]:.1%} from the nearest, "
            f"where {usual:.1%} is usual"
        )
        if i == 0:
            text += ": old data (leave the memory without power for longer), or another condition; drop the reading"
            found.append(Finding("remanence", "fatal", text, float(own[i]), reading=0))
        else:
            severity = "fatal" if foreign or (far and excess > _OUTLIER_EXCESS) else "warning"
            text += ": a bad capture, another device or another condition; drop the reading"
            found.append(Finding("outlier_reading", severity, text, float(own[i]), reading=i))
    return found


def _regions(readings: Bits) -> list[Finding]:
    """Windows in which one reading differs from the others far more than in the rest of the memory."""
    count, bits = readings.shape
    windows = bits // _WINDOW
    if count < 3 or windows < 4:
        return []
    ones = readings.sum(axis=0, dtype=np.int64)
    found = []
    for i, reading in enumerate(readings):
        wrong = (2 * (ones - reading) > count - 1) != reading
        errors = wrong[: windows * _WINDOW].reshape(windows, _WINDOW).sum(axis=1)
        worst = int(np.argmax(errors))
        # The median window: a region of old data, up to half of the memory, does not hide itself.
        usual = max(float(np.median(errors)), 1.0) / _WINDOW
        share = int(errors[worst]) / _WINDOW
        chance = binomial_upper(int(errors[worst]), _WINDOW, usual) + log(windows * count)
        if share < max(_WINDOW_ERRORS, 2.0 * usual) or chance > log(FALSE_ALARM):
            continue
        text = (
            f"reading {i} differs from the others in {share:.0%} of the cells from {worst * _WINDOW} on, and in "
            f"{usual:.1%} elsewhere: old data or a bad transfer; drop the reading"
        )
        excess = float((errors / _WINDOW - usual)[errors >= _WINDOW_ERRORS * _WINDOW].sum()) / windows
        severity = "warning" if i and excess < _SUSPECT_EXCESS else "fatal"
        found.append(Finding("foreign_region" if i else "remanence", severity, text, share, reading=i))
    return found


def _drift(pairs: Floats) -> list[Finding]:
    count = len(pairs)
    if count < 6:
        return []
    near = float(np.diagonal(pairs, 1).mean())
    far = float(np.concatenate([np.diagonal(pairs, lag) for lag in range(count // 2, count)]).mean())
    if far < 1.5 * near or far - near < 0.01:
        return []
    text = f"neighbouring readings differ by {near:.1%}, distant ones by {far:.1%}: temperature or ageing moves them"
    return [Finding("drift", "warning", text, far - near)]


def _bias(ones: float, bias: PhaseBias) -> list[Finding]:
    found = []
    if not 0.4 <= ones <= 0.6:
        found.append(Finding("bias", "warning", f"the share of ones is {ones:.3f}", ones))
    if bias.spread >= _LANE_SPREAD:
        text = (
            f"the bias repeats every {bias.period} cells: shares of ones from {min(bias.shares):.2f} to "
            f"{max(bias.shares):.2f}"
        )
        found.append(Finding("lane_bias", "warning", text, bias.spread))
    return found
