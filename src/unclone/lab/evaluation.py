"""``unclone evaluate``: every attack on a bound model, against training without it, and a verdict in one sentence."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from unclone._version import __version__
from unclone.errors import ParameterError
from unclone.lab.attacks import ATTACKS
from unclone.lab.contracts import LABELLESS, Task
from unclone.lab.fidelity import fidelity_experiment
from unclone.lab.grid import PROFILES, AttackRow, Grid, Profile
from unclone.lab.harness import Report
from unclone.lab.jobs import BASELINE, Cache, Job, TaskSource, experiment_key, run_job, task_digest
from unclone.lab.paper import paper_experiment
from unclone.lab.registry import attack_named, scheme_named

__all__ = ["PROFILES", "AttackRow", "Evaluation", "Profile", "attack_once", "evaluate"]

_MOST_PADDED: Final = 1_000_000
_FRESH: Final = 1000
"""Added to a seed for the second look at an attack that seems to gain."""


@dataclass
class Evaluation:
    """All of it; ``to_json`` is what ``--json`` prints and the report draws."""

    verdict: str
    protected: bool
    task: dict[str, Any]
    scheme: dict[str, str]
    profile: str
    seeds: list[int]
    attacks: list[AttackRow]
    experiments: dict[str, Any]
    versions: dict[str, str]
    command: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def evaluate(
    source: TaskSource,
    *,
    scheme: str = "unclone",
    profile: str = "standard",
    names: Iterable[str] | None = None,
    seeds: int | None = None,
    labels: Sequence[float] | None = None,
    cache: Path | None = None,
    backend: str = "loky",
    workers: int = -1,
    command: str = "",
    report: Report | None = None,
) -> Evaluation:
    """Evaluate a binding scheme on a task.

    Args:
        source: the task.
        scheme: a name in ``unclone.lab.schemes.SCHEMES``.
        profile: a name in ``PROFILES``.
        names: attacks alone, without the experiments; all of both by default.
        seeds: repetitions, in place of the profile's.
        labels: of the attacker, in place of the profile's: numbers, or below 1 shares of the training set.
        cache: folder of results, for runs that resume.
        backend: see ``unclone.lab.harness.run_jobs``.
        workers: likewise.
        command: the command line, for the report.
        report: progress.

    Raises:
        ParameterError: an unknown name.
        InputError: the task cannot be opened.
    """
    if profile not in PROFILES:
        raise ParameterError(f"profile is one of {', '.join(PROFILES)}, not {profile[:40]!r}")
    plan = PROFILES[profile]
    if labels is not None:
        plan = _with_labels(plan, labels)
    numbers = list(range(seeds or plan.seeds))
    chosen = [attack_named(name) for name in (names or ATTACKS)]
    binding = scheme_named(scheme)
    task = source.open()
    grid = Grid(source, task_digest(task), scheme, plan, task)
    running = {"cache": cache, "backend": backend, "workers": workers, "report": report}
    rows = grid.rows(chosen, numbers, running)
    doubtful = [row for row in rows if row.verdict == "gains"]
    if doubtful:
        grid.confirm(doubtful, [seed + _FRESH for seed in numbers], running)
    original = task.score(task.weights())
    experiments = {} if names else _experiments(source, task, scheme, plan, numbers, running)
    return Evaluation(
        verdict=_sentence(task, scheme, original, rows),
        protected=not any(row.verdict == "gains" for row in rows),
        task=_about(task, original),
        scheme={"name": scheme, "reference": binding.reference, "cost": binding.cost()},
        profile=profile,
        seeds=numbers,
        attacks=rows,
        experiments=experiments,
        versions=versions(),
        command=command,
    )


def _with_labels(plan: Profile, labels: Sequence[float]) -> Profile:
    if not labels or any(count <= 0 or (count > 1 and count != int(count)) for count in labels):
        raise ParameterError("labels are numbers, or shares of the training set below 1, all above 0")
    counts = tuple(int(count) for count in labels if count >= 1)
    return replace(plan, labels=counts, shares=tuple(share for share in labels if share < 1))


def attack_once(source: TaskSource, name: str, scheme: str, labels: int, seed: int, effort: float) -> dict[str, Any]:
    """One run of one attack, and its baseline.

    Returns:
        JSON values: ``attack``, ``scheme``, ``task``, ``accuracy``, ``baseline``, ``gain``, ``seconds``, ``queries``...

    Raises:
        ParameterError: an unknown name, or the attack does not apply.
    """
    chosen = attack_named(name)
    scheme_named(scheme)
    task = source.open()
    used = 0 if chosen.needs in LABELLESS else min(labels, task.train_size)
    job = Job(source, task_digest(task), scheme, name, used, seed, effort)
    outcome, baseline = run_job(job), run_job(replace(job, attack=BASELINE))
    if outcome.score is None or baseline.score is None:
        raise ParameterError(f"{name} does not apply to {task.name} under {scheme}: {outcome.problem}")
    own = outcome.detail.get("baseline", baseline.score)
    reference = own if getattr(chosen, "own_task", False) else max(baseline.score, own)
    return {
        "attack": name,
        "reference": chosen.reference,
        "published": chosen.published,
        "scheme": scheme,
        "task": task.name,
        "metric": task.metric,
        "labels": used,
        "seed": seed,
        "original": task.score(task.weights()),
        "accuracy": outcome.score,
        "baseline": reference,
        "gain": outcome.score - reference,
        "seconds": outcome.seconds,
        "queries": outcome.queries,
        "detail": outcome.detail,
    }


def _experiments(
    source: TaskSource, task: Task, scheme: str, plan: Profile, seeds: list[int], running: dict[str, Any]
) -> dict[str, Any]:
    """Experiment 1 (the paper's pad) and, for our own binding, experiment 2; kept in the cache like attacks."""
    store = Cache(running["cache"])
    settings = {name: running[name] for name in ("backend", "workers", "report")}
    floats = sum(value.size for value in task.weights().values() if np.issubdtype(value.dtype, np.floating))
    runs: dict[str, Callable[[], dict[str, Any]]] = {}
    found: dict[str, Any] = {}
    if 0 < floats <= _MOST_PADDED:
        runs["paper"] = partial(paper_experiment, source, seeds=seeds[: plan.paper_seeds], **settings)
    else:
        found["paper"] = {"reason": f"run on 1 to {_MOST_PADDED} floating-point weights, this model has {floats}"}
    if scheme == "unclone":
        runs["fidelity"] = partial(fidelity_experiment, source, devices=plan.devices, clones=plan.clones, **settings)
    for name, run in runs.items():
        key = experiment_key(name, task_digest(task), asdict(plan), seeds)
        found[name] = store.get_value(key) or run()
        store.put_value(key, found[name])
    return found


def _sentence(task: Task, scheme: str, original: float, rows: Sequence[AttackRow]) -> str:
    run = [row for row in rows if row.verdict in ("gains", "no gain")]
    missing = sum(row.verdict == "not run" for row in rows)
    left = f"; {missing} were not run" if missing else ""
    winners = [row for row in run if row.verdict == "gains"]
    if not run:
        return f"Nothing can be said of {task.name} under {scheme}: no attack was run."
    if not winners:
        return (
            f"Protected: none of {len(run)} attacks on {task.name} under {scheme} gains over training without the file "
            f"with the same labels{_unmatched(rows)}."
        )
    worst = max(winners, key=lambda row: row.gain or 0.0)
    names = ", ".join(sorted({row.name for row in winners}))
    return (
        f"Not protected: {len(winners)} of {len(run)} attacks on {task.name} under {scheme} gain over training without "
        f"the file ({names}); the largest gain is {worst.gain:+.3f} by {worst.name}, to {worst.accuracy:.3f} "
        f"of {original:.3f}{left}."
    )


def _unmatched(rows: Sequence[AttackRow]) -> str:
    missing = sorted({row.name for row in rows if row.verdict == "not run"})
    return f"; not run: {', '.join(missing)}" if missing else ""


def _about(task: Task, original: float) -> dict[str, Any]:
    weights = task.weights()
    return {
        "name": task.name,
        "metric": task.metric,
        "chance": task.chance,
        "original": original,
        "weights": int(sum(value.size for value in weights.values())),
        "bytes": int(sum(value.nbytes for value in weights.values())),
        "train_size": task.train_size,
        "test_size": len(task.test_data()[1]),
        "trainable": task.trainable,
    }


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    found = {"unclone": __version__, "python": platform.python_version()}
    for name in ("numpy", "torch", "onnxruntime", "cryptography", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
