"""What a leak shows of a fingerprint: its difference from the original, made robust and summed chip by chip.

Everything here may depend on the leak and on the original in any way; nothing may depend on a device's codeword, or the
bound on false accusations would not hold (spec/tracing.md, sections 4 and 5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import AlreadyBoundError
from unclone.fleet.tracing_align import align
from unclone.fleet.tracing_code import CHIPS, Carrier
from unclone.fleet.tracing_places import FLOATS, Place, Places, blocks, read_values, root_mean_square
from unclone.formats import Region, detect
from unclone.model.reading import Files

__all__ = ["Evidence", "Leak", "gather", "open_leak"]

_SAMPLE: Final = 1 << 15
_SAMPLES: Final = 8
_CLIP: Final = 3 * 1.4826  # three standard deviations, by the median of magnitudes
_LONGEST: Final = 3.0  # no weight moves by more steps
_ALIKE: Final = 0.995
"""A tensor whose correlation with the original is below this (a tenth of it is new) may have been moved about."""
_STRANGE: Final = 0.1
"""One below this is another tensor."""
_ALIGN_LIMIT: Final = 1 << 26

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Leak:
    """A leaked model: its files, and its float tensors by name."""

    files: tuple[Path, ...]
    regions: dict[str, Region]


@dataclass(slots=True)
class Evidence:
    """What was gathered.

    Attributes:
        chips: sums over the weights of each chip, ``float64``, shape ``(CHIPS,)``.
        reach: what the sums would be for a chip that moved by one step.
        weights: weights that were compared.
        aligned: tensors whose rows or columns had to be put back in order or to scale.
        missing: tensors of the original that the leak does not have, or that resemble nothing in it.
    """

    chips: Floats = field(default_factory=lambda: np.zeros(CHIPS))
    reach: Floats = field(default_factory=lambda: np.zeros(CHIPS))
    weights: int = 0
    aligned: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def despread(self, carrier: Carrier) -> Floats:
        """The sums less what chips of the same bias have in common: a coalition shifts those together."""
        shift = np.bincount(carrier.shares, weights=self.chips * self.reach, minlength=256)
        power = np.bincount(carrier.shares, weights=self.reach**2, minlength=256)
        common = np.divide(shift, power, out=np.zeros_like(shift), where=power > 0)
        return self.chips - common[carrier.shares] * self.reach


def open_leak(path: Path) -> Leak:
    """Find the tensors of a leaked model, in any format that ``unclone.formats`` knows.

    Raises:
        FormatError: it cannot be read.
        AlreadyBoundError: it is a bound model, whose weights are masked.
    """
    layout = detect(path).layout(path)
    if layout.header is not None:
        raise AlreadyBoundError(f"{path} is a bound model: its weights are masked; trace weights as a device has them")
    regions = {name: region for name, region in layout.regions.items() if region.dtype in FLOATS}
    return Leak(layout.files, regions)


def gather(places: Places, leak: Leak, carrier: Carrier, strength: float) -> Evidence:
    """Compare a leak with the original.

    Args:
        places: of the model as it was before fingerprinting.
        leak: the leaked model.
        carrier: of the original.
        strength: of the fingerprint; a guess does, it only balances the tensors against each other.
    """
    evidence = Evidence()
    with Files(places.layout.files) as ours, Files(leak.files) as theirs:
        for place in places.places:
            step = strength * root_mean_square(ours, place)
            found = _counterpart(place, leak)
            if not step:
                continue
            if found is None:
                evidence.missing.append(place.region.name)
                continue
            _Tensor(ours, theirs, place, found, step).add_to(evidence, carrier)
    return evidence


def _counterpart(place: Place, leak: Leak) -> Place | None:
    """The leak's tensor of that name and shape; of a renamed one, the only one of that shape."""
    region = leak.regions.get(place.region.name)
    if region is None:
        alike = [item for item in leak.regions.values() if item.shape == place.region.shape]
        region = alike[0] if len(alike) == 1 else None
    return Place(place.index, region) if region is not None and region.shape == place.region.shape else None


