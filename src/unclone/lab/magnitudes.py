"""Which tensors an attack can judge by magnitude, and how to write changed numbers back."""

from __future__ import annotations

import numpy as np

from unclone.lab.contracts import Array

__all__ = ["has_magnitudes", "is_code", "written"]


def is_code(value: Array) -> bool:
    """Whether a tensor holds codes of a quantised weight, one byte each."""
    return value.dtype in (np.int8, np.uint8)


def has_magnitudes(value: Array) -> bool:
    """Whether a larger number means more: floats, and codes of ``int8``, of which 0 stands for 0 as a rule.

    Not ``uint8``, whose zero point is elsewhere, nor wider integers: biases in units of a product, and indices.
    """
    return np.issubdtype(value.dtype, np.floating) or value.dtype == np.int8


def written(numbers: Array, like: Array) -> Array:
    """Numbers in the dtype of ``like``; codes are rounded and saturated."""
    if np.issubdtype(like.dtype, np.integer):
        limits = np.iinfo(like.dtype)
        numbers = np.clip(np.rint(numbers), limits.min, limits.max)
    with np.errstate(over="ignore"):  # halves
        return numbers.astype(like.dtype)
