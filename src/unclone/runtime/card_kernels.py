"""Keystreams of bound models as Triton kernels: masked bytes become true ones in the card's own memory.

The keystreams are those of spec/bound-model.md, section 6: AES-256 in counter mode as within GCM (SP 800-38D), and
ChaCha20 (RFC 8439). A kernel verifies nothing. The tests compare it with ``cryptography``, byte for byte.
"""

# Triton compiles the source of a kernel, and stumbles over annotations.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray

__all__ = ["BLOCKS", "aes256", "aes_round_keys", "aes_table", "chacha20", "chacha_key"]

BLOCKS = 256
"""Cipher blocks of one program."""


@triton.jit
def _rotated(word, left: tl.constexpr):
    return (word << left) | (word >> (32 - left))


@triton.jit
def _swapped(word):
    """The four bytes in the opposite order."""
    return (word >> 24) | ((word >> 8) & 0xFF00) | ((word << 8) & 0xFF0000) | (word << 24)


@triton.jit
def _apply(data, start, offset, limit, pattern, period, word):
    """XOR a keystream word, its lowest byte first, to the chunk's bytes at ``offset``, where the pattern has bits."""
    for index in tl.static_range(4):
        place = offset + index
        inside = place < limit
        kept = tl.load(pattern + place % period, mask=inside, other=0)
        byte = ((word >> (8 * index)) & 0xFF).to(tl.uint8) & kept
        true = tl.load(data + start + place, mask=inside, other=0) ^ byte
        tl.store(data + start + place, true, mask=inside)


@triton.jit
def _quarter(a, b, c, d):
    a += b
    d = _rotated(d ^ a, 16)
    c += d
    b = _rotated(b ^ c, 12)
    a += b
    d = _rotated(d ^ a, 8)
    c += d
    b = _rotated(b ^ c, 7)
    return a, b, c, d


@triton.jit
def chacha20(data, nbytes, step, pattern, period, key, tensor, BLOCKS: tl.constexpr):
    """Unmask a tensor in place; program (chunk, group of blocks).

    Args:
        data: ``uint8``, shape ``(nbytes,)``.
        nbytes: of the tensor.
        step: bytes of a chunk.
        pattern: ``uint8``, shape ``(period,)``.
        period: of the pattern.
        key: eight little-endian words of the key.
        tensor: its number in the header.
        BLOCKS: blocks of a program.
    """
    chunk = tl.program_id(0).to(tl.int64)
    block = (tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)).to(tl.uint32)
    start = chunk * step
    limit = tl.minimum(nbytes - start, step).to(tl.int32)  # so that the pattern's modulo is one of 32 bits
    none = tl.zeros((BLOCKS,), dtype=tl.uint32)
    counter = block + 1  # block 0 is the authenticator's key
    first = none + _swapped(tensor.to(tl.uint32))
    high = none + _swapped((chunk >> 32).to(tl.uint32))
    low = none + _swapped((chunk & 0xFFFFFFFF).to(tl.uint32))
    k0, k1, k2, k3 = tl.load(key), tl.load(key + 1), tl.load(key + 2), tl.load(key + 3)
    k4, k5, k6, k7 = tl.load(key + 4), tl.load(key + 5), tl.load(key + 6), tl.load(key + 7)
    x0, x1, x2, x3 = none + 0x61707865, none + 0x3320646E, none + 0x79622D32, none + 0x6B206574
    x4, x5, x6, x7 = none + k0, none + k1, none + k2, none + k3
    x8, x9, x10, x11 = none + k4, none + k5, none + k6, none + k7
    x12, x13, x14, x15 = counter, first, high, low
    for _ in range(10):
        x0, x4, x8, x12 = _quarter(x0, x4, x8, x12)
        x1, x5, x9, x13 = _quarter(x1, x5, x9, x13)
        x2, x6, x10, x14 = _quarter(x2, x6, x10, x14)
        x3, x7, x11, x15 = _quarter(x3, x7, x11, x15)
        x0, x5, x10, x15 = _quarter(x0, x5, x10, x15)
        x1, x6, x11, x12 = _quarter(x1, x6, x11, x12)
        x2, x7, x8, x13 = _quarter(x2, x7, x8, x13)
        x3, x4, x9, x14 = _quarter(x3, x4, x9, x14)
    offset = block.to(tl.int32) * 64
    _apply(data, start, offset, limit, pattern, period, x0 + 0x61707865)
    _apply(data, start, offset + 4, limit, pattern, period, x1 + 0x3320646E)
    _apply(data, start, offset + 8, limit, pattern, period, x2 + 0x79622D32)
    _apply(data, start, offset + 12, limit, pattern, period, x3 + 0x6B206574)
    _apply(data, start, offset + 16, limit, pattern, period, x4 + k0)
    _apply(data, start, offset + 20, limit, pattern, period, x5 + k1)
    _apply(data, start, offset + 24, limit, pattern, period, x6 + k2)
    _apply(data, start, offset + 28, limit, pattern, period, x7 + k3)
    _apply(data, start, offset + 32, limit, pattern, period, x8 + k4)
    _apply(data, start, offset + 36, limit, pattern, period, x9 + k5)
    _apply(data, start, offset + 40, limit, pattern, period, x10 + k6)
    _apply(data, start, offset + 44, limit, pattern, period, x11 + k7)
    _apply(data, start, offset + 48, limit, pattern, period, x12 + counter)
    _apply(data, start, offset + 52, limit, pattern, period, x13 + first)
    _apply(data, start, offset + 56, limit, pattern, period, x14 + high)
    _apply(data, start, offset + 60, limit, pattern, period, x15 + low)


