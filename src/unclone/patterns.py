"""Bit patterns: which bits of a word are masked (spec/bound-model.md, section 5).

``all`` masks every bit. ``finite`` masks every bit of an integer and, of a float, the mantissa, the sign unless no
value of the tensor has it set, and as many low exponent bits as keep every masked value finite and within a few
powers of two of the tensor's largest (or below 2, where that is larger), so that a bound model runs and is useless
rather than drowned in infinities that any pirate would spot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import UnsupportedError
from unclone.mask import ALL_BITS

__all__ = ["FLOATS", "INTEGERS", "FloatKind", "finite_pattern"]


@dataclass(frozen=True, slots=True)
class FloatKind:
    """A binary floating-point layout: sign, ``exponent`` bits, ``mantissa`` bits, from the top.

    Attributes:
        nbytes: bytes of one word.
        exponent: exponent bits.
        mantissa: mantissa bits.
        bias: exponent bias; a word with this exponent field lies in [1, 2).
    """

    nbytes: int
    exponent: int
    mantissa: int
    bias: int


FLOATS: Final = {
    "float64": FloatKind(8, 11, 52, 1023),
    "float32": FloatKind(4, 8, 23, 127),
    "float16": FloatKind(2, 5, 10, 15),
    "bfloat16": FloatKind(2, 8, 7, 127),
    "float8_e4m3fn": FloatKind(1, 4, 3, 7),
    "float8_e5m2": FloatKind(1, 5, 2, 15),
    "complex64": FloatKind(4, 8, 23, 127),
    "complex128": FloatKind(8, 11, 52, 1023),
}
"""Floats with a finite pattern; a complex number is two floats."""

INTEGERS: Final = frozenset(
    [f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16, 32, 64)]
    # Too narrow, or without an infinity to avoid: every code is a plain value (NaN is one code in 256 at worst).
    + ["bool", "float4_e2m1", "float4_e2m1fn_x2", "float6_e2m3", "float6_e3m2"]
    + ["float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0", "float8_e8m0fnu"]
)
"""Types of which ``finite`` masks every bit, like ``all``."""

_SLACK: Final = 3
_MOST_EXPONENT_BITS: Final = 5
"""More would put most masked values near zero, where products are denormal and a clone crawls; what shows in
exchange is whether a weight's exponent lies in the tensor's top block of 32."""


def finite_pattern(dtype: str, blocks: Iterable[NDArray[np.uint8]]) -> bytes:
    """The ``finite`` pattern of a tensor, little-endian bytes of one word.

    Args:
        dtype: lower-case dtype name.
        blocks: the tensor's bytes, in blocks of whole words.

    Raises:
        UnsupportedError: the dtype is not known.
    """
    if dtype in INTEGERS:
        return ALL_BITS
    kind = FLOATS.get(dtype)
    if kind is None:
        raise UnsupportedError(f"dtype {dtype[:40]!r} is not known to this release")
    top, negative = 0, False
    for block in blocks:
        block_top, block_negative = _scan(kind, block)
        top, negative = max(top, block_top), negative or block_negative
    pattern = (1 << (kind.mantissa + _maskable_exponent_bits(kind, top))) - 1
    if negative:
        pattern |= 1 << (8 * kind.nbytes - 1)
    return pattern.to_bytes(kind.nbytes, "little")


def _scan(kind: FloatKind, block: NDArray[np.uint8]) -> tuple[int, bool]:
    """Largest exponent field of a finite value, and whether any sign is set."""
    # Reductions alone, no temporary: the largest signed word is the largest positive value, and the largest
    # unsigned word with its top bit set is the most negative one.
    if not block.size:
        return 0, False
    special = ((1 << kind.exponent) - 1) << kind.mantissa
    sign = 1 << (8 * kind.nbytes - 1)
    positive = int(block.view(f"<i{kind.nbytes}").max())
    unsigned = int(block.view(f"<u{kind.nbytes}").max())
    top = max(positive, unsigned & (sign - 1) if unsigned & sign else 0, 0)
    if top >= special:
        magnitude = block.view(f"<u{kind.nbytes}") & np.array(sign - 1, dtype=f"<u{kind.nbytes}")
        finite = magnitude[magnitude < special]
        top = int(finite.max()) if finite.size else 0
    return top >> kind.mantissa, bool(unsigned & sign)


def _maskable_exponent_bits(kind: FloatKind, top: int) -> int:
    """The most low exponent bits that can be masked below the cap, given the largest exponent field ``top``."""
    cap = min(max(kind.bias, top + _SLACK), (1 << kind.exponent) - 2)
    bits = 0
    while bits < min(kind.exponent, _MOST_EXPONENT_BITS) and top | ((2 << bits) - 1) <= cap:
        bits += 1
    return bits
