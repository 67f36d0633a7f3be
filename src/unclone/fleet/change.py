"""What every change of a registry is made of: its event, its counts, and the rows that are there already."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from unclone.errors import ParameterError
from unclone.fleet.log import Log
from unclone.fleet.rows import device_tallies
from unclone.fleet.schema import tallies

__all__ = ["Change", "Counts", "check_texts", "measurement_tallies", "row_tallies", "shown", "subject_of"]

_CHUNK: Final = 500  # keys in one IN list


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of what was handed in: the same content twice is ``unchanged``, never a second row."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.added + other.added, self.updated + other.updated, self.unchanged + other.unchanged)

    @property
    def total(self) -> int:
        """How many were handed in."""
        return self.added + self.updated + self.unchanged


def subject_of(kind: str, row: Mapping[str, Any]) -> bytes:
    """What the log calls the row: key digest, file id, file id and key digest, or SHA-256 of a model's name."""
    if kind == "model":
        return hashlib.sha256(row["name"].encode()).digest()
    if kind == "release":
        return bytes(row["file_id"])
    if kind == "licence":
        return bytes(row["release"]) + bytes(row["device"])
    return bytes(row["key"])


def row_tallies(kind: str, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The (facet, bucket) pairs under which a row is counted."""
    if kind == "device":
        return device_tallies(row)
    return [(f"{kind}s", "all"), (f"{kind}s", row["state"])] if "state" in row else [(f"{kind}s", "all")]


def measurement_tallies(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs under which a measurement is counted: state and margin, by month."""
    month = time.strftime("%Y-%m", time.gmtime(found["at"]))
    return [
        (f"health {month}", found["health"]),
        (f"margin {month}", f"{min(found['margin_milli'] // 500, 40) / 2:04.1f}"),
    ]


class Change:
    """The frame of one write transaction. ``flush`` comes last."""

    def __init__(self, connection: Connection, now: int | None = None) -> None:
        self._connection = connection
        self.log = Log(connection, now)
        self._tallies: Counter[tuple[str, str]] = Counter()

    def flush(self) -> None:
        """Write the events and the tallies."""
        self.log.flush()
        changed = [
            {"facet": facet, "bucket": bucket, "number": number}
            for (facet, bucket), number in sorted(self._tallies.items())
            if number
        ]
        if changed:
            insert = (sqlite.insert if self._connection.dialect.name == "sqlite" else postgresql.insert)(tallies)
            statement = insert.on_conflict_do_update(
                index_elements=["facet", "bucket"], set_={"number": tallies.c.number + insert.excluded.number}
            )
            self._connection.execute(statement, changed)
        self._tallies.clear()

    def _known(
        self, table: sa.Table, column: sa.Column[Any], keys: Sequence[Any], condition: Any = None
    ) -> dict[Any, dict[str, Any]]:
        found: dict[Any, dict[str, Any]] = {}
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), _CHUNK):
            query = sa.select(table).where(column.in_(wanted[start : start + _CHUNK]))
            if condition is not None:
                query = query.where(condition)
            for row in self._connection.execute(query).mappings():
                found[row[column.name]] = dict(row)
        return found

    def _count(self, kind: str, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> None:
        for pair in row_tallies(kind, new):
            self._tallies[pair] += 1
        for pair in row_tallies(kind, old) if old else ():
            self._tallies[pair] -= 1


def shown(key: Any) -> str:
    """A key for people: the first digits of a digest, or the name."""
    if isinstance(key, tuple):
        return " ".join(shown(part) for part in key)
    return key.hex()[:16] if isinstance(key, bytes) else repr(str(key)[:60])


def check_texts(table: sa.Table, row: Mapping[str, Any]) -> None:
    """SQLite takes texts of any length, and PostgreSQL none with NUL: what goes into one shall go into the other."""
    for column in table.c:
        value, limit = row.get(column.name), getattr(column.type, "length", None)
        if isinstance(value, str | bytes) and limit is not None and len(value) > limit:
            raise ParameterError(f"{column.name} of a {table.name[:-1]} is longer than {limit}")
        if isinstance(value, str) and ("\0" in value or any("\ud800" <= character <= "\udfff" for character in value)):
            raise ParameterError(f"{column.name} of a {table.name[:-1]} holds a character that no registry takes")
