"""The HDF5 library in a process of its own, with limits on memory and time.

The library is C code with a history of faults on damaged files: in release 2.0 one altered byte of a heap can make it
loop, with or without taking memory, for ever. So it looks at a file that nobody has verified in a child process, which
hands back a list of datasets or an error.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final

from unclone.errors import FormatError, MissingExtraError, ResourceError, UncloneError, UnsupportedError
from unclone.formats.hdf5_tree import Dataset, Tree, View, tree_of

__all__ = ["main", "tree_apart"]

_MEMORY_LIMIT: Final = 2 << 30
"""Address space, most of it libraries."""

_SECONDS: Final = 120
"""Processor time; the most datasets that a file may have take a quarter of it."""

_START: Final = "import sys; sys.path[:] = sys.argv[6:]; from unclone.formats.hdf5_child import main; main()"


def tree_apart(path: Path, descriptor: int, start: int, size: int) -> Tree:
    """``hdf5_tree.tree_of`` on a range of an open file, in a child process.

    Raises:
        FormatError: malformed, truncated or hostile; the child died or took too long.
        UnsupportedError: something that may hold weights and cannot be masked, by name.
        MissingExtraError: h5py is not installed.
        ResourceError: no process can be started.
    """
    try:
        present = importlib.util.find_spec("h5py") is not None
    except ValueError:
        present = False
    if not present:
        raise MissingExtraError("h5py", "keras")
    arguments = [*map(str, (descriptor, start, size, _MEMORY_LIMIT, path)), *sys.path]
    try:
        done = subprocess.run(  # noqa: S603 (ourselves)
            [sys.executable, "-P", "-c", _START, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(descriptor,),
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            check=False,
        )
    except OSError as problem:
        raise ResourceError(f"cannot start a process that looks at {path}: {problem}") from None
    if done.returncode:
        raise FormatError(f"{path} is damaged or hostile: the HDF5 library does not survive it, or loops for ever")
    answer: dict[str, Any] = json.loads(done.stdout)
    for kind in (UnsupportedError, FormatError):
        if answer["error"] == kind.__name__:
            raise kind(answer["message"])
    datasets = [Dataset(name, dtype, tuple(shape), *rest) for name, dtype, shape, *rest in answer["datasets"]]
    return Tree(datasets, answer["config"])


def main() -> None:
    """The child: arguments are descriptor, first byte, length, memory limit, name of the file; the answer is JSON."""
    descriptor, start, size, memory = (int(text) for text in sys.argv[1:5])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    answer: dict[str, Any] = {"error": "", "message": "", "datasets": [], "config": ""}
    try:
        tree = tree_of(Path(sys.argv[5]), View(descriptor, start, size))
        answer["datasets"], answer["config"] = [astuple(item) for item in tree.datasets], tree.config
    except UncloneError as problem:
        answer["error"], answer["message"] = type(problem).__name__, str(problem)
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # a damaged file may have left the library in a state in which it cannot close
