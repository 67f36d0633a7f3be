"""Verbs of machines made of parts: ``unclone machine enroll | reconstruct | restore | replace-part``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unclone.cli.model_verbs import restore_reported
from unclone.cli.output import Force, JsonFlag, LicenceFile, emit, table
from unclone.cli.records_view import machine_json, machine_rows
from unclone.errors import ParameterError

if TYPE_CHECKING:
    from unclone.machine import Machine

__all__ = ["register"]

MachineFile = Annotated[Path, typer.Option("--machine", metavar="FILE", help="Machine record.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the machine record goes.")]
Readings = Annotated[int, typer.Option(min=1, max=100, help="Readings of each part to combine against noise.")]
PartSources = Annotated[
    list[str], typer.Option("--part", metavar="NAME=URI", help="Where a part is; repeat for as many as are needed.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    group = typer.Typer(help="Machines made of parts: any k of n enrolled devices give the key.", no_args_is_help=True)
    group.command()(enroll)
    group.command()(reconstruct)
    group.command()(restore)
    group.command(name="replace-part")(replace_part)
    app.add_typer(group, name="machine")


def enroll(
    need: Annotated[int, typer.Option(metavar="K", help="How many parts give the machine's key, 2 or more.")],
    part: Annotated[
        list[str], typer.Option("--part", metavar="NAME=FILE", help="A part's name and device record; repeat.")
    ],
    output: Output,
    name: Annotated[str, typer.Option(help="Your name for the machine.")] = "",
    suite: Annotated[str, typer.Option(help="HPKE suite of the machine: x25519, or hybrid.")] = "x25519",
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a machine of enrolled devices, from their records alone. Only public data comes out."""
    from unclone.files import check_output
    from unclone.machine import enroll_machine, save_machine

    check_output(output, force=force)
    machine = enroll_machine(_pairs(part, "--part", "FILE"), need=need, name=name, suite=suite)
    save_machine(machine, output, force=force)
    _show(output, machine, as_json=as_json)


def reconstruct(machine: MachineFile, part: PartSources, readings: Readings = 1, as_json: JsonFlag = False) -> None:
    """Try whether the parts at hand give the machine's key. Writes and shows no secret."""
    from unclone.machine import load_machine, reconstruct_machine

    record, sources = load_machine(machine), _pairs(part, "--part", "URI")
    start = time.perf_counter()
    reconstruct_machine(record, sources, readings=readings).wipe()
    elapsed = round((time.perf_counter() - start) * 1e3, 3)
    value = {"machine": str(machine), "reconstructed": True, "need": record.need, "reconstruct_ms": elapsed}
    text = f"{machine}: {record.need} of {len(record.parts)} parts gave the key in {elapsed:.1f} ms"
    emit(value, as_json=as_json, text=text)


def restore(
    model: Annotated[Path, typer.Argument(help="A bound model.")],
    machine: MachineFile,
    part: PartSources,
    readings: Readings = 1,
    licence: LicenceFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Reconstruct the key from the parts at hand, restore the model in memory and verify it. Writes nothing."""
    from unclone.machine import reconstruct_machine

    sources = _pairs(part, "--part", "URI")
    restore_reported(model, lambda: reconstruct_machine(machine, sources, readings=readings), licence, as_json=as_json)


def replace_part(
    machine: MachineFile,
    part: Annotated[str, typer.Option("--part", metavar="NAME=FILE", help="The part, and its new device's record.")],
    present: Annotated[
        list[str], typer.Option("--present", metavar="NAME=URI", help="Where a part is that is there; repeat.")
    ],
    output: Output,
    readings: Readings = 1,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Put another device in a part's place while enough parts are present; bound models go on."""
    from unclone import machine as machines
    from unclone.files import check_output

    check_output(output, force=force)
    ((name, record),) = _pairs([part], "--part", "FILE").items()
    sources = _pairs(present, "--present", "URI")
    new = machines.replace_part(machine, sources, part=name, device=record, readings=readings)
    machines.save_machine(new, output, force=force)
    _show(output, new, as_json=as_json)


def _show(output: Path, machine: Machine, *, as_json: bool) -> None:
    value: dict[str, Any] = {"output": str(output), **machine_json(machine)}
    emit(value, as_json=as_json, text=table([("record", str(output)), *machine_rows(machine)]))


def _pairs(texts: Sequence[str], option: str, what: str) -> dict[str, str]:
    """``NAME=VALUE`` texts as a dict, in their order."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ParameterError(f"{option} {text!r} is not NAME={what}")
        if name in pairs:
            raise ParameterError(f"{option} names {name!r} twice")
        pairs[name] = value
    return pairs
