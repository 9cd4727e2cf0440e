"""Concentration: how much of a whole hangs on one party, and what is left when it goes.

Rules: shares and indices are exact fractions; a percentage is rounded only to be shown. A whole with a negative part (a
margin that is a loss) has no shares. A value that is not known is named, never counted as zero. Pure: who stands
behind a name, the wholes and the rules come in as values; their sources are in ``parties``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Final

import msgspec

from upeti.money.parties import Band, Clause, Denominator, Scope
from upeti.money.usage import UsageRow

LEVELS: Final = {"suppliers": ("channel", "party", "parent"), "customers": ("tenant", "parent")}
MEASURES: Final = {"suppliers": ("spend", "calls", "tokens"), "customers": ("revenue", "margin", "calls", "tokens")}
# What the stress looks at; "committed" is what a customer is bound to pay a month whatever it uses.
STRESSED: Final = {"suppliers": ("spend", "calls"), "customers": ("revenue", "margin", "committed", "calls")}
TOPS: Final = (1, 3, 5, 10)
YARDSTICK: Final = Fraction(1, 10)  # the share that every whole is looked at for; what asks for it are the clauses
HHI_MAX: Final = 10_000


class Flow(msgspec.Struct, frozen=True):
    """What one channel or one tenant stood for in one month, in one currency."""

    month: str
    names: Mapping[str, str]  # level → name
    values: Mapping[str, int]  # measure → pico units or a count; a measure that is not known is absent


class Share(msgspec.Struct, frozen=True):
    name: str
    value: int
    share: Fraction | None  # None: the whole is zero, or has a negative part


class Ranking(msgspec.Struct, frozen=True):
    """One measure at one level, largest first."""

    level: str
    measure: str
    total: int
    shares: tuple[Share, ...]
    top: Mapping[int, Fraction]  # number of names → share; empty without shares
    hhi: Fraction | None  # 0 to 10,000
    unknown: tuple[str, ...]  # names without a value in some month

    @property
    def largest(self) -> Share | None:
        return self.shares[0] if self.shares else None


class OfWhole(msgspec.Struct, frozen=True):
    """A party's share of one whole."""

    name: str
    denominator: str
    scope: Scope
    share: Fraction | None  # None: the whole is not known for every month
    missing: tuple[str, ...] = ()  # months without an amount

    @property
    def large(self) -> bool:
        return self.share is not None and self.share >= YARDSTICK


class ClauseFinding(msgspec.Struct, frozen=True):
    """What a clause says to the largest party: ``None`` where the amount it looks at was not given."""

    clause: Clause
    name: str
    share: Fraction | None
    asks: bool | None


class Leaving(msgspec.Struct, frozen=True):
    """What remains of a measure when the largest party leaves."""

    measure: str
    before: int
    lost: int | None  # None: not known for the party

    @property
    def after(self) -> int | None:
        return None if self.lost is None else self.before - self.lost


class Reach(msgspec.Struct, frozen=True):
    """Of the calls through one route: whether another party could take them."""

    route: str
    calls: int  # that the leaving party took
    alone: bool | None  # no candidate of another party; None: the configuration has no such route any more


def rank(flows: Iterable[Flow], level: str, measure: str) -> Ranking:
    """Add up one measure by the names of one level."""
    sums: dict[str, int] = {}
    unknown: set[str] = set()
    for flow in flows:
        name = flow.names[level]
        if measure in flow.values:
            sums[name] = sums.get(name, 0) + flow.values[measure]
        else:
            unknown.add(name)
    total = sum(sums.values())
    has_shares = total > 0 and all(value >= 0 for value in sums.values())
    ordered = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    shares = tuple(Share(name, value, Fraction(value, total) if has_shares else None) for name, value in ordered)
    top: dict[int, Fraction] = {}
    hhi = None
    if has_shares:
        top = {count: Fraction(sum(value for _, value in ordered[:count]), total) for count in TOPS}
        hhi = Fraction(HHI_MAX * sum(value * value for value in sums.values()), total * total)
    return Ranking(level, measure, total, shares, top, hhi, tuple(sorted(unknown)))


