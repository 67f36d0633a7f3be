"""Attacks and schemes by name."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import unclone
from unclone.errors import ParameterError
from unclone.lab.contracts import Attack, Locked, Outcome, Scheme, Task, Weights

__all__ = ["attack_named", "attacks", "scheme_named", "schemes"]


class _UseAsIs:
    """The file as it lies, in any ordinary tool."""

    name = "use-as-is"
    reference = "the file as it lies"
    published = ""
    needs = "none"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:  # noqa: ARG002
        return Outcome(task.score(locked.weights), locked.weights)


class _Bound:
    """This package: a simulated device enrolled, a file bound to it, read as a pirate reads it."""

    name = "unclone"
    reference = "this package"

    def lock(self, weights: Weights, seed: int) -> Locked:
        from safetensors.numpy import load_file, save_file

        source = f"sim:sram?seed={seed}"
        with tempfile.TemporaryDirectory() as folder:
            plain, bound = Path(folder, "plain.safetensors"), Path(folder, "bound.safetensors")
            save_file(dict(weights), plain)
            unclone.bind(plain, unclone.enroll(source), bound)
            return Locked(dict(load_file(bound)), dict(weights))

    def unlock(self, locked: Locked) -> Weights:
        return dict(locked.secret)

    def cost(self) -> str:
        return "one pass over the weights when they are loaded (docs/performance.md); inference as before"


def _found(module: str, name: str) -> Mapping[str, Any]:
    try:
        return dict(getattr(importlib.import_module(module), name))
    except ModuleNotFoundError as problem:
        if problem.name == module:
            return {}
        raise


def attacks() -> dict[str, Attack]:
    """All attacks."""
    return {"use-as-is": _UseAsIs(), **_found("unclone.lab.attacks", "ATTACKS")}


def schemes() -> dict[str, Scheme]:
    """All schemes."""
    return {"unclone": _Bound(), **_found("unclone.lab.schemes", "SCHEMES")}


def attack_named(name: str) -> Attack:
    """An attack.

    Raises:
        ParameterError: there is none of that name.
    """
    known = attacks()
    if name not in known:
        raise ParameterError(f"no attack {name[:60]!r}; there are {', '.join(known)}")
    return known[name]


def scheme_named(name: str) -> Scheme:
    """A scheme.

    Raises:
        ParameterError: there is none of that name.
    """
    known = schemes()
    if name not in known:
        raise ParameterError(f"no scheme {name[:60]!r}; there are {', '.join(known)}")
    return known[name]
