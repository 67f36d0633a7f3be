"""What people ask a registry: lists in pages, searches, and figures of the whole fleet.

Pages go by keyset: a page says after which row it begins, so the thousandth costs what the first does. Figures come
from the tallies, which every change keeps up to date, so they cost the same for ten devices and for ten million.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from unclone.errors import ParameterError, RegistryError
from unclone.fleet.registry import Registry
from unclone.fleet.rows import DeviceRow, LicenceRow, ReleaseRow
from unclone.fleet.schema import devices, events, licences, machines, measurements, releases, tallies

__all__ = [
    "PAGE",
    "Statistics",
    "find_device",
    "find_key",
    "list_devices",
    "list_events",
    "list_licences",
    "list_measurements",
    "list_releases",
    "statistics",
]

PAGE: Final = 50
_PAGE_LIMIT: Final = 10_000
_HEX: Final = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True, slots=True)
class Statistics:
    """The tallies by facet: ``{"state": {"active": 3}, ...}``; buckets without any are left out."""

    facets: dict[str, dict[str, int]]

    def get(self, facet: str) -> dict[str, int]:
        """The buckets of a facet."""
        return self.facets.get(facet, {})

    @property
    def devices(self) -> int:
        """Devices in the registry."""
        return self.get("devices").get("all", 0)


def statistics(registry: Registry) -> Statistics:
    """The figures of the whole fleet."""
    facets: dict[str, dict[str, int]] = {}
    query = sa.select(tallies).where(tallies.c.number != 0).order_by(tallies.c.facet, tallies.c.bucket)
    with registry.reading() as connection:
        for facet, bucket, number in connection.execute(query):
            facets.setdefault(facet, {})[bucket] = number
    return Statistics(facets)


def list_devices(
    registry: Registry,
    *,
    name: str = "",
    key: str = "",
    state: str = "",
    health: str = "",
    after: int = 0,
    limit: int = PAGE,
) -> list[DeviceRow]:
    """A page of devices.

    Args:
        registry: the registry.
        name: how their names begin; the page is in the order of names then.
        key: how the hexadecimal SHA-256 of their public keys begins; the page is in the order of keys then.
        state: ``"active"`` or ``"revoked"``; empty for both.
        health: ``"unknown"``, ``"good"``, ``"refresh"`` or ``"late"``; empty for all.
        after: ``id`` of the last device of the page before, 0 for the first page.
        limit: devices on a page, 1 to 10,000.

    Raises:
        ParameterError: ``limit`` is out of range, or ``key`` is not hexadecimal.
    """
    if not 1 <= limit <= _PAGE_LIMIT:
        raise ParameterError(f"a page has 1 to {_PAGE_LIMIT:,} rows, not {limit}")
    if not _is_text(name):
        return []
    query = sa.select(devices)
    order: list[sa.Column[Any]] = [devices.c.id]
    if key:
        low, high = _key_range(key)
        query, order = query.where(devices.c.key.between(low, high)), [devices.c.key]
    elif name:
        # U+10FFFF sorts above every character, in UTF-8 as well.
        query, order = (
            query.where(devices.c.name >= name, devices.c.name < name + "\U0010ffff"),
            [devices.c.name, *order],
        )
    if state:
        query = query.where(devices.c.state == state)
    if health:
        query = query.where(devices.c.health == health)
    with registry.reading() as connection:
        if after:
            last = connection.execute(sa.select(*order).where(devices.c.id == after)).first()
            if last is None:
                return []
            query = query.where(sa.tuple_(*order) > sa.tuple_(*last) if len(order) > 1 else order[0] > last[0])
        return [DeviceRow(**row) for row in connection.execute(query.order_by(*order).limit(limit)).mappings()]


def _is_text(text: str) -> bool:
    """Whether a name could be in a registry: what comes from a command line or an address need not be Unicode."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _key_range(prefix: str) -> tuple[bytes, bytes]:
    if not _HEX.fullmatch(prefix := prefix.lower()):
        raise ParameterError(f"{prefix[:70]!r} is not how a key digest begins: 1 to 64 hexadecimal digits")
    return bytes.fromhex(prefix.ljust(64, "0")), bytes.fromhex(prefix.ljust(64, "f"))


