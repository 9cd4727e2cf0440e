"""The keeper's part of live drills: follows the journals of its node while one runs, ends it, has its report made.

Rules: a drill that too few calls survive is ended by rule; one whose time is over is ended in the state as it has ended in
the workers. The report is made in a process of its own, from the journal, a moment later, so that calls under way can end. A
keeper that was away picks up what has no report yet.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from upeti.control import child, drills
from upeti.control.database import URL_VARIABLE
from upeti.control.drill_world import first_and_alone
from upeti.control.drills import DrillRow
from upeti.control.store import Store
from upeti.control.telemetry_journal import Attempt, InstanceReader, Position
from upeti.core.errors import JournalError
from upeti.core.events import CallRefused, Outcome
from upeti.gateway.faults import Kind, chosen
from upeti.gateway.log import Log
from upeti.journal.reader import instances, segments
from upeti.outlook.drill_life import Event, State
from upeti.outlook.drill_report import tally, tally_values
from upeti.outlook.live_drill import AttemptSeen, Fate, Judged, LiveDrill, RefusalSeen, recovery
from upeti.outlook.remaining import World

_LOOK_S: Final = 0.5
_RETRY_S: Final = 5.0
_SETTLE_S: Final = 2.0  # calls that met the fault at its last moment come to an end
_DECIDED_MIN: Final = 20  # of fewer calls a share says little
_FEATURES_MAX: Final = 20  # shown while it runs
_NS: Final = 10**9
_CLOCK_NS: Final = _NS  # the clock of a file's times is coarser than the journal's


def live_drill(row: DrillRow, world: World) -> LiveDrill:
    """Return the fold of a live drill, with nothing in it yet."""
    return LiveDrill(
        row.channel,
        first_and_alone(world, row.channel),
        lambda call_id: chosen(row.id, call_id, row.share_millionths),
        slow=row.kind == Kind.SLOW,
        status=int(row.fault.get("status", 0)),
    )


class Running:
    """A live drill, followed from its beginning."""

    def __init__(self, row: DrillRow, drill: LiveDrill, data_dir: Path) -> None:
        self.row = row
        self.drill = drill
        self._data_dir = data_dir
        self._readers: dict[str, InstanceReader] = {}

    def follow(self) -> None:
        """Read on. A journal that is damaged is left where it is: the report says what can be read."""
        for directory in instances(self._data_dir):
            reader = self._readers.get(directory.name)
            try:
                if reader is None:
                    reader = self._begin(directory)
                    if reader is None:
                        continue
                    self._readers[directory.name] = reader
                for attempts in reader.read():
                    self._take(attempts, reader.refused or [])
            except (JournalError, OSError):
                continue

    def _begin(self, directory: Path) -> InstanceReader | None:
        """Return a reader of the first segment that was written to since the drill began; None when there is none."""
        since_ns = self.row.from_ns - _CLOCK_NS
        paths = segments(directory)
        for number, path in enumerate(paths):
            if path.stat().st_mtime_ns >= since_ns:
                reader = InstanceReader(directory, Position(number, 0))
                reader.refused = []
                return reader
        return None

    def _take(self, attempts: list[Attempt], refused: list[CallRefused]) -> None:
        for one in attempts:
            if one.opened.at_ns >= self.row.from_ns:
                self.drill.add(seen_of(one))
        for call in refused:
            if call.at_ns >= self.row.from_ns:
                self.drill.refused(
                    RefusalSeen(call.call_id, call.at_ns, call.feature, call.tenant, call.route, call.code)
                )
        refused.clear()

    def judged(self) -> list[Judged]:
        pending: frozenset[str] = frozenset().union(*(reader.pending for reader in self._readers.values()))
        return self.drill.judged(pending, time.time_ns())

    def progress(self) -> dict[str, Any]:
        """Return how it stands, as people see it."""
        calls = self.judged()
        tallies = tally(calls)
        found = recovery(calls)
        features = sorted(tallies["feature"].items(), key=lambda item: (-item[1].calls, item[0]))[:_FEATURES_MAX]
        return {
            **tally_values(tallies["all"][""]),
            "met_the_fault": sum(one.met for one in calls),
            "outside_share_met": self.drill.outside,
            "features": [{"name": name, **tally_values(one)} for name, one in features],
            "first_answer_us": found.first_answer_us,
            "added_us_p50": found.added_us_p50,
            "added_us_p99": found.added_us_p99,
        }


def seen_of(attempt: Attempt) -> AttemptSeen:
    opened, settled = attempt.opened, attempt.settled
    return AttemptSeen(
        opened.call_id,
        opened.attempt,
        opened.at_ns,
        settled.at_ns,
        opened.channel,
        opened.model,
        opened.feature,
        opened.tenant,
        opened.route,
        settled.ended,
        settled.status,
        settled.first_byte_us,
        settled.meters,
        None if settled.outcome is Outcome.UNPRICED else settled.cost_pico,
        opened.currency,
    )


class DrillWatch:
    """One per keeper."""

    def __init__(
        self,
        store: Store,
        data_dir: Path,
        node: str,
        config: Path,
        world: Callable[[], World],
        refresh: Callable[[], None],
        log: Log,
    ) -> None:
        self._store = store
        self._data_dir = data_dir
        self._node = node
        self._config = config
        self._world = world
        self._refresh = refresh
        self._log = log
        self._running: dict[str, Running] = {}
        self._look = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def look(self) -> None:
        """A drill has begun or ended: look at once. Safe to call from any thread."""
        self._loop.call_soon_threadsafe(self._look.set)

    def progress(self, drill_id: str) -> dict[str, Any] | None:
        """Return how a drill that runs on this node stands."""
        running = self._running.get(drill_id)
        return running.progress() if running is not None else None

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            pause_s = _LOOK_S
            try:
                for row in await asyncio.to_thread(drills.unreported, self._store, self._node):
                    await self._attend(row)
            except Exception as error:  # a full disk, a database that is away: it may pass
                self._log.error("drills_failed", f"{type(error).__name__}: {error}; it is tried again")
                pause_s = _RETRY_S
            try:
                async with asyncio.timeout(pause_s):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()

    async def _attend(self, row: DrillRow) -> None:
        if row.state == State.RUNNING:
            await self._follow(row)
        elif time.time_ns() >= (row.ended_ns or row.until_ns) + int(_SETTLE_S * _NS):
            self._running.pop(row.id, None)
            await self._report(row)
        elif row.id in self._running:
            await asyncio.to_thread(self._running[row.id].follow)

    async def _follow(self, row: DrillRow) -> None:
        if time.time_ns() >= row.until_ns:
            await self._end(row, Event.TIME_OVER, drills.RULE_TIME, "its time is over")
            return
        running = self._running.get(row.id)
        if running is None:
            running = self._running[row.id] = Running(row, live_drill(row, self._world()), self._data_dir)
        await asyncio.to_thread(running.follow)
        fates = [one.fate for one in running.judged()]
        survived, lost = fates.count(Fate.SURVIVED), fates.count(Fate.LOST)
        if survived + lost >= _DECIDED_MIN and 100 * survived < row.abort_below * (survived + lost):
            why = f"{survived} of {survived + lost} calls survived, below {row.abort_below} %"
            await self._end(row, Event.SURVIVAL_LOW, drills.RULE_SURVIVAL, why)

    async def _end(self, row: DrillRow, event: Event, by: str, why: str) -> None:
        await asyncio.to_thread(drills.end, self._store, row.id, event, by=by, why=why)
        self._refresh()
        log = self._log.error if event is Event.SURVIVAL_LOW else self._log.info
        log("drill_ended", f"the drill {row.id} on {row.channel} has ended: {why}", channel=row.channel, drill=row.id)

    async def _report(self, row: DrillRow) -> None:
        program = [sys.executable, "-m", "upeti.control.drill_job", "--config", str(self._config)]
        program += ["--data-dir", str(self._data_dir), "--drill", row.id]
        process = await asyncio.create_subprocess_exec(
            *child.command(program, signal.SIGKILL),
            env=os.environ | {URL_VARIABLE: self._store.url},
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        if process.returncode:
            self._log.error(
                "drill_report_failed",
                f"the report of the drill {row.id} could not be made: {said.decode(errors='replace').strip()[-500:]}",
                drill=row.id,
            )
            await asyncio.sleep(_RETRY_S)


def shown(row: DrillRow, progress: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a drill as the control API and `--json` show it, without its report."""
    fields = msgspec.to_builtins(row)
    for name in ("envelope", "fault"):
        del fields[name]
    fields["share_percent"] = row.share_millionths / 10_000
    fields["progress"] = progress
    found: dict[str, Any] = fields
    return found
