"""Bulk work on several cores or machines, through joblib: ``loky`` (processes here), ``dask`` or ``ray``.

Work goes out in windows, so that neither what waits for a worker nor what waits for the database grows without bound.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import Any, Final, TypeVar

from unclone.errors import MissingExtraError, ParameterError

__all__ = ["BACKENDS", "WINDOW", "batches", "cores", "in_parallel"]

T = TypeVar("T")
R = TypeVar("R")
BACKENDS: Final = ("loky", "dask", "ray")
WINDOW: Final = 12
"""Items for each worker in one window, if they are megabytes each."""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def in_parallel(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int = 0,
    backend: str = "loky",
    scheduler: str = "",
    window: int = WINDOW,
) -> Iterator[R]:
    """``work`` of every item, in the items' order.

    Args:
        work: a function that can be pickled.
        items: what to work on, each worth some milliseconds or more.
        workers: processes; 0 for one on every core, 1 for none but this one.
        backend: ``"loky"``, ``"dask"`` or ``"ray"``.
        scheduler: address of a Dask scheduler or Ray head; by default a cluster on this machine.
        window: items for each worker between two waits for the last of them; two windows are in memory.

    Raises:
        ParameterError: the backend is unknown, or cannot be reached.
        MissingExtraError: joblib is not installed.
    """
    if backend not in BACKENDS:
        raise ParameterError(f"--backend is one of {', '.join(BACKENDS)}, not {backend[:40]!r}")
    if workers < 0:
        raise ParameterError(f"--workers is 0 or more, not {workers}")
    workers = workers or cores()
    if workers == 1 and backend == "loky":
        yield from map(work, items)
        return
    try:
        from joblib import Parallel, delayed, parallel_config
    except ImportError:
        raise MissingExtraError("joblib", "fleet") from None
    with ExitStack() as stack:
        settings = _settings(stack, backend, workers, scheduler)
        stack.enter_context(parallel_config(**settings))
        parallel = stack.enter_context(Parallel(n_jobs=workers, batch_size=1))

        def run(window: list[T]) -> list[R]:
            return list(parallel(delayed(work)(item) for item in window))

        # The workers are a window ahead of whoever takes the results.
        ahead = stack.enter_context(ThreadPoolExecutor(1))
        windows = batches(items, workers * window)
        waiting = [ahead.submit(run, window) for window in islice(windows, 1)]
        while waiting:
            results = waiting.pop().result()
            waiting = [ahead.submit(run, window) for window in islice(windows, 1)]
            yield from results


def _settings(stack: ExitStack, backend: str, workers: int, scheduler: str) -> dict[str, Any]:
    if backend == "loky":
        return {"backend": "loky", "inner_max_num_threads": 1}
    try:
        if backend == "ray":
            import ray
            from ray.util.joblib import register_ray

            ray.init(address=scheduler or None, num_cpus=None if scheduler else workers, ignore_reinit_error=True)
            register_ray()
            return {"backend": "ray"}
        from distributed import Client

        client = (
            Client(scheduler) if scheduler else Client(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        )
        stack.enter_context(client)
    except ImportError:
        raise ParameterError(
            f"--backend {backend} needs {backend}, which is not installed: pip install {backend}"
        ) from None
    except OSError as problem:
        raise ParameterError(f"no Dask scheduler answers at {scheduler[:100]}: {type(problem).__name__}") from None
    return {"backend": "dask"}
