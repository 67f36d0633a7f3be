"""Bulk work: in order, on processes or a cluster, with nothing lost when a worker goes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from unclone.errors import ParameterError
from unclone.fleet.bulk import WINDOW, in_parallel


def doubled(number: int) -> int:
    return 2 * number


def test_results_come_in_the_order_of_the_items() -> None:
    for workers in (1, 2):
        assert list(in_parallel(doubled, range(50), workers=workers)) == [2 * number for number in range(50)]


def test_items_are_taken_as_they_are_needed() -> None:
    taken = []

    def items() -> object:
        for number in range(1000):
            taken.append(number)
            yield number

    results = in_parallel(doubled, items(), workers=2)  # type: ignore[arg-type]
    assert next(results) == 0
    assert len(taken) <= 2 * 2 * WINDOW  # two workers; one window under way, one behind it
    results.close()  # type: ignore[attr-defined]


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ParameterError, match="loky, dask, ray"):
        list(in_parallel(doubled, [1], backend="spark"))
    with pytest.raises(ParameterError, match="--workers"):
        list(in_parallel(doubled, [1], workers=-1))


class DieOnce:
    """Kills its worker the first time it works on ``victim``."""

    def __init__(self, victim: int, mark: Path) -> None:
        self.victim, self.mark = victim, mark

    def __call__(self, number: int) -> int:
        if number == self.victim and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * number


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the scheduler warns of what the test does
def test_a_dask_cluster_goes_on_when_a_worker_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    work = DieOnce(33, tmp_path / "dead")
    assert list(in_parallel(work, range(100), workers=3, backend="dask")) == [2 * number for number in range(100)]
    assert work.mark.exists()
