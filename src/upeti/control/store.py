"""The state on disk: keys and sealed secrets, through SQLAlchemy Core on SQLite.

Rules: every change is one transaction that takes the write lock at its beginning, so that what it read is
still true when it writes; whatever a worker must learn of raises the counter ``changes`` in the same
transaction, which is what the keeper watches. The file is the owner's alone. Money in the state is in
``control/ledger``.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, create_engine, delete, event, exc, insert, select, update

from upeti.control import tables
from upeti.control.keys import KeyRow
from upeti.control.places import STATE_FILE
from upeti.core.errors import UpetiError

HEAD: Final = "0002"  # the newest migration; a test holds it equal to the scripts

# Writers hold the lock for milliseconds; a wait this long means that one of them hangs.
_BUSY_MS: Final = 10_000
_MIGRATIONS: Final = Path(__file__).with_name("migrations")


class StoreError(UpetiError):
    """The state cannot do what was asked. The message names the cure."""


class Store:
    """The state of one data directory. Safe to use from several threads and processes."""

    def __init__(self, data_dir: Path, *, durable: bool = False) -> None:
        """Open the state, made or brought up to date where needed.

        ``durable``: a commit is on the disk when it returns; otherwise it survives the process, not the
        power.
        """
        self.data_dir = data_dir
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = data_dir / STATE_FILE
        # Made here, because SQLite would make it with the umask's mode; its side files take the mode of
        # this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.engine = _engine(path, durable=durable)
        if _revision(path) != HEAD:
            self._migrate()

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that nobody else's write can come between."""
        with self.engine.connect().execution_options(upeti_write=True) as connection, connection.begin():
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


def _engine(path: Path, *, durable: bool) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_MS / 1000})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # Transactions are begun below: the driver's own begin comes too late, after the first read.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and then writes fails when another wrote in between, busy or not.
        write = connection.get_execution_options().get("upeti_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _revision(path: Path) -> str:
    """Return which migration the file was brought to, without SQLAlchemy's and Alembic's imports."""
    connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000)
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError:
        return ""
    finally:
        connection.close()
    return str(row[0]) if row else ""
