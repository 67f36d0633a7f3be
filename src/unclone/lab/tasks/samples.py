"""Somebody's own samples: inputs and labels out of an ``.npz``."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from unclone.errors import FormatError, InputError
from unclone.lab.contracts import Array, Data
from unclone.lab.metrics import METRICS

__all__ = ["halved", "load_samples"]


def load_samples(path: Path, metric: str) -> Data:
    """The arrays ``inputs`` (or ``x``), ``(samples, ...)``, and ``labels`` (or ``y``), ``(samples,)``.

    Raises:
        FormatError: it is no such file.
        InputError: labels that do not fit the inputs or the metric, or fewer than 20.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            inputs = next((data[name] for name in ("inputs", "x") if name in data), None)
            labels = next((data[name] for name in ("labels", "y") if name in data), None)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as problem:
        raise FormatError(f"cannot read {path} as .npz: {str(problem)[:200]}") from None
    if inputs is None or labels is None:
        raise FormatError(f"{path} needs the arrays inputs (or x) and labels (or y)")
    labels = labels.reshape(len(labels), -1) if labels.ndim else labels[None, None]
    if labels.shape[1] != 1:
        raise InputError(f"labels in {path} are class numbers, one for each sample, not of shape {labels.shape}")
    labels = labels[:, 0]
    if inputs.ndim < 2 or len(inputs) != len(labels):
        raise InputError(f"{path} has inputs of shape {inputs.shape} for {len(labels)} labels")
    if len(labels) < 20:
        raise InputError(
            f"{path} has {len(labels)} samples; that is too few to score on (20 at least, hundreds better)"
        )
    if metric == "mae":
        return inputs, labels.astype(np.float64)
    if metric in METRICS and (labels.min() < 0 or not np.array_equal(labels, labels.astype(np.int64))):
        raise InputError(f"labels in {path} are class numbers from 0 on")
    return inputs, labels.astype(np.int64)


def halved(inputs: Array, labels: Array) -> tuple[Data, Data]:
    """Two halves, drawn at random, the same each time."""
    order = np.random.default_rng(0).permutation(len(labels))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    return (inputs[first], labels[first]), (inputs[second], labels[second])
