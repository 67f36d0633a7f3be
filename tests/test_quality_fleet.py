"""Content that devices share is found, clean and biased fleets are not accused."""

from __future__ import annotations

import numpy as np
import pytest

from unclone.puf.simulated import SimulatedSRAM
from unclone.quality import Finding, assess, check_fleet


def fleet(first: int, devices: int, readings: int = 3, **options: float) -> dict[str, np.ndarray]:
    made = {}
    for seed in range(first, first + devices):
        source = SimulatedSRAM(seed, noise_seed=seed + 1, **options)  # type: ignore[arg-type]
        made[f"chip-{seed}"] = np.stack([source.evaluate() for _ in range(readings)])
    return made


def planted(devices: dict[str, np.ndarray], names: list[str], start: int, length: int) -> None:
    content = (np.random.default_rng(9).random(length) < 0.4).astype(np.uint8)
    for name in names:
        devices[name][:, start : start + length] = content


@pytest.mark.parametrize("bias", [0.2, 0.5, 0.68, 0.8])
@pytest.mark.parametrize("ber", [0.0, 0.06, 0.25])
@pytest.mark.parametrize("bits", [512, 2048, 8192])
def test_independent_devices_share_nothing(bias: float, ber: float, bits: int) -> None:
    assert check_fleet(fleet(100, 12, 2, bits=bits, ber=ber, bias=bias)) == []


@pytest.mark.parametrize(("length", "severity"), [(512, "warning"), (2048, "fatal")])
def test_content_at_the_same_address_is_found(length: int, severity: str) -> None:
    devices = fleet(1, 6)
    planted(devices, ["chip-2", "chip-5"], 4096, length)
    (found,) = check_fleet(devices)
    assert (found.code, found.severity, found.device) == ("shared_window", severity, "chip-5")
    assert found.figure == length / 16384
    assert "chip-2" in found.message
    assert "from cell 4096 on" in found.message


def test_content_of_the_whole_fleet_is_one_finding_a_device() -> None:
    devices = fleet(1, 8)
    planted(devices, list(devices), 0, 4096)
    found = check_fleet(devices)
    assert [(item.code, item.device) for item in found] == [("shared_window", f"chip-{i}") for i in range(2, 9)]
    assert "and with 6 more devices" in found[-1].message


def test_noisy_content_is_found_too() -> None:
    """A mask that makes cells start alike in two chips, each with noise of its own."""
    devices, twin = fleet(1, 3), fleet(40, 1, 6)["chip-40"]
    devices["chip-1"][:, 8192:12288] = twin[:3, 8192:12288]
    devices["chip-3"][:, 8192:12288] = twin[3:, 8192:12288]
    (found,) = check_fleet(devices)
    assert (found.code, found.severity, found.device, found.figure) == ("shared_window", "fatal", "chip-3", 0.25)


def test_one_device_twice_is_reported_once() -> None:
    source = SimulatedSRAM(3, noise_seed=5)
    readings = np.stack([source.evaluate() for _ in range(6)])
    found = check_fleet({"a": readings[:3], "b": readings[3:], **fleet(50, 2)})
    assert [item.code for item in found] == ["same_device"]


def test_the_report_holds_it() -> None:
    devices = fleet(1, 3)
    planted(devices, ["chip-1", "chip-3"], 0, 2048)
    shared: list[Finding] = [item for item in assess(devices).findings if item.code == "shared_window"]
    assert [item.device for item in shared] == ["chip-3"]
