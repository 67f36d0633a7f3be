"""One run of the lab: a task, a scheme, an attack, so many labels, a seed. Pure data in, pure data out, cached."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from unclone._version import __version__
from unclone.errors import InputError, UncloneError
from unclone.lab.contracts import Locked, ModelScheme, Outcome, Scheme, Task, Weights
from unclone.lab.registry import attack_named, scheme_named
from unclone.lab.tasks import open_task

__all__ = [
    "BASELINE",
    "Cache",
    "Job",
    "JobResult",
    "TaskSource",
    "experiment_key",
    "locked_by",
    "run_job",
    "task_digest",
]

BASELINE: Final = "from-scratch"
"""Name of the job that trains without the file; of an attack without labels, an untrained network or a constant."""

_BLANK: Final = 5000
"""Added to a seed for the untrained network of a blank file: the baseline starts from that of the seed itself."""


@dataclass(frozen=True)
class TaskSource:
    """Where a task comes from, small enough to travel to another process.

    Attributes:
        name: for ``open_task``, or the path of an ONNX model.
        data: path of a ``.npz`` with inputs and labels, for an ONNX model.
        metric: for an ONNX model.
    """

    name: str
    data: str = ""
    metric: str = ""

    def open(self) -> Task:
        """The task; opened once in a process."""
        return _opened(self)


@lru_cache(maxsize=4)
def _opened(source: TaskSource) -> Task:
    if not source.data:
        return open_task(source.name)
    from unclone.lab.tasks.onnx_task import OnnxTask

    return OnnxTask(Path(source.name), Path(source.data), source.metric or "accuracy")


@dataclass(frozen=True)
class Job:
    """What is to run.

    Attributes:
        task: where the task comes from.
        digest: of the task's weights and test data (``task_digest``).
        scheme: a name in ``unclone.lab.schemes.SCHEMES``.
        attack: a name in ``unclone.lab.attacks.ATTACKS``, or ``BASELINE``.
        labels: labelled samples of the attacker.
        seed: of the device, the samples and the training.
        effort: multiplies the steps of training.
        blank: the file holds an untrained network in place of the victim, so nothing that is worth an attack.
    """

    task: TaskSource
    digest: str
    scheme: str
    attack: str
    labels: int
    seed: int
    effort: float
    blank: bool = False

    def key(self) -> str:
        """Digest of everything that the result depends on, the lab's own code included."""
        parts = {**asdict(self), "task": "", "version": __version__, "code": _code_digest()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass
class JobResult:
    """What came of it.

    Attributes:
        score: the task's metric; ``None`` where the attack does not apply.
        seconds: processor time.
        queries: questions to an oracle.
        detail: figures of the attack.
        problem: why it does not apply.
    """

    score: float | None
    seconds: float = 0.0
    queries: int = 0
    detail: dict[str, float] = field(default_factory=dict)
    problem: str = ""


class Cache:
    """Results on disk, by content: an interrupted run resumes where it was.

    Args:
        folder: where they lie; ``None`` for no cache.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, job: Job) -> JobResult | None:
        """The result of a job that ran before; a file that is damaged counts as none."""
        value = self.get_value(job.key())
        try:
            return None if value is None else JobResult(**value)
        except TypeError:
            return None

    def put(self, job: Job, result: JobResult) -> None:
        """Keep a result."""
        self.put_value(job.key(), asdict(result))

    def get_value(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key."""
        if self._folder is None:
            return None
        try:
            value = json.loads((self._folder / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def put_value(self, key: str, value: dict[str, Any]) -> None:
        """Keep JSON values under a key."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / f"{key}.json"
        temporary = target.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(value))
        temporary.replace(target)


def experiment_key(name: str, digest: str, *settings: Any) -> str:
    """Digest of everything that the figures of an experiment depend on."""
    parts = [name, digest, list(settings), __version__, _code_digest()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run_job(job: Job) -> JobResult:
    """Lock, attack, score. Runs in a worker process, on one thread.

    An attack that does not apply to the task or the scheme is a result with ``problem``, not an error.
    """
    task = job.task.open()
    start = time.process_time()
    if job.attack == BASELINE:
        score = baseline_score(task, job.labels, job.seed, job.effort)
        return JobResult(score, time.process_time() - start)
    try:
        scheme = scheme_named(job.scheme)
        if job.blank:
            locked = scheme.lock(task.initialise(job.seed + _BLANK), job.seed)
        else:
            locked = locked_by(scheme, task, job.seed)
        start = time.process_time()
        outcome: Outcome = attack_named(job.attack).run(
            task, locked, labels=job.labels, seed=job.seed, effort=job.effort
        )
    except InputError as problem:
        return JobResult(None, time.process_time() - start, problem=str(problem))
    except UncloneError as problem:
        return JobResult(None, time.process_time() - start, problem=f"{type(problem).__name__}: {problem}")
    detail = {name: float(value) for name, value in outcome.detail.items()}
    return JobResult(float(outcome.score), time.process_time() - start, outcome.queries, detail)


def locked_by(scheme: Scheme, task: Task, seed: int) -> Locked:
    """The task's true weights, locked."""
    return scheme.lock_model(task, seed) if isinstance(scheme, ModelScheme) else scheme.lock(task.weights(), seed)


def baseline_score(task: Task, labels: int, seed: int, effort: float) -> float:
    """What the same labels, seed and effort give without the file.

    Without labels that is the better of a constant answer and a network as it is initialised.
    """
    if not task.trainable:
        return task.chance
    start = task.initialise(seed)
    trained = task.fit(start, labels, seed, effort=effort) if labels else start
    return max(task.chance, task.score(trained))


def task_digest(task: Task) -> str:
    """Digest of the victim's weights, the test data and the size of the training data."""
    digest = hashlib.sha256(f"{task.name} {task.metric} {task.train_size}".encode())
    inputs, labels = task.test_data()
    _update(digest, {"inputs": np.asarray(inputs), "labels": np.asarray(labels)})
    _update(digest, task.weights())
    return digest.hexdigest()


def _update(digest: Any, arrays: Mapping[str, Any] | Weights) -> None:
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())


_JUDGING: Final = frozenset(["evaluation.py", "grid.py", "statistics.py", "report.py", "figures.py"])


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Of the lab's code, but for what only judges and draws."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(here.rglob("*.py")):
        if path.parent != here or path.name not in _JUDGING:
            digest.update(path.read_bytes())
    return digest.hexdigest()
