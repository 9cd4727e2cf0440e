"""Leases: spent and leased never pass the limit, and at the end the budget has spent what was posted."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from upeti.money.budget import Budget, Lease


class Worker(msgspec.Struct):
    """The other side of a lease, kept by rules of its own."""

    name: str
    granted: int = 0
    held: list[int] = msgspec.field(default_factory=list)
    posted: int = 0
    posted_told: int = 0

    @property
    def free(self) -> int:
        return self.granted - self.posted - sum(self.held)


class Leases(RuleBasedStateMachine):
    """Several workers that hold, post, void, die and lose words, against one budget."""

    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(limit_pico=0)
        self.alive: dict[str, Worker] = {}
        self.posted_ever = 0
        self.born = 0

    @rule(limit=st.integers(0, 10**31))
    def raise_limit(self, limit: int) -> None:
        self.budget.limit_pico = max(self.budget.limit_pico, limit)

    @rule(target=workers)
    def start(self) -> str:
        self.born += 1
        name = f"w{self.born}"
        self.alive[name] = Worker(name)
        return name

    @rule(name=workers, need=st.integers(1, 10**15))
    def call(self, name: str, need: int) -> None:
        """A call that holds its bound and is not settled yet; asks when the lease is too small."""
        worker = self.alive.get(name)
        if worker is None:
            return
        if worker.free < need:
            missing = need - worker.free
            rest = self.budget.rest_pico
            self.budget.report(name, worker.posted)
            granted = self.budget.grant(name, missing, len(self.alive))
            assert granted >= min(missing, max(0, rest)), "less than what was needed and there"
            worker.granted += granted
        if worker.free >= need:
            worker.held.append(need)

    @rule(name=workers, share=st.integers(0, 100))
    def settle(self, name: str, share: int) -> None:
        """Post a part of the oldest hold, or void it (share 0)."""
        worker = self.alive.get(name)
        if worker is None or not worker.held:
            return
        cost = worker.held.pop(0) * share // 100
        worker.posted += cost
        self.posted_ever += cost

    @rule(name=workers, share=st.integers(1, 100))
    def give_back(self, name: str, share: int) -> None:
        worker = self.alive.get(name)
        if worker is None:
            return
        amount = worker.free * share // 100
        worker.granted -= amount
        self.budget.report(name, worker.posted)
        assert self.budget.give_back(name, amount) == amount

    @rule(name=workers)
    def report_late(self, name: str) -> None:
        """A sum that was overtaken by a newer one."""
        worker = self.alive.get(name)
        if worker is not None:
            self.budget.report(name, worker.posted_told)
            worker.posted_told = worker.posted

    @rule(name=workers, need=st.integers(1, 10**15))
    def lose_a_grant(self, name: str, need: int) -> None:
        """The grant was made durable, but the connection broke before the worker had it."""
        if name in self.alive:
            self.budget.grant(name, need, len(self.alive))

    @rule(name=workers, share=st.integers(1, 100))
    def lose_a_return(self, name: str, share: int) -> None:
        worker = self.alive.get(name)
        if worker is not None:
            worker.granted -= worker.free * share // 100

    @rule(name=workers)
    def connect_again(self, name: str) -> None:
        worker = self.alive.get(name)
        if worker is None:
            return
        self.budget.correct(name, worker.granted - worker.posted, worker.posted)
        assert self.budget.leases[name].left_pico == worker.granted - worker.posted

    @rule(name=consumes(workers))
    def die(self, name: str) -> None:
        """What was held is posted at its bound, the rest of the lease comes back."""
        worker = self.alive.pop(name)
        posted = worker.posted + sum(worker.held)
        self.posted_ever += sum(worker.held)
        self.budget.close(name, posted)

    @invariant()
    def never_overspent(self) -> None:
        assert self.budget.spent_pico + self.budget.leased_pico <= self.budget.limit_pico
        assert self.posted_ever + sum(worker.free + sum(worker.held) for worker in self.alive.values()) <= (
            self.budget.limit_pico
        )

    @invariant()
    def a_worker_never_has_more_than_its_lease(self) -> None:
        for name, worker in self.alive.items():
            assert worker.free >= 0
            lease = self.budget.leases.get(name, Lease())
            assert worker.granted <= lease.granted_pico

    def teardown(self) -> None:
        for name in list(self.alive):
            self.die(name)
        assert self.budget.spent_pico == self.posted_ever
        assert self.budget.leases == {}
        assert self.budget.rest_pico == self.budget.limit_pico - self.posted_ever


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def test_slices_shrink_as_the_rest_shrinks() -> None:
    budget = Budget(limit_pico=1600)
    assert [budget.grant("a", 1, 2) for _ in range(4)] == [400, 300, 225, 168]
    assert budget.rest_pico == 1600 - 400 - 300 - 225 - 168


def test_a_need_above_the_slice_is_met_while_there_is_enough() -> None:
    budget = Budget(limit_pico=100)
    assert budget.grant("a", 90, 4) == 90
    assert budget.grant("b", 20, 4) == 10
    assert budget.grant("c", 1, 4) == 0


def test_the_whole_limit_can_be_spent() -> None:
    budget = Budget(limit_pico=1001)
    granted = 0
    while amount := budget.grant("a", 1, 8):
        granted += amount
    assert granted == 1001


def test_a_lowered_limit_grants_nothing_until_there_is_room() -> None:
    budget = Budget(limit_pico=100)
    budget.grant("a", 80, 1)
    budget.limit_pico = 50
    assert budget.rest_pico == -30
    assert budget.grant("b", 1, 2) == 0
    budget.give_back("a", 40)
    assert budget.grant("b", 20, 1) == 10


def test_an_overrun_bound_is_spent_in_full() -> None:
    budget = Budget(limit_pico=100)
    budget.grant("a", 60, 1)
    budget.report("a", 70)
    assert (budget.spent_pico, budget.leased_pico, budget.rest_pico) == (70, 0, 30)
    assert budget.short_pico("a", 30) == 20
    assert budget.grant("a", 30, 1) == 30  # the 10 that are spent already are no part of the rest
    assert (budget.leases["a"].left_pico, budget.rest_pico) == (20, 10)
    assert budget.close("a", 75) == 15
    assert (budget.spent_pico, budget.rest_pico) == (75, 25)


def test_what_a_holder_spent_while_nothing_was_refused_is_made_good_at_once() -> None:
    """A soft budget became hard: its holder has posted 999,990 without any lease, and a call needs 7 of the 10 left."""
    budget = Budget(limit_pico=1_000_000)
    budget.report("a", 999_990)
    assert budget.grant("a", 999_990 + 7, 4) == 999_997
    assert (budget.leases["a"].left_pico, budget.rest_pico) == (7, 3)
    budget.report("b", 3)
    assert budget.grant("b", 4, 4) == 0


def test_nobody_gives_back_more_than_it_has() -> None:
    budget = Budget(limit_pico=100)
    budget.grant("a", 60, 1)
    budget.report("a", 50)
    assert budget.give_back("a", 1000) == 10
    assert budget.give_back("nobody", 5) == 0
    assert (budget.spent_pico, budget.rest_pico) == (50, 50)


def test_a_holder_is_not_believed_to_have_more_than_was_granted() -> None:
    budget = Budget(limit_pico=100)
    budget.grant("a", 60, 1)
    assert budget.correct("a", 99, 0) == 0
    assert budget.leases["a"].left_pico == 60
    assert budget.correct("a", 20, 30) == 10
    assert (budget.spent_pico, budget.leased_pico) == (30, 20)
