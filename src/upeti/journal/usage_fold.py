"""From events to usage: the sums of a segment over everything that its attempts have in common.

Rules: pure over rows of ``event_columns``; exact, because it adds integers. The correction of an estimate is two rows:
the estimate is taken back in a row with the outcome *estimated* (and no attempts), and what is owed instead is in a row
with the outcome *corrected*; so a sum over estimated rows is what is still estimated. Every other correction is one row
with the difference.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable
from operator import itemgetter
from typing import Final

import msgspec

from upeti.core.amount import parse_pico
from upeti.core.events import CostCorrected, Outcome
from upeti.journal.event_columns import CORRECTED, Group, Rows, difference_pico
from upeti.money.price import Price, cliff_of
from upeti.money.usage import UsageRow

_EPOCH: Final = datetime.date(1970, 1, 1)
_DAY_NS: Final = 86_400 * 10**9
_UNKNOWN: Final = frozenset({Outcome.VOIDED, CORRECTED})  # not sent, or no attempts at all


class _Sum(msgspec.Struct):
    calls: int = 0
    attempts: int = 0
    unmetered: int = 0
    cost_pico: int = 0
    meters: dict[str, int] = msgspec.field(default_factory=dict)

    def count(self, name: str, quantity: int) -> None:
        self.meters[name] = self.meters.get(name, 0) + quantity

    def add(self, other: _Sum) -> None:
        self.calls += other.calls
        self.attempts += other.attempts
        self.unmetered += other.unmetered
        self.cost_pico += other.cost_pico
        for name, quantity in other.meters.items():
            self.count(name, quantity)


# day since 1970, tenant … wire, tier, price, cliff, outcome, currency
_Key = tuple[int, str, str, str, str, str, str, str, str, str, str, str, int, str, str]


class UsageFold:
    """The usage of one segment. ``price_of`` knows every price that calls were served with."""

    def __init__(self, price_of: Callable[[str], Price | None], node: str) -> None:
        self._price_of = price_of
        self._node = node
        self._groups: dict[tuple[Group, int], _Sum] = {}  # finer than rows are: put together once, at the end
        self._corrections: dict[_Key, _Sum] = {}

    def add(self, rows: Rows) -> None:
        """Add a batch of events."""
        groups = [(group, 0) for group in rows.groups]
        places = rows.group_of
        priced = {name: self._price_of(name) for name in {group.price_id for group in rows.groups} if name}
        steep = {name: price for name, price in priced.items() if price is not None and price.cliffs}
        if steep:
            groups, places = _by_cliff(rows, steep)
        costs = [0] * len(groups)
        for place, settled in zip(places, rows.settled, strict=True):
            costs[place] += settled.cost_pico
        attempts = Counter(places)
        later = Counter([place for place, one in zip(places, rows.opened, strict=True) if one.attempt])
        unmetered = Counter([place for place, one in zip(places, rows.settled, strict=True) if one.meters is None])
        meters = {name: _sums_of(places, quantities, len(groups)) for name, quantities in rows.meters.items()}
        for place, named in enumerate(groups):
            group, _ = named
            if group.outcome == CORRECTED:
                continue
            found = self._groups.get(named)
            if found is None:
                found = self._groups[named] = _Sum()
            found.calls += attempts[place] - later[place]
            found.attempts += attempts[place]
            found.unmetered += unmetered[place] if group.outcome not in _UNKNOWN else 0
            found.cost_pico += costs[place]
            for name, sums in meters.items():
                if sums[place]:
                    found.count(name, sums[place])
        for correction in rows.corrections.values():
            self._correct(correction)

    def usage(self) -> list[UsageRow]:
        """Return the rows, in a fixed order."""
        sums: dict[_Key, _Sum] = {}
        for (group, cliff), found in self._groups.items():
            sums.setdefault(_key(group, cliff), _Sum()).add(found)
        for key, found in self._corrections.items():
            sums.setdefault(key, _Sum()).add(found)
        return [
            UsageRow(
                day=_EPOCH + datetime.timedelta(key[0]),
                tenant=key[1],
                project=key[2],
                key=key[3],
                feature=key[4],
                task=key[5],
                route=key[6],
                channel=key[7],
                model=key[8],
                wire=key[9],
                tier=key[10],
                price_id=key[11],
                cliff=key[12],
                outcome=key[13],
                currency=key[14],
                node=self._node,
                calls=found.calls,
                attempts=found.attempts,
                unmetered=found.unmetered,
                meters=found.meters,
                cost_pico=found.cost_pico,
            )
            for key, found in sorted(sums.items(), key=itemgetter(0))
        ]

    def _correct(self, record: CostCorrected) -> None:
        found = self._corrections.setdefault(_correction_key(record, CORRECTED, record.price_id), _Sum())
        for name, quantity in (record.meters or {}).items():
            found.count(name, quantity)
        if record.outcome is Outcome.ESTIMATED:
            taken_back = self._corrections.setdefault(_correction_key(record, Outcome.ESTIMATED, ""), _Sum())
            taken_back.cost_pico -= parse_pico(record.was)
            found.cost_pico += parse_pico(record.now)
        else:
            found.cost_pico += difference_pico(record)


def _sums_of(places: list[int], quantities: list[int | None], groups: int) -> list[int]:
    sums = [0] * groups
    for place, quantity in zip(places, quantities, strict=True):
        if quantity:
            sums[place] += quantity
    return sums


def _by_cliff(rows: Rows, steep: dict[str, Price]) -> tuple[list[tuple[Group, int]], list[int]]:
    """Part groups by the cliff at which their attempts were priced, where the price has any."""
    prices = [steep.get(group.price_id) for group in rows.groups]
    found: dict[tuple[int, int], int] = {}
    places = []
    for group_of, settled in zip(rows.group_of, rows.settled, strict=True):
        price = prices[group_of]
        cliff = 0 if price is None or settled.meters is None else cliff_of(price, settled.meters)
        places.append(found.setdefault((group_of, cliff), len(found)))
    return [(rows.groups[group_of], cliff) for group_of, cliff in found], places


def _key(group: Group, cliff: int) -> _Key:
    caller = (group.tenant, group.project, group.key, group.feature, group.task, group.route)
    return (
        group.day,
        *caller,
        group.channel,
        group.model,
        group.wire,
        group.tier,
        group.price_id,
        cliff,
        str(group.outcome),
        group.currency,
    )


def _correction_key(record: CostCorrected, outcome: str, price_id: str) -> _Key:
    caller = (record.tenant, record.project, record.key, record.feature, record.task, record.route)
    called = (record.channel, record.model, record.wire, record.tier)
    return (record.settled_ns // _DAY_NS, *caller, *called, price_id, 0, str(outcome), record.currency)
