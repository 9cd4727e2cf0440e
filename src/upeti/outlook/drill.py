"""A drill in the shadow: the journal's last hours, replayed as if a channel had been gone.

Rules: each call that the channel answered either is taken by the next candidate or is lost, so survived and lost are all.
Amounts are exact: the same meters at the next candidate's price of that day. A cost that is not known is in no sum, and
counted. Calls are replayed in the order of time, so that a budget which the next candidate's price uses up refuses from
then on, as it would. Nothing is guessed: what was not measured is unknown. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from upeti.core.amount import decimal_text
from upeti.money.budget_terms import BudgetTerms
from upeti.money.price import cost_of
from upeti.outlook.remaining import Asked, Gap, Lack, Option, Remaining, drawn

DIMENSIONS: Final = ("feature", "tenant", "route", "model")
Money = dict[str, int]  # currency → pico units


class Seen(msgspec.Struct, frozen=True):
    """A settled attempt as the journal has it."""

    asked: Asked
    call_id: str
    at_ns: int  # when it was opened
    answered: bool
    stream: bool = False
    meters: Mapping[str, int] | None = None
    cost_pico: int | None = None  # None: it has no price
    currency: str = "USD"
    total_us: int = 0


class Line(msgspec.Struct):
    """What would have become of some of the calls.

    ``spend`` is of all of them. ``before`` and ``after`` are of the ``compared`` ones: survivors of which both are known.
    """

    calls: int = 0
    survived: int = 0
    compared: int = 0
    spend: Money = msgspec.field(default_factory=dict)
    before: Money = msgspec.field(default_factory=dict)
    after: Money = msgspec.field(default_factory=dict)

    @property
    def lost(self) -> int:
        return self.calls - self.survived

    def add(self, other: Line) -> None:
        self.calls += other.calls
        self.survived += other.survived
        self.compared += other.compared
        for mine, theirs in ((self.spend, other.spend), (self.before, other.before), (self.after, other.after)):
            for currency, pico in theirs.items():
                mine[currency] = mine.get(currency, 0) + pico


class Loss(msgspec.Struct):
    """Calls that nobody would take, of one route and model, for one reason."""

    route: str
    model: str
    lack: Lack
    calls: int = 0
    spend: Money = msgspec.field(default_factory=dict)
    features: dict[str, int] = msgspec.field(default_factory=dict)


class _Budget:
    """One hard budget's windows in the replay."""

    def __init__(self, terms: BudgetTerms, spent: Mapping[str, int]) -> None:
        self.terms = terms
        self._spent = dict(spent)  # id of a window → pico units before the replay
        self._until_ns = 0
        self._window = ""

    def _id(self, at_ns: int) -> str:
        if at_ns >= self._until_ns:
            window = self.terms.window_at(at_ns)
            self._window, self._until_ns = self.terms.id_of(window), window.ends_ns or 1 << 63
        return self._window

    def fits(self, at_ns: int, pico: int) -> bool:
        return self._spent.get(self._id(at_ns), 0) + pico <= self.terms.limit_pico

    def post(self, at_ns: int, pico: int) -> None:
        name = self._id(at_ns)
        self._spent[name] = self._spent.get(name, 0) + pico


