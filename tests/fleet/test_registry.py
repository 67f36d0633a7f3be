"""The registry: what goes in, once, and what does not."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from fleet_data import RELEASE, MakeDevice, fill

import unclone
from unclone import machine as machines
from unclone.errors import ParameterError, RecordError, RegistryError
from unclone.fleet.queries import find_device, list_devices, statistics
from unclone.fleet.registry import Counts, Registry, open_registry
from unclone.fleet.rows import LicenceRow, ModelRow, ReleaseRow, key_digest
from unclone.fleet.schema import metadata
from unclone.fleet.verify import verify_registry

HOSTILE = [
    "'; DROP TABLE devices; --",
    '" OR 1=1 --',
    "%' UNION SELECT * FROM events --",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "name\nwith\x1b[2Jcontrols",
    "größe \U0001f600 \u202e",
    "%s %(x)s :name ?",
]


def test_the_same_content_twice_is_there_once(fleet: Registry, make_device: MakeDevice) -> None:
    head = fleet.head()
    fill_again = [
        fleet.add_devices(make_device(number) for number in range(3)),
        fleet.add_model(ModelRow("inspect", "onnx", notes="a note")),
        fleet.add_release(ReleaseRow(RELEASE, "inspect", "onnx", 1_790_000_000, notes="first")),
        fleet.add_licence(LicenceRow(RELEASE, key_digest(make_device(1).public_key), "licence text", 1_790_000_000)),
    ]
    assert fill_again == [Counts(unchanged=3), *[Counts(unchanged=1)] * 3]
    assert fleet.head() == head


def test_a_record_comes_back_as_it_went_in(registry: Registry, device: unclone.Device) -> None:
    registry.add_device(device)
    assert registry.record(key_digest(device.public_key)) == device


def test_a_refreshed_record_takes_the_place_of_the_old_one_for_good(registry: Registry, device: unclone.Device) -> None:
    new = unclone.refresh(device, "sim:sram?seed=7")
    assert registry.add_device(device) == Counts(added=1)
    assert registry.add_device(new) == Counts(updated=1)
    assert registry.add_device(device) == Counts(unchanged=1)
    assert registry.record(key_digest(device.public_key)) == new
    assert verify_registry(registry).rows["record"] == 2


def test_a_batch_may_hold_both_revisions_of_a_device(registry: Registry, device: unclone.Device) -> None:
    new = unclone.refresh(device, "sim:sram?seed=7")
    assert registry.add_devices([device, new, device]) == Counts(1, 1, 1)
    assert registry.record(key_digest(device.public_key)) == new
    verify_registry(registry)


def test_of_a_machine_the_latest_revision_stands(
    registry: Registry, device: unclone.Device, other_device: unclone.Device, make_device: MakeDevice
) -> None:
    machine = machines.enroll_machine({"a": device, "b": other_device}, need=2, name="cell")
    third = unclone.enroll("sim:sram?seed=9")
    sources = {"a": "sim:sram?seed=7", "b": "sim:sram?seed=8"}
    new = machines.replace_part(machine, sources, part="b", device=third)
    other = machines.replace_part(machine, sources, part="b", device=third)
    assert registry.add_machine(new) == Counts(added=1)
    assert registry.add_machine(machine) == Counts(unchanged=1)
    assert registry.record(key_digest(machine.public_key)) == new
    with pytest.raises(RegistryError, match="changed in two places"):
        registry.add_machine(other)
    verify_registry(registry)


def test_who_is_revoked_gets_no_licence_and_keeps_what_he_has(fleet: Registry, make_device: MakeDevice) -> None:
    key = key_digest(make_device(1).public_key)
    assert fleet.revoked(key)
    assert not fleet.revoke("device", key, "again")
    fleet.add_release(ReleaseRow(bytes(16), "inspect", "onnx", 1))
    with pytest.raises(RegistryError, match="revoked"):
        fleet.add_licence(LicenceRow(bytes(16), key, "text", 1))
    assert fleet.licence(RELEASE, key) is not None
    assert [row.name for rows in fleet.device_keys() for row in rows] == ["press-0000", "press-0002"]


def test_devices_without_a_licence(fleet: Registry) -> None:
    assert [row.name for rows in fleet.device_keys(unlicensed_for=RELEASE) for row in rows] == ["press-0002"]
    assert [len(rows) for rows in fleet.licences_of(RELEASE, batch=1)] == [1, 1]


@pytest.mark.parametrize("change", [{"device": bytes(32)}, {"release": b"x" * 16}, {"text": "another"}])
def test_licences_that_are_refused(fleet: Registry, make_device: MakeDevice, change: dict[str, object]) -> None:
    licence = LicenceRow(RELEASE, key_digest(make_device(0).public_key), "licence text", 1_790_000_000)
    head = fleet.head()
    with pytest.raises(RegistryError):
        fleet.add_licence(replace(licence, **change))  # type: ignore[arg-type]
    assert fleet.head() == head


def test_a_licence_is_replaced_on_demand(fleet: Registry, make_device: MakeDevice) -> None:
    key = key_digest(make_device(0).public_key)
    new = LicenceRow(RELEASE, key, "renewed", 1_790_000_001, not_after=1_900_000_000)
    assert fleet.add_licence(new, replace=True) == Counts(updated=1)
    found = fleet.licence(RELEASE, key)
    assert found is not None
    assert (found.text, found.not_after) == ("renewed", 1_900_000_000)
    verify_registry(fleet)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_kept_as_they_are(any_url: str, make_device: MakeDevice, text: str) -> None:
    with open_registry(any_url, create=True) as registry:
        fill(registry, make_device)
        registry.add_device(make_device(7, text))
        registry.add_model(ModelRow(text, text[:32], notes=text))
        registry.add_release(ReleaseRow(b"\1" * 16, text, text[:32], 1, notes=text))
        key = key_digest(make_device(7).public_key)
        registry.add_licence(LicenceRow(b"\1" * 16, key, text, 1))
        registry.record_event("note", "own", b"", {"text": text})
        assert find_device(registry, text).key == key
        assert [row.name for row in list_devices(registry, name=text)] == [text]
        assert list_devices(registry, state=text) == list_devices(registry, health=text) == []
        registry.revoke("device", key, text)
        model, licence = registry.model(text), registry.licence(b"\1" * 16, key)
        assert model is not None
        assert licence is not None
        assert (model.notes, licence.text) == (text, text)
        assert statistics(registry).devices == 4
        verify_registry(registry)


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 2000])
def test_texts_that_no_registry_takes(registry: Registry, make_device: MakeDevice, text: str) -> None:
    with pytest.raises(ParameterError):
        registry.add_model(ModelRow(text, "onnx"))
    with pytest.raises(RecordError):
        registry.add_device(make_device(1, text))
    assert registry.head().seq == 0


def test_no_secret_gets_in(registry: Registry, device: unclone.Device, key: unclone.DeviceKey) -> None:
    """What enters has passed the parser of records, which knows no member for a key."""
    from unclone.device_file import render_device
    from unclone.fleet.rows import pack_record

    value = json.loads(render_device(device))
    value["secret"] = bytes(key.secret).hex()
    with pytest.raises(unclone.UncloneError):
        pack_record("device", json.dumps(value).encode())
    with pytest.raises((unclone.UncloneError, AttributeError, TypeError)):
        registry.add_device(key)  # type: ignore[arg-type]
    registry.add_device(device)
    stored = Path(str(registry.engine.url.database)).read_bytes()
    assert bytes(key.secret) not in stored
    assert bytes(key.secret).hex().encode() not in stored
    names = {column.name for table in metadata.tables.values() for column in table.c}
    assert not {name for name in names if "secret" in name or "private" in name or "password" in name}


def test_an_error_in_the_middle_of_a_transaction_leaves_nothing(registry: Registry, make_device: MakeDevice) -> None:
    with pytest.raises(RegistryError), registry.writing() as writer:
        writer.add_model(ModelRow("m", "onnx"))
        writer.revoke("device", bytes(32), "")
    assert registry.model("m") is None
    assert registry.head().seq == 0


def test_registries_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="fleet init"):
        open_registry(str(tmp_path / "none.db"))
    (tmp_path / "text.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(RegistryError, match="cannot open"):
        open_registry(str(tmp_path / "text.db"), create=True)
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE things (id INTEGER)")
    other.close()
    with pytest.raises(RegistryError, match="something else"):
        open_registry(str(tmp_path / "other.db"), create=True)
    with pytest.raises(RegistryError, match="SQLite or PostgreSQL"):
        open_registry("mysql://root@localhost/x")
    with pytest.raises(RegistryError, match="cannot open") as refused:
        open_registry("postgresql://unclone:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in str(refused.value)


def test_the_migrations_make_the_tables_that_the_code_knows(any_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with open_registry(any_url, create=True) as registry, registry.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    open_registry(any_url, create=True).close()


def test_a_registry_of_a_newer_release_is_refused(fleet: Registry) -> None:
    with fleet.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RegistryError, match="upgrade unclone"):
        open_registry(str(fleet.engine.url.database))


WRITER = """
import sys
from dataclasses import replace
import numpy as np
import unclone
from unclone.fleet.registry import open_registry
device = unclone.load_device(sys.argv[2])
begin = int(sys.argv[3])
sys.stdin.readline()
with open_registry(sys.argv[1]) as registry:
    for number in range(begin, begin + 40):
        noise = np.random.default_rng(number).bytes(len(device.public_key))
        registry.add_device(replace(device, name=f"press-{number:04d}", public_key=noise))
"""


def test_two_stations_that_write_at_once_lose_nothing(any_url: str, tmp_path: Path, device: unclone.Device) -> None:
    unclone.save_device(device, tmp_path / "device.json")
    open_registry(any_url, create=True).close()
    # 0..39 and 20..59: half of what they bring is the same.
    arguments = [[sys.executable, "-c", WRITER, any_url, str(tmp_path / "device.json"), begin] for begin in ("0", "20")]
    writers = [subprocess.Popen(line, stdin=subprocess.PIPE, text=True) for line in arguments]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.close()
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    with open_registry(any_url) as registry:
        assert statistics(registry).devices == 60
        assert len(list_devices(registry, limit=100)) == 60
        assert verify_registry(registry).events == 60
