"""Task: a digits classifier that scikit-learn trains in seconds, saved as safetensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unclone.errors import MissingExtraError

__all__ = ["forward", "train_digits"]

Weights = Mapping[str, NDArray[np.float32]]


def train_digits(path: Path, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Train a 64-96-48-10 network on scikit-learn's digits, save it, and return the held-out half.

    Returns:
        Images, shape ``(samples, 64)``, scaled to 0..1; and labels, shape ``(samples,)``.

    Raises:
        MissingExtraError: scikit-learn or safetensors is not installed.
    """
    try:
        from safetensors.numpy import save_file
        from sklearn.datasets import load_digits
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import train_test_split
        from sklearn.neural_network import MLPClassifier
    except ImportError as problem:
        raise MissingExtraError(str(problem.name), "lab") from None
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    parts = train_test_split(images, digits.target.astype(np.int64), test_size=0.5, random_state=seed)
    network = MLPClassifier((96, 48), max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(parts[0], parts[2])
    tensors = {}
    for number, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        tensors[f"layers.{number}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
        tensors[f"layers.{number}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
    save_file(tensors, path, metadata={"classes": "0123456789"})
    return parts[1], parts[3]


def forward(weights: Weights, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of the network, shape ``(samples, 10)``."""
    values = images
    layers = len(weights) // 2
    with np.errstate(all="ignore"):  # a clone's weights may overflow; that is the point
        for number in range(layers):
            values = values @ weights[f"layers.{number}.weight"] + weights[f"layers.{number}.bias"]
            if number < layers - 1:
                values = np.maximum(values, 0)
    return values
