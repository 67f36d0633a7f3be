"""Verbs of a fleet's registry, its station and its page: ``unclone fleet ...``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unclone.cli.output import Force, JsonFlag, emit, note, table
from unclone.errors import ParameterError

if TYPE_CHECKING:
    from unclone.fleet.registry import Counts, Registry
    from unclone.fleet.rows import DeviceRow

__all__ = ["Backend", "Database", "Scheduler", "Workers", "group", "opened", "register"]

Database = Annotated[
    str, typer.Option("--db", metavar="URL", envvar="UNCLONE_DB", help="The registry: a file, or a PostgreSQL URL.")
]
Workers = Annotated[int, typer.Option(min=0, help="Processes; 0 for one on every core.")]
Backend = Annotated[str, typer.Option(metavar="NAME", help="Who runs them: loky, dask or ray.")]
Scheduler = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Dask scheduler or Ray head; by default on this machine.")
]
Which = Annotated[str, typer.Argument(metavar="DEVICE", help="Its name, or 8 digits or more of its key digest.")]
DEFAULT = "fleet.db"

group = typer.Typer(help="Fleets: a registry of devices, releases and licences.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (init, add, export, show, revoke, verify, enroll, health, serve, stats):
        group.command()(verb)
    group.command(name="import")(import_)
    group.command(name="list")(list_)
    app.add_typer(group, name="fleet")


def opened(url: str, *, create: bool = False) -> Registry:
    """The registry, opened."""
    from unclone.fleet.registry import open_registry

    return open_registry(url, create=create)


def init(db: Database = DEFAULT, as_json: JsonFlag = False) -> None:
    """Make a registry, or bring one up to this release's schema."""
    from unclone.fleet.engine import SCHEMA_VERSION

    with opened(db, create=True) as registry:
        value = {"registry": registry.url, "schema": SCHEMA_VERSION, "head": str(registry.head())}
        emit(value, as_json=as_json, text=f"registry {registry.url}, schema {SCHEMA_VERSION}")


def add(
    records: Annotated[list[Path], typer.Argument(metavar="RECORD...", help="Device and machine records.")],
    db: Database = DEFAULT,
    as_json: JsonFlag = False,
) -> None:
    """Add device and machine records, all of them or none."""
    from unclone.fleet.importing import read_records
    from unclone.fleet.registry import Counts

    packed = read_records(records)
    total = Counts()
    with opened(db) as registry, registry.writing() as writer:
        for kind in ("device", "machine"):
            total += writer.add_records(kind, [item for item in packed if item.kind == kind])
    emit(asdict(total), as_json=as_json, text=_counted(total))


def import_(
    path: Annotated[Path, typer.Argument(help="A folder of records, JSON lines, CSV, or another registry's file.")],
    db: Database = DEFAULT,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on after what cannot be taken.")] = False,
    workers: Workers = 0,
    backend: Backend = "loky",
    scheduler: Scheduler = "",
    as_json: JsonFlag = False,
) -> None:
    """Merge what another registry exported or a station collected. Broken off, start it again: it goes on."""
    from unclone.fleet.importing import import_path

    with opened(db) as registry:
        done = import_path(registry, path, skip_bad=skip_bad, workers=workers, backend=backend, scheduler=scheduler)
    for reason in done.reasons:
        note(f"skipped: {reason}")
    by_type = {kind: asdict(counts) for kind, counts in done.counts.items()}
    value = {**asdict(done.total), "skipped": done.skipped, "by_type": by_type}
    emit(value, as_json=as_json, text=_counted(done.total) + (f", {done.skipped} skipped" if done.skipped else ""))


def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where it goes.")],
    db: Database = DEFAULT,
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="jsonl (everything) or csv (devices).")
    ] = "jsonl",
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Write the registry's content to a file."""
    from unclone.files import atomic_output
    from unclone.fleet.exporting import export_registry

    with opened(db) as registry, atomic_output(output, force=force) as stream:
        lines = export_registry(registry, stream, form)
    emit({"output": str(output), "lines": lines}, as_json=as_json, text=f"{output}: {lines:,} lines")


