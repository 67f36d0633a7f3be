"""Which code for how many symbols, and how often it fails on a given channel.

The choice depends on the number of symbols and the key length alone, never on what the cells hold: two enrolments of a
device then use the same linear code, on which the reuse-safe form of debiasing relies. Polar codes of length 256 to
8192 with a fixed order of message positions (``sequence``); repetition with Reed-Muller on request.

A channel is a mixture of binary symmetric channels, ``[(weight, error), ...]`` with weights that sum to 1; an erasure
is ``(weight, 0.5)``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import log, log2, log10, sqrt
from typing import Any, Final

import numpy as np

from unclone import canonical
from unclone.errors import ParameterError, RecordError
from unclone.extractor.codes import Code, PolarCode, RepetitionReedMuller, from_spec
from unclone.extractor.codes.construction import bit_error_rates
from unclone.extractor.sequence import SEQUENCE

__all__ = [
    "LIST_SIZE",
    "SLACK",
    "Channel",
    "bhattacharyya",
    "failure_log10",
    "load_code",
    "polar_code",
    "reed_muller_code",
]

Channel = Sequence[tuple[float, float]]

LIST_SIZE: Final = 8
SLACK: Final = 16
"""Message bits beyond the key's: room for what the tests of the symbols cannot see (docs/extractor.md)."""

_SMALLEST, _LARGEST = min(SEQUENCE), max(SEQUENCE)
_LEAST_LOG10: Final = -300.0
_LIST_FROM: Final = -2.0


def bhattacharyya(channel: Channel) -> float:
    """Bhattacharyya parameter of a mixture: 0 for a perfect channel, 1 for one that says nothing."""
    return sum(weight * 2.0 * sqrt(error * (1.0 - error)) for weight, error in channel)


def failure_log10(code: Code, channel: Channel) -> float:
    """log10 of the probability that decoding does not give the right secret, -300 to 0.

    Polar: the union over the message positions of the error of successive cancellation, by density evolution with
    degrading quantisation, bounds decoding with a single path. What a list of 8 gains is estimated: rare-event
    simulation of these codes (``prediction.rare_failure``, two standard errors above its mean) gives 2.07 to 2.6 times
    the union's logarithm down to a union of 1e-5, 1.7 times at 1e-9. Taken are twice down to 1e-10, then a line to
    1e-15 at a union of 1e-9, and beyond it never less than the union. Repetition with
    Reed-Muller: union over the code words, each by the Chernoff bound ``Z**distance``.
    """
    if isinstance(code, RepetitionReedMuller):
        return _reed_muller_log10(code.m, code.repeat, code.blocks, bhattacharyya(channel))
    if not isinstance(code, PolarCode):
        raise ParameterError(f"no failure bound for {type(code).__name__}")
    spec = code.spec()
    info = np.unpackbits(np.frombuffer(bytes.fromhex(str(spec["info"])), dtype=np.uint8))[: 1 << int(spec["m"])]
    wanted = info.astype(np.bool_)
    if code.n * _capacity(channel) < code.k:
        return 0.0
    useful = [(weight, error) for weight, error in channel if weight > 0.0]
    errors, weights = np.array([e for _, e in useful]), np.array([w for w, _ in useful])
    with np.errstate(divide="ignore"):
        rates = bit_error_rates(int(spec["m"]), code.n, str(spec["drop"]), errors, weights / weights.sum(), wanted)
    total = float(rates[wanted].sum())
    union = max(_LEAST_LOG10, min(0.0, log10(total))) if total > 0.0 else _LEAST_LOG10
    if code.list_size < LIST_SIZE or union > _LIST_FROM:
        return union
    return max(2.0 * union, -10.0 + 1.25 * (union + 5.0), min(union, -15.0))


def _capacity(channel: Channel) -> float:
    """Bits per symbol."""
    inside = [(weight, error) for weight, error in channel if 0.0 < error < 0.5]
    sure = sum(weight for weight, error in channel if error <= 0.0)
    return sure + sum(w * (1.0 + e * log2(e) + (1.0 - e) * log2(1.0 - e)) for w, e in inside)


def _reed_muller_log10(m: int, repeat: int, blocks: int, z: float) -> float:
    if z >= 1.0:
        return 0.0
    if z <= 0.0:
        return _LEAST_LOG10
    bound = log(((2 << m) - 1) * blocks) + (repeat << (m - 1)) * log(z)
    return max(_LEAST_LOG10, min(0.0, bound / log(10.0)))


@lru_cache(maxsize=64)
def polar_code(symbols: int, message_bits: int) -> PolarCode | None:
    """The longest polar code for a number of symbols; ``None`` if there is none.

    All symbols are used, up to 8192, when they fill at least 5/8 of the next power of two (the code is punctured);
    otherwise the power of two below them.

    Args:
        symbols: available.
        message_bits: at most 528, and at most half the length.
    """
    symbols = min(symbols, 1 << _LARGEST)
    m = max(symbols - 1, 1).bit_length()
    if 8 * symbols < 5 << m:
        m -= 1
    n = min(symbols, 1 << m)
    if m < _SMALLEST or 2 * message_bits > n:
        return None
    order = np.frombuffer(base64.b64decode(SEQUENCE[m]), dtype=">u2").astype(np.int64)
    order = order[order >= (1 << m) - n]
    if message_bits > len(order):
        return None
    info = np.zeros(1 << m, dtype=np.bool_)
    info[order[:message_bits]] = True
    return PolarCode(info, n, LIST_SIZE)


@lru_cache(maxsize=64)
def reed_muller_code(symbols: int, message_bits: int, nominal: float = 0.75) -> RepetitionReedMuller | None:
    """The best repetition-Reed-Muller code for a number of symbols, at most 8192; ``None`` if there is none.

    Args:
        symbols: available.
        message_bits: least number of message bits.
        nominal: Bhattacharyya parameter of the channel at which codes are compared.
    """
    best: tuple[float, int, int, int] | None = None
    for m in range(3, 9):
        blocks = -(-message_bits // (m + 1))
        repeat = min(255, min(symbols, 1 << _LARGEST) // (blocks << m))
        if repeat < 1:
            continue
        bound = _reed_muller_log10(m, repeat, blocks, nominal)
        if best is None or bound < best[0]:
            best = bound, m, repeat, blocks
    return None if best is None else RepetitionReedMuller(*best[1:])


def load_code(spec: Any) -> Code:
    """The code of a helper-data field.

    Raises:
        RecordError: it describes no code.
    """
    if not isinstance(spec, Mapping) or len(spec) > 16:
        raise RecordError("helper data: code is an object")
    try:
        return _load(canonical.encode(dict(spec)))
    except (ParameterError, canonical.CanonicalError) as error:
        raise RecordError(f"helper data: {error}") from None


@lru_cache(maxsize=64)
def _load(text: bytes) -> Code:
    return from_spec(canonical.decode(text))
