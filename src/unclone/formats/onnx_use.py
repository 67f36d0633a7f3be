"""Which constants of an ONNX model are weights, by what the graph does with them (spec/carriers.md, section 4).

Floats are weights unless the graph needs them true: quantisation parameters, scales of a resize, numbers from which a
shape or an index is computed. Integers of 8 bits and less are weights unless they are zero points or shapes. Wider
integers are weights where an operator takes them so, where they are turned into floats, or where they are many and
nothing structural; the rest are shapes, indices and counts. Booleans and text stay in clear.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from unclone.errors import UnsupportedError
from unclone.formats.onnx_graph import Model, Node, Value
from unclone.formats.onnx_ops import (
    ARITHMETIC,
    INTEGER_ONLY,
    KNOWN_DOMAINS,
    LIST_ATTRIBUTES,
    ML_WITHOUT_WEIGHTS,
    PASSING,
    QUANTISED,
    REFUSED,
    STRUCTURAL,
)
from unclone.formats.onnx_tensor import DTYPE_NUMBERS, Tensor

__all__ = ["reasons"]

_FEW: Final = 64
_TEXT_LIMIT: Final = 4096
_NARROW: Final = frozenset(["int8", "uint8", "int4", "uint4", "int2", "uint2"])
_QUANTISATION: Final = "quantisation scale or zero point"


def reasons(model: Model, path: object) -> dict[Tensor, str]:
    """Why each tensor stays in clear; an empty string for a weight.

    Raises:
        UnsupportedError: an operator that may keep weights where this release does not look, by name.
    """
    for graph in model.graphs:
        for node in graph.nodes:
            _refuse(node, path)
    marks = _Marks(model)
    found: dict[Tensor, str] = {}
    for name, tensor in model.tensors.items():
        found[tensor] = _reason(model, marks, name, tensor, path)
    return found


def _refuse(node: Node, path: object) -> None:
    """Refuse operators whose weights lie in attributes, and foreign ones that may hold anything."""
    domain, operator = node.kind
    label = f"{path}: operator {domain + '.' if domain else ''}{operator}"
    if node.kind in REFUSED:
        raise UnsupportedError(f"{label} {REFUSED[node.kind]}, which cannot be bound")
    if node.function is not None:
        return
    if domain == "ai.onnx.ml" and operator not in ML_WITHOUT_WEIGHTS:
        raise UnsupportedError(f"{label} keeps its weights in attributes, which this release does not bind")
    for attribute in node.attributes.values():
        if attribute.numbers and not (not domain and attribute.name in LIST_ATTRIBUTES):
            raise UnsupportedError(
                f"{label} keeps numbers in its attribute {attribute.name[:40]!r}, which is not bound"
            )
        foreign = domain not in KNOWN_DOMAINS
        if foreign and (attribute.integers > _FEW or attribute.text > _TEXT_LIMIT or attribute.graphs):
            raise UnsupportedError(f"{label} is unknown, and its attribute {attribute.name[:40]!r} may hold weights")
        if attribute.text > _TEXT_LIMIT and not (not domain and operator in ("Constant", "StringNormalizer")):
            raise UnsupportedError(f"{label} has {attribute.text} bytes in its attribute {attribute.name[:40]!r}")


class _Marks:
    """Values that the graph needs true, and why: found from the inputs that need it, backwards.

    A mark that came through arithmetic is weaker: it keeps a float in clear only if that is a few numbers of a shape
    computation, or a single one where the model's own data runs through too. So no layer's bias passes for a shape.
    """

    def __init__(self, model: Model) -> None:
        self._dynamic = _dynamic(model)
        self._found: dict[Value, tuple[int, str]] = {}
        self._integer: dict[Value, str] = {}
        todo: list[tuple[Value, int, str]] = []
        for graph in model.graphs:
            todo += [(value, 0, _QUANTISATION) for value in graph.quantised]
            for node in graph.nodes:
                table = STRUCTURAL.get(node.kind, {}) if node.function is None else {}
                for number, value in enumerate(node.inputs):
                    if value is not None and number in table:
                        todo.append((value, 0, table[number]))
                    if value is not None and number in INTEGER_ONLY.get(node.kind, ()):
                        self._integer.setdefault(value, "divisor of an integer division")
                if node.kind == ("", "Loop"):
                    for attribute in node.attributes.values():
                        todo += [(body.outputs[0], 0, "loop condition") for body in attribute.graphs if body.outputs]
        while todo:
            value, level, reason = todo.pop()
            if value in self._found and self._found[value][0] <= level:
                continue
            self._found[value] = (level, reason)
            todo += self._back(value, level, reason)

    def _back(self, value: Value, level: int, reason: str) -> Iterator[tuple[Value, int, str]]:
        for origin in value.origin:
            yield origin, level, reason
        node = value.producer
        if node is None or node.kind[0] or node.function is not None:
            return
        if node.op in PASSING:
            numbers = PASSING[node.op]
            for number, source in enumerate(node.inputs):
                if source is not None and (numbers is None or number in numbers):
                    yield source, level, reason
        if node.op in ARITHMETIC:
            reached = max(level, 2 if value in self._dynamic else 1)
            for source in node.inputs:
                if source is not None:
                    yield source, reached, reason

    def of_float(self, value: Value, elements: int) -> str:
        """Why a float constant must stay true; empty if it need not."""
        level, reason = self._found.get(value, (3, ""))
        return reason if elements <= (1 << 62, _FEW, 1, 0)[level] else ""

    def of_integer(self, value: Value) -> str:
        """Why an integer constant must stay true; empty if it need not."""
        return self._found.get(value, (0, ""))[1] or self._integer.get(value, "")


def _dynamic(model: Model) -> set[Value]:
    """Values that depend on what the model is given, beyond its shape."""
    found: set[Value] = set()
    for graph in model.graphs:
        found |= {value for value in graph.inputs if value.tensor is None}
        for node in graph.nodes:
            if node.kind in (("", "Shape"), ("", "Size"), ("", "Constant")):
                continue
            known = all(value is not None and (value.tensor or value.producer) for value in node.inputs if value)
            if not known or node.function or any(value in found for value in node.inputs) or _has_graph(node):
                found |= {value for value in node.outputs if value is not None}
    return found


def _has_graph(node: Node) -> bool:
    return any(attribute.graphs for attribute in node.attributes.values())


def _reason(model: Model, marks: _Marks, name: str, tensor: Tensor, path: object) -> str:
    if tensor.dtype == "string":
        return "text"
    if not tensor.nbytes:
        return "empty"
    if tensor.dtype == "bool":
        return "boolean"
    if tensor in model.indices:
        return "position of a sparse element"
    floating = "int" not in tensor.dtype
    value = model.holders.get(tensor)
    if value is None:
        node = model.stray[tensor]
        if floating:
            return ""
        raise UnsupportedError(f"{path}: operator {node.op[:40]!r} keeps integers in {name[:80]!r}: weights or not?")
    if floating:
        return marks.of_float(value, tensor.elements) or _infinity(tensor)
    structural = marks.of_integer(value)
    if structural or tensor.dtype in _NARROW:
        return structural
    if _is_weight(value, path) or (tensor.elements > _FEW and not value.fill):
        return ""
    return "small integer constant, no weight by its use"


def _infinity(tensor: Tensor) -> str:
    """An infinity, as masks of attention use it, holds no secret, and would turn into NaN."""
    special = tensor.data is not None and tensor.elements == 1 and tensor.data in _INFINITIES.get(tensor.dtype, ())
    return "infinity" if special else ""


_INFINITIES: Final = {
    dtype: (struct.pack(code, float("inf")), struct.pack(code, float("-inf")))
    for dtype, code in (("float16", "<e"), ("float32", "<f"), ("float64", "<d"))
}


def _is_weight(start: Value, path: object) -> bool:
    """Whether a wide integer reaches an input that takes quantised weights, or is turned into a float."""
    todo, seen = [start], {start}
    while todo:
        value = todo.pop()
        following = list(value.onward)
        for node, number in value.uses:
            if node.function is not None:
                continue
            if number in QUANTISED.get(node.kind, ()):
                return True
            if node.kind[0] not in KNOWN_DOMAINS:
                label = f"{node.kind[0]}.{node.op}"
                raise UnsupportedError(f"{path}: operator {label} is unknown and takes integers: weights or not?")
            numbers = () if node.kind[0] else PASSING.get(node.op, ())
            if numbers is None or number in numbers:
                if node.op == "Cast" and _to_float(node):
                    return True
                following += [output for output in node.outputs if output is not None]
        todo += [value for value in following if value not in seen]
        seen.update(following)
    return False


_INTEGER_NUMBERS: Final = frozenset(
    number for dtype, number in DTYPE_NUMBERS.items() if "int" in dtype or dtype in ("bool", "string")
)


def _to_float(node: Node) -> bool:
    target = node.attributes.get("to")
    return target is not None and target.integer not in _INTEGER_NUMBERS
