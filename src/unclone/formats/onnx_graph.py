"""An ONNX model as graphs of nodes and values: which value is constant, who uses it, where it flows (onnx.proto)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from unclone.formats.onnx_tensor import Tensor
from unclone.formats.onnx_wire import Message, Source

__all__ = ["Attribute", "Graph", "Model", "Node", "Value", "standard"]

_STANDARD: Final = ("", "ai.onnx")


@dataclass(slots=True, eq=False)
class Value:
    """A named value of one scope: where it comes from, who uses it, and what it is another name of.

    Attributes:
        tensor: the constant it holds, if it is one.
        fill: whether ``tensor`` is the element of a ``ConstantOfShape``, not the value itself.
        producer: the node that makes it.
        uses: (node, input number).
        onward: values that take it over: through the border of a subgraph or function.
        origin: the inverse of ``onward``.
    """

    name: str
    tensor: Tensor | None = None
    fill: bool = False
    producer: Node | None = None
    uses: list[tuple[Node, int]] = field(default_factory=list)
    onward: list[Value] = field(default_factory=list)
    origin: list[Value] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Attribute:
    """What an attribute holds, as far as weights may hide in it.

    Attributes:
        numbers: elements of ``floats``.
        integers: elements of ``ints``.
        integer: value of ``i``.
        text: bytes in ``s`` and ``strings``.
        tensors: tensors in it (``t``, ``tensors``), and the values of sparse ones.
        graphs: subgraphs.
    """

    name: str
    message: Message
    numbers: int = 0
    integers: int = 0
    integer: int = 0
    text: int = 0
    tensors: list[Tensor] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Node:
    """One node. ``path`` names it for people: ``node[3:Conv]`` below its graph's path."""

    op: str
    domain: str
    path: str
    inputs: list[Value | None] = field(default_factory=list)
    outputs: list[Value | None] = field(default_factory=list)
    attributes: dict[str, Attribute] = field(default_factory=dict)
    function: Graph | None = None

    @property
    def kind(self) -> tuple[str, str]:
        """Domain and operator, the default domain as an empty string."""
        return standard(self.domain), self.op


@dataclass(slots=True, eq=False)
class Graph:
    """A graph, subgraph or function body.

    Attributes:
        path: prefix of the names of its tensors, empty for the main graph.
        values: the values that it defines.
    """

    path: str
    outer: Graph | None
    values: dict[str, Value] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    quantised: list[Value] = field(default_factory=list)

    def find(self, name: str) -> Value:
        """The value called ``name`` here or further out; a new one where nothing defines it."""
        scope: Graph | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return self.values.setdefault(name, Value(name))

    def define(self, source: Source, name: str) -> Value:
        """A new value; a name has one meaning in a graph."""
        if name in self.values:
            raise source.bad(f"{self.path or 'the graph'}: the value {name[:80]!r} is defined twice")
        return self.values.setdefault(name, Value(name))


@dataclass(slots=True, eq=False)
class Model:
    """A parsed model.

    Attributes:
        graphs: every graph, the main one first, outer ones before inner ones.
        tensors: region name -> tensor, in file order of discovery.
        holders: the value that holds a tensor, where there is one.
        stray: tensors in attributes of nodes other than ``Constant`` -> that node.
        sparse: values of sparse tensors.
        indices: positions of sparse tensors.
        header: the content of the metadata entry ``unclone``, as (offset, length), if there is one.
        header_entry: that metadata entry.
        functions: (domain, name, overload) -> body.
    """

    graphs: list[Graph] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    holders: dict[Tensor, Value] = field(default_factory=dict)
    stray: dict[Tensor, Node] = field(default_factory=dict)
    sparse: set[Tensor] = field(default_factory=set)
    indices: set[Tensor] = field(default_factory=set)
    header: tuple[int, int] | None = None
    header_entry: Message | None = None
    functions: dict[tuple[str, str, str], Graph] = field(default_factory=dict)


def standard(domain: str) -> str:
    """A domain, the default one as an empty string whatever its spelling."""
    return "" if domain in _STANDARD else domain
