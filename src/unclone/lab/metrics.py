"""Scores of a model's outputs: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import ParameterError

__all__ = [
    "METRICS",
    "accuracy",
    "are_probabilities",
    "balanced_accuracy",
    "chance_level",
    "identical_share",
    "macro_f1",
    "negated_mae",
    "score_outputs",
]

Outputs = NDArray[np.floating[Any]]
Labels = NDArray[Any]


_ROUNDING: Final = 1e-3


def are_probabilities(outputs: Outputs) -> bool:
    """Whether each row is a distribution over classes, as after a softmax."""
    return bool(outputs.shape[1] > 1 and (outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=_ROUNDING))


def accuracy(outputs: Outputs, labels: Labels) -> float:
    """Share of samples named right; a row with a NaN counts as wrong.

    Args:
        outputs: scores, shape ``(samples, classes)``.
        labels: class numbers, shape ``(samples,)``.
    """
    return float(_right(outputs, labels).mean())


def balanced_accuracy(outputs: Outputs, labels: Labels) -> float:
    """Mean over the classes present of the share of their samples that are named right.

    Chance is one over the number of classes present, also on skewed data. A row with a NaN counts as wrong.

    Args:
        outputs: scores, shape ``(samples, classes)``.
        labels: class numbers, shape ``(samples,)``.
    """
    right = _right(outputs, labels)
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def macro_f1(outputs: Outputs, labels: Labels) -> float:
    """Mean over the classes present of the harmonic mean of precision and recall; a row with a NaN counts as wrong.

    Args:
        outputs: scores, shape ``(samples, classes)``.
        labels: class numbers, shape ``(samples,)``.
    """
    named = np.where(np.isnan(outputs).any(axis=1), -1, outputs.argmax(axis=1))
    scores = []
    for label in np.unique(labels):
        hits = np.count_nonzero((named == label) & (labels == label))
        scores.append(2 * hits / (np.count_nonzero(named == label) + np.count_nonzero(labels == label)))
    return float(np.mean(scores))


def negated_mae(outputs: Outputs, labels: Labels) -> float:
    """Mean absolute error, negated, so that more is better.

    An output that is no number counts as an error as large as the largest label.

    Args:
        outputs: shape ``(samples, steps)``.
        labels: numbers, shape ``(samples, steps)``, or ``(samples,)`` of a single step.
    """
    errors = np.abs(outputs.reshape(labels.shape).astype(np.float64) - labels)
    worst = float(np.abs(labels).max())
    return -float(np.where(np.isfinite(errors), errors, worst).mean())


METRICS: Final[dict[str, Callable[[Outputs, Labels], float]]] = {
    "accuracy": accuracy,
    "balanced-accuracy": balanced_accuracy,
    "f1": macro_f1,
    "mae": negated_mae,
}
"""By name; of each, more is better."""


def score_outputs(metric: str, outputs: Outputs, labels: Labels) -> float:
    """A metric by its name.

    Raises:
        ParameterError: there is no metric of that name.
    """
    if metric not in METRICS:
        raise ParameterError(f"metric is one of {', '.join(METRICS)}, not {metric[:40]!r}")
    return METRICS[metric](outputs, labels)


def chance_level(metric: str, labels: Labels) -> float:
    """Score of the best answer that does not look at the input: one class for all, or the median.

    Args:
        metric: a name in ``METRICS``.
        labels: shape ``(samples,)``; numbers may be ``(samples, steps)``.
    """
    if metric == "mae":
        return -float(np.abs(labels - np.median(labels)).mean())
    classes, counts = np.unique(labels, return_counts=True)
    constant = np.zeros((len(labels), int(classes.max()) + 1), dtype=np.float32)
    constant[:, classes[counts.argmax()]] = 1
    return score_outputs(metric, constant, labels)


def identical_share(outputs: Outputs, reference: Outputs) -> float:
    """Share of samples whose outputs are the same bits as the reference's."""
    words = np.dtype(f"u{reference.dtype.itemsize}")
    return float((outputs.view(words) == reference.view(words)).all(axis=1).mean())


def _right(outputs: Outputs, labels: Labels) -> NDArray[np.bool_]:
    return np.asarray((outputs.argmax(axis=1) == labels) & ~np.isnan(outputs).any(axis=1))
