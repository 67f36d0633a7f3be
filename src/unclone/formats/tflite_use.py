"""Which constants of a TensorFlow Lite model are weights, by what operators do with them."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from unclone.formats.tflite_ops import DIVISORS, MOVING, PURE, QUANTISED, REFUSED, STRUCTURAL
from unclone.formats.tflite_parse import Graph, Model, Operator, Tensor
from unclone.formats.tflite_wire import Source

__all__ = ["Use", "check_operators", "use_of"]

_OPTIONS_LIMIT: Final = 256
"""Free options of a custom operator: settings of a detection head have about 220 bytes."""

_FEW: Final = 64
_COMPRESSED: Final = "COMPRESSION_METADATA"
_FLOATS: Final = ("float", "bfloat", "complex")
_NARROW: Final = frozenset(["int8", "uint8", "int4", "uint4", "int2"])
_ARITHMETIC: Final = frozenset(["ADD", "MUL"])
_INFINITIES: Final = {
    dtype: (struct.pack(code, math.inf), struct.pack(code, -math.inf))
    for dtype, code in (("float16", "<e"), ("float32", "<f"), ("float64", "<d"))
}


@dataclass(slots=True)
class Use:
    """How a constant is used.

    Attributes:
        needed: why the graph needs it true; empty if it does not.
        weight: whether an operator takes it as weight, bias or data.
    """

    needed: str = ""
    weight: bool = False

    def add(self, other: Use) -> None:
        """Take another user of the same bytes into account."""
        self.needed = self.needed or other.needed
        self.weight = self.weight or other.weight

    @property
    def clear(self) -> str:
        """Why it stays in clear; empty for a weight."""
        return self.needed or ("" if self.weight else "small integer constant, no weight by its use")


def check_operators(source: Source, model: Model) -> None:
    """Refuse operators and extensions that may hold weights where none can be masked.

    Raises:
        UnsupportedError: there is one; it is named.
    """
    if _COMPRESSED in model.notes:
        raise source.unsupported("its tensors are compressed for TensorFlow Lite Micro; bind the model before that")
    for operator in (operator for graph in model.graphs for operator in graph.operators):
        name = operator.name
        if name in REFUSED:
            raise source.unsupported(f"operator {name[:80]} {REFUSED[name]}")
        if operator.options > _OPTIONS_LIMIT:
            raise source.unsupported(f"operator {name[:80]} has {operator.options} bytes of options: weights or not?")


def use_of(source: Source, model: Model, constants: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Use]:
    """The use of each constant, given as (number of its graph, of its tensor).

    Raises:
        UnsupportedError: an integer of a custom operator, of which nobody knows what it is.
    """
    marks = [_Marks(graph) for graph in model.graphs]
    loops = {operator.condition for graph in model.graphs for operator in graph.operators if operator.condition >= 0}
    found = {}
    for number, place in constants:
        tensor = model.graphs[number].tensors[place]
        use = found[number, place] = marks[number].use(source, place)
        if not use.needed and number in loops and _is_float(tensor) and _elements(tensor) == 1:
            use.needed = "bound of a loop"
        if not use.needed and _is_infinity(source, model, tensor):
            use.needed = "infinity"
    return found


def _is_infinity(source: Source, model: Model, tensor: Tensor) -> bool:
    """An infinity, as masks of attention use it, holds no secret, and would turn into NaN."""
    known, place = _INFINITIES.get(tensor.dtype), model.buffers[tensor.buffer]
    return known is not None and place.nbytes == len(known[0]) and source.read(place.offset, place.nbytes) in known


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype.startswith(_FLOATS)


def _elements(tensor: Tensor) -> int:
    return math.prod(tensor.shape)


@dataclass(slots=True)
class _Marks:
    """What a graph tells of its tensors."""

    graph: Graph
    structural: dict[int, str] = field(default_factory=dict)
    computed: dict[int, bool] = field(default_factory=dict)
    readers: dict[int, list[tuple[Operator, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        producers: dict[int, Operator] = {}
        for operator in self.graph.operators:
            producers.update((item, operator) for item in operator.outputs if item >= 0)
            reasons = STRUCTURAL.get(operator.name, {})
            for place, item in enumerate(operator.inputs):
                if item < 0:
                    continue
                self.readers.setdefault(item, []).append((operator, place))
                if place in reasons:
                    self.structural.setdefault(item, reasons[place])
        for tensor in self.graph.tensors:
            for item in tensor.parameters:
                self.structural[item] = "quantisation scale or zero point"
        self._trace(producers)

    def _trace(self, producers: dict[int, Operator]) -> None:
        """Find what shapes and indices are computed from; ``True`` where from shapes and constants alone."""
        pure = self._pure()
        todo = list(self.structural)
        done = set(todo)
        while todo:
            operator = producers.get(todo.pop())
            if operator is None:
                continue
            alone = all(item in pure for item in operator.outputs)
            for place in MOVING.get(operator.name, ()):
                item = operator.inputs[place] if place < len(operator.inputs) else -1
                if item < 0:
                    continue
                self.computed[item] = self.computed.get(item, False) or alone
                if item not in done:
                    done.add(item)
                    todo.append(item)

    def _pure(self) -> set[int]:
        """Tensors that depend on shapes and constants alone. Operators stand in the order in which they run."""
        inner = {item for operator in self.graph.operators for item in operator.outputs}
        pure = {n for n, tensor in enumerate(self.graph.tensors) if tensor.buffer and n not in inner}
        for operator in self.graph.operators:
            inputs = [item for item in operator.inputs if item >= 0]
            if operator.name in PURE or (operator.name in MOVING and all(item in pure for item in inputs)):
                pure.update(operator.outputs)
        return pure

    def use(self, source: Source, place: int) -> Use:
        """The use of one constant of this graph."""
        tensor = self.graph.tensors[place]
        if tensor.dtype in ("string", "bool"):
            return Use("text" if tensor.dtype == "string" else "boolean")
        if not tensor.bits:
            raise source.unsupported(f"tensor {tensor.name[:80]!r} is a constant of {tensor.dtype}")
        if place in self.structural:
            return Use(self.structural[place])
        readers = self.readers.get(place, [])
        floating, elements = _is_float(tensor), _elements(tensor)
        if place in self.computed and elements <= _FEW and (self.computed[place] or not floating or elements == 1):
            return Use("shape, index or count computed from it")
        if floating:
            return Use(weight=True)
        if any(operator.name in DIVISORS and position == 1 for operator, position in readers):
            return Use("integer divisor")
        for operator, _ in readers:
            if operator.name.startswith("custom:"):
                raise source.unsupported(
                    f"operator {operator.name[:80]} takes the integers {tensor.name[:80]!r}: weights or not?"
                )
        if tensor.dtype in _NARROW or elements > _FEW:
            return Use(weight=True)
        return Use(weight=any(_takes_weights(self.graph.tensors, tensor, *reader) for reader in readers))


def _takes_weights(tensors: Sequence[Tensor], tensor: Tensor, operator: Operator, position: int) -> bool:
    """Whether an operator takes a wide integer as weight or bias, or turns it into a float."""
    if operator.name in ("CAST", "STABLEHLO_CONVERT"):
        return any(item >= 0 and _is_float(tensors[item]) for item in operator.outputs)
    if operator.name in _ARITHMETIC:
        return tensor.quantised
    return position in QUANTISED.get(operator.name, ())
