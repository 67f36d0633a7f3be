"""Schemes of the literature, as their papers describe them: each keeps most of what a weight is in clear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unclone.errors import ParameterError
from unclone.lab.contracts import Array, Locked, Weights
from unclone.lab.magnitudes import has_magnitudes, is_code, written

__all__ = ["FewWeights", "KeptValues", "PaperPad", "SignFlips", "matrices_of", "words_of", "xored"]


def words_of(weights: Weights) -> list[str]:
    """Names of the tensors of floats, and of the codes of a quantised model: what a pad can be put on."""
    return [name for name, value in weights.items() if np.issubdtype(value.dtype, np.floating) or is_code(value)]


def matrices_of(weights: Weights) -> list[str]:
    """Names of the tensors of two or more axes whose weights can be picked by magnitude.

    Raises:
        ParameterError: there is none.
    """
    names = [name for name, value in weights.items() if value.ndim > 1 and value.size and has_magnitudes(value)]
    if not names:
        raise ParameterError("this scheme changes floats or int8 codes of two or more axes, and the model has none")
    return names


def _copy(weights: Weights) -> Weights:
    return {name: value.copy() for name, value in weights.items()}


@dataclass
class PaperPad:
    """Whole words at random positions XORed with a pad that is used once (arXiv 2603.10753).

    The pad is drawn uniformly: what an ideal PUF would answer. The words are secret, as in the paper.
    """

    name: str = "paper-pad"
    share: float = 0.2
    reference: str = "arXiv 2603.10753"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock a copy; ``seed`` stands for the device."""
        rng = np.random.default_rng([seed, 0x9AD])
        pad: dict[str, Array] = {}
        for name in words_of(weights):
            value = weights[name]
            words = rng.integers(0, 256, value.nbytes, dtype=np.uint8).view(f"u{value.itemsize}").reshape(value.shape)
            pad[name] = np.where(rng.random(value.shape) < self.share, words, 0).astype(words.dtype)
        return Locked(xored(weights, pad), pad)

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        return xored(locked.weights, locked.secret)

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one PUF response for each locked bit, at each start"


def xored(weights: Weights, pad: dict[str, Array]) -> Weights:
    """A copy with the words of ``pad``, unsigned integers of the weights' shapes, XORed to it; twice is not at all."""
    result = _copy(weights)
    for name, words in pad.items():
        result[name] = (np.ascontiguousarray(result[name]).view(words.dtype) ^ words).view(weights[name].dtype)
    return result


@dataclass
class SignFlips:
    """The signs of the ``count`` largest weights of the first tensor of two or more axes (DNL, arXiv 2502.07408)."""

    name: str = "sign-flips"
    count: int = 20
    reference: str = "DNL, arXiv 2502.07408"

    def lock(self, weights: Weights, seed: int) -> Locked:  # noqa: ARG002
        """Lock a copy; ``seed`` stands for the device."""
        name = matrices_of(weights)[0]
        largest = np.argsort(-np.abs(weights[name].reshape(-1).astype(np.float64)), kind="stable")[: self.count]
        secret = (name, largest)
        return Locked(_flipped(weights, secret), secret)

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        return _flipped(locked.weights, locked.secret)

    def cost(self) -> str:
        """What the genuine device pays."""
        return f"{self.count} positions to store"


def _flipped(weights: Weights, secret: tuple[str, Array]) -> Weights:
    result = _copy(weights)
    result[secret[0]].reshape(-1)[secret[1]] *= -1
    return result


class KeptValues:
    """A scheme whose secret is a list of positions and true values: tensor name -> (places, values), flat."""

    def unlock(self, locked: Locked) -> Weights:
        """The exact weights."""
        result = _copy(locked.weights)
        for name, (places, values) in locked.secret.items():
            result[name].reshape(-1)[places] = values
        return result

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one position and value for each changed weight in protected memory"


@dataclass
class FewWeights(KeptValues):
    """A few random weights of each tensor made large, their true values kept apart: the cheapest lock."""

    name: str = "few-weights"
    share: float = 0.01
    reference: str = "the principle of NNSplitter (ICML 2023), without its choice"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock a copy; ``seed`` stands for the device."""
        rng = np.random.default_rng([seed, 0xFE3])
        result, secret = _copy(weights), {}
        for name in matrices_of(weights):
            flat = result[name].reshape(-1)
            places = rng.choice(flat.size, max(1, round(self.share * flat.size)), replace=False)
            secret[name] = (places, flat[places].copy())
            flat[places] = written(
                20 * np.abs(flat.astype(np.float64)).max() * rng.choice([-1.0, 1.0], places.size), flat
            )
        return Locked(result, secret)
