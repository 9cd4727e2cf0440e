"""The state of one worker, and what happens by the clock: ticks, snapshots, draining."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import msgspec

from upeti.core.errors import CallError, ConfigError, NotFound, Overloaded
from upeti.gateway import live, snapshot
from upeti.gateway.auth import identify
from upeti.gateway.call import Call
from upeti.gateway.capture import Capture
from upeti.gateway.cut_off import CutOff
from upeti.gateway.entra import token_source
from upeti.gateway.failure import TimedOut
from upeti.gateway.fiber import Fiber
from upeti.gateway.holds import Attempt, Holds
from upeti.gateway.keeper_client import KeeperClient
from upeti.gateway.keeper_link import LeaseGrant
from upeti.gateway.log import Log
from upeti.gateway.metrics import WorkerMetrics
from upeti.gateway.rehearsal import Rehearsals
from upeti.journal.writer import JournalWriter

if TYPE_CHECKING:
    from upeti.gateway.server import ClientConnection

# How often deadlines are looked at. A scan of 5,000 calls takes 0.3 ms, so a shorter tick buys little.
_TICK_S = 0.1
# How often idle leases go back and posted sums are reported: the delay with which another worker can use them
# without a recall.
_LEASES_S = 1.0


class Gateway:
    """One worker's state. Everything in it lives in one thread."""

    own_paths = frozenset({b"/healthz", b"/readyz", b"/metrics"})

    def __init__(self, data_dir: Path, worker: int, loop: asyncio.AbstractEventLoop) -> None:
        """Raises ``ConfigError`` when the snapshot cannot be used."""
        self.data_dir = data_dir
        self.worker = worker
        self.loop = loop
        self.now_ns = time.time_ns
        self.draw = random.random
        self.instance = f"w{worker}-{token_hex(8)}"
        self._call_prefix = "req_" + self.instance.partition("-")[2]
        self._calls = 0
        self.log = Log(self.instance, self.now_ns)
        self.metrics = WorkerMetrics()
        self.connections: set[ClientConnection] = set()
        self.fibers: set[Fiber] = set()
        self.open_attempts: set[Attempt] = set()
        self.draining = False
        self._snapshot_path = data_dir / "run" / "snapshot.msgpack"
        first = self._read_snapshot()
        self.limits = first.gateway
        self.idle_timeout_s = first.gateway.idle_timeout_ms / 1000
        self.view = live.build(first, None, loop, data_dir, token_source)
        self.journal = JournalWriter(
            data_dir,
            self.instance,
            loop=loop,
            now_ns=self.now_ns,
            open_attempts=lambda: tuple([attempt.opened for attempt in self.open_attempts]),
            durable=first.journal.durability == "power",
            segment_bytes=first.journal.segment_bytes,
            segment_seconds=first.journal.segment_seconds,
        )
        self.keeper = KeeperClient(data_dir / "run" / "keeper.sock", self.instance, worker, loop)
        self.holds = Holds(self.keeper, self.now_ns, self.journal.when_durable)
        self.keeper.on_grant = self._granted
        self.cut_off = CutOff(self, self.view.latches, self.view.signs)
        self.rehearsals = Rehearsals(self)
        self.rehearsals.put_on(self.view)
        self.keeper.on_recall = self.holds.recalled
        self.keeper.on_cut_off = self.cut_off.heard
        self.keeper.on_snapshot = self.swap
        self.keeper.on_connected = self._connected
        self.keeper.leases = self.holds.leases
        self.capture = Capture(data_dir / "run" / "capture.sock", loop, self.now_ns)
        self.capture.follow(first.capture)
        self._leases_due_s = 0.0

    def next_call(self) -> tuple[int, str]:
        """Return the next call's number and its id, unique over all workers."""
        self._calls = number = self._calls + 1
        return number, f"{self._call_prefix}{number:08x}"

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def _read_snapshot(self) -> snapshot.Snapshot:
        try:
            return snapshot.read(self._snapshot_path)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"{self._snapshot_path}: {error}; start Upeti with `upeti serve`, which writes it"
            ) from error

    def swap(self) -> None:
        """Take the newest snapshot. What is being served goes on under the old one; a bad one changes nothing."""
        try:
            new = self._read_snapshot()
            if new.version == self.view.snapshot.version:
                return
            view = live.build(new, self.view, self.loop, self.data_dir, token_source)
        except ConfigError as error:
            self.log.error("snapshot_refused", str(error))
            return
        self.rehearsals.put_on(view)
        self.view = view
        self.holds.frozen(new.frozen)
        self.capture.follow(new.capture)
        self.limits = new.gateway
        self.idle_timeout_s = new.gateway.idle_timeout_ms / 1000
        self.log.info("snapshot", "a new snapshot is in use", version=new.version)

    # -- by the clock --------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        self.loop.call_later(_TICK_S, self.tick)  # first: whatever goes wrong below, deadlines are looked at again
        now_s = self.loop.time()
        self.metrics.fold()
        for fiber in [fiber for fiber in self.fibers if fiber.deadline < now_s]:
            fiber.interrupt(TimedOut())
        for connection in [connection for connection in self.connections if connection.deadline_s < now_s]:
            connection.overdue()
        if now_s >= self._leases_due_s:
            self._leases_due_s = now_s + _LEASES_S
            self.holds.return_idle()
            self.cut_off.tick()
            self.journal.rotate_when_old()
            self.keeper.report(self._samples())
            for channel in self.view.channels.values():
                channel.pool.close_idle(now_s)

    def _connected(self) -> None:
        self.holds.connected()
        self.cut_off.connected()

    def _granted(self, grant: LeaseGrant) -> None:
        self.holds.granted(grant.budget, grant.amount_pico, grant.left_pico, grant.limit_pico)

    def _samples(self) -> dict[str, float]:
        values = self.metrics.samples()
        values["upeti_calls_in_flight"] = len(self.fibers)
        values["upeti_client_connections"] = len(self.connections)
        for name, channel in self.view.channels.items():
            values[f'upeti_upstream_connections{{channel="{name}"}}'] = channel.pool.open_connections
            values[f'upeti_channel_open{{channel="{name}"}}'] = 1.0 if channel.breaker.is_open else 0.0
        if self.capture.sent or self.capture.dropped:
            values["upeti_exchanges_sent_total"] = float(self.capture.sent)
            for reason, count in self.capture.dropped.items():
                values[f'upeti_exchanges_dropped_total{{reason="{reason}"}}'] = float(count)
        return values | self.cut_off.samples()

    # -- calls -----------------------------------------------------------------------------------------------------------

    def ended(self, fiber: Fiber, error: BaseException | None) -> None:
        """A call's fiber is over."""
        self.fibers.discard(fiber)
        if error is not None:
            self.log.error("crashed", f"{type(error).__name__}: {error}", trace=_trace(error))
            fiber.owner.crashed()

    def answer_own(self, call: Call) -> None:
        """/healthz: the process runs. /readyz: it takes calls. /metrics: of all workers, by way of the keeper."""
        client, call_id = call.client, call.id
        if call.url == b"/metrics" and not client.from_this_machine:
            # What is spent is nobody's business but a key's holder's; Prometheus can send one as its bearer token.
            try:
                identify(call.headers, self.view.keys, self.now_ns())
            except CallError as error:
                client.send_error(error, call_id)
                return
        if call.url == b"/metrics":

            def answer(text: str | None) -> None:
                if text is None:
                    unreachable = Overloaded("keeper_unreachable", "The keeper sums the metrics and cannot be reached.")
                    client.send_error(unreachable, call_id)
                else:
                    body = text.encode() if call.method != b"HEAD" else b""
                    client.send_answer(200, b"text/plain; version=0.0.4; charset=utf-8", b"", body)

            self.keeper.ask_metrics(answer)
        elif call.url == b"/readyz" and (self.draining or not self.view.routes):
            client.send_error(Overloaded("not_ready", "This worker is stopping, or has no routes."), call_id)
        elif call.url in self.own_paths:
            client.send_json(200, b'{"status":"ok"}' if call.method != b"HEAD" else b"", call_id)
        else:
            client.send_error(NotFound("unknown_path", "There is nothing here."), call_id)

    # -- the end -----------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Take no new calls, finish those in flight down to their last byte, give the leases back, end the journal."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_when_idle()
        until_s = self.loop.time() + self.limits.drain_timeout_ms / 1000
        while self.fibers and self.loop.time() < until_s:
            await asyncio.sleep(0.02)
        # What a slow client has not read yet is paid for.
        while any(connection.unsent for connection in self.connections) and self.loop.time() < until_s:
            await asyncio.sleep(0.02)
        for fiber in list(self.fibers):
            fiber.interrupt(TimedOut())
        await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
        self.capture.follow(None)
        self.holds.return_all()
        self.keeper.report(self._samples())
        self.journal.close()
        await asyncio.sleep(0.02)  # the last words to the keeper leave with the loop's next turn


def _trace(error: BaseException) -> str:
    """Where it happened: file names and lines only, for a frame's values may hold prompts."""
    import traceback

    return " < ".join(
        f"{Path(f.filename).name}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)[-6:])
    )
