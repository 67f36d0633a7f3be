"""Loaders need no chip: anything that yields 32 bytes stands in for one."""

from __future__ import annotations

import pytest

from unclone import keys
from unclone.records import Device, DeviceKey, EnrollmentReport, HelperData


@pytest.fixture(scope="session")
def key() -> DeviceKey:
    return DeviceKey(bytes(range(32)))


@pytest.fixture(scope="session")
def device(key: DeviceKey) -> Device:
    report = EnrollmentReport(1, 1, 500_000, 0, 0, 0, 0, 128, -9000)
    return Device("bench", "test", "none", keys.SUITE, keys.public_key(key), HelperData("none", {}), b"", report)


@pytest.fixture(scope="session")
def other_key() -> DeviceKey:
    return DeviceKey(bytes(32))
