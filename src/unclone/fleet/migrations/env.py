"""What Alembic runs: the migrations, on the connection that ``engine.py`` holds, in its transaction."""

from __future__ import annotations

from alembic import context

from unclone.fleet.schema import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("a registry is migrated by 'unclone fleet init --db URL'")
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
