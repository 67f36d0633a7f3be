"""A small registry, and as many records as a test wants."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fleet_data import MakeDevice, fill

from unclone.fleet.registry import Registry, open_registry
from unclone.records import Device

POSTGRES = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="session")
def make_device(device: Device) -> MakeDevice:
    """Records of devices that nobody has: the sample's with another name and a public key of noise."""

    def make(number: int, name: str | None = None) -> Device:
        noise = np.random.default_rng(number).bytes(len(device.public_key))
        return replace(device, name=f"press-{number:04d}" if name is None else name, public_key=noise)

    return make


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with open_registry(str(tmp_path / "fleet.db"), create=True) as opened:
        yield opened


@pytest.fixture
def fleet(registry: Registry, make_device: MakeDevice) -> Registry:
    """Three devices, a model, a release, two licences, a measurement, and one device revoked."""
    fill(registry, make_device)
    return registry


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """A PostgreSQL server of our own; gives addresses of empty databases."""
    if not POSTGRES.is_dir() or (os.geteuid() == 0 and shutil.which("runuser") is None):
        pytest.skip(f"no PostgreSQL 15 in {POSTGRES}")
    # Under /tmp, for a socket's path has 107 characters and the server's user must be able to walk there.
    folder = Path(tempfile.mkdtemp(prefix="unclone-pg-", dir="/tmp"))
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres")
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/tmp"}
    data, options = str(folder / "data"), f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    subprocess.run([*user, str(POSTGRES / "initdb"), "-D", data, "-A", "trust", "-U", "unclone"], **quiet)
    subprocess.run(
        [*user, str(POSTGRES / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start"], **quiet
    )
    made = 0

    def database() -> str:
        nonlocal made
        made += 1
        subprocess.run([str(POSTGRES / "createdb"), "-h", str(folder), "-U", "unclone", f"fleet{made}"], **quiet)
        return f"postgresql://unclone@/fleet{made}?host={folder}"

    yield database
    subprocess.run([*user, str(POSTGRES / "pg_ctl"), "-D", data, "-m", "immediate", "stop"], **quiet)
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty registry, of either kind."""
    if request.param == "sqlite":
        return str(tmp_path / "any.db")
    database: Callable[[], str] = request.getfixturevalue("postgresql")
    return database()
