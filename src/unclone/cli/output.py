"""Printing: JSON or lines on standard output, progress on standard error when a person watches."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from unclone.model.parallel import Progress

__all__ = [
    "DeviceFile",
    "Force",
    "JsonFlag",
    "LicenceFile",
    "Source",
    "emit",
    "note",
    "noted_warnings",
    "progress_bar",
    "table",
]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
LicenceFile = Annotated[
    Path | None,
    typer.Option("--licence", metavar="FILE", help="Licence of a release, in place of a slot in the model."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Source = Annotated[str, typer.Option("--source", metavar="URI", help="Where the PUF is, for example sim:sram?seed=7.")]
DeviceFile = Annotated[Path, typer.Option("--device", metavar="FILE", help="Device record of this device.")]


def emit(value: Mapping[str, Any], *, as_json: bool, text: str) -> None:
    """Print a result: ``value`` as JSON, or ``text``."""
    typer.echo(json.dumps(value, indent=2) if as_json else text)


def note(text: str) -> None:
    """Talk, on standard error."""
    typer.echo(text, err=True)


@contextmanager
def noted_warnings() -> Iterator[None]:
    """Warnings of the library, told as notes."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
        yield


def table(rows: list[tuple[str, str]]) -> str:
    """Lines of ``name  value``, aligned."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


@contextmanager
def progress_bar(task: str) -> Iterator[Progress | None]:
    """A progress callback for long work, or ``None`` when standard error is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        number = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(number, completed=done, total=total)
