"""Money held before an attempt and settled once after it, on every way out.

A *purse* is this worker's part of one budget: a lease from the keeper, what of it is held by attempts under way, and what
they have posted. ``Holds.place`` holds a bound on all of a caller's budgets or on none. ``Attempt`` owns one hold:
leaving its ``with`` block settles it, whatever the way out, by the table ``ENDINGS``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Final, Protocol

from upeti.core.amount import decimal_text
from upeti.core.errors import BudgetExceeded
from upeti.core.events import AttemptOpened, AttemptSettled, Outcome
from upeti.core.meters import Meters
from upeti.gateway.fiber import Fiber, parked
from upeti.gateway.metrics import WorkerMetrics
from upeti.journal.writer import JournalWriter
from upeti.money.price import Price, cost_of


class Ended(StrEnum):
    """How an attempt ended."""

    ANSWERED = "answered"
    REFUSED = "refused"  # the provider answered with an error that it does not bill
    REFUSED_UNSURE = "refused_unsure"  # … with one that it may bill (its own time-out, a content filter)
    NOT_SENT = "not_sent"  # no connection, or given up before anything was sent
    LOST = "lost"  # sent, and the connection closed without an answer
    TIMED_OUT = "timed_out"
    CUT = "cut"  # the provider stopped within its answer
    GARBAGE = "garbage"  # the answer cannot be read
    CLIENT_LEFT = "client_left"  # and the answer was not read to its end
    CRASHED = "crashed"  # a fault of ours


class Rule(StrEnum):
    """What an ending means for the hold."""

    METERS = (
        "meters"  # posted by the reported meters; estimated at the bound when there are none; unpriced without a price
    )
    NOTHING = "nothing"  # posted at zero
    VOID = "void"


# The life cycle of a hold is one step: held → settled, by this table. docs/architecture.md shows it.
ENDINGS: Final[Mapping[Ended, Rule]] = {
    Ended.ANSWERED: Rule.METERS,
    Ended.REFUSED: Rule.NOTHING,
    Ended.REFUSED_UNSURE: Rule.METERS,
    Ended.NOT_SENT: Rule.VOID,
    Ended.LOST: Rule.METERS,
    Ended.TIMED_OUT: Rule.METERS,
    Ended.CUT: Rule.METERS,
    Ended.GARBAGE: Rule.METERS,
    Ended.CLIENT_LEFT: Rule.METERS,
    Ended.CRASHED: Rule.METERS,
}


def settle(ended: Ended, meters: Meters | None, price: Price | None, bound_pico: int | None) -> tuple[Outcome, int]:
    """Return how the hold is settled and the cost in pico units. ``bound_pico`` is None when there is no bound."""
    rule = ENDINGS[ended]
    if rule is Rule.VOID:
        return Outcome.VOIDED, 0
    if rule is Rule.NOTHING:
        return Outcome.POSTED, 0
    if meters is not None and price is not None:
        cost = cost_of(price, meters)
        if cost is None:
            return _UNPRICED, 0
        if cost <= RECORDED_MAX:
            return _POSTED, cost
    return (Outcome.ESTIMATED, bound_pico) if bound_pico is not None else (_UNPRICED, 0)


# What an integer of the journal holds: 9.2 million USD for one attempt. A report beyond that is not to be believed.
RECORDED_MAX: Final = (1 << 63) - 1
_NO_PRICES: Final[Mapping[str, Price]] = {}
_POSTED: Final = Outcome.POSTED
_UNPRICED: Final = Outcome.UNPRICED


class Purse:
    """This worker's part of one budget, in pico units."""

    __slots__ = (
        "asked",
        "budget",
        "held",
        "lease",
        "left_elsewhere",
        "limit",
        "posted",
        "refused",
        "resets_ns",
        "used",
        "waiting",
    )

    def __init__(self, budget: str) -> None:
        self.budget = budget
        self.lease = 0  # granted and not yet posted or returned; `held` is a part of it
        self.held = 0
        self.posted = 0  # since this worker started
        self.left_elsewhere = 0  # neither spent nor leased to anyone, at the keeper's last word
        self.limit = 0
        self.resets_ns = 0
        self.asked = False
        self.refused = False  # the keeper's answer to the last ask was that there is no more
        self.used = False  # since the last tick
        self.waiting: list[tuple[Fiber, int]] = []

    @property
    def left(self) -> int:
        """What may still be spent, as far as this worker knows."""
        return max(0, self.lease - self.held + self.left_elsewhere)

    def park(self, fiber: Fiber, ticket: int) -> None:
        self.waiting.append((fiber, ticket))

    def released(self) -> None:
        """A hold has ended: who waits for the keeper may fit now. One after the other, up to the first that does not, so
        that a crowd costs nothing.
        """
        while self.waiting and self.lease > self.held:
            fiber, ticket = self.waiting.pop(0)
            before = len(self.waiting)
            fiber.resume(ticket)
            if len(self.waiting) > before:
                return

    def wake(self) -> None:
        waiting, self.waiting = self.waiting, []
        for fiber, ticket in waiting:
            fiber.resume(ticket)


