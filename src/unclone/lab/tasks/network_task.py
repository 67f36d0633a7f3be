"""A task around a network in torch: weights in a safetensors file, data in memory."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from unclone.errors import FormatError
from unclone.lab.contracts import Array, Data, Weights
from unclone.lab.data import cache_folder
from unclone.lab.metrics import chance_level, score_outputs
from unclone.lab.tasks.training import Network, Recipe, draw, run, train

__all__ = ["WEIGHTS_FOLDER", "NetworkTask"]

WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"

VICTIM_SEED = 20260


class NetworkTask:
    """A ``unclone.lab.contracts.Task`` of a network in torch.

    Args:
        name: as on the command line; the committed weights are ``lab/weights/<name>.safetensors``.
        network: computes and differentiates.
        data: loads (training data, test data).
        recipe: how it is trained.
        metric: a name in ``unclone.lab.metrics.METRICS``.
        victim: loads the true weights, where somebody else trained them.
    """

    trainable = True

    def __init__(
        self,
        name: str,
        network: Network,
        data: Callable[[], tuple[Data, Data]],
        recipe: Recipe,
        metric: str = "accuracy",
        victim: Callable[[], Weights] | None = None,
    ) -> None:
        self.name = name
        self.metric = metric
        self.recipe = recipe
        self.network = network
        self.layers: Mapping[str, str] = network.kinds
        self._given = victim
        self._train, self._test = data()
        self.train_size = len(self._train[0])
        self.chance = chance_level(metric, self._test[1])

    def weights(self) -> Weights:
        """The committed weights; where there are none, trained once and kept in the user's cache."""
        return {name: value.copy() for name, value in self._victim.items()}

    @cached_property
    def _victim(self) -> Weights:
        if self._given is not None:
            return self._given()
        committed = WEIGHTS_FOLDER / f"{self.name}.safetensors"
        if committed.is_file():
            return self.read_file(committed)
        digest = hashlib.sha256(repr((self.name, self.recipe, dict(self.layers), self.train_size)).encode()).hexdigest()
        kept = cache_folder() / "victims" / f"{self.name}-{digest[:16]}.safetensors"
        if kept.is_file():
            return self.read_file(kept)
        trained = self.fit(self.initialise(VICTIM_SEED), self.train_size, VICTIM_SEED)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            self.model_file(trained, Path(folder, "model")).replace(kept)
        return trained

    def model_file(self, weights: Weights, path: Path) -> Path:
        """Write a safetensors file."""
        target = path.with_suffix(".safetensors")
        save_file(dict(weights), target)
        return target

    def read_file(self, path: Path) -> Weights:
        """The tensors of a safetensors file.

        Raises:
            FormatError: it is none.
        """
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as problem:
            raise FormatError(f"cannot read {path} as safetensors: {problem}") from None

    def score(self, weights: Weights, *, limit: int | None = None) -> float:
        """The metric on the test split."""
        inputs, labels = self._test
        return score_outputs(self.metric, self.outputs(weights, inputs[:limit]), labels[:limit])

    def outputs(self, weights: Weights, inputs: Array) -> Array:
        """Class scores, shape ``(samples, classes)``."""
        return run(self.network, weights, inputs)

    def train_data(self) -> Data:
        """Inputs and labels."""
        return self._train

    def test_data(self) -> Data:
        """Inputs and labels."""
        return self._test

    def initialise(self, seed: int) -> Weights:
        """The network's own initialisation."""
        return self.network.initialise(seed)

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
        """Train, see ``unclone.lab.contracts.Task.fit``."""
        chosen = draw(self._train, labels, seed) if data is None else data
        regression = self.metric == "mae"
        return train(self.network, start, chosen, seed, self.recipe, effort=effort, free=free, regression=regression)
