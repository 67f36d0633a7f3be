"""The small alternative: repetition inside, first-order Reed-Muller outside, decoded together by maximum likelihood.

It needs more response than a polar code and about a page of code: the repeated symbols' log-likelihood ratios are
added, and one fast Hadamard transform finds the likeliest of the 2**(m+1) words of RM(1, m).

Source: C. Boesch et al., "Efficient helper data key extractor on FPGAs", CHES 2008 (repetition with Reed-Muller);
R. Maes et al., "Low-overhead implementation of a soft decision helper data algorithm for SRAM PUFs", CHES 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unclone.errors import ParameterError
from unclone.extractor.codes._checks import MAX_LENGTH, as_bits, as_llr, integer, only_keys

__all__ = ["RepetitionReedMuller"]

_MAX_M = 10
_MAX_REPEAT = 255


class RepetitionReedMuller:
    """``blocks`` words of RM(1, m), each symbol sent ``repeat`` times.

    Message bit ``b (m + 1)`` of block b is the constant; bit ``b (m + 1) + 1 + i`` multiplies bit i (weight ``2**i``)
    of the position j in the block. Symbol j of block b fills the places ``(b 2**m + j) repeat`` and onward.

    Args:
        m: order of the Reed-Muller code's length, from 1 to 10.
        repeat: copies of a symbol, from 1 to 255.
        blocks: words side by side.

    Raises:
        ParameterError: a size out of range, or more than 65536 symbols.
    """

    def __init__(self, m: int, repeat: int, blocks: int) -> None:
        if not (1 <= m <= _MAX_M and 1 <= repeat <= _MAX_REPEAT and 1 <= blocks <= MAX_LENGTH >> m):
            raise ParameterError("repetition-reed-muller code: a size is out of range")
        self.m, self.repeat, self.blocks = m, repeat, blocks
        self.n = (blocks << m) * repeat
        self.k = blocks * (m + 1)
        self.list_size = 1
        if self.n > MAX_LENGTH:
            raise ParameterError(f"repetition-reed-muller code: {self.n} symbols, more than {MAX_LENGTH}")
        position = np.arange(1 << m)
        rows = [np.ones(1 << m, dtype=np.uint8)] + [((position >> i) & 1).astype(np.uint8) for i in range(m)]
        self._generator: NDArray[np.uint8] = np.stack(rows)

    @classmethod
    def from_spec(cls, spec: Mapping[str, object]) -> RepetitionReedMuller:
        """The code that :meth:`spec` describes; ParameterError for anything that it could not have written."""
        only_keys(spec, {"name", "n", "k", "m", "repeat", "blocks"})
        code = cls(
            integer(spec, "m", 1, _MAX_M),
            integer(spec, "repeat", 1, _MAX_REPEAT),
            integer(spec, "blocks", 1, MAX_LENGTH),
        )
        if (integer(spec, "n", 1, MAX_LENGTH), integer(spec, "k", 1, MAX_LENGTH)) != (code.n, code.k):
            raise ParameterError("code specification: 'n' and 'k' contradict the other parameters")
        return code

    def spec(self) -> dict[str, int | str]:
        """Name, ``n``, ``k``, ``m``, ``repeat`` and ``blocks``."""
        return {
            "name": "repetition-reed-muller",
            "n": self.n,
            "k": self.k,
            "m": self.m,
            "repeat": self.repeat,
            "blocks": self.blocks,
        }

    def encode(self, message: ArrayLike) -> NDArray[np.uint8]:
        """``uint8`` 0/1 of shape ``(..., k)`` to ``(..., n)``; linear over GF(2)."""
        bits = as_bits(message, self.k)
        blocks = bits.reshape(*bits.shape[:-1], self.blocks, self.m + 1)
        words = (blocks @ self._generator) & 1  # at most m + 1 ones are added: no overflow in uint8
        return np.repeat(words.reshape(*bits.shape[:-1], -1), self.repeat, axis=-1)

    def decode(self, llr: ArrayLike) -> NDArray[np.uint8]:
        """``float32`` of shape ``(words, n)``, positive where 0 is likelier, to the likeliest ``(words, 1, k)``."""
        values = as_llr(llr, self.n)
        words = values.shape[0]
        x = values.reshape(words * self.blocks, 1 << self.m, self.repeat).sum(axis=2, dtype=np.float64)
        half = 1
        while half < x.shape[1]:
            view = x.reshape(x.shape[0], -1, 2, half)
            x = np.stack([view[:, :, 0] + view[:, :, 1], view[:, :, 0] - view[:, :, 1]], axis=2).reshape(x.shape)
            half *= 2
        best = np.abs(x).argmax(axis=1)
        out = np.empty((x.shape[0], self.m + 1), dtype=np.uint8)
        out[:, 0] = x[np.arange(x.shape[0]), best] < 0
        out[:, 1:] = (best[:, None] >> np.arange(self.m)) & 1
        return out.reshape(words, 1, self.k)

    def failure_bound(self, error: float) -> float:
        """Upper bound on the share of words decoded wrongly when each symbol errs with probability ``error``.

        The union bound over the words of one block: 2**(m+1) - 2 at distance ``repeat 2**(m-1)``, one at twice that;
        a tie counts as a failure.
        """
        distance = self.repeat << (self.m - 1)
        near = (2 << self.m) - 2
        block = near * _majority_wrong(distance, error) + _majority_wrong(2 * distance, error)
        return min(1.0, self.blocks * block)


def _majority_wrong(d: int, p: float) -> float:
    """Probability that at least half of d symbols err."""
    start = (d + 1) // 2
    term = float(comb(d, start)) * p**start * (1 - p) ** (d - start) if d < 900 else 0.0
    if d >= 900:  # the binomial coefficient would overflow a float: the Chernoff bound serves
        return float(min(1.0, (4 * p * (1 - p)) ** (d / 2)))
    total = 0.0
    for i in range(start, d + 1):
        total += term
        term *= (d - i) / (i + 1) * p / (1 - p)
    return min(1.0, total)
