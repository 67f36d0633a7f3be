"""Verbs of the device half: enroll and what looks at devices."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from unclone.cli.output import DeviceFile, Force, JsonFlag, Source, emit, note, noted_warnings, table
from unclone.records import Device

__all__ = ["describe_device", "device_json", "register"]

_STATES = {
    "good": "good",
    "refresh": "refresh soon: little margin is left",
    "late": "refresh now: the accepted failure is exceeded",
}


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(enroll)
    app.command()(health)
    app.command()(refresh)
    app.command()(design)
    app.command()(quality)
    app.command()(sources)


def enroll(
    source: Annotated[str, typer.Argument(metavar="URI", help="Where the PUF is, for example sim:sram?seed=7.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the device record goes.")],
    name: Annotated[str, typer.Option(help="Your name for the device.")] = "",
    readings: Annotated[int, typer.Option(min=1, max=100, help="How often to read the PUF.")] = 9,
    key: Annotated[int, typer.Option(metavar="BITS", help="Min-entropy the key needs.")] = 128,
    failure: Annotated[float, typer.Option(help="Accepted probability that one reconstruction fails.")] = 1e-9,
    ber: Annotated[
        float | None, typer.Option(help="Bit error rate to design for [default: the highest this memory carries].")
    ] = None,
    suite: Annotated[
        str, typer.Option(help="HPKE suite: x25519, or hybrid with ML-KEM-768 (quantum-safe).")
    ] = "x25519",
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Enrol a device: read its PUF and write a record. Only public data comes out."""
    import unclone
    from unclone.files import check_output

    check_output(output, force=force)
    with noted_warnings():
        device = unclone.enroll(
            source, name=name, readings=readings, key_bits=key, failure=failure, error_rate=ber, suite=suite
        )
    unclone.save_device(device, output, force=force)
    emit({"output": str(output), **device_json(device)}, as_json=as_json, text=describe_device(output, device))


def health(
    device: DeviceFile,
    source: Source,
    readings: Annotated[int, typer.Option(min=1, max=100, help="Readings to measure on.")] = 3,
    failure: Annotated[float, typer.Option(help="Accepted probability that one reconstruction fails.")] = 1e-9,
    as_json: JsonFlag = False,
) -> None:
    """Reconstruct, count the corrected errors, and say how much more noise the device bears."""
    import unclone

    report = unclone.health(device, source, readings=readings, failure=failure)
    correction = report.correction
    if correction is None:
        value: dict[str, Any] = {"state": report.state, "root": report.root}
        emit(
            value, as_json=as_json, text=f"the {report.root} gives the key; it is not a PUF and has no noise to measure"
        )
        return
    rows = [
        ("root", report.root),
        ("state", _STATES[report.state]),
        ("corrected", f"{correction.errors} errors and {correction.erasures} erasures in {correction.symbols} symbols"),
        ("bit error rate", f"{100 * correction.error_rate:.2f} % since enrolment"),
        ("bears up to", f"{100 * correction.reach:.1f} % at a failure of {failure:g}"),
        ("margin", f"{correction.margin:.1f} times the present noise"),
        ("predicted failure", f"1e{correction.failure_log10:.1f} for one reconstruction"),
    ]
    value = {"state": report.state, "root": report.root, "failure": failure, **asdict(correction)}
    emit(value, as_json=as_json, text=table(rows))


def refresh(
    device: DeviceFile,
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the new record goes.")],
    readings: Annotated[int, typer.Option(min=1, max=100, help="How often to read the PUF.")] = 9,
    failure: Annotated[float, typer.Option(help="Accepted probability that one reconstruction fails.")] = 1e-9,
    ber: Annotated[float | None, typer.Option(help="Bit error rate to design for.")] = None,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Make new helper data for the same device key after ageing; bound models go on."""
    import unclone
    from unclone.files import check_output

    check_output(output, force=force)
    with noted_warnings():
        new = unclone.refresh(device, source, readings=readings, failure=failure, error_rate=ber)
    unclone.save_device(new, output, force=force)
    emit({"output": str(output), **device_json(new)}, as_json=as_json, text=describe_device(output, new))


def design(
    ber: Annotated[float, typer.Option(help="Bit error rate between enrolment and reconstruction.")],
    key: Annotated[int, typer.Option(metavar="BITS", help="Key bits.")] = 128,
    failure: Annotated[float, typer.Option(help="Accepted probability that one reconstruction fails.")] = 1e-9,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Also look for a shorter code by rare-event simulation (a minute).")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Choose a code for unbiased response bits: how many it takes, and how often it fails."""
    from unclone.extractor.design import design as search

    found = search(ber, key, failure, simulate=simulate)
    rows = [
        ("code", f"{found.code['name']}, n = {found.code['n']}, k = {found.code['k']}, list {found.list_size}"),
        ("response bits", f"{found.response_bits} (finite-length bound {found.bound_bits})"),
        ("helper bytes", str(found.helper_bytes)),
        ("predicted failure", f"{found.predicted_failure:.1e}"),
        ("method", found.method),
    ]
    value = {"ber": ber, "failure": failure, **asdict(found)}
    emit(value, as_json=as_json, text=table(rows))


def quality(
    source: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="Addresses, or recordings; a recording may hold many devices.")
    ],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the report into one HTML file.")] = None,
    readings: Annotated[int, typer.Option(min=1, max=100, help="How often to read a source that is alive.")] = 9,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Report on the quality of one or many devices: bias, noise, uniqueness, entropy, and what looks wrong."""
    from unclone.assessment import assess_sources
    from unclone.files import check_output
    from unclone.quality import report_html

    if html is not None:
        check_output(html, force=force)
    report = assess_sources(source, readings=readings)
    if html is not None:
        report_html(report, html, force=force)
        note(f"drawn in {html}")
    emit(report.to_json(), as_json=as_json, text=report.to_text())


def sources(as_json: JsonFlag = False) -> None:
    """List the kinds of sources, and whether each is usable here."""
    from unclone.providers import list_providers
    from unclone.puf.base import list_sources

    found = [*list_sources(), *list_providers()]
    rows = [(source.scheme, f"{source.state}  ({source.entry})") for source in found]
    emit({"sources": [asdict(source) for source in found]}, as_json=as_json, text=table(rows))


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


def describe_device(output: Path, device: Device) -> str:
    """The public facts of a record, as lines for people."""
    report = device.report
    if device.root != "puf":
        rows = [
            ("record", str(output)),
            ("root", f"{device.root}, not a PUF"),
            ("public key", _shown(device.public_key)),
        ]
        return "\n".join([table(rows), *(f"note: {text}" for text in report.notes)])
    rows = [
        ("record", str(output)),
        ("root", device.root),
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


def _shown(public_key: bytes) -> str:
    """A public key for people: a hybrid one would fill the screen."""
    text = public_key.hex()
    return text if len(text) <= 64 else f"{text[:32]}... ({len(public_key):,} bytes)"
