"""Tracing: a fingerprint in each device's weights, and the device found again from weights that leaked.

The construction and the bound are in spec/tracing.md; what survives what, measured, in docs/tracing.md.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import NoWeightsError, OutputError, ParameterError
from unclone.files import atomic_output, check_output
from unclone.fleet.tracing_code import Carrier, codeword, signs
from unclone.fleet.tracing_places import FLOATS, Place, Places, Values, blocks, decode, encode, find_places
from unclone.keys import trace_keys
from unclone.model.reading import read_into
from unclone.records import DeviceKey

__all__ = ["FEWEST_WEIGHTS", "STRENGTH", "Fingerprint", "fingerprinted"]

STRENGTH: Final = 0.01
"""Default size of a step, as a part of the tensor's root mean square: about the error of rounding to int8."""

FEWEST_WEIGHTS: Final = 4096
"""A model with fewer weights to move could not name one device among a million."""


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
        path: an ordinary model of a format that ``unclone.formats`` knows, in one file; never altered.
        trace_key: the vendor's secret, the same for every device of the model.
        device_id: what ``trace`` shall name, for example the registry's digest of the device's public key in hex.
        output: where the copy goes.
        strength: size of a step as a part of the tensor's root mean square, above 0 and at most 0.1.
        force: replace ``output`` if it exists.

    Raises:
        FormatError: the model cannot be read.
        AlreadyBoundError: it is bound: fingerprint first, then bind.
        UnsupportedError: its weights lie in more than one file.
        NoWeightsError: fewer than ``FEWEST_WEIGHTS`` float weights could carry the fingerprint, as in a model of int8.
        ParameterError: ``strength`` or ``device_id`` is out of range.
        OutputError: ``output`` exists or cannot be written.
    """
    source, target = Path(path), Path(output)
    if not 0 < strength <= 0.1:
        raise ParameterError(f"strength is above 0 and at most 0.1, not {strength}")
    check_output(target, force=force)
    if target.exists() and source.exists() and target.samefile(source):
        raise OutputError(f"{target} is the model itself; a fingerprint never replaces its input")
    places = find_places(source)
    check_carriers(source, places)
    keys = trace_keys(trace_key, places.digest)
    steps = signs(codeword(keys, device_id))
    with source.open("rb") as original, atomic_output(target, force=force) as stream:
        shutil.copyfileobj(original, stream, 1 << 20)
        stream.flush()
        writer = _Writer(original, stream, Carrier(keys), np.concatenate([steps, -steps]))
        changed = sum(writer.move(place, strength) for place in places.places)
        places.format.mend(places.layout, [stream])
    return Fingerprint(sum(place.count for place in places.places), changed, places.left)


def check_carriers(path: Path, places: Places) -> None:
    """Raise ``NoWeightsError`` if the model has too few weights for a fingerprint."""
    count = sum(place.count for place in places.places)
    if count < FEWEST_WEIGHTS:
        raise NoWeightsError(
            f"{path} has {count} float weights in matrices and kernels; a fingerprint needs {FEWEST_WEIGHTS}"
            + (f" (left alone: {', '.join(places.left[:3])}, ...)" if places.left else "")
        )


def root_mean_square(stream: BinaryIO, place: Place) -> float:
    """Root mean square of the finite values of a tensor; 0 for one without negative values, which carries nothing.

    A tensor that is never negative may be a variance or a table of distances, whose sign matters.
    """
    total, count, negative = 0.0, 0, False
    for _, first, length in blocks(place):
        values = read_values(stream, place, first, length)
        finite = values[np.isfinite(values)].astype(np.float64)
        total += float(finite @ finite)
        count += finite.size
        negative = negative or bool((finite < 0).any())
    return float(np.sqrt(total / count)) if negative else 0.0


def read_values(stream: BinaryIO, place: Place, first: int, count: int) -> Values:
    """Weights of a tensor as numbers."""
    width = FLOATS[place.region.dtype]
    raw: NDArray[np.uint8] = np.empty(count * width, dtype=np.uint8)
    read_into(stream.fileno(), raw, place.region.offset + first * width)
    return decode(raw, place.region.dtype)


class _Writer:
    """Moves the weights of a copy."""

    def __init__(self, original: BinaryIO, copy: BinaryIO, carrier: Carrier, table: NDArray[np.float32]) -> None:
        self._original = original
        self._copy = copy
        self._carrier = carrier
        self._table = table  # sign of the step by the carrier's word

    def move(self, place: Place, strength: float) -> int:
        """Move the weights of one tensor; how many changed."""
        step = strength * root_mean_square(self._original, place)
        changed = 0
        for block, first, count in blocks(place):
            values = read_values(self._original, place, first, count)
            moved = values + values.dtype.type(step) * self._table[self._carrier.words(place.index, block, count)]
            # Zeros stay, so that sparse models stay sparse; so does what is no number.
            np.copyto(moved, values, where=(values == 0) | ~np.isfinite(values))
            raw = encode(moved, place.region.dtype)
            spoilt = np.isfinite(values) & ~np.isfinite(decode(raw, place.region.dtype))
            if spoilt.any():
                np.copyto(moved, values, where=spoilt)
                raw = encode(moved, place.region.dtype)
            width = FLOATS[place.region.dtype]
            os.pwrite(self._copy.fileno(), raw.data, place.region.offset + first * width)
            changed += int((decode(raw, place.region.dtype) != values).sum())
        return changed
