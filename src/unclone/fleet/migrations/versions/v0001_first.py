"""The first version: devices, machines, models, releases, licences, and the log of events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["upgrade"]

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _subject() -> list[sa.Column[int]]:
    return [
        sa.Column("id", Number, primary_key=True, autoincrement=False),
        sa.Column("seq", Number, nullable=False),
    ]


def _state() -> list[sa.Column[str]]:
    return [
        sa.Column("state", _text(16), nullable=False),
        sa.Column("reason", _text(256), nullable=False),
    ]


def upgrade() -> None:
    """Make every table and index."""
    op.create_table(
        "events",
        sa.Column("seq", Number, primary_key=True, autoincrement=False),
        sa.Column("at", Number, nullable=False),
        sa.Column("action", _text(32), nullable=False),
        sa.Column("kind", _text(16), nullable=False),
        sa.Column("subject", sa.LargeBinary(48), nullable=False),
        sa.Column("row", sa.LargeBinary(32), nullable=False),
        sa.Column("body", sa.LargeBinary(32), nullable=False),
        sa.Column("supersedes", Number, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
    )
    op.create_table(
        "devices",
        *_subject(),
        sa.Column("key", sa.LargeBinary(32), nullable=False),
        sa.Column("name", _text(256), nullable=False),
        sa.Column("root", _text(256), nullable=False),
        sa.Column("source", _text(256), nullable=False),
        sa.Column("suite", _text(256), nullable=False),
        sa.Column("public_key", sa.LargeBinary(4096), nullable=False),
        sa.Column("record", sa.LargeBinary(32), nullable=False),
        sa.Column("readings", Number, nullable=False),
        sa.Column("response_bits", Number, nullable=False),
        sa.Column("ones_ppm", Number, nullable=False),
        sa.Column("error_rate_ppm", Number, nullable=False),
        sa.Column("residual_entropy_millibits", Number, nullable=False),
        sa.Column("key_bits", Number, nullable=False),
        sa.Column("failure_log10_milli", Number, nullable=False),
        sa.Column("health", _text(16), nullable=False),
        sa.Column("margin_milli", Number, nullable=False),
        sa.Column("measured_at", Number, nullable=False),
        sa.Column("added_at", Number, nullable=False),
        *_state(),
    )
    op.create_table(
        "records",
        sa.Column("seq", Number, primary_key=True, autoincrement=False),
        sa.Column("owner", Number, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "measurements",
        sa.Column("seq", Number, primary_key=True, autoincrement=False),
        sa.Column("owner", Number, nullable=False),
        sa.Column("at", Number, nullable=False),
        sa.Column("health", _text(16), nullable=False),
        sa.Column("error_rate_ppm", Number, nullable=False),
        sa.Column("margin_milli", Number, nullable=False),
    )
    op.create_table(
        "machines",
        *_subject(),
        sa.Column("key", sa.LargeBinary(32), nullable=False),
        sa.Column("name", _text(256), nullable=False),
        sa.Column("machine_id", sa.LargeBinary(16), nullable=False),
        sa.Column("revision", Number, nullable=False),
        sa.Column("need", Number, nullable=False),
        sa.Column("parts", Number, nullable=False),
        sa.Column("suite", _text(256), nullable=False),
        sa.Column("public_key", sa.LargeBinary(4096), nullable=False),
        sa.Column("record", sa.LargeBinary(32), nullable=False),
        sa.Column("added_at", Number, nullable=False),
        *_state(),
    )
    op.create_table(
        "models",
        *_subject(),
        sa.Column("name", _text(256), nullable=False),
        sa.Column("format", _text(32), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("notes", _text(1024), nullable=False),
        sa.Column("added_at", Number, nullable=False),
    )
    op.create_table(
        "releases",
        *_subject(),
        sa.Column("file_id", sa.LargeBinary(16), nullable=False),
        sa.Column("model", _text(256), nullable=False),
        sa.Column("format", _text(32), nullable=False),
        sa.Column("vendor_hint", sa.LargeBinary(32), nullable=False),
        sa.Column("rekeys", sa.LargeBinary(16), nullable=False),
        sa.Column("device", sa.LargeBinary(32), nullable=False),
        sa.Column("notes", _text(1024), nullable=False),
        sa.Column("created", Number, nullable=False),
        *_state(),
    )
    op.create_table(
        "licences",
        *_subject(),
        sa.Column("release", sa.LargeBinary(16), nullable=False),
        sa.Column("device", sa.LargeBinary(32), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created", Number, nullable=False),
        sa.Column("not_after", Number, nullable=False),
        *_state(),
    )
    op.create_table(
        "tallies",
        sa.Column("facet", _text(32), primary_key=True),
        sa.Column("bucket", _text(64), primary_key=True),
        sa.Column("number", Number, nullable=False),
    )
    op.create_index("devices_key", "devices", ["key"], unique=True)
    op.create_index("devices_name", "devices", ["name", "id"])
    op.create_index("devices_health", "devices", ["health", "id"])
    op.create_index("devices_state", "devices", ["state", "id"])
    op.create_index("devices_seq", "devices", ["seq"], unique=True)
    op.create_index("records_owner", "records", ["owner", "seq"])
    op.create_index("measurements_owner", "measurements", ["owner", "seq"])
    op.create_index("machines_key", "machines", ["key"], unique=True)
    op.create_index("machines_name", "machines", ["name", "id"])
    op.create_index("machines_seq", "machines", ["seq"], unique=True)
    op.create_index("models_name", "models", ["name"], unique=True)
    op.create_index("models_seq", "models", ["seq"], unique=True)
    op.create_index("releases_file_id", "releases", ["file_id"], unique=True)
    op.create_index("releases_model", "releases", ["model", "id"])
    op.create_index("releases_seq", "releases", ["seq"], unique=True)
    op.create_index("licences_release", "licences", ["release", "device"], unique=True)
    op.create_index("licences_device", "licences", ["device", "id"])
    op.create_index("licences_seq", "licences", ["seq"], unique=True)
