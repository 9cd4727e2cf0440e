"""The whole loop over recorded calls, in their order: learn, certify, serve, audit, roll back, certify anew.

Rules: what happens to a call depends on earlier calls only. Every call goes to the teacher while a student learns and while it
is calibrated; once one is certified, a share of the answers it gives is audited, and an alarm takes it off: the loop begins
anew with calls that come after. All looks of the loop together spend delta. Randomness and students are passed in. Pure.

    learning ──enough calls──▶ calibrating ──shown──▶ serving ──alarm──▶ learning
                                 │     ▲
                                 └─────┘ not shown: more rows, next look; after so many looks learning again, with all of them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from upeti.learning import audit
from upeti.learning.audit import Audited, Deferred, Observation
from upeti.learning.bounds import spent
from upeti.learning.calibration import Row
from upeti.learning.target import Kind, Target, TargetError
from upeti.learning.threshold import certify

_PORTION = 2_000  # calls that a student is asked at a time


class Student(Protocol):
    """What was learned from some calls: the rows of any others."""

    def __call__(self, calls: Sequence[int]) -> list[Row]: ...


class Plan(NamedTuple):
    """How the loop goes. Counts are calls."""

    target: Target
    delta: float = 0.05  # of all certificates together, and of the alarm of each of them
    learn: int = 1_000
    calibrate: int = 1_000  # rows of the first look; the next looks have as many more each
    looks_max: int = 3  # before a student is given up
    audit_share: float = 0.05


class Period(NamedTuple):
    """One certified student: its calls [first, end), and what became of them."""

    first: int
    end: int
    threshold: float
    served: int
    wrong: int
    audits: int
    alarm: bool


class Ran(NamedTuple):
    """What became of all calls."""

    calls: int
    periods: tuple[Period, ...]
    looks: int

    @property
    def served(self) -> int:
        return sum(period.served for period in self.periods)

    @property
    def wrong(self) -> int:
        return sum(period.wrong for period in self.periods)

    @property
    def to_teacher(self) -> int:
        """Calls that were paid for: all that the student did not answer, and the audits of those that it did."""
        return self.calls - self.served + sum(period.audits for period in self.periods)


def run(calls: int, train: Callable[[Sequence[int]], Student], plan: Plan, rng: np.random.Generator) -> Ran:
    """Return what the loop does with calls 0 to ``calls`` − 1. ``train`` is given calls, whose teacher's answers it knows.

    Raises ``TargetError`` for a target per answer: its thresholds would have to come from yet other calls.
    """
    if plan.target.kind is Kind.ANSWER:
        raise TargetError("the loop certifies targets of kind system and class")
    periods: list[Period] = []
    looks = 0
    now = since = 0  # since: the first call that may be learned from
    while now < calls:
        now = max(now, min(calls, since + plan.learn))
        if now >= calls:
            break
        student = train(range(since, now))
        threshold, first = None, now
        for _ in range(plan.looks_max):
            now += plan.calibrate
            looks += 1
            if now >= calls:
                break
            threshold = certify(student(range(first, now)), plan.target, spent(plan.delta, looks)).threshold
            if threshold is not None:
                break
        if threshold is None:
            continue  # what was calibrated on may be learned from
        period = _serve(student, threshold, now, calls, plan, rng)
        periods.append(period)
        now = since = period.end
    return Ran(calls, tuple(periods), looks)


def _serve(student: Student, threshold: float, first: int, calls: int, plan: Plan, rng: np.random.Generator) -> Period:
    state = audit.begin(plan.target)
    served = wrong = audits = number = 0
    waiting: dict[tuple[str, ...], int] = {}
    for start in range(first, calls, _PORTION):
        rows = student(range(start, min(start + _PORTION, calls)))
        drawn: NDArray[np.bool_] = rng.random(len(rows)) < plan.audit_share
        for place, row in enumerate(rows):
            if not (row.confidence >= threshold and row.in_scope and plan.target.may_answer(row.student)):
                waiting[row.teacher] = waiting.get(row.teacher, 0) + 1
                continue
            served += 1
            wrong += not row.agrees
            if not drawn[place]:
                continue
            audits += 1
            number += 1
            deferred = tuple(Deferred(teacher, count) for teacher, count in waiting.items())
            waiting = {}
            seen = Observation("loop", number, plan.audit_share, deferred, Audited(row.student, row.teacher))
            state = audit.observe(state, plan.target, plan.delta, seen)
            if state.alarm is not None:
                return Period(first, start + place + 1, threshold, served, wrong, audits, True)
    return Period(first, calls, threshold, served, wrong, audits, False)
