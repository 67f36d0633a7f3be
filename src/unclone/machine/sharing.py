"""Threshold secret sharing (Shamir, "How to share a secret", CACM 22, 1979) over GF(256), byte by byte.

The field is that of AES (FIPS 197, section 4): polynomials modulo x^8 + x^4 + x^3 + x + 1. Each byte of the secret is
the constant term of its own random polynomial of degree below the threshold; a share is the polynomials' values at the
part's index. Fewer shares than the threshold are independent of the secret, whatever the computing power. Arithmetic
has neither tables nor branches on secrets, so cache and time tell nothing about them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import ParameterError

__all__ = ["MAX_INDEX", "combine", "inverse", "multiply", "split"]

MAX_INDEX: Final = 255
_REDUCTION: Final = np.uint8(0x1B)

Bytes = NDArray[np.uint8]


def multiply(a: Bytes, b: Bytes) -> Bytes:
    """Product in GF(256), element by element, of ``uint8`` arrays that broadcast."""
    a, b = np.broadcast_arrays(np.asarray(a, np.uint8), np.asarray(b, np.uint8))
    left, product = a.copy(), np.zeros(a.shape, dtype=np.uint8)
    for bit in range(8):
        product ^= left * (b >> np.uint8(bit) & np.uint8(1))
        left = (left << np.uint8(1)) ^ (_REDUCTION * (left >> np.uint8(7)))
    return product


def inverse(a: Bytes) -> Bytes:
    """The inverse of ``uint8`` elements in GF(256), a ** 254; that of 0 comes out as 0."""
    square, power = np.asarray(a, np.uint8), np.ones(np.shape(a), dtype=np.uint8)
    for _ in range(7):
        square = multiply(square, square)
        power = multiply(power, square)
    return power


def split(secret: bytes | bytearray | memoryview, need: int, indices: Sequence[int]) -> list[bytearray]:
    """Shares of a secret, any ``need`` of which give it back.

    The leading coefficient may be zero: the polynomials are uniform among those of degree below ``need``, which is
    what makes fewer shares independent of the secret.

    Args:
        secret: any length but zero.
        need: threshold, 1 to the number of shares.
        indices: where the polynomials are taken, distinct, 1 to 255.

    Returns:
        One share for each index, as long as the secret.

    Raises:
        ParameterError: an argument is out of range.
    """
    _check_indices(indices)
    if not 1 <= need <= len(indices):
        raise ParameterError(f"a threshold is 1 to the number of shares, {len(indices)}, not {need}")
    if not len(secret):
        raise ParameterError("an empty secret cannot be shared")
    coefficients = np.zeros((need, len(secret)), dtype=np.uint8)
    coefficients[0] = np.frombuffer(secret, dtype=np.uint8)
    for row in coefficients[1:]:
        row[:] = np.frombuffer(secrets.token_bytes(len(secret)), dtype=np.uint8)
    shares = [bytearray(_evaluate(coefficients, index)) for index in indices]
    coefficients[:] = 0
    return shares


def _evaluate(coefficients: Bytes, index: int) -> Bytes:
    """Horner's rule."""
    value = np.zeros(coefficients.shape[1], dtype=np.uint8)
    for row in coefficients[::-1]:
        value = multiply(value, np.array(index, dtype=np.uint8)) ^ row
    return value


def combine(shares: Mapping[int, bytes | bytearray]) -> bytearray:
    """The secret: Lagrange's interpolation at 0 of the shares, by index.

    Shares that are not of one polynomial, or too few, give something else: authenticate them, and the result.

    Raises:
        ParameterError: no share, indices out of range, or shares of different lengths.
    """
    _check_indices(list(shares))
    lengths = {len(share) for share in shares.values()}
    if len(lengths) != 1:
        raise ParameterError(f"shares are of one length, not {sorted(lengths)}")
    points = np.fromiter(shares, dtype=np.uint8)
    secret = np.zeros(lengths.pop(), dtype=np.uint8)
    for index, share in shares.items():
        secret ^= multiply(np.frombuffer(share, dtype=np.uint8), _weight(points, index))
    result = bytearray(secret)
    secret[:] = 0
    return result


def _weight(points: Bytes, index: int) -> Bytes:
    """Lagrange's basis polynomial of ``index`` at 0: the product of x / (x - index) over the other points x."""
    weight = np.ones((), dtype=np.uint8)
    for point in points[points != index]:
        weight = multiply(weight, multiply(point, inverse(point ^ np.uint8(index))))
    return weight


def _check_indices(indices: Sequence[int]) -> None:
    if not indices or len(set(indices)) != len(indices) or not all(1 <= index <= MAX_INDEX for index in indices):
        raise ParameterError(f"shares have distinct indices, 1 to {MAX_INDEX}")
