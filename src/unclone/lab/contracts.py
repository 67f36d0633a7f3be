"""What tasks, binding schemes and attacks are to each other in the lab.

A *task* is a model with data, a metric and a way to train. A *scheme* turns true weights into what lies on a copied
disk. An *attack* makes of that what it can, and is judged against training without the file at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from numpy.typing import NDArray

__all__ = [
    "KINDS",
    "LABELLESS",
    "Array",
    "Attack",
    "Data",
    "Locked",
    "ModelScheme",
    "Outcome",
    "Scheme",
    "Task",
    "Weights",
]

Array: TypeAlias = NDArray[Any]

Weights: TypeAlias = dict[str, Array]
"""Tensor name -> array, named, shaped and typed as in the victim's file."""

Data: TypeAlias = tuple[Array, Array]
"""Inputs, shape ``(samples, ...)``; labels, shape ``(samples,)``, soft targets, ``(samples, classes)``, or numbers of
shape ``(samples, steps)`` for ``"mae"``."""

KINDS: Final = ("dense", "convolutional", "recurrent", "embedding", "normalisation", "bias", "other")
"""What a weight can be (``Task.layers``)."""

LABELLESS: Final = ("none", "device")
"""What an attack may need instead of labels: nothing but the file, or the device or part of its key as well."""


@runtime_checkable
class Task(Protocol):
    """A model, data, a metric with its chance level, and a way to train.

    Attributes:
        name: as on the command line.
        metric: ``"accuracy"``, ``"balanced-accuracy"``, ``"f1"`` (macro) or ``"mae"`` (negated: higher is better).
        chance: score of the best constant answer.
        trainable: whether ``initialise`` and ``fit`` work; where not, attacks that train are not run.
        layers: weight name -> one of ``KINDS``.
        train_size: labelled training samples there are.
    """

    name: str
    metric: str
    chance: float
    trainable: bool
    layers: Mapping[str, str]
    train_size: int

    def weights(self) -> Weights:
        """The victim's true weights; the caller may change them."""
        ...

    def model_file(self, weights: Weights, path: Path) -> Path:
        """Write ``weights`` as a model file that ``unclone.bind`` takes; ``path`` gains the format's suffix."""
        ...

    def read_file(self, path: Path) -> Weights:
        """What any ordinary tool reads from such a file, masked or not."""
        ...

    def score(self, weights: Weights, *, limit: int | None = None) -> float:
        """The metric on the test split, or its first ``limit`` samples; a row with a NaN is wrong."""
        ...

    def outputs(self, weights: Weights, inputs: Array) -> Array:
        """Class scores, ``float32``, shape ``(samples, classes)``; ``(samples, steps)`` for ``"mae"``."""
        ...

    def train_data(self) -> Data:
        """What the victim was trained on; an attacker's labels are drawn from it."""
        ...

    def test_data(self) -> Data:
        """Held out: nobody trains on it."""
        ...

    def initialise(self, seed: int) -> Weights:
        """Fresh random weights, as training starts from."""
        ...

    def fit(
        self,
        start: Weights,
        labels: int,
        seed: int,
        *,
        effort: float = 1.0,
        data: Data | None = None,
        free: Mapping[str, Array] | None = None,
    ) -> Weights:
        """Train from ``start``, which is left alone, with ``labels`` labelled samples drawn by ``seed``.

        Args:
            start: where training starts; values that are no numbers are taken for 0.
            labels: samples drawn without replacement from ``train_data``; ``train_size`` or more means all.
            seed: draws the samples and their order. The same seed draws the same samples whatever ``start`` is.
            effort: multiplies the number of steps.
            data: train on these inputs and targets instead, soft ones for distillation; ``labels`` is ignored.
            free: weight name -> boolean array: what may move. A name that is absent is free.

        Returns:
            Weights of the same names, shapes and dtypes.
        """
        ...


@dataclass
class Locked:
    """A locked model.

    Attributes:
        weights: what the pirate holds.
        secret: for ``Scheme.unlock``, and for attacks that model an oracle.
        info: public knowledge: ``"patterns"`` (name -> mask of secret bits of a word, an int), ``"positions"`` (name ->
            boolean array of locked weights, where a scheme publishes them), ...
    """

    weights: Weights
    secret: Any = field(repr=False)
    info: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Scheme(Protocol):
    """A way to lock weights.

    Attributes:
        name: as on the command line.
        reference: where it is published.
    """

    name: str
    reference: str

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Lock ``weights``, which are left alone; ``seed`` stands for the device."""
        ...

    def unlock(self, locked: Locked) -> Weights:
        """What the genuine device computes with."""
        ...

    def cost(self) -> str:
        """What the scheme costs on the device, in one line."""
        ...


@runtime_checkable
class ModelScheme(Scheme, Protocol):
    """A scheme that looks at the task's data for what to lock."""

    def lock_model(self, task: Task, seed: int) -> Locked:
        """Lock the task's true weights; ``seed`` stands for the device."""
        ...


@dataclass
class Outcome:
    """What an attack achieved.

    Attributes:
        score: the task's metric on the test split.
        weights: the attacker's model, where it has one.
        queries: times it asked an oracle (test accuracy, the black box, a PUF).
        seconds: processor time.
        detail: figures of this attack, by name.
    """

    score: float
    weights: Weights | None = field(default=None, repr=False)
    queries: int = 0
    seconds: float = 0.0
    detail: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Attack(Protocol):
    """A way to make use of a locked model.

    The baseline of an attack is training with the same labels, seed and effort from ``task.initialise(seed)``, or from
    the public base where the attack is given one. Two attributes are optional: ``upper_bound``, true of what no binding
    can prevent, and ``own_task``, true where only the attack's own ``detail["baseline"]`` is on the same task.

    Attributes:
        name: as on the command line.
        reference: where it is published.
        published: the figure of the literature, or ``""``.
        needs: ``"labels"``, ``"data"``, ``"base"``, ``"oracle"``, or what uses no label (``LABELLESS``).
    """

    name: str
    reference: str
    published: str
    needs: str

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        """Attack, with ``labels`` labelled samples drawn by ``seed``."""
        ...
