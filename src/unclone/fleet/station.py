"""A station of a factory line: one serial number after another, enrolled, tried, and kept or refused with the reason.

A station writes into a registry, or, where there is neither network nor database, into a folder of records; both are
merged later by ``unclone fleet import``. A serial number that is done is not done again, so a station can be stopped
and started at any moment.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import sqlalchemy as sa

from unclone.device_file import load_device, save_device
from unclone.enrollment import HealthReport, enroll, health, reconstruct
from unclone.errors import EnrollmentError, InputError, KeyMaterialError, OutputError, ParameterError, RegistryError
from unclone.fleet.registry import Registry
from unclone.fleet.rows import key_digest, pack_device
from unclone.fleet.schema import devices
from unclone.machine import Machine
from unclone.records import Device

__all__ = ["RegistryShelf", "SerialResult", "Shelf", "SpoolShelf", "run_station", "source_for"]

_SERIAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FIELD: Final = "{serial}"


@dataclass(frozen=True, slots=True)
class SerialResult:
    """What became of one serial number.

    Attributes:
        serial: as it was scanned.
        outcome: ``"pass"``, ``"done"`` (enrolled earlier) or ``"fail"``.
        reason: why it failed, empty otherwise.
        key: SHA-256 of the public key, hexadecimal; empty for a failure.
        margin: how often the present noise fits in; 0 where the source is no PUF or failed.
        seconds: how long it took.
    """

    serial: str
    outcome: str
    reason: str
    key: str
    margin: float
    seconds: float


class Shelf(Protocol):
    """Where a station keeps records."""

    def get(self, serial: str) -> Device | None:
        """The record of a serial number that is done."""
        ...

    def put(self, device: Device, report: HealthReport) -> None:
        """Keep a record, at once and for good."""
        ...

    def refuse(self, serial: str, reason: str) -> None:
        """Note a failure."""
        ...


class RegistryShelf:
    """Keeps records in a registry, with the first measurement of each, and failures in its log."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def get(self, serial: str) -> Device | None:
        """See ``Shelf``."""
        with self._registry.reading() as connection:
            key = connection.execute(sa.select(devices.c.key).where(devices.c.name == serial).limit(1)).scalar()
        record = self._registry.record(key) if key is not None else None
        return None if isinstance(record, Machine) else record

    def put(self, device: Device, report: HealthReport) -> None:
        """See ``Shelf``."""
        packed = pack_device(device)
        with self._registry.writing() as writer:
            taken = writer.names_taken([device.name])
            if taken - {packed.key}:
                raise EnrollmentError("another station has just enrolled this serial number")
            writer.add_records("device", [packed])
            if report.correction is not None:
                writer.measure(
                    packed.key,
                    health=report.state,
                    error_rate_ppm=round(report.correction.error_rate * 1e6),
                    margin_milli=min(round(report.correction.margin * 1e3), 2**31 - 1),
                    at=writer.log.now,
                )

    def refuse(self, serial: str, reason: str) -> None:
        """See ``Shelf``."""
        self._registry.record_event("refuse", "station", detail={"serial": serial[:64], "reason": reason[:500]})


class SpoolShelf:
    """Keeps records as files ``SERIAL.json`` in a folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise OutputError(f"the folder {folder} does not exist")
        self._folder = folder

    def get(self, serial: str) -> Device | None:
        """See ``Shelf``."""
        path = self._path(serial)
        return load_device(path) if path.exists() else None

    def put(self, device: Device, report: HealthReport) -> None:  # noqa: ARG002 - a spool holds records alone
        """See ``Shelf``."""
        save_device(device, self._path(device.name))

    def refuse(self, serial: str, reason: str) -> None:
        """See ``Shelf``; a spool keeps no failures, the next scan tries again."""

    def _path(self, serial: str) -> Path:
        return self._folder / f"{serial}.json"


def source_for(template: str, serial: str) -> str:
    """The address of a serial number's source.

    Raises:
        ParameterError: the template has no ``{serial}``, or this is no serial number: letters, digits and ``. _ -``, at
            most 64, beginning with a letter or digit. So it cannot leave a folder or add to an address.
    """
    if _FIELD not in template:
        raise ParameterError("--source has no {serial} in it: every device would be read at the same address")
    if not _SERIAL.fullmatch(serial):
        raise ParameterError(f"{serial[:70]!r} is no serial number: 1 to 64 letters, digits and . _ -")
    return template.replace(_FIELD, serial)


def run_station(
    serials: Iterable[str],
    template: str,
    shelf: Shelf,
    *,
    readings: int = 9,
    key_bits: int = 128,
    failure: float = 1e-9,
    margin: float = 1.5,
    suite: str = "x25519",
) -> Iterator[SerialResult]:
    """Enrol the serial numbers one after another; each is kept before the next is read.

    Args:
        serials: as they are scanned.
        template: address of the source, with ``{serial}`` where the serial number goes.
        shelf: where records go.
        readings: readings for an enrolment.
        key_bits: min-entropy the key needs.
        failure: accepted probability that one reconstruction fails.
        margin: how often the present noise must fit in.
        suite: of the device's public key, as in ``enroll``.

    Raises:
        ParameterError: the template has no ``{serial}``.
        RegistryError: the registry does not answer; what was printed as passed is in.
    """
    source_for(template, "0")
    last: Device | None = None
    for serial in serials:
        start = time.perf_counter()
        known, report, reason = None, None, ""
        try:
            source = source_for(template, serial)
            known = shelf.get(serial)
            if known is None:
                _refuse_same(last, source)
                last, report = _enrolled(source, serial, readings, key_bits, failure, margin, suite)
                shelf.put(last, report)
        except RegistryError:
            raise
        except (InputError, KeyMaterialError) as problem:
            reason = str(problem)
        if reason:
            shelf.refuse(serial, reason)
        device = None if reason else known or last
        found = report.correction if report is not None and not reason else None
        yield SerialResult(
            serial,
            "fail" if reason else "done" if known else "pass",
            reason,
            key_digest(device.public_key).hex() if device else "",
            round(found.margin, 2) if found else 0.0,
            round(time.perf_counter() - start, 3),
        )


def _refuse_same(last: Device | None, source: str) -> None:
    """The commonest slip at a line: the board of the last serial number is still in the fixture."""
    if last is None or last.root != "puf":
        return
    try:
        reconstruct(last, source).wipe()
    except (InputError, KeyMaterialError):
        return  # another chip, as it should be; or one that the enrolment will refuse with a better reason
    raise EnrollmentError(f"this is still device {last.name}: put the next one in")


def _enrolled(
    source: str, serial: str, readings: int, key_bits: int, failure: float, margin: float, suite: str
) -> tuple[Device, HealthReport]:
    device = enroll(source, name=serial, readings=readings, key_bits=key_bits, failure=failure, suite=suite)
    report = health(device, source, readings=1, failure=failure)
    if report.correction is not None and report.correction.margin < margin:
        raise EnrollmentError(
            f"its noise fits in only {report.correction.margin:.2f} times, less than --margin {margin:g}: "
            f"{100 * report.correction.error_rate:.1f} % of its bits flipped"
        )
    return device, report
