"""The keeper: ``python -m upeti.control.keeper --config FILE``. One per data directory; started by ``upeti
serve``.

It compiles the snapshot that workers serve from and tells them of a new one; grants leases; closes what
dead workers left; turns closed journal segments into Parquet; answers the control port. It holds nothing
that is not in the state or the journal, so it may be killed at any moment: workers go on, and the next
keeper takes over.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import msgspec

from upeti import __version__
from upeti.control import child, config_file
from upeti.control.alerts import Watch
from upeti.control.case_clock import CaseClock
from upeti.control.cases import live_states
from upeti.control.compile import Placement
from upeti.control.database import URL_VARIABLE, url_of
from upeti.control.desk import Desk, Line
from upeti.control.drill_watch import DrillWatch
from upeti.control.drill_world import world_of
from upeti.control.kept_child import KeptChild
from upeti.control.latch_watch import LatchWatch
from upeti.control.learn_watch import LearnWatch
from upeti.control.ledger import Instance, Ledger
from upeti.control.links import Links
from upeti.control.metrics import Metrics, budget_samples, case_samples
from upeti.control.nodes import BEAT_S, Nodes
from upeti.control.peers import PeerLine
from upeti.control.places import Places, TakenError
from upeti.control.ports import free_port, hold
from upeti.control.recovery import Recovery
from upeti.control.retention import Retention
from upeti.control.snapshots import Snapshots
from upeti.control.store import Store
from upeti.control.students_watch import StudentsWatch, hangs
from upeti.core.config import Config
from upeti.core.errors import ConfigError, JournalError, UpetiError
from upeti.gateway.keeper_link import SnapshotReady
from upeti.gateway.log import Log
from upeti.journal.blocks import KEEPER_PREFIX
from upeti.outlook.remaining import World

if TYPE_CHECKING:
    import uvicorn

_WATCH_S: Final = 0.5  # a new key works, and a changed file is seen, within this and the time to compile
_SEEN_S: Final = 5.0  # how old what metrics say of budgets and cases may be
_REAP_S: Final = 0.5
_REAP_FIRST_S: Final = 5.0
_REAP_SOON_S: Final = 0.05  # after a link broke: a killed process is gone at once
_RETRY_S: Final = 5.0
_SETTLE_S: Final = 5.0
_STRANGERS_S: Final = 5.0  # until what a worker left that died before the keeper knew of it is posted
_PROJECT_FIRST_S: Final = 2.0  # what earlier runs left; starting itself comes first
_PROJECT_S: Final = 60.0
_LOCK_WAIT_S: Final = 10.0  # how long an earlier keeper that is stopping is waited for


class Keeper:
    """One keeper process."""

    def __init__(self, config: Path, placement: Placement | None, resume: Path | None) -> None:
        """``resume`` is the data directory of a keeper that ended while its workers go on serving.

        Raises ``ConfigError`` and ``TakenError``.
        """
        self._started_s = time.time()
        self.instance = f"{KEEPER_PREFIX}{token_hex(8)}"
        self.log = Log(self.instance, time.time_ns)
        self._resume = resume is not None
        document, refused = self._document(config, resume)
        self.places = Places(Path(document.config.data_dir))
        self.places.make()
        self._lock()
        self.admin_token = self.places.token()
        durable = document.config.journal.durability == "power"
        self.node = self.places.node(document.config.node.name)
        self.store = Store(self.places.data_dir, durable=durable, url=url_of(document.config.state))
        self.nodes = Nodes(self.store)
        self.ledger = Ledger(self.store, self.node.name)
        self.placement = placement or _placement_of(document)
        self._held = placement is not None  # the supervisor holds the ports of a placement
        self.snapshots = Snapshots(document, self.places, self.store, self.ledger, self.placement, self.log)
        self.snapshots.refused = refused
        self.budgets = Watch(self.store, self.ledger, self.log, lambda: self.snapshots.config.alerts)
        self.metrics = Metrics()
        self.metrics.own = self._samples
        self._seen: dict[str, float] = {}
        self.links = Links(self.metrics, self.log, lambda: self.snapshots.version)
        self.peers = PeerLine(self.store.url, self.node.name, self.log) if self.store.url else None
        self.desk = Desk(self.ledger, self._line(), self._ledger_failed)
        self.links.desk = self.desk
        self.links.on_lost = self._link_lost
        self.latches = LatchWatch(self.store, self.places.data_dir, self.links, self.refresh, self.log)
        self.links.on_cut_off = self.latches.hear
        self.drills = DrillWatch(
            self.store, self.places.data_dir, self.node.name, config, self.world, self.refresh, self.log
        )
        learning = lambda: self.snapshots.config.learning  # noqa: E731 - it changes with the configuration
        self.learning = LearnWatch(config, self.store, learning, self.log)
        self.recovery = Recovery(self.places.data_dir, self.ledger, self.instance, time.time_ns)
        self._recovering = ThreadPoolExecutor(1, "recovery")
        self._changed = asyncio.Event()
        self._reap_now = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    # -- life
    # ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until told to stop. Raises ``ConfigError``, ``OSError``."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stopping.set)
        self._loop.add_signal_handler(signal.SIGHUP, self.refresh)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # the supervisor starts us with it blocked
        control = hold(self.placement.control_host, self.placement.control_port, "[control] port", ours=self._held)
        host, port = control.getsockname()[:2]
        self.places.control_address.write_text(f"{host}:{port}\n")
        if self.peers is not None:
            await asyncio.to_thread(self.nodes.register, self.node, f"{host}:{port}")
        await asyncio.to_thread(self.snapshots.first, resume=self._resume)
        # Before anyone asks: what dead workers had leased may be all that is left. A long journal takes
        # longer than anyone should wait; then it goes on beside the asks.
        await asyncio.wait({self._start(self._reap())}, timeout=_REAP_FIRST_S)
        await self.links.listen(self.places.socket)
        for work in (
            self.desk.run(),
            self._watch(),
            self._reap_dead(),
            self._take_strangers(),
            self._project(),
            self.budgets.run(),
            self.latches.run(),
            self.drills.run(),
            self._audits(),
        ):
            self._start(work)
        for name, module, arguments in (
            ("telemetry", "upeti.control.telemetry", self._telemetry),
            ("capture", "upeti.control.capturer", self._capturer),
            ("feed", "upeti.control.feed_service", self._feed),
        ):
            self._start(KeptChild(name, module, arguments, self.store.url, self.log).run())
        students = "upeti.control.students_service"
        hang = lambda pid: hangs(self.places.run, pid, time.monotonic())  # noqa: E731 - said once
        self._start(KeptChild("students", students, self._students, self.store.url, self.log, hang).run())
        self._start(Retention(self.store, self.places.data_dir, lambda: self.snapshots.config.capture, self.log).run())
        self._start(self.learning.run())
        self._start(StudentsWatch(self.store, self.places.data_dir, self.node.name, self.log).run())
        conduct = lambda: self.snapshots.config.conduct  # noqa: E731 - it changes with the configuration
        self._start(CaseClock(self.store, self.places.data_dir, conduct, self.refresh, self.log).run())
        self._start(self._look_at_state())
        if self.peers is not None:
            self._start(self._beat())
            self._start(self.peers.run())
        server = await asyncio.to_thread(_control_server, self)
        self._start(server.serve(sockets=[control]))
        self.log.info("ready", "the keeper serves", control=f"{host}:{port}", snapshot=self.snapshots.version)
        await self._stopping.wait()
        await self._stop(server)

    async def _stop(self, server: uvicorn.Server) -> None:
        try:
            await asyncio.wait_for(self.desk.settle(), _SETTLE_S)
        except TimeoutError:
            pass  # what workers post is in their journals too
        self.links.close()
        await self._reap()  # workers that were stopped before this keeper
        await self._close_found(self.recovery.strangers)
        server.should_exit = True
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._loop.run_in_executor(self._recovering, self.recovery.end)
        self._recovering.shutdown()
        self.desk.close()
        self.store.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part of the keeper that fails ends the whole: the supervisor starts a new one."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.log.error("crashed", f"{type(task.exception()).__name__}: {task.exception()}")
            self._stopping.set()

    def _document(self, config: Path, resume: Path | None) -> tuple[config_file.Document, str]:
        """Return the configuration; to go on, the last good one and why the file's is refused just now."""
        try:
            return config_file.read(config), ""
        except ConfigError as error:
            good = Places(resume).good_config if resume is not None else None
            if good is None or not good.exists():
                raise
            self.log.error("config_refused", str(error))
            return config_file.parse(good.read_text(), config), str(error)

    def _lock(self) -> None:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                self.places.lock("keeper")
                return
            except TakenError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    # -- the snapshot
    # -------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.snapshots.config

    def world(self) -> World:
        """Return what is configured and permitted now, as drills look at it."""
        assert self.snapshots.current is not None
        return world_of(self.snapshots.current, self.snapshots.budgets.values(), time.time_ns())

    def refresh(self) -> None:
        """Look at the configuration and the keys now. Safe to call from any thread."""
        self._loop.call_soon_threadsafe(self._changed.set)

    async def _watch(self) -> None:
        while True:
            await within(_WATCH_S, self._changed)
            asked = self._changed.is_set()
            self._changed.clear()
            try:
                if await asyncio.to_thread(self.snapshots.update, force=asked):
                    self.links.broadcast(SnapshotReady(self.snapshots.version))
            except Exception as error:  # a full disk, a locked state: leases must go on, and it may pass
                self.log.error("snapshot_failed", f"{type(error).__name__}: {error}; it is tried again")
                await asyncio.sleep(_RETRY_S)

    # -- the dead
    # -----------------------------------------------------------------------------------------------

    def _link_lost(self) -> None:
        self._loop.call_later(_REAP_SOON_S, self._reap_now.set)

    async def _reap_dead(self) -> None:
        while True:
            await within(_REAP_S, self._reap_now)
            self._reap_now.clear()
            await self._reap()

    async def _reap(self) -> None:
        await self._close_found(self.recovery.dead)

    async def _take_strangers(self) -> None:
        while True:
            await self._close_found(self.recovery.strangers)
            await asyncio.sleep(_STRANGERS_S)

    async def _close_found(self, find: Callable[[], list[Instance]]) -> None:
        """Close what is dead; what cannot be closed now stays reserved, and is tried again."""
        try:
            for instance in await self._loop.run_in_executor(self._recovering, find):
                if instance.instance not in self.links.connected():
                    await self._close(instance)
        except Exception as error:  # a full disk, a locked state: leases must go on, and it may pass
            self.log.error("recovery_failed", f"{type(error).__name__}: {error}; it is tried again")
            await asyncio.sleep(_RETRY_S)

    async def _close(self, instance: Instance) -> None:
        try:
            count = await self._loop.run_in_executor(self._recovering, self.recovery.close, instance)
        except JournalError as error:
            if instance.instance not in self.recovery.damaged:
                raise  # it is the keeper's own that could not be written
            self.log.error("journal_damaged", f"{error}; its leases stay reserved", worker=instance.instance)
            return
        self.metrics.end(instance.instance)
        self.desk.freed()
        if count:
            self.log.warning("recovered", "open attempts were posted at their bound", attempts=count)

    # -- processes beside this one
    # ----------------------------------------------------------------------------------------------

    def _telemetry(self) -> list[str] | None:
        """Return the arguments of the telemetry process that is wanted now; None for none."""
        settings = self.snapshots.config.telemetry
        if not settings.otlp_endpoint:
            return None
        shown = msgspec.json.encode(settings).decode()
        return ["--data-dir", str(self.places.data_dir), "--settings", shown, "--node", self.node.name]

    def _capturer(self) -> list[str] | None:
        """Return the arguments of the process that takes exchanges; None when nobody is kept or watched."""
        if self.snapshots.capture is None:
            return None
        config = self.snapshots.config
        settings = hashlib.sha256(msgspec.json.encode((config.capture, config.conduct))).hexdigest()
        places = ["--data-dir", str(self.places.data_dir), "--config", str(self.snapshots.path)]
        return [*places, "--settings", settings]

    def _feed(self) -> list[str] | None:
        """Return the arguments of the feed service; None when none is wanted."""
        config = self.snapshots.config
        if not config.feed.enabled:
            return None
        shown = msgspec.json.encode((config.feed, config.key, config.journal.durability)).decode()
        return ["--config", str(self.snapshots.path), "--settings", shown]

    def _students(self) -> list[str] | None:
        """Return the arguments of the process that serves own models; None when none can be asked."""
        config = self.snapshots.config
        if not config.learning.enabled or not any(channel.kind == "student" for channel in config.channel):
            return None
        settings = msgspec.json.encode(config.learning).decode()
        places = ["--data-dir", str(self.places.data_dir), "--port", str(self.placement.students)]
        return [*places, "--settings", settings]

    async def _audits(self) -> None:
        """Follow the audits of own models, once there is a channel of theirs."""
        while not any(channel.kind == "student" for channel in self.config.channel):
            await asyncio.sleep(_WATCH_S)
        # Only now: numerical libraries are for who has own models.
        module = await asyncio.to_thread(import_module, "upeti.control.audit_watch")
        learning = lambda: self.config.learning  # noqa: E731 - it changes with the configuration
        await module.AuditWatch(self.store, learning, self.refresh, self.log).run()

    # -- other nodes
    # ----------------------------------------------------------------------------------------------

    def _line(self) -> Line:
        """Return how the desk reaches workers and other nodes."""
        line, peers = self.links.line(), self.peers
        if peers is None:
            return line
        peers.on_recall = lambda budget: self.desk.recalled_by_node(budget)
        peers.on_freed = lambda word: self.desk.node_freed(word.sender, word.budget, every=word.all)
        tell_freed = lambda budget, every: peers.freed(budget, every=every)  # noqa: E731
        return msgspec.structs.replace(line, recall_node=peers.recall, tell_freed=tell_freed)

    async def _beat(self) -> None:
        """Tell the other nodes that this one is there, and learn who they are."""
        while True:
            try:
                self.ledger.peers = await asyncio.to_thread(self.nodes.beat, self.node.name)
            except Exception as error:  # what it stops is told by who needs it
                self.log.warning("not_seen", f"the other nodes cannot see this one: {type(error).__name__}: {error}")
            await asyncio.sleep(BEAT_S)

    # -- the journal
    # ----------------------------------------------------------------------------------------------

    async def _project(self) -> None:
        """Have closed segments turned into Parquet and posted, in a process that gives its memory back."""
        program = [sys.executable, "-m", "upeti.control.jobs", "project"]
        arguments = ["--data-dir", str(self.places.data_dir), "--keeper", self.instance]
        done: object = None
        pause_s = _PROJECT_FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = _PROJECT_S
            # Once an hour in any case: other nodes are told up to when everything is posted.
            try:
                now = (await asyncio.to_thread(self.recovery.closable), int(time.time()) // 3600)
            except Exception as error:  # a database that is away: it may pass
                self.log.error("projection_failed", f"{type(error).__name__}: {error}; it is tried again")
                continue
            if now == done:
                continue  # loading the libraries alone takes a second of processor time
            process = await asyncio.create_subprocess_exec(
                *child.command([*program, *arguments], signal.SIGKILL),
                stderr=asyncio.subprocess.PIPE,
                env=os.environ | {URL_VARIABLE: self.store.url},
            )
            try:
                _, errors = await process.communicate()
            except asyncio.CancelledError:
                process.kill()
                raise
            if process.returncode:
                self.log.error("projection_failed", errors.decode(errors="replace").strip())
            else:
                done = now

    # -- what others ask
    # ----------------------------------------------------------------------------------------

    def ready(self) -> dict[str, Any]:
        workers = len(self.links.connected())
        version = self.snapshots.version
        return {"ready": bool(workers and version), "workers": workers, "snapshot": version}

    def status(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "node": self.node.name,
            "nodes_seen": sorted(self.ledger.peers.nodes),
            "started_s": int(self._started_s),
            "config": str(self.snapshots.path),
            "config_error": self.snapshots.refused,
            "warnings": self.snapshots.warnings,
            "snapshot": self.snapshots.version,
            "workers": self.links.connected(),
            "damaged_journals": self.recovery.damaged,
        }

    def metrics_text(self) -> str:
        return self.metrics.text()

    def _samples(self) -> dict[str, float]:
        return {
            "upeti_keeper_workers": len(self.links.connected()),
            "upeti_keeper_snapshot_version": self.snapshots.version,
            "upeti_keeper_configs_refused_total": self.snapshots.refusals,
            "upeti_keeper_lease_asks_total": self.desk.asks,
            "upeti_keeper_lease_refusals_total": self.desk.refusals,
            "upeti_keeper_recovered_attempts_total": self.recovery.recovered,
            **self._seen,
        }

    async def _look_at_state(self) -> None:
        """A scrape does not wait for the database."""
        known = True
        while True:
            try:
                rows = await asyncio.to_thread(self.ledger.budgets)
                states = await asyncio.to_thread(live_states, self.store)
                self._seen = {**budget_samples(rows, time.time_ns()), **case_samples(states)}
                known = True
            except Exception as error:  # a full disk, a database that is away: it may pass
                if known:
                    self.log.warning("state_unknown", f"{type(error).__name__}: {error}; metrics show older figures")
                known = False
            await asyncio.sleep(_SEEN_S)

    def _ledger_failed(self, error: Exception) -> None:
        self.log.error("ledger_failed", f"leases cannot be written: {type(error).__name__}: {error}")


async def within(seconds: float, event: asyncio.Event) -> None:
    """Wait for ``event``, at most so long.

    Not by ``asyncio.wait_for``: before Python 3.12 it forgets a cancellation that comes together with the event (CPython
    issue 86296), and a keeper that is to stop would go on.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _control_server(keeper: Keeper) -> uvicorn.Server:
    # Only now: workers that wait for leases do not wait for FastAPI's half second of imports.
    import uvicorn

    from upeti.control.api import create_app

    class ControlServer(uvicorn.Server):
        """uvicorn within a loop whose signals are the keeper's."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return ControlServer(uvicorn.Config(create_app(keeper), log_config=None, access_log=False, lifespan="off"))


def _placement_of(document: config_file.Document) -> Placement:
    gateway, control = document.config.gateway, document.config.control
    return Placement(gateway.host, gateway.port, control.host, control.port, gateway.workers, students=free_port())


async def serve(config: Path, placement: Placement | None, resume: Path | None) -> None:
    """Run a keeper until it is told to stop. Raises ``UpetiError``."""
    await Keeper(config, placement, resume).run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="upeti-keeper", description="The keeper; started by `upeti serve`.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--placement", help="where the processes are, as JSON")
    parser.add_argument("--resume", type=Path, help="data directory whose workers go on serving")
    arguments = parser.parse_args()
    os.umask(0o077)
    placement = msgspec.json.decode(arguments.placement, type=Placement) if arguments.placement else None
    try:
        asyncio.run(serve(arguments.config, placement, arguments.resume))
    except UpetiError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
