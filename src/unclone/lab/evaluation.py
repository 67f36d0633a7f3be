"""``unclone evaluate``: every attack on a bound model, against training without it, and a verdict in one sentence."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from unclone._version import __version__
from unclone.errors import ParameterError
from unclone.lab.attacks import ATTACKS
from unclone.lab.contracts import LABELLESS, Attack, Task
from unclone.lab.fidelity import fidelity_experiment
from unclone.lab.harness import Report, run_jobs
from unclone.lab.jobs import BASELINE, Cache, Job, JobResult, TaskSource, experiment_key, run_job, task_digest
from unclone.lab.paper import paper_experiment
from unclone.lab.registry import attack_named, scheme_named
from unclone.lab.statistics import compare

__all__ = ["PROFILES", "AttackRow", "Evaluation", "Profile", "attack_once", "evaluate"]

_MOST_PADDED: Final = 1_000_000
_FRESH: Final = 1000
"""Added to a seed for the second look at an attack that seems to gain."""


@dataclass(frozen=True)
class Profile:
    """How much to run.

    Attributes:
        seeds: repetitions.
        labels: numbers of labels of the attacker.
        shares: further numbers, as shares of the training set.
        effort: multiplies the steps of training.
        devices: devices of the uniqueness matrix.
        clones: clones of the histogram.
        paper_seeds: repetitions of experiment 1.
    """

    seeds: int
    labels: tuple[int, ...]
    shares: tuple[float, ...]
    effort: float
    devices: int
    clones: int
    paper_seeds: int

    def label_counts(self, train_size: int) -> list[int]:
        """All numbers of labels, none above the training set."""
        wanted = [*self.labels, *(math.ceil(share * train_size) for share in self.shares)]
        return sorted({min(count, train_size) for count in wanted})


PROFILES: Final = {
    "quick": Profile(3, (50, 500), (), 0.4, 6, 60, 2),
    "standard": Profile(5, (50, 500), (0.1,), 1.0, 30, 1000, 5),
    "full": Profile(5, (50, 500), (0.01, 0.05, 0.1, 0.2, 0.5), 1.0, 100, 1000, 5),
}


@dataclass
class AttackRow:
    """One attack with one number of labels.

    Attributes:
        name: of the attack.
        needs: what the attacker has, see ``unclone.lab.contracts.Attack``.
        labels: labelled samples he has.
        accuracy: mean of the task's metric over the seeds; ``None`` where it was not run.
        baseline: mean without the file.
        spread: see ``unclone.lab.statistics.Comparison``.
        gain: ``accuracy - baseline``.
        verdict: ``"no gain"``, ``"gains"``, ``"bound"`` (an upper bound that no binding can lower), or ``"not run"``.
        cost: mean processor ``seconds`` and oracle ``queries``.
        scores: one for each seed.
        baselines: likewise.
        detail: means of the attack's own figures.
        reference: where it is published.
        published: the figure of the literature.
        reason: why it was not run.
        blank: mean of the same attack on a file that holds an untrained network; of rows that seemed to gain.
    """

    name: str
    needs: str
    labels: int
    accuracy: float | None
    baseline: float | None
    spread: float | None
    gain: float | None
    verdict: str
    cost: dict[str, float]
    scores: list[float] = field(default_factory=list)
    baselines: list[float] = field(default_factory=list)
    detail: dict[str, float] = field(default_factory=dict)
    reference: str = ""
    published: str = ""
    reason: str = ""
    blank: float | None = None


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
    grid = _Grid(source, task_digest(task), scheme, plan, task)
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


class _Grid:
    """The jobs of an evaluation, and rows made of their results."""

    def __init__(self, source: TaskSource, digest: str, scheme: str, plan: Profile, task: Task) -> None:
        self._source, self._digest, self._scheme, self._plan, self._task = source, digest, scheme, plan, task
        self._samples = 0 if task.metric == "mae" else len(task.test_data()[1])

    def _job(self, attack: str, labels: int, seed: int) -> Job:
        return Job(self._source, self._digest, self._scheme, attack, labels, seed, self._plan.effort)

    def _counts(self, attack: Attack) -> list[int]:
        """An attack without labels runs once for each seed."""
        return [0] if attack.needs in LABELLESS else self._plan.label_counts(self._task.train_size)

    def rows(self, chosen: Sequence[Attack], seeds: Sequence[int], running: dict[str, Any]) -> list[AttackRow]:
        pairs = [(attack, labels) for attack in chosen for labels in self._counts(attack)]
        results = self._run([(attack.name, labels) for attack, labels in pairs], seeds, running)
        return [self._row(attack, labels, seeds, results) for attack, labels in pairs]

    def confirm(self, doubtful: Sequence[AttackRow], seeds: Sequence[int], running: dict[str, Any]) -> None:
        """Look again at what seems to gain: with fresh seeds, since among many attacks some do by luck, and at what the
        attack makes of a file that holds nothing, since some start better than the baseline whatever is in the file.
        """
        results = self._run([(row.name, row.labels) for row in doubtful], seeds, running)
        blanks = run_jobs([self._blank(row, seed) for row in doubtful for seed in seeds], **running)
        for row in doubtful:
            fresh = self._row(attack_named(row.name), row.labels, seeds, results)
            row.scores += fresh.scores
            row.baselines += fresh.baselines
            pooled = compare(row.scores, row.baselines, samples=self._samples)
            row.accuracy, row.baseline, row.gain, row.spread = pooled.mean, pooled.baseline, pooled.gain, pooled.spread
            row.verdict = fresh.verdict
            found = [score for seed in seeds if (score := blanks[self._blank(row, seed)].score) is not None]
            if found:
                row.blank = float(np.mean(found))
                if not compare(row.scores, found, samples=self._samples).gains:
                    row.verdict = "no gain"

    def _blank(self, row: AttackRow, seed: int) -> Job:
        return replace(self._job(row.name, row.labels, seed), blank=True)

    def _run(
        self, pairs: Sequence[tuple[str, int]], seeds: Sequence[int], running: dict[str, Any]
    ) -> dict[Job, JobResult]:
        jobs = [self._job(BASELINE, labels, seed) for labels in sorted({count for _, count in pairs}) for seed in seeds]
        jobs += [self._job(name, labels, seed) for name, labels in pairs for seed in seeds]
        return run_jobs(jobs, **running)

    def _row(self, attack: Attack, labels: int, seeds: Sequence[int], results: dict[Job, JobResult]) -> AttackRow:
        mine = [results[self._job(attack.name, labels, seed)] for seed in seeds]
        row = AttackRow(
            attack.name, attack.needs, labels, None, None, None, None, "not run", {}, [], [], {},
            attack.reference, attack.published,
        )  # fmt: skip
        problems = [result.problem for result in mine if result.score is None]
        if problems:
            row.reason = problems[0]
            return row
        row.scores = [result.score for result in mine if result.score is not None]
        scratch = [results[self._job(BASELINE, labels, seed)].score for seed in seeds]
        if getattr(attack, "own_task", False):  # what trains from scratch on the victim's task is no measure
            scratch = [result.detail["baseline"] for result in mine]
        row.baselines = [
            max(own for own in (plain, result.detail.get("baseline")) if own is not None)
            for plain, result in zip(scratch, mine, strict=True)
        ]
        outcome = compare(row.scores, row.baselines, samples=self._samples)
        row.accuracy, row.baseline, row.gain, row.spread = outcome.mean, outcome.baseline, outcome.gain, outcome.spread
        row.verdict = "gains" if outcome.gains else "no gain"
        if getattr(attack, "upper_bound", False):
            row.verdict = "bound"
        row.cost = {
            "seconds": round(float(np.mean([result.seconds for result in mine])), 3),
            "queries": float(np.mean([result.queries for result in mine])),
        }
        names = set.intersection(*(set(result.detail) for result in mine))
        row.detail = {name: float(np.mean([result.detail[name] for result in mine])) for name in sorted(names)}
        return row


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
