"""A whole Upeti as processes in a folder, with fake providers: to be loaded, killed, restarted. Or one node of several.

Rules: everything is started as a user would start it (``upeti serve``, commands), nothing is looked at through
the code of what runs; it waits for what it asks for and never for a fixed time. Whatever is left is killed at
the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from upeti.sim.auditor import Journal, read_journal

READY_S: Final = 60.0
STOP_S: Final = 15.0  # no call of a test takes as long: what takes longer hangs
_POLL_S: Final = 0.02
_PROC: Final = Path("/proc")


class WorldError(AssertionError):
    """Something did not happen; the message has the last words of ``upeti serve``."""


@dataclass(frozen=True)
class BudgetState:
    """A budget as the state has it, in pico units."""

    limit_pico: int
    spent_pico: int
    leased_pico: int  # what holders may still spend


class World:
    """``async with World(folder) as world``; ``folder`` is empty, or one of an earlier world."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        state_url: str = "",
        beside: World | None = None,
    ) -> None:
        """``state_url`` is that of PostgreSQL; empty: SQLite. ``beside`` is another node, whose providers are called."""
        self.folder = folder
        self.state_url = state_url
        self.gateway_port = 0  # that the configuration names; 0: another at each start
        self.config = folder / "upeti.toml"
        self.data_dir = folder / "data"
        self.url = ""
        self.control = ""
        self.ports: dict[str, int] = beside.ports if beside is not None else {}  # provider → port
        self._environment = os.environ | dict(environment or {})
        self._server: asyncio.subprocess.Process | None = None
        self._providers: dict[str, asyncio.subprocess.Process] = {}
        self._beside = beside

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            await self.kill_all()
        for process in self._providers.values():
            _signal(process.pid, signal.SIGKILL)
            await process.wait()

    # -- providers --------------------------------------------------------------------------------------------

    async def start_provider(self, name: str, *options: str) -> int:
        """Start a fake provider, on its old port when it had one; return the port."""
        log = str(self.provider_log(name))
        command = ["-m", "upeti.sim.provider", "--port", str(self.ports.get(name, 0)), "--log", log, *options]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE, env=self._environment
        )
        self._providers[name] = process
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise WorldError(f"the provider {name} did not start")
        self.ports[name] = int(json.loads(line)["url"].rpartition(":")[2])
        return self.ports[name]

    async def kill_provider(self, name: str) -> None:
        """As ``kill -9`` does."""
        _signal(self._providers[name].pid, signal.SIGKILL)
        await self._providers[name].wait()

    def provider_log(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def provider_logs(self) -> list[Path]:
        if self._beside is not None:
            return self._beside.provider_logs()
        return [self.provider_log(name) for name in self._providers]

    # -- upeti serve ------------------------------------------------------------------------------------------

    async def start(self, *options: str) -> None:
        """Run ``upeti serve`` on the configuration and wait until it is ready. Raises ``WorldError``."""
        command = ["-m", "upeti.cli.main", "serve", "--config", str(self.config), *options]
        with self.log.open("ab") as log:
            self._server = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        try:
            await asyncio.wait_for(self._read_banner(), READY_S)
        except TimeoutError:
            raise self.error(f"it was not ready within {READY_S:.0f} s") from None

    async def _read_banner(self) -> None:
        assert self._server is not None
        assert self._server.stdout is not None
        while line := (await self._server.stdout.readline()).decode():
            words = line.split()
            if words[:1] == ["gateway"]:
                self.url = words[1].removesuffix("/v1")
            elif words[:1] == ["control"]:
                self.control = words[1].removesuffix("/docs")
            elif words == ["ready"]:
                return
        raise self.error("it ended while starting")

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop; return the exit code."""
        server = self._running()
        server.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """Wait until ``upeti serve`` has ended; return the exit code."""
        server = self._running()
        try:
            code = await asyncio.wait_for(server.wait(), STOP_S)
        except TimeoutError:
            raise self.error(f"it did not stop within {STOP_S:.0f} s") from None
        self._server = None
        return code

    def send(self, number: int) -> None:
        """Send a signal to the supervisor."""
        self._running().send_signal(number)

    async def kill_all(self) -> None:
        """End the supervisor and all its processes as a machine that loses its power does: none sees another end."""
        server = self._running()
        _signal(server.pid, signal.SIGSTOP)  # it would start again what dies
        children = self.children()
        for pid in children:
            _signal(pid, signal.SIGKILL)
        _signal(server.pid, signal.SIGKILL)
        await server.wait()
        self._server = None
        await self.until(lambda: not any(map(is_there, children)), "the death of everything")

    async def kill_supervisor(self) -> list[int]:
        """Kill the supervisor alone; return the processes it leaves, which are told to stop by the kernel."""
        left = list(self.children())
        _signal(self._running().pid, signal.SIGKILL)
        await self._running().wait()
        self._server = None
        return left

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to one of the processes; one that has ended already is no error."""
        _signal(pid, number)

    def children(self) -> dict[int, str]:
        """Return pid → command line of what the supervisor has started."""
        parent = self._running().pid
        found = {}
        for place in _PROC.iterdir():
            if place.name.isdigit():
                try:
                    if int((place / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                        found[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ")
                except OSError:
                    continue  # it has ended
        return found

    def workers(self) -> list[int]:
        return self._pids("upeti.gateway.worker")

    def keepers(self) -> list[int]:
        """One pid, or none while the keeper is being started again."""
        return self._pids("upeti.control.keeper")

    def _pids(self, module: str) -> list[int]:
        return sorted(pid for pid, command in self.children().items() if f"-m {module} " in command)

    def _running(self) -> asyncio.subprocess.Process:
        assert self._server is not None, "upeti serve is not running"
        return self._server

    def is_running(self) -> bool:
        return self._server is not None

    # -- looking ----------------------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        """What ``upeti serve`` and its processes wrote, over all starts."""
        return self.folder / "serve.log"

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of the log that are JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def error(self, what: str) -> WorldError:
        tail = "\n".join(self.log.read_text().splitlines()[-25:])
        return WorldError(f"{what}; the log of `upeti serve` ends:\n{tail}")

    async def until(self, look: Callable[[], object], what: str, seconds: float = 20.0) -> None:
        """Wait until ``look`` gives something true. Raises ``WorldError``."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not look():
            if asyncio.get_running_loop().time() > deadline:
                raise self.error(f"{what} did not come within {seconds:.0f} s")
            await asyncio.sleep(_POLL_S)

    async def command(self, *arguments: str) -> str:
        """Run another command on the same configuration; return what it printed. Raises ``WorldError``."""
        return await self.run("upeti.cli.main", *arguments, "--config", str(self.config))

    async def run(self, module: str, *arguments: str) -> str:
        """Run ``python -m MODULE``; return what it printed. Raises ``WorldError``."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", module, *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        out, errors = await process.communicate()
        if process.returncode:
            shown = " ".join((module, *arguments))
            raise WorldError(f"{shown}: exit code {process.returncode}: {out.decode()} {errors.decode()}")
        return out.decode()

    def journal(self) -> Journal:
        """Return the journal as the auditor reads it."""
        return read_journal(self.data_dir)

    def budgets(self) -> dict[str, BudgetState]:
        """Return the budgets, read from the state."""
        with _reading(self) as state:
            budgets = state.execute("SELECT id, limit_pico, spent_pico FROM budgets").fetchall()
            leases = state.execute("SELECT budget, granted_pico, posted_pico FROM leases").fetchall()
        leased: dict[str, int] = {}
        for budget, granted, posted in leases:
            leased[budget] = leased.get(budget, 0) + max(0, int(granted) - int(posted))
        return {name: BudgetState(int(limit), int(spent), leased.get(name, 0)) for name, limit, spent in budgets}

    def live_instances(self) -> set[str]:
        """Return the workers that said hello and whose journal has not been read to its end, by the state."""
        with _reading(self) as state:
            return {name for (name,) in state.execute("SELECT instance FROM instances WHERE state = 'live'")}

    def read_state(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query that both databases understand."""
        with _reading(self) as state:
            return [tuple(row) for row in state.execute(query)]


@contextmanager
def _reading(world: World) -> Iterator[Any]:
    """One consistent look at the state, beside whoever writes it."""
    if world.state_url:
        import psycopg  # an extra: only for several nodes

        with psycopg.connect(world.state_url, autocommit=True) as state:
            state.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield state
            state.execute("ROLLBACK")
        return
    file = f"file:{world.data_dir / 'state.sqlite3'}?mode=ro"
    with closing(sqlite3.connect(file, uri=True, isolation_level=None)) as state_file:
        state_file.execute("BEGIN")
        yield state_file


def is_there(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
