"""Assess devices side by side: every figure and every finding in one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from unclone.errors import ParameterError
from unclone.quality import metrics
from unclone.quality.checks import Finding, check
from unclone.quality.fleet import check_fleet
from unclone.quality.structure import autocorrelation, phase_bias

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]

__all__ = ["DeviceQuality", "FleetQuality", "QualityReport", "assess"]

_LINES: Final = 40


@dataclass(frozen=True, slots=True)
class DeviceQuality:
    """The figures of one device; ``None`` where one reading is not enough. See ``metrics`` for their definitions.

    Attributes:
        name: of the device.
        readings: number of readings.
        bits: cells.
        uniformity: share of ones, mean over the readings.
        bit_error_rate: mean distance of two readings.
        intra_distance_max: largest distance of two readings.
        reliability: 1 - mean distance of a reading to the majority of the others (Maiti).
        steadiness, correctness: Hori.
        randomness, diffuseness: Hori; diffuseness over words of 128 bits, ``None`` for fewer than two.
        stable_cells: share of cells that read the same every time.
        error_by_reading: distance of each reading to the majority of the others.
        conditions: what the readings were taken at, for example temperatures, if known.
        period: of the bias in cells, 1 for none; ``phase_shares`` are the shares of ones of its phases.
        autocorrelation: largest coefficient in absolute value, at lag ``autocorrelation_lag``, with the periodic bias
            taken out; beyond ``autocorrelation_limit`` it is significant at 1e-9.
        entropy: min-entropy figures handed in, bits per cell, by estimator.
    """

    name: str
    readings: int
    bits: int
    uniformity: float
    bit_error_rate: float | None
    intra_distance_max: float | None
    reliability: float | None
    steadiness: float | None
    correctness: float | None
    randomness: float
    diffuseness: float | None
    stable_cells: float | None
    error_by_reading: tuple[float, ...]
    conditions: tuple[float, ...]
    period: int
    phase_shares: tuple[float, ...]
    autocorrelation: float
    autocorrelation_lag: int
    autocorrelation_limit: float
    entropy: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FleetQuality:
    """The figures of two or more devices of equal length.

    Attributes:
        devices: names.
        uniqueness: mean distance of two devices, ideal 0.5 (Maiti).
        uniqueness_hori: ideal (N - 1) / N.
        inter_distance_min, inter_distance_max: of two devices.
        bit_aliasing_mean, bit_aliasing_min, bit_aliasing_max: share of devices in which a cell is 1.
        alias_entropy: bits of min-entropy a cell when the other devices are known; low by chance for few devices.
        alias_entropy_fair: what fair, independent cells of as many devices give.
    """

    devices: tuple[str, ...]
    uniqueness: float
    uniqueness_hori: float
    inter_distance_min: float
    inter_distance_max: float
    bit_aliasing_mean: float
    bit_aliasing_min: float
    bit_aliasing_max: float
    alias_entropy: float
    alias_entropy_fair: float


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Result of ``assess``.

    Attributes:
        devices: one entry per device, in the order given.
        fleet: for each length that two or more devices share.
        findings: what is wrong, the fatal first.
        entropy: figures handed in that belong to no single device.
        responses: the readings, for drawing.
    """

    devices: tuple[DeviceQuality, ...]
    fleet: tuple[FleetQuality, ...]
    findings: tuple[Finding, ...]
    entropy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    responses: Mapping[str, Bits] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``devices``, ``fleet``, ``entropy`` and ``findings``; shares and rates from 0 to 1."""
        return {
            "devices": [
                {**asdict(device), "findings": [item.code for item in self.findings if item.device == device.name]}
                for device in self.devices
            ],
            "fleet": [asdict(group) for group in self.fleet],
            "entropy": {name: dict(figures) for name, figures in self.entropy.items()},
            "findings": [asdict(item) for item in self.findings],
        }

    def to_text(self) -> str:
        """Lines for a terminal."""
        head = f"{'device':<20} {'readings':>8} {'bits':>9} {'ones':>6} {'error':>7}"
        lines = [f"{head} {'steady':>7} {'period':>6} {'entropy':>7}"]
        for device in self.devices[:_LINES]:
            rate = "-" if device.bit_error_rate is None else f"{device.bit_error_rate:.2%}"
            steady = "-" if device.steadiness is None else f"{device.steadiness:.3f}"
            entropy = f"{device.entropy['bound']:.3f}" if "bound" in device.entropy else "-"
            lines.append(
                f"{device.name[-20:]:<20} {device.readings:>8} {device.bits:>9,} {device.uniformity:>6.3f} {rate:>7} "
                f"{steady:>7} {device.period:>6} {entropy:>7}"
            )
        if len(self.devices) > _LINES:
            lines.append(f"... and {len(self.devices) - _LINES} more (--json, --html)")
        for group in self.fleet:
            lines.append(
                f"{len(group.devices)} devices: uniqueness {group.uniqueness:.4f} ({group.inter_distance_min:.3f} to "
                f"{group.inter_distance_max:.3f}), alias entropy {group.alias_entropy:.3f} (fair cells: "
                f"{group.alias_entropy_fair:.3f})"
            )
        shown = [
            f"{item.severity}: {item.device + ': ' if item.device else ''}{item.message}" for item in self.findings
        ]
        lines += shown[:_LINES] or ["nothing looks wrong"]
        if len(shown) > _LINES:
            lines.append(f"... and {len(shown) - _LINES} more findings (--json)")
        return "\n".join(lines)


def assess(
    devices: Mapping[str, Bits],
    entropy: Mapping[str, Mapping[str, float]] | None = None,
    *,
    conditions: Mapping[str, Sequence[float]] | None = None,
) -> QualityReport:
    """Every figure of every device, the fleet's, and what looks wrong.

    Args:
        devices: readings of each device by name, ``uint8`` of 0/1, shape ``(readings, bits)``.
        entropy: min-entropy figures by device name (bits per cell, by estimator); other names are the fleet's.
        conditions: by device name, what each reading was taken at (temperature, hours), one number a reading.

    Raises:
        ParameterError: no device, a malformed array, or conditions that do not match the readings.
    """
    if not devices:
        raise ParameterError("quality needs at least one device")
    entropy, conditions = entropy or {}, conditions or {}
    found: list[Finding] = []
    assessed = []
    for name, readings in devices.items():
        if len(conditions.get(name, readings)) != len(readings):
            raise ParameterError(f"{name} has {len(readings)} readings, and conditions for {len(conditions[name])}")
        reference = metrics.reference_of(readings)
        bias = phase_bias(reference)
        found += [replace(item, device=name) for item in check(readings, bias=bias)]
        coefficients, limit = autocorrelation(reference, bias.period)
        lag = int(np.argmax(np.abs(coefficients))) if coefficients.size else 0
        several = len(readings) > 1
        ones = readings.sum(axis=0, dtype=np.int64)
        assessed.append(
            DeviceQuality(
                name=name,
                readings=len(readings),
                bits=reference.size,
                uniformity=float(metrics.uniformity(readings).mean()),
                bit_error_rate=metrics.bit_error_rate(readings) if several else None,
                intra_distance_max=float(metrics.intra_distances(readings).max()) if several else None,
                reliability=metrics.reliability(readings) if several else None,
                steadiness=metrics.steadiness(readings) if several else None,
                correctness=metrics.correctness(readings) if several else None,
                randomness=metrics.randomness(readings),
                diffuseness=metrics.diffuseness(reference),
                stable_cells=float(((ones == 0) | (ones == len(readings))).mean()) if several else None,
                error_by_reading=tuple(metrics.leave_one_out(readings).tolist()) if several else (),
                conditions=tuple(float(value) for value in conditions.get(name, ())),
                period=bias.period,
                phase_shares=bias.shares,
                autocorrelation=float(coefficients[lag]) if coefficients.size else 0.0,
                autocorrelation_lag=lag + 1,
                autocorrelation_limit=limit,
                entropy=dict(entropy.get(name, {})),
            )
        )
    found += check_fleet(devices)
    return QualityReport(
        devices=tuple(assessed),
        fleet=_fleets(devices),
        findings=tuple(sorted(found, key=lambda item: item.severity != "fatal")),
        entropy={name: dict(figures) for name, figures in entropy.items() if name not in devices},
        responses=dict(devices),
    )


def _fleets(devices: Mapping[str, Bits]) -> tuple[FleetQuality, ...]:
    groups: dict[int, list[str]] = {}
    for name, readings in devices.items():
        groups.setdefault(readings.shape[1], []).append(name)
    fleets = []
    for names in groups.values():
        if len(names) < 2:
            continue
        references = np.stack([metrics.reference_of(devices[name]) for name in names])
        apart, aliasing = metrics.inter_distances(references), metrics.bit_aliasing(references)
        fleets.append(
            FleetQuality(
                devices=tuple(names),
                uniqueness=float(apart.mean()),
                uniqueness_hori=metrics.uniqueness_hori(references),
                inter_distance_min=float(apart.min()),
                inter_distance_max=float(apart.max()),
                bit_aliasing_mean=float(aliasing.mean()),
                bit_aliasing_min=float(aliasing.min()),
                bit_aliasing_max=float(aliasing.max()),
                alias_entropy=metrics.alias_entropy(references),
                alias_entropy_fair=metrics.alias_entropy_fair(len(names)),
            )
        )
    return tuple(fleets)
