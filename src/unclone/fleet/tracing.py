"""Tracing: a fingerprint in each device's weights, and the device found again from weights that leaked.

The construction and the bound are in spec/tracing.md; what survives what, measured, in docs/tracing.md.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import NoWeightsError, OutputError, ParameterError
from unclone.files import atomic_output, check_output
from unclone.fleet.tracing_bound import best_devices
from unclone.fleet.tracing_code import Carrier, codeword
from unclone.fleet.tracing_evidence import gather, open_leak
from unclone.fleet.tracing_places import (
    FLOATS,
    Place,
    Places,
    blocks,
    decode,
    encode,
    find_places,
    read_values,
    root_mean_square,
)
from unclone.keys import trace_keys
from unclone.model.binding import write_at
from unclone.model.reading import Files
from unclone.records import DeviceKey

__all__ = [
    "FALSE_ACCUSATION",
    "FEWEST_WEIGHTS",
    "STRENGTH",
    "Fingerprint",
    "Suspect",
    "Trace",
    "fingerprinted",
    "trace",
]

STRENGTH: Final = 0.01
"""Default size of a step, as a part of the tensor's root mean square: about the error of rounding to int8."""

FEWEST_WEIGHTS: Final = 4096
"""A model with fewer weights to move could not name one device among a million."""


FALSE_ACCUSATION: Final = 1e-6
"""Default bound on the probability that a trace accuses any device that had no part in the leak."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What was done to a model.

    Attributes:
        weights: weights that may be moved.
        changed: weights whose value changed; the rest is zero, or too large for its dtype to show the step.
        left: names of the weights that carry nothing: integers, vectors (biases, norms), block types.
    """

    weights: int
    changed: int
    left: tuple[str, ...]


