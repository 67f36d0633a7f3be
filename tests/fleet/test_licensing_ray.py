"""Bulk licences and an evaluation through Ray, on a cluster of several processes here, one killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unclone import keys
from unclone.licence import load_licence, unseal
from unclone.records import DeviceKey

pytest.importorskip("sqlalchemy")
ray: Any = pytest.importorskip("ray")
from unclone.fleet.licensing import Plan, ReleaseKey, Target, licence_name, license_files  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning")]

RELEASE = ReleaseKey(bytes(range(16)), b"c" * 32)
DEVICES = 20_000


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def device_key(number: int) -> DeviceKey:
    return DeviceKey(number.to_bytes(32, "big"))


def workers_at_work() -> list[int]:
    """The processes of the pool that joblib has on Ray."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if words.startswith(b"ray::PoolActor"):
                found.append(int(entry.name))
    return found


@pytest.mark.timeout(600)
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    targets = [Target(keys.SUITE, keys.public_key(device_key(number))) for number in range(1, DEVICES + 1)]
    killed: list[int] = []

    def strike() -> None:
        while sum(1 for _ in os.scandir(tmp_path)) < DEVICES // 10 or not (victims := workers_at_work()):
            time.sleep(0.01)
        os.kill(victims[0], signal.SIGKILL)
        killed.append(victims[0])

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    plan = Plan(workers=2, backend="ray")
    try:
        first = license_files(RELEASE, targets, tmp_path, plan).issued
    except Exception:  # joblib's pool on Ray may give up with its worker; then the next run goes on
        first = len(list(tmp_path.iterdir()))
    thread.join(timeout=60)
    assert killed
    done = license_files(RELEASE, targets, tmp_path, plan)
    assert first + done.issued >= DEVICES
    assert done.issued + done.kept == DEVICES
    assert {path.name for path in tmp_path.iterdir()} == {licence_name(one.key, RELEASE.file_id) for one in targets}
    for number in range(1, DEVICES + 1, 997):
        path = tmp_path / licence_name(targets[number - 1].key, RELEASE.file_id)
        assert unseal(load_licence(path), device_key(number), RELEASE.file_id) == RELEASE.content_key


@pytest.mark.timeout(600)
def test_an_evaluation_gives_the_same_figures() -> None:
    pytest.importorskip("torch")
    from unclone.lab.evaluation import evaluate
    from unclone.lab.jobs import TaskSource

    names = ["use-as-is", "repair-zero", "fine-tune"]
    options: dict[str, Any] = {"profile": "quick", "names": names, "seeds": 2, "labels": [50], "workers": 2}
    # A scheme whose every draw comes from the seed: a binding has a fresh content key each time.
    here, there = (
        evaluate(TaskSource("digits"), scheme="paper-pad", backend=backend, **options) for backend in ("loky", "ray")
    )
    assert [row.scores for row in here.attacks] == [row.scores for row in there.attacks]
    assert [row.baselines for row in here.attacks] == [row.baselines for row in there.attacks]
