"""The harness: what it caches, what it compares, what it says of a scheme that is weak and of one that is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unclone.errors import ParameterError, UnsupportedError
from unclone.lab import evaluation, grid, harness, jobs
from unclone.lab.contracts import Locked, Outcome, Task, Weights
from unclone.lab.evaluation import PROFILES, attack_once, evaluate
from unclone.lab.jobs import BASELINE, Cache, Job, JobResult, TaskSource, run_job, task_digest

DIGITS = TaskSource("digits")


class OpenBook:
    """A scheme that locks nothing but a tenth of the weights."""

    name, reference = "open-book", "nowhere"

    def lock(self, weights: Weights, seed: int) -> Locked:
        rng = np.random.default_rng(seed)
        locked = {name: np.where(rng.random(value.shape) < 0.1, -value, value) for name, value in weights.items()}
        return Locked(locked, weights)

    def unlock(self, locked: Locked) -> Weights:
        return dict(locked.secret)

    def cost(self) -> str:
        return "nothing"


class Noise(OpenBook):
    """A scheme that leaves noise of the scale of a fresh network."""

    name = "noise"

    def lock(self, weights: Weights, seed: int) -> Locked:
        rng = np.random.default_rng(seed + 77)
        fresh = {name: (0.1 * rng.standard_normal(value.shape)).astype(value.dtype) for name, value in weights.items()}
        return Locked(fresh, weights)


class FineTune:
    """Training from what the pirate holds."""

    name, reference, published, needs = "fine-tune", "here", "", "labels"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        trained = task.fit(locked.weights, labels, seed, effort=effort)
        return Outcome(task.score(trained), trained, detail={"labels": labels})


class Patient(FineTune):
    """An attack that needs no file: it trains three times as long as the baseline does."""

    name = "patient"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        trained = task.fit(task.initialise(seed), labels, seed, effort=30 * effort)
        return Outcome(task.score(trained), trained)


class Inapplicable(FineTune):
    """An attack that asks for what there is not."""

    name, needs = "inapplicable", "none"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        raise UnsupportedError("only for binary networks")


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    attacks = {item.name: item for item in (FineTune(), Patient(), Inapplicable())}
    schemes = {item.name: item for item in (OpenBook(), Noise())}
    for module in (evaluation, grid, jobs):
        monkeypatch.setattr(module, "attack_named", attacks.__getitem__)
    for module in (evaluation, jobs):
        monkeypatch.setattr(module, "scheme_named", schemes.__getitem__)
    small = replace(PROFILES["quick"], labels=(50,), effort=0.6)
    monkeypatch.setitem(PROFILES, "quick", small)


def run(scheme: str, **options: Any) -> Any:
    return evaluate(
        DIGITS, scheme=scheme, profile="quick", **{"names": ["fine-tune"], "backend": "sequential", **options}
    )


def test_a_scheme_that_leaves_nine_tenths_in_clear_is_found_out() -> None:
    result = run("open-book")
    row = result.attacks[0]
    assert not result.protected
    assert result.verdict.startswith("Not protected: 1 of 1 attacks")
    assert row.verdict == "gains"
    assert row.gain > row.spread > 0
    assert row.gain == pytest.approx(row.accuracy - row.baseline)
    assert len(row.scores) == len(row.baselines) == 2 * len(result.seeds)  # looked at again with fresh seeds


def test_a_scheme_that_leaves_nothing_passes() -> None:
    result = run("noise")
    assert result.protected
    assert result.verdict.startswith("Protected: none of 1 attacks")
    assert result.attacks[0].verdict == "no gain"


def test_luck_with_the_first_seeds_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def lucky(job: Job) -> JobResult:
        base = 0.5 + 0.01 * (job.seed % 3)
        return JobResult(base + (0.2 if job.attack != BASELINE and job.seed < 1000 else 0.0))

    monkeypatch.setattr(harness, "run_job", lucky)
    result = run("noise")
    assert result.attacks[0].verdict == "no gain"
    assert len(result.attacks[0].scores) == 6


def test_what_an_attack_makes_of_nothing_is_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], effort=0.02))
    row = run("open-book", names=["patient"]).attacks[0]
    assert row.gain > row.spread
    assert row.blank == pytest.approx(row.accuracy, abs=row.spread)
    assert row.verdict == "no gain"


def test_what_does_not_apply_is_told_and_not_counted() -> None:
    result = run("noise", names=["inapplicable"])
    assert result.attacks[0].verdict == "not run"
    assert "binary networks" in result.attacks[0].reason
    assert result.verdict.startswith("Nothing can be said")
    with pytest.raises(ParameterError, match="does not apply"):
        attack_once(DIGITS, "inapplicable", "noise", 50, 0, 1.0)


def test_an_interrupted_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Job] = []

    def counted(job: Job) -> JobResult:
        if len(ran) == 4:
            raise KeyboardInterrupt
        ran.append(job)
        return JobResult(0.5)

    monkeypatch.setattr(harness, "run_job", counted)
    with pytest.raises(KeyboardInterrupt):
        run("noise", cache=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 4
    first = list(ran)
    ran.clear()
    run("noise", cache=tmp_path)
    assert len(ran) == 2
    assert not set(ran) & set(first)


def test_the_cache_tells_apart_what_differs_and_survives_damage(tmp_path: Path) -> None:
    job = Job(DIGITS, "d", "noise", "fine-tune", 50, 0, 1.0)
    others = [
        replace(job, digest="e"),
        replace(job, scheme="open-book"),
        replace(job, attack=BASELINE),
        replace(job, labels=51),
        replace(job, seed=1),
        replace(job, effort=0.5),
    ]
    assert len({item.key() for item in [job, *others]}) == 7
    cache = Cache(tmp_path)
    cache.put(job, JobResult(0.25, 1.0, 3, {"a": 1.0}))
    assert cache.get(job) == JobResult(0.25, 1.0, 3, {"a": 1.0})
    for damage in (b"", b"[]", b'{"score": 1, "nonsense": 2}', b"\xff\xfe"):
        next(tmp_path.glob("*.json")).write_bytes(damage)
        assert cache.get(job) is None


def test_the_baseline_is_training_with_the_same_labels_and_seed() -> None:
    task = DIGITS.open()
    result = run_job(Job(DIGITS, task_digest(task), "noise", BASELINE, 50, 7, 0.5))
    assert result.score == task.score(task.fit(task.initialise(7), 50, 7, effort=0.5))
    untrained = run_job(Job(DIGITS, "", "noise", BASELINE, 0, 7, 0.5))
    assert untrained.score == max(task.chance, task.score(task.initialise(7)))


def test_the_digest_follows_the_weights() -> None:
    task = DIGITS.open()

    class Other:
        def __getattr__(self, name: str) -> Any:
            return getattr(task, name)

        def weights(self) -> Weights:
            weights = task.weights()
            weights["0.bias"][0] += 1
            return weights

    assert task_digest(Other()) != task_digest(task)  # type: ignore[arg-type]


def test_one_attack_run_by_hand_gives_the_same_figures() -> None:
    one = attack_once(DIGITS, "fine-tune", "open-book", 50, 0, 0.6)
    row = run("open-book").attacks[0]
    assert one["accuracy"] == row.scores[0]
    assert one["baseline"] == row.baselines[0]
    json.dumps(one)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ParameterError, match="profile"):
        evaluate(DIGITS, profile="leisurely")
    with pytest.raises(ParameterError, match="backend"):
        run("noise", backend="carrier-pigeon")
