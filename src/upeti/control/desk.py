"""The lease desk: words of workers in, grants and recalls out.

Rules: words that come while a transaction is under way wait for it together and make the next one; nothing
is told before it is durable. A budget whose rest is too small for an ask is recalled from who has a lease
on it, workers of other nodes included; the ask waits for their answers, but not for long, and is then given
what there is, be it nothing. A grant goes out on the connection that the ask came on or not at all: a worker
that has connected again has said what it has, and what was granted beyond that is taken back.
When the state cannot be written nobody is refused for want of money: the connections of those who ask are
cut, and they say that the keeper cannot be reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from upeti.control.ledger import Ask, Granted, Hello, Ledger, Return, Word
from upeti.gateway.keeper_link import KeeperWord, LeaseGrant, LeaseRecall

# A recalled worker answers within a turn of its loop; one that does not is stuck, and who asks must not be.
RECALL_WAIT_S: Final = 0.2
# Another node answers within some milliseconds (docs/decisions/0007). It is asked again meanwhile, for a word may be lost
# with its connection; a worker's call waits for 3 seconds at most.
NODE_WAIT_S: Final = 1.2
_NODE: Final = "@"  # begins the name of a node among those of workers, which have no such sign


class Line(msgspec.Struct, frozen=True):
    """How the desk reaches workers."""

    connected: Callable[[], Collection[str]]
    is_current: Callable[[str, int], bool]  # whether an instance is connected by the link of that number
    send: Callable[[str, KeeperWord], None]
    cut: Callable[[str], None]
    recall_node: Callable[[str, str], None] = lambda node, budget: None
    tell_freed: Callable[[str, bool], None] = lambda budget, every: None  # to the nodes that wait for it


class _Waiting(msgspec.Struct, eq=False):
    """An ask that waits for others to give back."""

    ask: Ask
    awaited: set[str]  # workers of this node, and other nodes
    until_s: float  # loop time
    timer: asyncio.TimerHandle | None = None
    late: bool = False
    queued: bool = False  # in the inbox or in a transaction; looked at again when that is done

    @property
    def final(self) -> bool:
        return self.late or not self.awaited


class Desk:
    """Answers asks in order, as many at once as have come."""

    def __init__(self, ledger: Ledger, line: Line, on_failure: Callable[[Exception], None]) -> None:
        self._ledger = ledger
        self._line = line
        self._on_failure = on_failure
        self._inbox: list[tuple[Word, _Waiting | None]] = []
        self._waiting: dict[str, list[_Waiting]] = {}
        self._for_nodes: dict[str, set[str]] = {}  # budget that another node waits for → workers that have not answered
        self._came_back: set[str] = set()  # of these budgets, by the transaction that was just made
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writer = ThreadPoolExecutor(1, "ledger")
        self.asks = 0
        self.refusals = 0  # asks that were given nothing

    def put(self, word: Word) -> None:
        """Queue a word for the next transaction."""
        self._queue(word, None)

    def lost(self, instance: str) -> None:
        """A connection has ended: nobody waits for its answer, and it waits for nothing."""
        for waiting in self._all_waiting():
            if waiting.ask.instance == instance:
                self._forget(waiting)
            elif instance in waiting.awaited:
                waiting.awaited.discard(instance)
                self._look_again(waiting)
        for budget in list(self._for_nodes):
            self._answered(budget, instance)
        self._tell_nodes()

    def freed(self) -> None:
        """Something came back to some budgets: look again at every ask that waits."""
        for waiting in self._all_waiting():
            self._look_again(waiting)
        self._came_back |= self._for_nodes.keys()
        self._tell_nodes()

    def recalled_by_node(self, budget: str) -> None:
        """Another node needs it: have this node's workers give back what they do not hold."""
        asked = self._for_nodes.get(budget, set())
        workers = set(self._line.connected())
        self._for_nodes[budget] = workers
        for name in workers - asked:
            self._line.send(name, LeaseRecall(budget))
        if not workers:
            self._came_back.add(budget)
            self._tell_nodes()

    def node_freed(self, node: str, budget: str, *, every: bool) -> None:
        """Another node's workers gave back; ``every``: there is no more to come from them."""
        for waiting in list(self._waiting.get(budget, ())):
            if every:
                waiting.awaited.discard(_NODE + node)
            self._look_again(waiting)

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            self._filled.clear()
            inbox, self._inbox = self._inbox, []
            connected = frozenset(self._line.connected())
            # An ask whose connection has gone would only tie up what nobody receives.
            taken = [pair for pair in inbox if not isinstance(pair[0], Ask) or self._is_heard(pair[0])]
            words = [word for word, _ in taken]
            try:
                answers = await loop.run_in_executor(self._writer, self._ledger.apply, words, connected)
            except Exception as error:  # a full disk, a lock that somebody holds: whatever it is, go on
                self._failed(words, error)
            else:
                for (word, waiting), answer in zip(taken, answers, strict=True):
                    self._answer(word, waiting, answer)
                self._tell_nodes()
            if not self._inbox:
                self._idle.set()

    async def settle(self) -> None:
        """Wait until every word queued so far is in the state."""
        await self._idle.wait()

    def close(self) -> None:
        self._writer.shutdown(wait=True)

    def _queue(self, word: Word, waiting: _Waiting | None) -> None:
        self._inbox.append((word, waiting))
        self._filled.set()
        self._idle.clear()

    def _answer(self, word: Word, waiting: _Waiting | None, answer: Granted | bool) -> None:
        if isinstance(word, Ask) and isinstance(answer, Granted):
            if waiting is not None:
                waiting.queued = False
            if not answer.holders and not answer.nodes:
                self._grant(word, waiting, answer)
            elif waiting is None:
                self._wait(word, answer)
            elif waiting.final:
                self._look_again(waiting)  # the last answer, or the time-out, came in the meantime
        elif isinstance(word, Hello) and not answer:
            self._line.cut(word.instance)  # its journal was read to the end; it must not go on spending
        elif isinstance(word, Return):
            for each in list(self._waiting.get(word.budget, ())):
                if word.recalled:
                    each.awaited.discard(word.instance)
                if word.amount_pico or not each.awaited:
                    self._look_again(each)
            if word.recalled:
                self._answered(word.budget, word.instance, freed=word.amount_pico > 0)

    def _grant(self, ask: Ask, waiting: _Waiting | None, granted: Granted) -> None:
        if waiting is not None:
            self._forget(waiting)
        if not self._is_heard(ask):
            return
        self.asks += 1
        self.refusals += not granted.amount_pico
        word = LeaseGrant(ask.budget, granted.amount_pico, granted.left_pico, granted.limit_pico)
        self._line.send(ask.instance, word)

    def _is_heard(self, ask: Ask) -> bool:
        return self._line.is_current(ask.instance, ask.link)

    def _wait(self, ask: Ask, answer: Granted) -> None:
        others = self._waiting.setdefault(ask.budget, [])
        recalled = {name for other in others for name in other.awaited}
        awaited = {*answer.holders} & {*self._line.connected()} | {_NODE + node for node in answer.nodes}
        loop = asyncio.get_running_loop()
        waiting = _Waiting(ask, awaited, loop.time() + (NODE_WAIT_S if answer.nodes else RECALL_WAIT_S))
        others.append(waiting)
        waiting.timer = loop.call_later(RECALL_WAIT_S, self._expire, waiting)
        self._recall(ask.budget, awaited - recalled)
        if waiting.final:
            self._look_again(waiting)

    def _recall(self, budget: str, names: Collection[str]) -> None:
        for name in names:
            if name.startswith(_NODE):
                self._line.recall_node(name.removeprefix(_NODE), budget)
            else:
                self._line.send(name, LeaseRecall(budget))

    def _expire(self, waiting: _Waiting) -> None:
        """This node's workers have had their time; other nodes are asked again until theirs has passed, too."""
        loop = asyncio.get_running_loop()
        waiting.awaited = {name for name in waiting.awaited if name.startswith(_NODE)}
        if waiting.awaited and loop.time() < waiting.until_s:
            self._recall(waiting.ask.budget, waiting.awaited)
            waiting.timer = loop.call_later(RECALL_WAIT_S, self._expire, waiting)
            return
        waiting.late = True
        self._look_again(waiting)

    def _answered(self, budget: str, instance: str, *, freed: bool = False) -> None:
        """A worker has answered a recall that another node waits for, or cannot any more."""
        workers = self._for_nodes.get(budget)
        if workers is not None and instance in workers:
            workers.discard(instance)
            if freed or not workers:
                self._came_back.add(budget)

    def _tell_nodes(self) -> None:
        for budget in self._came_back:
            every = not self._for_nodes.get(budget)
            if every:
                self._for_nodes.pop(budget, None)
            self._line.tell_freed(budget, every)
        self._came_back.clear()

    def _look_again(self, waiting: _Waiting) -> None:
        """Queue an ask that waits; for the last time when there is nobody left to wait for."""
        if not waiting.queued:
            waiting.queued = True
            self._queue(msgspec.structs.replace(waiting.ask, final=waiting.final), waiting)

    def _forget(self, waiting: _Waiting) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
        others = self._waiting.get(waiting.ask.budget, [])
        if waiting in others:
            others.remove(waiting)
        if not others:
            self._waiting.pop(waiting.ask.budget, None)

    def _all_waiting(self) -> list[_Waiting]:
        return [waiting for others in self._waiting.values() for waiting in others]

    def _failed(self, words: list[Word], error: Exception) -> None:
        self._on_failure(error)
        # A sum that was only reported comes again with the next report; all else is made good by a new Hello.
        lost = [word for word in words if not isinstance(word, Return) or word.amount_pico]
        for instance in {word.instance for word in lost}:
            self._line.cut(instance)