class Treasury(Protocol):
    """Who grants leases: the keeper, as this worker reaches it."""

    def ask(self, budget: str, need_pico: int, posted_pico: int) -> bool:
        """Ask for more; False when the keeper cannot be reached. The answer comes to ``Holds.granted``."""
        ...

    def give_back(self, budget: str, amount_pico: int, posted_pico: int, *, recalled: bool) -> bool:
        """Return a part of a lease, or only say what was posted; False when the keeper cannot be reached."""
        ...


class Holds:
    """The purses of one worker."""

    def __init__(self, treasury: Treasury) -> None:
        self._purses: dict[str, Purse] = {}
        self._sets: dict[tuple[str, ...], tuple[Purse, ...]] = {}
        self._treasury = treasury

    def purse(self, budget: str) -> Purse:
        purse = self._purses.get(budget)
        if purse is None:
            purse = self._purses[budget] = Purse(budget)
        return purse

    def purses_of(self, budgets: tuple[str, ...]) -> tuple[Purse, ...]:
        known = self._sets.get(budgets)
        if known is None:
            known = self._sets[budgets] = tuple([self.purse(budget) for budget in budgets])
        return known

    def place(self, purses: tuple[Purse, ...], bound_pico: int) -> bool:
        """Hold ``bound_pico`` on every purse or on none; False when a lease does not reach."""
        for purse in purses:
            if purse.lease - purse.held < bound_pico:
                return False
        for purse in purses:
            purse.held += bound_pico
            purse.used = True
        return True

    async def place_with_more(self, purses: tuple[Purse, ...], bound_pico: int) -> None:
        """The same, asking the keeper. Raises ``BudgetExceeded``."""
        while not self.place(purses, bound_pico):
            for purse in purses:
                if purse.lease - purse.held < bound_pico:
                    await self._more(purse, bound_pico)

    async def _more(self, purse: Purse, bound_pico: int) -> None:
        """Wait for the keeper's answer, for the keeper itself, or for the end of another hold: the caller's deadline
        ends that.
        """
        if not purse.asked:
            need = bound_pico - (purse.lease - purse.held)
            purse.refused = False
            purse.asked = self._treasury.ask(purse.budget, need, purse.posted)
        await parked(purse)
        if purse.refused and purse.lease - purse.held < bound_pico:
            raise self._exceeded(purse, bound_pico)

    def _exceeded(self, purse: Purse, bound_pico: int) -> BudgetExceeded:
        return BudgetExceeded(
            "budget_exceeded",
            f"The budget {purse.budget!r} has {decimal_text(purse.left)} of {decimal_text(purse.limit)} USD left; this call "
            f"can cost up to {decimal_text(bound_pico)}. Lower max_tokens, or have the limit raised.",
        )

    def granted(self, budget: str, amount_pico: int, left_pico: int, limit_pico: int, resets_ns: int) -> None:
        """The keeper's answer to ``ask``."""
        purse = self.purse(budget)
        purse.lease += amount_pico
        purse.left_elsewhere = left_pico
        purse.limit = limit_pico
        purse.resets_ns = resets_ns
        purse.asked = False
        purse.refused = amount_pico == 0
        purse.wake()

    def leases(self) -> dict[str, tuple[int, int]]:
        """What a worker that connects again says of every budget: left of the lease, holds included; posted so far."""
        return {purse.budget: (purse.lease, purse.posted) for purse in self._purses.values()}

    def connected(self) -> None:
        """The keeper is there (again): who waits asks (again)."""
        for purse in self._purses.values():
            purse.asked = False
            purse.refused = False
            purse.wake()

    def recalled(self, budget: str) -> None:
        """Another worker needs it: give back what is not held."""
        self._give_back(self.purse(budget), recalled=True)

    def return_idle(self) -> None:
        """Called now and then: leases that nobody used since the last time go back; posted sums are reported."""
        for purse in self._purses.values():
            if not purse.used and purse.lease - purse.held > 0:
                self._give_back(purse)
            elif purse.used:
                self._treasury.give_back(purse.budget, 0, purse.posted, recalled=False)
            purse.used = False

    def return_all(self) -> None:
        for purse in self._purses.values():
            self._give_back(purse)

    def _give_back(self, purse: Purse, *, recalled: bool = False) -> None:
        amount = max(0, purse.lease - purse.held)
        # While there is no keeper nobody else can have it, and here it can still be spent.
        if self._treasury.give_back(purse.budget, amount, purse.posted, recalled=recalled):
            purse.lease -= amount
            purse.left_elsewhere += amount


