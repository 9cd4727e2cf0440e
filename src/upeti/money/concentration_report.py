"""The report on concentration: rankings, wholes, clauses, trend and the stress, from flows and facts.

Rules: wholes, clauses, trend and stress are taken at the level of ultimate parents and of the first measure (spend of
suppliers, revenue of customers), because that is what rules are written for. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final

import msgspec

from upeti.money.concentration import (
    MEASURES,
    STRESSED,
    ClauseFinding,
    Flow,
    Leaving,
    OfWhole,
    Ranking,
    Reach,
    band_of,
    judge,
    of_wholes,
    rank,
    trend,
    without,
)
from upeti.money.parties import Band, Clause, Denominator, Side

PARENT: Final = "parent"


class Stress(msgspec.Struct, frozen=True):
    """The largest one leaves."""

    name: str
    left: tuple[Leaving, ...]
    fixed_pico: int | None = None  # cost of the months that is owed whoever leaves; None: none is known
    reach: tuple[Reach, ...] = ()  # of suppliers: the routes that it served

    @property
    def calls(self) -> int:
        """Calls that the leaving supplier took."""
        return sum(one.calls for one in self.reach)

    @property
    def calls_alone(self) -> int:
        """Of those, calls through routes that have no candidate of another party."""
        return sum(one.calls for one in self.reach if one.alone)

    @property
    def calls_unknown(self) -> int:
        """Of those, calls through routes that the configuration does not have any more."""
        return sum(one.calls for one in self.reach if one.alone is None)


class Report(msgspec.Struct, frozen=True):
    side: Side
    currency: str
    months: tuple[str, ...]
    rankings: Mapping[str, Mapping[str, Ranking]]  # level → measure → ranking
    bands: tuple[Band, ...]
    wholes: tuple[OfWhole, ...]
    findings: tuple[ClauseFinding, ...]
    trend: Mapping[str, Ranking]  # month → ranking of parents by the first measure
    stress: Stress | None  # None: there are no shares

    @property
    def measures(self) -> tuple[str, ...]:
        return MEASURES[self.side]

    def band(self, hhi: Fraction | None) -> str:
        found = None if hhi is None else band_of(hhi, self.bands)
        return "" if found is None else found.name


def make_report(
    side: Side,
    currency: str,
    flows: Sequence[Flow],
    levels: Sequence[str],
    *,
    bands: Sequence[Band],
    clauses: Sequence[Clause],
    wholes: Sequence[Denominator] = (),
    fixed_pico: int | None = None,
) -> Report:
    """Make the report of some months; ``wholes`` and ``fixed_pico`` are in ``currency``."""
    months = tuple(sorted({flow.month for flow in flows}))
    main = MEASURES[side][0]
    parents = rank(flows, PARENT, main)
    shares = of_wholes(parents, months, wholes)
    stress = None
    largest = parents.largest
    if largest is not None and largest.share is not None:
        left = without(flows, PARENT, largest.name, STRESSED[side])
        stress = Stress(largest.name, tuple(left), fixed_pico)
    return Report(
        side=side,
        currency=currency,
        months=months,
        rankings={level: {measure: rank(flows, level, measure) for measure in MEASURES[side]} for level in levels},
        bands=tuple(bands),
        wholes=tuple(shares),
        findings=tuple(judge(clauses, shares)),
        trend=trend(flows, PARENT, main),
        stress=stress,
    )


def with_reach(report: Report, reach: Sequence[Reach]) -> Report:
    """Return the report with the routes of the supplier that leaves."""
    assert report.stress is not None
    return msgspec.structs.replace(report, stress=msgspec.structs.replace(report.stress, reach=tuple(reach)))
