"""The log: every change is an event, and every event carries the hash of all before it.

``hash = SHA-256(canonical JSON of the event's fields and of the previous hash)``; the first event follows 32 zero
bytes. An event names its subject, the digest of the row it leaves behind (``row``), the digest of the record stored
with it (``body``), and the earlier event of the same subject that it takes the place of (``supersedes``, 0 if none).
So rows can be held against the log, one by one, without replaying anything.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from unclone import canonical
from unclone.canonical import CanonicalError
from unclone.errors import ParameterError, RegistryError
from unclone.fleet.engine import insert_rows
from unclone.fleet.schema import events

__all__ = ["GENESIS", "Head", "Log", "event_hash", "parse_head", "read_head", "row_digest"]

GENESIS: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Head:
    """The last event's number and hash: who keeps it elsewhere can tell a log that was cut or rolled back."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


def parse_head(text: str) -> Head:
    """The head that ``str`` made.

    Raises:
        ParameterError: not ``NUMBER:HEX``.
    """
    number, _, digest = text.strip().partition(":")
    try:
        head = Head(int(number), bytes.fromhex(digest))
    except ValueError:
        head = Head(-1, b"")
    if head.seq < 0 or len(head.hash) != 32:
        raise ParameterError("a head is NUMBER:HASH as 'unclone fleet verify' prints it")
    return head


def read_head(connection: Connection) -> Head:
    """The present head, ``Head(0, GENESIS)`` for an empty log."""
    found = connection.execute(sa.select(events.c.seq, events.c.hash).order_by(events.c.seq.desc()).limit(1)).first()
    return Head(found.seq, bytes(found.hash)) if found else Head(0, GENESIS)


def row_digest(row: Mapping[str, Any]) -> bytes:
    """SHA-256 of a row's columns as canonical JSON, bytes as hexadecimal."""
    plain = {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
    return hashlib.sha256(canonical.encode(plain)).digest()


def event_hash(event: Mapping[str, Any], previous: bytes) -> bytes:
    """The hash of an event (its columns but ``hash``) after ``previous``."""
    plain = {
        "at": event["at"],
        "action": event["action"],
        "body": event["body"].hex(),
        "detail": event["detail"],
        "kind": event["kind"],
        "previous": previous.hex(),
        "row": event["row"].hex(),
        "seq": event["seq"],
        "subject": event["subject"].hex(),
        "supersedes": event["supersedes"],
    }
    return hashlib.sha256(canonical.encode(plain)).digest()


class Log:
    """Appends events inside one write transaction; ``flush`` writes them."""

    def __init__(self, connection: Connection, now: int | None = None) -> None:
        self._connection = connection
        self._head = read_head(connection)
        self._pending: list[dict[str, Any]] = []
        self.now = int(time.time()) if now is None else now

    @property
    def next(self) -> int:
        """The number that the next event gets."""
        return self._head.seq + 1

    def append(
        self,
        action: str,
        kind: str,
        subject: bytes,
        *,
        row: Mapping[str, Any] | None = None,
        body: bytes = b"",
        supersedes: int = 0,
        detail: Mapping[str, Any] | None = None,
    ) -> int:
        """Add an event and return its number. ``row`` is the subject's whole row as it will stand, its ``seq`` set."""
        try:
            event: dict[str, Any] = {
                "seq": self.next,
                "at": self.now,
                "action": action,
                "kind": kind,
                "subject": subject,
                "row": b"" if row is None else row_digest(row),
                "body": body,
                "supersedes": supersedes,
                "detail": canonical.encode(dict(detail)).decode("ascii") if detail else "",
            }
        except CanonicalError as problem:
            raise RegistryError(f"this {kind} cannot stand in a registry: {problem}") from None
        event["hash"] = event_hash(event, self._head.hash)
        self._head = Head(event["seq"], event["hash"])
        self._pending.append(event)
        return self._head.seq

    def flush(self) -> None:
        """Write what was appended."""
        if self._pending:
            insert_rows(self._connection, events, self._pending)
            self._pending = []
