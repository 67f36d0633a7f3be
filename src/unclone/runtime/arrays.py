"""Restored tensors as numpy arrays."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import MissingExtraError, UnsupportedError
from unclone.model import RestoredTensor

__all__ = ["array_of", "numpy_dtype"]

_NATIVE: Final = frozenset(
    ["bool", "complex64", "complex128", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
_EXTENDED: Final = {
    "bfloat16": "bfloat16",
    "float8_e4m3fn": "float8_e4m3fn",
    "float8_e4m3fnuz": "float8_e4m3fnuz",
    "float8_e5m2": "float8_e5m2",
    "float8_e5m2fnuz": "float8_e5m2fnuz",
    "float8_e8m0": "float8_e8m0fnu",
}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a restored tensor's ``dtype``.

    Raises:
        MissingExtraError: a type that numpy itself has not, and ml_dtypes is not installed.
        UnsupportedError: a type of less than a byte, or a block type: take ``RestoredTensor.data`` itself.
    """
    if name in _NATIVE:
        return np.dtype(name)
    if name not in _EXTENDED:
        raise UnsupportedError(f"numpy has no dtype for {name!r}; use the bytes in RestoredTensor.data")
    try:
        import ml_dtypes
    except ImportError:
        raise MissingExtraError("ml_dtypes", "onnx") from None
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _EXTENDED[name]))
    return found


def array_of(tensor: RestoredTensor) -> NDArray[Any]:
    """A view of the restored bytes, no copy; it is overwritten when the model is wiped."""
    return tensor.data.view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)
