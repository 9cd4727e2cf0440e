"""Seeded worlds in one process: two nodes with real desks, ledgers, holds and journals, and links that delay and break.

What is drawn comes from the seed; what holds must hold in any order. The auditor judges the journals that are left.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from upeti.control.desk import Desk, Line
from upeti.control.ledger import Ask, Hello, Instance, Ledger, Peers, Return
from upeti.control.recovery import Recovery
from upeti.control.store import Store
from upeti.core.errors import BudgetExceeded
from upeti.core.events import AttemptOpened, CallRefused
from upeti.core.meters import INPUT
from upeti.gateway.failure import TimedOut
from upeti.gateway.fiber import Fiber, Gate
from upeti.gateway.holds import Attempt, Ended, Holds
from upeti.gateway.keeper_link import KeeperWord, LeaseGrant, LeaseRecall
from upeti.gateway.metrics import WorkerMetrics
from upeti.journal.writer import JournalWriter
from upeti.money.budget_terms import BudgetTerms
from upeti.money.price import Price
from upeti.sim.auditor import read_journal
from upeti.sim.limits import judge_moments, judge_refusals

PRICE = Price("p", "USD", 0, {INPUT: 1})
LIMITS = {"all": 22_000, "tenant": 18_000, "shop": 7_000, "search": 6_000}
CALLERS = (("all", "tenant", "shop"), ("all", "tenant", "search"), ("all", "tenant"), ("all", "search"))
DELAY_S = 0.002  # of a word, at most
WORKERS = 2  # of each node


class Worker:
    """A worker's part of a link, its holds and its journal; what ``Attempt`` needs of a gateway."""

    def __init__(self, node: Node, name: str) -> None:
        self.node = node
        self.name = name
        self.link = 0
        self.alive = True
        self.loop = asyncio.get_running_loop()
        self.now_ns = time.time_ns
        self.metrics = WorkerMetrics()
        self.open_attempts: set[Attempt] = set()
        self.journal = JournalWriter(
            node.data_dir,
            name,
            loop=self.loop,
            now_ns=time.time_ns,
            open_attempts=lambda: tuple(attempt.opened for attempt in self.open_attempts),
        )
        self.holds = Holds(self, time.time_ns, self.journal.when_durable)
        self.calls = 0
        self.serving = 0

    # -- what holds ask of their keeper

    def ask(self, budget: str, need_pico: int, posted_pico: int) -> bool:
        return self._say(Ask(self.name, budget, need_pico, posted_pico, final=False, link=self.link))

    def give_back(self, budget: str, amount_pico: int, posted_pico: int, *, recalled: bool, overrun: str = "") -> bool:
        return self._say(Return(self.name, budget, amount_pico, posted_pico, recalled, overrun))

    def _say(self, word: Ask | Return) -> bool:
        if self.alive:
            self.node.world.later(self, lambda: self.node.desk.put(word))
        return self.alive

    # --

    def connect(self) -> None:
        """A new link: what was under way on the old one is lost, in both directions."""
        self.link += 1
        self.node.desk.lost(self.name)
        self.node.desk.put(Hello(self.name, 0, 1, "p", self.holds.leases()))
        self.holds.connected()

    def hear(self, word: KeeperWord) -> None:
        if isinstance(word, LeaseGrant):
            self.holds.granted(word.budget, word.amount_pico, word.left_pico, word.limit_pico)
        elif isinstance(word, LeaseRecall):
            self.holds.recalled(word.budget)

    def die(self) -> None:
        """As ``kill -9``: what the journal has not written is gone."""
        self.alive = False
        self.journal._closed = True
        del self.node.workers[self.name]
        self.node.desk.lost(self.name)

    async def serve(self, budgets: tuple[str, ...], bound: int, cost: int, seconds: float) -> None:
        self.calls += 1
        number, name = self.calls, f"{self.name}-{self.calls}"
        caller = ("acme", "", "/".join(budgets), "", "", "r")
        purses = self.holds.purses_of(budgets)
        try:
            await self.holds.place_with_more(purses, bound)
        except BudgetExceeded as error:
            self.journal.append(CallRefused(number, self.now_ns(), name, *caller, error.code))
            await self.journal
            return
        opened = AttemptOpened(
            number, 0, self.now_ns(), name, *caller, "up", "m", "chat_completions", False, budgets, bound
        )
        with Attempt(opened, PRICE, purses, self) as attempt:
            await self.journal
            attempt.sent = True
            answered = Gate()
            self.loop.call_later(seconds, answered.open)
            await answered
            attempt.settle(Ended.ANSWERED, {INPUT: cost})
            await self.journal


class Node:
    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.data_dir = world.folder / name
        self.store = Store(world.folder / "state", url=world.state_url)
        self.ledger = Ledger(self.store, name)
        self.ledger.set_terms(
            {budget: BudgetTerms(name=budget, limit=f"0.{limit:012d}") for budget, limit in LIMITS.items()}
        )
        self.ledger.peers = Peers(frozenset({"a", "b"} - {name}), WORKERS)
        self.workers: dict[str, Worker] = {}
        self.recovery = Recovery(self.data_dir, self.ledger, f"keeper-{name}", time.time_ns)
        line = Line(
            connected=self.workers.keys,
            is_current=lambda instance, link: instance in self.workers and self.workers[instance].link == link,
            send=self.send,
            cut=lambda instance: self.workers[instance].connect(),
            recall_node=lambda node, budget: world.later(None, lambda: world.nodes[node].desk.recalled_by_node(budget)),
            tell_freed=self.tell_freed,
        )
        self.desk = Desk(self.ledger, line, world.failed)

    def send(self, instance: str, word: KeeperWord) -> None:
        worker = self.workers.get(instance)
        if worker is not None:
            self.world.later(worker, lambda: worker.hear(word))

    def tell_freed(self, budget: str, every: bool) -> None:
        for other in self.world.nodes.values():
            if other is not self:
                self.world.later(None, lambda to=other: to.desk.node_freed(self.name, budget, every=every))

    def hire(self) -> None:
        worker = Worker(self, f"w{self.world.number()}-{self.name}")
        self.workers[worker.name] = worker
        worker.connect()


