"""Import and export, whole and broken off."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from fleet_data import RELEASE, MakeDevice, fill

from unclone.device_file import render_device, save_device
from unclone.errors import InputError, ParameterError, RecordAlteredError, RecordError, RegistryError
from unclone.fleet.exporting import export_registry
from unclone.fleet.importing import import_path, read_records
from unclone.fleet.queries import list_devices, list_measurements, statistics
from unclone.fleet.registry import Counts, Registry, open_registry
from unclone.fleet.rows import key_digest
from unclone.fleet.verify import verify_registry


@pytest.fixture
def other(tmp_path: Path) -> Registry:
    return open_registry(str(tmp_path / "other.db"), create=True)


def exported(registry: Registry, path: Path, form: str = "jsonl") -> Path:
    with path.open("wb") as stream:
        export_registry(registry, stream, form)
    return path


def content(registry: Registry) -> bytes:
    stream = io.BytesIO()
    export_registry(registry, stream)
    return stream.getvalue()


def test_an_export_makes_the_same_registry_again(fleet: Registry, other: Registry, tmp_path: Path) -> None:
    path = exported(fleet, tmp_path / "fleet.jsonl")
    done = import_path(other, path)
    assert {kind: counts.added for kind, counts in done.counts.items()} == {
        "device": 3,
        "model": 1,
        "release": 1,
        "licence": 2,
        "measurement": 1,
        "revocation": 1,
    }
    assert content(other) == path.read_bytes()
    assert import_path(other, path).total == Counts(unchanged=9)
    assert import_path(fleet, path).total == Counts(unchanged=9)
    verify_registry(other)


def test_another_registry_is_merged(fleet: Registry, other: Registry, make_device: MakeDevice) -> None:
    other.add_device(make_device(9))
    done = import_path(other, Path(str(fleet.engine.url.database)))
    assert done.total == Counts(added=9)
    assert statistics(other).devices == 4
    assert [row["margin_milli"] for row in list_measurements(other, list_devices(other, health="refresh")[0])] == [1400]
    verify_registry(other)


def test_csv_goes_out_and_in(fleet: Registry, other: Registry, make_device: MakeDevice, tmp_path: Path) -> None:
    fleet.add_device(make_device(4, "=HYPERLINK(A1)"))
    path = exported(fleet, tmp_path / "fleet.csv", "csv")
    with path.open(newline="") as stream:
        names = [row["name"] for row in csv.DictReader(stream)]
    assert names == ["press-0000", "press-0001", "press-0002", "'=HYPERLINK(A1)"]
    assert import_path(other, path).total == Counts(added=5)
    assert other.revoked(key_digest(make_device(1).public_key))
    assert list_devices(other, name="=")[0].name == "=HYPERLINK(A1)"
    for text in ("", "a,b\n1,2\n", "key,record\nx,{\n", "key,record\nx,{}\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(RecordError):
            import_path(other, tmp_path / "bad.csv")
    with pytest.raises(ParameterError, match="jsonl, csv"):
        export_registry(other, io.BytesIO(), "xml")


def test_a_folder_of_records(other: Registry, make_device: MakeDevice, tmp_path: Path) -> None:
    for number in range(3):
        save_device(make_device(number), tmp_path / f"{number}.json")
    (tmp_path / "notes.txt").write_text("no record")
    assert import_path(other, tmp_path).total == Counts(added=3)
    assert import_path(other, tmp_path / "1.json").total == Counts(unchanged=1)


def test_processes_parse_for_one_another(other: Registry, make_device: MakeDevice, tmp_path: Path) -> None:
    records = (json.dumps(json.loads(render_device(make_device(number)))) for number in range(300))
    (tmp_path / "many.jsonl").write_text("\n".join(records))
    assert import_path(other, tmp_path / "many.jsonl", workers=2).total == Counts(added=300)
    assert [row.name for row in list_devices(other, limit=3)] == ["press-0000", "press-0001", "press-0002"]


def test_what_came_before_a_bad_line_is_in_and_the_rest_follows(
    fleet: Registry, other: Registry, tmp_path: Path
) -> None:
    path = exported(fleet, tmp_path / "fleet.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"type":"device","record":{}}\n', *lines[2:]]))
    with pytest.raises(RecordError, match=r"fleet.jsonl:3: "):
        import_path(other, path, batch=1)
    verify_registry(other)
    done = import_path(other, path, skip_bad=True)
    assert done.skipped == 1
    assert "fleet.jsonl:3" in done.reasons[0]
    assert content(other) == content(fleet)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        '{"type":"secret"}',
        '{"type":"licence"}',
        '{"type":"model","name":1,"format":"onnx","digest":"","notes":"","added_at":0}',
        '{"type":"model","name":"m","format":"onnx","digest":"zz","notes":"","added_at":0}',
        '{"type":"model","name":"m","format":"onnx","digest":"","notes":"","added_at":0,"content_key":"00"}',
        '{"type":"model","name":"m","name":"m"}',
        '{"type":"revocation","kind":"device","key":"00","reason":""}',
        '{"type":"revocation","kind":"model","key":"00","reason":""}',
        '{"type":"measurement","key":"00","at":1,"health":"fine","error_rate_ppm":1,"margin_milli":1}',
        (
            '{"type":"release","file_id":"00","model":"m","format":"f","created":1,"vendor_hint":"","rekeys":"",'
            '"device":"","notes":""}'
        ),
        '{"type":"device","record":{"format":"unclone-device"}}',
        '{"format":"unclone-device","version":1}',
        '{"digest":"}',
        '{"type":"device","record":' * 50 + "}",
    ],
)
def test_lines_that_are_refused_change_nothing(other: Registry, tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"bad\.jsonl"):
        import_path(other, tmp_path / "bad.jsonl")
    assert other.head().seq == 0
    assert import_path(other, tmp_path / "bad.jsonl", skip_bad=True).skipped == 1


def test_an_altered_record_is_refused(other: Registry, make_device: MakeDevice, tmp_path: Path) -> None:
    text = render_device(make_device(1)).replace(b"press-0001", b"press-0002")
    (tmp_path / "device.json").write_bytes(text)
    with pytest.raises(RecordAlteredError, match=r"device\.json"):
        import_path(other, tmp_path / "device.json")
    with pytest.raises(RecordAlteredError, match=r"device\.json"):
        read_records([tmp_path / "device.json"])
    with pytest.raises(RecordError, match="cannot read"):
        import_path(other, tmp_path / "none.jsonl")


def test_a_damaged_record_is_not_exported(fleet: Registry) -> None:
    with fleet.engine.begin() as connection:
        connection.execute(sa.text("UPDATE records SET body = x'00' WHERE seq = 2"))
    with pytest.raises(RegistryError, match="fleet verify"):
        content(fleet)


def test_between_sqlite_and_postgresql(
    postgresql: object, other: Registry, make_device: MakeDevice, tmp_path: Path
) -> None:
    with open_registry(postgresql(), create=True) as team:  # type: ignore[operator]
        fill(team, make_device)
        path = exported(team, tmp_path / "team.jsonl")
        import_path(other, path)
        assert content(other) == content(team)
        assert team.release(RELEASE) is not None


def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    assert killed(tmp_path, 3, 300)["lost_or_doubled"] == 0


@pytest.mark.slow
def test_a_hundred_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    found = killed(tmp_path, 100, 2000)
    assert found["kills"] == 100
    assert found["interrupted"] >= 50
    assert found["lost_or_doubled"] == 0


def killed(folder: Path, kills: int, devices: int) -> dict[str, int]:
    import subprocess
    import sys

    tools = Path(__file__).parent.parent.parent / "tools" / "registry_kills.py"
    command = [sys.executable, str(tools), "--kills", str(kills), "--devices", str(devices), "--folder", str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, int] = json.loads(answer.stdout)
    return found
