"""The table of an evaluation: each attack with each number of labels, over seeds, against training without the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from unclone.lab.contracts import LABELLESS, Attack, Task
from unclone.lab.harness import run_jobs
from unclone.lab.jobs import BASELINE, Job, JobResult, TaskSource
from unclone.lab.registry import attack_named
from unclone.lab.statistics import compare

__all__ = ["PROFILES", "AttackRow", "Grid", "Profile"]


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


class Grid:
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
        """Every attack with every number of labels; ``running``: arguments of ``run_jobs``."""
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
