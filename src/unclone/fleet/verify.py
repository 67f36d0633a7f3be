"""Holding a registry against its log: the chain, every row, every stored record, every tally.

What this finds without help: an event or a row that was altered, removed, added, or put back to an earlier state. What
needs a head kept elsewhere: a log cut at its end together with its rows, a whole registry put back to an earlier copy,
and a history rewritten from some event on, hashes and all, since there is no key in them. Without a head these cannot
be told from a registry to which nothing more has happened.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from unclone import canonical
from unclone.canonical import CanonicalError
from unclone.errors import RegistryError, RegistryTamperedError
from unclone.fleet.change import measurement_tallies, row_tallies, subject_of
from unclone.fleet.log import GENESIS, Head, event_hash, row_digest
from unclone.fleet.registry import Registry
from unclone.fleet.rows import device_tallies, unpack_record
from unclone.fleet.schema import BY_KIND, devices, events, machines, measurements, records, tallies

__all__ = ["Verified", "verify_registry"]

_CHUNK: Final = 5000
_BODY: Final = 0x40
_MEASURED: Final = 0x80
_CODES: Final = {kind: number for number, kind in enumerate(BY_KIND, 1)}


@dataclass(frozen=True, slots=True)
class Verified:
    """A registry that is what its log says: its head, and how many events and rows were checked."""

    head: Head
    events: int
    rows: dict[str, int]


class _FindingError(Exception):
    """Something is wrong with the row or event of number ``seq``."""

    def __init__(self, seq: int, text: str) -> None:
        super().__init__(text)
        self.seq = seq


def verify_registry(registry: Registry, *, head: Head | None = None) -> Verified:
    """Check everything, in one snapshot of the database.

    Args:
        registry: the registry.
        head: a head that was kept elsewhere; the log must contain it.

    Raises:
        RegistryTamperedError: something is not what the log says; names the first such row in the order of the log.
    """
    engine = registry.engine
    options = {} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with engine.connect().execution_options(**options) as connection, connection.begin():
        try:
            last, live = _check_chain(connection, head)
        except _FindingError as finding:
            raise RegistryTamperedError(str(finding)) from None
        findings, rows, counted = [], {}, Counter[tuple[str, str]]()
        checks = [(kind, _check_rows(connection, kind, live, counted)) for kind in BY_KIND]
        checks += [
            ("record", _check_records(connection, live)),
            ("measurement", _check_measurements(connection, live, counted)),
        ]
        for kind, check in checks:
            try:
                rows[kind] = sum(check)
            except _FindingError as finding:
                findings.append(finding)
        if not findings:
            findings += _missing(connection, live)
        if findings:
            raise RegistryTamperedError(str(min(findings, key=lambda finding: finding.seq)))
        _check_tallies(connection, counted)
    return Verified(last, last.seq, rows)


def _check_chain(connection: Connection, head: Head | None) -> tuple[Head, bytearray]:
    """The head, and for every event what must be there because of it: a row of a kind, a record, a measurement."""
    at, live = Head(0, GENESIS), bytearray(1)
    for event in _walk(connection, sa.select(events), events.c.seq):
        if event["seq"] != at.seq + 1:
            raise _FindingError(at.seq + 1, f"the log lacks event {at.seq + 1}")
        if event_hash(event, at.hash) != event["hash"]:
            raise _FindingError(event["seq"], f"event {event['seq']} ({event['action']} {event['kind']}) was altered")
        at = Head(event["seq"], event["hash"])
        old = event["supersedes"]
        live.append((_CODES.get(event["kind"], 0) if event["row"] else 0) | (_BODY if event["body"] else 0))
        if event["kind"] == "device" and event["action"] == "measure":
            live[-1] |= _MEASURED
        if old:
            if not old < event["seq"] or live[old] & ~(_BODY | _MEASURED) != _CODES.get(event["kind"], -1):
                raise _FindingError(event["seq"], f"event {event['seq']} supersedes an event that it cannot")
            live[old] &= _BODY | _MEASURED
        if head is not None and at.seq == head.seq and at.hash != head.hash:
            raise _FindingError(at.seq, f"event {at.seq} is not the one of the head given: the log was rewritten")
    if head is not None and at.seq < head.seq:
        raise _FindingError(
            at.seq, f"the log ends at event {at.seq}, the head given is event {head.seq}: it was cut or rolled back"
        )
    return at, live


def _check_rows(connection: Connection, kind: str, live: bytearray, counted: Counter[tuple[str, str]]) -> Iterator[int]:
    table = BY_KIND[kind]
    logged = [events.c.kind.label("_kind"), events.c.subject.label("_subject"), events.c.row.label("_row")]
    query = sa.select(table, *logged).select_from(table.outerjoin(events, events.c.seq == table.c.seq))
    for found in _walk(connection, query, table.c.seq):
        row = {name: value for name, value in found.items() if name[0] != "_"}
        what = f"{kind} {row.get('name') or row.get('model') or subject_of(kind, row).hex()[:16]!r}"
        seq = row["seq"]
        if found["_kind"] != kind:
            raise _FindingError(seq, f"{what}: no event of the log made this row")
        if live[seq] & ~(_BODY | _MEASURED) != _CODES[kind]:
            raise _FindingError(seq, f"{what} was put back to an earlier state")
        try:
            same = row_digest(row) == found["_row"] and subject_of(kind, row) == found["_subject"]
        except (CanonicalError, TypeError, AttributeError):
            same = False
        if not same:
            raise _FindingError(seq, f"{what} was altered after event {seq}")
        live[seq] &= _BODY | _MEASURED
        counted.update(device_tallies(row) if kind == "device" else row_tallies(kind, row))
        yield 1


def _check_records(connection: Connection, live: bytearray) -> Iterator[int]:
    joined = (
        records.outerjoin(events, events.c.seq == records.c.seq)
        .outerjoin(devices, devices.c.id == records.c.owner)
        .outerjoin(machines, machines.c.id == records.c.owner)
    )
    owner = sa.func.coalesce(devices.c.key, machines.c.key).label("_owner")
    query = sa.select(records, events.c.body.label("_body"), events.c.subject.label("_subject"), owner)
    for row in _walk(connection, query.select_from(joined), records.c.seq):
        seq = row["seq"]
        try:
            unpack_record(row["body"], row["digest"])
            same = row["digest"] == row["_body"] and row["_owner"] == row["_subject"]
        except (RegistryError, TypeError, zlib.error):
            same = False
        if not same:
            raise _FindingError(seq, f"the record of event {seq} was altered or belongs to another device")
        live[seq] &= ~_BODY & 0xFF
        yield 1


def _check_measurements(connection: Connection, live: bytearray, counted: Counter[tuple[str, str]]) -> Iterator[int]:
    joined = measurements.outerjoin(events, events.c.seq == measurements.c.seq).outerjoin(
        devices, devices.c.id == measurements.c.owner
    )
    query = sa.select(measurements, events.c.detail, events.c.subject, devices.c.key.label("_owner"))
    for row in _walk(connection, query.select_from(joined), measurements.c.seq):
        figures = {name: row[name] for name in ("at", "health", "error_rate_ppm", "margin_milli")}
        if canonical.encode(figures).decode("ascii") != row["detail"] or row["_owner"] != row["subject"]:
            raise _FindingError(row["seq"], f"the measurement of event {row['seq']} was altered")
        live[row["seq"]] &= ~_MEASURED & 0xFF
        counted.update(measurement_tallies(figures))
        yield 1


def _missing(connection: Connection, live: bytearray) -> list[_FindingError]:
    """The first row, record or measurement that an event made and that is not there."""
    seq = next((number for number, code in enumerate(live) if code), 0)
    if not seq:
        return []
    event = connection.execute(sa.select(events).where(events.c.seq == seq)).mappings().one()
    lost = "row" if live[seq] & ~(_BODY | _MEASURED) else "record" if live[seq] & _BODY else "measurement"
    return [
        _FindingError(seq, f"the {lost} of {event['kind']} {event['subject'].hex()[:16]} (event {seq}) was removed")
    ]


def _check_tallies(connection: Connection, counted: Counter[tuple[str, str]]) -> None:
    stored = {(facet, bucket): number for facet, bucket, number in connection.execute(sa.select(tallies)) if number}
    for pair in sorted(stored.keys() | {pair for pair, number in counted.items() if number}):
        if stored.get(pair, 0) != counted[pair]:
            raise RegistryTamperedError(
                f"the tally {pair[0]}/{pair[1]} says {stored.get(pair, 0)}, not {counted[pair]}"
            )


def _walk(connection: Connection, query: sa.Select[Any], key: sa.Column[int]) -> Iterator[dict[str, Any]]:
    """The rows of ``query`` by ascending ``key``, in chunks, so that memory stays small."""
    after = -(2**63)
    while True:
        rows = connection.execute(query.where(key > after).order_by(key).limit(_CHUNK)).mappings().all()
        for row in rows:
            yield dict(row)
        if len(rows) < _CHUNK:
            return
        after = rows[-1][key.name]
