"""What the verbs of fleets share: options, opening a registry, and texts made safe for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from unclone.fleet.registry import Registry

__all__ = ["DEFAULT", "Backend", "Database", "Scheduler", "Which", "Workers", "opened", "plain"]

Database = Annotated[
    str, typer.Option("--db", metavar="URL", envvar="UNCLONE_DB", help="The registry: a file, or a PostgreSQL URL.")
]
Workers = Annotated[int, typer.Option(min=0, help="Processes; 0 for one on every core.")]
Backend = Annotated[str, typer.Option(metavar="NAME", help="Who runs them: loky, dask or ray.")]
Scheduler = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Dask scheduler or Ray head; by default on this machine.")
]
Which = Annotated[str, typer.Argument(metavar="DEVICE", help="Its name, or 8 digits or more of its key digest.")]
DEFAULT = "fleet.db"


def opened(url: str, *, create: bool = False) -> Registry:
    """The registry, opened."""
    from unclone.fleet.registry import open_registry

    return open_registry(url, create=create)


def plain(text: str) -> str:
    """Without what could move a terminal's cursor."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
