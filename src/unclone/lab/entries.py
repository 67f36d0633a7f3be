"""The inputs of a model in one array, whatever their number: tasks, attacks and training pass samples around whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unclone.lab.contracts import Array

__all__ = ["Entries", "Entry"]


@dataclass(frozen=True)
class Entry:
    """One input.

    Attributes:
        name: in the graph.
        dtype: that the graph takes.
        shape: of one sample.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Entries:
    """All inputs, in the graph's order. One is passed as it is; several become rows of numbers, one after the other."""

    entries: tuple[Entry, ...]

    def pack(self, arrays: Mapping[str, Array]) -> Array:
        """One array of arrays of shape ``(samples, ...)``, by name.

        Of several it is ``(samples, numbers)``, ``float64`` where there are whole numbers among them.
        """
        if len(self.entries) == 1:
            (entry,) = self.entries
            return np.ascontiguousarray(arrays[entry.name].astype(entry.dtype))
        narrow = all(entry.dtype in (np.float16, np.float32) for entry in self.entries)
        rows = [arrays[entry.name].astype(entry.dtype).reshape(-1, math.prod(entry.shape)) for entry in self.entries]
        return np.concatenate(rows, axis=1, dtype=np.float32 if narrow else np.float64)

    def split(self, packed: Any) -> dict[str, Any]:
        """The inputs of packed samples, by name; numpy array or torch tensor, whole numbers still as floats."""
        if len(self.entries) == 1:
            return {self.entries[0].name: packed}
        found, start = {}, 0
        for entry in self.entries:
            stop = start + math.prod(entry.shape)
            found[entry.name] = packed[:, start:stop].reshape(-1, *entry.shape)
            start = stop
        return found

    def feeds(self, packed: Array) -> dict[str, Array]:
        """What ONNX Runtime takes: ``split``, each in its own dtype."""
        parts = self.split(packed)
        return {entry.name: np.ascontiguousarray(parts[entry.name].astype(entry.dtype)) for entry in self.entries}
