"""Where the state is: SQLite in the data directory, or PostgreSQL that several nodes share.

Rules: whoever reads sees one moment, whoever writes sees what every earlier writer has written. A commit that PostgreSQL
has confirmed is on its disk, whatever ``[journal] durability`` says: the database may lose its power alone, and a lease
that it forgot would be granted twice. A session that hangs within a transaction is ended by the database, so that its
locks stop nobody for long.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url, text

from upeti.control.places import STATE_FILE
from upeti.core.config import State
from upeti.core.errors import ConfigError, UpetiError

DRIVER: Final = "postgresql+psycopg"
URL_VARIABLE: Final = "UPETI_STATE_URL"  # tells a job of the keeper where the state is; it may hold a password

# Writers hold the lock for milliseconds; a wait this long means that one of them hangs.
_BUSY_MS: Final = 10_000
# A keeper that was stopped within a transaction loses it before who waits for its locks gives up.
_HANG_MS: Final = 5_000
_CONNECT_S: Final = 5
# A network that swallows packets is noticed within about ten seconds (PostgreSQL documentation, 34.1.2).
_KEEPALIVE: Final[dict[str, int]] = {
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class StoreError(UpetiError):
    """The state cannot do what was asked. The message names the cure."""


def url_of(state: State) -> str:
    """Return the URL that ``[state]`` names, its password included; empty for SQLite. Raises ``ConfigError``."""
    if not state.url:
        return ""
    url = make_url(state.url).set(drivername=DRIVER)
    if state.password is not None:
        url = url.set(password=_password(state.password))
    return url.render_as_string(hide_password=False)


def shown(url: str) -> str:
    """Return ``url`` for messages: without its password."""
    return make_url(url).set(drivername="postgresql")._replace(password=None).render_as_string()


def connection_text(url: str) -> str:
    """Return ``url`` as the driver itself takes it, with the time-outs of every connection."""
    made = make_url(url).set(drivername="postgresql")
    limits = {"connect_timeout": _CONNECT_S, **_KEEPALIVE}
    return made.update_query_dict({name: str(value) for name, value in limits.items()}).render_as_string(
        hide_password=False
    )


def engine_of(data_dir: Path, url: str, *, durable: bool) -> Engine:
    """Return an engine; SQLite's file is made where it is not there yet. Raises ``StoreError``."""
    if url:
        return _postgresql(make_url(url).set(drivername=DRIVER))
    path = data_dir / STATE_FILE
    # Made here, because SQLite would make it with the umask's mode; its side files take the mode of this one. A file that
    # is there is not opened: to close it would drop the locks of every connection that this process has to it.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    return _sqlite(path, durable=durable)


def revision(engine: Engine) -> str:
    """Return which migration the state was brought to, without Alembic's imports; empty for a new one.

    Raises ``StoreError`` when the database cannot be reached.
    """
    if engine.dialect.name == "sqlite":
        return _sqlite_revision(Path(engine.url.database or ""))
    try:
        with engine.connect() as connection:
            if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
                return ""
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")
    except exc.OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        where = shown(engine.url.render_as_string(hide_password=False))
        raise StoreError(
            f"the state at {where} cannot be reached ({reason}); start PostgreSQL, or correct [state]"
        ) from None


def is_there(data_dir: Path, url: str) -> bool:
    """Tell whether a state was ever made there; nothing is made. Raises ``StoreError``."""
    if not url:
        return (data_dir / STATE_FILE).exists()
    engine = engine_of(data_dir, url, durable=False)
    try:
        return bool(revision(engine))
    finally:
        engine.dispose()


def _password(place: str) -> str:
    kind, _, name = place.partition(":")
    if kind == "env":
        value = os.environ.get(name, "")
        if not value:
            raise ConfigError(
                f"state.password: the environment variable {name} is not set; set it where Upeti is started"
            )
        return value
    try:
        return Path(name).read_text().strip()
    except OSError as error:
        raise ConfigError(f"state.password: {name} cannot be read ({error.strerror}); make it readable") from None


def _postgresql(url: URL) -> Engine:
    timeouts = f"-c lock_timeout={_BUSY_MS} -c idle_in_transaction_session_timeout={_HANG_MS} -c synchronous_commit=on"
    arguments: dict[str, Any] = {"connect_timeout": _CONNECT_S, "options": timeouts, **_KEEPALIVE}
    # What it says of connections that are lost, the caller is told by an error.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    try:
        # A query of one transaction sees one moment, as it does in SQLite; the ping makes good a connection that was
        # lost while nobody used it.
        return create_engine(url, isolation_level="REPEATABLE READ", pool_pre_ping=True, connect_args=arguments)
    except ModuleNotFoundError:
        raise StoreError(
            "the state is in PostgreSQL and its driver is not installed: `pip install 'upeti[postgres]'`"
        ) from None


def _sqlite(path: Path, *, durable: bool) -> Engine:
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


def _sqlite_revision(path: Path) -> str:
    connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000)
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError:
        return ""
    finally:
        connection.close()
    return str(row[0]) if row else ""
