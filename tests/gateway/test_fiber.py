"""Fibers as scripts: who is woken, by whom, and who comes too late."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from upeti.gateway.fiber import NEVER_S, Fiber, Gate, parked

Ends = list[tuple[Fiber, BaseException | None]]


class Place:
    """Somewhere to wait; keeps who waits and with which ticket."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Fiber, int]] = []

    def park(self, fiber: Fiber, ticket: int) -> None:
        self.waiting.append((fiber, ticket))


@pytest.fixture
def ends() -> Ends:
    return []


@pytest.fixture
def start(ends: Ends) -> Callable[[Coroutine[Any, Any, None]], Fiber]:
    def run(coroutine: Coroutine[Any, Any, None]) -> Fiber:
        fiber = Fiber(lambda *end: ends.append(end), "owner")
        fiber.start(coroutine)
        return fiber

    return run


Start = Callable[[Coroutine[Any, Any, None]], Fiber]


def test_it_runs_within_the_call_that_wakes_it(start: Start, ends: Ends) -> None:
    place, said = Place(), []

    async def work() -> None:
        said.append("begun")
        said.append(await parked(place))
        said.append(await parked(place))

    fiber = start(work())
    assert said == ["begun"]
    assert not fiber.done
    for value in ("one", "two"):
        ((waiting, ticket),) = place.waiting
        place.waiting.clear()
        waiting.resume(ticket, value)
        assert said[-1] == value
    assert fiber.done
    assert ends == [(fiber, None)]
    assert fiber.owner == "owner"


def test_a_late_wake_up_finds_nobody(start: Start, ends: Ends) -> None:
    first, second, said = Place(), Place(), []

    async def work() -> None:
        try:
            await parked(first)
        except TimeoutError:
            said.append("timed out")
        said.append(await parked(second))

    fiber = start(work())
    fiber.interrupt(TimeoutError())
    (late,) = first.waiting
    fiber.resume(late[1], "too late")
    fiber.fail(late[1], RuntimeError("too late"))
    assert said == ["timed out"]
    (now,) = second.waiting
    fiber.resume(now[1], "in time")
    fiber.resume(now[1], "twice")
    fiber.fail(now[1], RuntimeError("after the end"))
    assert said == ["timed out", "in time"]
    assert ends == [(fiber, None)]


def test_an_interruption_while_it_runs_comes_at_its_next_wait(start: Start, ends: Ends) -> None:
    place, said = Place(), []

    async def work() -> None:
        await parked(place)
        fiber.interrupt(ConnectionError("the client left"))  # as a write that finds the client gone does
        said.append("still running")
        try:
            await parked(place)
        except ConnectionError as error:
            said.append(str(error))
        await parked(place)
        said.append("done")

    fiber = start(work())
    fiber.resume(place.waiting[-1][1])
    assert said == ["still running", "the client left"]
    assert len(place.waiting) == 2  # the wait that was interrupted was never parked
    fiber.resume(place.waiting[-1][1])
    assert said[-1] == "done"


def test_an_interruption_that_nobody_waits_for_dies_with_its_coroutine(start: Start, ends: Ends) -> None:
    """A fiber serves one call after the other: what was meant for one must not hit the next."""
    place, said = Place(), []

    async def first() -> None:
        await parked(place)
        fiber.interrupt(ConnectionError())

    async def second() -> None:
        said.append(await parked(place))

    fiber = start(first())
    fiber.resume(place.waiting[-1][1])
    fiber.deadline = 5.0
    fiber.start(second())
    assert fiber.deadline == NEVER_S
    fiber.resume(place.waiting[-1][1], "the second")
    assert said == ["the second"]
    assert [error for _, error in ends] == [None, None]


def test_wake_ups_meant_for_an_earlier_coroutine_find_nobody(start: Start) -> None:
    place, said = Place(), []

    async def work(name: str) -> None:
        try:
            said.append((name, await parked(place)))
        except TimeoutError:
            said.append((name, "timed out"))

    fiber = start(work("a"))
    fiber.interrupt(TimeoutError())
    fiber.start(work("b"))
    old, new = (ticket for _, ticket in place.waiting)
    fiber.resume(old, "for a")
    assert said == [("a", "timed out")]
    fiber.resume(new, "for b")
    assert said[-1] == ("b", "for b")


def test_interrupting_what_is_over_does_nothing(start: Start, ends: Ends) -> None:
    async def work() -> None:
        pass

    fiber = start(work())
    fiber.interrupt(TimeoutError())
    assert ends == [(fiber, None)]


def test_a_crash_is_told_once(start: Start, ends: Ends) -> None:
    async def work() -> None:
        raise ZeroDivisionError

    fiber = start(work())
    ((ended, error),) = ends
    assert ended is fiber
    assert isinstance(error, ZeroDivisionError)
    assert fiber.done


def test_what_cannot_be_awaited_is_a_crash_and_not_a_hang(start: Start, ends: Ends) -> None:
    class NoPlace:
        def __await__(self) -> Any:
            yield "nothing that parks"

    async def work() -> None:
        await NoPlace()

    with pytest.raises(AttributeError):
        start(work())


@pytest.mark.parametrize("opened", ["before", "after"])
def test_a_gate(start: Start, ends: Ends, opened: str) -> None:
    gate, said = Gate(), []

    async def work() -> None:
        said.append(await gate)

    if opened == "before":
        gate.open(7)
        start(work())
    else:
        start(work())
        assert said == []
        gate.open(7)
    assert said == [7]
    assert len(ends) == 1


@pytest.mark.parametrize("failed", ["before", "after"])
def test_a_gate_that_fails(start: Start, ends: Ends, failed: str) -> None:
    gate = Gate()

    async def work() -> None:
        await gate

    if failed == "before":
        gate.fail(OSError("no connection"))
        start(work())
    else:
        start(work())
        gate.fail(OSError("no connection"))
    ((_, error),) = ends
    assert isinstance(error, OSError)


def test_a_gate_nobody_waits_for_any_more(start: Start, ends: Ends) -> None:
    gate = Gate()

    async def work() -> None:
        await gate

    fiber = start(work())
    fiber.interrupt(TimeoutError())
    gate.open()
    ((_, error),) = ends
    assert isinstance(error, TimeoutError)
