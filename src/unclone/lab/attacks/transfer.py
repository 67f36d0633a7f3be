"""Another task than the victim's, near it: what the file is worth to a pirate who wants something else."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from unclone.errors import ParameterError
from unclone.lab.attacks.repair import Repair
from unclone.lab.attacks.training import rescaled
from unclone.lab.contracts import Array, Data, Locked, Outcome, Task, Weights
from unclone.lab.metrics import score_outputs
from unclone.lab.tasks.training import draw

__all__ = ["NearTask", "near_data"]


@dataclass
class NearTask:
    """Train the file on the upper half of the classes, put in another order: the last layer's answers are of no use.

    What is left of the victim's features shows as a lead over a fresh network that learns the same from the same
    labels. The score is on the near task's test samples, and so is the baseline.
    """

    name: str = "near-task"
    reference: str = "transfer: NNSplitter, ICML 2023; ProDiF, arXiv 2503.13224"
    published: str = "NNSplitter lowers transferability by 0.46 % and 0.39 %: nearly all is left"
    needs: str = "labels"
    own_task: bool = True

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        """Repair, bring to the spread of a fresh network, train; ``detail``: ``baseline``, ``classes``.

        Raises:
            ParameterError: the task cannot train, or has fewer than four classes.
        """
        if not task.trainable or task.metric == "mae":
            raise ParameterError(f"near-task trains on other classes, and {task.name} has none to train on")
        start = time.process_time()
        order = np.random.default_rng([seed, 0x7A5]).permutation(int(task.train_data()[1].max()) + 1)
        train = draw(near_data(task.train_data(), order), labels, seed)
        test = near_data(task.test_data(), order)
        fresh = task.initialise(seed)
        repaired = Repair("repair-zero", "zero").apply(locked.weights)
        starts = (repaired, {name: rescaled(value, fresh[name]) for name, value in repaired.items()})
        begin = max(starts, key=lambda weights: _promise(task, weights, train, seed, effort))
        weights = task.fit(begin, len(train[0]), seed, effort=effort, data=train)
        seconds = time.process_time() - start
        baseline = _score(task, task.fit(fresh, len(train[0]), seed, effort=effort, data=train), test)
        detail = {"baseline": baseline, "classes": float(len(np.unique(test[1])))}
        return Outcome(_score(task, weights, test), weights, seconds=seconds, detail=detail)


def near_data(data: Data, order: Array) -> Data:
    """The samples of the upper half of the classes, which ``order`` renames.

    Raises:
        ParameterError: fewer than four classes.
    """
    inputs, targets = data
    if len(order) < 4:
        raise ParameterError(f"near-task needs four classes, and there are {len(order)}")
    kept = targets >= len(order) // 2
    return inputs[kept], order[targets[kept]].astype(targets.dtype)


def _promise(task: Task, begin: Weights, data: Data, seed: int, effort: float) -> float:
    """The score on the second half of the labels after training on the first."""
    inputs, targets = data
    half = len(inputs) // 2
    if not half:
        return 0.0
    trial = task.fit(begin, half, seed, effort=effort, data=(inputs[:half], targets[:half]))
    return _score(task, trial, (inputs[half:], targets[half:]))


def _score(task: Task, weights: Weights, data: Data) -> float:
    return score_outputs(task.metric, task.outputs(weights, data[0]), data[1])
