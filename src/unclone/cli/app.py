"""The command ``unclone``: its verbs, and what an error becomes."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

from unclone._version import __version__
from unclone.cli import device_verbs, fleet_verbs, lab_verbs, machine_verbs, model_verbs, release_verbs, trace_verbs
from unclone.errors import UncloneError

__all__ = ["app", "run"]

app = typer.Typer(
    name="unclone",
    help="Bind a neural network to the chip it runs on.",
    epilog="Exit codes: 0 success, 2 usage or bad input, 3 not this device or altered key material, 4 altered model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
device_verbs.register(app)
model_verbs.register(app)
machine_verbs.register(app)
fleet_verbs.register(app)
release_verbs.register()
trace_verbs.register()
lab_verbs.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unclone {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Bind a neural network to the chip it runs on."""


class _Interrupt:
    """Remembers that Ctrl-C was pressed; raises ``KeyboardInterrupt`` as usual."""

    def __init__(self) -> None:
        self.seen = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        signal.default_int_handler(number, frame)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    interrupt = _Interrupt()
    try:
        result = app(list(arguments), standalone_mode=False)
    except UncloneError as problem:
        typer.echo(f"unclone: {problem}", err=True)
        return problem.exit_code
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("unclone: interrupted; nothing was left behind", err=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as problem:
        if interrupt.seen:  # what surfaced is a consequence of Ctrl-C in the middle of somebody's C code
            typer.echo("unclone: interrupted; nothing was left behind", err=True)
            return 130
        show = getattr(problem, "show", None)  # a click usage error knows how to print itself
        if show is None:
            raise
        show()
        return int(getattr(problem, "exit_code", 2))
    return result if isinstance(result, int) else 0
