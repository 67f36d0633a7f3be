"""``sim:arbiter``: simulated arbiter and k-XOR arbiter PUFs. Models of delay PUFs, to try and to attack; no protection.

An arbiter PUF (Gassend, Clarke, van Dijk, Devadas, "Silicon physical random functions", CCS 2002) races two signals
through a chain of stages; each challenge bit says whether a stage passes them straight or crossed, and the arbiter at
the end says which came first. In the linear additive delay model (Lim et al., "Extracting secret keys from integrated
circuits", IEEE TVLSI 13, 2005) the difference of the delays is

    delta = <weights, phi(c)>,    phi(c)_i = product of (-1)**c_j for j >= i,    phi(c)_stages = 1,

with ``stages + 1`` weights, taken from the standard normal distribution. The k-XOR arbiter PUF (Suh and Devadas, DAC
2007) is the XOR of k chains on one challenge. As usual 0 stands for +1 and 1 for -1, in challenges and in answers, so
XOR of bits is the product of signs. Noise is added to every delta afresh; ``noisiness`` is its standard deviation in
units of the delta's over random challenges, ``sqrt(stages + 1)``. Two answers of one chain then differ with probability
arccos(1 / (1 + noisiness**2)) / pi.

**Linear in phi means learnable**: one chain falls to logistic regression within some thousand challenge-response pairs
(Ruehrmair et al., CCS 2010), and small k do too. The attack itself is in ``unclone.lab``.
"""

from __future__ import annotations

import math
import secrets
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import ParameterError, SourceError
from unclone.puf.base import SourceURI
from unclone.puf.challenges import MAX_BITS, MAX_STAGES, ScheduledPUF

__all__ = ["ArbiterPUF", "error_rate_for", "open_arbiter", "parity_features"]

DEFAULT_STAGES: Final = 64
DEFAULT_CHAINS: Final = 6
DEFAULT_NOISINESS: Final = 0.01
DEFAULT_BITS: Final = 2048
MAX_CHAINS: Final = 32
_BLOCK: Final = 1 << 14
_OPTIONS: Final = ("seed", "stages", "k", "noise", "bits", "schedule", "check", "noise_seed")
_NOTE: Final = (
    "a delay PUF: whoever collects challenge-response pairs can model it and then has the key; the entropy above takes "
    "its responses for independent, which is assumed and not proved"
)