@triton.jit
def _column(table, a, b, c, d, key):
    """One column of a round: SubBytes, ShiftRows and MixColumns by a table, AddRoundKey."""
    found = tl.load(table + (a >> 24))
    found ^= _rotated(tl.load(table + ((b >> 16) & 0xFF)), 24)
    found ^= _rotated(tl.load(table + ((c >> 8) & 0xFF)), 16)
    found ^= _rotated(tl.load(table + (d & 0xFF)), 8)
    return found ^ key


@triton.jit
def _substituted(table, byte):
    return (tl.load(table + byte) >> 8) & 0xFF  # a word of the table is (2 s, s, s, 3 s)


@triton.jit
def _last(table, a, b, c, d, key):
    """One column of the last round, which mixes no columns."""
    found = _substituted(table, a >> 24) << 24
    found |= _substituted(table, (b >> 16) & 0xFF) << 16
    found |= _substituted(table, (c >> 8) & 0xFF) << 8
    found |= _substituted(table, d & 0xFF)
    return found ^ key


@triton.jit
def aes256(
    data, nbytes, step, pattern, period, keys, table, tensor,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    """Unmask a tensor in place; as ``chacha20``, with ``keys`` of ``aes_round_keys`` and ``table`` of ``aes_table``."""
    chunk = tl.program_id(0).to(tl.int64)
    block = (tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)).to(tl.uint32)
    start = chunk * step
    limit = tl.minimum(nbytes - start, step).to(tl.int32)  # so that the pattern's modulo is one of 32 bits
    none = tl.zeros((BLOCKS,), dtype=tl.uint32)
    a = none + (tensor.to(tl.uint32) ^ tl.load(keys))
    b = none + ((chunk >> 32).to(tl.uint32) ^ tl.load(keys + 1))
    c = none + ((chunk & 0xFFFFFFFF).to(tl.uint32) ^ tl.load(keys + 2))
    d = (block + 2) ^ tl.load(keys + 3)  # counter 1 is the tag's
    for turn in range(1, 14):
        turned = keys + 4 * turn
        e = _column(table, a, b, c, d, tl.load(turned))
        f = _column(table, b, c, d, a, tl.load(turned + 1))
        g = _column(table, c, d, a, b, tl.load(turned + 2))
        h = _column(table, d, a, b, c, tl.load(turned + 3))
        a, b, c, d = e, f, g, h
    offset = block.to(tl.int32) * 16
    _apply(data, start, offset, limit, pattern, period, _swapped(_last(table, a, b, c, d, tl.load(keys + 56))))
    _apply(data, start, offset + 4, limit, pattern, period, _swapped(_last(table, b, c, d, a, tl.load(keys + 57))))
    _apply(data, start, offset + 8, limit, pattern, period, _swapped(_last(table, c, d, a, b, tl.load(keys + 58))))
    _apply(data, start, offset + 12, limit, pattern, period, _swapped(_last(table, d, a, b, c, tl.load(keys + 59))))


def chacha_key(key: bytes) -> NDArray[np.uint32]:
    """A key of 32 bytes as the words that ``chacha20`` takes."""
    return np.frombuffer(key, dtype="<u4").astype(np.uint32)


def aes_round_keys(key: bytes) -> NDArray[np.uint32]:
    """The key schedule of AES-256 (FIPS 197, section 5.2), shape ``(60,)``."""
    box = _substitution()
    words = [int(word) for word in np.frombuffer(key, dtype=">u4")]
    constant = 1
    for number in range(8, 60):
        word = words[-1]
        if number % 8 == 0:
            word = _by_bytes(box, (word << 8 | word >> 24) & 0xFFFFFFFF) ^ constant << 24
            constant = _doubled(constant)
        elif number % 8 == 4:
            word = _by_bytes(box, word)
        words.append(words[-8] ^ word)
    return np.array(words, dtype=np.uint32)


def aes_table() -> NDArray[np.uint32]:
    """SubBytes and MixColumns of the first byte of a column, shape ``(256,)``."""
    return np.array([_doubled(s) << 24 | s << 16 | s << 8 | _doubled(s) ^ s for s in _substitution()], dtype=np.uint32)


def _by_bytes(box: list[int], word: int) -> int:
    return int.from_bytes(bytes(box[byte] for byte in word.to_bytes(4, "big")), "big")


def _doubled(value: int) -> int:
    return value << 1 ^ (0x11B if value & 0x80 else 0)


def _substitution() -> list[int]:
    """The S-box (FIPS 197, section 5.1.1): inverses in GF(2^8) by powers of the generator 3, then the affine map."""
    powers = [1]
    for _ in range(254):
        powers.append(_doubled(powers[-1]) ^ powers[-1])
    logarithm = {value: exponent for exponent, value in enumerate(powers)}
    box = []
    for value in range(256):
        inverse = powers[-logarithm[value] % 255] if value else 0
        twice = inverse << 8 | inverse  # for rotations
        box.append((inverse ^ twice >> 7 ^ twice >> 6 ^ twice >> 5 ^ twice >> 4) & 0xFF ^ 0x63)
    return box
