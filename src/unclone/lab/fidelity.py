"""Experiment 2: the right device gets every bit back; no other device gets anything."""

from __future__ import annotations

import secrets
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np

import unclone
from unclone.lab.clones import force_open
from unclone.lab.contracts import Task, Weights
from unclone.lab.harness import Report, parallel
from unclone.lab.jobs import TaskSource
from unclone.lab.statistics import binomial_bounds
from unclone.model import RestoredModel
from unclone.records import KEY_BYTES, DeviceKey

__all__ = ["fidelity_experiment", "weights_of"]

_SAMPLES: Final = 1000
_MATRIX_SAMPLES: Final = 500
_CLONES_OF_A_JOB: Final = 25
_FIRST_SEED: Final = 10_000


@dataclass(frozen=True)
class _Row:
    """Device ``index``'s file on every device."""

    source: TaskSource
    folder: str
    index: int
    devices: int


def fidelity_experiment(
    source: TaskSource,
    *,
    devices: int,
    clones: int,
    backend: str = "loky",
    workers: int = -1,
    report: Report | None = None,
) -> dict[str, Any]:
    """Bind for many simulated devices, restore, and force open on devices that it was not bound to.

    A clone's key is 32 random bytes: that is what an enrolled device's key is (docs/architecture.md).

    Args:
        source: the task.
        devices: simulated SRAM devices, each enrolled, each with a file of its own.
        clones: keys to force one file open with.
        backend: see ``unclone.lab.harness.run_jobs``.
        workers: likewise.
        report: progress.

    Returns:
        JSON values: ``fidelity`` (``devices``, ``identical``: those whose restored weights were the same bits),
        ``uniqueness`` (``matrix[i][j]``: score of the file of device i on device j; ``genuine``, ``foreign`` means,
        ``foreign_max``), ``clones`` (``scores``; ``untrained``: as many networks that were never trained; ``useful``:
        how many clones got half of the way from chance to the original, and exact 95 % ``bounds`` of their share).
    """
    task = source.open()
    original = task.score(task.weights(), limit=_SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        _prepare(task, Path(folder), devices)
        seconds = time.perf_counter() - start
        rows: dict[int, tuple[bool, list[float]]] = {}

        def keep_row(job: _Row, result: tuple[bool, list[float]]) -> None:
            rows[job.index] = result
            if report:
                report(len(rows), devices, "uniqueness")

        jobs = [_Row(source, folder, index, devices) for index in range(devices)]
        parallel(_row, jobs, keep_row, backend=backend, workers=workers)
        scores = _clones(source, folder, clones, backend, workers, report)
    matrix = np.array([rows[index][1] for index in range(devices)])
    foreign = matrix[~np.eye(devices, dtype=bool)]
    line = (original + task.chance) / 2
    useful = sum(score > line for score in scores["clones"])
    return {
        "samples": min(_SAMPLES, len(task.test_data()[1])),
        "matrix_samples": min(_MATRIX_SAMPLES, len(task.test_data()[1])),
        "original": original,
        "chance": task.chance,
        "fidelity": {
            "devices": devices,
            "identical": sum(rows[index][0] for index in range(devices)),
            "enrol_and_bind_seconds": seconds / devices,
        },
        "uniqueness": {
            "matrix": [[round(value, 4) for value in row] for row in matrix.tolist()],
            "genuine": float(np.diag(matrix).mean()),
            "foreign": float(foreign.mean()) if foreign.size else None,
            "foreign_max": float(foreign.max()) if foreign.size else None,
        },
        "clones": {
            "scores": scores["clones"],
            "mean": float(np.mean(scores["clones"])),
            "max": float(np.max(scores["clones"])),
            "untrained": scores["untrained"],
            "untrained_mean": float(np.mean(scores["untrained"])) if scores["untrained"] else None,
            "untrained_max": float(np.max(scores["untrained"])) if scores["untrained"] else None,
            "useful_line": line,
            "useful": useful,
            "bounds": list(binomial_bounds(useful, clones)),
        },
    }


def weights_of(restored: RestoredModel, like: Weights) -> Weights:
    """A restored model's tensors as arrays of the names, types and shapes of ``like``."""
    return {name: restored[name].data.view(value.dtype).reshape(value.shape).copy() for name, value in like.items()}


def _prepare(task: Task, folder: Path, devices: int) -> None:
    """One plain model; a device record and a bound file for each device."""
    plain = task.model_file(task.weights(), folder / "plain")
    for index in range(devices):
        device = unclone.enroll(_source(index), name=f"device {index}")
        unclone.save_device(device, _record(folder, index))
        unclone.bind(plain, device, _bound(folder, index, plain.suffix), threads=1)


def _source(index: int) -> str:
    return f"sim:sram?seed={_FIRST_SEED + index}"


def _record(folder: Path, index: int) -> Path:
    return folder / f"{index}.device.json"


def _bound(folder: Path, index: int, suffix: str) -> Path:
    return folder / f"{index}.bound{suffix}"


def _row(job: _Row) -> tuple[bool, list[float]]:
    task, folder = job.source.open(), Path(job.folder)
    true = task.weights()
    bound = next(folder.glob(f"{job.index}.bound.*"))
    scores, identical = [], False
    for index in range(job.devices):
        key = _key(job.folder, index)
        if index == job.index:
            with unclone.restore(bound, key) as restored:
                found = weights_of(restored, true)
            identical = all(found[name].tobytes() == true[name].tobytes() for name in true)
        else:
            with force_open(bound, key) as forced:
                found = weights_of(forced, true)
        scores.append(task.score(found, limit=_MATRIX_SAMPLES))
    return identical, scores


@lru_cache(maxsize=256)
def _key(folder: str, index: int) -> DeviceKey:
    """The key of a simulated device, reconstructed once in a process."""
    return unclone.reconstruct(_record(Path(folder), index), _source(index))


def _clones(
    source: TaskSource, folder: str, clones: int, backend: str, workers: int, report: Report | None
) -> dict[str, list[float]]:
    parts: dict[int, dict[str, list[float]]] = {}
    jobs = [(start, min(_CLONES_OF_A_JOB, clones - start)) for start in range(0, clones, _CLONES_OF_A_JOB)]

    def keep(job: tuple[int, int], result: dict[str, list[float]]) -> None:
        parts[job[0]] = result
        if report:
            report(sum(len(part["clones"]) for part in parts.values()), clones, "clones")

    parallel(partial(_some_clones, source, folder), jobs, keep, backend=backend, workers=workers)
    return {name: [score for start, _ in jobs for score in parts[start][name]] for name in ("clones", "untrained")}


def _some_clones(source: TaskSource, folder: str, job: tuple[int, int]) -> dict[str, list[float]]:
    task = source.open()
    like = task.weights()
    bound = next(Path(folder).glob("0.bound.*"))
    scores, untrained = [], []
    for number in range(job[1]):
        with force_open(bound, DeviceKey(secrets.token_bytes(KEY_BYTES))) as forced:
            scores.append(task.score(weights_of(forced, like), limit=_SAMPLES))
        if task.trainable:
            untrained.append(task.score(task.initialise(job[0] + number), limit=_SAMPLES))
    return {"clones": scores, "untrained": untrained}