def list_(
    db: Database = DEFAULT,
    name: Annotated[str, typer.Option(metavar="TEXT", help="How the name begins.")] = "",
    key: Annotated[str, typer.Option(metavar="HEX", help="How the key digest begins.")] = "",
    state: Annotated[str, typer.Option(metavar="STATE", help="active or revoked.")] = "",
    health: Annotated[str, typer.Option(metavar="STATE", help="unknown, good, refresh or late.")] = "",
    after: Annotated[int, typer.Option(metavar="ID", help="Go on after this device of the page before.")] = 0,
    limit: Annotated[int, typer.Option(metavar="N", help="Devices on a page.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Search the devices, a page at a time."""
    from unclone.fleet.queries import list_devices

    with opened(db) as registry:
        rows = list_devices(registry, name=name, key=key, state=state, health=health, after=after, limit=limit)
    more = rows[-1].id if len(rows) == limit else None
    value = {"devices": [_device_json(row) for row in rows], "after": more}
    lines = [
        f"{row.key.hex()[:16]}  {row.state:<7}  {row.health:<7}  {row.root:<4}  {_plain(row.name)}" for row in rows
    ]
    emit(value, as_json=as_json, text="\n".join(lines) or "no device fits")
    if more is not None and not as_json:
        note(f"more: --after {more}")


def show(
    which: Which,
    db: Database = DEFAULT,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Also write its present record here.")
    ] = None,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Show one device: figures, measurements and licences."""
    from unclone.device_file import save_device
    from unclone.files import check_output
    from unclone.fleet.queries import find_device, list_licences, list_measurements
    from unclone.machine import Machine

    if output is not None:
        check_output(output, force=force)
    with opened(db) as registry:
        row = find_device(registry, which)
        found = list_measurements(registry, row)
        held = list_licences(registry, device=row.key)
        record = registry.record(row.key)
    if output is not None and not isinstance(record, Machine):
        save_device(record, output, force=force)
    value = {
        **_device_json(row),
        "measurements": [{name: entry[name] for name in entry if name not in ("seq", "owner")} for entry in found],
        "licences": [
            {"release": item.release.hex(), "created": item.created, "not_after": item.not_after, "state": item.state}
            for item in held
        ],
    }
    rows = [(name.replace("_", " "), _plain(str(item))) for name, item in _device_json(row).items() if item != ""]
    rows += [
        ("measured", f"{_day(entry['at'])}  {entry['health']}  margin {entry['margin_milli'] / 1e3:.2f}")
        for entry in found
    ]
    rows += [("licence", f"{item.release.hex()}  {item.state}  since {_day(item.created)}") for item in held]
    emit(value, as_json=as_json, text=table(rows))


def revoke(
    which: Annotated[str, typer.Argument(metavar="WHICH", help="Name or key digest of a device or machine.")],
    db: Database = DEFAULT,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stands in the log.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Revoke a device or machine for good: no new licences. What it has, it keeps; see docs/fleet.md."""
    from unclone.fleet.queries import find_key

    with opened(db) as registry:
        kind, key = find_key(registry, which)
        news = registry.revoke(kind, key, reason)
    value = {"kind": kind, "key": key.hex(), "revoked": True, "news": news}
    emit(value, as_json=as_json, text=f"{kind} {key.hex()[:16]} {'revoked' if news else 'was revoked before'}")


def verify(
    db: Database = DEFAULT,
    head: Annotated[
        str, typer.Option(metavar="NUMBER:HASH", help="A head printed earlier; the log must hold it.")
    ] = "",
    head_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the head here, and check against the one kept before.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check the log's chain, and every row against it. Names the first altered row."""
    from unclone.errors import RegistryError
    from unclone.files import atomic_output, read_bounded
    from unclone.fleet.log import parse_head
    from unclone.fleet.verify import verify_registry

    if head_file is not None and head_file.exists():
        if head:
            raise ParameterError("--head and --head-file exclude each other")
        head = read_bounded(head_file, 200, RegistryError).decode("ascii", "replace")
    with opened(db) as registry:
        found = verify_registry(registry, head=parse_head(head) if head else None)
    if head_file is not None:
        with atomic_output(head_file, force=True) as stream:
            stream.write(f"{found.head}\n".encode())
    value = {
        "verified": True,
        "events": found.events,
        "rows": found.rows,
        "head": str(found.head),
        "head_checked": bool(head),
    }
    rows = [("events", f"{found.events:,}, unbroken"), ("rows", f"{sum(found.rows.values()):,} as the log has them")]
    emit(value, as_json=as_json, text=table([*rows, ("head", str(found.head))]))
    if not head and not as_json:
        note("no head was given, so a log that was cut or rolled back cannot be told; keep this one elsewhere")


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
    as_json: JsonFlag = False,
) -> None:
    """Enrol devices on a factory line: read, check, print pass or fail with the reason, and keep the record."""
    from unclone.fleet.station import RegistryShelf, SpoolShelf, run_station

    if station == bool(serial):
        raise ParameterError("give --station, and serial numbers on standard input; or --serial and one")
    passed = failed = 0
    with ExitStack() as stack:
        shelf = RegistryShelf(stack.enter_context(opened(db))) if spool is None else SpoolShelf(spool)
        serials = _scanned() if station else iter([serial])
        results = run_station(serials, source, shelf, readings=readings, key_bits=key, failure=failure, margin=margin)
        for result in results:
            failed += result.outcome == "fail"
            passed += result.outcome != "fail"
            text = f"{result.outcome.upper():<4}  {_plain(result.serial)}  {_plain(result.reason) or result.key[:16]}"
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
    emit(value, as_json=as_json, text=f"{_plain(row.name)}: {report.state}, margin {margin / 1e3:.2f}")


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


def stats(db: Database = DEFAULT, as_json: JsonFlag = False) -> None:
    """Figures of the whole fleet."""
    from unclone.fleet.queries import statistics

    with opened(db) as registry:
        facets = statistics(registry).facets
        value = {"registry": registry.url, "head": str(registry.head()), "facets": facets}
    rows = [
        (facet, ", ".join(f"{_plain(bucket)} {number:,}" for bucket, number in facets[facet].items()))
        for facet in facets
    ]
    emit(value, as_json=as_json, text=table(rows or [("devices", "none yet")]))


def _device_json(row: DeviceRow) -> dict[str, Any]:
    value = asdict(row)
    return {name: item.hex() if isinstance(item, bytes) else item for name, item in value.items()}


def _counted(counts: Counts) -> str:
    return f"{counts.added:,} added, {counts.updated:,} updated, {counts.unchanged:,} there already"


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds)) if seconds else "never"


def _plain(text: str) -> str:
    """Without what could move a terminal's cursor."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