def trend(flows: Sequence[Flow], level: str, measure: str) -> dict[str, Ranking]:
    """Return month → ranking, in the order of time."""
    by_month: dict[str, list[Flow]] = {}
    for flow in flows:
        by_month.setdefault(flow.month, []).append(flow)
    return {month: rank(by_month[month], level, measure) for month in sorted(by_month)}


def band_of(hhi: Fraction, bands: Sequence[Band]) -> Band | None:
    """Return the highest band that an index is in; ``bands`` ascend."""
    return next((band for band in reversed(bands) if band.holds(hhi)), None)


def of_wholes(ranking: Ranking, months: Sequence[str], wholes: Sequence[Denominator]) -> list[OfWhole]:
    """Return every name's share of the line and of every other whole, by name, the line first.

    A whole counts over the same ``months`` as the ranking; its amounts are in the ranking's currency.
    """
    amounts: dict[str, dict[str, int]] = {}
    scopes: dict[str, Scope] = {}
    for whole in wholes:
        amounts.setdefault(whole.name, {})[whole.month] = whole.amount_pico
        scopes[whole.name] = whole.scope
    found: list[OfWhole] = []
    for share in ranking.shares:
        found.append(OfWhole(share.name, "line", "line", share.share))
        for name, by_month in amounts.items():
            missing = tuple(month for month in months if month not in by_month)
            whole_pico = sum(by_month.get(month, 0) for month in months)
            part = None if missing or not whole_pico else Fraction(share.value, whole_pico)
            found.append(OfWhole(share.name, name, scopes[name], part, missing))
    return found


def judge(clauses: Sequence[Clause], shares: Sequence[OfWhole]) -> list[ClauseFinding]:
    """Return what each clause says to each party that is large on any whole; a clause without a percentage to the
    largest party alone.
    """
    large = list(dict.fromkeys(one.name for one in shares if one.large))
    findings: list[ClauseFinding] = []
    for clause in clauses:
        percent = Fraction(clause.percent) / 100 if clause.percent else None
        for name in large if percent is not None else large[:1]:
            looked_at = [one for one in shares if one.name == name and one.scope == clause.scope]
            share = looked_at[0].share if looked_at else None
            asks = None if share is None or percent is None else share >= percent
            findings.append(ClauseFinding(clause, name, share, asks))
    return findings


def without(flows: Sequence[Flow], level: str, name: str, measures: Sequence[str]) -> list[Leaving]:
    """Return what each measure loses when ``name`` leaves; a measure that nobody has is left out."""
    found: list[Leaving] = []
    for measure in measures:
        ranking = rank(flows, level, measure)
        if ranking.shares:
            lost = {share.name: share.value for share in ranking.shares}.get(name)
            if lost is None and name not in ranking.unknown:
                lost = 0
            found.append(Leaving(measure, ranking.total, lost))
    return found


def reach_without(
    rows: Iterable[UsageRow], parent_of: Mapping[str, str], leaving: str, routes: Mapping[str, Sequence[str]]
) -> list[Reach]:
    """Return for each route that the ``leaving`` parent served: its calls, and whether it was alone there.

    ``parent_of`` is channel → parent, ``routes`` route → channels of its candidates; ``*`` takes every other name.
    """
    calls: dict[str, int] = {}
    for row in rows:
        if parent_of.get(row.channel, row.channel) == leaving and row.outcome != "voided":
            calls[row.route] = calls.get(row.route, 0) + row.attempts
    found: list[Reach] = []
    for route, count in calls.items():
        channels = routes.get(route, routes.get("*"))
        alone = None
        if channels is not None:
            alone = all(parent_of.get(channel, channel) == leaving for channel in channels)
        found.append(Reach(route, count, alone))
    return sorted(found, key=lambda one: (-one.calls, one.route))


def percent_text(share: Fraction | None, decimals: int = 2) -> str:
    """Return a share as a percentage, rounded half to even to be shown; ``?`` for None."""
    if share is None:
        return "?"
    return decimal_places(share * 100, decimals) + " %"


def decimal_places(value: Fraction, decimals: int) -> str:
    """Return a fraction with so many decimals, rounded half to even."""
    units = round(value * 10**decimals)
    sign, units = ("-" if units < 0 else ""), abs(units)
    whole, part = divmod(units, 10**decimals)
    return f"{sign}{whole:,}" + (f".{part:0{decimals}d}" if decimals else "")
