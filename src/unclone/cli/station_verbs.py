"""Verbs of the factory line and of the page: ``unclone fleet enroll | health | serve``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unclone.cli.fleet_options import DEFAULT, Database, Which, opened, plain
from unclone.cli.output import JsonFlag, emit, note
from unclone.errors import ParameterError

if TYPE_CHECKING:
    from unclone.fleet.station import Shelf

__all__ = ["register"]


def register(group: typer.Typer) -> None:
    """Add the verbs to the group ``fleet``."""
    for verb in (enroll, health, serve):
        group.command()(verb)


def enroll(
    source: Annotated[str, typer.Option("--source", metavar="URI", help="Address of the source, with {serial} in it.")],
    station: Annotated[
        bool, typer.Option("--station", help="Enrol one device after another, a serial number on each line of input.")
    ] = False,
    db: Database = DEFAULT,
    spool: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep records in this folder instead of a registry.")
    ] = None,
    serial: Annotated[str, typer.Option(metavar="TEXT", help="The one serial number, without --station.")] = "",
    readings: Annotated[int, typer.Option(min=1, max=100, help="How often to read each PUF.")] = 9,
    key: Annotated[int, typer.Option(metavar="BITS", help="Min-entropy the key needs.")] = 128,
    failure: Annotated[float, typer.Option(help="Accepted probability that one reconstruction fails.")] = 1e-9,
    margin: Annotated[float, typer.Option(help="How often the present noise must fit in.")] = 1.5,
    suite: Annotated[str, typer.Option(metavar="NAME", help="x25519 or hybrid.")] = "x25519",
    as_json: JsonFlag = False,
) -> None:
    """Enrol devices on a factory line: read, check, print pass or fail with the reason, and keep the record."""
    from unclone.fleet.station import RegistryShelf, SpoolShelf, run_station

    if station == bool(serial):
        raise ParameterError("give --station, and serial numbers on standard input; or --serial and one")
    passed = failed = 0
    with ExitStack() as stack:
        shelf: Shelf = RegistryShelf(stack.enter_context(opened(db))) if spool is None else SpoolShelf(spool)
        serials = _scanned() if station else iter([serial])
        results = run_station(
            serials, source, shelf, readings=readings, key_bits=key, failure=failure, margin=margin, suite=suite
        )
        for result in results:
            failed += result.outcome == "fail"
            passed += result.outcome != "fail"
            text = f"{result.outcome.upper():<4}  {plain(result.serial)}  {plain(result.reason) or result.key[:16]}"
            emit(asdict(result), as_json=as_json, text=text)
            sys.stdout.flush()
    note(f"{passed} passed, {failed} failed")
    if failed and not station:
        raise typer.Exit(2)


def _scanned() -> Iterator[str]:
    """Serial numbers, as a scanner types them."""
    for line in sys.stdin:
        if serial := line.strip():
            yield serial


def health(
    which: Which,
    source: Annotated[str, typer.Option("--source", metavar="URI", help="Where its PUF is.")],
    db: Database = DEFAULT,
    readings: Annotated[int, typer.Option(min=1, max=100, help="Readings to measure on.")] = 3,
    as_json: JsonFlag = False,
) -> None:
    """Check a device's margin with its record from the registry, and keep the result."""
    import unclone
    from unclone.fleet.queries import find_device
    from unclone.machine import Machine

    with opened(db) as registry:
        row = find_device(registry, which)
        record = registry.record(row.key)
        if isinstance(record, Machine):
            raise ParameterError(f"{which!r} is a machine; check its parts")
        correction = (report := unclone.health(record, source, readings=readings)).correction
        if correction is None:
            raise ParameterError(f"the {record.root} of {which!r} is not a PUF and has no noise to measure")
        rate, margin = round(correction.error_rate * 1e6), min(round(correction.margin * 1e3), 2**31 - 1)
        with registry.writing() as writer:
            writer.measure(row.key, health=report.state, error_rate_ppm=rate, margin_milli=margin, at=writer.log.now)
    value = {"key": row.key.hex(), "health": report.state, "error_rate_ppm": rate, "margin_milli": margin}
    emit(value, as_json=as_json, text=f"{plain(row.name)}: {report.state}, margin {margin / 1e3:.2f}")


def serve(
    db: Database = DEFAULT,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any.")] = 8765,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the token that readers must give.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the fleet on a web page, read-only, until interrupted."""
    from unclone.errors import RegistryError
    from unclone.files import read_bounded
    from unclone.fleet.web import serve as run

    token = read_bounded(token_file, 1024, RegistryError).decode("utf-8", "replace").strip() if token_file else ""

    def ready(address: str) -> None:
        emit({"address": address, "token": bool(token)}, as_json=as_json, text=f"the fleet is shown at {address}")
        sys.stdout.flush()

    with opened(db) as registry:
        run(registry, host=host, port=port, token=token, ready=ready)
