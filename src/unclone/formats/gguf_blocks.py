"""ggml's tensor types: how a block lies (ggml-common.h), and which of its bits ``finite`` masks.

Codes and sub-scales are masked whole. The scales and minima of a block keep their high exponent bits, so that they stay
within a factor of about two of the tensor's largest. Their signs are masked even where all are the same: codes with an
offset (q4_1 and the like) would else give weights of one sign, sums would grow with the width of a layer, and the
half-precision activations of llama.cpp would overflow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["HALF", "TYPES", "UNBOUND", "BlockType", "Scale", "ScaleKind", "block_pattern"]


@dataclass(frozen=True, slots=True)
class ScaleKind:
    """A number: sign (or none), ``exponent`` bits, ``mantissa`` bits; fields above ``largest`` are no numbers."""

    nbytes: int
    exponent: int
    mantissa: int
    signed: bool
    largest: int


HALF: Final = ScaleKind(2, 5, 10, True, 30)
_E8M0: Final = ScaleKind(1, 8, 0, False, 254)
_UE4M3: Final = ScaleKind(1, 4, 3, False, 14)


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a scale lies in a block: from byte ``place`` on, or in the top four bits of four 16-bit words there."""

    place: int
    kind: ScaleKind = HALF
    split: bool = False

    def words(self, blocks: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """The scales of some blocks, shape ``(blocks,)``."""
        if self.split:
            parts = np.ascontiguousarray(blocks[:, self.place : self.place + 8]).view("<u2") >> 12
            return np.asarray(parts @ np.array([1, 1 << 4, 1 << 8, 1 << 12], dtype=np.uint16), dtype=np.uint16)
        if self.kind.nbytes == 1:
            return blocks[:, self.place].astype(np.uint16)
        return np.ascontiguousarray(blocks[:, self.place : self.place + 2]).view("<u2")[:, 0]

    def put(self, pattern: NDArray[np.uint8], mask: int) -> None:
        """Let ``mask`` be the bits of this scale in a pattern of one block; bits of other things stay."""
        if self.split:
            for part in range(4):
                high = self.place + 2 * part + 1
                pattern[high] = pattern[high] & 0x0F | (mask >> 4 * part & 15) << 4
        else:
            data = mask.to_bytes(self.kind.nbytes, "little")
            pattern[self.place : self.place + self.kind.nbytes] = np.frombuffer(data, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class BlockType:
    """A tensor type: ``nbytes`` bytes hold ``elements`` elements, scaled by ``scales``."""

    name: str
    elements: int
    nbytes: int
    scales: tuple[Scale, ...] = ()


_FIRST: Final = (Scale(0),)
_PAIR: Final = (Scale(0), Scale(2))

TYPES: Final = {
    0: BlockType("float32", 1, 4),
    1: BlockType("float16", 1, 2),
    2: BlockType("q4_0", 32, 18, _FIRST),
    3: BlockType("q4_1", 32, 20, _PAIR),
    6: BlockType("q5_0", 32, 22, _FIRST),
    7: BlockType("q5_1", 32, 24, _PAIR),
    8: BlockType("q8_0", 32, 34, _FIRST),
    10: BlockType("q2_k", 256, 84, (Scale(80), Scale(82))),
    11: BlockType("q3_k", 256, 110, (Scale(108),)),
    12: BlockType("q4_k", 256, 144, _PAIR),
    13: BlockType("q5_k", 256, 176, _PAIR),
    14: BlockType("q6_k", 256, 210, (Scale(208),)),
    16: BlockType("iq2_xxs", 256, 66, _FIRST),
    17: BlockType("iq2_xs", 256, 74, _FIRST),
    18: BlockType("iq3_xxs", 256, 98, _FIRST),
    19: BlockType("iq1_s", 256, 50, _FIRST),
    20: BlockType("iq4_nl", 32, 18, _FIRST),
    21: BlockType("iq3_s", 256, 110, _FIRST),
    22: BlockType("iq2_s", 256, 82, _FIRST),
    23: BlockType("iq4_xs", 256, 136, _FIRST),
    24: BlockType("int8", 1, 1),
    25: BlockType("int16", 1, 2),
    26: BlockType("int32", 1, 4),
    27: BlockType("int64", 1, 8),
    28: BlockType("float64", 1, 8),
    29: BlockType("iq1_m", 256, 56, (Scale(48, split=True),)),
    30: BlockType("bfloat16", 1, 2),
    34: BlockType("tq1_0", 256, 54, (Scale(52),)),
    35: BlockType("tq2_0", 256, 66, (Scale(64),)),
    39: BlockType("mxfp4", 32, 17, (Scale(0, _E8M0),)),
    40: BlockType("nvfp4", 64, 36, tuple(Scale(place, _UE4M3) for place in range(4))),
    41: BlockType("q1_0", 128, 18, _FIRST),
    42: BlockType("q2_0", 64, 18, _FIRST),
}
"""ggml_type -> layout of its blocks."""

UNBOUND: Final = {9: "q8_1", 15: "q8_k"}
"""Types of activations, which no file holds."""


def block_pattern(kind: BlockType, parts: Iterable[NDArray[np.uint8]]) -> bytes | None:
    """The ``finite`` pattern of a block type, one block long; ``None`` for types without scales.

    Args:
        kind: the type.
        parts: all blocks of the tensor, in arrays of shape ``(blocks, kind.nbytes)``.
    """
    if not kind.scales:
        return None
    tops = [0] * len(kind.scales)
    for blocks in parts:
        for number, scale in enumerate(kind.scales):
            tops[number] = max(tops[number], _top_exponent(scale, blocks))
    pattern = np.full(kind.nbytes, 0xFF, dtype=np.uint8)
    for scale, top in zip(kind.scales, tops, strict=True):
        scale.put(pattern, _scale_mask(scale.kind, top))
    return pattern.tobytes()


def _top_exponent(scale: Scale, blocks: NDArray[np.uint8]) -> int:
    """The largest exponent field of a number."""
    kind = scale.kind
    exponents = scale.words(blocks) >> kind.mantissa & (1 << kind.exponent) - 1
    finite = exponents[exponents <= kind.largest]
    return int(finite.max()) if finite.size else 0


def _scale_mask(kind: ScaleKind, top: int) -> int:
    """The sign, the mantissa, and the low exponent bits that keep a scale within about twice the largest."""
    bits = 0
    while bits < min(kind.exponent, 5) and top | ((2 << bits) - 1) <= min(top + 1, kind.largest):
        bits += 1
    sign = 1 << kind.exponent + kind.mantissa if kind.signed else 0
    return (1 << kind.mantissa + bits) - 1 | sign