class _Tensor:
    """One tensor of the original and its counterpart in the leak."""

    def __init__(self, ours: Files, theirs: Files, place: Place, leaked: Place, step: float) -> None:
        self._ours = ours
        self._theirs = theirs
        self._place = place
        self._leaked = leaked
        self._step = step
        self._whole: Floats | None = None  # the leak put back in order, where that was needed

    def add_to(self, evidence: Evidence, carrier: Carrier) -> None:
        """Sum what this tensor shows into the chips."""
        alike, scale = self._likeness()
        if alike < _ALIKE and self._align(alike):
            evidence.aligned.append(self._place.region.name)
            alike, scale = self._likeness()
        if alike < _STRANGE:
            evidence.missing.append(self._place.region.name)
            return
        limit, mean, power = self._noise(scale)
        # Matched filter: step over noise power. Less noise than a step is no noise: the step itself is the difference.
        gain = self._step / max(power, self._step**2)
        for block, first, count in blocks(self._place):
            seen = self._difference(first, count, scale)
            words = carrier.words(self._place.index, block, count)
            chips = words & np.uint16(CHIPS - 1)
            usable = np.isfinite(seen)
            seen = np.where(usable, np.clip(seen, -limit, limit) - mean, 0.0) * gain
            np.negative(seen, out=seen, where=words > np.uint16(CHIPS - 1))
            evidence.chips += np.bincount(chips, weights=seen, minlength=CHIPS)
            evidence.reach += np.bincount(chips[usable], minlength=CHIPS) * (gain * self._step)
            evidence.weights += int(usable.sum())

    def _pair(self, first: int, count: int) -> tuple[Floats, Floats]:
        """Original and leaked weights; what the leak lost (zero, or no number) is NaN."""
        ours = read_values(self._ours, self._place, first, count).astype(np.float64)
        if self._whole is None:
            leaked = read_values(self._theirs, self._leaked, first, count).astype(np.float64)
        else:
            leaked = self._whole[first : first + count].copy()
        leaked[(leaked == 0) | ~np.isfinite(leaked) | (ours == 0) | ~np.isfinite(ours)] = np.nan
        return ours, leaked

    def _difference(self, first: int, count: int, scale: float) -> Floats:
        ours, leaked = self._pair(first, count)
        return leaked - scale * ours

    def _samples(self) -> list[tuple[int, int]]:
        """Ranges spread over the tensor: all of a small one."""
        count = self._place.count
        if count <= _SAMPLE * _SAMPLES:
            return [(first, length) for _, first, length in blocks(self._place)]
        return [(int(start), _SAMPLE) for start in np.linspace(0, count - _SAMPLE, _SAMPLES)]

    def _likeness(self) -> tuple[float, float]:
        """Correlation of the leak with the original over what is left of it, and the scale between them."""
        cross = ours_power = leaked_power = 0.0
        for first, count in self._samples():
            ours, leaked = self._pair(first, count)
            kept = np.isfinite(leaked)
            ours, leaked = ours[kept], leaked[kept]
            cross += float(ours @ leaked)
            ours_power += float(ours @ ours)
            leaked_power += float(leaked @ leaked)
        if not ours_power or not leaked_power:
            return 0.0, 1.0
        return cross / np.sqrt(ours_power * leaked_power), cross / ours_power

    def _noise(self, scale: float) -> tuple[float, float, float]:
        """Where to clip, the mean to take off, and the power of what is left."""
        parts = [self._difference(first, count, scale) for first, count in self._samples()]
        seen = np.concatenate(parts)
        seen = seen[np.isfinite(seen)]
        if not seen.size:
            return 0.0, 0.0, 0.0
        limit = max(_CLIP * float(np.median(np.abs(seen))), _LONGEST * self._step)
        seen = np.clip(seen, -limit, limit)
        mean = float(seen.mean())
        return limit, mean, float(np.mean((seen - mean) ** 2))

    def _align(self, alike: float) -> bool:
        """Undo permutations and scales of rows and columns; keep that if it takes off half of what is new."""
        if self._place.count > _ALIGN_LIMIT:
            return False
        shape = self._place.region.shape
        parts = [self._pair(first, count) for _, first, count in blocks(self._place)]
        ours = np.concatenate([part[0] for part in parts]).reshape(shape[0], shape[1], -1)
        leaked = np.concatenate([part[1] for part in parts]).reshape(ours.shape)
        whole = align(ours, leaked)
        if whole is None:
            return False
        self._whole = whole.ravel()
        if 1 - self._likeness()[0] ** 2 < (1 - max(alike, 0.0) ** 2) / 2:
            return True
        self._whole = None
        return False
