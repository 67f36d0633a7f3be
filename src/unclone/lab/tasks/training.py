"""Training and running a network whose weights are a dictionary: the same few lines for every task that trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unclone.errors import MissingExtraError, ParameterError
from unclone.lab.contracts import Array, Data, Weights
from unclone.lab.tasks.networks import weight_kinds

try:
    import torch
    from torch.nn import functional
except ImportError:
    raise MissingExtraError("torch", "lab") from None

__all__ = ["ModuleNetwork", "Network", "Recipe", "draw", "run", "train"]

_BATCH_OF_RUN = 500
_CLIP = 1.0
_LARGEST = 1e4


class Network(Protocol):
    """A differentiable function of named weights.

    Attributes:
        kinds: weight name -> one of ``unclone.lab.contracts.KINDS``.
        fixed: names that no gradient moves: running statistics.
    """

    kinds: Mapping[str, str]
    fixed: frozenset[str]

    def forward(self, weights: Mapping[str, torch.Tensor], inputs: torch.Tensor, *, training: bool) -> torch.Tensor:
        """Outputs, shape ``(samples, classes)``; with ``training``, statistics of normalisation are updated."""
        ...

    def initialise(self, seed: int) -> Weights:
        """Fresh random weights."""
        ...


class ModuleNetwork:
    """A ``torch.nn.Module`` as a network; the names are those of its ``state_dict``.

    Args:
        build: makes the module with fresh random weights from torch's global generator.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._module = self._made(0)
        self._counters = {name for name, value in self._module.state_dict().items() if not value.is_floating_point()}
        self.kinds: Mapping[str, str] = {
            name: kind for name, kind in weight_kinds(build()).items() if name not in self._counters
        }
        self.fixed = frozenset(name for name, _ in self._module.named_buffers())

    def forward(self, weights: Mapping[str, torch.Tensor], inputs: torch.Tensor, *, training: bool) -> torch.Tensor:
        """Outputs of the module with ``weights`` in place of its own."""
        self._module.train(training)
        outputs: torch.Tensor = torch.func.functional_call(self._module, dict(weights), (inputs,))
        return outputs

    def initialise(self, seed: int) -> Weights:
        """The module's own initial weights."""
        state = self._made(seed).state_dict()
        return {name: value.numpy().copy() for name, value in state.items() if name not in self._counters}

    def _made(self, seed: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._build()


@dataclass(frozen=True)
class Recipe:
    """How a task is trained: Adam, cosine decay, gradient clipping.

    Attributes:
        epochs: passes over the samples, of all of them.
        least_steps: steps at least, for the few-label attacker to get to the bottom of what he has.
        rate: peak learning rate.
        batch: samples of a step.
        decay: decoupled weight decay.
    """

    epochs: float = 10
    least_steps: int = 300
    rate: float = 2e-3
    batch: int = 64
    decay: float = 1e-4

    def steps(self, samples: int, effort: float) -> int:
        """Steps for so many samples."""
        return max(1, round(effort * max(self.least_steps, self.epochs * samples / self.batch)))


def draw(data: Data, labels: int, seed: int) -> Data:
    """``labels`` samples without replacement; all of them where there are no more.

    Raises:
        ParameterError: fewer than one.
    """
    inputs, targets = data
    if labels < 1:
        raise ParameterError(f"training needs at least one label, got {labels}")
    if labels >= len(inputs):
        return data
    picks = np.random.default_rng([seed, 0x1AB]).permutation(len(inputs))[:labels]
    return inputs[picks], targets[picks]


def run(network: Network, weights: Weights, inputs: Array) -> NDArray[np.float32]:
    """Outputs for ``inputs``, in batches, shape ``(samples, classes)``."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in weights.items()}
    parts = []
    with _one_thread(), torch.no_grad(), np.errstate(all="ignore"):
        for start in range(0, len(inputs), _BATCH_OF_RUN):
            batch = torch.from_numpy(inputs[start : start + _BATCH_OF_RUN])
            parts.append(network.forward(tensors, batch, training=False).float().numpy())
    return np.concatenate(parts)


def train(
    network: Network,
    start: Weights,
    data: Data,
    seed: int,
    recipe: Recipe,
    *,
    effort: float = 1.0,
    free: Mapping[str, Array] | None = None,
    regression: bool = False,
) -> Weights:
    """Train from ``start`` on ``data``; class numbers, or soft targets of shape ``(samples, classes)``.

    Deterministic for a seed on one machine. Values of ``start`` that are no numbers are taken for 0, and weights are
    kept within 1e4 to begin with, as any attacker would who wants gradients.
    """
    inputs, targets = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    soft = targets.is_floating_point() and not regression
    with _one_thread():
        tensors, moving, holds = _prepare(network, start, free or {})
        optimiser = torch.optim.AdamW(moving, lr=recipe.rate, weight_decay=recipe.decay)
        steps = recipe.steps(len(inputs), effort)
        order = _batches(len(inputs), min(recipe.batch, len(inputs)), steps, seed)
        for step, picks in enumerate(order):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * _schedule(step, steps)
            outputs = network.forward(tensors, inputs[picks], training=True)
            if regression:
                loss = functional.smooth_l1_loss(outputs.reshape(targets[picks].shape), targets[picks].float())
            else:
                chosen = targets[picks] if soft else targets[picks].long()
                loss = functional.cross_entropy(outputs, chosen)
            optimiser.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(moving, _CLIP)
            if not torch.isfinite(norm):
                continue
            optimiser.step()
            with torch.no_grad():
                for value, mask, held in holds:
                    value.copy_(torch.where(mask, value, held))
    return {name: tensors[name].detach().numpy().astype(value.dtype) for name, value in start.items()}


def _prepare(
    network: Network, start: Weights, free: Mapping[str, Array]
) -> tuple[
    dict[str, torch.Tensor],
    list[torch.Tensor],
    list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
]:
    """All weights as tensors; those that move; and those that are held in part, with the mask of what moves."""
    tensors, moving, holds = {}, [], []
    for name, value in start.items():
        if not np.issubdtype(value.dtype, np.floating):
            tensors[name] = torch.from_numpy(value.copy())
            continue
        plain = np.nan_to_num(value.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        tensor = torch.from_numpy(np.asarray(np.clip(plain, -_LARGEST, _LARGEST)))
        tensors[name] = tensor
        mask = free.get(name)
        if name in network.fixed:
            if name.endswith("running_var"):
                tensor.clamp_(min=1e-5)
            continue
        if mask is not None and not mask.any():
            continue
        tensor.requires_grad_(True)
        moving.append(tensor)
        if mask is not None and not mask.all():
            holds.append((tensor, torch.from_numpy(np.asarray(mask, dtype=bool)), tensor.detach().clone()))
    if not moving:
        raise ParameterError("nothing may move: free is False everywhere")
    return tensors, moving, holds


def _batches(samples: int, batch: int, steps: int, seed: int) -> Any:
    rng = np.random.default_rng([seed, 0xBA7])
    queue = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        while len(queue) < batch:
            queue = np.concatenate([queue, rng.permutation(samples)])
        yield torch.from_numpy(queue[:batch])
        queue = queue[batch:]


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first tenth, then half a cosine down to a hundredth."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class _one_thread:  # noqa: N801 - a context manager, used like a function
    """One thread for torch inside, the caller's number again outside: many jobs share the processor."""

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)