def parity_features(challenges: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The feature vector phi in which an arbiter chain is linear.

    Args:
        challenges: 0/1, shape ``(n, stages)``.

    Returns:
        +-1, shape ``(n, stages + 1)``; the last column is 1.
    """
    crossings = np.bitwise_xor.accumulate(challenges[:, ::-1], axis=1)[:, ::-1]
    phi = np.ones((len(challenges), challenges.shape[1] + 1), dtype=np.float32)
    phi[:, :-1] -= 2.0 * crossings.astype(np.float32)
    return phi


def error_rate_for(noisiness: float, chains: int = 1) -> float:
    """Probability that two answers to one random challenge differ (bivariate normal)."""
    chain = math.acos(1.0 / (1.0 + noisiness * noisiness)) / math.pi
    return (1.0 - (1.0 - 2.0 * chain) ** chains) / 2.0


class ArbiterPUF:
    """A simulated k-XOR arbiter PUF; k = 1 is the plain arbiter PUF. The same seed is the same chip.

    Args:
        seed: the chip.
        stages: challenge bits, 1 to 1024.
        k: chains whose answers are XORed, 1 to 32.
        noisiness: standard deviation of the noise in units of the delay differences', 0 to 1.
        noise_seed: makes answers repeatable; the operating system's randomness by default.

    Attributes:
        weights: the delay parameters, shape ``(k, stages + 1)``: what a modelling attack is after.

    Raises:
        ParameterError: an argument is out of range.
    """

    notes: tuple[str, ...] = (_NOTE,)

    def __init__(
        self,
        seed: int,
        *,
        stages: int = DEFAULT_STAGES,
        k: int = DEFAULT_CHAINS,
        noisiness: float = DEFAULT_NOISINESS,
        noise_seed: int | None = None,
    ) -> None:
        if not 1 <= stages <= MAX_STAGES or not 1 <= k <= MAX_CHAINS:
            raise ParameterError(f"1 to {MAX_STAGES} stages and 1 to {MAX_CHAINS} chains, not {stages} and {k}")
        if not 0.0 <= noisiness <= 1.0:
            raise ParameterError(f"noisiness is 0 to 1, not {noisiness}")
        self.kind = "sim:arbiter" if k == 1 else f"sim:{k}-xor-arbiter"
        self.stages = stages
        self.k = k
        self.noisiness = noisiness
        self.weights: NDArray[np.float32] = (
            np.random.default_rng([seed, 0x415242]).standard_normal((k, stages + 1)).astype(np.float32)
        )
        self._noise = np.random.default_rng(secrets.randbits(128) if noise_seed is None else [seed, noise_seed])

    def evaluate(self, challenges: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fresh, noisy answers.

        Args:
            challenges: ``uint8`` of 0/1, shape ``(n, stages)``.

        Returns:
            ``uint8`` of 0/1, shape ``(n,)``.

        Raises:
            ParameterError: challenges of another shape, type or value.
        """
        answers = np.empty(len(self._checked(challenges)), dtype=np.uint8)
        scale = np.float32(self.noisiness * math.sqrt(self.stages + 1))
        for start in range(0, len(challenges), _BLOCK):
            deltas = self.delays(challenges[start : start + _BLOCK])
            deltas += scale * self._noise.standard_normal(deltas.shape, dtype=np.float32)
            answers[start : start + _BLOCK] = np.bitwise_xor.reduce((deltas < 0).view(np.uint8), axis=1)
        return answers

    def delays(self, challenges: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The chains' delay differences without noise, shape ``(n, k)``; a negative one is an answer of 1."""
        return parity_features(self._checked(challenges)) @ self.weights.T

    def entropy_limit(self, count: int) -> float:
        """Upper bound, in bits, on what the answers to ``count`` challenges can hold.

        A hyperplane through the origin of d dimensions labels m points in at most 2 * sum(C(m - 1, i), i < d) ways
        (Cover, "Geometrical and statistical properties of systems of linear inequalities", 1965), and the XOR of k
        hyperplanes in at most the k-th power of it.
        """
        dimensions = self.stages + 1
        if count <= dimensions:
            return float(count)
        ways = 2 * sum(math.comb(count - 1, index) for index in range(dimensions))
        return min(float(count), self.k * math.log2(ways))

    def _checked(self, challenges: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if challenges.dtype != np.uint8 or challenges.ndim != 2 or challenges.shape[1] != self.stages:
            raise ParameterError(
                f"challenges are uint8 of shape (n, {self.stages}), got {challenges.dtype} {challenges.shape}"
            )
        if challenges.size and challenges.max() > 1:
            raise ParameterError("challenges hold 0 and 1 only; write 1 for -1")
        return challenges


def open_arbiter(address: SourceURI) -> ScheduledPUF:
    """Open ``sim:arbiter?seed=7&stages=64&k=6&noise=0.01&bits=2048&schedule=text&noise_seed=1``.

    ``check=off`` lets a device enrol whose chains are too few for its responses: a victim for the lab.

    Raises:
        SourceError: an unknown option, or a value out of range.
    """
    if "seed" not in address.options:
        raise SourceError(f"{address.text!r} needs a seed: which chip? for example sim:arbiter?seed=7")
    noise_seed = address.int_option("noise_seed", -1, 0, 2**63)
    try:
        strong = ArbiterPUF(
            address.int_option("seed", 0, 0, 2**63),
            stages=address.int_option("stages", DEFAULT_STAGES, 1, MAX_STAGES),
            k=address.int_option("k", DEFAULT_CHAINS, 1, MAX_CHAINS),
            noisiness=address.float_option("noise", DEFAULT_NOISINESS, 0.0, 1.0),
            noise_seed=None if noise_seed < 0 else noise_seed,
        )
        source = ScheduledPUF(
            strong,
            bits=address.int_option("bits", DEFAULT_BITS, 1, MAX_BITS),
            schedule=address.text_option("schedule", "").encode(),
            limited=_switch(address, "check"),
        )
    except ParameterError as problem:
        raise SourceError(f"{address.text!r}: {problem}") from None
    address.finish(_OPTIONS)
    return source


def _switch(address: SourceURI, name: str) -> bool:
    value = address.text_option(name, "on")
    if value not in ("on", "off"):
        raise SourceError(f"{name} in {address.text!r} is on or off, not {value!r}")
    return value == "on"
