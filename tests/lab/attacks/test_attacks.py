"""Repair undoes few large changes; clear bits are used where there are any, and leave the distribution alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unclone.lab.attacks.repair import Repair
from unclone.lab.attacks.training import clear_bits_start
from unclone.lab.contracts import Locked, Weights
from unclone.lab.digits import forward, train_digits
from unclone.lab.schemes import SCHEMES


class _Digits:
    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        self._images, self._labels = train_digits(folder / "digits.safetensors")
        self.true: Weights = load_file(folder / "digits.safetensors")

    def score(self, weights: Weights, *, limit: int | None = None) -> float:
        outputs = np.nan_to_num(forward(weights, self._images[:limit]), nan=-np.inf)
        return float(np.mean(outputs.argmax(axis=1) == self._labels[:limit]))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> _Digits:
    return _Digits(tmp_path_factory.mktemp("digits"))


# Clipping leaves an outlier at five spreads, which a network this small still feels.
@pytest.mark.parametrize(("how", "loss"), [("clip", 0.2), ("zero", 0.05), ("median", 0.05)])
def test_repair_breaks_few_weights_and_not_unclone(task: _Digits, how: str, loss: float) -> None:
    attack = Repair("repair", how)
    weak = SCHEMES["few-weights"].lock(task.true, 1)
    assert task.score(weak.weights) < 0.5
    assert attack.run(task, weak, labels=0, seed=0, effort=1.0).score > task.score(task.true) - loss  # type: ignore[arg-type]
    strong = SCHEMES["unclone"].lock(task.true, 1)
    assert attack.run(task, strong, labels=0, seed=0, effort=1.0).score < 0.35  # type: ignore[arg-type]


def test_zeroing_what_is_implausible_breaks_the_pad(task: _Digits) -> None:
    pad = SCHEMES["paper-pad"].lock(task.true, 1)
    assert task.score(pad.weights) < 0.35
    repaired = Repair("repair", "zero").run(task, pad, labels=0, seed=0, effort=1.0)  # type: ignore[arg-type]
    assert repaired.score > 0.7


def test_clear_bits_rank_the_magnitudes() -> None:
    value = np.array([[8.0, 0.001], [1.0, 0.1]], dtype=np.float32)
    fresh = {"w": np.array([[-0.1, 0.4], [0.2, -0.3]], dtype=np.float32)}
    start = clear_bits_start(Locked({"w": value}, None, {"patterns": {"w": 0x807FFFFF}}), fresh)["w"]
    assert np.array_equal(start, np.array([[-0.4, 0.1], [0.3, -0.2]], dtype=np.float32))
    hidden = clear_bits_start(Locked({"w": value}, None, {"patterns": {"w": 0xFFFFFFFF}}), fresh)["w"]
    assert np.array_equal(hidden, fresh["w"])
