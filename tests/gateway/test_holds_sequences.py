"""Any sequence of calls, settlements, recalls, returns, windows that end, limits that change, and deaths of workers.

Real workers' purses and attempts, a real ledger on SQLite. What is spent and held is added up apart, from the records
of the attempts alone; at every moment it is within the limit, on every level.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from upeti.control.ledger import Ask, Granted, Hello, Instance, Ledger, Return
from upeti.control.store import Store
from upeti.core.amount import PICO_PER_UNIT
from upeti.core.errors import BudgetExceeded
from upeti.core.events import AttemptOpened, AttemptSettled
from upeti.gateway.fiber import Fiber
from upeti.gateway.holds import Attempt, Ended, Holds
from upeti.gateway.purses import PurseFinder
from upeti.gateway.snapshot import Caller
from upeti.money.budget_terms import BudgetTerms, root_of
from upeti.money.price import Price

START_NS = 1_795_477_200 * 10**9  # 2026-11-23T23:40:00Z: twenty minutes before a day ends
PRICE = Price("p", "USD", 0, {"input": 1})
WORKERS = 3
CALLS_A_MINUTE = 12
CALLER = Caller("k", "acme", "shop")
_examples = itertools.count()
_stores: list[Store] = []


def levels(prefix: str, limits: tuple[int, ...]) -> dict[str, BudgetTerms]:
    """Five levels with windows of different lengths, and calls a minute."""
    kinds: tuple[dict[str, Any], ...] = (
        {"window": "total"},
        {"window": "month", "zone": "Asia/Jakarta", "tenant": "acme"},
        {"window": "week", "tenant": "acme", "project": "shop"},
        {"window": "total", "key": "k"},
        {"window": "day", "feature": "search"},
    )
    terms = [
        BudgetTerms(name=f"{prefix}-{place}", limit=str(limit), **kind)
        for place, (limit, kind) in enumerate(zip(limits, kinds, strict=True))
    ]
    terms.append(BudgetTerms(name=f"{prefix}-rate", limit=str(CALLS_A_MINUTE), unit="calls", window="minute"))
    return {each.root: each for each in terms}


class Worker:
    """One worker process: its purses, its attempts, its journal; and the keeper as it reaches it."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.holds = Holds(self, lambda: world.now_ns)
        self.journal: list[AttemptOpened | AttemptSettled] = []
        self.attempts: list[Attempt] = []
        self.calls = 0
        self.finder = world.finder()
        self._world = world

    def ask(self, budget: str, need_pico: int, posted_pico: int) -> bool:
        self._world.asked.append((self, Ask(self.name, budget, need_pico, posted_pico, final=False)))
        return True

    def give_back(
        self, budget: str, amount_pico: int, posted_pico: int, *, recalled: bool = False, overrun: str = ""
    ) -> bool:
        self._world.say(Return(self.name, budget, amount_pico, posted_pico, recalled, overrun))
        return True


