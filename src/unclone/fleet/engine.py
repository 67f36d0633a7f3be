"""Opening a registry's database: addresses, SQLite's settings, and migrations."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from unclone.errors import MissingExtraError, RegistryError

try:
    import sqlalchemy as sa
    from sqlalchemy import Connection, Engine, event
    from sqlalchemy.exc import ArgumentError, DBAPIError
except ImportError:
    raise MissingExtraError("sqlalchemy", "fleet") from None

__all__ = ["DEFAULT_URL", "SCHEMA_VERSION", "WRITE", "insert_rows", "open_engine", "upgrade"]

DEFAULT_URL: Final = "fleet.db"
SCHEMA_VERSION: Final = "0001"
WRITE: Final = {"unclone_write": True}
_BUSY_SECONDS: Final = 60
_LOCK: Final = 0x756E636C  # any number, the same for every writer


def open_engine(url: str, *, create: bool = False) -> Engine:
    """An engine on the registry at ``url``, its schema brought up to date.

    Args:
        url: a path (SQLite), or an SQLAlchemy URL of SQLite or PostgreSQL.
        create: make the registry if there is none.

    Raises:
        RegistryError: there is no registry, it is of a newer release, or the server does not answer.
        MissingExtraError: the driver is not installed.
    """
    parsed = _parse(url)
    shown = parsed.render_as_string(hide_password=True)
    if parsed.get_backend_name() == "sqlite":
        _check_file(parsed, create=create)
    # Errors must not show parameters: a statement's text is enough to find the fault.
    try:
        engine = sa.create_engine(parsed, hide_parameters=True, **_options(parsed))
    except ImportError:
        raise MissingExtraError("psycopg", "postgresql") from None
    event.listen(engine, "begin", _begin)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
    try:
        with engine.connect().execution_options(**WRITE) as connection, connection.begin():
            upgrade(connection, create=create)
    except DBAPIError as problem:
        engine.dispose()
        raise RegistryError(f"cannot open the registry {shown}: {_reason(problem)}") from None
    except RegistryError as problem:
        engine.dispose()
        raise RegistryError(f"{shown}: {problem}") from None
    return engine


def _parse(url: str) -> sa.URL:
    if "://" not in url:
        return sa.URL.create("sqlite", database=str(Path(url).expanduser()))
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise RegistryError("--db is neither a path nor a URL such as postgresql://user@host/name") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise RegistryError(f"a registry lives in SQLite or PostgreSQL, not in {parsed.get_backend_name()[:40]!r}")
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    return parsed


def _check_file(parsed: sa.URL, *, create: bool) -> None:
    if not parsed.database or parsed.database == ":memory:":
        raise RegistryError("a registry is a file: give its path")
    path = Path(parsed.database)
    if not path.exists() and not create:
        raise RegistryError(f"there is no registry at {path}: make one with 'unclone fleet init --db {path}'")
    if not path.parent.is_dir():
        raise RegistryError(f"the folder {path.parent} does not exist")


def _options(parsed: sa.URL) -> dict[str, Any]:
    if parsed.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _BUSY_SECONDS, "check_same_thread": False}}
    return {"pool_pre_ping": True}


def _configure_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    """Write-ahead log, every commit on the disk, and nothing that a hostile file could run."""
    connection.isolation_level = None  # SQLAlchemy's recipe: it says BEGIN, not the driver
    try:
        for pragma in ("trusted_schema=OFF", "journal_mode=WAL", "synchronous=FULL", "cache_size=-65536"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.OperationalError as problem:
        if "readonly" not in str(problem):
            raise


def _begin(connection: Connection) -> None:
    """One writer at a time, whichever the database: the log's next number is the last one plus one."""
    write = connection.get_execution_options().get("unclone_write", False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
    elif write:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def upgrade(connection: Connection, *, create: bool = False) -> None:
    """Bring the schema to this release's version, inside the connection's transaction.

    Raises:
        RegistryError: the database is empty and ``create`` is not given, holds something else, or is of a newer
            release.
    """
    tables = set(sa.inspect(connection).get_table_names())
    if "alembic_version" not in tables:
        if tables:
            raise RegistryError("this database holds something else; a registry wants a database of its own")
        if not create:
            raise RegistryError("this database holds no registry; make one with 'unclone fleet init'")
        version = ""
    else:
        version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() or ""
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise RegistryError(
            f"the registry has schema {version[:16]}; this release knows {SCHEMA_VERSION}: upgrade unclone"
        )
    try:
        from alembic import command
        from alembic.config import Config
    except ImportError:
        raise MissingExtraError("alembic", "fleet") from None
    config = Config()
    config.set_main_option("script_location", os.fspath(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _reason(problem: DBAPIError) -> str:
    """The first line of what the driver says; it holds no password."""
    return (str(problem.orig).strip().splitlines() or ["no reason given"])[0][:200]


def insert_rows(connection: Connection, table: sa.Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert whole rows past SQLAlchemy's conversion of each value, which takes longer than the database itself."""
    names = table.c.keys()
    statement = sa.insert(table).compile(dialect=connection.dialect, column_keys=names)
    if statement.positional:
        connection.exec_driver_sql(str(statement), [tuple(row[name] for name in names) for row in rows])
    else:
        connection.exec_driver_sql(str(statement), [{name: row[name] for name in names} for row in rows])
