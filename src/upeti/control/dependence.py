"""From the books to flows: who was paid how much, and who paid, month by month.

Rules: a row belongs to the month of its UTC day. An attempt that was never sent counts for nobody; a cost that is not
known is not in a sum, and how many attempts lack one is said. Amounts of several currencies are added only after a
conversion that names its rates.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

import msgspec

from upeti.core.amount import parse_pico
from upeti.core.errors import ConfigError
from upeti.core.meters import tokens_of
from upeti.money.concentration import Flow
from upeti.money.invoice import entries_of
from upeti.money.parties import Denominator, Parties, Place, Side, Standing
from upeti.money.price import Price
from upeti.money.rates import Rate, Rates
from upeti.money.tenant import Tenants
from upeti.money.usage import UsageRow
from upeti.wire.tiers import PROVISIONED

PriceOf = Callable[[str], Price | None]


class Dependence(msgspec.Struct):
    """What a report on concentration is made of."""

    side: Side
    currency: str
    flows: list[Flow]
    standings: dict[str, Standing]  # channel → who stands behind it; suppliers only
    rates: list[Rate]
    unpriced: int  # attempts whose cost is not known
    estimated_pico: int  # part of the cost that was posted at a bound
    fixed_pico: int = 0  # part of the cost that is owed for rented hours, whoever calls
    unsold: list[str] = msgspec.field(default_factory=list)  # tenants with usage that is not sold yet
    internal: list[str] = msgspec.field(default_factory=list)  # parts of one's own company: no customers

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
            conversion = self._rates.conversion(currency, self.currency, last_day_of(month))
            self.used |= {(rate.currency, rate.date): rate for rate in conversion.rates}
            self._factors[currency, month] = conversion.factor
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


def customer_flows(
    rows: Iterable[UsageRow], tenants: Tenants, price_of: PriceOf, rates: Rates, converter: Converter
) -> Dependence:
    """Return revenue, margin, commitments, calls and tokens by tenant and month.

    Revenue is what the usage of a month sells for by the terms of the tenants file, before tax, invoiced or not. Raises
    ``ConfigError`` for a tenant without terms, and for a missing rate.
    """
    made = Dependence("customers", converter.currency, [], {}, [], 0, 0)
    by_tenant: dict[_Group, list[UsageRow]] = {}
    for row in rows:
        by_tenant.setdefault((f"{row.day:%Y-%m}", row.tenant), []).append(row)
        if row.tier == PROVISIONED and not row.attempts:
            made.fixed_pico += converter.pico(row.cost_pico, row.currency, f"{row.day:%Y-%m}")
    all_sums = _sums((row for group in by_tenant.values() for row in group), "tenant", made, converter)
    for (month, tenant), group in sorted(by_tenant.items()):
        day = last_day_of(month)
        if not tenant or tenants.tenant(tenant, day).internal:
            made.internal += [tenant] if tenant and tenant not in made.internal else []
            continue
        prices = {row.price_id: price for row in group if (price := price_of(row.price_id)) is not None}
        entries, unsold = entries_of(tenants, tenant, month, group, prices, rates)
        revenue: dict[str, Fraction] = {}
        for key, entry in entries.items():
            revenue[key.currency] = revenue.get(key.currency, Fraction(0)) + entry.pico
        sums = all_sums.get((month, tenant), _Sums())
        values = {"calls": sums.calls, "tokens": sums.tokens}
        if unsold and tenant not in made.unsold:
            made.unsold.append(tenant)
        values["revenue"] = sum(converter.pico(pico, currency, month) for currency, pico in revenue.items())
        values["margin"] = values["revenue"] - sums.cost_pico(converter, month)
        commitment = tenants.commitment(tenant, day.replace(day=1))
        if commitment is not None:
            values["committed"] = converter.pico(parse_pico(commitment.minimum), commitment.currency, month)
        made.flows.append(Flow(month, {"tenant": tenant, "parent": tenants.parent(tenant, day)}, values))
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
