"""Verbs of the model half: bind, inspect, restore."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from unclone.cli.device_verbs import describe_device, device_json
from unclone.cli.output import DeviceFile, Force, JsonFlag, LicenceFile, Source, emit, note, progress_bar, table
from unclone.cli.records_view import is_record, load_recipient, machine_json, machine_rows
from unclone.records import Device, DeviceKey, Header

__all__ = ["register", "restore_reported"]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(bind)
    app.command()(inspect)
    app.command()(restore)
    app.command(name="exec", context_settings={"allow_interspersed_args": False})(execute)


def bind(
    model: Annotated[Path, typer.Argument(help="An ordinary model file, or a folder that holds one; never altered.")],
    to: Annotated[
        list[Path], typer.Option("--to", metavar="FILE", help="Record of a device or machine to bind to; repeatable.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the bound model goes.")],
    bits: Annotated[
        str, typer.Option(metavar="finite|all", help="Mask all bits but those that keep floats finite, or all bits.")
    ] = "finite",
    cipher: Annotated[
        str, typer.Option(metavar="NAME", help="auto, aes-256-gcm, or chacha20-poly1305 for processors without AES.")
    ] = "auto",
    share: Annotated[
        float, typer.Option(metavar="NUMBER", help="Part of the weights to mask, above 0; below 1 it protects less.")
    ] = 1.0,
    select: Annotated[
        str, typer.Option(metavar="HOW", help="With --share: blocks, random, magnitude, first-layers or saliency.")
    ] = "blocks",
    saliency: Annotated[
        Path | None,
        typer.Option(metavar="NPZ", help="With --select saliency: how much each weight matters, by tensor name."),
    ] = None,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Bind a model file to one or many devices."""
    import unclone

    devices = [load_recipient(path) for path in to]
    scores = None if saliency is None else _load_saliency(saliency)
    with progress_bar("binding") as progress:
        header = unclone.bind(
            model,
            devices,
            output,
            bits=bits,
            cipher=cipher,
            share=share,
            select=select,
            saliency=scores,
            force=force,
            progress=progress,
        )
    if header.selection.select != "all":
        note(f"warning: {_price(header)}")
    masked = sum(tensor.nbytes for tensor in header.tensors)
    text = (
        f"{output}: {len(header.tensors)} tensors ({masked:,} bytes) masked for {_count(len(devices), 'device')}, "
        f"{len(header.clear)} left in clear"
    )
    emit({"output": str(output), "masked_bytes": masked, **header_json(header)}, as_json=as_json, text=text)


def inspect(
    model: Annotated[Path, typer.Argument(help="A bound model, or the record of a device or a machine.")],
    as_json: JsonFlag = False,
) -> None:
    """Print what a bound model or a record says of itself: bits, slots, what stayed in clear and why; root, parts."""
    import unclone

    if is_record(model):
        _inspect_record(model, as_json=as_json)
        return
    header = unclone.inspect(model)
    rows = [
        ("format", f"{header.format}, bound model version {header.version}"),
        ("file id", header.file_id.hex()),
        ("cipher", header.cipher),
        ("bits", header.bits),
        ("masked", f"{len(header.tensors)} tensors, {sum(tensor.nbytes for tensor in header.tensors):,} bytes"),
        ("slots", f"{len(header.slots)}: " + ", ".join(sorted({slot.suite for slot in header.slots}))),
        ("in clear", _count(len(header.clear), "tensor")),
    ]
    if header.selection.select != "all":
        rows.append(("in part", _price(header)))
    lines = [table(rows)]
    lines += [f"  {tensor.name}  {tensor.dtype}{list(tensor.shape)}: {tensor.reason}" for tensor in header.clear]
    lines.append("Not verified: that takes the device (unclone restore).")
    emit(header_json(header), as_json=as_json, text="\n".join(lines))


