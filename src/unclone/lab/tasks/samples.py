"""Somebody's own samples: inputs and labels out of an ``.npz``."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unclone.errors import FormatError, InputError
from unclone.lab.contracts import Array, Data
from unclone.lab.metrics import METRICS

__all__ = ["halved", "load_samples"]


def load_samples(path: Path, metric: str, names: Sequence[str]) -> tuple[dict[str, Array], Array]:
    """An array for each input of a model, ``(samples, ...)``, by name; and ``labels`` (or ``y``), ``(samples,)``.

    Args:
        path: the file; of a model with one input, its array may be called ``inputs`` or ``x``.
        metric: says what labels are.
        names: of the inputs.

    Raises:
        FormatError: it is no such file, or lacks an array.
        InputError: labels that do not fit the inputs or the metric, or fewer than 20.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            spellings = {name: (name, "inputs", "x") if len(names) == 1 else (name,) for name in names}
            found = {name: _first(data, tried) for name, tried in spellings.items()}
            labels = _first(data, ("labels", "y"))
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as problem:
        raise FormatError(f"cannot read {path} as .npz: {str(problem)[:200]}") from None
    inputs = {name: value for name, value in found.items() if value is not None}
    if len(inputs) < len(names) or labels is None:
        wanted = "inputs (or x)" if len(names) == 1 else ", ".join(names)
        raise FormatError(f"{path} needs the arrays {wanted} and labels (or y)")
    labels = labels.reshape(len(labels), -1) if labels.ndim else labels[None, None]
    if labels.shape[1] != 1:
        raise InputError(f"labels in {path} are class numbers, one for each sample, not of shape {labels.shape}")
    labels = labels[:, 0]
    for name, value in inputs.items():
        if value.ndim < (2 if len(names) == 1 else 1) or len(value) != len(labels):
            what = "inputs" if len(names) == 1 else name
            raise InputError(f"{path} has {what} of shape {value.shape} for {len(labels)} labels")
    if len(labels) < 20:
        raise InputError(
            f"{path} has {len(labels)} samples; that is too few to score on (20 at least, hundreds better)"
        )
    if metric == "mae":
        return inputs, labels.astype(np.float64)
    if metric in METRICS and (labels.min() < 0 or not np.array_equal(labels, labels.astype(np.int64))):
        raise InputError(f"labels in {path} are class numbers from 0 on")
    return inputs, labels.astype(np.int64)


def _first(data: Any, names: Sequence[str]) -> Array | None:
    return next((data[name] for name in names if name in data), None)


def halved(inputs: Array, labels: Array) -> tuple[Data, Data]:
    """Two halves, drawn at random, the same each time."""
    order = np.random.default_rng(0).permutation(len(labels))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    return (inputs[first], labels[first]), (inputs[second], labels[second])
