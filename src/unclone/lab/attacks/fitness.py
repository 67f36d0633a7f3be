"""What a search climbs: how well a candidate does on the attacker's own labelled samples."""

from __future__ import annotations

import numpy as np

from unclone.lab.contracts import Array, Data, Task, Weights
from unclone.lab.metrics import score_outputs

__all__ = ["Fitness", "drawn"]


def drawn(task: Task, labels: int, seed: int) -> Data:
    """The samples that ``task.fit`` trains on: inputs and labels."""
    from unclone.lab.tasks.training import draw

    return draw(task.train_data(), labels, seed)


class Fitness:
    """The task's metric on the attacker's samples; among equals, the likelihood of their labels.

    Args:
        task: its training data, never its test data, is used.
        labels: samples, drawn as ``task.fit`` draws them.
        seed: likewise.
        limit: samples looked at in one query at most.

    Attributes:
        queries: how often it was asked.
    """

    def __init__(self, task: Task, labels: int, seed: int, *, limit: int = 200) -> None:
        self._task = task
        inputs, targets = drawn(task, labels, seed)
        self.inputs, self.targets = inputs[:limit], targets[:limit]
        self.queries = 0

    def __call__(self, weights: Weights) -> tuple[float, float]:
        """(metric, mean log-likelihood): more is better, compared in that order."""
        self.queries += 1
        outputs = self._task.outputs(weights, self.inputs)
        score = score_outputs(self._task.metric, outputs, self.targets)
        return score, 0.0 if self._task.metric == "mae" else _log_likelihood(outputs, self.targets)


def _log_likelihood(outputs: Array, targets: Array) -> float:
    """Mean log of the softmax at the labels, each sample's no lower than -50, no number counting as that."""
    with np.errstate(all="ignore"):
        wide = outputs.astype(np.float64)
        wide = wide - wide.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(wide, targets.astype(np.int64)[:, None], axis=1)[:, 0]
        values = chosen - np.log(np.exp(wide).sum(axis=1))
    return float(np.clip(np.nan_to_num(values, nan=-50.0), -50.0, 0.0).mean())
