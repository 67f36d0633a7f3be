"""Where a fingerprint goes: the float matrices and kernels of a model file, read and written block by block."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone import canonical
from unclone.fleet.tracing_code import CARRIER_BLOCK
from unclone.formats import Format, Layout, Region, detect
from unclone.model.reading import Files, read_into

__all__ = ["FLOATS", "Place", "Places", "blocks", "decode", "encode", "find_places", "read_values", "root_mean_square"]

FLOATS: Final = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Dtypes that carry a fingerprint -> bytes of an element."""

_DIGEST_BYTES: Final = 1 << 16

Values = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor that carries a part of the fingerprint.

    Attributes:
        index: its place among the model's weights, which names its part of the carrier.
        region: where it lies.
    """

    index: int
    region: Region

    @property
    def count(self) -> int:
        """Number of weights."""
        return self.region.nbytes // FLOATS[self.region.dtype]


@dataclass(frozen=True, slots=True)
class Places:
    """A model taken apart for a fingerprint.

    Attributes:
        format: the format that reads it.
        layout: where its tensors lie.
        places: the tensors that carry.
        left: names of the weights that do not: integers, vectors (biases, norms), block types.
        digest: 32 bytes that tell this model from any other of the vendor's: SHA-256 over names, dtypes, shapes and
            the first 64 KiB of every weight.
    """

    format: Format
    layout: Layout
    places: tuple[Place, ...]
    left: tuple[str, ...]
    digest: bytes


def find_places(path: Path) -> Places:
    """Take an ordinary model apart.

    Raises:
        FormatError: the model cannot be read.
        AlreadyBoundError: it is bound; its weights are not the true ones.
    """
    found = detect(path)
    draft = found.draft(path)
    layout = found.layout(path)
    places: list[Place] = []
    left: list[str] = []
    seen: set[tuple[int, int]] = set()
    for index, weight in enumerate(draft.weights):
        region = layout.regions.get(weight.name)
        if region is None or weight.dtype not in FLOATS or len(weight.shape) < 2:
            left.append(weight.name)
        elif region.nbytes and (region.file, region.offset) not in seen:
            seen.add((region.file, region.offset))
            places.append(Place(index, region))
    return Places(found, layout, tuple(places), tuple(left), _digest(layout, places))


def _digest(layout: Layout, places: list[Place]) -> bytes:
    digest = hashlib.sha256(
        canonical.encode([[place.region.name, place.region.dtype, list(place.region.shape)] for place in places])
    )
    with Files(layout.files) as files:
        for place in places:
            scratch = np.empty(min(_DIGEST_BYTES, place.region.nbytes), dtype=np.uint8)
            read_into(files.descriptors[place.region.file], scratch, place.region.offset)
            digest.update(scratch.data)
    return digest.digest()


def blocks(place: Place) -> Iterator[tuple[int, int, int]]:
    """The blocks of a tensor: number, first weight, count."""
    for block in range(math.ceil(place.count / CARRIER_BLOCK)):
        first = block * CARRIER_BLOCK
        yield block, first, min(CARRIER_BLOCK, place.count - first)


def decode(raw: NDArray[np.uint8], dtype: str) -> Values:
    """The numbers in ``raw``: ``float64`` for float64, else ``float32``; always a copy."""
    if dtype == "bfloat16":
        return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "float64":
        return raw.view("<f8").astype(np.float64)
    return raw.view("<f2" if dtype == "float16" else "<f4").astype(np.float32)


def encode(values: Values, dtype: str) -> NDArray[np.uint8]:
    """The bytes of finite ``values``, rounded to nearest, ties to even."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (rounded >> np.uint32(16)).astype("<u2").view(np.uint8)
    kind = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}[dtype]
    with np.errstate(over="ignore"):  # the caller puts back what overflowed
        return values.astype(kind).view(np.uint8)


def root_mean_square(files: Files, place: Place) -> float:
    """Root mean square of the finite values of a tensor; 0 for one without negative values, which carries nothing.

    A tensor that is never negative may be a variance or a table of distances, whose sign matters.
    """
    total, count, negative = 0.0, 0, False
    for _, first, length in blocks(place):
        values = read_values(files, place, first, length)
        finite = values[np.isfinite(values)].astype(np.float64)
        total += float(finite @ finite)
        count += finite.size
        negative = negative or bool((finite < 0).any())
    return float(np.sqrt(total / count)) if negative else 0.0


def read_values(files: Files, place: Place, first: int, count: int) -> Values:
    """Weights of a tensor as numbers."""
    width = FLOATS[place.region.dtype]
    raw: NDArray[np.uint8] = np.empty(count * width, dtype=np.uint8)
    read_into(files.descriptors[place.region.file], raw, place.region.offset + first * width)
    return decode(raw, place.region.dtype)
