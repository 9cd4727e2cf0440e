"""From the books to flows: who was paid how much, and who paid, month by month.

Rules: a row belongs to the month of its UTC day. An attempt that was never sent counts for nobody; a cost that is not
known is not in a sum, and how many attempts lack one is said. Amounts of several currencies are added only after a
conversion that names its rates.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import msgspec

from upeti.core.errors import ConfigError
from upeti.money.concentration import Flow, tokens_of
from upeti.money.parties import Denominator, Parties, Place, Standing
from upeti.money.rates import Rate, Rates
from upeti.money.usage import UsageRow


class Dependence(msgspec.Struct):
    """What a report on concentration is made of."""

    side: str
    currency: str
    flows: list[Flow]
    standings: dict[str, Standing]  # channel → who stands behind it; suppliers only
    rates: list[Rate]
    unpriced: int  # attempts whose cost is not known
    estimated_pico: int  # part of the cost that was posted at a bound

    @property
    def months(self) -> list[str]:
        return sorted({flow.month for flow in self.flows})


class Converter:
    """Amounts in one currency, at the rates of each month's last day."""

    def __init__(self, currency: str, rates: Rates) -> None:
        self.currency = currency
        self._rates = rates
        self._factors: dict[tuple[str, str], Fraction] = {}
        self.used: dict[tuple[str, datetime.date], Rate] = {}

    def pico(self, amount: int | Fraction, currency: str, month: str) -> int:
        """Return the amount in pico units, half to even at the twelfth decimal. Raises ``ConfigError``."""
        if currency != self.currency:
            amount = amount * self._factor(currency, month)
        return round(amount)

    def _factor(self, currency: str, month: str) -> Fraction:
        if (currency, month) not in self._factors:
            factor = Fraction(1)
            for one in (self.currency, currency):
                if one != self._rates.base:
                    rate = self._rates.rate(one, last_day_of(month))
                    self.used[one, rate.date] = rate
                    factor = factor * Fraction(rate.rate) if one == self.currency else factor / Fraction(rate.rate)
            self._factors[currency, month] = factor
        return self._factors[currency, month]


class _Sums(msgspec.Struct):
    """What one channel or tenant stood for in one month."""

    calls: int = 0  # attempts that were sent
    tokens: int = 0
    cost: dict[str, int] = msgspec.field(default_factory=dict)  # currency → pico units

    def cost_pico(self, converter: Converter, month: str) -> int:
        return sum(converter.pico(pico, currency, month) for currency, pico in self.cost.items())


_Group = tuple[str, str]  # month and name


def supplier_flows(
    rows: Iterable[UsageRow], places: Mapping[str, Place], parties: Parties, converter: Converter
) -> Dependence:
    """Return spend, calls and tokens by channel and month. Raises ``ConfigError`` for a missing rate."""
    made = Dependence("suppliers", converter.currency, [], {}, [], 0, 0)
    for (month, channel), sums in sorted(_sums(rows, "channel", made, converter).items()):
        place = places.get(channel, Place(channel))
        standing = parties.standing(place, last_day_of(month))
        made.standings[channel] = standing
        names = {"channel": channel, "party": standing.party, "parent": standing.parent}
        spend_pico = sums.cost_pico(converter, month)
        made.flows.append(Flow(month, names, {"spend": spend_pico, "calls": sums.calls, "tokens": sums.tokens}))
    made.rates = list(converter.used.values())
    return made


def currencies_of(rows: Iterable[UsageRow]) -> list[str]:
    """Return the currencies of what was paid."""
    return sorted({row.currency for row in rows if row.outcome not in ("voided", "unpriced")})


def currency_of(found: Sequence[str], wanted: str | None) -> str:
    """Return the one currency of a report. Raises ``ConfigError`` when there are several and none is wanted."""
    if wanted is not None:
        return wanted
    if len(found) > 1:
        raise ConfigError(
            f"amounts are in {', '.join(found)}; choose one with --currency, at the rates of a dated file"
        )
    return found[0] if found else "USD"


def converted(wholes: Iterable[Denominator], converter: Converter) -> list[Denominator]:
    """Return denominators in the currency of the report."""
    return [
        msgspec.structs.replace(
            whole,
            amount_pico=converter.pico(whole.amount_pico, whole.currency, whole.month),
            currency=converter.currency,
        )
        for whole in wholes
    ]


def last_day_of(month: str) -> datetime.date:
    """Return the last day of a month such as "2026-10"."""
    year, number = map(int, month.split("-"))
    return datetime.date(year + number // 12, number % 12 + 1, 1) - datetime.timedelta(days=1)


def _sums(rows: Iterable[UsageRow], dimension: str, made: Dependence, converter: Converter) -> dict[_Group, _Sums]:
    """Add up rows by month and ``dimension``, and count in ``made`` what is not known for sure."""
    sums: dict[_Group, _Sums] = {}
    estimated: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.outcome == "voided":
            continue
        month = f"{row.day:%Y-%m}"
        group = sums.setdefault((month, getattr(row, dimension)), _Sums())
        group.calls += row.attempts
        group.tokens += tokens_of(row.meters)
        if row.outcome == "unpriced":
            made.unpriced += row.attempts
            continue
        group.cost[row.currency] = group.cost.get(row.currency, 0) + row.cost_pico
        if row.outcome == "estimated":
            estimated[month, row.currency] = estimated.get((month, row.currency), 0) + row.cost_pico
    made.estimated_pico = sum(converter.pico(pico, currency, month) for (month, currency), pico in estimated.items())
    return sums