class Recorder:
    """What an attempt needs of its worker."""

    def __init__(self, worker: Worker, world: World) -> None:
        self.open_attempts: set[Attempt] = set()
        self.journal = self.metrics = self.loop = self
        self.settled: list[Any] = []
        self.append: Callable[[Any], None] = worker.journal.append
        self.now_ns = lambda: world.now_ns

    def call_soon(self, callback: Callable[[], None]) -> None:
        callback()


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_ns = START_NS
        self.prefix = f"b{next(_examples)}"
        self.ledger = Ledger(_stores[0], now_ns=lambda: self.now_ns)
        self.workers: list[Worker] = []
        self.dead: list[Worker] = []
        self.asked: list[tuple[Worker, Ask]] = []
        self.ended: Counter[str] = Counter()  # posted by workers that are closed
        self.overhang: dict[str, int] = {}  # what was spent and held when a limit was lowered below it
        self.names = itertools.count()
        self.minutes: Counter[int] = Counter()  # calls by the minute in which they were held

    @initialize(limits=st.tuples(*[st.integers(20, 400)] * 5))
    def begin(self, limits: tuple[int, ...]) -> None:
        self.limit(levels(self.prefix, limits))
        for _ in range(WORKERS):
            self.start()

    def start(self) -> None:
        worker = Worker(f"{self.prefix}-w{next(self.names)}", self)
        self.workers.append(worker)
        self.say(Hello(worker.name, 0, 1, "p", {}))

    def limit(self, terms: dict[str, BudgetTerms]) -> None:
        self.terms = terms
        self.ledger.set_terms(terms)
        for worker in self.workers:  # each takes the snapshot
            worker.finder = self.finder()

    def finder(self) -> PurseFinder:
        return PurseFinder(self.terms.values(), frozenset())

    def say(self, word: Any) -> Any:
        (answer,) = self.ledger.apply([word], {worker.name for worker in self.workers})
        return answer

    def pump(self) -> None:
        """Answer what was asked, as the desk does: recall first, then grant what there is."""
        while self.asked:
            worker, ask = self.asked.pop(0)
            answer: Granted = self.say(ask)
            if answer.holders:
                for other in self.workers:
                    if other.name in answer.holders:
                        other.holds.recalled(ask.budget)
                answer = self.say(msgspec.structs.replace(ask, final=True))
            worker.holds.granted(ask.budget, answer.amount_pico, answer.left_pico, answer.limit_pico)

    # -- what happens -------------------------------------------------------------------------------------------------

    @rule(
        place=st.integers(0, WORKERS - 1),
        bounds=st.lists(st.integers(1, 60), min_size=1, max_size=8),
        feature=st.sampled_from(["search", "chat"]),
    )
    def some_calls(self, place: int, bounds: list[int], feature: str) -> None:
        for bound in bounds:
            self.call(place, bound, feature)

    def call(self, place: int, bound: int, feature: str) -> None:
        worker = self.workers[place]
        bound_pico = bound * PICO_PER_UNIT
        found = worker.finder.find(CALLER, feature, "USD", self.now_ns, worker.holds)
        rates = found.rates(first=True, tokens=0)
        ends: list[BaseException | None] = []
        fiber = Fiber(lambda _, error: ends.append(error), None)
        fiber.start(worker.holds.place_with_more(found.purses, bound_pico, rates))
        self.pump()
        (error,) = ends
        if error is None:
            worker.calls += 1
            self.minutes[self.now_ns // (60 * 10**9)] += 1
            opened = AttemptOpened(
                *(worker.calls, 0, self.now_ns, "id", "acme", "shop", "k", feature, "", "r", "c", "m", "w", False),
                budgets=found.budgets,
                bound_pico=bound_pico,
            )
            recorder: Any = Recorder(worker, self)
            worker.attempts.append(Attempt(opened, PRICE, found.purses, recorder, rates=rates))
            return
        assert isinstance(error, BudgetExceeded), error
        if not self.dead:  # what a dead worker had leased is not to be had before its journal is read
            taken = self.spent() + self.held()
            room = [self.terms[root_of(b)].limit_pico - taken[b] for b in found.budgets]
            fits = all(
                left >= bound_pico + self.terms[root_of(budget)].limit_pico // 20
                for left, budget in zip(room, found.budgets, strict=True)
            )
            assert not fits or error.code == "rate_limit_exceeded", (error.message, room)

    @rule(place=st.integers(0, WORKERS - 1), cost=st.integers(0, 60))
    def settle_all(self, place: int, cost: int) -> None:
        for attempt in self.workers[place].attempts:
            attempt.sent = True
            attempt.settle(Ended.ANSWERED, {"input": min(attempt.opened.bound_pico, cost * PICO_PER_UNIT)})
        self.workers[place].attempts.clear()

    @precondition(lambda self: any(worker.attempts for worker in self.workers))
    @rule(data=st.data(), ended=st.sampled_from(list(Ended)), known=st.booleans(), sent=st.booleans())
    def settle(self, data: st.DataObject, ended: Ended, known: bool, sent: bool) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.attempts]))
        attempt = worker.attempts.pop(data.draw(st.integers(0, len(worker.attempts) - 1)))
        attempt.sent = sent
        cost = data.draw(st.integers(0, attempt.opened.bound_pico))
        attempt.settle(ended, {"input": cost} if known else None)

    @rule(place=st.integers(0, WORKERS - 1))
    def tick(self, place: int) -> None:
        self.workers[place].holds.return_idle()

    @rule(place=st.integers(0, WORKERS - 1))
    def connect_again(self, place: int) -> None:
        worker = self.workers[place]
        assert self.say(Hello(worker.name, 0, 1, "p", worker.holds.leases())) is True

    @rule(seconds=st.sampled_from([30, 1_200, 86_400, 7 * 86_400, 31 * 86_400]))
    def let_time_pass(self, seconds: int) -> None:
        self.now_ns += seconds * 10**9
        self.ledger.purge_rates()

    @rule(place=st.integers(0, 4), limit=st.integers(0, 400))
    def change_a_limit(self, place: int, limit: int) -> None:
        root = f"{self.prefix}-{place}"
        taken = self.spent() + self.held()
        for budget in taken:
            if root_of(budget) == root:
                self.overhang[budget] = taken[budget]
        changed = msgspec.structs.replace(self.terms[root], limit=str(limit))
        self.limit(self.terms | {root: changed})

    @rule(place=st.integers(0, WORKERS - 1))
    def die(self, place: int) -> None:
        self.dead.append(self.workers.pop(place))
        self.start()

    @precondition(lambda self: self.dead)
    @rule()
    def recover(self) -> None:
        worker = self.dead.pop(0)
        posted = self.posted(worker) + self.open(worker)
        self.ledger.close(Instance(worker.name, 0, 1, "p"), posted)
        self.ended += posted

    # -- what must hold -----------------------------------------------------------------------------------------------

    def posted(self, worker: Worker) -> Counter[str]:
        opened = {one.call: one for one in worker.journal if isinstance(one, AttemptOpened)}
        sums: Counter[str] = Counter()
        for one in worker.journal:
            if isinstance(one, AttemptSettled):
                sums.update(dict.fromkeys(opened[one.call].budgets, one.cost_pico))
        return sums

    def open(self, worker: Worker) -> Counter[str]:
        settled = {one.call for one in worker.journal if isinstance(one, AttemptSettled)}
        sums: Counter[str] = Counter()
        for one in worker.journal:
            if isinstance(one, AttemptOpened) and one.call not in settled:
                sums.update(dict.fromkeys(one.budgets, one.bound_pico))
        return sums

    def spent(self) -> Counter[str]:
        return sum((self.posted(worker) for worker in (*self.workers, *self.dead)), self.ended)

    def held(self) -> Counter[str]:
        return sum((self.open(worker) for worker in (*self.workers, *self.dead)), Counter())

    @invariant()
    def never_overspent(self) -> None:
        taken = self.spent() + self.held()
        for budget, sum_pico in taken.items():
            limit_pico = self.terms[root_of(budget)].limit_pico
            assert sum_pico <= max(limit_pico, self.overhang.get(budget, 0)), budget

    @invariant()
    def never_faster_than_allowed(self) -> None:
        assert all(calls <= CALLS_A_MINUTE for calls in self.minutes.values())

    @invariant()
    def holds_are_the_open_attempts(self) -> None:
        for worker in self.workers:
            purses = {name: purse for name, purse in worker.holds._purses.items() if purse.unit == "USD"}
            assert {name: purse.held for name, purse in purses.items() if purse.held} == dict(self.open(worker))

    def teardown(self) -> None:
        """When everything is settled and everybody has left, the ledger says what the records say, and nothing is
        leased.
        """
        if not self.workers:
            return
        for worker in self.workers:
            for attempt in worker.attempts:
                attempt.sent = True
                attempt.settle(Ended.LOST)
            worker.holds.return_all()
        while self.dead:
            self.recover()
        spent = self.spent()
        rows = {row.id: row for row in self.ledger.budgets() if row.id.startswith(self.prefix + "-")}
        for budget, row in rows.items():
            if row.unit == "USD":
                assert (row.spent_pico, row.leased_pico) == (spent[budget], 0), budget
        assert {budget for budget, sum_pico in spent.items() if sum_pico} <= rows.keys()


def test_sequences(tmp_path_factory: Any) -> None:
    _stores[:] = [Store(tmp_path_factory.mktemp("state"))]
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    World.TestCase.settings = settings(
        max_examples=60,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=checks,
        phases=[
            Phase.explicit,
            Phase.reuse,
            Phase.generate,
        ],  # a failure prints its steps; to shrink them takes minutes
    )
    World.TestCase().runTest()
    _stores.pop().close()