class World:
    def __init__(self, folder: Path, state_url: str, seed: int) -> None:
        self.folder = folder
        self.state_url = state_url
        self.random = Random(seed)
        self.problems: list[Exception] = []
        self._numbers = 0
        self._fibers: list[Fiber] = []
        self._last_s: dict[Any, float] = {}
        self.nodes: dict[str, Node] = {}
        for name in ("a", "b"):
            self.nodes[name] = Node(self, name)

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def failed(self, error: Exception) -> None:
        self.problems.append(error)

    def later(self, worker: Worker | None, act: Callable[[], None]) -> None:
        """Do it after a while, in the order of what is said on one link; not at all when the link has broken since."""
        loop = asyncio.get_running_loop()
        link = worker.link if worker is not None else 0
        at_s = max(self._last_s.get((worker, link), 0.0), loop.time() + self.random.uniform(0, DELAY_S))
        self._last_s[worker, link] = at_s

        def do() -> None:
            if worker is None or (worker.alive and worker.link == link):
                act()

        loop.call_at(at_s, do)

    def call(self, worker: Worker) -> None:
        random = self.random
        bound = random.randint(20, 400)
        work = worker.serve(random.choice(CALLERS), bound, random.randint(0, bound), random.uniform(0.001, 0.02))
        worker.serving += 1
        fiber = Fiber(self._end, worker)
        self._fibers.append(fiber)
        fiber.start(work)

    def _end(self, fiber: Fiber, error: BaseException | None) -> None:
        fiber.owner.serving -= 1
        if isinstance(error, Exception) and fiber.owner.alive:
            self.problems.append(error)

    async def run(self, calls: int, *, trouble: float) -> None:
        """Make ``calls``; ``trouble`` is how likely something breaks beside each of them."""
        random = self.random
        desks = [asyncio.create_task(node.desk.run()) for node in self.nodes.values()]
        for node in self.nodes.values():
            for _ in range(WORKERS):
                node.hire()
        for _ in range(calls):
            node = random.choice(list(self.nodes.values()))
            worker = random.choice(list(node.workers.values()))
            self.call(worker)
            if random.random() < trouble:
                if random.random() < 0.5:
                    worker.die()
                    node.hire()
                    await asyncio.get_running_loop().run_in_executor(None, self._close, node, worker)
                    node.desk.freed()
                else:
                    worker.connect()
            elif random.random() < 0.1:
                worker.holds.return_idle()
            await asyncio.sleep(random.uniform(0, 0.002))
        workers = [worker for node in self.nodes.values() for worker in node.workers.values()]
        # Calls of workers that died never end; the others have ended once all asks are answered.
        deadline = time.monotonic() + 10
        while any(worker.serving for worker in workers) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for desk in desks:
            desk.cancel()
        for worker in workers:
            worker.alive = False
            worker.journal.close()
        for fiber in self._fibers:
            fiber.interrupt(TimedOut())  # of dead workers: nothing that they still do is written
        for node in self.nodes.values():
            node.desk.close()
            for worker in node.workers.values():
                self._close(node, worker)
            node.recovery.end()

    def _close(self, node: Node, worker: Worker) -> None:
        node.recovery.close(Instance(worker.name, 0, 1, "p"))


def judge(world: World, *, calm: bool) -> None:
    assert not world.problems, world.problems[:3]
    journal = read_journal(*(node.data_dir for node in world.nodes.values()))
    assert not journal.findings
    assert all(len(attempt.settled) == 1 for attempt in journal.attempts.values())
    assert not list(judge_moments(journal, LIMITS))
    spent = Counter(dict.fromkeys(LIMITS, 0))
    for attempt in journal.attempts.values():
        for budget in attempt.budgets:
            spent[budget] += attempt.cost_pico
    rows = world.nodes["a"].ledger.budgets()
    assert {row.id: (row.spent_pico, row.leased_pico) for row in rows} == {name: (spent[name], 0) for name in LIMITS}
    if calm:
        assert journal.refusals
        assert not list(judge_refusals(journal, LIMITS, share_percent=5, window_s=1.0))


SEEDS = (*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 30)))


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_calm_world(tmp_path: Path, seed: int) -> None:
    """Nothing breaks: nobody is refused while 5 % of every limit and his bound are left."""
    world = World(tmp_path, "", seed)
    await world.run(260, trouble=0)
    judge(world, calm=True)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_troubled_world(tmp_path: Path, seed: int) -> None:
    """Workers die and links break: nothing is overspent, at any moment, at any level."""
    world = World(tmp_path, "", seed)
    await world.run(260, trouble=0.08)
    judge(world, calm=False)


async def test_a_troubled_world_on_postgresql(tmp_path: Path, postgres: Any) -> None:
    world = World(tmp_path, postgres.new_database(), 99)
    await world.run(200, trouble=0.08)
    judge(world, calm=False)
