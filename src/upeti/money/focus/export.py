"""Usage as rows of FOCUS CostAndUsage: one row per day, dimensions and meter.

Rules: the rows' BilledCost sums to the usage's cost to the last pico, in every currency. Amounts are decimal text
without an exponent, never floats. A cost that no quantity and price explain (posted at a bound, reported without
meters, corrected from a bill) is an ``Adjustment``, because FOCUS asks a price and a quantity of every ``Usage``. An
unknown cost is no row: whoever exports says how many attempts have no price. Pure: no clock, no store.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from upeti.core.amount import decimal_text, parse_pico
from upeti.core.meters import AUDIO_SECONDS
from upeti.money.focus.columns import COST_AND_USAGE
from upeti.money.price import Price
from upeti.money.usage import CORRECTED, PER_CALL, UNMETERED, MeterCost, UsageRow, meter_costs
from upeti.wire.tiers import PROVISIONED

CAPACITY: Final = "capacity"  # in place of a meter: hours of provisioned throughput

Row = dict[str, str | None]  # column → text as in a CSV file; None is null

_MILLION: Final = 10**6
_NO_ROW: Final[Row] = {column.name: None for column in COST_AND_USAGE}


class Party(msgspec.Struct, frozen=True):
    """Who stands behind a channel, in FOCUS' words."""

    service: str  # ServiceName
    provider: str  # ServiceProviderName
    host: str  # HostProviderName
    issuer: str  # InvoiceIssuerName
    account: str = ""  # on the provider's bill; "" when it is not known
    region: str = ""  # where it computes, as the price book names it; "" anywhere


Parties = Callable[[str], Party]  # by channel
Prices = Callable[[str], Price | None]  # by price id


class _Unit(msgspec.Struct, frozen=True):
    """How a meter is written: counted in ``consumed``, priced per ``pricing``, which is ``size`` of it."""

    consumed: str
    pricing: str
    size: int


_TOKENS: Final = _Unit("Tokens", "1000000 Tokens", _MILLION)
_UNITS: Final = {PER_CALL: _Unit("Requests", "Requests", 1), AUDIO_SECONDS: _Unit("Seconds", "Seconds", 1)}


def cost_and_usage(
    usage: Iterable[UsageRow], prices: Prices, parties: Parties, closed_periods: Sequence[str] = ()
) -> Iterator[Row]:
    """Yield the FOCUS rows of ``usage``. ``closed_periods`` are months such as "2026-10", ascending."""
    known: dict[str, Price | None] = {}
    for row in usage:
        if row.price_id not in known:
            known[row.price_id] = prices(row.price_id) if row.price_id else None
        price = known[row.price_id]
        if row.tier == PROVISIONED and row.outcome == "posted" and not row.attempts:
            yield _capacity(row, parties(row.channel))
            continue
        for part in meter_costs(row, price):
            yield _charge(row, part, price, parties(row.channel), closed_periods)


def _capacity(row: UsageRow, party: Party) -> Row:
    """A day of provisioned throughput: paid for, used or not."""
    sku = f"{row.channel}/{row.model}/{CAPACITY}"
    made = _common(row, party) | _amounts(row.cost_pico)
    quantity = "-1" if row.cost_pico < 0 else "1"
    made |= _priced(sku, sku, CAPACITY, decimal_text(abs(row.cost_pico)), quantity, "Units")
    return made | {
        "ChargeCategory": "Purchase",
        "ChargeDescription": f"{row.model}, a day of provisioned throughput, on {row.channel}",
        "ChargeFrequency": "Recurring",
        "ResourceType": "Capacity",
        "SkuPriceDetails": _json({"x_Channel": row.channel, "x_Model": row.model, "x_ServiceTier": row.tier}),
        "x_Meter": CAPACITY,
    }


