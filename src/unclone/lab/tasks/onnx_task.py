"""A task around somebody's own ONNX model: scored with ONNX Runtime, trained, where possible, with torch."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from unclone.errors import FormatError, InputError, MissingExtraError, UnsupportedError
from unclone.formats import detect
from unclone.lab.contracts import Array, Data, Weights
from unclone.lab.entries import Entries, Entry
from unclone.lab.metrics import are_probabilities, chance_level, score_outputs
from unclone.lab.tasks.onnx_model import canonical, declared_batch, element_type, inputs_of, with_weights
from unclone.lab.tasks.samples import halved, load_samples
from unclone.lab.tasks.training import Recipe, draw, run, train

try:
    import onnx
    import onnxruntime
except ImportError as problem:
    raise MissingExtraError(str(problem.name), "lab") from None

__all__ = ["OnnxTask"]

_TOLERANCE: Final = 1e-3
_ROUNDED_TOLERANCE: Final = 0.03
"""Of quantised models, whose activations jump by a whole code where sums are rounded in another order."""
_CHECKED: Final = 16
_BATCH: Final = 256
_LONGEST_FIT: Final = 600.0


class OnnxTask:
    """A ``unclone.lab.contracts.Task`` of an ONNX model.

    One half of the samples, drawn at random, is the attacker's labels; the other half, or ``test``, is for scoring.

    Args:
        model: the file.
        data: ``.npz`` with ``inputs`` (or ``x``), shape ``(samples, ...)``, and ``labels`` (or ``y``), ``(samples,)``;
            for a model with several inputs an array named like each, in place of ``inputs``. Or the two arrays, for a
            model with one.
        metric: a name in ``unclone.lab.metrics.METRICS``.
        name: the file's by default.
        test: held-out samples; ``data`` is all the attacker's then.

    Attributes:
        untrainable: why ``trainable`` is false, or ``""``.

    Raises:
        FormatError: the model or the data cannot be read.
        UnsupportedError: what the lab cannot evaluate, by name.
        ParameterError: an unknown metric.
        InputError: data that does not fit the model.
    """

    def __init__(
        self, model: Path, data: Path | Data, metric: str = "accuracy", name: str = "", *, test: Data | None = None
    ) -> None:
        self.name = name or model.name
        self.metric = metric
        self._model = canonical(model)
        self._names = _weight_names(self._model, model)
        initialisers = {item.name: item for item in self._model.graph.initializer}
        self._victim: Weights = {
            name: np.array(onnx.numpy_helper.to_array(initialisers[name])) for name in sorted(self._names)
        }
        declared = inputs_of(self._model)
        names = [item.name for item in declared]
        if isinstance(data, Path):
            arrays, labels = load_samples(data, metric, names)
        else:
            arrays, labels = {names[0]: data[0]}, data[1]
        origin = str(data) if isinstance(data, Path) else "the data"
        self._entries = Entries(
            tuple(Entry(item.name, element_type(item), arrays[item.name].shape[1:]) for item in declared)
        )
        self._batch = declared_batch(declared)
        inputs = self._entries.pack(arrays)
        if test is None:
            self._train, self._test = halved(inputs, labels)
        else:
            self._train, self._test = (inputs, labels), (self._entries.pack({names[0]: test[0]}), test[1])
        self.train_size = len(self._train[1])
        self.chance = chance_level(metric, self._test[1])
        self._sigmoid = False
        self._output = ""
        self._probe(origin)
        self.recipe = Recipe(epochs=20, least_steps=300, batch=64)
        self.network: Any = None
        self.layers: Mapping[str, str] = dict.fromkeys(self._victim, "other")
        self.untrainable = self._prepare_training()
        self.trainable = not self.untrainable

    def weights(self) -> Weights:
        """All tensors that binding masks."""
        return {name: value.copy() for name, value in self._victim.items()}

    def model_file(self, weights: Weights, path: Path) -> Path:
        """Write an ONNX file."""
        target = path.with_suffix(".onnx")
        target.write_bytes(with_weights(self._model, weights).SerializeToString())
        return target

    def read_file(self, path: Path) -> Weights:
        """The weights in an ONNX file.

        Raises:
            FormatError: it is none, or lacks a weight.
        """
        graph = canonical(path).graph
        found = {item.name: np.array(onnx.numpy_helper.to_array(item)) for item in graph.initializer}
        missing = sorted(self._names - set(found))
        if missing:
            raise FormatError(f"{path} lacks the tensor {missing[0]!r}")
        return {name: found[name] for name in sorted(self._names)}

    def score(self, weights: Weights, *, limit: int | None = None) -> float:
        """The metric on the test half."""
        inputs, labels = self._test
        return score_outputs(self.metric, self.outputs(weights, inputs[:limit]), labels[:limit])

    def outputs(self, weights: Weights, inputs: Array) -> Array:
        """Scores, shape ``(samples, classes)``, from ONNX Runtime; a single output becomes two classes."""
        raw = self._run(weights, inputs)
        if self.metric == "mae" or raw.shape[1] > 1:
            return raw
        return np.concatenate([1 - raw, raw] if self._sigmoid else [-raw, raw], axis=1)

    def train_data(self) -> Data:
        """The attacker's half."""
        return self._train

    def test_data(self) -> Data:
        """The other half."""
        return self._test

    def initialise(self, seed: int) -> Weights:
        """Fresh weights, see ``unclone.lab.interpreter.OnnxNetwork.initialise``."""
        return dict(self._trained_network().initialise(seed))

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
        """Train, see ``unclone.lab.contracts.Task.fit``; what is the architecture's is known.

        Codes of a quantised model are trained as the numbers they stand for, and rounded in the end.
        """
        network = self._trained_network()
        known = {name: self._victim[name] for name in network.known}
        chosen = draw(self._train, labels, seed) if data is None else data
        trained = train(
            network, network.values({**start, **known}), chosen, seed, self.recipe,
            effort=effort, free=free, regression=self.metric == "mae",
        )  # fmt: skip
        return dict(network.codes_for(trained))

    def _trained_network(self) -> Any:
        if self.network is None:
            raise UnsupportedError(f"{self.name} cannot be trained here: {self.untrainable}")
        return self.network

    def _run(self, weights: Weights, inputs: Array, *, output: str = "") -> Array:
        session = _session(with_weights(self._model, weights))
        size = self._batch or _BATCH
        parts = []
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            short = size - len(batch) if self._batch else 0
            padded = np.concatenate([batch, np.repeat(batch[-1:], short, axis=0)]) if short else batch
            found = session.run([output or self._output], self._entries.feeds(padded))[0]
            parts.append(np.asarray(found, dtype=np.float32).reshape(len(padded), -1)[: len(batch)])
        return np.concatenate(parts)

    def _probe(self, data: str) -> None:
        """Find the output that holds the scores, and make sure that the data fit."""
        try:
            session = _session(self._model)
            self._output = next(
                item.name
                for item in session.get_outputs()
                if item.type in ("tensor(float)", "tensor(float16)", "tensor(double)")
            )
            sample = self._run(self._victim, self._test[0][: max(2, self._batch)])
        except StopIteration:
            raise UnsupportedError(f"{self.name} has no output of floating-point numbers to score") from None
        except UnsupportedError:
            raise
        except Exception as problem:  # ONNX Runtime has no error class of its own to name
            raise InputError(f"{self.name} does not run on the inputs of {data}: {str(problem)[:300]}") from None
        if self.metric == "mae":
            if sample.shape[1] != 1:
                raise InputError(
                    f"mae needs a model with one output for each sample, {self.name} has {sample.shape[1]}"
                )
        elif self._test[1].max() >= max(2, sample.shape[1]):
            raise InputError(
                f"{data} has labels up to {self._test[1].max()}, {self.name} tells {sample.shape[1]} classes"
            )

    def _prepare_training(self) -> str:
        """Build the differentiable network, check it against ONNX Runtime; why not, where it cannot be."""
        from unclone.lab.interpreter import OnnxNetwork

        try:
            network = OnnxNetwork(self._model, frozenset(self._names), self._output, self._entries)
        except UnsupportedError as problem:
            return str(problem)
        self.layers = network.kinds
        self._sigmoid = network.ends_in("Sigmoid")
        if self.metric != "mae":
            network.classify_two()
        whole = sorted(network.integers - network.known - set(network.codes))
        if whole:
            return f"its weights are whole numbers ({whole[0]})"
        inputs = self._test[0][:_CHECKED]
        expected = self._run(self._victim, inputs)
        if self.metric != "mae" and are_probabilities(expected):
            network.take_logarithm()
        try:
            found = run(network, self._victim, inputs)
            # The second pass: the first one starts torch's libraries. Processor time, whoever else computes.
            start = time.thread_time()
            run(network, self._victim, inputs)
            seconds = time.thread_time() - start
        except (UnsupportedError, RuntimeError, IndexError, ValueError, TypeError, KeyError) as problem:
            return f"the lab's interpreter fails on it: {str(problem)[:200]}"
        if found.shape != expected.shape or not _agree(found, expected, rounded=bool(network.codes)):
            return "the lab's interpreter and ONNX Runtime disagree on it"
        # A step takes about three times a forward pass.
        whole_fit = 3 * seconds / len(inputs) * self.recipe.batch * self.recipe.least_steps
        if whole_fit > _LONGEST_FIT:
            return f"training it once would take about {whole_fit / 60:.0f} minutes"
        self.network = network
        return ""


def _agree(found: Array, expected: Array, *, rounded: bool) -> bool:
    if rounded:
        return bool(np.linalg.norm(found - expected) <= _ROUNDED_TOLERANCE * np.linalg.norm(expected))
    return np.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE)


def _session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _weight_names(model: Any, path: Path) -> frozenset[str]:
    """What ``unclone.bind`` masks of the model."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(model.SerializeToString())
        try:
            weights = [weight for weight in detect(file).draft(file).weights if weight.nbytes]
        except InputError as problem:  # names the copy
            raise type(problem)(str(problem).replace(str(file), str(path))) from None
    inside = {item.name for item in model.graph.initializer}
    masked = {weight.name for weight in weights}
    # A single number in an attribute is architecture, such as the zero that a recurrent layer starts from.
    outside = {weight.name for weight in weights if math.prod(weight.shape) > 1} - inside
    if not masked:
        raise InputError(f"no weight found in {path}: nothing would be masked")
    if outside:
        raise UnsupportedError(f"{path} has weights inside subgraphs ({min(outside)!r}), which the lab cannot evaluate")
    return frozenset(masked & inside)
