"""The state: keys and sealed secrets, through SQLAlchemy Core on SQLite or PostgreSQL.

Rules: every change is one transaction that takes the write lock at its beginning, so that what it read is
still true when it writes; only leases lock the rows they change and nothing else, so that they do not wait for
the books. Whatever a worker must learn of raises the counter ``changes`` in the same transaction, which is what
the keeper watches. The file of SQLite is the owner's alone. Money in the state is in ``control/ledger``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Table, delete, exc, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from upeti.control import database, tables
from upeti.control.database import StoreError as StoreError
from upeti.control.keys import KeyRow

HEAD: Final = "0007"  # the newest migration; a test holds it equal to the scripts

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_LOCK: Final = 0x7570657469  # "upeti": of the one writer that `Store.writing` lets in (PostgreSQL)


class Store:
    """The state of one node or, in PostgreSQL, of all nodes. Safe to use from several threads and processes."""

    def __init__(self, data_dir: Path, *, durable: bool = False, url: str = "") -> None:
        """Open the state, made or brought up to date where needed.

        ``durable``: a commit in SQLite is on the disk when it returns; otherwise it survives the process, not the
        power. ``url`` is that of PostgreSQL (``database.url_of``); empty: SQLite in ``data_dir``. Raises ``StoreError``.
        """
        self.data_dir = data_dir
        self.url = url
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.engine = database.engine_of(data_dir, url, durable=durable)
        found = database.revision(self.engine)
        if found > HEAD:
            raise StoreError(
                f"the state was made by a newer Upeti (migration {found}, known is {HEAD}): upgrade this one"
            )
        if found != HEAD:
            self._migrate()

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that nobody else's write can come between."""
        with self.writing_rows() as connection:
            if self.url:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            yield connection

    @contextmanager
    def writing_rows(self) -> Iterator[Connection]:
        """A transaction that locks what it reads itself, by ``with_for_update`` and in the order of the ids.

        Only writers of the same rows wait for each other; SQLite knows no such locks and has one writer at a time.
        """
        # Each statement sees what was committed before it began: what was read under a lock is the newest there is.
        options: dict[str, Any] = {"isolation_level": "READ COMMITTED"} if self.url else {"upeti_write": True}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """A transaction after which workers must learn something."""
        with self.writing() as connection:
            yield connection
            raise_counter(connection, "changes")

    def changes(self) -> int:
        """Return a number that grows whenever workers must learn something."""
        return self._counter("changes")

    def created_s(self) -> int:
        """Return when this state was made, in seconds since 1970."""
        return self._counter("created_s")

    def next_version(self) -> int:
        """Return a number for a snapshot, higher than any before, over all restarts."""
        with self.writing() as connection:
            return raise_counter(connection, "snapshot")

    def _counter(self, name: str) -> int:
        query = select(tables.counters.c.value).where(tables.counters.c.name == name)
        with self.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def add_key(self, key: KeyRow) -> None:
        """Raises ``StoreError`` when the id or the digest is there already."""
        row = msgspec.structs.asdict(key) | {"routes": list(key.routes)}
        try:
            with self.changing() as connection:
                connection.execute(insert(tables.keys).values(row))
        except exc.IntegrityError:
            raise StoreError(f"there is a key `{key.id}` already: choose another id") from None

    def all_keys(self) -> list[KeyRow]:
        """Return all keys, revoked ones included, oldest first."""
        with self.engine.connect() as connection:
            query = select(tables.keys).order_by(tables.keys.c.created_ns, tables.keys.c.id)
            rows = connection.execute(query).mappings().all()
        return [KeyRow(**{**row, "routes": tuple(row["routes"])}) for row in rows]

    def revoke_key(self, key_id: str, at_ns: int | None = None) -> None:
        """Raises ``StoreError`` when there is no such key, or it is revoked already."""
        table = tables.keys
        where = (table.c.id == key_id) & (table.c.revoked_ns == 0)
        with self.changing() as connection:
            if not connection.execute(update(table).where(where).values(revoked_ns=at_ns or time.time_ns())).rowcount:
                raise StoreError(f"there is no valid key `{key_id}`: `upeti keys list` shows them")

    def set_secret(self, name: str, sealed: bytes, at_ns: int) -> None:
        """Put a sealed secret in place of what has its name."""
        with self.changing() as connection:
            connection.execute(delete(tables.secrets).where(tables.secrets.c.name == name))
            connection.execute(insert(tables.secrets).values(name=name, sealed=sealed, changed_ns=at_ns))

    def delete_secret(self, name: str) -> None:
        """Raises ``StoreError`` when there is no such secret."""
        with self.changing() as connection:
            if not connection.execute(delete(tables.secrets).where(tables.secrets.c.name == name)).rowcount:
                raise StoreError(f"there is no secret `{name}`: `upeti secrets list` shows them")

    def sealed_secrets(self) -> dict[str, bytes]:
        """Return name → sealed secret."""
        with self.engine.connect() as connection:
            query = select(tables.secrets.c.name, tables.secrets.c.sealed).order_by(tables.secrets.c.name)
            return {row.name: row.sealed for row in connection.execute(query)}

    def _migrate(self) -> None:
        # Only here: Alembic takes longer to import than most commands take to run.
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with self.writing() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def raise_counter(connection: Connection, name: str) -> int:
    """Raise a counter by one and return it."""
    table = tables.counters
    connection.execute(update(table).where(table.c.name == name).values(value=table.c.value + 1))
    return int(connection.execute(select(table.c.value).where(table.c.name == name)).scalar_one())


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose primary key is not there yet; another writer may be inserting the same ones."""
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
