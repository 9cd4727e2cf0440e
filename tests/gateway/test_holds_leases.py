"""What a worker does with its leases while the keeper is away."""

from __future__ import annotations

from collections.abc import Callable

from upeti.gateway.fiber import Fiber
from upeti.gateway.holds import Holds


class Treasury:
    """A keeper that is there or not, and what it was told."""

    def __init__(self) -> None:
        self.there = True
        self.returned: list[tuple[int, int, bool]] = []

    def ask(self, budget: str, need_pico: int, posted_pico: int) -> bool:
        return self.there

    def give_back(
        self, budget: str, amount_pico: int, posted_pico: int, *, recalled: bool = False, overrun: str = ""
    ) -> bool:
        if self.there:
            self.returned.append((amount_pico, posted_pico, recalled))
        return self.there


def test_an_idle_lease_is_kept_while_nobody_can_take_it() -> None:
    treasury = Treasury()
    holds = Holds(treasury)
    holds.granted("b", 100, 0, 100)
    treasury.there = False
    holds.return_idle()
    assert holds.leases() == {"b": (100, 0)}
    treasury.there = True
    holds.return_idle()
    assert holds.leases() == {"b": (0, 0)}
    assert treasury.returned == [(100, 0, False)]


def test_the_answer_to_a_recall_says_so_and_leaves_what_is_held() -> None:
    treasury = Treasury()
    holds = Holds(treasury)
    holds.granted("b", 100, 0, 100)
    assert holds.place(holds.purses_of(("b",)), 30)
    holds.recalled("b")
    assert treasury.returned == [(70, 0, True)]
    assert holds.leases() == {"b": (30, 0)}


def test_a_lower_limit_that_the_keeper_tells_first_takes_the_lease_away_too() -> None:
    treasury = Treasury()
    holds = Holds(treasury)
    holds.granted("b", 100, 0, 100)
    holds.granted("b", 0, -90, 10)
    assert not holds.place(holds.purses_of(("b",)), 30)
    assert treasury.returned == [(100, 0, False)]


class Journal:
    """Says when what is queued is written."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[bool], None]] = []

    def write(self, *, durable: bool = True) -> None:
        waiting, self.waiting = self.waiting, []
        for act in waiting:
            act(durable)


def test_nothing_is_given_back_before_the_journal_says_why_it_is_free() -> None:
    """A worker that is killed in between leaves a journal in which the hold is open: its bound is not anybody else's."""
    treasury, journal = Treasury(), Journal()
    holds = Holds(treasury, when_durable=journal.waiting.append)
    purse = holds.purse("b")
    holds.granted("b", 100, 0, 100)
    assert holds.place((purse,), 60)
    purse.held -= 60  # a call has ended at a cost of 10; its record is queued
    purse.lease -= 10
    purse.posted += 10
    holds.recalled("b")
    assert treasury.returned == []
    assert not holds.place((purse,), 1)  # it is not spent here meanwhile
    assert holds.leases() == {"b": (90, 10)}  # a keeper that asks now is told that it is here
    journal.write()
    assert treasury.returned == [(90, 10, True)]
    assert holds.leases() == {"b": (0, 10)}


def test_what_the_journal_cannot_write_is_not_given_back() -> None:
    treasury, journal = Treasury(), Journal()
    holds = Holds(treasury, when_durable=journal.waiting.append)
    holds.granted("b", 100, 0, 100)
    holds.recalled("b")
    waiting = Call(holds, 40)
    holds.granted("b", 0, 0, 100)  # the keeper has nothing; the worker's own may come back
    holds.recalled("b")
    journal.write(durable=False)
    assert treasury.returned == [(0, 0, True), (0, 0, True)]  # who recalled does not wait for it
    assert waiting.ended == "BudgetExceeded"
    assert holds.leases() == {"b": (100, 0)}
    assert holds.place((holds.purse("b"),), 100)


class Call:
    """Waits on a purse as a call's fiber does, until it can hold what it needs."""

    def __init__(self, holds: Holds, bound_pico: int) -> None:
        self.ended = ""
        self._holds, self._bound_pico = holds, bound_pico
        self._fiber = Fiber(self._end, self)
        self._fiber.start(holds.place_with_more(holds.purses_of(("b",)), bound_pico))

    def _end(self, fiber: Fiber, error: BaseException | None) -> None:
        self.ended = type(error).__name__ if error is not None else "held"


def test_without_a_keeper_who_waits_is_served_as_holds_end() -> None:
    treasury = Treasury()
    holds = Holds(treasury)
    purse = holds.purse("b")
    holds.granted("b", 100, 0, 100)
    assert holds.place((purse,), 100)
    treasury.there = False
    waiting = [Call(holds, 40) for _ in range(3)]
    purse.held -= 100
    purse.lease -= 10
    purse.released()
    assert [call.ended for call in waiting] == ["held", "held", ""]
    purse.held -= 40
    purse.released()
    assert [call.ended for call in waiting] == ["held", "held", "held"]


def test_only_the_answer_to_the_last_ask_refuses() -> None:
    """A hold that ends between an ask and its answer wakes who waits; an earlier refusal is then none."""
    treasury = Treasury()
    holds = Holds(treasury)
    purse = holds.purse("b")
    holds.granted("b", 30, 0, 30)
    first = Call(holds, 40)
    holds.granted("b", 0, 0, 30)
    assert first.ended == "BudgetExceeded"
    second = Call(holds, 40)
    purse.released()
    assert second.ended == ""
    holds.granted("b", 0, 0, 30)
    assert second.ended == "BudgetExceeded"


def test_the_purse_of_a_window_that_is_over_is_forgotten_once_nothing_can_come_any_more() -> None:
    treasury = Treasury()
    now_ns = 10**9
    holds = Holds(treasury, lambda: now_ns)
    purse = holds.purse("b@2026-11")
    purse.resets_ns = now_ns
    holds.granted("b@2026-11", 100, 0, 100)
    assert holds.place((purse,), 30)
    now_ns += 61 * 10**9
    holds.return_idle()
    assert treasury.returned == [(70, 0, False)]
    holds.return_idle()
    assert holds.leases() == {"b@2026-11": (30, 0)}  # its hold may still be settled
    purse.held -= 30
    purse.lease -= 20
    purse.posted += 20
    holds.return_idle()
    assert treasury.returned[1:] == [(10, 20, False)]
    holds.return_idle()
    assert holds.leases() == {}
