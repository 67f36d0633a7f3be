"""Verbs of the device half: enroll and what looks at devices."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from unclone.cli.output import Force, JsonFlag, emit, table
from unclone.records import Device

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(enroll)


def enroll(
    source: Annotated[str, typer.Argument(metavar="URI", help="Where the PUF is, for example sim:sram?seed=7.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the device record goes.")],
    name: Annotated[str, typer.Option(help="Your name for the device.")] = "",
    readings: Annotated[int, typer.Option(min=1, max=100, help="How often to read the PUF.")] = 9,
    key: Annotated[int, typer.Option(metavar="BITS", help="Min-entropy the key needs.")] = 128,
    failure: Annotated[float, typer.Option(help="Accepted probability that one reconstruction fails.")] = 1e-9,
    ber: Annotated[
        float | None, typer.Option(help="Bit error rate to design for [default: 0.15, or more where measured].")
    ] = None,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Enrol a device: read its PUF and write a record. Only public data comes out."""
    import unclone
    from unclone.files import check_output

    check_output(output, force=force)
    device = unclone.enroll(source, name=name, readings=readings, key_bits=key, failure=failure, error_rate=ber)
    unclone.save_device(device, output, force=force)
    emit({"output": str(output), **device_json(device)}, as_json=as_json, text=_describe(output, device))


def device_json(device: Device) -> dict[str, Any]:
    """The public facts of a record, as JSON values in plain units."""
    report = asdict(device.report)
    return {
        "name": device.name,
        "root": device.root,
        "source": device.source,
        "suite": device.suite,
        "public_key": device.public_key.hex(),
        "helper_scheme": device.helper.scheme,
        "helper_bytes": len(json.dumps(dict(device.helper.fields))),
        "report": {**report, "notes": list(device.report.notes)},
    }


def _describe(output: Path, device: Device) -> str:
    report = device.report
    rows = [
        ("record", str(output)),
        ("source", f"{device.source}, {report.response_bits:,} bits, {report.readings} readings"),
        ("ones", f"{report.ones_ppm / 1e4:.1f} %"),
        ("bit error rate", f"{report.error_rate_ppm / 1e4:.2f} %"),
        ("min-entropy", f"{report.raw_entropy_millibits / 1e3:,.0f} bits in the cells used"),
        ("after debiasing", f"{report.debiased_entropy_millibits / 1e3:,.0f} bits"),
        (
            "after the sketch",
            f"{report.residual_entropy_millibits / 1e3:,.1f} bits left; the key needs {report.key_bits}",
        ),
        ("predicted failure", f"1e{report.failure_log10_milli / 1e3:.1f} for one reconstruction"),
    ]
    return "\n".join([table(rows), *(f"note: {text}" for text in report.notes)])
