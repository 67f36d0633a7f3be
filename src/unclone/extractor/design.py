"""The design search: bit error rate or reliabilities, key length and failure target in, code parameters out.

Three sources of codes, the first that gives the fewest response bits wins:

* the table of measured codes (``catalogue``), for a single bit error rate: failures estimated by splitting;
* a polar code made on the spot, for any channel and key length: failures bounded by the union bound of successive
  cancellation, so it is longer than it would have to be;
* repetition with Reed-Muller, on request: failures bounded by the union bound of maximum likelihood.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unclone.errors import ParameterError
from unclone.extractor.bounds import as_mixture, finite_length_bound
from unclone.extractor.catalogue import measured_codes
from unclone.extractor.codes import RepetitionReedMuller
from unclone.extractor.prediction import construct, rare_failure

__all__ = ["METHOD_BOUND", "METHOD_SMALL", "METHOD_SPLITTING", "Design", "design"]

METHOD_SPLITTING = "rare-event simulation (splitting), two standard errors above the mean"
METHOD_BOUND = "union bound of successive cancellation (degraded density evolution)"
METHOD_SMALL = "union bound of maximum-likelihood decoding"

Family = Literal["polar", "repetition-reed-muller"]
Prefer = Literal["bits", "failure"]

_LEAST_KEY, _MOST_KEY = 64, 2048
_LEAST_FAILURE, _MOST_FAILURE = 1e-15, 0.1
_LONGEST_LOG = 14  # mother length of codes made on the spot
_QUICK_LIST = 8
_LOOSE = 1.7  # times the finite-length bound; the union bound reaches that at best


@dataclass(frozen=True)
class Design:
    """A code and what it promises.

    Attributes:
        code: specification for :func:`unclone.extractor.codes.from_spec`.
        response_bits: response bits consumed, the code length.
        key_bits: key bits asked for; the code's message is at least as long.
        predicted_failure: share of reconstructions expected to fail at most, at the error rate designed for.
        method: how that was found.
        bound_bits: response bits of the best conceivable code, by the normal approximation.
        list_size: candidate keys to check, the decoder's effort.
        helper_bytes: size of the code offset; the specification and any reliabilities come on top.
    """

    code: dict[str, int | str]
    response_bits: int
    key_bits: int
    predicted_failure: float
    method: str
    bound_bits: int
    list_size: int
    helper_bytes: int


@dataclass(frozen=True)
class _Channel:
    error: NDArray[np.float64]
    weight: NDArray[np.float64]

    @property
    def single(self) -> float | None:
        """The bit error rate, where all cells share one."""
        return float(self.error[0]) if self.error.size == 1 else None


@dataclass(frozen=True)
class _Found:
    spec: dict[str, int | str]
    failure: float
    method: str

    @property
    def rank(self) -> tuple[int, int]:
        return int(self.spec["n"]), int(self.spec.get("list", 1))


def design(
    error: ArrayLike,
    key_bits: int = 128,
    failure: float = 1e-9,
    *,
    weight: ArrayLike | None = None,
    max_response_bits: int | None = None,
    margin: float = 0.0,
    prefer: Prefer = "bits",
    family: Family = "polar",
    simulate: bool = False,
) -> Design:
    """Choose a code.

    Args:
        error: bit error rate between enrolment and reconstruction, above 0 and below 0.5; or the rates of classes of
            cells that the helper data tells apart.
        key_bits: message bits needed, 64 to 2048.
        failure: share of reconstructions that may fail, 1e-15 to 0.1.
        weight: shares of the classes.
        max_response_bits: response bits available; more is never used.
        margin: the design is made for error rates higher by this share (0.2: 15 % becomes 18 %).
        prefer: ``"bits"`` for the fewest response bits that reach the target; ``"failure"`` for the least failure that
            fits into ``max_response_bits``, at a small decoding effort.
        family: ``"polar"``, or ``"repetition-reed-muller"`` for the simple alternative.
        simulate: also look for a shorter code by rare-event simulation on the spot; takes about a minute. Worth it for
            classes of cells and for key lengths that the table lacks.

    Raises:
        ParameterError: a value out of range, or no code reaches the target within the limits.
    """
    if isinstance(key_bits, bool) or not isinstance(key_bits, int) or not _LEAST_KEY <= key_bits <= _MOST_KEY:
        raise ParameterError(f"key bits must be an integer from {_LEAST_KEY} to {_MOST_KEY}")
    if not _LEAST_FAILURE <= failure <= _MOST_FAILURE:
        raise ParameterError(f"the failure target must lie from {_LEAST_FAILURE:g} to {_MOST_FAILURE:g}")
    if not 0 <= margin <= 10:
        raise ParameterError("the margin must lie from 0 to 10")
    if prefer not in ("bits", "failure") or family not in ("polar", "repetition-reed-muller"):
        raise ParameterError("prefer is 'bits' or 'failure', family is 'polar' or 'repetition-reed-muller'")
    if prefer == "failure" and max_response_bits is None:
        raise ParameterError("prefer='failure' needs max_response_bits")
    rates, shares = as_mixture(error, weight)
    channel = _Channel(np.minimum(rates * (1 + margin), 0.5), shares)
    if not 1e-6 <= float(channel.error @ shares) < 0.499:
        raise ParameterError("the bit error rate must lie between 0.000001 and 0.499")
    bound = finite_length_bound(key_bits, failure, channel.error, channel.weight)
    longest = 65536 if max_response_bits is None else max_response_bits
    if longest < bound:
        raise ParameterError(f"{longest} response bits are too few: even the best code needs about {bound}")
    if family == "repetition-reed-muller":
        found = [*_small(channel, key_bits, failure, longest)]
    elif prefer == "failure":
        found = [*_table(channel, key_bits, longest), *_longest(channel, key_bits, longest)]
    else:
        found = [entry for entry in _table(channel, key_bits, longest) if entry.failure <= failure]
        shortest = min((entry.rank[0] for entry in found), default=longest + 1)
        if shortest > _LOOSE * bound:  # a gap in the table
            found += _constructed(channel, key_bits, failure, bound, shortest - 1)
        if simulate:
            found += _simulated(channel, key_bits, failure, bound, longest)
    found = [entry for entry in found if entry.failure <= failure]
    if not found:
        raise ParameterError(
            f"no code within {longest} response bits brings {key_bits} key bits to a failure of {failure:g} "
            f"(the best conceivable code needs about {bound} bits)"
        )
    best = min(found, key=lambda entry: entry.rank if prefer == "bits" else (entry.failure, *entry.rank))
    n = int(best.spec["n"])
    return Design(
        code=best.spec,
        response_bits=n,
        key_bits=key_bits,
        predicted_failure=best.failure,
        method=best.method,
        bound_bits=bound,
        list_size=int(best.spec.get("list", 1)),
        helper_bytes=-(-n // 8),
    )


def _table(channel: _Channel, key_bits: int, longest: int) -> Iterator[_Found]:
    if channel.single is None:
        return
    for entry in measured_codes():
        if int(entry.code["k"]) >= key_bits and int(entry.code["n"]) <= longest:
            failure = 10.0 ** entry.log_failure(channel.single)
            yield _Found(dict(entry.code), failure, METHOD_SPLITTING)


def _bounded(channel: _Channel, n: int, key_bits: int) -> _Found:
    code, failure = construct(n, key_bits, _QUICK_LIST, channel.error, channel.weight)
    return _Found(code.spec(), failure, METHOD_BOUND)


def _constructed(channel: _Channel, key_bits: int, failure: float, bound: int, longest: int) -> Iterator[_Found]:
    """Bisection between the mother lengths; the union bound falls with n but for small ripples."""
    low, found = max(key_bits, bound), None
    for m in range((low - 1).bit_length(), _LONGEST_LOG + 1):
        n = min(1 << m, longest)
        trial = _bounded(channel, n, key_bits)
        if trial.failure <= failure:
            found = trial
            break
        if n == longest:
            return
        low = n
    if found is None:
        return
    step = max(4, int(found.spec["n"]) // 40)
    while int(found.spec["n"]) - low > step:
        trial = _bounded(channel, (int(found.spec["n"]) + low) // 2, key_bits)
        if trial.failure <= failure:
            found = trial
        else:
            low = int(trial.spec["n"])
    yield found


def _longest(channel: _Channel, key_bits: int, longest: int) -> Iterator[_Found]:
    """The longest code and the longest without puncturing: one of them has the least bound."""
    m = min(longest.bit_length() - 1, _LONGEST_LOG)
    for n in {1 << m, min(longest, 1 << _LONGEST_LOG)}:
        if n >= key_bits:
            yield _bounded(channel, n, key_bits)


def _simulated(channel: _Channel, key_bits: int, failure: float, bound: int, longest: int) -> list[_Found]:
    """Lengths from near the bound upward, until rare-event simulation confirms one."""
    factor = 1.02 + 0.09 * key_bits / 128
    while (n := int(bound * factor)) <= longest and factor < 2:
        code, _ = construct(n, key_bits, 32, channel.error, channel.weight)
        result = rare_failure(code, channel.error, channel.weight, words=300, runs=3, least=failure / 1e4)
        upper = 10.0 ** (result.log10 + 2 * result.error)
        if upper <= failure:
            return [_Found(code.spec(), upper, METHOD_SPLITTING)]
        factor *= 1.03
    return []


def _small(channel: _Channel, key_bits: int, failure: float, longest: int) -> Iterator[_Found]:
    """Repetition with Reed-Muller: all shapes that reach the target; the bound is for the mean error rate.

    A mixture with known classes is never worse than one channel of the mean rate.
    """
    rate = float(channel.error @ channel.weight)
    for m in range(3, 9):
        blocks = -(-key_bits // (m + 1))
        for repeat in range(1, 256):
            if (blocks << m) * repeat > longest:
                break
            code = RepetitionReedMuller(m, repeat, blocks)
            upper = code.failure_bound(rate)
            if upper <= failure:
                yield _Found(code.spec(), upper, METHOD_SMALL)
                break
