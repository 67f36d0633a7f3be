"""Export: everything as JSON lines, or the devices as CSV.

A line is an object with a ``type``: ``device`` or ``machine`` (with its whole ``record``), or one of ``FIELDS``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Final

import sqlalchemy as sa

from unclone.errors import ParameterError
from unclone.fleet.registry import BATCH, Registry
from unclone.fleet.rows import REVOKED, unpack_record
from unclone.fleet.schema import BY_KIND, devices, measurements, records

__all__ = ["FIELDS", "FORMATS", "export_lines", "export_registry"]

FORMATS: Final = ("jsonl", "csv")
FIELDS: Final[dict[str, dict[str, type]]] = {
    "model": {"name": str, "format": str, "digest": bytes, "notes": str, "added_at": int},
    "release": {
        "file_id": bytes,
        "model": str,
        "format": str,
        "created": int,
        "vendor_hint": bytes,
        "rekeys": bytes,
        "device": bytes,
        "notes": str,
    },
    "licence": {"release": bytes, "device": bytes, "text": str, "created": int, "not_after": int},
    "measurement": {"key": bytes, "at": int, "health": str, "error_rate_ppm": int, "margin_milli": int},
    "revocation": {"kind": str, "key": bytes, "reason": str},
}
"""The members of the other types of line; bytes stand there in hexadecimal."""
_CSV_COLUMNS: Final = (
    "key",
    "name",
    "root",
    "source",
    "response_bits",
    "error_rate_ppm",
    "residual_entropy_millibits",
    "failure_log10_milli",
    "health",
    "margin_milli",
    "measured_at",
    "added_at",
    "state",
    "reason",
)


def export_registry(registry: Registry, stream: BinaryIO, form: str = "jsonl") -> int:
    """Write everything as JSON lines, or the devices as CSV; the number of lines.

    The CSV has the records in its last column, so it can be imported again. Texts that a spreadsheet would take for a
    formula get an apostrophe before them.

    Raises:
        ParameterError: an unknown format.
        RegistryError: a stored record is damaged.
    """
    if form not in FORMATS:
        raise ParameterError(f"--format is one of {', '.join(FORMATS)}, not {form[:40]!r}")
    lines = export_lines(registry) if form == "jsonl" else _export_csv(registry)
    number = 0
    for line in lines:
        stream.write(line)
        number += 1
    return number - (form == "csv")


def export_lines(registry: Registry) -> Iterator[bytes]:
    """Everything as JSON lines, in an order in which it can be imported."""
    for kind in ("device", "machine"):
        for row, text in _records(registry, kind):
            yield b'{"type":"%s","record":%s}\n' % (row["type"].encode(), text)
    for kind in ("model", "release", "licence"):
        for row in _rows(registry, sa.select(BY_KIND[kind]), BY_KIND[kind].c.id):
            yield _line(kind, {name: row[name] for name in FIELDS[kind]})
    figures = sa.select(measurements, devices.c.key).join(devices, devices.c.id == measurements.c.owner)
    for row in _rows(registry, figures, measurements.c.seq):
        yield _line("measurement", {name: row[name] for name in FIELDS["measurement"]})
    for kind in ("device", "machine", "release", "licence"):  # last: who is revoked gets no licence
        table = BY_KIND[kind]
        for row in _rows(registry, sa.select(table).where(table.c.state == REVOKED), table.c.id):
            key = (
                row["release"] + row["device"] if kind == "licence" else row["file_id" if kind == "release" else "key"]
            )
            yield _line("revocation", {"kind": kind, "key": key, "reason": row["reason"]})


def _line(kind: str, value: Mapping[str, Any]) -> bytes:
    plain = {name: item.hex() if isinstance(item, bytes) else item for name, item in value.items()}
    return json.dumps({"type": kind, **plain}).encode("ascii") + b"\n"


def _export_csv(registry: Registry) -> Iterator[bytes]:
    def rendered(cells: Iterable[Any]) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerow(cells)
        return text.getvalue().encode()

    yield rendered([*_CSV_COLUMNS, "record"])
    for row, text in _records(registry, "device"):
        cells = [row[name].hex() if isinstance(row[name], bytes) else row[name] for name in _CSV_COLUMNS]
        yield rendered([*map(_no_formula, cells), text.decode("ascii")])


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def _records(registry: Registry, kind: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Every row of a kind, and its present record's canonical text."""
    table = BY_KIND[kind]
    joined = table.join(records, sa.and_(records.c.owner == table.c.id, records.c.digest == table.c.record))
    query = sa.select(table, records.c.body, sa.literal(kind).label("type")).select_from(joined)
    for row in _rows(registry, query, table.c.id):
        yield row, unpack_record(row["body"], row["record"])


def _rows(registry: Registry, query: sa.Select[Any], key: sa.Column[int]) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        with registry.reading() as connection:
            rows = connection.execute(query.where(key > after).order_by(key).limit(BATCH)).mappings().all()
        if not rows:
            return
        yield from (dict(row) for row in rows)
        after = rows[-1][key.name]
