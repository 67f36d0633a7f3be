"""Polar codes of any length up to 65536, by puncturing or shortening, with list decoding on soft input.

What encodes is normative and holds integers only: the set of message positions is carried in the specification, so
nobody has to repeat a floating-point construction. The decoder is not normative.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unclone.errors import ParameterError
from unclone.extractor.codes._checks import MAX_LENGTH, as_bits, as_llr, integer, only_keys
from unclone.extractor.codes.listdecoder import ListDecoder
from unclone.extractor.codes.transform import polar_transform

__all__ = ["MAX_LIST", "PolarCode"]

MAX_LIST = 1024
_MAX_STATE = 1 << 22  # mother length times list size: bounds the memory that hostile helper data can ask for
_MAX_K = 4096
# Log-likelihood ratios become integers up to this: float32 then adds them without rounding, so a word's candidates are
# the same whatever the batch, the processor and the linear algebra library.
_LEVELS = 256
_KNOWN = 16.0 * _LEVELS  # a shortened position


class PolarCode:
    """The code ``x = u F``, F the m-fold Kronecker power of ((1, 0), (1, 1)), with some positions of x left out.

    A message fills, in order, the positions of u in which ``info`` is set; u is 0 elsewhere. Of the ``2**m`` symbols
    of x the first ``2**m - n`` are left out (``drop="first"``, puncturing: the decoder knows nothing about them) or
    the last ones (``drop="last"``, shortening: they are 0 because u is frozen there).

    Args:
        info: 0/1 or ``bool``, shape ``(2**m,)``; its sum is ``k``.
        n: symbols kept, more than ``2**(m-1)``, at most ``2**m``.
        list_size: paths of the decoder, a power of two; the candidates that :meth:`decode` returns.
        drop: ``"first"`` or ``"last"``.

    Raises:
        ParameterError: sizes out of range, or message positions that puncturing or shortening makes useless.
    """

    def __init__(self, info: ArrayLike, n: int, list_size: int = 8, drop: str = "first") -> None:
        mask = np.asarray(info).astype(bool)
        size = mask.size
        if mask.ndim != 1 or size < 2 or size & (size - 1) or size > MAX_LENGTH:
            raise ParameterError("polar code: the mother length must be a power of two from 2 to 65536")
        if not size // 2 < n <= size:
            raise ParameterError(f"polar code: length {n} does not fit the mother length {size}")
        if list_size < 1 or list_size > MAX_LIST or list_size & (list_size - 1) or list_size * size > _MAX_STATE:
            limit = min(MAX_LIST, _MAX_STATE // size)
            raise ParameterError(f"polar code: list size must be a power of two up to {limit}")
        if drop not in ("first", "last"):
            raise ParameterError("polar code: drop must be 'first' or 'last'")
        self.n = n
        self.k = int(mask.sum())
        if not 1 <= self.k <= min(n, _MAX_K):
            raise ParameterError(f"polar code: message bits must be from 1 to {min(n, _MAX_K)}")
        lost = size - n
        if (mask[:lost] if drop == "first" else mask[n:]).any():
            raise ParameterError("polar code: a message position is lost by puncturing or shortening")
        self.list_size = list_size
        self._info = mask
        self._positions = np.flatnonzero(mask)
        self._drop = drop
        self._kept = slice(lost, size) if drop == "first" else slice(0, n)
        self._decoder = ListDecoder(mask, list_size)

    @classmethod
    def from_spec(cls, spec: Mapping[str, object]) -> PolarCode:
        """The code that :meth:`spec` describes; ParameterError for anything that it could not have written."""
        only_keys(spec, {"name", "n", "k", "m", "drop", "info", "list"})
        m = integer(spec, "m", 1, 16)
        n = integer(spec, "n", 1, MAX_LENGTH)
        k = integer(spec, "k", 1, _MAX_K)
        list_size = integer(spec, "list", 1, MAX_LIST)
        text, drop = spec["info"], spec["drop"]
        if not isinstance(text, str) or not isinstance(drop, str):
            raise ParameterError("code specification: 'info' and 'drop' must be strings")
        digits = max(1, (1 << m) // 8) * 2
        if len(text) != digits or not set(text) <= set("0123456789abcdef"):
            raise ParameterError(f"code specification: 'info' must be {digits} lower-case hexadecimal digits")
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))
        if bits[1 << m :].any() or int(bits.sum()) != k:
            raise ParameterError("code specification: 'info' does not hold k positions")
        return cls(bits[: 1 << m], n, list_size, drop)

    def spec(self) -> dict[str, int | str]:
        """Name, ``n``, ``k``, ``m``, ``drop``, ``list`` and ``info``: the message positions, in hexadecimal.

        Position 0 is the most significant bit of the first byte; below 8 positions the byte is padded with 0.
        """
        return {
            "name": "polar",
            "n": self.n,
            "k": self.k,
            "m": self._info.size.bit_length() - 1,
            "drop": self._drop,
            "info": np.packbits(self._info).tobytes().hex(),
            "list": self.list_size,
        }

    def encode(self, message: ArrayLike) -> NDArray[np.uint8]:
        """``uint8`` 0/1 of shape ``(..., k)`` to ``(..., n)``; linear over GF(2)."""
        bits = as_bits(message, self.k)
        u = np.zeros((*bits.shape[:-1], self._info.size), dtype=np.uint8)
        u[..., self._positions] = bits
        return np.ascontiguousarray(polar_transform(u)[..., self._kept])

    def decode(self, llr: ArrayLike) -> NDArray[np.uint8]:
        """``float32`` of shape ``(words, n)``, positive where 0 is likelier, to ``(words, candidates, k)``, best first.

        The number of candidates is the list size, or ``2**k`` where that is smaller. A word's candidates do not
        depend on the other words. The scale of ``llr`` does not matter, only ratios do, and those above 256 to 1 are
        not resolved.
        """
        return self._decoder.decode(self._mother(llr))[0]

    def margins(self, llr: ArrayLike, rng: np.random.Generator) -> NDArray[np.float32]:
        """How narrowly the word sent stays among the candidates; shape ``(words,)``. For estimating rare failures.

        The all-zero word stands for any word sent, by linearity; ``rng`` breaks ties, which for random words are
        evenly broken. The value is the least amount by which any path thrown away was worse, in units of the word's
        largest magnitude; negative where the word sent is not among the candidates.
        """
        return self._decoder.margins(self._mother(llr), rng) / np.float32(_LEVELS)

    def _mother(self, llr: ArrayLike) -> NDArray[np.float32]:
        """The mother code's symbols, ``float32`` integers of shape ``(words, 2**m)``, the largest received of 256."""
        values = as_llr(llr, self.n)
        peak = np.abs(values).max(axis=1, keepdims=True, initial=0)
        known = 0.0 if self._drop == "first" else _KNOWN
        full = np.full((values.shape[0], self._info.size), known, dtype=np.float32)
        full[:, self._kept] = np.rint(values / np.where(peak > 0, peak, np.float32(1)) * _LEVELS)
        return full
