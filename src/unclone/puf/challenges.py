"""Challenges of a strong PUF, and the schedule by which such a PUF keys a device.

A strong PUF answers one bit to each of very many challenges. A fixed list of public challenges makes a weak PUF of it:
its answers to them are a response vector that the fuzzy extractor takes like an SRAM start-up pattern.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from unclone.errors import ParameterError

__all__ = ["MAX_BITS", "MAX_STAGES", "ScheduledPUF", "StrongPUF", "expand_challenges"]

MAX_STAGES: Final = 1024
MAX_BITS: Final = 1 << 20
_DOMAIN: Final = b"unclone challenge schedule 1"


def expand_challenges(seed: bytes, count: int, stages: int) -> NDArray[np.uint8]:
    """``count`` pseudo-random challenges from a public seed.

    SHAKE-256 (FIPS 202) of domain, number of stages (four bytes, big-endian) and seed; each challenge takes whole
    bytes, most significant bit first. A longer list begins with the shorter one.

    Args:
        seed: public.
        count: 1 to 2**20.
        stages: bits of a challenge, 1 to 1024.

    Returns:
        ``uint8`` of 0/1, shape ``(count, stages)``.

    Raises:
        ParameterError: an argument is out of range.
    """
    if not 1 <= count <= MAX_BITS or not 1 <= stages <= MAX_STAGES:
        raise ParameterError(f"1 to {MAX_BITS} challenges of 1 to {MAX_STAGES} stages, not {count} of {stages}")
    width = (stages + 7) // 8
    stream = hashlib.shake_256(_DOMAIN + stages.to_bytes(4, "big") + seed).digest(count * width)
    packed = np.frombuffer(stream, dtype=np.uint8).reshape(count, width)
    return np.unpackbits(packed, axis=1, count=stages)


class StrongPUF(Protocol):
    """A PUF with many challenges and one bit of answer to each.

    Attributes:
        kind: sort of PUF, for people.
        stages: bits of a challenge.
        notes: what a record that rests on it must say.
    """

    kind: str
    stages: int
    notes: tuple[str, ...]

    def evaluate(self, challenges: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fresh, noisy answers: 0/1, shape ``(n,)``, to challenges of 0/1, shape ``(n, stages)``."""
        ...

    def entropy_limit(self, count: int) -> float:
        """Upper bound, in bits, on the entropy of the answers to ``count`` challenges, whatever the challenges."""
        ...


class ScheduledPUF:
    """A strong PUF behind a public list of challenges: a source like any other.

    Args:
        strong: the strong PUF.
        bits: challenges asked for one reading.
        schedule: public seed of the challenges.
        limited: whether enrolment must refuse when the answers cannot be as good as independent.

    Attributes:
        entropy_limit: bits that one reading can hold at most; enrolment refuses less than its length.
        notes: what the record must say.

    Raises:
        ParameterError: ``bits`` is out of range.
    """

    def __init__(self, strong: StrongPUF, *, bits: int, schedule: bytes = b"", limited: bool = True) -> None:
        self.kind = strong.kind
        self.notes = strong.notes
        self.entropy_limit = strong.entropy_limit(bits) if limited else float(bits)
        self._strong = strong
        self._bits = bits
        self._schedule = schedule
        self._asked: tuple[bytes, NDArray[np.uint8]] = (schedule, expand_challenges(schedule, bits, strong.stages))

    def evaluate(self, challenge: bytes = b"") -> NDArray[np.uint8]:
        """One reading, ``uint8``, shape ``(bits,)``; ``challenge``, if given, is the seed of another schedule."""
        seed = challenge or self._schedule
        if self._asked[0] != seed:
            self._asked = (seed, expand_challenges(seed, self._bits, self._strong.stages))
        return self._strong.evaluate(self._asked[1])
