"""Training that starts from the file: what does it spare the pirate?"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from unclone.lab.attacks.repair import Repair
from unclone.lab.contracts import Array, Locked, Outcome, Task, Weights
from unclone.lab.magnitudes import is_code, written

__all__ = ["ExponentsKnown", "FineTune", "clear_bits_start", "rescaled"]


@dataclass
class FineTune:
    """Zero the outliers, then train.

    Attributes:
        name: as on the command line.
        rescale: bring each tensor to the spread of an untrained one first: from weights that are too large, training
            barely moves.
    """

    name: str = "fine-tune"
    rescale: bool = False
    reference: str = "Chen et al., IEEE TETC 2018, and later; ACSAC 2025"
    published: str = "ACSAC 2025: DeiT-tiny on CIFAR-100 regains 61.48 of 84.27 % with 20 % of the data"
    needs: str = "labels"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        """Repair, train and score."""
        start = time.process_time()
        repaired = Repair("zero", "zero").run(task, locked, labels=0, seed=seed, effort=effort).weights
        begin = repaired or locked.weights
        if self.rescale:
            fresh = task.initialise(seed)
            begin = {name: rescaled(value, fresh[name]) for name, value in begin.items()}
        weights = task.fit(begin, labels, seed, effort=effort)
        return Outcome(task.score(weights), weights, seconds=time.process_time() - start)


def rescaled(value: Array, fresh: Array) -> Array:
    """``value`` with mean and spread of ``fresh``; a tensor that is constant when it is fresh stays fresh."""
    judged = np.issubdtype(value.dtype, np.floating) or is_code(value)
    if not judged or not fresh.size or np.ptp(fresh) == 0:
        return fresh
    wide = np.nan_to_num(value.astype(np.float64), posinf=0, neginf=0)
    spread = float(wide.std())
    if spread == 0:
        return fresh
    return written((wide - wide.mean()) / spread * fresh.std() + fresh.mean(), value)


@dataclass
class ExponentsKnown:
    """Take what the clear bits say of each magnitude, scaled as an untrained network is, with signs of one; train."""

    name: str = "exponents-known"
    reference: str = "this package"
    published: str = ""
    needs: str = "labels"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        """Start from the clear bits, train and score."""
        start = time.process_time()
        begin = clear_bits_start(locked, task.initialise(seed))
        weights = task.fit(begin, labels, seed, effort=effort)
        return Outcome(task.score(weights), weights, seconds=time.process_time() - start)


def clear_bits_start(locked: Locked, fresh: Weights) -> Weights:
    """``fresh`` with its magnitudes reordered so that the classes seen in the clear bits are kept.

    Of each tensor, weights whose clear exponent bits are higher get the larger of the fresh magnitudes (ties in the
    order of ``fresh``); signs stay those of ``fresh`` where masked. So the per-tensor distribution is exactly that of
    the baseline, and a gain can come from the clear bits alone.
    """
    result = dict(fresh)
    for name, pattern in locked.info.get("patterns", {}).items():
        value = locked.weights[name]
        if np.issubdtype(value.dtype, np.floating):
            result[name] = _ranked(value, fresh[name], pattern)
    return result


def _ranked(value: Array, fresh: Array, pattern: int) -> Array:
    bits = 8 * value.itemsize
    words = np.ascontiguousarray(value).view(f"u{value.itemsize}").reshape(-1)
    sign = 1 << (bits - 1)
    clear = words & words.dtype.type(~pattern & (sign - 1))
    flat = fresh.reshape(-1)
    order = np.lexsort((np.abs(flat), clear))
    magnitude = np.empty_like(flat)
    magnitude[order] = np.sort(np.abs(flat))
    negative = np.signbit(flat) if pattern & sign else (words & words.dtype.type(sign)) != 0
    return np.where(negative, -magnitude, magnitude).astype(fresh.dtype).reshape(fresh.shape)
