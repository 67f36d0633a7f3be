"""``unclone fleet ...``: every verb, as text and as JSON, and what becomes of mistakes."""

from __future__ import annotations

import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fleet_data import MakeDevice

from unclone.cli.app import run
from unclone.device_file import load_device, save_device


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_device: MakeDevice) -> Path:
    """A working folder with a registry of two devices."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNCLONE_DB", raising=False)
    for number in range(2):
        save_device(make_device(number), tmp_path / f"{number}.json")
    assert run(["fleet", "init"]) == 0
    assert run(["fleet", "add", "0.json", "1.json"]) == 0
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["fleet", *arguments, "--json"]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_a_fleet_from_beginning_to_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(capsys, "init")["schema"] == "0001"
    assert asked(capsys, "add", "0.json") == {"added": 0, "updated": 0, "unchanged": 1}
    page = asked(capsys, "list", "--limit", "1")
    assert [row["name"] for row in page["devices"]] == ["press-0000"]
    rest = asked(capsys, "list", "--after", str(page["after"]))
    assert [row["name"] for row in rest["devices"]] == ["press-0001"]
    assert rest["after"] is None
    key = page["devices"][0]["key"]
    shown = asked(capsys, "show", key[:12], "-o", "copy.json")
    assert shown["name"] == "press-0000"
    assert load_device("copy.json") == load_device("0.json")
    assert asked(capsys, "revoke", "press-0000", "--reason", "stolen")["news"] is True
    assert asked(capsys, "list", "--state", "revoked")["devices"][0]["reason"] == "stolen"
    assert asked(capsys, "export", "-o", "all.jsonl")["lines"] == 3
    assert asked(capsys, "init", "--db", "second.db")["head"].startswith("0:")
    assert asked(capsys, "import", "all.jsonl", "--db", "second.db", "--workers", "1")["added"] == 3
    assert asked(capsys, "stats", "--db", "second.db")["facets"]["state"] == {"active": 1, "revoked": 1}
    assert asked(capsys, "verify", "--db", "second.db")["verified"] is True


def test_the_same_as_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["list"], ["show", "press-0001"], ["stats"], ["verify"], ["revoke", "press-0001"]):
        capsys.readouterr()
        assert run(["fleet", *arguments]) == 0
        assert capsys.readouterr().out.strip()
    assert run(["fleet", "export", "-o", "devices.csv", "--format", "csv"]) == 0
    assert run(["fleet", "import", "devices.csv"]) == 0
    assert run(["fleet", "list", "--name", "nobody"]) == 0
    assert "no device fits" in capsys.readouterr().out


def test_names_do_not_move_the_cursor(
    folder: Path, make_device: MakeDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    save_device(make_device(5, "a\x1b[2Jb\nc"), folder / "5.json")
    assert run(["fleet", "add", "5.json"]) == 0
    assert run(["fleet", "list"]) == 0
    assert run(["fleet", "show", "a\x1b[2Jb\nc"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_kept_head_finds_a_registry_that_was_put_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fleet", "verify", "--head-file", "head"]) == 0
    before = Path("fleet.db").read_bytes()
    assert run(["fleet", "revoke", "press-0000"]) == 0
    assert run(["fleet", "verify", "--head-file", "head"]) == 0
    for leftover in ("fleet.db-wal", "fleet.db-shm"):
        Path(leftover).unlink(missing_ok=True)
    Path("fleet.db").write_bytes(before)
    assert run(["fleet", "verify"]) == 0
    capsys.readouterr()
    assert run(["fleet", "verify", "--head-file", "head"]) == 4
    assert "cut or rolled back" in capsys.readouterr().err
    assert Path("head").read_text().startswith("3:")


def test_an_edited_row_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect("fleet.db") as connection:
        connection.execute("UPDATE devices SET error_rate_ppm = 1 WHERE name = 'press-0001'")
    connection.close()
    assert run(["fleet", "verify"]) == 4
    assert "'press-0001' was altered" in capsys.readouterr().err


def test_the_station_reads_serial_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("51\n\n../x\n51\n"))
    assert run(["fleet", "enroll", "--station", "--source", "sim:sram?seed={serial}"]) == 0
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[-3:]] == ["PASS", "FAIL", "DONE"]
    assert "2 passed, 1 failed" in captured.err
    assert run(["fleet", "enroll", "--serial", "51", "--source", "sim:sram?seed={serial}"]) == 0
    assert run(["fleet", "enroll", "--serial", "/", "--source", "sim:sram?seed={serial}"]) == 2
    assert run(["fleet", "enroll", "--source", "sim:sram?seed={serial}"]) == 2
    checked = asked(capsys, "health", "51", "--source", "sim:sram?seed=51")
    assert checked["health"] == "good"
    assert run(["fleet", "health", "51", "--source", "sim:sram?seed=52"]) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--db", "none.db"], "fleet init"),
        (["list", "--key", "xyz"], "hexadecimal"),
        (["list", "--limit", "0"], "a page has"),
        (["show", "nobody"], "no device"),
        (["show", "press"], "no device"),
        (["revoke", "'; DROP TABLE devices"], "no device or machine"),
        (["add", "none.json"], "cannot read"),
        (["add", "fleet.db"], "fleet.db"),
        (["import", "none"], "cannot read"),
        (["import", "0.json", "--backend", "spark"], "loky, dask, ray"),
        (["import", "0.json", "--backend", "ray", "--workers", "2"], "pip install ray"),
        (["export", "-o", "0.json"], "exists"),
        (["verify", "--head", "5"], "a head is"),
        (["serve", "--host", "0.0.0.0"], "--token-file"),
        (["serve", "--token-file", "0.json"], "longer than 1024"),
    ],
)
def test_mistakes_are_told(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert run(["fleet", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_address_may_stand_in_the_environment(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNCLONE_DB", str(folder / "elsewhere.db"))
    assert asked(capsys, "init")["registry"].endswith("elsewhere.db")