class Shadow:
    """The replay. ``add`` takes attempts in the order in which they were opened."""

    def __init__(self, remaining: Remaining, spent: Mapping[str, int] | None = None) -> None:
        """``spent`` is what budgets' windows had posted before the first attempt, by the windows' ids."""
        self.total = Line()
        self.by: dict[str, dict[str, Line]] = {name: {} for name in DIMENSIONS}
        self.moves: dict[tuple[str, str, str], Line] = {}  # (model here, channel there, model there)
        self.losses: dict[tuple[str, str, Lack], Loss] = {}
        self.stream_us = 0  # time that streams were under way
        self._remaining = remaining
        posted = spent or {}
        self._budgets = {terms.root: _Budget(terms, posted) for terms in remaining.world.budgets}
        self._limits: dict[tuple[str, str, str, str], list[_Budget]] = {}

    def add(self, seen: Seen) -> None:
        """Take one attempt. Of the channel that is cut only what it answered would have to go elsewhere."""
        asked = seen.asked
        if asked.channel != self._remaining.cut:
            self._post(asked, seen.at_ns, seen.cost_pico or 0, seen.currency)
        elif seen.answered:
            self._replace(seen)

    def _replace(self, seen: Seen) -> None:
        asked = seen.asked
        line = Line(calls=1)
        if seen.cost_pico is not None:
            line.spend[seen.currency] = seen.cost_pico
        if seen.stream:
            self.stream_us += max(0, seen.total_us)
        found = self._remaining.options(asked)
        option = drawn(found, seen.call_id) if isinstance(found, tuple) else None
        lack = found if isinstance(found, Lack) else None
        if option is not None:
            lack = self._survive(seen, option, line)
        if lack is not None:
            self._lose(seen, lack, line)
        self.total.add(line)
        for name in DIMENSIONS:
            self.by[name].setdefault(getattr(asked, name), Line()).add(line)
        if lack is None and option is not None:
            self.moves.setdefault((asked.model, option.channel, option.model), Line()).add(line)

    def _survive(self, seen: Seen, option: Option, line: Line) -> Lack | None:
        """Note what the call costs there; or return that a budget would refuse it."""
        price = option.price_at(seen.at_ns)
        if price is None and (self._remaining.world.refuse_unpriced or self._remaining.limits(seen.asked)):
            return Lack(Gap.NO_PRICE, option.channel, option.model)
        cost = cost_of(price, seen.meters) if price is not None and seen.meters is not None else None
        if price is not None and cost is not None:
            for budget in self._limits_of(seen.asked):
                terms = budget.terms
                if terms.unit != price.currency:
                    detail = f"the budget `{terms.name}` is in {terms.unit}, the price in {price.currency}"
                    return Lack(Gap.NO_BUDGET, option.channel, option.model, detail)
                if not budget.fits(seen.at_ns, cost):
                    detail = f"the budget `{terms.name}` of {decimal_text(terms.limit_pico)} {terms.unit} is used up: raise it"
                    return Lack(Gap.NO_BUDGET, option.channel, option.model, detail)
            self._post(seen.asked, seen.at_ns, cost, price.currency)
        line.survived = 1
        if price is not None and cost is not None and seen.cost_pico is not None:
            line.compared = 1
            line.before[seen.currency] = seen.cost_pico
            line.after[price.currency] = cost
        return None

    def _lose(self, seen: Seen, lack: Lack, line: Line) -> None:
        asked = seen.asked
        key = (asked.route, asked.model, lack)
        loss = self.losses.get(key)
        if loss is None:
            loss = self.losses[key] = Loss(asked.route, asked.model, lack)
        loss.calls += 1
        loss.features[asked.feature] = loss.features.get(asked.feature, 0) + 1
        for currency, pico in line.spend.items():
            loss.spend[currency] = loss.spend.get(currency, 0) + pico

    def _post(self, asked: Asked, at_ns: int, pico: int, currency: str) -> None:
        for budget in self._limits_of(asked):
            if budget.terms.unit == currency:
                budget.post(at_ns, pico)

    def _limits_of(self, asked: Asked) -> list[_Budget]:
        key = (asked.tenant, asked.project, asked.key, asked.feature)
        found = self._limits.get(key)
        if found is None:
            found = self._limits[key] = [self._budgets[terms.root] for terms in self._remaining.limits(asked)]
        return found


def percentile(values: Sequence[int], percent: int) -> int | None:
    """Return the smallest value that at least ``percent`` of all do not exceed (nearest rank); None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def folded(lines: Mapping[str, Line], rows_max: int) -> Iterable[tuple[str, Line]]:
    """Yield the lines with most calls, and all others as one named ``(others)``: sums stay what they are."""
    ordered = sorted(lines.items(), key=lambda item: (-item[1].calls, item[0]))
    yield from ordered[:rows_max]
    if len(ordered) > rows_max:
        rest = Line()
        for _, line in ordered[rows_max:]:
            rest.add(line)
        yield f"({len(ordered) - rows_max} others)", rest