def fingerprinted(
    path: str | os.PathLike[str],
    trace_key: DeviceKey,
    device_id: str,
    output: str | os.PathLike[str],
    *,
    strength: float = STRENGTH,
    force: bool = False,
) -> Fingerprint:
    """Write a copy of an ordinary model that carries a device's fingerprint, to be bound to that device alone.

    The copy has the same length and differs in float weights of two dimensions or more, each by one small step. It is
    in clear: keep it in memory (``/dev/shm``) or in a private folder, and delete it once it is bound. Streams. The same
    model, key, device and strength give the same bytes.

    Args:
        path: an ordinary model of a format that ``unclone.formats`` knows; never altered.
        trace_key: the vendor's secret, the same for every device of the model.
        device_id: what ``trace`` shall name: of a device in a registry its key digest in hex, as ``fleet trace`` asks.
        output: where the copy goes. Files beside the model (shards, external data) go beside it, under their names, so
            a model that has such needs another folder.
        strength: size of a step as a part of the tensor's root mean square, above 0 and at most 0.1.
        force: replace the output if it exists.

    Raises:
        FormatError: the model cannot be read.
        AlreadyBoundError: it is bound: fingerprint first, then bind.
        NoWeightsError: fewer than ``FEWEST_WEIGHTS`` float weights could carry the fingerprint, as in a model of int8.
        ParameterError: ``strength`` or ``device_id`` is out of range.
        OutputError: ``output`` exists or cannot be written.
    """
    source, target = Path(path), Path(output)
    if not 0 < strength <= 0.1:
        raise ParameterError(f"strength is above 0 and at most 0.1, not {strength}")
    check_output(target, force=force)
    places = find_places(source)
    check_carriers(source, places)
    targets = _targets(source, places, target, force=force)
    keys = trace_keys(trace_key, places.digest)
    carrier = Carrier(keys)
    steps = carrier.steps(codeword(keys, device_id, carrier.shares))
    with Files(places.layout.files) as originals, ExitStack() as stack:
        # The model enters first, so that it is published last, when what it names is there.
        streams = [stack.enter_context(atomic_output(path, force=force)) for path in targets]
        for file, stream in zip(places.layout.files, streams, strict=True):
            with file.open("rb") as original:
                shutil.copyfileobj(original, stream, 1 << 20)
            stream.flush()
        writer = _Writer(originals, streams, carrier, np.concatenate([steps, -steps]))
        changed = sum(writer.move(place, strength) for place in places.places)
        places.format.mend(places.layout, streams)
    return Fingerprint(sum(place.count for place in places.places), changed, places.left)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A device and what speaks against it.

    Attributes:
        device: its id.
        deviations: its score in standard deviations of an innocent device's.
        log10_chance: decimal logarithm of a bound on the probability that an innocent device scores as high.
        log10_fleet: the same for any innocent device among all that were compared; at most 0.
        accused: whether the latter is within the limit.
    """

    device: str
    deviations: float
    log10_chance: float
    log10_fleet: float
    accused: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """The outcome of a trace.

    Attributes:
        suspects: the highest scores, best first; those accused are the first of them.
        devices: how many devices were compared.
        limit: bound on the probability that any innocent device is accused.
        weights: weights that the leak and the original have in common.
        aligned: tensors whose rows or columns had to be put back in order or to scale.
        missing: tensors of the original that were not found in the leak.
    """

    suspects: tuple[Suspect, ...]
    devices: int
    limit: float
    weights: int
    aligned: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def accused(self) -> tuple[Suspect, ...]:
        """The devices whose copies the leak was made of, as far as the bound lets one say; often empty."""
        return tuple(suspect for suspect in self.suspects if suspect.accused)


def trace(
    leaked: str | os.PathLike[str],
    original: str | os.PathLike[str],
    trace_key: DeviceKey,
    devices: Iterable[str],
    *,
    limit: float = FALSE_ACCUSATION,
    strength: float = STRENGTH,
    show: int = 5,
) -> Trace:
    """Find the devices whose copies a leaked model was made of.

    The probability that any device is accused whose copy had no part in the leak is at most ``limit``, whatever was
    done to the weights and however many copies were mixed (union bound over ``devices``; spec/tracing.md, section 5).

    Args:
        leaked: the leaked model, in any format that ``unclone.formats`` knows, its tensors named as in the original.
        original: the very model that was given to ``fingerprinted``.
        trace_key: the key that was given to it.
        devices: ids of all devices that could have leaked it; read once, so a generator over a registry will do.
        limit: probability of a false accusation to allow.
        strength: of the fingerprint; a guess does, it only balances the tensors against each other.
        show: suspects to report beside those accused.

    Raises:
        FormatError: a model cannot be read.
        AlreadyBoundError: a bound model, whose weights are masked.
        NoWeightsError: the original has too few float weights, or the leak has none of them.
        ParameterError: ``limit`` or ``strength`` is out of range, or there is no device.
    """
    source = Path(original)
    if not 0 < limit < 1:
        raise ParameterError(f"limit is a probability between 0 and 1, not {limit}")
    if not 0 < strength <= 0.1:
        raise ParameterError(f"strength is above 0 and at most 0.1, not {strength}")
    places = find_places(source)
    check_carriers(source, places)
    leak = open_leak(Path(leaked))
    keys = trace_keys(trace_key, places.digest)
    carrier = Carrier(keys)
    evidence = gather(places, leak, carrier, strength)
    if not evidence.weights:
        raise NoWeightsError(f"{leaked} has no float tensor of {original}: name and shape must be the same")
    count, standings = best_devices(evidence.despread(carrier), carrier, keys, devices)
    if not count:
        raise ParameterError("trace needs the ids of the devices to compare")
    suspects: list[Suspect] = []
    for standing in standings:
        chance = standing.log_chance / math.log(10)
        fleet = min(0.0, chance + math.log10(count))
        accused = fleet <= math.log10(limit)
        if accused or len(suspects) < show:
            suspects.append(Suspect(standing.device, standing.deviations, chance, fleet, accused))
    return Trace(tuple(suspects), count, limit, evidence.weights, tuple(evidence.aligned), tuple(evidence.missing))


def _targets(source: Path, places: Places, target: Path, *, force: bool) -> list[Path]:
    """Where each file of the model goes."""
    folder = Path(os.path.realpath(source.parent))
    beside = [os.path.relpath(os.path.realpath(file), folder) for file in places.layout.files[1:]]
    targets = [target, *(target.parent / name for name in beside)]
    for file, path in zip(places.layout.files, targets, strict=True):
        if path.exists() and path.samefile(file):
            raise OutputError(f"{path} is the model itself; a fingerprint never replaces its input: use another folder")
        check_output(path, force=force)
    return targets


def check_carriers(path: Path, places: Places) -> None:
    """Raise ``NoWeightsError`` if the model has too few weights for a fingerprint."""
    count = sum(place.count for place in places.places)
    if count < FEWEST_WEIGHTS:
        raise NoWeightsError(
            f"{path} has {count} float weights in matrices and kernels; a fingerprint needs {FEWEST_WEIGHTS}"
            + (f" (left alone: {', '.join(places.left[:3])}, ...)" if places.left else "")
        )


class _Writer:
    """Moves the weights of a copy."""

    def __init__(
        self, originals: Files, copies: Sequence[BinaryIO], carrier: Carrier, table: NDArray[np.float32]
    ) -> None:
        self._originals = originals
        self._copies = copies
        self._carrier = carrier
        self._table = table  # length of the step by the carrier's word

    def move(self, place: Place, strength: float) -> int:
        """Move the weights of one tensor; how many changed."""
        step = strength * root_mean_square(self._originals, place)
        changed = 0
        for block, first, count in blocks(place):
            values = read_values(self._originals, place, first, count)
            moved = values + values.dtype.type(step) * self._table[self._carrier.words(place.index, block, count)]
            # Zeros stay, so that sparse models stay sparse; so does what is no number.
            np.copyto(moved, values, where=(values == 0) | ~np.isfinite(values))
            raw = encode(moved, place.region.dtype)
            spoilt = np.isfinite(values) & ~np.isfinite(decode(raw, place.region.dtype))
            if spoilt.any():
                np.copyto(moved, values, where=spoilt)
                raw = encode(moved, place.region.dtype)
            width = FLOATS[place.region.dtype]
            write_at(self._copies[place.region.file].fileno(), raw.data, place.region.offset + first * width)
            changed += int((decode(raw, place.region.dtype) != values).sum())
        return changed
