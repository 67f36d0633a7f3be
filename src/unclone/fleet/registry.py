"""The registry of a fleet: one class that reads and writes it, each change with its event, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from unclone.device_file import parse_device
from unclone.errors import ParameterError, RegistryError
from unclone.fleet.bulk import batches
from unclone.fleet.engine import DEFAULT_URL, WRITE, open_engine
from unclone.fleet.log import Head, read_head
from unclone.fleet.rows import (
    REVOKED,
    DeviceRow,
    LicenceRow,
    MachineRow,
    ModelRow,
    Packed,
    ReleaseRow,
    pack_device,
    pack_machine,
    unpack_record,
)
from unclone.fleet.schema import devices, licences, machines, models, records, releases
from unclone.fleet.writing import Counts, Writer
from unclone.machine import Machine
from unclone.machine.file import parse_machine
from unclone.records import Device

__all__ = ["BATCH", "Counts", "Registry", "open_registry"]

T = TypeVar("T")

BATCH: Final = 2000  # rows in one transaction


def open_registry(url: str = DEFAULT_URL, *, create: bool = False) -> Registry:
    """Open a registry, brought up to this release's schema.

    Args:
        url: a path (SQLite), or an SQLAlchemy URL of SQLite or PostgreSQL.
        create: make the registry if there is none.

    Raises:
        RegistryError: there is no registry, it is of a newer release, or the server does not answer.
    """
    return Registry(open_engine(url, create=create))


class Registry:
    """A fleet's registry; a context manager. Every ``add_*`` may be called again with the same content.

    Every method that writes raises ``RegistryError`` when the database refuses, and then has changed nothing.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @property
    def engine(self) -> Engine:
        """For queries; whoever writes past this class is found by ``verify``."""
        return self._engine

    @property
    def url(self) -> str:
        """The address, without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection in a transaction that only reads.

        Raises:
            RegistryError: the database refuses.
        """
        try:
            with self._engine.connect() as connection, connection.begin():
                yield connection
        except DBAPIError as problem:
            raise _refused(problem) from None

    @contextmanager
    def writing(self, now: int | None = None) -> Iterator[Writer]:
        """A transaction of several changes: all of them or none. Other writers wait meanwhile.

        Raises:
            RegistryError: the database refuses.
        """
        try:
            with self._engine.connect().execution_options(**WRITE) as connection, connection.begin():
                writer = Writer(connection, now)
                yield writer
                writer.flush()
        except DBAPIError as problem:
            raise _refused(problem) from None

    # -- adding ----------------------------------------------------------------------------------------------------

    def add_device(self, device: Device) -> Counts:
        """Add a device, or its new record after a refresh."""
        return self.add_packed([pack_device(device)])

    def add_devices(self, many: Iterable[Device]) -> Counts:
        """Add devices, ``BATCH`` in a transaction."""
        return self.add_packed(pack_device(device) for device in many)

    def add_machine(self, machine: Machine) -> Counts:
        """Add a machine, or a later revision of its record."""
        return self.add_packed([pack_machine(machine)])

    def add_packed(self, packed: Iterable[Packed]) -> Counts:
        """Add records that were parsed elsewhere, ``BATCH`` in a transaction."""
        total = Counts()
        for batch in batches(packed, BATCH):
            with self.writing() as writer:
                for kind in ("device", "machine"):
                    total += writer.add_records(kind, [item for item in batch if item.kind == kind])
        return total

    def add_model(self, model: ModelRow) -> Counts:
        """Add a model, or change its format, digest or notes."""
        with self.writing() as writer:
            return writer.add_model(model)

    def add_release(self, release: ReleaseRow) -> Counts:
        """Add a release.

        Raises:
            RegistryError: its file id is known and stands for something else.
        """
        return self.add_releases([release])

    def add_releases(self, many: Iterable[ReleaseRow]) -> Counts:
        """Add releases, ``BATCH`` in a transaction; see ``add_release``."""
        total = Counts()
        for batch in batches(many, BATCH):
            with self.writing() as writer:
                total += writer.add_releases(batch)
        return total

    def add_licence(self, licence: LicenceRow, *, replace: bool = False) -> Counts:
        """Add a licence; see ``add_licences``."""
        return self.add_licences([licence], replace=replace)

    def add_licences(self, many: Iterable[LicenceRow], *, replace: bool = False) -> Counts:
        """Add licences, ``BATCH`` in a transaction, one for each release and device.

        Args:
            many: the licences.
            replace: let a licence with other content take the place of the one that is there.

        Raises:
            RegistryError: release or device is unknown or revoked, or there is another licence and not ``replace``.
                The batches before it are in.
        """
        total = Counts()
        for batch in batches(many, BATCH):
            with self.writing() as writer:
                total += writer.add_licences(batch, replace=replace)
        return total

    def revoke(self, kind: str, key: bytes | tuple[bytes, bytes], reason: str = "") -> bool:
        """Revoke for good; see ``Writer.revoke``. Whether it was not revoked before."""
        with self.writing() as writer:
            return writer.revoke(kind, key, reason)

    def record_event(
        self, action: str, kind: str, subject: bytes = b"", detail: Mapping[str, Any] | None = None
    ) -> int:
        """Append an event of one's own to the log, and return its number.

        Args:
            action: at most 32 characters.
            kind: at most 16 characters; not one of the registry's own kinds.
            subject: at most 48 bytes.
            detail: canonical-JSON values; public, as everything here.
        """
        from unclone.fleet.schema import BY_KIND

        if kind in BY_KIND or not 0 < len(kind) <= 16 or not 0 < len(action) <= 32 or len(subject) > 48:
            raise ParameterError(f"an event of kind {kind[:20]!r} cannot be recorded: a kind of its own, 16 characters")
        with self.writing() as writer:
            return writer.log.append(action, kind, subject, detail=detail)

    # -- looking up ------------------------------------------------------------------------------------------------

    def device(self, key: bytes) -> DeviceRow | None:
        """The device whose public key has this SHA-256."""
        row = self._first(sa.select(devices).where(devices.c.key == key))
        return DeviceRow(**row) if row else None

    def machine(self, key: bytes) -> MachineRow | None:
        """The machine whose public key has this SHA-256."""
        row = self._first(sa.select(machines).where(machines.c.key == key))
        return MachineRow(**row) if row else None

    def model(self, name: str) -> ModelRow | None:
        """The model of that name."""
        row = self._first(sa.select(models).where(models.c.name == name))
        return ModelRow(**row) if row else None

    def release(self, file_id: bytes) -> ReleaseRow | None:
        """The release with that file id."""
        row = self._first(sa.select(releases).where(releases.c.file_id == file_id))
        return ReleaseRow(**row) if row else None

    def licence(self, release: bytes, device: bytes) -> LicenceRow | None:
        """The licence of a device (key digest) for a release (file id)."""
        row = self._first(sa.select(licences).where(licences.c.release == release, licences.c.device == device))
        return LicenceRow(**row) if row else None

    def record(self, key: bytes) -> Device | Machine:
        """The present record of a device or machine, parsed.

        Raises:
            RegistryError: it is unknown, or the stored record is damaged.
        """
        row = self.device(key) or self.machine(key)
        if row is None:
            raise RegistryError(f"no device or machine {key.hex()[:16]} in this registry")
        query = sa.select(records.c.body).where(records.c.owner == row.id, records.c.digest == row.record)
        found = self._first(query.order_by(records.c.seq.desc()))
        if found is None:
            raise RegistryError(f"the record of {row.name!r} is missing: run 'unclone fleet verify'")
        text = unpack_record(found["body"], row.record)
        return parse_device(text) if isinstance(row, DeviceRow) else parse_machine(text)

    def revoked(self, key: bytes) -> bool:
        """Whether the device or machine with this key digest is revoked.

        Raises:
            RegistryError: it is unknown.
        """
        row = self.device(key) or self.machine(key)
        if row is None:
            raise RegistryError(f"no device or machine {key.hex()[:16]} in this registry")
        return row.state == REVOKED

    def releases_of(self, model: str) -> list[ReleaseRow]:
        """The releases of a model, oldest first."""
        query = sa.select(releases).where(releases.c.model == model).order_by(releases.c.id)
        with self.reading() as connection:
            return [ReleaseRow(**row) for row in connection.execute(query).mappings()]

    def licences_of(self, release: bytes, batch: int = BATCH) -> Iterator[list[LicenceRow]]:
        """The licences of a release in batches, by key digest."""
        after = b""
        while True:
            query = sa.select(licences).where(licences.c.release == release, licences.c.device > after)
            with self.reading() as connection:
                rows = connection.execute(query.order_by(licences.c.device).limit(batch)).mappings().all()
            if not rows:
                return
            yield [LicenceRow(**row) for row in rows]
            after = rows[-1]["device"]

    def device_keys(
        self, batch: int = BATCH, *, after: int = 0, unlicensed_for: bytes = b""
    ) -> Iterator[list[DeviceRow]]:
        """The devices that are not revoked in batches, in the order in which they were added.

        Each batch is a query of its own, so nothing is held open while its licences are made.

        Args:
            batch: devices in a batch.
            after: leave out devices whose ``id`` is not above this, to go on where one stopped.
            unlicensed_for: leave out the devices that have a licence for this release (file id).
        """
        for rows in self._active(devices, batch, after, unlicensed_for):
            yield [DeviceRow(**row) for row in rows]

    def machine_keys(
        self, batch: int = BATCH, *, after: int = 0, unlicensed_for: bytes = b""
    ) -> Iterator[list[MachineRow]]:
        """The machines that are not revoked; as ``device_keys``."""
        for rows in self._active(machines, batch, after, unlicensed_for):
            yield [MachineRow(**row) for row in rows]

    def _active(
        self, table: sa.Table, batch: int, after: int, unlicensed_for: bytes
    ) -> Iterator[Sequence[Mapping[str, Any]]]:
        while True:
            query = sa.select(table).where(table.c.id > after, table.c.state != REVOKED)
            if unlicensed_for:
                held = sa.select(licences.c.id).where(
                    licences.c.release == unlicensed_for, licences.c.device == table.c.key
                )
                query = query.where(~held.exists())
            with self.reading() as connection:
                rows = connection.execute(query.order_by(table.c.id).limit(batch)).mappings().all()
            if not rows:
                return
            yield [{**row} for row in rows]
            after = rows[-1]["id"]

    def head(self) -> Head:
        """The last event's number and hash."""
        with self.reading() as connection:
            return read_head(connection)

    def _first(self, query: sa.Select[Any]) -> dict[str, Any] | None:
        with self.reading() as connection:
            row = connection.execute(query.limit(1)).mappings().first()
        return dict(row) if row else None


def _refused(problem: DBAPIError) -> RegistryError:
    reason = (str(problem.orig).strip().splitlines() or ["no reason given"])[0][:200]
    return RegistryError(f"the registry's database refuses: {reason}")
