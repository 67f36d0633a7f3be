"""Tasks: committed victims, training that is repeatable and holds still what it must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unclone.errors import FormatError, InputError, ParameterError, UnsupportedError
from unclone.lab.contracts import KINDS, Task
from unclone.lab.data import MissingDataError
from unclone.lab.tasks import TASKS, open_task

SCORES = {
    "digits": 0.97,
    "digits-int8": 0.97,
    "mnist-dense": 0.94,
    "mnist-cnn": 0.97,
    "mnist-cnn-int8": 0.97,
    "cifar10-resnet": 0.58,
    "digits-rnn": 0.98,
    "reviews-rnn": 0.71,
    "turbofan": -0.1,
    "ccexam": 0.98,
    "fracast": -0.16,
    "fracast-int8": -0.16,
    "minilm-int8": 0.83,
}


@pytest.fixture(scope="module")
def digits() -> Task:
    return open_task("digits")


@pytest.mark.parametrize("name", [name for name in TASKS if name != "magika"])
def test_a_victim_is_as_good_as_it_was_when_committed(name: str) -> None:
    try:
        task = open_task(name)
    except MissingDataError as problem:
        pytest.skip(str(problem))
    weights = task.weights()
    assert isinstance(task, Task)
    assert set(task.layers) == set(weights)
    assert set(task.layers.values()) <= set(KINDS)
    assert task.score(weights, limit=1000) > SCORES[name]
    if task.trainable:
        assert task.score(task.initialise(0), limit=1000) < task.chance + 0.15
    else:
        with pytest.raises(UnsupportedError):
            task.initialise(0)


def test_a_forecaster_of_int8_codes_is_its_float_original_but_for_rounding() -> None:
    try:
        plain, quantised = open_task("fracast"), open_task("fracast-int8")
    except MissingDataError as problem:
        pytest.skip(str(problem))
    inputs = plain.test_data()[0]
    errors = plain.outputs(plain.weights(), inputs) - quantised.outputs(quantised.weights(), inputs)
    assert 0 < np.abs(errors).max() < 0.1
    weights = quantised.weights()
    trained = quantised.fit(quantised.initialise(0), 8, 0, effort=0.1)
    assert {value.dtype.name for value in weights.values()} == {"int8", "float32"}
    assert {name: (value.dtype, value.shape) for name, value in trained.items()} == {
        name: (value.dtype, value.shape) for name, value in weights.items()
    }


def test_files_hold_what_was_written(digits: Task, tmp_path: Path) -> None:
    weights = digits.weights()
    file = digits.model_file(weights, tmp_path / "victim")
    found = digits.read_file(file)
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in weights.items()
    }


def test_a_file_that_is_none_is_refused(digits: Task, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(FormatError):
        digits.read_file(tmp_path / "x.safetensors")


def test_training_repeats_itself_and_learns(digits: Task) -> None:
    start = digits.initialise(3)
    before = {name: value.copy() for name, value in start.items()}
    once, again = (digits.fit(start, 200, 3) for _ in range(2))
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert all(np.array_equal(start[name], before[name]) for name in start)
    assert digits.score(once) > 0.8
    assert not np.array_equal(digits.fit(start, 200, 4)["0.weight"], once["0.weight"])


def test_what_may_not_move_does_not(digits: Task) -> None:
    start = digits.weights()
    free = {name: np.zeros(value.shape, dtype=bool) for name, value in start.items()}
    free["0.weight"][0] = True
    trained = digits.fit(start, 50, 0, effort=0.2, free=free)
    moved = {name for name in start if not np.array_equal(trained[name], start[name])}
    assert moved == {"0.weight"}
    assert np.array_equal(trained["0.weight"][1:], start["0.weight"][1:])
    with pytest.raises(ParameterError, match="nothing may move"):
        digits.fit(start, 50, 0, free={name: np.zeros(value.shape, dtype=bool) for name, value in start.items()})


def test_training_starts_from_what_is_no_number(digits: Task) -> None:
    broken = {name: np.full_like(value, np.nan) for name, value in digits.weights().items()}
    broken["0.weight"][:] = np.inf
    trained = digits.fit(broken, 50, 0, effort=0.2)
    assert all(np.isfinite(value).all() for value in trained.values())


def test_soft_targets_teach(digits: Task) -> None:
    inputs, _ = digits.train_data()
    scores = digits.outputs(digits.weights(), inputs)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    student = digits.fit(digits.initialise(1), 0, 1, data=(inputs, shares / shares.sum(axis=1, keepdims=True)))
    assert digits.score(student) > 0.9


def test_missing_data_name_their_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNCLONE_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match=r"yann\.lecun\.com.*UNCLONE_DATA"):
        open_task("mnist-cnn")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mnist.npz").write_bytes(b"something else")
    with pytest.raises(MissingDataError, match="SHA-256"):
        open_task("mnist-cnn")


def test_a_task_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_task.py").write_text(
        "from unclone.lab.tasks import open_task\n\ndef task():\n    return open_task('digits')\n\nnothing = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert open_task("my_task:task").name == "digits"
    with pytest.raises(InputError, match="is no task"):
        open_task("my_task:nothing")
    with pytest.raises(ParameterError, match="cannot open"):
        open_task("my_task:missing")
    with pytest.raises(ParameterError, match="no task"):
        open_task("imagenet")
