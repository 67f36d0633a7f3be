"""Keys that can be tried out, and weights picked by gradient: what the literature's cheaper schemes are worth."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from unclone.lab.attacks import ATTACKS
from unclone.lab.attacks.key_search import key_order
from unclone.lab.contracts import Locked, Task, Weights
from unclone.lab.jobs import baseline_score, locked_by
from unclone.lab.schemes import SCHEMES
from unclone.lab.schemes.cat_map import KEYS, CatKey, scrambled
from unclone.lab.tasks import open_task

LABELS, SEED = 60, 5


@lru_cache(maxsize=1)
def _task() -> Task:
    return open_task("digits")


@lru_cache(maxsize=8)
def _locked(scheme: str) -> Locked:
    return locked_by(SCHEMES[scheme], _task(), SEED)


@lru_cache(maxsize=1)
def _scratch() -> float:
    return baseline_score(_task(), LABELS, SEED, 1.0)


def test_the_map_is_a_permutation_and_its_published_key_a_known_one() -> None:
    grid = np.arange(64.0).reshape(8, 8)
    assert CatKey(3, 1, 1) in KEYS
    moved = scrambled(grid, CatKey(1, 1, 1))
    assert moved[(2 + 3) % 8, (2 + 2 * 3) % 8] == grid[2, 3]  # Arnold: (x, y) -> (x + y, x + 2y)
    for shape in ((8, 8), (5, 17), (17, 5), (6, 2, 3, 3), (1, 9)):
        value = np.random.default_rng(1).normal(size=shape)
        for key in KEYS[::3701]:
            assert np.array_equal(scrambled(scrambled(value, key), key, back=True), value)
            assert np.array_equal(np.sort(scrambled(value, key), axis=None), np.sort(value, axis=None))


def test_rounds_are_one_matrix() -> None:
    once, twice = scrambled(np.arange(64.0).reshape(8, 8), CatKey(1, 3, 5)), CatKey(2, 3, 5)
    assert np.array_equal(scrambled(once, CatKey(1, 3, 5)), scrambled(np.arange(64.0).reshape(8, 8), twice))
    for key in KEYS[::997]:
        (a, b), (c, d) = key.matrix(48).tolist()
        assert (a * d - b * c) % 48 == 1


def test_lines_of_trained_matrices_give_the_key_away_without_data() -> None:
    true, locked = _task().weights(), _locked("cat-map")
    best = key_order(locked.weights)[0]
    assert _opened(locked.weights, best) == {name: value.tobytes() for name, value in true.items()}
    rng = np.random.default_rng(1)
    noise = {name: rng.permutation(value.reshape(-1)).reshape(value.shape) for name, value in locked.weights.items()}
    assert _opened(locked.weights, key_order(noise)[0]) != {name: value.tobytes() for name, value in true.items()}


def _opened(weights: Weights, key: CatKey) -> dict[str, bytes]:
    return {
        name: (scrambled(value, key, back=True) if value.ndim > 1 else value).tobytes()
        for name, value in weights.items()
    }


def test_the_key_of_a_cat_map_is_found() -> None:
    assert _task().score(_locked("cat-map").weights) < 0.3
    outcome = ATTACKS["key-search"].run(_task(), _locked("cat-map"), labels=LABELS, seed=SEED, effort=0.2)
    assert outcome.score == _task().score(_task().weights())
    assert outcome.score > _scratch()
    assert outcome.detail["found"] == 1
    assert outcome.queries == 20


@pytest.mark.parametrize("scheme", ["unclone", "unclone-all"])
def test_a_key_of_256_bits_is_not_found(scheme: str) -> None:
    outcome = ATTACKS["key-search"].run(_task(), _locked(scheme), labels=LABELS, seed=SEED, effort=1.0)
    assert outcome.detail["found"] == 0
    assert outcome.score < 0.35


@pytest.mark.parametrize("scheme", ["gradient-picked", "nnsplitter"])
def test_a_few_labels_undo_few_picked_weights(scheme: str) -> None:
    task, locked = _task(), _locked(scheme)
    true = task.weights()
    changed = sum(np.count_nonzero(value != true[name]) for name, value in locked.weights.items())
    assert 0 < changed < 0.02 * sum(value.size for value in true.values())
    assert task.score(locked.weights) < 0.2
    outcome = ATTACKS["fine-tune"].run(task, locked, labels=LABELS, seed=SEED, effort=1.0)
    assert outcome.score > _scratch() + 0.05
    assert SCHEMES[scheme].unlock(locked).keys() == true.keys()
    assert all(np.array_equal(value, true[name]) for name, value in SCHEMES[scheme].unlock(locked).items())


def test_values_within_the_range_do_not_stand_out() -> None:
    true, locked = _task().weights(), _locked("nnsplitter")
    assert all(value.min() >= true[name].min() and value.max() <= true[name].max()
               for name, value in locked.weights.items())  # fmt: skip


@pytest.mark.parametrize("scheme", ["unclone", "unclone-all"])
def test_fine_tuning_from_a_file_bound_whole_is_no_help(scheme: str) -> None:
    outcome = ATTACKS["fine-tune"].run(_task(), _locked(scheme), labels=LABELS, seed=SEED, effort=1.0)
    assert outcome.score <= _scratch()
