"""One write transaction of a registry: rows, their events and the tallies, together or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from unclone.errors import ParameterError, RegistryError
from unclone.fleet.change import (
    Change,
    Counts,
    check_texts,
    measurement_tallies,
    shown,
    subject_of,
)
from unclone.fleet.engine import insert_rows
from unclone.fleet.rows import ACTIVE, HEALTH, REVOKED, LicenceRow, ModelRow, Packed, ReleaseRow
from unclone.fleet.schema import BY_KIND, devices, measurements, records

__all__ = ["Counts", "Writer"]


class Writer(Change):
    """Changes within one transaction. ``flush`` comes last."""

    # -- records ---------------------------------------------------------------------------------------------------

    def add_records(self, kind: str, packed: Sequence[Packed]) -> Counts:
        """Add or update devices or machines; a record that was ever current changes nothing: old files do no harm."""
        table = BY_KIND[kind]
        known = self._known(table, table.c.key, [item.key for item in packed])
        new: dict[bytes, dict[str, Any]] = {}
        changed: dict[bytes, dict[str, Any]] = {}
        bodies: list[dict[str, Any]] = []
        counts = Counter[str]()
        for item in packed:
            old = known.get(item.key)
            if old is not None and not self._is_news(kind, item, old, bodies):
                counts["unchanged"] += 1
                continue
            seq = self.log.next
            row = {
                **(old or self._blank(kind, seq)),
                **item.columns,
                "key": item.key,
                "record": item.digest,
                "seq": seq,
            }
            self.log.append(
                "add" if old is None else "update",
                kind,
                item.key,
                row=row,
                body=item.digest,
                supersedes=old["seq"] if old else 0,
            )
            bodies.append({"seq": seq, "owner": row["id"], "digest": item.digest, "body": item.body})
            self._count(kind, old, row)
            known[item.key] = row
            counts["added" if old is None else "updated"] += 1
            (new if old is None or item.key in new else changed)[item.key] = row
        if new:
            insert_rows(self._connection, table, new.values())
        for row in changed.values():
            self._connection.execute(sa.update(table).where(table.c.id == row["id"]).values(row))
        if bodies:
            insert_rows(self._connection, records, bodies)
        return Counts(counts["added"], counts["updated"], counts["unchanged"])

    def _is_news(self, kind: str, item: Packed, old: Mapping[str, Any], pending: list[dict[str, Any]]) -> bool:
        if old["record"] == item.digest:
            return False
        if kind == "machine":
            if item.columns["revision"] == old["revision"]:
                raise RegistryError(
                    f"machine {old['name']!r}: two different records of revision {old['revision']}; "
                    "its parts were changed in two places"
                )
            return bool(item.columns["revision"] > old["revision"])
        if any(body["owner"] == old["id"] and body["digest"] == item.digest for body in pending):
            return False
        seen = sa.select(records.c.seq).where(records.c.owner == old["id"], records.c.digest == item.digest)
        return self._connection.execute(seen).first() is None

    def _blank(self, kind: str, seq: int) -> dict[str, Any]:
        row: dict[str, Any] = {"id": seq, "added_at": self.log.now, "state": ACTIVE, "reason": ""}
        return {**row, "health": "unknown", "margin_milli": 0, "measured_at": 0} if kind == "device" else row

    def names_taken(self, names: Sequence[str]) -> set[bytes]:
        """Keys of the devices that have one of these names; read inside the transaction, so it stays true."""
        query = sa.select(devices.c.key).where(devices.c.name.in_(names))
        return set(self._connection.execute(query).scalars())

    # -- models, releases, licences --------------------------------------------------------------------------------

    def add_model(self, model: ModelRow) -> Counts:
        """Add a model, or change its format, digest or notes."""
        row = asdict(model)
        row["added_at"] = model.added_at or self.log.now
        return self._put("model", [row], lambda table: table.c.name, lambda row: row["name"], replace=True)

    def add_releases(self, releases: Iterable[ReleaseRow]) -> Counts:
        """Add releases.

        Raises:
            RegistryError: a file id that is known stands for something else.
        """
        rows = [asdict(release) for release in releases]
        for row in rows:
            if len(row["file_id"]) != 16 or len(row["rekeys"]) not in (0, 16) or len(row["device"]) not in (0, 32):
                raise ParameterError("a release has a file id of 16 bytes, and a device digest of 32 or none")
        return self._put("release", rows, lambda table: table.c.file_id, lambda row: row["file_id"], replace=False)

    def add_licences(self, licences: Iterable[LicenceRow], *, replace: bool) -> Counts:
        """Add licences, one for each release and device.

        Raises:
            RegistryError: release or device is unknown or revoked, or there is another licence and not ``replace``.
        """
        rows = [asdict(licence) for licence in licences]
        check = self._licensable(rows)
        total = Counts()
        by_release: dict[bytes, list[dict[str, Any]]] = {}
        for row in rows:
            by_release.setdefault(row["release"], []).append(row)
        for release, group in by_release.items():
            total += self._put(
                "licence",
                group,
                lambda table: table.c.device,
                lambda row: row["device"],
                replace=replace,
                within=release,
                check=check,
            )
        return total

    def _licensable(self, rows: Sequence[Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], None]:
        """A check of one licence, for those that would be news: what is there already stays."""
        devices_, machines_, releases_ = (BY_KIND[kind] for kind in ("device", "machine", "release"))
        keys = [row["device"] for row in rows]
        holders = self._known(devices_, devices_.c.key, keys)
        if len(holders) < len(set(keys)):
            holders |= self._known(machines_, machines_.c.key, keys)
        files = self._known(releases_, releases_.c.file_id, [row["release"] for row in rows])

        def check(row: Mapping[str, Any]) -> None:
            for what, found, key in (("device", holders, row["device"]), ("release", files, row["release"])):
                if key not in found:
                    raise RegistryError(f"no {what} {key.hex()[:16]} in this registry")
                if found[key]["state"] == REVOKED:
                    raise RegistryError(f"{what} {key.hex()[:16]} is revoked: no licence")

        return check

    def _put(
        self,
        kind: str,
        rows: Sequence[dict[str, Any]],
        column: Callable[[sa.Table], sa.Column[Any]],
        natural: Callable[[Mapping[str, Any]], Any],
        *,
        replace: bool,
        within: bytes | None = None,
        check: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Counts:
        """Insert rows that are not there, leave equal ones, and replace or refuse different ones."""
        table = BY_KIND[kind]
        for row in rows:
            check_texts(table, row)
        condition = None if within is None else table.c.release == within
        known = self._known(table, column(table), [natural(row) for row in rows], condition)
        own = {"id", "seq", "state", "reason", "added_at"}
        new: dict[Any, dict[str, Any]] = {}
        counts = Counter[str]()
        for row in rows:
            key = natural(row)
            old = known.get(key)
            if old is not None and all(old[name] == row[name] for name in row.keys() - own):
                counts["unchanged"] += 1
                continue
            if old is not None and not replace:
                raise RegistryError(f"{kind} {shown(key)} is in this registry already, with another content")
            if check is not None:
                check(row)
            seq = self.log.next
            kept = {name: old[name] for name in own & old.keys()} if old else {"id": seq}
            row = {**row, **kept, "seq": seq}
            self.log.append(
                "add" if old is None else "update",
                kind,
                subject_of(kind, row),
                row=row,
                supersedes=old["seq"] if old else 0,
            )
            self._count(kind, old, row)
            known[key] = row
            counts["added" if old is None else "updated"] += 1
            if old is None or key in new:
                new[key] = row
            else:
                self._connection.execute(sa.update(table).where(table.c.id == row["id"]).values(row))
        if new:
            insert_rows(self._connection, table, new.values())
        return Counts(counts["added"], counts["updated"], counts["unchanged"])

    # -- changes of single rows ------------------------------------------------------------------------------------

    def revoke(self, kind: str, key: Any, reason: str) -> bool:
        """Revoke a device, machine, release or licence for good; whether it was not revoked before.

        Args:
            kind: ``"device"``, ``"machine"``, ``"release"`` or ``"licence"``.
            key: key digest, file id, or (file id, key digest).
            reason: why, at most 256 characters.

        Raises:
            RegistryError: there is no such row.
        """
        if len(reason) > 256 or "\0" in reason:
            raise ParameterError("a reason has at most 256 characters, none of them NUL")
        table, old = self._one(kind, key)
        if old["state"] == REVOKED:
            return False
        row = {**old, "state": REVOKED, "reason": reason, "seq": self.log.next}
        detail = {"reason": reason} if reason else None
        self.log.append("revoke", kind, subject_of(kind, row), row=row, supersedes=old["seq"], detail=detail)
        self._count(kind, old, row)
        self._connection.execute(sa.update(table).where(table.c.id == row["id"]).values(row))
        return True

    def measure(self, key: bytes, *, health: str, error_rate_ppm: int, margin_milli: int, at: int) -> bool:
        """Note what a health check of a device found; whether it was not noted before.

        Raises:
            RegistryError: there is no such device.
        """
        if health not in HEALTH or not 0 <= error_rate_ppm <= 10**6 or not 0 <= margin_milli < 2**31:
            raise ParameterError("health is good, refresh or late, with a rate of 0 to 1 and a margin of 0 or more")
        if not 0 <= at <= 2**36:
            raise ParameterError("the time of a measurement is given in seconds since 1970")
        _, old = self._one("device", key)
        found = {"at": at, "health": health, "error_rate_ppm": error_rate_ppm, "margin_milli": margin_milli}
        same = [measurements.c[name] == value for name, value in found.items()]
        if self._connection.execute(sa.select(measurements).where(measurements.c.owner == old["id"], *same)).first():
            return False
        seq = self.log.next
        row = {**old, "seq": seq}
        if at >= old["measured_at"]:  # an older one that comes late is kept, and does not count as the present state
            row |= {"health": health, "margin_milli": margin_milli, "measured_at": at}
        self.log.append("measure", "device", key, row=row, supersedes=old["seq"], detail=found)
        self._count("device", old, row)
        self._tallies.update(measurement_tallies(found))
        self._connection.execute(sa.update(devices).where(devices.c.id == row["id"]).values(row))
        self._connection.execute(sa.insert(measurements), [{"seq": seq, "owner": row["id"], **found}])
        return True

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _one(self, kind: str, key: Any) -> tuple[sa.Table, dict[str, Any]]:
        table = BY_KIND.get(kind)
        if table is None or kind == "model":
            raise ParameterError(f"a {kind} cannot be revoked")
        if kind == "licence":
            release, device = key
            condition = sa.and_(table.c.release == release, table.c.device == device)
        else:
            condition = (table.c.file_id if kind == "release" else table.c.key) == key
        found = self._connection.execute(sa.select(table).where(condition)).mappings().first()
        if found is None:
            raise RegistryError(f"no {kind} {shown(key)} in this registry")
        return table, dict(found)
