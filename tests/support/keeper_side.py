"""A real keeper process, and the worker's side of its socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from upeti.control.places import STATE_FILE
from upeti.core.amount import decimal_text
from upeti.gateway import keeper_link as link
from upeti.gateway import snapshot as snapshot_file
from upeti.gateway.snapshot import Snapshot
from upeti.money.budget_terms import BudgetTerms, key_terms

KEY = "upeti-key-of-the-tests"
CONFIG = """\
data_dir = "data"

[control]
port = 0

[[channel]]
name = "up"
kind = "openai_compatible"
base_url = "http://127.0.0.1:9/v1"
prices = "local"

[[route]]
name = "m"
candidate = [{ channel = "up", model = "m" }]

[[key]]
id = "k1"
tenant = "acme"
secret = "env:UPETI_TEST_KEY"
limit = "0.000000001"  # 1,000 pico
"""

T = TypeVar("T")
StateConnection = AbstractContextManager[Any]


def until(look: Callable[[], T], *, seconds: float = 10.0, what: str = "what was waited for") -> T:
    """Return the first true value of ``look``; an error while looking is "not yet"."""
    deadline = time.monotonic() + seconds
    error: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (OSError, ValueError, KeyError) as caught:
            error = caught
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come within {seconds} s ({error})")


def limits(**limits_pico: int) -> dict[str, BudgetTerms]:
    """Return the terms of keys with these limits, in pico, by root."""
    each = [key_terms(key, decimal_text(limit_pico)) for key, limit_pico in limits_pico.items()]
    return {terms.root: terms for terms in each}


class KeeperProcess:
    """A keeper on the data directory beside its configuration."""

    def __init__(self, folder: Path, config: str = CONFIG, *, state_url: str = "", node: str = "") -> None:
        """``state_url`` is that of PostgreSQL; empty: SQLite in the folder."""
        self.folder = folder
        self.state_url = state_url
        self._tail = f'\n[state]\nurl = "{state_url}"\n\n[node]\nname = "{node}"\n'
        self.config = folder / "upeti.toml"
        if not self.config.exists():
            self.write_config(config)
        self.data_dir = folder / "data"
        self.log_path = folder / "keeper.log"
        self.process: subprocess.Popen[bytes] | None = None

    def write_config(self, text: str) -> None:
        """Leave ``text``, a form of ``CONFIG``, as the configuration, with this keeper's state."""
        self.config.write_text(text + self._tail)

    def state_connection(self) -> StateConnection:
        """Return a connection to the state beside the keeper's own, in autocommit mode."""
        if self.state_url:
            return psycopg.connect(self.state_url, autocommit=True)
        return closing(sqlite3.connect(self.data_dir / STATE_FILE, isolation_level=None))

    def change_state(self, *statements: str) -> None:
        """Execute statements that are the same in both databases."""
        with self.state_connection() as state:
            for statement in statements:
                state.execute(statement)

    def saved_state(self) -> Callable[[], None]:
        """Copy the rows of the state; return what puts them back. Nobody else has it open."""
        names = ("instances", "budgets", "leases")  # in an order in which they can be made
        with self.state_connection() as state:
            saved = {name: state.execute(f"SELECT * FROM {name}").fetchall() for name in names}

        def restore() -> None:
            with self.state_connection() as state:
                for name in reversed(names):
                    state.execute(f"DELETE FROM {name}")
                for name, rows in saved.items():
                    for row in rows:
                        values = ", ".join(f"'{value}'" for value in row)
                        state.execute(f"INSERT INTO {name} VALUES ({values})")

        return restore

    @contextmanager
    def held_state(self) -> Iterator[None]:
        """Let no transaction on budgets end meanwhile."""
        with self.state_connection() as state:
            state.execute("BEGIN" if self.state_url else "BEGIN IMMEDIATE")
            if self.state_url:
                state.execute("LOCK TABLE budgets IN EXCLUSIVE MODE")
            yield
            state.execute("ROLLBACK")

    def start(self, *arguments: str, ready: bool = True) -> None:
        self.address_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "upeti.control.keeper", "--config", str(self.config), *arguments]
        environment = os.environ | {"UPETI_TEST_KEY": KEY}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environment)
        if ready:
            until(lambda: self.get("/healthz")["status"] == "ok", seconds=60, what=f"the keeper {self.log_text()}")

    def kill(self) -> None:
        """As ``kill -9`` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as the supervisor does; return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=20)

    def hang_up(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    @property
    def address_file(self) -> Path:
        return self.data_dir / "run" / "control-address"

    @property
    def socket(self) -> Path:
        return self.data_dir / "run" / "keeper.sock"

    def log_text(self) -> str:
        return self.log_path.read_text()

    def events(self) -> list[str]:
        """Return what was logged, in order, by name."""
        return [json.loads(line)["event"] for line in self.log_text().splitlines()]

    def snapshot(self) -> Snapshot:
        return snapshot_file.read(self.data_dir / "run" / "snapshot.msgpack")

    def get(self, path: str, **options: Any) -> Any:
        status, body = self.request("GET", path, **options)
        assert status == 200, (status, body)
        return json.loads(body)

    def request(self, method: str, path: str, *, token: str | None = None, body: object = None) -> tuple[int, str]:
        """Return status and body; ``token`` defaults to the right one."""
        right = (self.data_dir / "run" / "admin-token").read_text().strip()
        request = urllib.request.Request(
            f"http://{self.address_file.read_text().strip()}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {right if token is None else token}",
                "content-type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def budget(self, name: str = "key:k1") -> dict[str, str]:
        """Return a budget as it stands; empty when there is none."""
        return next((row for row in self.get("/v1/budgets") if row["id"] == name), {})

    def new_budget(self, limit: str = "0.000000001") -> str:
        """Make a key with a limit; return its budget, once the keeper knows it."""
        status, body = self.request("POST", "/v1/keys", body={"tenant": "acme", "limit": limit})
        assert status == 201, body
        name = f"key:{json.loads(body)['id']}"
        until(lambda: self.budget(name), seconds=2, what="the budget")
        return name


@contextmanager
def running_keeper(
    folder: Path, config: str = CONFIG, *, state_url: str = "", node: str = ""
) -> Iterator[KeeperProcess]:
    keeper = KeeperProcess(folder, config, state_url=state_url, node=node)
    keeper.start()
    try:
        yield keeper
    finally:
        if keeper.process is not None and keeper.process.poll() is None:
            keeper.kill()


class FakeWorker:
    """The worker's side of one link, driven by a test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = link.FrameReader()
        self._payloads: list[bytes] = []
        self.budget = "key:k1"

    @classmethod
    async def connect(
        cls,
        socket: Path,
        instance: str,
        *,
        budget: str = "key:k1",
        leases: dict[str, tuple[int, int]] | None = None,
    ) -> FakeWorker:
        """Connect, say hello, and take the version of the snapshot."""
        worker = cls(*await asyncio.open_unix_connection(str(socket)))
        worker.budget = budget
        worker.say(link.Hello(instance, 0, os.getpid(), leases or {}))
        await worker.hear_of_snapshot()
        return worker

    def say(self, *words: link.WorkerWord) -> None:
        self._writer.write(b"".join(map(link.frame, words)))

    async def hear(self, seconds: float = 5.0) -> link.KeeperWord:
        """Return the keeper's next word but for news of snapshots.

        Raises ``TimeoutError``, or ``EOFError`` when it hung up.
        """
        word = await self._next(seconds)
        while isinstance(word, link.SnapshotReady):
            word = await self._next(seconds)
        return word

    async def hear_of_snapshot(self) -> int:
        """Return the version of the next snapshot that the keeper tells of."""
        word = await self._next(5.0)
        assert isinstance(word, link.SnapshotReady), word
        return word.version

    async def _next(self, seconds: float) -> link.KeeperWord:
        while not self._payloads:
            data = await asyncio.wait_for(self._reader.read(65_536), seconds)
            if not data:
                raise EOFError
            self._payloads += self._frames.feed(data)
        return link.decode_keeper_word(self._payloads.pop(0))

    async def ask(self, need_pico: int, *, posted_pico: int = 0, budget: str = "") -> link.LeaseGrant:
        """Ask and return the answer; nothing else may come before it."""
        self.say(link.LeaseAsk(budget or self.budget, need_pico, posted_pico))
        word = await self.hear()
        assert isinstance(word, link.LeaseGrant), word
        return word

    def give_back(self, amount_pico: int, *, posted_pico: int = 0) -> None:
        """Answer a recall."""
        self.say(link.LeaseReturn(self.budget, amount_pico, posted_pico, recalled=True))

    def report(self, posted_pico: int) -> None:
        """Say what was posted, as workers do every second."""
        self.say(link.LeaseReturn(self.budget, 0, posted_pico))

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


Connect = Callable[..., Awaitable[FakeWorker]]
