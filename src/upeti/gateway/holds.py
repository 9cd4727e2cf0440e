"""Money held before an attempt and settled once after it, on every way out.

A *purse* is this worker's part of one window of a budget: a lease from the keeper, what of it is held by attempts under
way, and what they have posted. ``Holds.place`` holds a bound on all of a caller's budgets, and calls and tokens on all
its rate limits, or on none. ``Attempt`` owns one hold: leaving its ``with`` block settles it, whatever the way out, by
the table ``ENDINGS``. A soft budget is counted and never asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Final, Protocol

from upeti.core.amount import PICO_PER_UNIT, decimal_text
from upeti.core.events import AttemptOpened, AttemptSettled, Outcome
from upeti.core.meters import Meters, tokens_of
from upeti.gateway.fiber import Fiber, parked
from upeti.gateway.metrics import WorkerMetrics
from upeti.gateway.refusals import exceeded
from upeti.journal.writer import JournalWriter
from upeti.money.budget_terms import CALLS, USD, name_of, root_of
from upeti.money.price import Price, cost_of


class Ended(StrEnum):
    """How an attempt ended."""

    ANSWERED = "answered"
    REFUSED = "refused"  # the provider answered with an error that it does not bill
    REFUSED_UNSURE = "refused_unsure"  # … with one that it may bill (its own time-out, a content filter)
    DEFERRED = "deferred"  # an own model left the call to the next candidate
    NOT_SENT = "not_sent"  # no connection, or given up before anything was sent
    LOST = "lost"  # sent, and the connection closed without an answer
    TIMED_OUT = "timed_out"
    CUT = "cut"  # the provider stopped within its answer
    GARBAGE = "garbage"  # the answer cannot be read
    CLIENT_LEFT = "client_left"  # and the answer was not read to its end
    CRASHED = "crashed"  # a fault of ours
    DRILL = "drill"  # a drill's fault stood in the provider's place: nothing was sent


class Rule(StrEnum):
    """What an ending means for the hold."""

    METERS = "meters"  # posted by what is reported; estimated at the bound when nothing is; unpriced without a price
    NOTHING = "nothing"  # posted at zero
    VOID = "void"


# The life cycle of a hold is one step: held → settled, by this table. docs/architecture.md shows it.
ENDINGS: Final[Mapping[Ended, Rule]] = {
    Ended.ANSWERED: Rule.METERS,
    Ended.REFUSED: Rule.NOTHING,
    Ended.REFUSED_UNSURE: Rule.METERS,
    Ended.DEFERRED: Rule.NOTHING,
    Ended.NOT_SENT: Rule.VOID,
    Ended.LOST: Rule.METERS,
    Ended.TIMED_OUT: Rule.METERS,
    Ended.CUT: Rule.METERS,
    Ended.GARBAGE: Rule.METERS,
    Ended.CLIENT_LEFT: Rule.METERS,
    Ended.CRASHED: Rule.METERS,
    Ended.DRILL: Rule.VOID,
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

# Until then a late settlement, or the answer to an ask, may still come for a window that is over.
_ENDED_KEPT_NS: Final = 60 * 10**9


class Purse:
    """This worker's part of one budget, in pico units of what it limits: money, calls or tokens."""

    __slots__ = (
        "asked",
        "budget",
        "held",
        "lease",
        "left_elsewhere",
        "limit",
        "name",
        "overrun",
        "posted",
        "refused",
        "resets_ns",
        "returning",
        "soft",
        "told",
        "unit",
        "used",
        "waiting",
        "zone",
    )

    def __init__(self, budget: str) -> None:
        self.budget = budget
        self.name = name_of(budget)
        self.unit = USD
        self.soft = False  # counted, never refused
        self.lease = 0  # granted and not yet posted or returned; `held` is a part of it
        self.held = 0
        self.returning = 0  # taken from the lease to be given back, once the journal says why it is free
        self.posted = 0  # since this worker started
        self.told = 0  # of that, what the keeper was told
        self.left_elsewhere = 0  # neither spent nor leased to anyone, at the keeper's last word
        self.limit = 0
        self.resets_ns = 0  # when its window ends; 0: never
        self.zone = "UTC"
        self.overrun = ""  # what cost more than its bound, until the keeper has frozen the budget
        self.asked = False
        self.refused = False  # the keeper's answer to the last ask was that there is no more
        self.used = False  # since the last tick
        self.waiting: list[tuple[Fiber, int]] = []

    @property
    def left(self) -> int:
        """What may still be spent, as far as this worker knows."""
        return max(0, self.lease - self.held + self.left_elsewhere)

    @property
    def at_rest(self) -> bool:
        """Whether nothing that began here can still come."""
        return not (self.held or self.returning or self.asked or self.waiting)

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


