"""LSTM, GRU and RNN of ONNX in torch."""

from __future__ import annotations

from typing import Any, Final

from unclone.errors import MissingExtraError
from unclone.lab.interpreter.node import Node, Operator, Tensors, refuse

try:
    import torch
except ImportError:
    raise MissingExtraError("torch", "lab") from None

__all__ = ["RECURRENT"]

_DEFAULTS: Final = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}


def _run(node: Node, inputs: Tensors) -> Any:
    """Both directions, all steps; outputs Y, Y_h, and of an LSTM Y_c."""
    value, weight, recurrence, bias, lengths, state, cell, peephole = [*inputs, *[None] * (8 - len(inputs))][:8]
    hidden = node.attributes["hidden_size"]
    directions = weight.shape[0]
    functions = node.get("activations") or _DEFAULTS[node.kind] * directions
    if functions != _DEFAULTS[node.kind] * directions or node.get("clip") or peephole is not None:
        raise refuse(node, "another activation, clipping or a peephole")
    if lengths is not None and bool((lengths != value.shape[0]).any()):
        raise refuse(node, "sequences of different lengths")
    if node.get("layout", 0):
        raise refuse(node, "layout 1")
    ways, last, cells = [], [], []
    for way in range(directions):
        reverse = node.get("direction", "forward") == "reverse" or way == 1
        order = value.flip(0) if reverse else value
        zeros = torch.zeros(value.shape[1], hidden)
        gates = weight.shape[1]
        both = torch.zeros(2 * gates) if bias is None else bias[way]
        projected = order @ weight[way].T + both[:gates]
        outputs, memory, carry = _steps(
            node,
            projected,
            recurrence[way],
            both[gates:],
            zeros if state is None else state[way],
            zeros if cell is None else cell[way],
        )
        ways.append(outputs.flip(0) if reverse else outputs)
        last.append(memory)
        cells.append(carry)
    result = (torch.stack(ways, 1), torch.stack(last), torch.stack(cells))
    return result if node.kind == "LSTM" else result[:2]


def _steps(node: Node, projected: Any, recurrence: Any, bias: Any, memory: Any, carry: Any) -> tuple[Any, Any, Any]:
    outputs = []
    step = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[node.kind]
    for row in projected:
        memory, carry = step(node, row, recurrence, bias, (memory, carry))
        outputs.append(memory)
    return torch.stack(outputs), memory, carry


def _lstm(_: Node, row: Any, recurrence: Any, bias: Any, state: Any) -> tuple[Any, Any]:
    memory, carry = state
    gates = row + memory @ recurrence.T + bias
    enter, leave, forget, new = gates.chunk(4, dim=-1)  # ONNX orders the gates i, o, f, c
    carry = torch.sigmoid(forget) * carry + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(leave) * torch.tanh(carry), carry


def _gru(node: Node, row: Any, recurrence: Any, bias: Any, state: Any) -> tuple[Any, Any]:
    memory, carry = state
    size = memory.shape[-1]
    update, reset, new = row.chunk(3, dim=-1)
    gates = memory @ recurrence[: 2 * size].T + bias[: 2 * size]
    update, reset = torch.sigmoid(update + gates[:, :size]), torch.sigmoid(reset + gates[:, size:])
    if node.get("linear_before_reset", 0):
        new = torch.tanh(new + reset * (memory @ recurrence[2 * size :].T + bias[2 * size :]))
    else:
        new = torch.tanh(new + (reset * memory) @ recurrence[2 * size :].T + bias[2 * size :])
    return (1 - update) * new + update * memory, carry


def _rnn(_: Node, row: Any, recurrence: Any, bias: Any, state: Any) -> tuple[Any, Any]:
    memory, carry = state
    return torch.tanh(row + memory @ recurrence.T + bias), carry


RECURRENT: Final[dict[str, Operator]] = {"LSTM": _run, "GRU": _run, "RNN": _run}
"""By name."""
