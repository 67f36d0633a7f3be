"""The tables of a registry, as SQLAlchemy sees them; ``migrations/`` makes them.

Every row of a subject (device, machine, model, release, licence) carries ``id``, the number of the event that added it,
and ``seq``, the number of the event that set it last: the log names every row's digest (``log.py``). Times are seconds
since 1970 UTC, figures the integers of ``EnrollmentReport``.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

__all__ = [
    "BY_KIND",
    "devices",
    "events",
    "licences",
    "machines",
    "measurements",
    "metadata",
    "models",
    "records",
    "releases",
    "tallies",
]

metadata = MetaData()

Number = BigInteger().with_variant(Integer, "sqlite")  # an INTEGER PRIMARY KEY is SQLite's own row number


def _text(length: int) -> String:
    """Text compared byte by byte everywhere, so that a search by prefix can use an index."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def _subject() -> list[Column[int]]:
    return [Column("id", Number, primary_key=True, autoincrement=False), Column("seq", Number, nullable=False)]


def _state() -> list[Column[str]]:
    return [
        Column("state", _text(16), nullable=False),
        Column("reason", _text(256), nullable=False),
    ]


events = Table(
    "events",
    metadata,
    Column("seq", Number, primary_key=True, autoincrement=False),
    Column("at", Number, nullable=False),
    Column("action", _text(32), nullable=False),
    Column("kind", _text(16), nullable=False),
    Column("subject", LargeBinary(48), nullable=False),
    Column("row", LargeBinary(32), nullable=False),
    Column("body", LargeBinary(32), nullable=False),
    Column("supersedes", Number, nullable=False),
    Column("detail", Text, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)

devices = Table(
    "devices",
    metadata,
    *_subject(),
    Column("key", LargeBinary(32), nullable=False),
    Column("name", _text(256), nullable=False),
    Column("root", _text(256), nullable=False),
    Column("source", _text(256), nullable=False),
    Column("suite", _text(256), nullable=False),
    Column("public_key", LargeBinary(4096), nullable=False),
    Column("record", LargeBinary(32), nullable=False),
    Column("readings", Number, nullable=False),
    Column("response_bits", Number, nullable=False),
    Column("ones_ppm", Number, nullable=False),
    Column("error_rate_ppm", Number, nullable=False),
    Column("residual_entropy_millibits", Number, nullable=False),
    Column("key_bits", Number, nullable=False),
    Column("failure_log10_milli", Number, nullable=False),
    Column("health", _text(16), nullable=False),
    Column("margin_milli", Number, nullable=False),
    Column("measured_at", Number, nullable=False),
    Column("added_at", Number, nullable=False),
    *_state(),
    Index("devices_key", "key", unique=True),
    Index("devices_name", "name", "id"),
    Index("devices_health", "health", "id"),
    Index("devices_state", "state", "id"),
    Index("devices_seq", "seq", unique=True),
)

records = Table(
    "records",
    metadata,
    Column("seq", Number, primary_key=True, autoincrement=False),
    Column("owner", Number, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("records_owner", "owner", "seq"),
)

measurements = Table(
    "measurements",
    metadata,
    Column("seq", Number, primary_key=True, autoincrement=False),
    Column("owner", Number, nullable=False),
    Column("at", Number, nullable=False),
    Column("health", _text(16), nullable=False),
    Column("error_rate_ppm", Number, nullable=False),
    Column("margin_milli", Number, nullable=False),
    Index("measurements_owner", "owner", "seq"),
)

machines = Table(
    "machines",
    metadata,
    *_subject(),
    Column("key", LargeBinary(32), nullable=False),
    Column("name", _text(256), nullable=False),
    Column("machine_id", LargeBinary(16), nullable=False),
    Column("revision", Number, nullable=False),
    Column("need", Number, nullable=False),
    Column("parts", Number, nullable=False),
    Column("suite", _text(256), nullable=False),
    Column("public_key", LargeBinary(4096), nullable=False),
    Column("record", LargeBinary(32), nullable=False),
    Column("added_at", Number, nullable=False),
    *_state(),
    Index("machines_key", "key", unique=True),
    Index("machines_name", "name", "id"),
    Index("machines_seq", "seq", unique=True),
)

models = Table(
    "models",
    metadata,
    *_subject(),
    Column("name", _text(256), nullable=False),
    Column("format", _text(32), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("notes", _text(1024), nullable=False),
    Column("added_at", Number, nullable=False),
    Index("models_name", "name", unique=True),
    Index("models_seq", "seq", unique=True),
)

releases = Table(
    "releases",
    metadata,
    *_subject(),
    Column("file_id", LargeBinary(16), nullable=False),
    Column("model", _text(256), nullable=False),
    Column("format", _text(32), nullable=False),
    Column("vendor_hint", LargeBinary(32), nullable=False),
    Column("rekeys", LargeBinary(16), nullable=False),
    Column("device", LargeBinary(32), nullable=False),
    Column("notes", _text(1024), nullable=False),
    Column("created", Number, nullable=False),
    *_state(),
    Index("releases_file_id", "file_id", unique=True),
    Index("releases_model", "model", "id"),
    Index("releases_seq", "seq", unique=True),
)

licences = Table(
    "licences",
    metadata,
    *_subject(),
    Column("release", LargeBinary(16), nullable=False),
    Column("device", LargeBinary(32), nullable=False),
    Column("text", Text, nullable=False),
    Column("created", Number, nullable=False),
    Column("not_after", Number, nullable=False),
    *_state(),
    Index("licences_release", "release", "device", unique=True),
    Index("licences_device", "device", "id"),
    Index("licences_seq", "seq", unique=True),
)

tallies = Table(
    "tallies",
    metadata,
    Column("facet", _text(32), primary_key=True),
    Column("bucket", _text(64), primary_key=True),
    Column("number", Number, nullable=False),
)

BY_KIND: Final = {
    "device": devices,
    "machine": machines,
    "model": models,
    "release": releases,
    "licence": licences,
}
"""The table that holds the rows of each kind of subject."""