Rates = tuple[tuple[Purse, int], ...]
"""What an attempt holds of calls and tokens: (purse, pico units) of each rate limit."""


class Treasury(Protocol):
    """Who grants leases: the keeper, as this worker reaches it."""

    def ask(self, budget: str, need_pico: int, posted_pico: int) -> bool:
        """Ask for more; False when the keeper cannot be reached. The answer comes to ``Holds.granted``."""
        ...

    def give_back(
        self, budget: str, amount_pico: int, posted_pico: int, *, recalled: bool = False, overrun: str = ""
    ) -> bool:
        """Return a part of a lease, or only say what was posted, or has overrun its bound; False when nobody hears."""
        ...


class Holds:
    """The purses of one worker."""

    def __init__(
        self,
        treasury: Treasury,
        now_ns: Callable[[], int] = time.time_ns,
        when_durable: Callable[[Callable[[bool], None]], None] = lambda act: act(True),
    ) -> None:
        """``when_durable`` is the journal's: it calls back when what was queued so far is written."""
        self._purses: dict[str, Purse] = {}
        self._treasury = treasury
        self._now_ns = now_ns
        self._when_durable = when_durable

    def purse(self, budget: str) -> Purse:
        purse = self._purses.get(budget)
        if purse is None:
            purse = self._purses[budget] = Purse(budget)
        return purse

    def purses_of(self, budgets: tuple[str, ...]) -> tuple[Purse, ...]:
        return tuple([self.purse(budget) for budget in budgets])

    def place(self, purses: tuple[Purse, ...], bound_pico: int, rates: Rates = ()) -> bool:
        """Hold ``bound_pico`` on every purse, and what ``rates`` say, or nothing; False when a lease does not reach."""
        for purse in purses:
            if purse.lease - purse.held < bound_pico and not purse.soft:
                return False
        for purse, amount_pico in rates:
            if purse.lease - purse.held < amount_pico:
                return False
        for purse in purses:
            purse.held += bound_pico
            purse.used = True
        for purse, amount_pico in rates:
            purse.held += amount_pico
            purse.used = True
        return True

    async def place_with_more(self, purses: tuple[Purse, ...], bound_pico: int, rates: Rates = ()) -> None:
        """The same, asking the keeper. Raises ``BudgetExceeded``."""
        while not self.place(purses, bound_pico, rates):
            for purse in purses:
                if purse.lease - purse.held < bound_pico and not purse.soft:
                    await self._more(purse, bound_pico)
            for purse, amount_pico in rates:
                if purse.lease - purse.held < amount_pico:
                    await self._more(purse, amount_pico)

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
            raise exceeded(purse, bound_pico, self._now_ns())

    def granted(self, budget: str, amount_pico: int, left_pico: int, limit_pico: int) -> None:
        """The keeper's answer to ``ask``."""
        purse = self.purse(budget)
        self.limited(purse, limit_pico)  # the keeper may know of a lower one before this worker's snapshot does
        purse.lease += amount_pico
        purse.left_elsewhere = left_pico
        purse.asked = False
        purse.refused = amount_pico == 0
        purse.wake()

    def leases(self) -> dict[str, tuple[int, int]]:
        """What a worker that connects again says of every budget: left of the lease, holds included; posted so far."""
        return {purse.budget: (purse.lease + purse.returning, purse.posted) for purse in self._purses.values()}

    def connected(self) -> None:
        """The keeper is there (again): who waits asks (again)."""
        for purse in self._purses.values():
            purse.asked = False
            purse.refused = False
            purse.wake()

    def recalled(self, budget: str) -> None:
        """Another worker needs it: give back what is not held."""
        self._give_back(self.purse(budget), recalled=True)

    def limited(self, purse: Purse, limit_pico: int) -> None:
        """A new snapshot says what the limit is: what a lower one no longer covers must not be spent from here."""
        if limit_pico < purse.limit:
            self._give_back(purse)
        purse.limit = limit_pico

    def frozen(self, roots: frozenset[str]) -> None:
        """A new snapshot says what is frozen: the keeper has heard of it."""
        for purse in self._purses.values():
            if purse.overrun and root_of(purse.budget) in roots:
                purse.overrun = ""

    def return_idle(self) -> None:
        """Called now and then: leases that nobody used since the last time, and those of windows that are over, go back;
        posted sums are reported.
        """
        now_ns = self._now_ns()
        for purse in tuple(self._purses.values()):
            ended = 0 < purse.resets_ns <= now_ns
            if (ended or not purse.used) and purse.lease > purse.held:
                self._give_back(purse)
            elif purse.posted != purse.told or purse.overrun:
                self._say(purse, 0)
            elif ended and purse.resets_ns + _ENDED_KEPT_NS < now_ns and purse.at_rest:
                del self._purses[purse.budget]
            purse.used = False

    def return_all(self) -> None:
        for purse in self._purses.values():
            self._give_back(purse)

    def _give_back(self, purse: Purse, *, recalled: bool = False) -> None:
        """Give back what is not held.

        A hold may have ended in this very turn of the loop, its record not written yet: were this worker killed now, its
        journal would say that the hold is open, and what was given back would be spent twice.
        """
        amount_pico = max(0, purse.lease - purse.held)
        purse.lease -= amount_pico
        purse.returning += amount_pico

        def give(durable: bool) -> None:
            purse.returning -= amount_pico
            if self._say(purse, amount_pico if durable else 0, recalled=recalled) and durable:
                purse.left_elsewhere += amount_pico
            else:
                # While there is no keeper nobody else can have it, and here it can still be spent.
                purse.lease += amount_pico
                purse.released()

        self._when_durable(give)

    def _say(self, purse: Purse, amount_pico: int, *, recalled: bool = False) -> bool:
        said = self._treasury.give_back(
            purse.budget, amount_pico, purse.posted, recalled=recalled, overrun=purse.overrun
        )
        if said:
            purse.told = purse.posted
        return said


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
        "rates",
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
        rates: Rates = (),
    ) -> None:
        """``tier`` and ``price`` hold unless the answer reports another tier, whose price is in ``prices_by_tier``."""
        self.opened = opened
        self.price = price
        self.tier = tier
        self._prices_by_tier = prices_by_tier
        self.purses = purses
        self.rates = rates
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
            if outcome is _UNPRICED and self.purses and bound_pico is not None:
                # What it counted has no price: at nothing, the limit would not hold.
                outcome, cost_pico, price = Outcome.ESTIMATED, bound_pico, None
        else:
            outcome, cost_pico, ended = Outcome.VOIDED, 0, ended if ended is Ended.DRILL else Ended.NOT_SENT
        self.outcome = outcome
        self.cost_pico = cost_pico
        hold_pico = opened.bound_pico
        for purse in self.purses:
            purse.held -= hold_pico
            purse.lease -= cost_pico
            purse.posted += cost_pico
            if purse.waiting:
                gateway.loop.call_soon(purse.released)
        if cost_pico > hold_pico:
            self._overran()
        if self.rates:
            self._settle_rates(ended, meters)
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
        gateway.metrics.settled.append((opened, settled))

    def _overran(self) -> None:
        """The bound was wrong. The budget nearest to the caller is to be frozen: whoever shares the wider ones is not to
        be stopped by one caller's calls.
        """
        opened = self.opened
        for purse in reversed(self.purses):
            if not purse.soft:
                purse.overrun = (
                    f"{opened.call_id}-{opened.attempt} to {opened.model} on {opened.channel} cost "
                    f"{decimal_text(self.cost_pico)} {opened.currency}, above its bound {decimal_text(opened.bound_pico)}"
                )
                return

    def _settle_rates(self, ended: Ended, meters: Meters | None) -> None:
        """A call counts once it was let through; tokens count as reported, or as held when nobody knows."""
        loop = self._gateway.loop
        for purse, held_pico in self.rates:
            used_pico = held_pico
            if purse.unit != CALLS:
                if ENDINGS[ended] is not Rule.METERS:
                    used_pico = 0
                elif meters is not None:
                    used_pico = tokens_of(meters) * PICO_PER_UNIT
            purse.held -= held_pico
            purse.lease -= used_pico
            purse.posted += used_pico
            if purse.waiting:
                loop.call_soon(purse.released)

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.outcome is None:
            self.settle(Ended.CRASHED)
