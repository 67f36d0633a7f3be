"""Bulk licences on a real Dask cluster of several processes, one killed in the middle; and killed runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unclone import keys
from unclone.licence import load_licence, unseal
from unclone.records import Device, DeviceKey, EnrollmentReport, HelperData

pytest.importorskip("sqlalchemy")
from unclone.fleet.licensing import Plan, ReleaseKey, Target, licence_name, license_files, license_registry
from unclone.fleet.registry import open_registry
from unclone.fleet.rows import ReleaseRow

distributed = pytest.importorskip("distributed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning")]  # of Dask, and of a dying worker

RELEASE = ReleaseKey(bytes(range(16)), b"c" * 32)
REPORT = EnrollmentReport(5, 8192, 500_000, 60_000, 1, 1, 1, 128, -9000)
DEVICES = 30_000


def device_key(number: int) -> DeviceKey:
    return DeviceKey(number.to_bytes(32, "big"))


def target(number: int) -> Target:
    return Target(keys.SUITE, keys.public_key(device_key(number)))


@pytest.fixture
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None) as started:
        yield started


def pids(cluster: Any) -> list[int]:
    return [int(worker.pid) for worker in cluster.workers.values()]


def kill_a_worker(cluster: Any, when: Any) -> threading.Thread:
    """A thread that ends one worker process, as soon as ``when()`` says that the work is in full swing."""
    victim = pids(cluster)[0]

    def strike() -> None:
        while not when():
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    return thread


def check_each(folder: Path, targets: list[Target]) -> None:
    names = {licence_name(one.key, RELEASE.file_id) for one in targets}
    assert {path.name for path in folder.iterdir()} == names
    for number in range(1, len(targets) + 1, 997):
        path = folder / licence_name(targets[number - 1].key, RELEASE.file_id)
        assert unseal(load_licence(path), device_key(number), RELEASE.file_id) == RELEASE.content_key


@pytest.mark.timeout(600)
def test_a_killed_worker_loses_nothing_of_the_files(cluster: Any, tmp_path: Path) -> None:
    targets = [target(number) for number in range(1, DEVICES + 1)]
    before = pids(cluster)
    thread = kill_a_worker(cluster, lambda: sum(1 for _ in os.scandir(tmp_path)) > DEVICES // 10)
    plan = Plan(workers=3, backend="dask", scheduler=cluster.scheduler_address)
    assert license_files(RELEASE, targets, tmp_path, plan).issued == DEVICES
    thread.join(1)
    assert not thread.is_alive()
    assert pids(cluster) != before, "the worker was not killed while there was work"
    check_each(tmp_path, targets)


@pytest.mark.timeout(600)
def test_a_killed_worker_doubles_nothing_in_the_registry(cluster: Any, tmp_path: Path) -> None:
    from unclone.fleet.verify import verify_registry

    count = DEVICES // 3
    with open_registry(str(tmp_path / "fleet.db"), create=True) as registry:
        registry.add_devices(
            Device(str(number), "puf", "", keys.SUITE, one.public_key, HelperData("none", {}), bytes(48), REPORT)
            for number, one in ((number, target(number)) for number in range(1, count + 1))
        )
        registry.add_release(ReleaseRow(RELEASE.file_id, "model", "onnx", 0))
        before = pids(cluster)
        thread = kill_a_worker(cluster, lambda: any(registry.licences_of(RELEASE.file_id, 1)))
        plan = Plan(workers=3, backend="dask", scheduler=cluster.scheduler_address)
        assert license_registry(RELEASE, registry, None, plan).issued == count
        thread.join(1)
        assert not thread.is_alive()
        assert pids(cluster) != before, "the worker was not killed while there was work"
        rows = [row for batch in registry.licences_of(RELEASE.file_id) for row in batch]
        assert len({row.device for row in rows}) == len(rows) == count
        assert license_registry(RELEASE, registry, None, plan).issued == 0
        verify_registry(registry)


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_licensing_cluster as test
targets = [test.target(number) for number in range(1, 4001)]
test.license_files(test.RELEASE, targets, Path(sys.argv[2]), test.Plan(workers=2))
"""


@pytest.mark.timeout(600)
def test_a_killed_run_is_started_again(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent), str(tmp_path)]
    for stop in (500, 1500, 3000):
        with subprocess.Popen(command, start_new_session=True) as process:
            while process.poll() is None and sum(1 for _ in os.scandir(tmp_path)) < stop:
                time.sleep(0.005)
            os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(command, check=True, timeout=300)
    check_each(tmp_path, [target(number) for number in range(1, 4001)])
