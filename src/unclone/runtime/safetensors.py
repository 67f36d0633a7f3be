"""safetensors: ``load_file`` as in ``safetensors.numpy``, on the true weights."""

from __future__ import annotations

import os
from typing import Any

from numpy.typing import NDArray

from unclone.errors import FormatError
from unclone.model import RestoredModel, restore
from unclone.records import DeviceKey
from unclone.runtime.arrays import array_of

__all__ = ["arrays_of", "load_file"]


def load_file(path: str | os.PathLike[str], key: DeviceKey) -> dict[str, NDArray[Any]]:
    """The true weights of a bound safetensors file, by name; nothing is written to disk.

    Replaces ``safetensors.numpy.load_file(path)``. The arrays share one private buffer, are writable, and hold bfloat16
    and float8 in the types of ml_dtypes.

    Args:
        path: the bound model.
        key: the device key, from ``reconstruct``.

    Raises:
        MissingExtraError: the file holds types of ml_dtypes, which is not installed.
        UncloneError: as ``unclone.restore``.
    """
    return arrays_of(restore(path, key))


def arrays_of(restored: RestoredModel) -> dict[str, NDArray[Any]]:
    """Views of a restored model's tensors, no copy; they read zero once it is wiped.

    Raises:
        FormatError: the model is not a safetensors file.
    """
    if restored.header.format != "safetensors":
        raise FormatError(f"a {restored.header.format} model was given where safetensors is needed")
    return {name: array_of(tensor) for name, tensor in restored.items()}
