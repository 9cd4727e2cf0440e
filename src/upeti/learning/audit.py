"""Does the promise still hold? Evidence from audited calls, by betting; true however often one looks.

Rules: a share of the calls that the student answers is drawn, before anyone looks at them, and gets the teacher's answer too;
calls that the student defers are right, and cost nothing to know. Against each limit a bettor starts with 1 and bets at fixed
stakes that calls break it; while the limit holds, no stakes gain on average, so its wealth reaches 1/delta with probability at
most delta, ever (Ville). The alarm is the mean wealth over the limits at 1/delta. What is kept is a few numbers; an
observation has a number in its journal and counts once. Pure.

The bet on one call, with stake m and audit share s at that call: an audited answer multiplies the wealth by
1 + m·(broken − alpha), a deferred call by 1 − s·m·alpha, an answer that was not drawn by 1. On average over the draw that is
1 + s·m·(P(served and broken) − P(about)·alpha): at most 1 while the limit holds, whatever the share and however it changes.
The teacher's answer to a deferred call is needed for limits of a class only.

Money is not put down at once: half is kept and put down little by little, on all stakes evenly, at times fixed beforehand.
So a promise that breaks after years of good calls meets fresh money instead of what the good years have eaten.

Sources: Waudby-Smith and Ramdas (2020); Shekhar and Ramdas, "Reducing sequential change detection to sequential estimation"
(2023) for money put down over time; Robbins (1970) for the sequence of intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from scipy.special import betaln

from upeti.core.errors import UpetiError
from upeti.learning.answers import Values
from upeti.learning.bounds import Interval
from upeti.learning.target import Limit, Target, limits_of

# Stakes are those of a bettor who knows that the log odds of an error are by so much over the allowed ones.
_LOG_ODDS: Final = (0.3, 0.6, 0.9, 1.3, 1.8, 2.4, 3.2, 4.2)
AT_ONCE: Final = 0.5
_HAZARD: Final = 0.5
_HAZARD_FROM: Final = 50
_WINDOW: Final = 250  # audits; the present risk is told from the last one to two windows
_PRIOR: Final = (0.5, 4.5)  # of the interval's mixture: tightest at small shares

Share = Annotated[float, Meta(gt=0, le=1)]


class AuditError(UpetiError):
    """An observation cannot be what it says. The message names it."""


class Deferred(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calls that the student deferred, with one teacher's answer; () where nobody knows it."""

    teacher: Values
    calls: Annotated[int, Meta(ge=1)]


