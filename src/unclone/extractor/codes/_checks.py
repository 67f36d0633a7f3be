"""Checks shared by the codes: specifications come from helper data, which an attacker may have written."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unclone.errors import ParameterError

__all__ = ["MAX_LENGTH", "as_bits", "as_llr", "integer", "only_keys"]

MAX_LENGTH = 65536


def integer(spec: Mapping[str, object], key: str, low: int, high: int) -> int:
    """``spec[key]`` as an ``int`` from ``low`` to ``high``; ParameterError for anything else, ``bool`` included."""
    value = spec.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ParameterError(f"code specification: {key!r} must be an integer from {low} to {high}")
    return value


def only_keys(spec: Mapping[str, object], keys: Set[str]) -> None:
    """Refuse a specification that lacks one of ``keys`` or holds another one."""
    if set(spec) != keys:
        raise ParameterError(f"code specification: expected exactly the keys {', '.join(sorted(keys))}")


def as_bits(message: ArrayLike, k: int) -> NDArray[np.uint8]:
    """``message`` as ``uint8``; ParameterError unless it holds 0 and 1 only and its last axis is ``k`` long."""
    bits = np.asarray(message)
    if bits.ndim == 0 or bits.shape[-1] != k:
        raise ParameterError(f"message: the last axis must be {k} long, not {bits.shape[-1:] or 'absent'}")
    if bits.dtype.kind not in "bui" or (bits.size and (bits.min() < 0 or bits.max() > 1)):
        raise ParameterError("message: expected integers 0 and 1")
    return bits.astype(np.uint8)


def as_llr(llr: ArrayLike, n: int) -> NDArray[np.float32]:
    """``llr`` as finite ``float32`` of shape ``(words, n)``; ParameterError otherwise."""
    try:
        values = np.asarray(llr, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ParameterError("llr: expected real numbers") from error
    if values.ndim != 2 or values.shape[1] != n:
        raise ParameterError(f"llr: expected shape (words, {n}), not {values.shape}")
    if not np.isfinite(values).all():
        raise ParameterError("llr: expected finite numbers")
    return values
