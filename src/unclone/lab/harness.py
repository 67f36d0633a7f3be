"""Many jobs, on all cores or a cluster, with progress and a cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from unclone.errors import MissingExtraError, ParameterError
from unclone.lab.jobs import Cache, Job, JobResult, run_job

__all__ = ["BACKENDS", "Report", "parallel", "run_jobs"]

BACKENDS: Final = ("loky", "dask", "ray", "sequential")

_WINDOW: Final = 32
"""Jobs that Ray gets at a time: what an interrupted run may lose."""

Report = Callable[[int, int, str], None]
"""Called with (done, total, what is running)."""

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")


def run_jobs(
    jobs: Sequence[Job], *, cache: Path | None, backend: str = "loky", workers: int = -1, report: Report | None = None
) -> dict[Job, JobResult]:
    """Run jobs that are not in the cache, and keep each result as it comes.

    Args:
        jobs: a job that is named twice runs once.
        cache: folder of results, or ``None``.
        backend: ``"loky"`` (processes here), ``"dask"`` (the default client's cluster), ``"ray"``, or
            ``"sequential"`` (in this process).
        workers: processes; -1 for one on each core.
        report: progress.

    Raises:
        ParameterError: an unknown backend.
        MissingExtraError: joblib, dask or ray is not installed.
    """
    store = Cache(cache)
    results: dict[Job, JobResult] = {}
    for job in dict.fromkeys(jobs):
        known = store.get(job)
        if known is not None:
            results[job] = known
    missing = [job for job in dict.fromkeys(jobs) if job not in results]
    total = len(results) + len(missing)
    if report:
        report(len(results), total, "")

    def keep(job: Job, result: JobResult) -> None:
        store.put(job, result)
        results[job] = result
        if report:
            report(len(results), total, f"{job.attack}, {job.labels} labels, seed {job.seed}")

    parallel(run_job, missing, keep, backend=backend, workers=workers)
    return results


def parallel(
    function: Callable[[_Value], _Result],
    values: Sequence[_Value],
    keep: Callable[[_Value, _Result], None],
    *,
    backend: str = "loky",
    workers: int = -1,
) -> None:
    """Call ``function`` on each value in worker processes of one thread; ``keep`` is called here, as results come."""
    if backend not in BACKENDS:
        raise ParameterError(f"backend is one of {', '.join(BACKENDS)}, not {backend[:40]!r}")
    if not values:
        return
    try:
        from joblib import Parallel, delayed, parallel_config
    except ImportError:
        raise MissingExtraError("joblib", "lab") from None
    calls = [delayed(_numbered)(function, index, value) for index, value in enumerate(values)]
    with parallel_config(**_config(backend)), warnings.catch_warnings():
        # loky replaces a worker whose memory grew, repeats nothing, and tells about it as if it were an error.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        if backend != "ray":
            run = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
            windows = [calls]
        else:  # its backend gives results only when all are there
            run = Parallel(n_jobs=workers, batch_size=1)
            windows = [calls[start : start + _WINDOW] for start in range(0, len(calls), _WINDOW)]
        for window in windows:
            for index, result in run(window):
                keep(values[index], result)


def _numbered(function: Callable[[_Value], _Result], index: int, value: _Value) -> tuple[int, _Result]:
    return index, function(value)


def _config(backend: str) -> dict[str, object]:
    """Arguments of ``joblib.parallel_config``."""
    if backend == "loky":
        return {"backend": "loky", "inner_max_num_threads": 1}
    if backend == "sequential":
        return {"backend": "sequential"}
    if backend == "dask":
        try:
            from distributed import Client, get_client
        except ImportError:
            raise MissingExtraError("distributed", "lab") from None
        try:
            get_client()
        except ValueError:  # none is open: one here; DASK_SCHEDULER_ADDRESS names a cluster
            from distributed import config

            address = config.get("scheduler-address", None)
            Client(address) if address else Client(threads_per_worker=1, dashboard_address=None)
        return {"backend": "dask"}
    try:
        from ray.util.joblib import register_ray
    except ImportError:
        raise MissingExtraError("ray", "lab") from None
    register_ray()
    return {"backend": "ray"}
