"""Which code for how many symbols, and how often it fails on a given channel.

The choice depends on the number of symbols and the key length alone, never on what the cells hold: two enrolments of a
device then use the same linear code, on which the reuse-safe form of debiasing relies.

A channel is a mixture of binary symmetric channels, ``[(weight, error), ...]`` with weights that sum to 1; an erasure
is ``(weight, 0.5)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import log, log10, sqrt
from typing import Any, Final

from unclone import canonical
from unclone.errors import ParameterError, RecordError
from unclone.extractor.codes import Code, RepetitionReedMuller, from_spec

__all__ = ["Channel", "bhattacharyya", "code_for", "failure_log10", "load_code"]

Channel = Sequence[tuple[float, float]]

_NOMINAL: Final = 0.75
_MAX_SYMBOLS: Final = 1 << 13


def bhattacharyya(channel: Channel) -> float:
    """Bhattacharyya parameter of a mixture: 0 for a perfect channel, 1 for one that says nothing."""
    return sum(weight * 2.0 * sqrt(error * (1.0 - error)) for weight, error in channel)


def failure_log10(code: Code, channel: Channel) -> float:
    """log10 of an upper bound on the probability that decoding does not give the right secret, at most 0."""
    if isinstance(code, RepetitionReedMuller):
        return _reed_muller_log10(code.m, code.repeat, code.blocks, bhattacharyya(channel))
    raise ParameterError(f"no failure bound for {type(code).__name__}")


def _reed_muller_log10(m: int, repeat: int, blocks: int, z: float) -> float:
    """Union bound over the words of RM(1, m), each pair of words by the Chernoff bound ``Z**distance``."""
    if z >= 1.0:
        return 0.0
    if z <= 0.0:
        return -300.0
    distance = repeat << (m - 1)
    near = log(((2 << m) - 2) * blocks) + distance * log(z)
    return max(-300.0, min(0.0, near / log(10.0) + log10(1.0 + 1e-9)))


@lru_cache(maxsize=64)
def code_for(symbols: int, secret_bits: int) -> Code | None:
    """The code for a number of symbols; ``None`` if they do not suffice at all.

    Args:
        symbols: available.
        secret_bits: least number of message bits.
    """
    best: tuple[float, int, int, int] | None = None
    for m in range(3, 9):
        blocks = -(-secret_bits // (m + 1))
        repeat = min(255, min(symbols, _MAX_SYMBOLS) // (blocks << m))
        if repeat < 1:
            continue
        bound = _reed_muller_log10(m, repeat, blocks, _NOMINAL)
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
