"""This package as a scheme: a real binding to a simulated device, read as a pirate reads it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

import unclone
from unclone.lab.contracts import Locked, Weights
from unclone.patterns import finite_pattern

__all__ = ["VARIANTS", "Unclone"]


@dataclass(frozen=True)
class _Secret:
    source: str
    device: bytes
    file: bytes


@dataclass
class Unclone:
    """``unclone.bind`` of a safetensors file.

    Attributes:
        name: as on the command line.
        bits: see ``unclone.bind``.
        share: see ``unclone.bind``.
        select: see ``unclone.bind``.
    """

    name: str = "unclone"
    bits: str = "finite"
    share: float = 1.0
    select: str = "blocks"
    reference: str = "this package"

    def lock(self, weights: Weights, seed: int) -> Locked:
        """Enrol the simulated device ``seed`` and bind to it; ``info["patterns"]`` are the masked bits of a word."""
        from safetensors.numpy import load_file, save_file

        source = f"sim:sram?seed={seed}"
        device = unclone.enroll(source)
        with tempfile.TemporaryDirectory() as folder:
            plain, bound, record = (
                Path(folder, "plain.safetensors"),
                Path(folder, "bound.safetensors"),
                Path(folder, "d"),
            )
            save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, plain)
            unclone.save_device(device, record)
            unclone.bind(plain, device, bound, bits=self.bits, share=self.share, select=self.select, threads=1)
            secret = _Secret(source, record.read_bytes(), bound.read_bytes())
            return Locked(dict(load_file(bound)), secret, {"patterns": self._patterns(weights)})

    def unlock(self, locked: Locked) -> Weights:
        """Reconstruct the key from the device and restore the bound file with it."""
        secret: _Secret = locked.secret
        with tempfile.TemporaryDirectory() as folder:
            bound, record = Path(folder, "bound.safetensors"), Path(folder, "d")
            bound.write_bytes(secret.file)
            record.write_bytes(secret.device)
            with unclone.restore(bound, unclone.reconstruct(record, secret.source)) as restored:
                return {
                    name: restored[name].data.view(value.dtype).reshape(value.shape).copy()
                    for name, value in locked.weights.items()
                }

    def cost(self) -> str:
        """What the genuine device pays."""
        return "one pass over the weights when they are loaded (docs/performance.md); inference as before"

    def _patterns(self, weights: Weights) -> dict[str, int]:
        if self.bits == "all":
            return {name: (1 << (8 * value.itemsize)) - 1 for name, value in weights.items()}
        patterns = {}
        for name, value in weights.items():
            words = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            tile = finite_pattern(str(value.dtype), [words])
            # A pattern narrower than a word repeats over it.
            patterns[name] = int.from_bytes(tile * (value.itemsize // len(tile)), "little")
        return patterns


VARIANTS: Final = (
    Unclone(),
    Unclone("unclone-all", bits="all"),
    Unclone("unclone-random-20", share=0.2, select="random"),
)