def _inspect_record(path: Path, *, as_json: bool) -> None:
    record = load_recipient(path)
    if isinstance(record, Device):
        emit(device_json(record), as_json=as_json, text=describe_device(path, record))
    else:
        emit(machine_json(record), as_json=as_json, text=table(machine_rows(record)))


def restore(
    model: Annotated[Path, typer.Argument(help="A bound model.")],
    device: DeviceFile,
    source: Source,
    readings: Annotated[int, typer.Option(min=1, max=100, help="Readings to combine against noise.")] = 1,
    licence: LicenceFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Reconstruct the key on this device, restore the model in memory and verify it. Writes nothing."""
    import unclone

    restore_reported(model, lambda: unclone.reconstruct(device, source, readings=readings), licence, as_json=as_json)


def restore_reported(model: Path, reconstruct: Callable[[], DeviceKey], licence: Path | None, *, as_json: bool) -> None:
    """Restore with the key that ``reconstruct`` gives, and say how long key and weights took."""
    import unclone

    start = time.perf_counter()
    with reconstruct() as key:
        reconstructed = time.perf_counter()
        with (
            progress_bar("restoring") as progress,
            unclone.restore(model, key, progress=progress, licence=licence) as restored,
        ):
            done = time.perf_counter()
            masked = sum(tensor.nbytes for tensor in restored.header.tensors)
            value = {
                "model": str(model),
                "verified": True,
                "tensors": len(restored.header.tensors),
                "masked_bytes": masked,
                "reconstruct_ms": round((reconstructed - start) * 1e3, 3),
                "restore_ms": round((done - reconstructed) * 1e3, 3),
            }
    text = (
        f"{model}: {value['tensors']} tensors ({masked:,} bytes) restored and verified; "
        f"key {value['reconstruct_ms']:.1f} ms, weights {value['restore_ms']:.1f} ms; nothing written"
    )
    emit(value, as_json=as_json, text=text)


def _price(header: Header) -> str:
    share = header.selection.share_ppm / 1e4
    return (
        f"only {share:g} % of the weights are masked ({header.selection.select}); whoever finds the others in clear "
        "needs fewer labels to repair the model: docs/security.md has the measured price"
    )


def _load_saliency(path: Path) -> dict[str, Any]:
    import numpy as np

    from unclone.errors import ParameterError

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as problem:
        raise ParameterError(f"{path} is no npz file of arrays: {problem}") from None


def header_json(header: Header) -> dict[str, Any]:
    """What the header says, without tags and sealed keys."""
    return {
        "format": header.format,
        "version": header.version,
        "file_id": header.file_id.hex(),
        "cipher": header.cipher,
        "bits": header.bits,
        "chunk": header.chunk,
        "selection": {
            "select": header.selection.select,
            "share": header.selection.share_ppm / 1e6,
            "block": header.selection.block,
        },
        "tensors": [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "nbytes": t.nbytes, "pattern": t.pattern.hex()}
            for t in header.tensors
        ],
        "clear": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "reason": t.reason} for t in header.clear],
        "slots": [{"suite": slot.suite, "hint": slot.hint.hex()} for slot in header.slots],
    }


def execute(
    program: Annotated[list[str], typer.Argument(help="After --: the program and its arguments.")],
    device: DeviceFile,
    source: Source,
    readings: Annotated[int, typer.Option(min=1, max=100, help="Readings to combine against noise.")] = 1,
    licence: LicenceFile = None,
    core_dumps: Annotated[
        bool, typer.Option("--core-dumps", help="Allow core dumps, which would hold the weights.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a program with every argument that is a bound model replaced by the restored model, in memory."""
    import unclone
    from unclone.runtime.program import run_program

    with unclone.reconstruct(device, source, readings=readings) as key:
        code = run_program(program, key, core_dumps=core_dumps, licence=licence)
    if as_json:
        emit({"program": program[0], "exit_code": code}, as_json=True, text="")
    raise typer.Exit(code)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
