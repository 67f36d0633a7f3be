"""Reads the messages of onnx.proto into ``onnx_graph``'s graphs, from the file."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from unclone.errors import UnsupportedError
from unclone.formats.base import METADATA_KEY
from unclone.formats.onnx_graph import Attribute, Graph, Model, Node, Value, standard
from unclone.formats.onnx_tensor import Tensor, parse_tensor
from unclone.formats.onnx_wire import FIXED32, LEN, VARINT, Field, Message, Source

__all__ = ["parse_model"]

_MODEL: Final = {7: LEN, 14: LEN, 20: LEN, 25: LEN}
_GRAPH: Final = {1: LEN, 5: LEN, 11: LEN, 12: LEN, 14: LEN, 15: LEN}
_NODE: Final = {1: LEN, 2: LEN, 4: LEN, 5: LEN, 7: LEN, 8: LEN}
_ATTRIBUTE: Final = {
    1: LEN, 2: FIXED32, 3: VARINT, 4: LEN, 5: LEN, 6: LEN, 7: FIXED32, 8: VARINT, 9: LEN, 10: LEN, 11: LEN, 21: LEN,
    22: LEN, 23: LEN,
}  # fmt: skip
_FUNCTION: Final = {1: LEN, 4: LEN, 5: LEN, 7: LEN, 10: LEN, 11: LEN, 13: LEN}


def parse_model(source: Source) -> Model:
    """Read a ModelProto.

    Raises:
        FormatError: malformed, truncated or hostile.
        UnsupportedError: training information.
    """
    return _Parser(source).run()


class _Parser:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._model = Model()

    def run(self) -> Model:
        source, root = self._source, self._source.root
        graphs: list[Message] = []
        functions: list[Message] = []
        for item in source.fields(root, _MODEL):
            if item.number == 7:
                graphs.append(source.message(item, root))
            elif item.number == 14:
                self._metadata(source.message(item, root))
            elif item.number == 20:
                raise UnsupportedError(f"{source.path} carries training information; export it for inference")
            elif item.number == 25:
                functions.append(source.message(item, root))
        if len(graphs) != 1:
            raise source.bad(f"an ONNX model has one graph, this one {len(graphs)}")
        bodies = [self._function_head(message) for message in functions]
        self._graph(graphs[0], "", None)
        for message, body in bodies:
            self._function(message, body)
        return self._model

    def _metadata(self, message: Message) -> None:
        fields = {item.number: item for item in self._source.fields(message, {1: LEN, 2: LEN})}
        key = self._source.text(fields[1]) if 1 in fields and fields[1].end - fields[1].body < 4096 else ""
        if key != METADATA_KEY:
            return
        if self._model.header is not None:
            raise self._source.bad(f"the metadata entry {METADATA_KEY!r} stands twice")
        place = (fields[2].body, fields[2].end - fields[2].body) if 2 in fields else (message.end, 0)
        self._model.header, self._model.header_entry = place, message

    # Graphs

    def _graph(self, message: Message, path: str, outer: Graph | None) -> Graph:
        source = self._source
        graph = Graph(path, outer)
        self._model.graphs.append(graph)
        found: dict[int, list[Message]] = {1: [], 5: [], 11: [], 12: [], 14: [], 15: []}
        for item in source.fields(message, _GRAPH):
            if item.number in found:
                found[item.number].append(source.message(item, message))
        graph.inputs = [graph.define(source, self._name(part)) for part in found[11]]
        for part in found[5]:
            self._initializer(graph, parse_tensor(source, part))
        for part in found[15]:
            self._sparse_initializer(graph, part)
        self._nodes(graph, found[1])
        graph.outputs = [graph.find(self._name(part)) for part in found[12]]
        for part in found[14]:
            self._annotation(graph, part)
        return graph

    def _name(self, message: Message) -> str:
        """Field 1 of a ValueInfoProto."""
        for item in self._source.fields(message, {1: LEN}):
            if item.number == 1:
                return self._source.text(item)
        return ""

    def _initializer(self, graph: Graph, tensor: Tensor) -> None:
        if not tensor.name:
            raise self._source.bad(f"{graph.path or 'the graph'}: an initializer has no name")
        value = graph.values.get(tensor.name)
        if value is None:
            value = graph.define(self._source, tensor.name)
        if value.tensor is not None:
            raise self._source.bad(f"{graph.path or 'the graph'}: initializer {tensor.name[:80]!r} stands twice")
        value.tensor = tensor
        self._register(graph.path + tensor.name, tensor, value)

    def _sparse_initializer(self, graph: Graph, message: Message) -> None:
        values, indices = self._sparse(message)
        self._initializer(graph, values)
        self._model.indices.add(indices)
        self._register(f"{graph.path}{values.name}/indices", indices, None)

    def _sparse(self, message: Message) -> tuple[Tensor, Tensor]:
        parts: dict[int, Tensor] = {}
        for item in self._source.fields(message, {1: LEN, 2: LEN, 3: VARINT}):
            if item.number in (1, 2):
                if item.number in parts:
                    raise self._source.bad(f"the sparse tensor at byte {message.start} is malformed")
                parts[item.number] = parse_tensor(self._source, self._source.message(item, message))
        if len(parts) != 2 or parts[2].dtype != "int64":
            raise self._source.bad(f"the sparse tensor at byte {message.start} has no values or indices")
        self._model.sparse.add(parts[1])
        return parts[1], parts[2]

    def _register(self, name: str, tensor: Tensor, value: Value | None) -> None:
        if name in self._model.tensors:
            raise self._source.bad(f"two tensors are called {name[:80]!r}")
        self._model.tensors[name] = tensor
        if value is not None:
            self._model.holders[tensor] = value

    def _annotation(self, graph: Graph, message: Message) -> None:
        # TensorAnnotation: quant_parameter_tensor_names maps roles to the names of scales and zero points.
        for item in self._source.fields(message, {1: LEN, 2: LEN}):
            if item.number == 2:
                for part in self._source.fields(self._source.message(item, message), {1: LEN, 2: LEN}):
                    if part.number == 2:
                        graph.quantised.append(graph.find(self._source.text(part)))

    # Nodes

    def _nodes(self, graph: Graph, messages: Sequence[Message]) -> None:
        # Outputs first: then a use finds its value whatever the order of the nodes.
        heads = [self._node_head(graph, number, message) for number, message in enumerate(messages)]
        for node, inputs, attributes in heads:
            node.inputs = [graph.find(name) if name else None for name in inputs]
            for position, value in enumerate(node.inputs):
                if value is not None:
                    value.uses.append((node, position))
            for message in attributes:
                self._attribute(graph, node, message)
            _connect(node)

    def _node_head(self, graph: Graph, number: int, message: Message) -> tuple[Node, list[str], list[Message]]:
        source = self._source
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: list[Message] = []
        strings = {4: "", 7: "", 8: ""}
        for item in source.fields(message, _NODE):
            if item.number == 1:
                inputs.append(source.text(item))
            elif item.number == 2:
                outputs.append(source.text(item))
            elif item.number == 5:
                attributes.append(source.message(item, message))
            elif item.number in strings:
                if strings[item.number]:
                    raise source.bad(f"the node at byte {message.start} has field {item.number} twice")
                strings[item.number] = source.text(item)
        node = Node(strings[4], strings[7], f"{graph.path}node[{number}:{strings[4]}]")
        node.outputs = [graph.define(source, name) if name else None for name in outputs]
        for value in node.outputs:
            if value is not None:
                value.producer = node
        node.function = self._model.functions.get((*node.kind, strings[8]))
        graph.nodes.append(node)
        return node, inputs, attributes

    def _attribute(self, graph: Graph, node: Node, message: Message) -> None:
        attribute = self._parse_attribute(graph, node.path, message)
        if attribute.name in node.attributes:
            raise self._source.bad(f"{node.path}: attribute {attribute.name[:40]!r} stands twice")
        node.attributes[attribute.name] = attribute
        result = node.outputs[0] if node.outputs else None
        constant = node.kind == ("", "Constant") and result is not None
        for number, tensor in enumerate(attribute.tensors):
            suffix = f"[{number}]" if len(attribute.tensors) > 1 else ""
            if constant and not number:
                assert result is not None  # noqa: S101 (for the type checker)
                result.tensor = tensor
                self._register(graph.path + result.name, tensor, result)
                continue
            self._register(f"{node.path}/{attribute.name}{suffix}", tensor, None)
            if node.kind == ("", "ConstantOfShape") and result is not None:
                result.tensor, result.fill = tensor, True
                self._model.holders[tensor] = result
            elif tensor not in self._model.indices:
                self._model.stray[tensor] = node

    def _parse_attribute(self, graph: Graph, path: str, message: Message) -> Attribute:
        source = self._source
        fields: dict[int, list[Field]] = {}
        for item in source.fields(message, _ATTRIBUTE):
            fields.setdefault(item.number, []).append(item)
        if any(len(fields.get(number, ())) > 1 for number in (1, 2, 3, 4, 5, 6, 21, 22)):
            raise source.bad(f"{path}: an attribute holds one thing twice")
        attribute = Attribute(source.text(fields[1][0]) if 1 in fields else "", message)
        attribute.numbers = sum((item.end - item.body) // 4 for item in fields.get(7, ()))
        attribute.integers = sum(item.end - item.body if item.wire == LEN else 1 for item in fields.get(8, ()))
        attribute.integer = fields[3][0].value if 3 in fields else 0
        attribute.text = sum(item.end - item.body for item in [*fields.get(4, ()), *fields.get(9, ())])
        for item in [*fields.get(5, ()), *fields.get(10, ())]:
            attribute.tensors.append(parse_tensor(source, source.message(item, message)))
        for item in [*fields.get(22, ()), *fields.get(23, ())]:
            values, indices = self._sparse(source.message(item, message))
            attribute.tensors += [values, indices]
            self._model.indices.add(indices)
        if attribute.name in _SCALARS and path.endswith(":Constant]"):
            attribute.tensors.append(self._scalar(attribute, message, fields))
        for number, item in enumerate([*fields.get(6, ()), *fields.get(11, ())]):
            suffix = f"[{number}]" if 11 in fields else ""
            inner = f"{path}/{attribute.name}{suffix}/"
            attribute.graphs.append(self._graph(source.message(item, message), inner, graph))
        return attribute

    def _scalar(self, attribute: Attribute, message: Message, fields: dict[int, list[Field]]) -> Tensor:
        """``value_float`` and its like of a ``Constant`` node, as the tensor that it stands for."""
        number, dtype, scalar = _SCALARS[attribute.name]
        items = fields.get(number, [])
        if dtype == "float32":
            data = b"".join(self._source.read(item.body, item.end) for item in items)
        elif dtype == "int64" and all(item.wire == VARINT for item in items):
            data = struct.pack(f"<{len(items)}Q", *[item.value for item in items])
        elif dtype == "int64":
            data = _unpack(self._source, items)
        else:
            return Tensor(message, "", "string", () if scalar else (len(items),), 0)
        width = 4 if dtype == "float32" else 8
        if scalar and not items:
            data = bytes(width)  # a zero that a proto3 writer left out
        if len(data) % width or (scalar and len(data) != width):
            raise self._source.bad(f"the attribute {attribute.name!r} at byte {message.start} is malformed")
        shape = () if scalar else (len(data) // width,)
        return Tensor(message, "", dtype, shape, len(data), "attribute", data=data)

    # Functions

    def _function_head(self, message: Message) -> tuple[Message, Graph]:
        strings = {1: "", 10: "", 13: ""}
        for item in self._source.fields(message, _FUNCTION):
            if item.number in strings:
                strings[item.number] = self._source.text(item)
        domain = standard(strings[10])
        key = (domain, strings[1], strings[13])
        if key in self._model.functions:
            raise self._source.bad(f"the function {domain}.{strings[1]} stands twice")
        overload = f":{strings[13]}" if strings[13] else ""
        graph = Graph(f"function[{domain}.{strings[1]}{overload}]/", None)
        self._model.functions[key] = graph
        # Formal parameters must be there before a call is met.
        outputs = []
        for item in self._source.fields(message, _FUNCTION):
            if item.number == 4:
                graph.inputs.append(graph.define(self._source, self._source.text(item)))
            elif item.number == 5:
                outputs.append(self._source.text(item))
        graph.outputs = [Value(name) for name in outputs]
        return message, graph

    def _function(self, message: Message, graph: Graph) -> None:
        source = self._source
        self._model.graphs.append(graph)
        nodes = [source.message(item, message) for item in source.fields(message, _FUNCTION) if item.number == 7]
        self._nodes(graph, nodes)
        for value in graph.outputs:
            _flow(graph.find(value.name), value)
        for item in source.fields(message, _FUNCTION):
            if item.number == 11:
                # A default of the function's own attribute: a tensor in it reaches nodes by reference.
                attribute = self._parse_attribute(graph, graph.path + "default", source.message(item, message))
                if attribute.tensors or attribute.numbers:
                    raise UnsupportedError(
                        f"{source.path}: {graph.path} has numbers in the default of attribute {attribute.name[:40]!r}"
                    )


_SCALARS: Final = {
    "value_float": (2, "float32", True),
    "value_floats": (7, "float32", False),
    "value_int": (3, "int64", True),
    "value_ints": (8, "int64", False),
    "value_string": (4, "string", True),
    "value_strings": (9, "string", False),
}
"""Attributes of ``Constant`` beside ``value`` -> field of AttributeProto, dtype, whether it is a scalar."""


def _unpack(source: Source, items: Sequence[Field]) -> bytes:
    values = []
    for item in items:
        if item.wire == VARINT:
            values.append(item.value)
            continue
        position = item.body
        while position < item.end:
            value, position = source.varint(position, item.end)
            values.append(value)
    return np.array(values, dtype="<u8").tobytes()


def _flow(start: Value, end: Value) -> None:
    start.onward.append(end)
    end.origin.append(start)


def _pairs(starts: Sequence[Value | None], ends: Sequence[Value | None]) -> Iterator[tuple[Value, Value]]:
    for start, end in zip(starts, ends, strict=False):
        if start is not None and end is not None:
            yield start, end


def _connect(node: Node) -> None:
    """Note what flows over the borders of a node's subgraphs, or of the function that it calls."""
    if node.function is not None:
        for start, end in [*_pairs(node.inputs, node.function.inputs), *_pairs(node.function.outputs, node.outputs)]:
            _flow(start, end)
    if node.kind[0]:
        return
    for attribute in node.attributes.values():
        for body in attribute.graphs:
            if node.op == "If":
                pairs = [*_pairs(body.outputs, node.outputs)]
            elif node.op == "Loop":
                pairs = [*_pairs(node.inputs, body.inputs), *_pairs(body.outputs[1:], node.outputs)]
                pairs += _pairs(body.outputs[: len(node.inputs) - 1], body.inputs[1:])
            elif node.op in ("Scan", "SequenceMap"):
                extra = max(0, len(node.inputs) - len(body.inputs))
                pairs = [*_pairs(node.inputs[extra:], body.inputs), *_pairs(body.outputs, node.outputs)]
                pairs += _pairs(body.outputs, body.inputs) if node.op == "Scan" else []
            else:
                raise UnsupportedError(f"{node.path}: operator {node.op[:40]!r} with a subgraph is not understood")
            for start, end in pairs:
                _flow(start, end)
