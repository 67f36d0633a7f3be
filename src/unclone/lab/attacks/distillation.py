"""What the genuine device's answers teach: no binding can prevent that, so it bounds every other attack."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from unclone.errors import ParameterError
from unclone.lab.attacks.fitness import drawn
from unclone.lab.contracts import Array, Locked, Outcome, Task
from unclone.lab.metrics import are_probabilities

__all__ = ["Distillation"]

_LEAST = 1e-9  # of a probability: what is left of smaller ones in half precision says nothing


@dataclass
class Distillation:
    """Ask the genuine device about the attacker's inputs, and train a fresh network on what it answers.

    The file is not used. A device that answers with classes alone, slowly, and to few, gives less away: that is a
    matter of the product around it, not of the binding.

    Attributes:
        inputs_per_label: inputs without labels are cheaper than labels: so many times as many, where there are.
        temperature: of the softmax over the device's scores.
        upper_bound: for the verdict: what is gained here is not the binding's to prevent.
    """

    name: str = "distillation"
    inputs_per_label: int = 10
    temperature: float = 2.0
    reference: str = "Hinton et al., arXiv 1503.02531; Tramer et al., USENIX Security 2016"
    published: str = ""
    needs: str = "oracle"
    upper_bound: bool = True

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:  # noqa: ARG002
        """Query, train and score; ``queries`` counts the inputs asked about.

        Raises:
            ParameterError: the task cannot train.
        """
        if not task.trainable:
            raise ParameterError(f"distillation trains, and {task.name} cannot be trained")
        start = time.process_time()
        asked = min(self.inputs_per_label * labels, task.train_size)
        inputs = drawn(task, asked, seed)[0]
        answers = task.outputs(task.weights(), inputs)
        targets = answers if task.metric == "mae" else _softened(answers, self.temperature)
        weights = task.fit(task.initialise(seed), asked, seed, effort=effort, data=(inputs, targets))
        return Outcome(task.score(weights), weights, len(inputs), time.process_time() - start)


def _softened(outputs: Array, temperature: float) -> Array:
    """Softmax of class scores, or of the logarithms of probabilities, ``float32``, shape ``(samples, classes)``."""
    wide = outputs.astype(np.float64)
    if are_probabilities(wide):
        wide = np.log(np.maximum(wide, _LEAST))
    wide = wide / temperature
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    soft: Array = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return soft
