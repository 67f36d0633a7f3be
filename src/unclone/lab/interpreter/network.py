"""An ONNX graph as a differentiable function of its weights, so that the attacks that train run on it, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from unclone.errors import MissingExtraError, UnsupportedError
from unclone.lab.contracts import Array, Weights
from unclone.lab.entries import Entries
from unclone.lab.interpreter.codes import codes_of
from unclone.lab.interpreter.elementwise import ELEMENTWISE
from unclone.lab.interpreter.layers import LAYERS
from unclone.lab.interpreter.node import Node
from unclone.lab.interpreter.quantised import QUANTISED
from unclone.lab.interpreter.recurrent import RECURRENT
from unclone.lab.interpreter.roles import roles_of, uses_of
from unclone.lab.interpreter.shapes import SHAPES

try:
    import torch
    from torch.nn import functional
except ImportError:
    raise MissingExtraError("torch", "lab") from None

__all__ = ["OnnxNetwork"]

_ALL: Final = {**ELEMENTWISE, **LAYERS, **QUANTISED, **RECURRENT, **SHAPES}
_LEAST: Final = 1e-9
_NEUTRAL: Final = frozenset(["Identity", "Dropout", "Cast"])


class OnnxNetwork:
    """A ``unclone.lab.tasks.training.Network`` of an ONNX model.

    Args:
        model: an ``onnx.ModelProto`` with its constants as initialisers.
        trained: names of the initialisers that are weights.
        output: name of the output that holds the scores.
        entries: how samples hold the model's inputs.

    Attributes:
        kinds: weight name -> one of ``unclone.lab.contracts.KINDS``.
        codes: weights that are whole numbers and stand for others, see ``unclone.lab.interpreter.codes.Code``.
        integers: all weights that are whole numbers.

    Raises:
        UnsupportedError: operators that are not understood, all of them named.
    """

    def __init__(self, model: Any, trained: frozenset[str], output: str, entries: Entries) -> None:
        from onnx import numpy_helper

        graph = model.graph
        opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=13)
        names = {item.name for item in graph.initializer}
        self._entries = entries
        first = next(item for item in graph.input if item.name not in names)
        dimensions = first.type.tensor_type.shape.dim
        declared = dimensions[0].dim_value if dimensions else 0
        self._nodes = _needed([_node(item, opset, declared) for item in graph.node], output)
        missing = sorted({node.kind for node in self._nodes if node.kind not in _ALL})
        if missing:
            raise UnsupportedError(f"operators that the lab does not train through: {', '.join(missing)}")
        self._output = output
        self._makers = {name: node for node in self._nodes for name in node.outputs}
        self._logits = self._before_activation()
        self._last_use = _last_uses(self._nodes, {output, self._logits})
        values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        self._constants = {name: _tensor(value) for name, value in values.items() if name not in trained}
        self._true = {name: values[name] for name in values if name in trained}
        self.kinds: Mapping[str, str]
        uses = uses_of(self._nodes, self._true)
        self.kinds, self._fans = roles_of(uses, self._true)
        self.codes = codes_of(uses, self._true, {name: values[name] for name in self._constants}, self._fans)
        statistics = {name for node in self._nodes if node.kind == "BatchNormalization" for name in node.inputs[3:5]}
        whole = {name for name, value in self._true.items() if not np.issubdtype(value.dtype, np.floating)}
        self.integers = frozenset(whole)
        self.fixed = frozenset(statistics | (whole - set(self.codes)) | self.known)

    @property
    def known(self) -> set[str]:
        """Part of the architecture, which any attacker knows: single numbers (a slope), wide integers (a range)."""
        wide = {name for name in self.integers - set(self.codes) if self._true[name].itemsize > 1}
        return wide | {name for name, value in self._true.items() if value.size == 1}

    def forward(self, weights: Mapping[str, Any], inputs: Any, *, training: bool) -> Any:
        """Outputs, shape ``(samples, classes)``; logits in training, where the graph ends in softmax or sigmoid."""
        values: dict[str, Any] = {**self._constants, **self._inputs(inputs)}
        values.update((name, self._as_read(name, value)) for name, value in weights.items())
        values[""] = None
        wanted = self._logits if training else self._output
        for number, node in enumerate(self._nodes):
            arguments = [values[name] for name in node.inputs]
            if node.kind == "BatchNormalization" and training:
                result = functional.batch_norm(
                    arguments[0], arguments[3], arguments[4], arguments[1], arguments[2], True, 0.1,
                    node.get("epsilon", 1e-5),
                )  # fmt: skip
            else:
                result = _ALL[node.kind](node, arguments)
            results = result if isinstance(result, tuple | list) else (result,)
            values.update(zip(node.outputs, results, strict=False))
            if wanted in node.outputs:
                break
            for name in self._last_use.get(number, ()):
                values.pop(name, None)
        outputs = values[wanted]
        outputs = outputs.reshape(outputs.shape[0], -1)
        if training and self._logarithm:
            return torch.log(outputs.clamp(min=_LEAST))
        if training and outputs.shape[1] == 1 and self._two_classes:
            return torch.cat([torch.zeros_like(outputs), outputs], dim=1)
        return outputs

    def _inputs(self, packed: Any) -> dict[str, Any]:
        kinds = {entry.name: entry.dtype.kind for entry in self._entries.entries}
        found = self._entries.split(packed)
        return {name: value.long() if kinds[name] in "iu" else _float(value) for name, value in found.items()}

    def values(self, weights: Weights) -> Weights:
        """Weights with what codes stand for in place of codes; ``forward`` takes either."""
        return {
            name: self.codes[name].values(value) if name in self.codes else value for name, value in weights.items()
        }

    def codes_for(self, values: Weights) -> Weights:
        """The opposite of ``values``, rounded and saturated."""
        return {name: self.codes[name].codes(value) if name in self.codes else value for name, value in values.items()}

    def _as_read(self, name: str, value: Any) -> Any:
        """A weight as the graph reads it: of what codes stand for, the codes, not rounded, so that gradients pass."""
        if name in self.codes and value.is_floating_point():
            return value / torch.from_numpy(self.codes[name].unit) + torch.from_numpy(self.codes[name].zero)
        return _float(value)

    _two_classes = False
    _logarithm = False

    def classify_two(self) -> None:
        """A single output is the logit of class 1."""
        self._two_classes = True

    def take_logarithm(self) -> None:
        """The outputs are probabilities, by operators of any kind: their logarithms are the logits, in training."""
        self._logarithm = not self.ends_in("Softmax", "Sigmoid")

    def initialise(self, seed: int) -> Weights:
        """Fresh weights: He et al. (ICCV 2015) for matrices and kernels, 1 for scales, 0 for the rest.

        What is ``known`` keeps its value.
        """
        rng = np.random.default_rng([seed, 0x0221])
        return {name: self._fresh(name, value, rng) for name, value in self._true.items()}

    def _fresh(self, name: str, value: Array, rng: np.random.Generator) -> Array:
        if name in self.known:
            return value.copy()
        if name in self.codes:
            fan = max(self._fans[name], 0.0)  # a bias has none
            return self.codes[name].codes(rng.standard_normal(value.shape) * math.sqrt(2 / fan if fan else 0))
        if name in self.integers:
            return rng.integers(int(value.min()), int(value.max()) + 1, value.shape).astype(value.dtype)
        fan = self._fans[name]
        if fan > 0:
            return (rng.standard_normal(value.shape) * math.sqrt(2 / fan)).astype(value.dtype)
        return np.full(value.shape, -fan, dtype=value.dtype)

    def ends_in(self, *kinds: str) -> bool:
        """Whether the last operator is one of ``kinds``."""
        last = self._last()
        return last in self._makers and self._makers[last].kind in kinds

    def _before_activation(self) -> str:
        """The value before a last softmax or sigmoid."""
        if self.ends_in("Softmax", "Sigmoid"):
            return self._makers[self._last()].inputs[0]
        return self._output

    def _last(self) -> str:
        """The output, or what it merely passes on."""
        name = self._output
        while name in self._makers and self._makers[name].kind in _NEUTRAL:
            name = self._makers[name].inputs[0]
        return name


def _node(item: Any, opset: int, declared: int) -> Node:
    from onnx import helper, numpy_helper

    attributes: dict[str, Any] = {}
    for attribute in item.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.type == 4:  # TENSOR
            value = np.array(numpy_helper.to_array(value))
        elif isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, list) and value and isinstance(value[0], bytes):
            value = [text.decode() for text in value]
        attributes[attribute.name] = value
    if item.op_type == "Reshape" and declared:
        attributes["declared_batch"] = declared
    kind = item.op_type if item.domain in ("", "ai.onnx") else f"{item.domain}.{item.op_type}"
    return Node(kind, item.name, tuple(item.input), tuple(item.output), attributes, opset)


def _needed(nodes: list[Node], output: str) -> list[Node]:
    """The nodes that an output depends on, in order: a classifier has others that only name the class."""
    wanted, found = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return found[::-1]


def _tensor(value: Array) -> Any:
    return _float(torch.from_numpy(np.array(value)))


def _float(value: Any) -> Any:
    return value.float() if value.is_floating_point() and value.dtype != torch.float32 else value


def _last_uses(nodes: list[Node], kept: set[str]) -> dict[int, list[str]]:
    """Node number -> values that nobody needs after it."""
    last: dict[str, int] = {}
    made = {name for node in nodes for name in node.outputs}
    for number, node in enumerate(nodes):
        for name in node.inputs:
            if name in made and name not in kept:
                last[name] = number
    freed: dict[int, list[str]] = {}
    for name, number in last.items():
        freed.setdefault(number, []).append(name)
    return freed
