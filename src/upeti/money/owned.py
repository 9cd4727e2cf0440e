"""What own models save, from the calls that were audited: a random sample of those that they answered. Pure.

Rules: what the teacher would have cost is estimated, and said with its interval; what audits, own answers and training cost is
exact and charged. The audited calls are real calls of the teacher's, with its own meters at the dated price, drawn from exactly
the answers in question before anyone looked at them. Shares of audits change with time, so days are estimated apart (stratified
sampling, the usual estimator of a total), neighbouring days together until they have enough audits. Amounts are pico units;
nothing is a float.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import isqrt
from typing import Final

import msgspec

AUDITS_MIN: Final = 30  # of a stratum: then the mean of skewed costs is near enough to normal
# Student's t, two-sided 95 %, in thousandths, by degrees of freedom from 1 on.
_T: Final = (
    *(12706, 4303, 3182, 2776, 2571, 2447, 2365, 2306, 2262, 2228, 2201, 2179, 2160, 2145, 2131),
    *(2120, 2110, 2101, 2093, 2086, 2080, 2074, 2069, 2064, 2060, 2056, 2052, 2048, 2045, 2042),
)
_NORMAL: Final = 1960

HOW: Final = (
    "what the teacher would have cost: calls that the student answered times the mean cost of those of them that were "
    "audited, by days, with a 95 % interval. Audits, own answers and training are charged as they are in the books"
)


class Estimate(msgspec.Struct, frozen=True):
    """An amount with its 95 % interval, in pico units."""

    pico: int
    low_pico: int
    high_pico: int


class Owned(msgspec.Struct, frozen=True, kw_only=True):
    """A task's own answers in some time. Amounts are pico units of ``currency``."""

    task: str
    currency: str
    calls: int  # that the student answered
    audits: int  # of them, with a price
    teacher: Estimate | None  # None: fewer than two audits
    audits_pico: int
    own_pico: int  # what own answers cost
    training_pico: int
    remarks: tuple[str, ...] = ()

    @property
    def charged_pico(self) -> int:
        return self.audits_pico + self.own_pico + self.training_pico

    @property
    def net(self) -> Estimate | None:
        """What was saved; negative: it cost more."""
        if self.teacher is None:
            return None
        return Estimate(
            self.teacher.pico - self.charged_pico,
            self.teacher.low_pico - self.charged_pico,
            self.teacher.high_pico - self.charged_pico,
        )


class _Stratum(msgspec.Struct):
    calls: int = 0
    costs: list[int] = msgspec.field(default_factory=list)


def estimate(answered: Mapping[datetime.date, int], audits: Iterable[tuple[datetime.date, int]]) -> Estimate | None:
    """Return what the answered calls would have cost, by ``audits`` (day, pico); None for fewer than two of them."""
    strata = _strata(answered, audits)
    if not strata or any(len(one.costs) < 2 for one in strata):
        return None
    total, variance = Fraction(0), Fraction(0)
    for one in strata:
        n, sum_, squares = len(one.costs), sum(one.costs), sum(cost * cost for cost in one.costs)
        spread = Fraction(n * squares - sum_ * sum_, n * (n - 1))
        not_asked = max(Fraction(0), 1 - Fraction(n, max(one.calls, 1)))
        total += Fraction(one.calls * sum_, n)
        variance += one.calls**2 * not_asked * spread / n
    freedom = min(len(one.costs) for one in strata) - 1
    t = _T[freedom - 1] if freedom <= len(_T) else _NORMAL
    half = t * isqrt(int(variance)) // 1000
    pico = round(total)
    return Estimate(pico, max(0, pico - half), pico + half)


def _strata(answered: Mapping[datetime.date, int], audits: Iterable[tuple[datetime.date, int]]) -> Sequence[_Stratum]:
    costs: dict[datetime.date, list[int]] = defaultdict(list)
    for day, cost in audits:
        costs[day].append(cost)
    strata: list[_Stratum] = []
    open_ = _Stratum()
    for day in sorted({*answered, *costs}):
        open_.calls += answered.get(day, 0)
        open_.costs += costs.get(day, [])
        if len(open_.costs) >= AUDITS_MIN:
            strata.append(open_)
            open_ = _Stratum()
    if open_.calls or open_.costs:
        if strata:
            strata[-1].calls += open_.calls
            strata[-1].costs += open_.costs
        else:
            strata.append(open_)
    return strata
