"""Scores of outputs, the rows with a NaN among them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from unclone.errors import ParameterError
from unclone.lab.metrics import chance_level, score_outputs

LABELS = np.random.default_rng(0).integers(0, 4, 200)
OUTPUTS = np.random.default_rng(1).standard_normal((200, 4)) + 1.2 * np.eye(4)[LABELS]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", accuracy_score(LABELS, OUTPUTS.argmax(axis=1))),
        ("balanced-accuracy", balanced_accuracy_score(LABELS, OUTPUTS.argmax(axis=1))),
        ("f1", f1_score(LABELS, OUTPUTS.argmax(axis=1), average="macro")),
    ],
)
def test_metrics_are_those_of_scikit_learn(metric: str, expected: float) -> None:
    assert score_outputs(metric, OUTPUTS, LABELS) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy", "f1"])
def test_a_row_with_a_nan_is_wrong(metric: str) -> None:
    perfect = np.eye(4)[LABELS]
    assert score_outputs(metric, perfect, LABELS) == 1.0
    perfect[:, 0] = np.nan
    assert score_outputs(metric, perfect, LABELS) == 0.0


def test_mae_is_negated_and_finite() -> None:
    labels = np.array([1.0, 2.0, 4.0])
    assert score_outputs("mae", np.array([[1.0], [3.0], [4.0]]), labels) == pytest.approx(-1 / 3)
    assert score_outputs("mae", np.array([[np.nan], [np.inf], [4.0]]), labels) == pytest.approx(-8 / 3)


def test_chance_is_the_best_constant_answer() -> None:
    skewed = np.array([0] * 90 + [1] * 10)
    assert chance_level("accuracy", skewed) == pytest.approx(0.9)
    assert chance_level("balanced-accuracy", skewed) == pytest.approx(0.5)
    assert chance_level("mae", np.array([0.0, 0.0, 9.0])) == pytest.approx(-3.0)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ParameterError, match="bleu"):
        score_outputs("bleu", OUTPUTS, LABELS)
