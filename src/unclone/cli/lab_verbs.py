"""Verbs of the lab: demo, and those of evaluate_verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unclone.cli import evaluate_verbs
from unclone.cli.output import JsonFlag, emit, note

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(demo)
    evaluate_verbs.register(app)


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the picture and the bound models go.")
    ] = Path("demo"),
    clones: Annotated[int, typer.Option(min=1, max=100, help="Clones to force the bound file open with.")] = 8,
    as_json: JsonFlag = False,
) -> None:
    """Enrol, bind and score real networks: the original, the genuine device, the bound file, clones."""
    from unclone.cli.demo_view import draw, render_table
    from unclone.lab.demo import run_demo

    results = run_demo(output, clones=clones, report=note)
    picture = output / "demo.png"
    draw(results, picture)
    value = {"picture": str(picture), "networks": [result.to_json() for result in results]}
    emit(value, as_json=as_json, text=f"{render_table(results)}\n\nBalanced accuracy; drawn in {picture}")
