"""The polar transform and the orders of positions that the polar code's specification names.

Source: E. Arikan, "Channel polarization", IEEE Trans. Inf. Theory 55(7), 2009.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bit_reversed", "polar_transform"]


def polar_transform(bits: NDArray[np.uint8], axis: int = -1) -> NDArray[np.uint8]:
    """Multiply by the m-fold Kronecker power of ((1, 0), (1, 1)) over GF(2), natural order, no bit reversal.

    The transform is its own inverse.

    Args:
        bits: ``uint8`` 0/1, ``2**m`` long along ``axis``; left unchanged.
        axis: 0 or -1.

    Returns:
        ``uint8`` of the same shape.
    """
    x = np.array(bits, dtype=np.uint8, order="C")
    size = x.shape[axis]
    inner = 1 if axis == -1 else x.size // max(1, size)
    half = 1
    while half < size:
        view = x.reshape(-1, 2, half * inner)
        view[:, 0] ^= view[:, 1]
        half *= 2
    return x


def bit_reversed(m: int) -> NDArray[np.intp]:
    """The numbers 0 to 2**m - 1, each with its m bits in reverse order, shape ``(2**m,)``."""
    order = np.zeros(1, dtype=np.intp)
    for _ in range(m):
        order = np.concatenate([2 * order, 2 * order + 1])
    return order
