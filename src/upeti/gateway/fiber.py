"""A fiber: one coroutine, stepped directly by the socket callback that it waits for.

An asyncio Task costs a Future and a trip through the loop's ready queue for every wait; a call waits four times. A fiber
is resumed within the callback itself (docs/decisions/0003). Rules:

- a fiber parks on one thing at a time: any object with ``park(fiber, ticket)``, which later calls ``fiber.resume(ticket,
  value)`` or ``fiber.fail(ticket, error)``;
- the ticket goes up with every step, so a wake-up that comes too late finds nobody;
- ``interrupt`` raises an error at the place where the fiber waits (the client left, a deadline passed).

Only objects of this gateway can be awaited; asyncio's cannot.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Protocol

NEVER_S: Final = float("inf")  # a deadline that does not come


class Parking(Protocol):
    """Something a fiber can wait for."""

    def park(self, fiber: Fiber, ticket: int) -> None: ...


class Fiber:
    """Runs one coroutine at a time; calls ``on_end(fiber, error or None)`` when one is over."""

    __slots__ = ("_coroutine", "_interrupted", "_on_end", "_running", "_ticket", "deadline", "owner")

    def __init__(self, on_end: Callable[[Fiber, BaseException | None], None], owner: Any) -> None:
        self.owner = owner  # whom the fiber works for, for ``on_end``
        self._coroutine: Coroutine[Parking, Any, None] | None = None
        self._on_end = on_end
        self._ticket = 0
        self._running = False
        self._interrupted: BaseException | None = None
        self.deadline = NEVER_S  # loop time; the worker's tick interrupts with TimedOut past it

    @property
    def done(self) -> bool:
        return self._coroutine is None

    def start(self, coroutine: Coroutine[Parking, Any, None]) -> None:
        """Run ``coroutine`` up to its first wait."""
        self._coroutine = coroutine
        self._interrupted = None  # what came too late for the one before
        self.deadline = NEVER_S
        self._step(coroutine.send, None)

    def resume(self, ticket: int, value: object = None) -> None:
        """Go on with ``value``, unless the fiber has left that place since."""
        if ticket == self._ticket and self._coroutine is not None:
            self._step(self._coroutine.send, value)

    def fail(self, ticket: int, error: BaseException) -> None:
        """Go on by raising ``error``, unless the fiber has left that place since."""
        if ticket == self._ticket and self._coroutine is not None:
            self._step(self._coroutine.throw, error)

    def interrupt(self, error: BaseException) -> None:
        """Raise ``error`` where the fiber waits, or at its next wait when it is running now."""
        if self._coroutine is None:
            return
        if self._running:
            self._interrupted = error
        else:
            self._step(self._coroutine.throw, error)

    def _step(self, advance: Callable[[Any], Parking], value: object) -> None:
        """Run the coroutine to its next wait: ``advance`` is its ``send`` or its ``throw``."""
        self._ticket = ticket = self._ticket + 1
        self._running = True
        try:
            parking = advance(value)
            while self._interrupted is not None:
                parking = self._raise_interruption()
        except BaseException as end:
            self._running = False
            self._coroutine = None
            self._on_end(self, None if isinstance(end, StopIteration) else end)
            return
        self._running = False
        parking.park(self, ticket)

    def _raise_interruption(self) -> Parking:
        interruption, self._interrupted = self._interrupted, None
        assert self._coroutine is not None
        assert interruption is not None
        return self._coroutine.throw(interruption)


@types.coroutine
def parked(place: Parking) -> Generator[Parking, Any, Any]:
    """Wait once at ``place``: for what can be waited for in more than one way."""
    return (yield place)


class Gate:
    """One wait for one thing: ``await gate``, and somebody calls ``open(value)`` or ``fail(error)``."""

    __slots__ = ("_error", "_fiber", "_opened", "_ticket", "_value")

    def __init__(self) -> None:
        self._fiber: Fiber | None = None
        self._ticket = 0
        self._opened = False
        self._value: Any = None
        self._error: BaseException | None = None

    def park(self, fiber: Fiber, ticket: int) -> None:
        self._fiber = fiber
        self._ticket = ticket

    def open(self, value: object = None) -> None:
        self._opened = True
        self._value = value
        if self._fiber is not None:
            self._fiber.resume(self._ticket, value)

    def fail(self, error: BaseException) -> None:
        self._opened = True
        self._error = error
        if self._fiber is not None:
            self._fiber.fail(self._ticket, error)

    def __await__(self) -> Generator[Parking, Any, Any]:
        if not self._opened:
            return (yield self)
        if self._error is not None:
            raise self._error
        return self._value
