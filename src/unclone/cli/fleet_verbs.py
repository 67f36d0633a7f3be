"""Verbs of a fleet's registry, its station and its page: ``unclone fleet ...``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unclone.cli import station_verbs
from unclone.cli.fleet_options import DEFAULT, Backend, Database, Scheduler, Which, Workers, opened, plain
from unclone.cli.output import Force, JsonFlag, emit, note, table
from unclone.errors import ParameterError

if TYPE_CHECKING:
    from unclone.fleet.registry import Counts
    from unclone.fleet.rows import DeviceRow

__all__ = ["DEFAULT", "Backend", "Database", "Scheduler", "Workers", "group", "opened", "register"]

group = typer.Typer(help="Fleets: a registry of devices, releases and licences.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (init, add, export, show, revoke, verify, stats):
        group.command()(verb)
    group.command(name="import")(import_)
    group.command(name="list")(list_)
    station_verbs.register(group)
    app.add_typer(group, name="fleet")


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
    lines = [f"{row.key.hex()[:16]}  {row.state:<7}  {row.health:<7}  {row.root:<4}  {plain(row.name)}" for row in rows]
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
    rows = [(name.replace("_", " "), plain(str(item))) for name, item in _device_json(row).items() if item != ""]
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


def stats(db: Database = DEFAULT, as_json: JsonFlag = False) -> None:
    """Figures of the whole fleet."""
    from unclone.fleet.queries import statistics

    with opened(db) as registry:
        facets = statistics(registry).facets
        value = {"registry": registry.url, "head": str(registry.head()), "facets": facets}
    rows = [
        (facet, ", ".join(f"{plain(bucket)} {number:,}" for bucket, number in facets[facet].items()))
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
