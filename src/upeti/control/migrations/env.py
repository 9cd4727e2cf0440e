"""What Alembic runs around a migration: on the connection it is handed, in that connection's transaction."""

from __future__ import annotations

from alembic import context

from upeti.control.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite changes tables within transactions; Alembic only does not take that for granted. So a process
    # that dies half-way leaves the old shape.
    transactional_ddl=True,
)
context.run_migrations()
