"""Verbs of releases and licences: ``unclone fleet release | license | rekey``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unclone.cli.fleet_verbs import Backend, Scheduler, Workers, group, opened
from unclone.cli.output import Force, JsonFlag, emit
from unclone.cli.records_view import load_recipient
from unclone.errors import ParameterError

if TYPE_CHECKING:
    from unclone.fleet.licensing import Target
    from unclone.fleet.registry import Registry
    from unclone.fleet.release import Tracing
    from unclone.records import Header

__all__ = ["register"]

Model = Annotated[Path, typer.Argument(help="An ordinary model file, or a folder that holds one; never altered.")]
Vendor = Annotated[Path, typer.Option("--vendor", metavar="FILE", help="The vendor's record.")]
Bits = Annotated[str, typer.Option(metavar="finite|all", help="As of bind.")]
Cipher = Annotated[str, typer.Option(metavar="NAME", help="As of bind.")]
Name = Annotated[str, typer.Option(help="The model's name in the registry [default: the file's].")]
Database = Annotated[
    str, typer.Option("--db", metavar="URL", envvar="UNCLONE_DB", help="Registry that takes note, if there is one.")
]
To = Annotated[list[Path] | None, typer.Option("--to", metavar="FILE", help="Record of a device or machine; repeat.")]
Everybody = Annotated[bool, typer.Option("--all", help="Every device of the registry that is not revoked.")]

Machines = Annotated[
    bool, typer.Option("--all-machines", help="Every machine of the registry that is not revoked; not their parts.")
]


def register() -> None:
    """Add the verbs to the group ``fleet``."""
    group.command()(release)
    group.command(name="license")(issue)
    group.command()(rekey)


def release(
    model: Model,
    vendor: Vendor,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PATH", help="Where the release goes; a folder with --per-device.")
    ],
    per_device: Annotated[
        bool, typer.Option("--per-device", help="A file of its own for each device, under its own content key.")
    ] = False,
    to: To = None,
    everybody: Everybody = False,
    machines: Machines = False,
    trace_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --per-device: fingerprint each copy; record of the trace key."),
    ] = None,
    trace_source: Annotated[str, typer.Option(metavar="URI", help="What opens the trace key's record.")] = "",
    db: Database = "",
    name: Name = "",
    bits: Bits = "finite",
    cipher: Cipher = "auto",
    workers: Workers = 1,
    backend: Backend = "loky",
    scheduler: Scheduler = "",
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Bind a model once, to its vendor, who then licenses it to devices; or once for each device."""
    from unclone.fleet import release as releases

    options = {"bits": bits, "cipher": cipher}
    record, title = load_recipient(vendor), name or model.name
    if per_device:
        _check_whom(to, everybody, machines, db)
        runs = {"workers": workers, "backend": backend, "scheduler": scheduler}
        tracing = _tracing(trace_key, trace_source)
        with _registry(db) as registry:
            targets = list(_targets(to, machines, registry))
            left_out = [target.key for target in targets if registry is not None and registry.revoked(target.key)]
            targets = [target for target in targets if target.key not in left_out]
            found = []
            for each in releases.bind_each(model, record, targets, output, tracing=tracing, **runs, **options):  # type: ignore[arg-type]
                if registry is not None:
                    _register_each(registry, each.path, title, each.key)
                found.append(each)
        made = sum(each.made for each in found)
        value: dict[str, Any] = {
            "output": str(output),
            "made": made,
            "kept": len(found) - made,
            "revoked": [key.hex() for key in left_out],
            "files": [
                {"device": each.key.hex(), "file": each.path.name, "file_id": each.file_id.hex()} for each in found
            ],
        }
        text = f"{output}: {made} files made for a device each, {len(found) - made} were there"
        emit(value, as_json=as_json, text=text)
        return
    if to or everybody or machines or trace_key:
        raise ParameterError(
            "a release is bound to the vendor alone: --to, --all, --all-machines and --trace-key go with --per-device"
        )
    with _registry(db) as registry:
        header = releases.make_release(model, record, output, force=force, **options)
        if registry is not None:
            releases.register_release(registry, header, title)
    _show(output, header, as_json=as_json)


