"""numpy: the arrays of a bound .npz or .safetensors file, as ``numpy.load`` would give the true ones."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unclone.errors import FormatError
from unclone.formats.npy import NPY_HEADER_LIMIT, header_before
from unclone.licence import LicenceSource
from unclone.model import RestoredModel, RestoredTensor, restore
from unclone.records import DeviceKey
from unclone.runtime.arrays import array_of

__all__ = ["arrays_of", "load"]

_BEFORE = NPY_HEADER_LIMIT + 12


def load(
    path: str | os.PathLike[str], key: DeviceKey, *, licence: LicenceSource | None = None
) -> dict[str, NDArray[Any]]:
    """The true arrays of a bound .npz or .safetensors file, by name; nothing is written to disk.

    Replaces ``dict(numpy.load(path, allow_pickle=False))``: same names, shapes, types and orders. The arrays share one
    private buffer and are writable.

    Args:
        path: the bound model.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.

    Raises:
        FormatError: a model of another format.
        MissingExtraError: the file holds types of ml_dtypes, which is not installed.
        UncloneError: as ``unclone.restore``.
    """
    return arrays_of(restore(path, key, licence=licence))


def arrays_of(restored: RestoredModel) -> dict[str, NDArray[Any]]:
    """Views of a restored model's tensors, no copy; they read zero once it is wiped.

    Raises:
        FormatError: the model is neither .npz nor .safetensors.
    """
    found = restored.header.format
    if found == "safetensors":
        return {name: array_of(tensor) for name, tensor in restored.items()}
    if found != "npz":
        raise FormatError(f"a {found} model was given where npz or safetensors is needed")
    return {name: _array(restored, tensor) for name, tensor in restored.items()}


def _array(restored: RestoredModel, tensor: RestoredTensor) -> NDArray[Any]:
    """Type, shape and order as the array's own header has them: text and column order are no part of ``Region``."""
    region = restored.layout.regions[tensor.name]
    start = max(region.offset - _BEFORE, 0)
    carrier = restored.carrier
    if carrier is not None and carrier.kept:
        before = carrier.read(region.file, start, region.offset)  # the bytes that were verified
    else:
        try:
            with restored.layout.files[region.file].open("rb") as stream:
                before = os.pread(stream.fileno(), region.offset - start, start)
        except OSError as problem:
            raise FormatError(f"cannot read {restored.layout.files[region.file]}: {problem.strerror}") from None
    header = header_before(before, f"array {tensor.name[:80]!r}")
    if header.nbytes != region.nbytes:
        raise FormatError(f"{restored.layout.files[0]} changed while it was read")
    flat = tensor.data.view(np.dtype(header.descr)) if header.nbytes else np.empty(0, np.dtype(header.descr))
    return flat.reshape(header.shape, order="F" if header.fortran else "C")
