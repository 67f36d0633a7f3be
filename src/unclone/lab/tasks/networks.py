"""The small networks of the built-in tasks, and the kind of each of their weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from unclone.errors import MissingExtraError

try:
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError:
    raise MissingExtraError("torch", "lab") from None

__all__ = ["ResidualNetwork", "convolutional", "dense", "recurrent", "reviews", "weight_kinds"]

Build = Callable[[], Any]


def dense(*widths: int) -> Build:
    """Fully connected layers with ReLU between them; inputs of any shape are flattened."""

    def build() -> Any:
        layers: list[Any] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return build


def convolutional(size: int, channels: tuple[int, int], hidden: int, classes: int) -> Build:
    """Two convolutions with pooling and two dense layers, for one-channel images of ``size`` pixels squared."""

    def build() -> Any:
        first, second = channels
        return nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * (size // 4) ** 2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    return build


class ResidualNetwork(nn.Module):  # type: ignore[misc]
    """A residual network for small images (He et al., CVPR 2016, section 4.2), with ``blocks`` blocks in each stage.

    The first convolution strides by two, which makes it four times faster for a few points of accuracy.
    """

    def __init__(self, blocks: int = 1, widths: tuple[int, ...] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        stages, before = [], widths[0]
        for number, width in enumerate(widths):
            for index in range(blocks):
                stages.append(_Block(before, width, 2 if number and not index else 1))
                before = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, classes)

    def forward(self, images: Any) -> Any:
        """Class scores of images, shape ``(samples, 3, height, width)``."""
        values = functional.relu(self.norm(self.stem(images)))
        return self.head(self.stages(values).mean(dim=(2, 3)))


class _Block(nn.Module):  # type: ignore[misc]
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(before, width, 1, stride=stride, bias=False) if before != width else nn.Identity()

    def forward(self, values: Any) -> Any:
        inner = functional.relu(self.first_norm(self.first(values)))
        return functional.relu(self.second_norm(self.second(inner)) + self.shortcut(values))


class _Recurrent(nn.Module):  # type: ignore[misc]
    """A GRU over frames, shape ``(samples, frames, features)``, averaged over time."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, frames: Any) -> Any:
        return self.head(self.gru(frames)[0].mean(dim=1))


class _Reviews(nn.Module):  # type: ignore[misc]
    """An embedding and a GRU over word numbers, shape ``(samples, words)``; 0 is padding."""

    def __init__(self, words: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.gru = nn.GRU(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 2)

    def forward(self, words: Any) -> Any:
        states, _ = self.gru(self.embedding(words))
        return self.head(torch.where((words > 0)[..., None], states, -1.0).amax(dim=1))


def recurrent(features: int, hidden: int, classes: int) -> Build:
    """A GRU over frames of features."""
    return lambda: _Recurrent(features, hidden, classes)


def reviews(words: int, width: int, hidden: int) -> Build:
    """A GRU over words, for two classes."""
    return lambda: _Reviews(words, width, hidden)


def weight_kinds(module: Any) -> dict[str, str]:
    """The kind of every weight of a module, by ``state_dict`` name (``unclone.lab.contracts.KINDS``)."""
    kinds = {}
    for path, layer in module.named_modules():
        for name, _ in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            kinds[f"{path}.{name}" if path else name] = _kind(layer, name)
    return kinds


def _kind(layer: Any, name: str) -> str:
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        return "normalisation"
    if name.startswith("bias"):
        return "bias"
    table = {nn.Linear: "dense", nn.Conv2d: "convolutional", nn.GRU: "recurrent", nn.Embedding: "embedding"}
    return table.get(type(layer), "other")
