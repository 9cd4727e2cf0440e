"""A live drill as the journal tells of it: which calls of the share survived, how late, and what the others were told.

Rules: a call is in the drill when it is in the share and either met the fault or was kept from the channel by the drill's
latch. What the journal says of its attempts decides, once each: survived (another candidate answered, if only to refuse
what was the client's own mistake), lost, left (its client went away), or open (not over when the journal was read). A
call that met no fault outside the share would be a fault of ours, and is counted. Pure: who is in the share is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from upeti.money.price import Price, cost_of
from upeti.outlook.drill import Line, percentile

DRILLED: Final = "drill"  # how an attempt ended that met a fault
LATCHED: Final = "channel_latched"  # what a call is told of which every candidate is out
_ANSWERED: Final = "answered"
_DEFERRED: Final = "deferred"  # an own model left the call to the next candidate: no answer yet
# Without a refusal behind it, what was not sent was given up because nobody waited any more.
_LEFT: Final = frozenset({"client_left", "not_sent"})
_CLIENTS_OWN: Final = frozenset({400, 413, 415, 422})  # answers that any provider would give: the call was wrong
_NS_PER_S: Final = 10**9
_SOON_NS: Final = 5 * _NS_PER_S  # pauses between attempts are shorter
_LATER_NS: Final = 1 << 63
BINS_MAX: Final = 120  # points in time of a report


class Fate(StrEnum):
    SURVIVED = "survived"
    LOST = "lost"
    LEFT = "left"
    OPEN = "open"


class AttemptSeen(msgspec.Struct, frozen=True):
    """A settled attempt. ``answered_ns`` is when its first byte came, or its end when no byte came."""

    call_id: str
    attempt: int
    opened_ns: int
    settled_ns: int
    channel: str
    model: str
    feature: str
    tenant: str
    route: str
    ended: str
    status: int = 0
    first_byte_us: int = -1
    meters: Mapping[str, int] | None = None
    cost_pico: int | None = None
    currency: str = "USD"

    @property
    def answered_ns(self) -> int:
        return self.opened_ns + self.first_byte_us * 1000 if self.first_byte_us >= 0 else self.settled_ns


class RefusalSeen(msgspec.Struct, frozen=True):
    """A call that was told an error of ours."""

    call_id: str
    at_ns: int
    feature: str
    tenant: str
    route: str
    code: str


class _Call(msgspec.Struct):
    attempts: list[AttemptSeen] = msgspec.field(default_factory=list)
    refusal: RefusalSeen | None = None


class Judged(msgspec.Struct, frozen=True):
    """What became of one call of the drill."""

    call_id: str
    fate: Fate
    feature: str
    tenant: str
    route: str
    at_ns: int  # when it first met the fault, or was kept away
    met: bool  # an attempt of it met the fault; otherwise the drill's latch kept it away
    told: str = ""  # what a lost one was told
    answered_ns: int = 0
    added_us: int = -1  # from the first fault to the attempt that answered; -1: it met none
    answer: AttemptSeen | None = None


class Tally(msgspec.Struct):
    """Counts of one feature, tenant, route, or of all."""

    calls: int = 0
    survived: int = 0
    lost: int = 0
    left: int = 0
    open: int = 0

    def add(self, fate: Fate) -> None:
        self.calls += 1
        setattr(self, fate.value, getattr(self, fate.value) + 1)

    @property
    def survival_percent(self) -> float | None:
        """Of the calls whose end is known and whose client stayed; None when there are none."""
        decided = self.survived + self.lost
        return 100 * self.survived / decided if decided else None


class LiveDrill:
    """The calls of one drill. Records may come in any order."""

    def __init__(
        self,
        channel: str,
        routes: frozenset[str],
        in_share: Callable[[str], bool],
        *,
        slow: bool = False,
        status: int = 0,
    ) -> None:
        """``routes`` are those that try ``channel`` first and alone: whose calls its latch keeps away. ``slow``: the fault
        lets calls through, late, so it is met by every attempt at the channel. ``status`` is of an error that it answers.
        """
        self.channel = channel
        self.outside = 0  # attempts that met the fault and are not in the share
        self._routes = routes
        self._in_share = in_share
        self._slow = slow
        self._told = f"provider_{status}" if status else "no_answer"
        self._calls: dict[str, _Call] = {}

    def add(self, seen: AttemptSeen) -> None:
        inside = self._in_share(seen.call_id)
        if seen.ended == DRILLED and seen.channel == self.channel and not inside:
            self.outside += 1
        if inside:
            self._calls.setdefault(seen.call_id, _Call()).attempts.append(seen)

    def refused(self, seen: RefusalSeen) -> None:
        if self._in_share(seen.call_id):
            self._calls.setdefault(seen.call_id, _Call()).refusal = seen

    def judged(self, pending: Container[str] = (), now_ns: int = _LATER_NS) -> list[Judged]:
        """Return what became of each call of the drill, by when it met it.

        ``pending`` are calls with an attempt under way. Of the others, who met a fault a moment before ``now_ns`` and was
        told nothing since may be about to try another candidate.
        """
        found = (self._judge(call_id, call, pending, now_ns) for call_id, call in self._calls.items())
        return sorted((one for one in found if one is not None), key=lambda one: (one.at_ns, one.call_id))

    def _judge(self, call_id: str, call: _Call, pending: Container[str], now_ns: int) -> Judged | None:
        attempts = sorted(call.attempts, key=lambda one: one.attempt)
        faults = [one for one in attempts if self._meets(one)]
        refusal = call.refusal
        if not attempts:
            if refusal is None or refusal.code != LATCHED or refusal.route not in self._routes:
                return None  # a limit or a right refused it: the drill had no part in it
            fields = (refusal.feature, refusal.tenant, refusal.route, refusal.at_ns)
            return Judged(call_id, Fate.LOST, *fields, met=False, told=refusal.code)
        first, last = attempts[0], attempts[-1]
        if not faults and (first.route not in self._routes or first.channel == self.channel):
            return None  # it would have gone another way anyway, or went its way before the fault
        begun = faults[0] if faults else first
        fate, told = _fate(last, refusal, self._told)
        if refusal is None and (call_id in pending or (last.ended == DRILLED and now_ns < last.settled_ns + _SOON_NS)):
            fate, told = Fate.OPEN, ""
        answered = fate is Fate.SURVIVED
        added_us = (last.opened_ns - begun.opened_ns) // 1000 if faults and answered else -1
        if self._slow and answered and last in faults:
            added_us = max(0, last.first_byte_us)
        return Judged(
            call_id,
            fate,
            first.feature,
            first.tenant,
            first.route,
            begun.opened_ns,
            met=bool(faults),
            told=told,
            answered_ns=last.answered_ns if answered else 0,
            added_us=added_us,
            answer=last if answered else None,
        )

    def _meets(self, seen: AttemptSeen) -> bool:
        return seen.channel == self.channel and (seen.ended == DRILLED or self._slow)


def _fate(last: AttemptSeen, refusal: RefusalSeen | None, told: str) -> tuple[Fate, str]:
    if refusal is not None:
        return Fate.LOST, refusal.code
    if last.ended == _ANSWERED or (last.status in _CLIENTS_OWN and last.ended != _DEFERRED):
        return Fate.SURVIVED, ""
    if last.ended in _LEFT:
        return Fate.LEFT, ""
    if last.ended == DRILLED:
        return Fate.LOST, told  # the fault's own error went to the client
    return Fate.LOST, f"provider_{last.status}" if last.status >= 400 else last.ended


class Recovery(msgspec.Struct, frozen=True):
    """How fast calls came through again. Microseconds; None: there was nothing to measure."""

    first_fault_ns: int | None
    first_answer_us: int | None  # from the first fault to the first answer of a call that had met one
    added_us_p50: int | None  # of calls that met the fault and survived
    added_us_p99: int | None
    added_us_max: int | None
    measured: int


def recovery(calls: list[Judged]) -> Recovery:
    met = [one for one in calls if one.met]
    came = [one for one in met if one.fate is Fate.SURVIVED]
    added = [one.added_us for one in came if one.added_us >= 0]
    first = min((one.at_ns for one in met), default=None)
    answered = min((one.answered_ns for one in came), default=None)
    return Recovery(
        first,
        (answered - first) // 1000 if first is not None and answered is not None else None,
        percentile(added, 50),
        percentile(added, 99),
        max(added, default=None),
        len(added),
    )


class Bin(msgspec.Struct, frozen=True):
    """Calls that began in a span of the drill."""

    from_s: float  # since the drill began
    survived: int
    lost: int
    added_us_p50: int | None


def time_line(calls: list[Judged], from_ns: int, until_ns: int) -> list[Bin]:
    """Return the drill in spans of whole seconds, at most ``BINS_MAX``."""
    seconds = max(1, -((from_ns - until_ns) // _NS_PER_S))
    width_ns = -(-seconds // BINS_MAX) * _NS_PER_S
    grouped: dict[int, list[Judged]] = {}
    for one in calls:
        grouped.setdefault(max(0, one.at_ns - from_ns) // width_ns, []).append(one)
    count = max([*grouped, (until_ns - from_ns - 1) // width_ns]) + 1
    found = []
    for place in range(count):
        of_bin = grouped.get(place, [])
        fates = [one.fate for one in of_bin]
        added = [one.added_us for one in of_bin if one.added_us >= 0]
        survived, lost = fates.count(Fate.SURVIVED), fates.count(Fate.LOST)
        found.append(Bin(place * width_ns / _NS_PER_S, survived, lost, percentile(added, 50)))
    return found


def compared(calls: list[Judged], price_here: Callable[[AttemptSeen], Price | None]) -> Line:
    """Return what the survivors' answers cost, and what the same meters cost at the price of the channel that was cut."""
    total = Line()
    for one in calls:
        survived = one.answer is not None
        line = Line(calls=1, survived=int(survived))
        if one.answer is not None and one.answer.cost_pico is not None:
            line.spend[one.answer.currency] = one.answer.cost_pico
            price = price_here(one.answer)
            before = cost_of(price, one.answer.meters) if price is not None and one.answer.meters is not None else None
            if price is not None and before is not None:
                line.compared = 1
                line.before[price.currency] = before
                line.after[one.answer.currency] = one.answer.cost_pico
        total.add(line)
    return total
