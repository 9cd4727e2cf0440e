"""What a worker does with its leases while the keeper is away."""

from __future__ import annotations

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