class Audited(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer that went out, and what the teacher says to the same call."""

    student: Values
    teacher: Values


class Observation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of an audit journal: calls deferred since the entry before, then perhaps an audited answer.

    ``share`` was in force for all of them: an entry is written before it changes. Where the teacher's answers are known of a
    drawn part of the deferred calls only, each drawn one is an entry of its own with share 1: on average that is the same.
    """

    journal: str
    number: Annotated[int, Meta(ge=1)]  # rises by one in its journal
    share: Share
    deferred: tuple[Deferred, ...] = ()
    audited: Audited | None = None


class Count(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Errors among n audited answers."""

    errors: int = 0
    n: int = 0

    def plus(self, error: bool) -> Count:
        return Count(self.errors + error, self.n + 1)


class Bets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wealth against one limit: logarithms of what is kept and of what lies on each stake."""

    limit: str
    kept: float
    staked: tuple[float, ...]
    rounds: int = 0
    all: Count = Count()
    before: Count = Count()  # the last full window
    now: Count = Count()  # the window that is being filled

    @property
    def log_wealth(self) -> float:
        return _log_sum((self.kept, *self.staked))


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is kept of the audits of one certificate; JSON by msgspec."""

    bets: tuple[Bets, ...]
    seen: dict[str, int] = {}  # journal → its last number that counted
    alarm: tuple[str, int] | None = None  # the observation that rang; it rings once
    peak: float = 0.0  # the highest log of the evidence


def begin(target: Target) -> State:
    """Return the state before the first audit: of a new certificate, or of one that was certified anew."""
    each = math.log(AT_ONCE / len(_LOG_ODDS))
    bets = [Bets(limit.name, math.log1p(-AT_ONCE), (each,) * len(_LOG_ODDS)) for limit in limits_of(target)]
    return State(tuple(bets))


def observe(state: State, target: Target, delta: float, seen: Observation) -> State:
    """Return the state after ``seen``; the same state when it had counted already.

    Raises ``AuditError`` when observations of the journal before this one are missing: what was not seen would bias what is.
    """
    last = state.seen.get(seen.journal, 0)
    if seen.number <= last:
        return state
    if seen.number > last + 1:
        raise AuditError(
            f"observations {last + 1} to {seen.number - 1} of audit journal {seen.journal} are missing; "
            "give them first, or begin anew with fresh calibration rows"
        )
    if not 0 < seen.share <= 1:
        raise AuditError(
            f"observation {seen.number} of {seen.journal} has an audit share of {seen.share}; it is in (0, 1]"
        )
    bets = tuple(_bet(one, limit, seen) for one, limit in zip(state.bets, limits_of(target), strict=True))
    evidence = _log_sum([one.log_wealth for one in bets]) - math.log(len(bets))
    alarm = state.alarm
    if alarm is None and evidence >= -math.log(delta):
        alarm = (seen.journal, seen.number)
    return State(bets, {**state.seen, seen.journal: seen.number}, alarm, max(state.peak, evidence))


def evidence(state: State) -> float:
    """Return the evidence against the promise now, an e-value: 1/delta or more is the alarm."""
    return math.exp(min(_log_sum([one.log_wealth for one in state.bets]) - math.log(len(state.bets)), 700.0))


def why_of_alarm(state: State, delta: float) -> str:
    """Return in words what gave the alarm."""
    worst = max(state.bets, key=lambda bets: bets.log_wealth)
    return (
        f"audits gave the alarm: evidence of {math.exp(min(state.peak, 700.0)):.3g} against the promise, {1 / delta:.3g} is "
        f"enough; {worst.all.errors} of {worst.all.n} audited answers broke the limit `{worst.limit}`"
    )


def present_risk(bets: Bets, delta: float = 0.05) -> Interval:
    """Return the share of broken ones among the audited answers that the limit is about, of the last 250 to 500.

    The interval is anytime-valid within its window, given that the share did not change in it. As all of a limit's calls that
    are deferred are right, its risk is at most this share.
    """
    count = Count(bets.before.errors + bets.now.errors, bets.before.n + bets.now.n)
    return sequence(count, delta)


def sequence(count: Count, delta: float = 0.05) -> Interval:
    """Return the interval of a confidence sequence for a share: true at every n together with probability 1 − delta."""
    if not count.n:
        return Interval(math.nan, 0.0, 1.0)
    a, b = _PRIOR
    right = count.n - count.errors
    mixture = float(betaln(a + count.errors, b + right) - betaln(a, b))
    estimate = count.errors / count.n

    def excluded(share: float) -> bool:
        if share <= 0 or share >= 1:
            return (share <= 0 and count.errors > 0) or (share >= 1 and right > 0)
        return mixture - count.errors * math.log(share) - right * math.log1p(-share) >= -math.log(delta)

    def edge(outside: float) -> float:
        if not excluded(outside):
            return outside
        inside = estimate
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if excluded(middle) else (middle, outside)
        return outside

    return Interval(estimate, edge(0.0), edge(1.0))


def _bet(bets: Bets, limit: Limit, seen: Observation) -> Bets:
    stakes = stakes_of(limit.alpha)
    staked = list(bets.staked)
    if not limit.only_served:
        calls = sum(one.calls for one in seen.deferred if limit.about(one.teacher))
        for place, stake in enumerate(stakes):
            staked[place] += calls * math.log1p(-seen.share * stake * limit.alpha)
    if seen.audited is None or not limit.about(seen.audited.teacher):
        return msgspec.structs.replace(bets, staked=tuple(staked))
    broken = limit.broken(seen.audited.student, seen.audited.teacher)
    # For the calls after this one: what lies on a call is fixed before it.
    part = put_down(bets.rounds)
    more = bets.kept + math.log(part / len(stakes))
    for place, stake in enumerate(stakes):
        staked[place] = _log_sum((staked[place] + math.log1p(stake * (broken - limit.alpha)), more))
    before, now = bets.before, bets.now.plus(broken)
    if now.n == _WINDOW:
        before, now = now, Count()
    return Bets(
        bets.limit, bets.kept + math.log1p(-part), tuple(staked), bets.rounds + 1, bets.all.plus(broken), before, now
    )


def put_down(rounds: int) -> float:
    """Return which part of what is kept is put down after an audit that ``rounds`` came before."""
    return _HAZARD / (rounds + _HAZARD_FROM)


def stakes_of(alpha: float) -> tuple[float, ...]:
    """Return the stakes; each is under 1/alpha, so that no bet loses all."""
    odds = alpha / (1 - alpha)
    shares = [odds * math.exp(more) / (1 + odds * math.exp(more)) for more in _LOG_ODDS]
    return tuple((share / alpha - 1) / (1 - alpha) for share in shares)


def _log_sum(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(one - top) for one in logs))
