"""An altered registry is found, whatever was altered, and the first altered row is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fleet_data import RELEASE, MakeDevice, fill

from unclone.errors import ParameterError, RegistryTamperedError
from unclone.fleet.log import Head, parse_head
from unclone.fleet.registry import Registry, open_registry
from unclone.fleet.rows import LicenceRow, key_digest
from unclone.fleet.schema import metadata
from unclone.fleet.verify import verify_registry

COLUMNS = [
    (table.name, column.name)
    for table in metadata.sorted_tables
    for column in table.c
    if (table.name, column.name) != ("tallies", "facet") and table.name != "machines"
]


def other_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:] if value else b"\1"
    return value + 7919 if isinstance(value, int) else value + "x"


def alter(registry: Registry, table: str, column: str) -> None:
    """Change one field of one row."""
    found = metadata.tables[table]
    with registry.engine.begin() as connection:
        rows = connection.execute(sa.select(found)).mappings().all()
        row = rows[len(rows) // 2]
        keys = [key == row[key.name] for key in found.primary_key]
        connection.execute(sa.update(found).where(*keys).values({column: other_value(row[column])}))


def test_what_was_not_altered_is_verified(fleet: Registry) -> None:
    found = verify_registry(fleet)
    assert found.rows == {
        "device": 3,
        "machine": 0,
        "model": 1,
        "release": 1,
        "licence": 2,
        "record": 3,
        "measurement": 1,
    }
    assert found.head == fleet.head()
    verify_registry(fleet, head=found.head)


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda value: value)
def test_every_altered_field_is_found(fleet: Registry, table: str, column: str) -> None:
    alter(fleet, table, column)
    with pytest.raises(RegistryTamperedError):
        verify_registry(fleet)


@pytest.mark.parametrize("table", sorted({table for table, _ in COLUMNS}))
def test_every_removed_row_is_found(fleet: Registry, table: str) -> None:
    found = metadata.tables[table]
    with fleet.engine.connect() as connection:
        rows = connection.execute(sa.select(found)).mappings().all()
    for row in rows[:-1] if table == "events" else rows:  # a log cut at its end: see below
        keys = [key == row[key.name] for key in found.primary_key]
        with fleet.engine.begin() as connection:
            connection.execute(sa.delete(found).where(*keys))
        with pytest.raises(RegistryTamperedError):
            verify_registry(fleet)
        with fleet.engine.begin() as connection:
            connection.execute(sa.insert(found), [dict(row)])
    verify_registry(fleet)


def test_the_first_altered_row_is_named(fleet: Registry) -> None:
    with fleet.engine.begin() as connection:
        connection.execute(sa.text("UPDATE devices SET source = 'x' WHERE name IN ('press-0000', 'press-0002')"))
        connection.execute(sa.text("UPDATE models SET notes = 'x'"))
    with pytest.raises(RegistryTamperedError, match="'press-0002' was altered after event 3"):
        verify_registry(fleet)  # of the two, press-0000 was set later: by its measurement


def test_a_row_put_back_to_an_earlier_state_is_found(fleet: Registry, make_device: MakeDevice) -> None:
    device = metadata.tables["devices"]
    at = device.c.key == key_digest(make_device(2).public_key)
    with fleet.engine.connect() as connection:
        before = dict(connection.execute(sa.select(device).where(at)).mappings().one())
    fleet.revoke("device", before["key"], "stolen")
    with fleet.engine.begin() as connection:
        connection.execute(sa.update(device).where(at).values(before))
    with pytest.raises(RegistryTamperedError, match="'press-0002' was put back to an earlier state"):
        verify_registry(fleet)


def test_a_row_that_no_event_made_is_found(fleet: Registry) -> None:
    with fleet.engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO models SELECT 99, 99, 'forged', format, digest, notes, added_at FROM models")
        )
    with pytest.raises(RegistryTamperedError, match=r"forged.*no event"):
        verify_registry(fleet)


def test_records_that_changed_places_are_found(fleet: Registry) -> None:
    with fleet.engine.begin() as connection:
        connection.execute(sa.text("UPDATE records SET owner = CASE owner WHEN 1 THEN 2 WHEN 2 THEN 1 ELSE owner END"))
    with pytest.raises(RegistryTamperedError, match="another device"):
        verify_registry(fleet)


def test_a_log_cut_with_its_rows_is_found_with_a_head_alone(fleet: Registry, make_device: MakeDevice) -> None:
    head = fleet.head()
    fleet.add_licence(LicenceRow(RELEASE, key_digest(make_device(2).public_key), "last", 1_790_000_000))
    with fleet.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM licences WHERE text = 'last'"))
        connection.execute(sa.text(f"DELETE FROM events WHERE seq > {head.seq}"))
        connection.execute(sa.text("UPDATE tallies SET number = number - 1 WHERE facet = 'licences'"))
    verify_registry(fleet, head=head)  # as the documents say: without the later head this is a registry at rest
    with pytest.raises(RegistryTamperedError, match="cut or rolled back"):
        verify_registry(fleet, head=Head(head.seq + 1, bytes(32)))


def test_a_registry_put_back_to_an_earlier_copy_is_found_with_its_head(tmp_path: Path, make_device: MakeDevice) -> None:
    path = tmp_path / "fleet.db"
    with open_registry(str(path), create=True) as registry:
        registry.add_device(make_device(1))
    shutil.copy(path, tmp_path / "copy.db")
    with open_registry(str(path)) as registry:
        registry.revoke("device", key_digest(make_device(1).public_key), "stolen")
        head = verify_registry(registry).head
    shutil.copy(tmp_path / "copy.db", path)
    with open_registry(str(path)) as registry:
        verify_registry(registry)
        with pytest.raises(RegistryTamperedError, match="ends at event 1, the head given is event 2"):
            verify_registry(registry, head=head)
        registry.add_device(make_device(2))  # goes on from the old copy, past the head's number
        with pytest.raises(RegistryTamperedError, match="was rewritten"):
            verify_registry(registry, head=head)


def test_a_head_comes_back_from_its_text(fleet: Registry) -> None:
    assert parse_head(f"{fleet.head()}\n") == fleet.head()
    for text in ("", "5", "5:", "x:00", "-1:" + "00" * 32, "5:" + "00" * 31):
        with pytest.raises(ParameterError):
            parse_head(text)


def test_postgresql_is_verified_and_its_altered_rows_are_found(postgresql: Any, make_device: MakeDevice) -> None:
    with open_registry(postgresql(), create=True) as registry:
        fill(registry, make_device)
        verify_registry(registry)
        with registry.engine.begin() as connection:
            connection.execute(sa.text("UPDATE licences SET text = 'forged'"))
        with pytest.raises(RegistryTamperedError, match="licence"):
            verify_registry(registry)