def find_device(registry: Registry, text: str) -> DeviceRow:
    """The one device of that name, or whose key digest begins so (8 hexadecimal digits at least).

    Raises:
        RegistryError: there is none, or more than one.
    """
    _, key = find_key(registry, text, ("device",))
    row = registry.device(key)
    if row is None:
        raise RegistryError(f"device {text[:80]!r} has gone from this registry")
    return row


def find_key(registry: Registry, text: str, kinds: tuple[str, ...] = ("device", "machine")) -> tuple[str, bytes]:
    """Kind and key digest of the one device or machine of that name, or whose key digest begins so.

    Raises:
        RegistryError: there is none, or more than one.
    """
    found: dict[bytes, str] = {}
    with registry.reading() as connection:
        for kind, table in (("device", devices), ("machine", machines)):
            if kind not in kinds:
                continue
            conditions = [table.c.name == text] if text and _is_text(text) else []
            if len(text) >= 8 and _HEX.fullmatch(text.lower()):
                conditions.append(table.c.key.between(*_key_range(text)))
            for condition in conditions:
                for row in connection.execute(sa.select(table.c.key).where(condition).limit(2)):
                    found[row.key] = kind
    if not found:
        raise RegistryError(f"no {' or '.join(kinds)} {text[:80]!r} in this registry (name, or 8 digits of its key)")
    if len(found) > 1:
        raise RegistryError(f"{text[:80]!r} fits more than one; give more digits of its key: 'unclone fleet list'")
    key, kind = found.popitem()
    return kind, key


def list_releases(registry: Registry, *, after: int = 0, limit: int = PAGE) -> list[tuple[ReleaseRow, int]]:
    """A page of releases, newest first, each with the number of its licences up to 1,000."""
    query = sa.select(releases).order_by(releases.c.id.desc()).limit(limit)
    if after:
        query = query.where(releases.c.id < after)
    with registry.reading() as connection:
        rows = [ReleaseRow(**row) for row in connection.execute(query).mappings()]
        counted = []
        for row in rows:
            some = sa.select(licences.c.id).where(licences.c.release == row.file_id).limit(1000).subquery()
            counted.append((row, connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()))
        return counted


def list_licences(
    registry: Registry, *, release: bytes = b"", device: bytes = b"", after: int = 0, limit: int = PAGE
) -> list[LicenceRow]:
    """A page of licences: of a device or all in the order of issue, of a release in the order of key digests."""
    query = sa.select(licences).limit(limit)
    if device:
        query = query.where(licences.c.device == device)
    with registry.reading() as connection:
        if release:
            query = query.where(licences.c.release == release).order_by(licences.c.device)
            last = connection.execute(sa.select(licences.c.device).where(licences.c.id == after)).scalar()
            query = query.where(licences.c.device > last) if last is not None else query
        else:
            query = query.where(licences.c.id > after).order_by(licences.c.id)
        return [LicenceRow(**row) for row in connection.execute(query).mappings()]


def list_measurements(registry: Registry, device: DeviceRow, limit: int = 200) -> list[dict[str, Any]]:
    """What health checks of a device found, the newest first."""
    query = sa.select(measurements).where(measurements.c.owner == device.id).order_by(measurements.c.seq.desc())
    with registry.reading() as connection:
        return [dict(row) for row in connection.execute(query.limit(limit)).mappings()]


def list_events(registry: Registry, *, before: int = 0, limit: int = PAGE) -> list[dict[str, Any]]:
    """A page of the log, the newest event first."""
    query = sa.select(events).order_by(events.c.seq.desc()).limit(limit)
    if before:
        query = query.where(events.c.seq < before)
    with registry.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