def _charge(row: UsageRow, part: MeterCost, price: Price | None, party: Party, closed: Sequence[str]) -> Row:
    made = _common(row, party) | _amounts(part.cost_pico)
    if part.unit_pico is None:
        made["ChargeCategory"] = "Adjustment"
    else:
        unit = _UNITS.get(part.meter, _TOKENS)
        sku = f"{row.channel}/{row.model}/{part.meter}"
        made |= _priced(
            sku,
            "/".join([sku, row.tier or "standard", str(row.cliff)]),
            part.meter,
            decimal_text(part.unit_pico * unit.size),
            decimal_text(part.quantity * 10**12 // unit.size),
            unit.pricing,
        )
        made |= {
            "ChargeCategory": "Usage",
            "ConsumedQuantity": str(part.quantity),
            "ConsumedUnit": unit.consumed,
            "SkuPriceDetails": _price_details(row, part.meter, price),
        }
    if row.outcome == CORRECTED and closed and f"{row.day:%Y-%m}" <= closed[-1]:
        made["ChargeClass"] = "Correction"
        made |= billing_period(_month_after(closed[-1]))
    return made | {
        "ChargeDescription": _description(row, part.meter),
        "ChargeFrequency": "Usage-Based",
        "ResourceType": "Model",
        "x_Meter": part.meter,
    }


def _common(row: UsageRow, party: Party) -> Row:
    tags = {name: getattr(row, name) for name in ("tenant", "project", "key", "feature", "task") if getattr(row, name)}
    return (
        _NO_ROW
        | {
            "BillingAccountId": party.account or row.channel,
            "BillingAccountName": row.channel,
            "BillingAccountType": "Channel",
            "BillingCurrency": row.currency,
            "ChargePeriodStart": moment(row.day),
            "ChargePeriodEnd": moment(row.day + datetime.timedelta(days=1)),
            "HostProviderName": party.host,
            "InvoiceIssuerName": party.issuer,
            "PricingCurrency": row.currency,
            "RegionId": party.region or None,
            "RegionName": party.region or None,
            "ResourceId": f"{row.channel}/{row.model}",
            "ResourceName": row.model,
            "ServiceCategory": "AI and Machine Learning",
            "ServiceName": party.service,
            "ServiceProviderName": party.provider,
            "ServiceSubcategory": "Generative AI",
            "SubAccountId": row.tenant or None,
            "SubAccountName": row.tenant or None,
            "SubAccountType": "Tenant" if row.tenant else None,
            "Tags": _json(tags) if tags else None,
            "x_Channel": row.channel,
            "x_Estimated": "true" if row.outcome == "estimated" else "false",
            "x_Model": row.model,
            "x_Node": row.node or None,
            "x_Outcome": row.outcome,
            "x_PriceId": row.price_id or None,
            "x_Route": row.route or None,
            "x_ServiceTier": row.tier or None,
            "x_Wire": row.wire or None,
        }
        | billing_period(row.day.replace(day=1))
    )


def _amounts(cost_pico: int) -> Row:
    cost = decimal_text(cost_pico)
    names = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingCurrencyEffectiveCost")
    return dict.fromkeys(names, cost)


def _priced(sku: str, sku_price: str, meter: str, unit_price: str, quantity: str, unit: str) -> Row:
    return {
        "ContractedUnitPrice": unit_price,
        "ListUnitPrice": unit_price,
        "PricingCurrencyContractedUnitPrice": unit_price,
        "PricingCurrencyListUnitPrice": unit_price,
        "PricingCategory": "Standard",
        "PricingQuantity": quantity,
        "PricingUnit": unit,
        "SkuId": sku,
        "SkuMeter": meter,
        "SkuPriceId": sku_price,
    }


def _price_details(row: UsageRow, meter: str, price: Price | None) -> str:
    details: dict[str, str | int] = {"x_Channel": row.channel, "x_Meter": meter, "x_Model": row.model}
    details["x_ServiceTier"] = row.tier or "standard"
    if row.cliff and price is not None:
        details["x_AboveInputTokens"] = price.cliffs[row.cliff - 1].above_input_tokens
    return _json(details)


def _description(row: UsageRow, meter: str) -> str:
    what = f"{row.model}, {meter.replace('_', ' ')}, on {row.channel}"
    if meter == UNMETERED:
        what = f"{row.model} on {row.channel}, without reported usage"
    if row.outcome == "estimated":
        return f"{what}: posted at its bound until the provider reports"
    return f"{what}: correction" if row.outcome == CORRECTED else what


def billing_period(first: datetime.date) -> Row:
    return {
        "BillingPeriodStart": moment(first),
        "BillingPeriodEnd": moment(_month_after(f"{first:%Y-%m}")),
    }


def _month_after(period: str) -> datetime.date:
    year, month = map(int, period.split("-"))
    return datetime.date(year + month // 12, month % 12 + 1, 1)


def moment(day: datetime.date) -> str:
    """Return a day's first moment as FOCUS writes it."""
    return f"{day.isoformat()}T00:00:00Z"


def _json(values: dict[str, str | int] | dict[str, str]) -> str:
    return msgspec.json.encode(values, order="sorted").decode()


def sum_pico(rows: Iterable[Row], column: str = "BilledCost") -> dict[str, int]:
    """Return currency → exact sum of a cost column: what a reader holds against the bill."""
    sums: dict[str, int] = {}
    for row in rows:
        currency = row["BillingCurrency"] or ""
        sums[currency] = sums.get(currency, 0) + parse_pico(row[column] or "0")
    return sums
