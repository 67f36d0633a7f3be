"""A node of an ONNX graph, and what an operator of the interpreter is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from unclone.errors import UnsupportedError

__all__ = ["Node", "Operator", "Tensors", "axes_of", "given", "integers", "refuse"]

Tensors = Sequence[Any]


@dataclass(frozen=True)
class Node:
    """One node of a graph.

    Attributes:
        kind: operator.
        name: for messages.
        inputs: value names, ``""`` for what is left out.
        outputs: value names.
        attributes: by name; tensors as numpy arrays.
        opset: version of the standard operators.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 13

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)


Operator = Callable[[Node, Tensors], Any]
"""Returns one tensor, or a tuple of them; an input that is left out is ``None``."""


def refuse(node: Node, what: str) -> UnsupportedError:
    """The error for what is not understood."""
    return UnsupportedError(f"operator {node.kind}: {what} is not understood by the lab's interpreter")


def given(inputs: Tensors, position: int) -> Any:
    """An input, or ``None`` where it is left out."""
    return inputs[position] if len(inputs) > position else None


def integers(value: Any) -> list[int]:
    """The numbers of a tensor or a list."""
    return [int(item) for item in (value.reshape(-1).tolist() if hasattr(value, "reshape") else value)]


def axes_of(node: Node, inputs: Tensors, position: int) -> list[int] | None:
    """Axes as an attribute (earlier opsets) or an input."""
    value = given(inputs, position)
    if value is None:
        value = node.get("axes")
    return None if value is None else integers(value)
