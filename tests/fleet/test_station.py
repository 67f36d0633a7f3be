"""The factory station: pass, fail with the reason, and going on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import unclone
from unclone.errors import OutputError, ParameterError
from unclone.fleet.importing import import_path
from unclone.fleet.queries import list_devices, list_events, list_measurements, statistics
from unclone.fleet.registry import Counts, Registry
from unclone.fleet.station import RegistryShelf, SpoolShelf, run_station, source_for
from unclone.fleet.verify import verify_registry

CHIPS = "sim:sram?seed={serial}"


def test_serial_numbers_pass_once(registry: Registry) -> None:
    shelf = RegistryShelf(registry)
    results = list(run_station(["11", "12", "11"], CHIPS, shelf))
    assert [result.outcome for result in results] == ["pass", "pass", "done"]
    assert results[0].key == results[2].key
    assert all(result.margin >= 1.5 for result in results[:2])
    again = list(run_station(["12", "13"], CHIPS, shelf))  # stopped and started
    assert [result.outcome for result in again] == ["done", "pass"]
    rows = list_devices(registry)
    assert [(row.name, row.health) for row in rows] == [("11", "good"), ("12", "good"), ("13", "good")]
    assert len(list_measurements(registry, rows[0])) == 1
    record = registry.record(rows[0].key)
    assert isinstance(record, unclone.Device)
    unclone.reconstruct(record, "sim:sram?seed=11").wipe()
    verify_registry(registry)


@pytest.mark.parametrize(
    ("serial", "template", "reason"),
    [
        ("../etc", CHIPS, "no serial number"),
        ("a/b", CHIPS, "no serial number"),
        ("7&noise=0.4", CHIPS, "no serial number"),
        ("", CHIPS, "no serial number"),
        ("x" * 65, CHIPS, "no serial number"),
        ("7", "sim:sram?seed={serial}&bias=0.95", "refused|bits"),
        ("7", "sim:sram?seed={serial}&noise=0.45", "noise|error|refused"),
        ("none", "file:/nowhere/{serial}.npy", "nowhere"),
    ],
)
def test_failures_say_why_and_leave_no_device(registry: Registry, serial: str, template: str, reason: str) -> None:
    (result,) = run_station([serial], template, RegistryShelf(registry))
    assert result.outcome == "fail"
    assert re.search(reason, result.reason), result.reason
    assert statistics(registry).devices == 0
    (event,) = list_events(registry)
    assert (event["action"], event["kind"]) == ("refuse", "station")


def test_a_key_of_the_hybrid_suite_fits_in(registry: Registry) -> None:
    (result,) = run_station(["61"], CHIPS, RegistryShelf(registry), suite="hybrid")
    assert result.outcome == "pass"
    (row,) = list_devices(registry)
    assert len(row.public_key) > 1000
    verify_registry(registry)
    (result,) = run_station(["62"], CHIPS, RegistryShelf(registry), suite="rot13")
    assert result.outcome == "fail"


def test_a_board_left_in_the_fixture_is_told(registry: Registry) -> None:
    # The same chip under another serial number: its seed, spelt otherwise.
    results = list(run_station(["21", "0021"], CHIPS, RegistryShelf(registry)))
    assert [result.outcome for result in results] == ["pass", "fail"]
    assert "still device" in results[1].reason


def test_too_little_margin_fails(registry: Registry) -> None:
    (result,) = run_station(["7"], CHIPS, RegistryShelf(registry), margin=50)
    assert result.outcome == "fail"
    assert "margin" in result.reason.lower()


def test_a_spool_is_merged_later(registry: Registry, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    shelf = SpoolShelf(spool)
    assert [result.outcome for result in run_station(["31", "32", "31"], CHIPS, shelf)] == ["pass", "pass", "done"]
    assert sorted(path.name for path in spool.iterdir()) == ["31.json", "32.json"]
    assert import_path(registry, spool).total == Counts(added=2)
    assert import_path(registry, spool).total == Counts(unchanged=2)
    with pytest.raises(OutputError):
        SpoolShelf(tmp_path / "none")


def test_a_template_without_a_serial_number_is_refused(registry: Registry) -> None:
    with pytest.raises(ParameterError, match="serial"):
        list(run_station(["1"], "sim:sram?seed=1", RegistryShelf(registry)))
    assert source_for("file:/line/{serial}.npy", "A-1.b_2") == "file:/line/A-1.b_2.npy"


def test_two_stations_do_not_enrol_one_serial_number_twice(registry: Registry) -> None:
    first, second = RegistryShelf(registry), RegistryShelf(registry)
    device = unclone.enroll("sim:sram?seed=41", name="41")
    report = unclone.health(device, "sim:sram?seed=41")
    again = unclone.enroll("sim:sram?seed=41", name="41")
    first.put(device, report)
    first.put(device, report)
    with pytest.raises(unclone.UncloneError, match="another station"):
        second.put(again, report)
    assert statistics(registry).devices == 1
