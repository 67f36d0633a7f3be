"""Two releases under one keystream: the XOR of the files is the XOR of the weights."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import unclone
from unclone.errors import ParameterError
from unclone.lab.contracts import Locked, Outcome, Task, Weights
from unclone.lab.schemes.published import xored
from unclone.lab.schemes.reused_pad import earlier_version

__all__ = ["TwoTimePad"]


@dataclass
class TwoTimePad:
    """Of the release before, the pirate has the locked file and the true weights: XOR all three.

    Under this package both releases are bound to the same device, each under a content key of its own.
    """

    name: str = "two-time-pad"
    reference: str = "Mason et al., CCS 2006, for text; here with the earlier weights known"
    published: str = "exact"
    needs: str = "none"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:  # noqa: ARG002
        """XOR and score; ``detail``: ``words_right``, the share of words that come out exactly.

        Raises:
            ParameterError: the scheme cannot say what an earlier release would look like.
        """
        start = time.process_time()
        earlier, known = locked.info.get("earlier") or _release_before(task, locked, seed)
        keystream = _words(xored(earlier, _words(known)))
        weights = xored(locked.weights, keystream)
        seconds = time.process_time() - start
        truth, found = _words(task.weights()), _words(weights)
        right = np.concatenate([(found[name] == truth[name]).reshape(-1) for name in truth])
        return Outcome(task.score(weights), weights, seconds=seconds, detail={"words_right": float(right.mean())})


def _words(weights: Weights) -> Weights:
    """The tensors as unsigned words."""
    return {name: np.ascontiguousarray(value).view(f"u{value.itemsize}") for name, value in weights.items()}


def _release_before(task: Task, locked: Locked, seed: int) -> tuple[Weights, Weights]:
    """What the vendor bound to the same device before: the file, and its true weights, which got out."""
    from safetensors.numpy import load_file, save_file

    if not hasattr(locked.secret, "device"):
        raise ParameterError("two-time-pad needs a scheme with releases: reused-pad, or unclone's own")
    known = earlier_version(task.weights(), seed)
    with tempfile.TemporaryDirectory() as folder:
        plain, bound, record = (Path(folder, name) for name in ("plain.safetensors", "bound.safetensors", "device"))
        save_file({name: np.ascontiguousarray(value) for name, value in known.items()}, plain)
        record.write_bytes(locked.secret.device)
        unclone.bind(plain, unclone.load_device(record), bound, threads=1)
        return dict(load_file(bound)), known