def issue(
    release: Annotated[Path, typer.Option("--release", metavar="FILE", help="The release.")],
    vendor: Vendor,
    vendor_source: Annotated[
        str, typer.Option(metavar="URI", help="What opens the vendor's record: passphrase:, pkcs11:... or tpm:.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where the licences go, a file for each.")
    ] = None,
    to: To = None,
    everybody: Everybody = False,
    machines: Machines = False,
    db: Database = "",
    not_after: Annotated[
        str, typer.Option(metavar="TIME", help="Last second at which they open: 2031-12-31T23:59:59Z.")
    ] = "",
    note: Annotated[str, typer.Option(metavar="TEXT", help="A remark that stands in the licences.")] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Make anew those in the registry, for other terms.")
    ] = False,
    workers: Workers = 1,
    backend: Backend = "loky",
    scheduler: Scheduler = "",
    as_json: JsonFlag = False,
) -> None:
    """License a release: seal its content key for each device. Run it again to go on where it was broken off."""
    import unclone
    from unclone.fleet.licensing import Plan, ReleaseKey, license_files, license_registry

    plan = Plan(not_after, note, workers, backend, scheduler)
    if output is None and not db:
        raise ParameterError("say where the licences go: -o FOLDER, --db URL, or both")
    _check_whom(to, everybody, machines, db)
    with _registry(db) as registry:
        targets = list(_targets(to, machines, registry)) if to else None
        with unclone.reconstruct(vendor, vendor_source) as key:
            opened = ReleaseKey.open(release, key)
        if registry is not None:
            done = license_registry(opened, registry, targets, plan, machines=machines, folder=output, replace=replace)
        else:
            done = license_files(opened, targets or [], output or Path(), plan)
    value = {
        "release": str(release),
        "file_id": opened.file_id.hex(),
        "output": None if output is None else str(output),
        "issued": done.issued,
        "kept": done.kept,
        "revoked": [key.hex() for key in done.revoked],
    }
    text = f"{done.issued} licences issued for {release}, {done.kept} were there"
    if done.revoked:
        text += f"; {len(done.revoked)} left out: revoked"
    emit(value, as_json=as_json, text=text)


def rekey(
    model: Model,
    of: Annotated[Path, typer.Option("--of", metavar="FILE", help="The release that the new one takes the place of.")],
    vendor: Vendor,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the new release goes.")],
    db: Database = "",
    name: Name = "",
    bits: Bits = "finite",
    cipher: Cipher = "auto",
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Release a model anew under a new content key: whoever gets no licence of it is left with the old release."""
    from unclone.fleet.release import register_release
    from unclone.fleet.release import rekey as make_anew

    with _registry(db) as registry:
        header, old = make_anew(model, load_recipient(vendor), output, of=of, force=force, bits=bits, cipher=cipher)
        if registry is not None:
            row = registry.release(old)
            register_release(registry, header, name or (row.model if row else model.name), rekeys=old)
    _show(output, header, as_json=as_json, rekeys=old.hex())


@contextmanager
def _registry(url: str) -> Iterator[Registry | None]:
    """The registry at an address; ``None`` without one."""
    if not url:
        yield None
        return
    with opened(url) as registry:
        yield registry


def _check_whom(to: list[Path] | None, everybody: bool, machines: bool, db: str) -> None:
    if bool(to) + everybody + machines != 1:
        raise ParameterError("say for whom: --to FILE, repeated, or --all or --all-machines with --db URL")
    if not to and not db:
        raise ParameterError("--all and --all-machines are those of a registry: give --db URL")


def _targets(to: list[Path] | None, machines: bool, registry: Registry | None) -> Iterator[Target]:
    from unclone.fleet.licensing import Target

    if to or registry is None:
        yield from (Target.of(load_recipient(path)) for path in to or ())
        return
    for rows in registry.machine_keys() if machines else registry.device_keys():
        yield from (Target.of(row) for row in rows)


def _tracing(record: Path | None, source: str) -> Tracing | None:
    import unclone
    from unclone.fleet.release import Tracing

    if record is None:
        return None
    if not source:
        raise ParameterError("--trace-key needs --trace-source: what opens it")
    with unclone.reconstruct(record, source) as key:
        return Tracing(bytes(key.secret))


def _register_each(registry: Registry, path: Path, name: str, key: bytes) -> None:
    from unclone.fleet.release import register_release
    from unclone.model.opening import read_bound

    header = read_bound(path)[1]
    if registry.release(header.file_id) is None:
        register_release(registry, header, name, device=key)


def _show(output: Path, header: Header, *, as_json: bool, **more: str) -> None:
    masked = sum(tensor.nbytes for tensor in header.tensors)
    value = {"output": str(output), "file_id": header.file_id.hex(), "masked_bytes": masked, **more}
    what = f"{len(header.tensors)} tensors ({masked:,} bytes)"
    text = f"{output}: release {header.file_id.hex()}, {what}, for the vendor alone"
    emit(value, as_json=as_json, text=text)