class Recorder(Protocol):
    """What an attempt needs of its worker."""

    open_attempts: set[Attempt]
    journal: JournalWriter
    metrics: WorkerMetrics
    loop: asyncio.AbstractEventLoop
    now_ns: Callable[[], int]


class Timed(Protocol):
    """What an attempt reads of the answer."""

    status: int
    first_byte_s: float


class Attempt:
    """One try of a call at one candidate, and the owner of its hold.

    ``with attempt:`` journals the settlement on every way out; ``settle`` does it earlier, before the last byte goes to
    the client. It is done once: a second settlement is a fault and raises.
    """

    __slots__ = (
        "_gateway",
        "_prices_by_tier",
        "cost_pico",
        "opened",
        "outcome",
        "price",
        "purses",
        "sent",
        "tier",
    )

    def __init__(
        self,
        opened: AttemptOpened,
        price: Price | None,
        purses: tuple[Purse, ...],
        gateway: Recorder,
        prices_by_tier: Mapping[str, Price] = _NO_PRICES,
        tier: str = "",
    ) -> None:
        """``tier`` and ``price`` hold unless the answer reports another tier, whose price is in ``prices_by_tier``."""
        self.opened = opened
        self.price = price
        self.tier = tier
        self._prices_by_tier = prices_by_tier
        self.purses = purses
        self.sent = False  # whether the provider may have seen it
        self.outcome: Outcome | None = None
        self.cost_pico = 0
        self._gateway = gateway
        gateway.open_attempts.add(self)
        gateway.journal.append(opened)

    def settle(
        self,
        ended: Ended,
        meters: Meters | None = None,
        reply: Timed | None = None,
        sent_s: float = 0.0,
        provider_request_id: str = "",
        tier: str | None = None,
    ) -> None:
        """Settle the hold and queue the record. The caller awaits the journal before it sends the last byte.

        ``sent_s`` is the loop time of the dispatch; ``tier`` what the answer says it was served at, None when it does
        not say.
        """
        if self.outcome is not None:
            raise AssertionError(f"attempt {self.opened.call_id}-{self.opened.attempt} is settled already")
        gateway, opened = self._gateway, self.opened
        if tier is not None and tier != self.tier:
            self.tier, self.price = tier, self._prices_by_tier.get(tier)
        price = self.price
        if self.sent:
            bound_pico = opened.bound_pico if opened.priced else None
            if price is None and not self.purses:
                bound_pico = None  # of another tier: here it limits nothing, and would stand for a cost
            outcome, cost_pico = settle(ended, meters, price, bound_pico)
        else:
            ended, outcome, cost_pico = Ended.NOT_SENT, Outcome.VOIDED, 0
        self.outcome = outcome
        self.cost_pico = cost_pico
        for purse in self.purses:
            purse.held -= opened.bound_pico
            purse.lease -= cost_pico
            purse.posted += cost_pico
            if purse.waiting:
                gateway.loop.call_soon(purse.released)
        gateway.open_attempts.discard(self)
        status = 0
        first_byte_us = total_us = -1
        if reply is not None:
            status = reply.status
            first_byte_us = int((reply.first_byte_s - sent_s) * 1e6)
            total_us = int((gateway.loop.time() - sent_s) * 1e6)
        settled = AttemptSettled(
            opened.call,
            opened.attempt,
            gateway.now_ns(),
            outcome,
            ended,
            status,
            meters,
            cost_pico,
            price.id if price is not None else "",
            first_byte_us,
            total_us,
            provider_request_id,
            self.tier,
        )
        gateway.journal.append(settled)
        gateway.metrics.settled.append((opened.channel, settled))

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.outcome is None:
            self.settle(Ended.CRASHED)
