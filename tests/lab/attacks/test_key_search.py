"""Keys that can be tried out, and weights picked by gradient: what the literature's cheaper schemes are worth."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from unclone.errors import ParameterError
from unclone.lab.attacks import ATTACKS
from unclone.lab.attacks.key_search import order_in_lines
from unclone.lab.contracts import Locked, Task
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
    assert KEYS[0] == (1, 1, 1)
    moved = scrambled(grid, CatKey(1, 1, 1))
    assert moved[(2 + 3) % 8, (2 + 2 * 3) % 8] == grid[2, 3]  # Arnold: (x, y) -> (x + y, x + 2y)
    for shape in ((8, 8), (5, 17), (17, 5), (6, 2, 3, 3), (1, 9)):
        value = np.random.default_rng(1).normal(size=shape)
        for key in KEYS[::37]:
            assert np.array_equal(scrambled(scrambled(value, key), key, back=True), value)
            assert np.array_equal(np.sort(scrambled(value, key), axis=None), np.sort(value, axis=None))


def test_trained_matrices_are_more_ordered_than_scrambled_ones() -> None:
    true = _task().weights()["7.weight"]
    assert order_in_lines(true) > max(order_in_lines(scrambled(true, key)) for key in KEYS[7::61])


def test_the_keys_of_a_cat_map_are_found() -> None:
    assert _task().score(_locked("cat-map").weights) < 0.3
    outcome = ATTACKS["key-search"].run(_task(), _locked("cat-map"), labels=LABELS, seed=SEED, effort=1.0)
    assert outcome.score > 0.9
    assert outcome.score > _scratch()
    assert outcome.detail["keys_right"] >= 0.5


def test_a_key_of_256_bits_is_not_searched() -> None:
    with pytest.raises(ParameterError, match="cat-map"):
        ATTACKS["key-search"].run(_task(), _locked("unclone"), labels=LABELS, seed=SEED, effort=1.0)


@pytest.mark.parametrize("scheme", ["gradient-picked", "nnsplitter"])
def test_a_few_labels_undo_few_picked_weights(scheme: str) -> None:
    task, locked = _task(), _locked(scheme)
    true = task.weights()
    changed = sum(np.count_nonzero(value != true[name]) for name, value in locked.weights.items())
    assert changed < 0.06 * sum(value.size for value in true.values())
    assert task.score(locked.weights) < 0.3
    outcome = ATTACKS["fine-tune"].run(task, locked, labels=LABELS, seed=SEED, effort=1.0)
    assert outcome.score > _scratch() + 0.05
    assert SCHEMES[scheme].unlock(locked).keys() == true.keys()
    assert all(np.array_equal(value, true[name]) for name, value in SCHEMES[scheme].unlock(locked).items())


def test_values_within_the_range_do_not_stand_out() -> None:
    true, locked = _task().weights(), _locked("nnsplitter")
    assert all(value.min() >= true[name].min() and value.max() <= true[name].max()
               for name, value in locked.weights.items())  # fmt: skip
