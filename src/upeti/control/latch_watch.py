"""The keeper's part of a cut-off: writes down what workers report, tells the others at once, has latches probed.

Rules: a word is taken again until it is written; a latch is told to all workers when it is in the state, and other nodes
hear of it by the snapshot. Whichever node is first has the next probe made, by one of its workers; the pauses between them
grow. Nothing here is on a call's way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from upeti.control import latches
from upeti.control.cases import open_case
from upeti.control.store import Store
from upeti.gateway import keeper_link as words
from upeti.gateway.latch import Latch, Scope, Subject
from upeti.gateway.log import Log

_LOOK_S: Final = 0.25
_RETRY_S: Final = 1.0
ANSWER_S: Final = 12.0  # a probe gives up after ten
_ABUSE: Final = "abuse_block"


class Workers(Protocol):
    """How workers are reached."""

    def connected(self) -> list[str]: ...
    def send(self, instance: str, word: words.KeeperWord) -> None: ...
    def broadcast(self, word: words.KeeperWord) -> None: ...


class LatchWatch:
    """One per keeper."""

    def __init__(self, store: Store, data_dir: Path, workers: Workers, refresh: Callable[[], None], log: Log) -> None:
        self._store = store
        self._data_dir = data_dir
        self._workers = workers
        self._refresh = refresh
        self._log = log
        self._heard: asyncio.Queue[tuple[str, words.CutOffNews]] = asyncio.Queue()
        self._request = 0
        self._loop = asyncio.get_running_loop()
        self._asked: dict[int, tuple[Subject, asyncio.Future[words.Probed]]] = {}
        self._turn = 0

    def hear(self, instance: str, word: words.CutOffNews) -> None:
        """Take a worker's word."""
        self._heard.put_nowait((instance, word))

    async def run(self) -> None:
        """Work until cancelled."""
        due_s = 0.0
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    heard = await self._heard.get()
            except TimeoutError:
                heard = None
            try:
                if heard is not None:
                    await self._take(*heard)
                if time.monotonic() >= due_s:
                    due_s = time.monotonic() + _LOOK_S
                    await self._probe_due()
            except Exception as error:  # a full disk, a database that is away: it may pass
                self._log.error("latches_failed", f"{type(error).__name__}: {error}; it is tried again")
                if heard is not None:
                    self._heard.put_nowait(heard)
                await asyncio.sleep(_RETRY_S)

    async def _take(self, instance: str, word: words.CutOffNews) -> None:
        match word:
            case words.Latched(latch):
                shut = await asyncio.to_thread(latches.signalled, self._store, self._data_dir, word, time.time_ns())
                if shut is None:
                    self._workers.send(instance, words.LatchOpened(latch.subject))
                    return
                if shut.incident != latch.incident:
                    self._workers.send(instance, words.LatchShut(shut))
                    return
                self._workers.broadcast(words.LatchShut(shut))
                self._refresh()
            case words.Affected(calls):
                await asyncio.to_thread(latches.affected, self._store, calls)
            case words.Refusals():
                for other in self._workers.connected():
                    if other != instance:
                        self._workers.send(other, word)
            case words.AbuseBlocked():
                await self._hold(word)
            case words.Probed():
                await self._probed(word)

    async def _hold(self, word: words.AbuseBlocked) -> None:
        """A case for the suspect of an abuse block; he is held on all nodes until it says otherwise."""
        evidence = {
            "what": f"the channel {word.channel} was blocked for abuse, and content filters had refused {word.refusals} calls of "
            "this tenant there lately",
            "channel": word.channel,
            "incident": word.incident,
            "refusals": word.refusals,
        }
        case = await asyncio.to_thread(
            open_case,
            self._store,
            self._data_dir,
            word.tenant,
            _ABUSE,
            evidence,
            state="quarantined",
            until_ns=word.until_ns,
        )
        self._workers.broadcast(words.TenantHeld(word.tenant, f"case {case}", word.until_ns))
        self._refresh()

    # -- probes ---------------------------------------------------------------------------------------------------------

    async def _probe_due(self) -> None:
        now_ns = time.time_ns()
        for row in await asyncio.to_thread(latches.due, self._store, now_ns):
            if not self._workers.connected():
                return
            claimed: bool = await asyncio.to_thread(latches.claim, self._store, row, now_ns)
            if claimed:
                self._ask(row.subject, row.wire, row.model)

    def _ask(self, subject: Subject, wire: str, model: str) -> asyncio.Future[words.Probed] | None:
        """Have one worker probe, in turn; None when none is connected."""
        workers = self._workers.connected()
        if not workers:
            return None
        self._turn += 1
        self._request += 1
        answer: asyncio.Future[words.Probed] = asyncio.get_running_loop().create_future()
        self._asked = {number: one for number, one in self._asked.items() if not one[1].done()}
        self._asked[self._request] = (subject, answer)
        self._workers.send(workers[self._turn % len(workers)], words.ProbeAsk(self._request, subject, wire, model))
        asyncio.get_running_loop().call_later(ANSWER_S, answer.cancel)
        return answer

    async def _probed(self, word: words.Probed) -> None:
        subject, answer = self._asked.get(word.request, (None, None))
        if subject is None or answer is None:
            return
        opened = await asyncio.to_thread(
            latches.probed,
            self._store,
            self._data_dir,
            subject,
            passed=word.verdict == "sound",
            what=f"status {word.status}" if word.status else word.what,
            now_ns=time.time_ns(),
        )
        if opened:
            self.opened(subject)
            self._log.warning("latch_opened", f"{subject.words} works again: a probe was answered")
        if not answer.done():
            answer.set_result(word)

    async def probe(self, channel: str, model: str = "") -> list[tuple[Subject, words.Probed | None]]:
        """Probe all latches of a channel at once, or the channel when it has none; return what was found of each.

        None: no worker is connected, or none answered in time.
        """
        rows = [row for row in await asyncio.to_thread(latches.all_latches, self._store) if row.channel == channel]
        asks = [(row.subject, row.wire, row.model) for row in rows if not model or row.detail == model]
        if not asks:
            asks = [(Subject(Scope.MODEL, channel, model) if model else Subject(Scope.CHANNEL, channel), "", "")]
        found = []
        for subject, wire, name in asks:
            answer = self._ask(subject, wire, name)
            try:
                found.append((subject, await answer if answer is not None else None))
            except asyncio.CancelledError:
                if answer is None or not answer.cancelled():
                    raise
                found.append((subject, None))
        return found

    # -- what persons do --------------------------------------------------------------------------------------------------

    def person_shut(self, latch: Latch) -> None:
        """A person's latch is in the state: tell the workers. Safe to call from any thread."""
        self._loop.call_soon_threadsafe(self._workers.broadcast, words.LatchShut(latch))
        self._refresh()

    def person_opened(self, subject: Subject) -> None:
        """A person has opened it. Safe to call from any thread."""
        self._loop.call_soon_threadsafe(self.opened, subject)

    def opened(self, subject: Subject) -> None:
        self._workers.broadcast(words.LatchOpened(subject))
        self._refresh()


def shown_verdict(word: words.Probed | None) -> dict[str, str | int]:
    """Return what a probe found, for people."""
    if word is None:
        return {"verdict": "unsure", "status": 0, "what": "no worker answered in time"}
    return {"verdict": word.verdict, "status": word.status, "what": word.what}
