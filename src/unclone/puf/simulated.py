"""``sim:sram``: a simulated SRAM start-up pattern, for trying things out and for tests. It protects nothing.

Model: Maes 2013 ("An accurate probabilistic reliability model for silicon PUFs", CHES 2013). Each cell has a hidden
skew m ~ N(mu, 1) in units of the process variation, and reads 1 when m + noise > 0, noise ~ N(0, sigma) afresh at
every reading. So some cells are stable and some are not (heterogeneous errors). Temperature moves each cell's skew
along a direction of its own and raises the noise with the square root of the absolute temperature.
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import ParameterError, SourceError
from unclone.puf.base import PUF, SourceURI

__all__ = ["SimulatedSRAM", "open_sim"]

DEFAULT_BITS: Final = 16384
DEFAULT_BER: Final = 0.06
_ENROLLED_AT: Final = 25.0
_KELVIN: Final = 273.15
_DRIFT_PER_DEGREE: Final = 0.004
"""Spread of the skew's temperature coefficient: a chip of 2 % bit error rate comes to 6.6 % fifty degrees away."""
_AGEING_PER_DECADE: Final = 0.08
_OPTIONS: Final = ("seed", "bits", "ber", "bias", "lanes", "lane_bias", "temperature", "age", "noise_seed")


class SimulatedSRAM:
    """A chip: the same seed is the same chip, and every reading has fresh noise.

    Args:
        seed: the chip.
        bits: cells.
        ber: mean bit error rate between two readings at 25 degrees, up to 0.45.
        bias: share of ones.
        lanes: with ``lane_bias``: period in cells of a balanced but lane-biased memory (even lanes towards 1, odd
            lanes towards 0).
        lane_bias: how far the share of ones in a lane is from ``bias``.
        temperature: degrees Celsius at which it is read.
        age: years of use; cells drift towards the value they do not hold (NBTI), with the logarithm of time.
        noise_seed: makes readings repeatable; the operating system's randomness by default.

    Raises:
        ParameterError: an argument is out of range.
    """

    kind = "sim:sram"

    def __init__(
        self,
        seed: int,
        *,
        bits: int = DEFAULT_BITS,
        ber: float = DEFAULT_BER,
        bias: float = 0.5,
        lanes: int = 1,
        lane_bias: float = 0.0,
        temperature: float = _ENROLLED_AT,
        age: float = 0.0,
        noise_seed: int | None = None,
    ) -> None:
        _check(bits=bits, ber=ber, bias=bias, lane_bias=lane_bias)
        cells = np.random.default_rng([seed, 0x53524D])
        sigma = noise_for(round(ber, 9), round(bias, 9))
        skew = cells.standard_normal(bits)
        drift = cells.standard_normal(bits) * _DRIFT_PER_DEGREE * (temperature - _ENROLLED_AT)
        share = np.full(bits, bias)
        if lane_bias:
            share += np.where(np.arange(bits) % max(lanes, 1) % 2 == 0, lane_bias, -lane_bias)
        skew += np.vectorize(NormalDist(0, 1).inv_cdf)(np.unique(share))[np.unique(share, return_inverse=True)[1]] * (
            np.hypot(1.0, sigma)
        )
        ageing = _AGEING_PER_DECADE * np.log10(1.0 + 10.0 * age)
        self._skew = (skew - ageing * np.sign(skew) + drift).astype(np.float32)
        self._sigma = np.float32(sigma * np.sqrt((temperature + _KELVIN) / (_ENROLLED_AT + _KELVIN)))
        self._noise = np.random.default_rng(secrets.randbits(128) if noise_seed is None else [seed, noise_seed])

    def evaluate(self, challenge: bytes = b"") -> NDArray[np.uint8]:  # noqa: ARG002 - a weak PUF has one response
        """One reading, ``uint8``, shape ``(bits,)``."""
        noise = self._noise.standard_normal(self._skew.size, dtype=np.float32)
        response: NDArray[np.uint8] = (self._skew + self._sigma * noise > 0).astype(np.uint8)
        return response


@lru_cache(maxsize=64)
def noise_for(ber: float, bias: float) -> float:
    """The noise sigma at which two readings differ in ``ber`` of the cells on average.

    With one-probability p = Phi((m + mu) / sigma) and m ~ N(0, 1), the bit error rate is E[2 p (1 - p)], which grows
    with sigma; mu keeps the share of ones at ``bias``.
    """
    if ber == 0:
        return 0.0
    low, high = 1e-4, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _error_rate(middle, bias) < ber else (low, middle)
    return high


def _error_rate(sigma: float, bias: float) -> float:
    normal = NormalDist()
    shift = normal.inv_cdf(bias) * (1.0 + sigma * sigma) ** 0.5
    steps = 2001
    # Midpoints in u = Phi(m): the cells, equally likely.
    ones = [normal.cdf((normal.inv_cdf((step + 0.5) / steps) + shift) / sigma) for step in range(steps)]
    return sum(2 * one * (1 - one) for one in ones) / steps


def _check(*, bits: int, ber: float, bias: float, lane_bias: float) -> None:
    if not 1 <= bits <= 1 << 26:
        raise ParameterError(f"bits is 1 to {1 << 26}, not {bits}")
    if not 0.05 <= bias <= 0.95 or not 0.02 <= bias - abs(lane_bias) <= bias + abs(lane_bias) <= 0.98:
        raise ParameterError(f"bias {bias} with lane_bias {lane_bias} leaves 0.05..0.95")
    if not 0 <= ber <= 0.9 * 2 * bias * (1 - bias):
        raise ParameterError(f"ber {ber} is out of reach: up to {0.9 * 2 * bias * (1 - bias):.3f} at a bias of {bias}")


def open_sim(address: SourceURI) -> PUF:
    """Open a simulator: ``sim:arbiter?...`` (``unclone.puf.arbiter``), or ``sim:sram?...``."""
    if address.path == "arbiter":
        from unclone.puf.arbiter import open_arbiter

        return open_arbiter(address)
    return open_sram(address)


def open_sram(address: SourceURI) -> SimulatedSRAM:
    """Open ``sim:sram?seed=7&bits=16384&ber=0.06&bias=0.5&lanes=1&lane_bias=0&temperature=25&age=0&noise_seed=1``.

    Raises:
        SourceError: another simulator, an unknown option, or a value out of range.
    """
    if address.path != "sram":
        raise SourceError(f"no simulator {address.path!r} in {address.text!r}; there are sim:sram and sim:arbiter")
    if "seed" not in address.options:
        raise SourceError(f"{address.text!r} needs a seed: which chip? for example sim:sram?seed=7")
    noise_seed = address.int_option("noise_seed", -1, 0, 2**63)
    try:
        source = SimulatedSRAM(
            address.int_option("seed", 0, 0, 2**63),
            bits=address.int_option("bits", DEFAULT_BITS, 1, 1 << 26),
            ber=address.float_option("ber", DEFAULT_BER, 0, 0.5),
            bias=address.float_option("bias", 0.5, 0, 1),
            lanes=address.int_option("lanes", 2, 1, 4096),
            lane_bias=address.float_option("lane_bias", 0.0, -0.5, 0.5),
            temperature=address.float_option("temperature", _ENROLLED_AT, -100, 200),
            age=address.float_option("age", 0.0, 0, 100),
            noise_seed=None if noise_seed < 0 else noise_seed,
        )
    except ParameterError as problem:
        raise SourceError(f"{address.text!r}: {problem}") from None
    address.finish(_OPTIONS)
    return source
