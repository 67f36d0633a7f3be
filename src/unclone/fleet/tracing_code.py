"""The code of a fingerprint: which way each weight of a device's copy is moved (spec/tracing.md, sections 2 and 3).

Spread spectrum (Cox, Kilian, Leighton, Shamoon 1997) in two layers. The *carrier*, the same in every copy, gives each
weight one of ``CHIPS`` chips and a sign. A device's *codeword* is one sign for each chip. A weight moves by carrier
sign times codeword sign, so a detector sums what it sees once, chip by chip, and then compares ``CHIPS`` numbers with
each device: its cost does not grow with devices times weights.

The codeword's signs are biased, each chip by a secret amount (Tardos 2003; Skoric, Katzenbeisser, Celik 2008): a
coalition cannot tell the chips on which all its members agree, and bias makes such chips common.

Codewords of different devices are independent keyed random signs: a device that had no part in a leak has a codeword
that the leak cannot depend on, which is all that the bound on false accusations needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import ParameterError
from unclone.keys import ContentKeys, TraceKeys, device_trace_key
from unclone.mask import ChunkCipher

__all__ = ["CARRIER_BLOCK", "CHIPS", "Carrier", "codeword", "codewords", "signs"]

CHIPS: Final = 1 << 15
"""Chips of a codeword: enough for tens of colluders and a million devices, few enough to compare in microseconds."""

CARRIER_BLOCK: Final = 1 << 19
"""Weights of one keystream block, 1 MiB of it."""

_CIPHER: Final = "aes-256-gcm"  # its counter mode; the code must not depend on the processor, so there is no choice
_ID_LIMIT: Final = 1024
_BIASES: Final = 0xFFFFFFFF  # in the place of a tensor's number
_LEAST: Final = 4  # of 256: a chip with less of a chance would hardly ever tell devices apart


def _stream(key: bytes) -> ChunkCipher:
    return ChunkCipher(ContentKeys(key, key, key), _CIPHER)


class Carrier:
    """Chips and signs of the weights of one model; safe to share between threads."""

    def __init__(self, keys: TraceKeys) -> None:
        self._cipher = _stream(keys.carrier)
        places = self._cipher.keystream(_BIASES, 0, 2 * CHIPS).view("<u2").astype(np.float64)
        # The arcsine distribution, Tardos's: it serves coalitions of every size.
        shares = np.rint(256 * np.sin(np.pi * (places + 0.5) / 131072) ** 2)
        self.shares: NDArray[np.uint8] = np.clip(shares, _LEAST, 256 - _LEAST).astype(np.uint8)
        """How likely a chip's sign is minus, in 1/256; shape ``(CHIPS,)``."""
        self.means: NDArray[np.float64] = 1 - self.shares / 128
        """Mean of a chip's sign; shape ``(CHIPS,)``."""

    def steps(self, word: NDArray[np.uint8]) -> NDArray[np.float32]:
        """How far a codeword moves the weights of each chip, around 0 and with mean square 1; shape ``(CHIPS,)``."""
        power = float(np.mean(1 - self.means**2))
        steps: NDArray[np.float32] = ((signs(word) - self.means) / np.sqrt(power)).astype(np.float32)
        return steps

    def words(self, tensor: int, block: int, count: int) -> NDArray[np.uint16]:
        """One word for each weight: its low 15 bits are the chip, bit 15 is the sign, set for minus.

        Args:
            tensor: place of the tensor among the model's weights.
            block: number of the block of ``CARRIER_BLOCK`` weights.
            count: weights, at most ``CARRIER_BLOCK``.
        """
        return self._cipher.keystream(tensor, block, 2 * count).view("<u2")


def codeword(keys: TraceKeys, device_id: str, shares: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A device's codeword as bits, ``uint8``, shape ``(CHIPS / 8,)``, the first chip in the lowest bit; 1 is minus.

    Args:
        keys: of the model.
        device_id: 1 to 1,024 bytes of UTF-8.
        shares: ``Carrier.shares``.

    Raises:
        ParameterError: the id is empty or too long.
    """
    name = device_id.encode("utf-8", "surrogatepass")
    if not 0 < len(name) <= _ID_LIMIT:
        raise ParameterError(f"a device's id has 1 to {_ID_LIMIT} bytes, not {len(name)}")
    drawn = _stream(device_trace_key(keys, name)).keystream(0, 0, CHIPS)
    return np.packbits(drawn < shares, bitorder="little")


def codewords(keys: TraceKeys, devices: Sequence[str], shares: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The codewords of many devices, shape ``(devices, CHIPS / 8)``."""
    rows = np.empty((len(devices), CHIPS // 8), dtype=np.uint8)
    for row, device in zip(rows, devices, strict=True):
        row[:] = codeword(keys, device, shares)
    return rows


def signs(word: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A codeword as +1 and -1, ``float32``, shape ``(CHIPS,)``."""
    bits = np.unpackbits(word, bitorder="little")
    return np.float32(1) - np.float32(2) * bits.astype(np.float32)
