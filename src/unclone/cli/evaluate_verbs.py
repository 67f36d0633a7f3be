"""Verbs of the lab: evaluate, attack."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unclone.cli.output import Force, JsonFlag, emit, note
from unclone.errors import ParameterError

if TYPE_CHECKING:
    from unclone.lab.evaluation import AttackRow, Evaluation
    from unclone.lab.jobs import TaskSource

__all__ = ["register"]

_Model = Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="Your own ONNX model, with --data.")]
_Task = Annotated[str | None, typer.Option("--task", metavar="NAME", help="A built-in task, or package.module:object.")]
_Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="NPZ", help="For MODEL: inputs (or x, or one array for each input) and labels (or y)."
    ),
]
_Metric = Annotated[str, typer.Option(help="For MODEL: accuracy, balanced-accuracy, f1 or mae.")]
_Scheme = Annotated[str, typer.Option(metavar="NAME", help="How the weights are locked.")]
_Seeds = Annotated[int | None, typer.Option(min=1, max=100, metavar="N", help="Repetitions, instead of the profile's.")]
_Backend = Annotated[
    str, typer.Option(metavar="NAME", help="loky (processes here), dask or ray (a cluster), sequential.")
]
_Workers = Annotated[int, typer.Option(metavar="N", help="Processes; -1 for one on each core.")]
_NoCache = Annotated[bool, typer.Option("--no-cache", help="Run everything anew, and keep nothing.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(evaluate)
    app.command()(attack)


def evaluate(
    model: _Model = None,
    task: _Task = None,
    data: _Data = None,
    metric: _Metric = "accuracy",
    profile: Annotated[str, typer.Option(metavar="NAME", help="quick, standard or full.")] = "standard",
    scheme: _Scheme = "unclone",
    attacks: Annotated[
        list[str] | None, typer.Option("--attack", metavar="NAME", help="Only this attack; repeat for several.")
    ] = None,
    seeds: _Seeds = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Labels of the attacker, instead of the profile's; below 1 a share: 50,0.2."),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the report into one HTML file.")] = None,
    backend: _Backend = "loky",
    workers: _Workers = -1,
    no_cache: _NoCache = False,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Attack a bound model in every known way, and say whether that beats training without it."""
    from unclone.files import check_output
    from unclone.lab.evaluation import evaluate as run

    source = _source(model, task, data, metric)
    if html is not None:
        check_output(html, force=force)
    with _progress("evaluating") as report:
        result = run(
            source,
            scheme=scheme,
            profile=profile,
            names=attacks or None,
            seeds=seeds,
            labels=_numbers(labels),
            cache=None if no_cache else _cache(),
            backend=backend,
            workers=workers,
            command=_command(),
            report=report,
        )
    if html is not None:
        from unclone.lab.report import write_report

        write_report(result.to_json(), html, force=force)
    emit(result.to_json(), as_json=as_json, text=_table(result))


def attack(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The attack.")] = None,
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="Your own ONNX model, with --data.")] = None,
    task: _Task = None,
    data: _Data = None,
    metric: _Metric = "accuracy",
    scheme: _Scheme = "unclone",
    labels: Annotated[int, typer.Option(min=0, metavar="N", help="Labelled samples the attacker has.")] = 500,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Device, samples and training.")] = 0,
    effort: Annotated[float, typer.Option(metavar="X", help="Multiplies the steps of training.")] = 1.0,
    show: Annotated[bool, typer.Option("--list", help="List attacks, schemes and tasks, and stop.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run one attack once, and its baseline with the same labels, seed and effort."""
    if show or name is None:
        _list(as_json)
        return
    from unclone.lab.evaluation import attack_once

    if not 0 < effort <= 100:
        raise ParameterError(f"effort is above 0 and at most 100, not {effort}")
    result = attack_once(_source(model, task, data, metric), name, scheme, labels, seed, effort)
    lines = "\n".join(f"{key}: {_shown(value)}" for key, value in result.items() if value not in ("", {}))
    emit(result, as_json=as_json, text=lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _source(model: Path | None, task: str | None, data: Path | None, metric: str) -> TaskSource:
    from unclone.lab.jobs import TaskSource

    if (model is None) == (task is None):
        raise ParameterError("name a task with --task, or give your own model with --data; one of the two")
    if model is None:
        if data is not None:
            raise ParameterError("--data belongs to a model of your own; a task brings its data")
        return TaskSource(str(task))
    if data is None:
        raise ParameterError(f"{model} needs --data FILE.npz: inputs and labels to score it on")
    return TaskSource(str(model), str(data), metric)


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"--labels takes numbers joined by commas, not {text!r}") from None


def _list(as_json: bool) -> None:
    from unclone.lab.attacks import ATTACKS
    from unclone.lab.schemes import SCHEMES
    from unclone.lab.tasks import TASKS

    value: dict[str, Any] = {
        "attacks": [
            {"name": item.name, "needs": item.needs, "reference": item.reference, "published": item.published}
            for item in ATTACKS.values()
        ],
        "schemes": [{"name": item.name, "reference": item.reference} for item in SCHEMES.values()],
        "tasks": [{"name": name, "about": about} for name, about in TASKS.items()],
    }
    lines = ["attacks"]
    lines += [f"  {item['name']:<24} {item['reference']}" for item in value["attacks"]]
    lines += ["schemes", *(f"  {item['name']:<24} {item['reference']}" for item in value["schemes"])]
    lines += ["tasks", *(f"  {item['name']:<24} {item['about']}" for item in value["tasks"])]
    emit(value, as_json=as_json, text="\n".join(lines))


def _cache() -> Path:
    from unclone.lab.data import cache_folder

    return cache_folder() / "lab"


def _command() -> str:
    return shlex.join(["unclone", *sys.argv[1:]])


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int, str], None] | None]:
    """Jobs done, and the time left, on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        number = bar.add_task(title, total=None)
        yield lambda done, total, what: bar.update(number, completed=done, total=total, description=what or title)


def _table(result: Evaluation) -> str:
    head = ("attack", "labels", result.task["metric"], "without", "spread", "gain", "verdict")
    rows = [head, *(_row(row) for row in result.attacks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for line in dict.fromkeys(f"{row.name} was not run: {row.reason}" for row in result.attacks if row.reason):
        note(line)
    return "\n".join([result.verdict, "", *lines])


def _row(row: AttackRow) -> tuple[str, ...]:
    if row.accuracy is None or row.baseline is None or row.gain is None or row.spread is None:
        return (row.name, str(row.labels), "", "", "", "", row.verdict)
    figures = (f"{row.accuracy:.3f}", f"{row.baseline:.3f}", f"{row.spread:.3f}", f"{row.gain:+.3f}")
    return (row.name, str(row.labels), *figures, row.verdict)
