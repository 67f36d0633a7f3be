"""The verb that names the devices a leaked model came from: ``unclone fleet trace``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from unclone.cli.fleet_verbs import DEFAULT, Database, group, opened
from unclone.cli.output import JsonFlag, emit, table
from unclone.errors import InputError

__all__ = ["register"]

_LIST_LIMIT: Final = 1 << 30
_PAGE: Final = 10_000


def register() -> None:
    """Add the verb to the group ``fleet``."""
    group.command()(trace)


def trace(
    leaked: Annotated[Path, typer.Argument(help="The leaked model: weights as a device has them in memory.")],
    original: Annotated[Path, typer.Option(metavar="FILE", help="The model as it was before it was fingerprinted.")],
    trace_key: Annotated[Path, typer.Option(metavar="FILE", help="Record of the vendor's trace key.")],
    source: Annotated[
        str, typer.Option(metavar="URI", help="What opens it: a provider or a PUF, for example passphrase: or tpm:.")
    ],
    db: Database = DEFAULT,
    devices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of a registry: ids of devices, one on each line.")
    ] = None,
    limit: Annotated[float, typer.Option(metavar="P", help="Accepted probability of any false accusation.")] = 1e-6,
    strength: Annotated[float, typer.Option(help="Strength that was given when the model was fingerprinted.")] = 0.01,
    as_json: JsonFlag = False,
) -> None:
    """Find the devices whose copies a leaked model was made of, and say how sure that is."""
    import unclone
    from unclone.fleet import tracing

    with unclone.reconstruct(trace_key, source) as key:
        names = _listed(devices) if devices is not None else _registered(db)
        found = tracing.trace(leaked, original, key, names, limit=limit, strength=strength)
    labels = {} if devices is not None else _labels(db, [suspect.device for suspect in found.suspects])
    value: dict[str, Any] = {
        "leaked": str(leaked),
        "accused": [suspect.device for suspect in found.accused],
        "suspects": [_suspect_json(suspect, labels) for suspect in found.suspects],
        "devices": found.devices,
        "limit": found.limit,
        "weights": found.weights,
        "aligned": list(found.aligned),
        "missing": list(found.missing),
    }
    emit(value, as_json=as_json, text=_describe(leaked, found, labels))


def _suspect_json(suspect: Any, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "device": suspect.device,
        "name": labels.get(suspect.device, ""),
        "accused": suspect.accused,
        "deviations": round(suspect.deviations, 3),
        "log10_chance": round(suspect.log10_chance, 3),
        "log10_fleet": round(suspect.log10_fleet, 3),
    }


def _describe(leaked: Path, found: Any, labels: dict[str, str]) -> str:
    rows = []
    for suspect in found.accused:
        name = f"{suspect.device}  {labels[suspect.device]}" if labels.get(suspect.device) else suspect.device
        rows.append(("accused", f"{name}  {_chance(suspect.log10_fleet)}, {suspect.deviations:.1f} deviations"))
    if not rows:
        best = found.suspects[0]
        rows.append(("accused", f"none; the likeliest reaches only {_chance(best.log10_fleet)}"))
    rows.append(("compared", f"{found.devices:,} devices on {found.weights:,} weights"))
    rows.append(("false accusation", f"of any device, at most {found.limit:g}"))
    if found.aligned:
        rows.append(("put in order", f"{len(found.aligned)} tensors that were permuted or rescaled"))
    if found.missing:
        rows.append(("not found", f"{len(found.missing)} tensors: {', '.join(found.missing[:3])}"))
    return f"{leaked}\n{table(rows)}"


def _chance(log10: float) -> str:
    return f"chance of an innocent device at most 1e{log10:.1f}" if log10 < 0 else "what chance alone would give"


def _listed(path: Path) -> Iterator[str]:
    """Ids from a file, one on a line; empty lines count for nothing."""
    from unclone.files import read_bounded

    try:
        lines = read_bounded(path, _LIST_LIMIT, InputError).decode().splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8") from None
    return (line.strip() for line in lines if line.strip())


def _registered(url: str) -> Iterator[str]:
    """Key digests of a registry's devices and machines, of revoked ones too: those are the first to suspect."""
    with opened(url) as registry:
        import sqlalchemy as sa  # after the registry, which knows which extra is missing

        from unclone.fleet.schema import devices, machines

        for kind in (devices, machines):
            after = 0
            while True:
                query = sa.select(kind.c.id, kind.c.key).where(kind.c.id > after).order_by(kind.c.id).limit(_PAGE)
                with registry.reading() as connection:
                    rows = connection.execute(query).all()
                if not rows:
                    break
                yield from (row.key.hex() for row in rows)
                after = rows[-1].id


def _labels(url: str, found: list[str]) -> dict[str, str]:
    """The vendor's names of devices and machines, by key digest in hex."""
    with opened(url) as registry:
        keys = {name: bytes.fromhex(name) for name in found}
        rows = {name: registry.device(key) or registry.machine(key) for name, key in keys.items()}
    return {name: row.name for name, row in rows.items() if row is not None}
