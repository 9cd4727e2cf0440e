"""A small world of two equal sides, and ways to make them differ by a known amount."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from upeti.core.amount import PICO_PER_UNIT
from upeti.money.price import Price
from upeti.money.reconcile.lines import Nature, Report, ReportLine
from upeti.money.reconcile.match import AbortedKey, Channels, OurUsage, collect
from upeti.money.reconcile.run import Read, Statement, compare
from upeti.money.usage import UsageRow

DAY = datetime.date(2026, 11, 10)
NEXT = DAY + datetime.timedelta(days=1)
UNITS = {"input": 2_500_000, "input_cached": 1_250_000, "output": 10_000_000}
PRICE = Price("aaaaaaaaaaaaaaaa", "USD", 0, UNITS)
CHEAP = Price("bbbbbbbbbbbbbbbb", "USD", 0, {"input": 100_000, "output": 400_000})
PRICES = {price.id: price for price in (PRICE, CHEAP)}


def usage(day: datetime.date = DAY, **changes: Any) -> UsageRow:
    """Return a posted row at ``PRICE``; its cost follows from its meters."""
    values: dict[str, Any] = {
        "day": day,
        "tenant": "acme",
        "feature": "search",
        "channel": "openai",
        "model": "gpt-4o",
        "price_id": PRICE.id,
        "outcome": "posted",
        "currency": "USD",
        "calls": 10,
        "attempts": 10,
        "meters": {"input": 1_000, "output": 100},
    } | changes
    if "cost_pico" not in values:
        price = PRICES[values["price_id"]]
        values["cost_pico"] = sum(quantity * price.pico[meter] for meter, quantity in values["meters"].items())
    return UsageRow(**values)


def estimated(day: datetime.date = DAY, bound_pico: int = 50_000_000_000, **changes: Any) -> UsageRow:
    none: dict[str, Any] = {"price_id": "", "outcome": "estimated", "meters": {}, "attempts": 1, "unmetered": 1}
    return usage(day, **(none | {"cost_pico": bound_pico} | changes))


def line(meter: str, quantity: int, day: datetime.date = DAY, /, **changes: Any) -> ReportLine:
    """Return what an honest provider bills for a quantity at ``PRICE``."""
    values: dict[str, Any] = {
        "place": f"line {meter}",
        "day": day,
        "model": "gpt-4o",
        "meter": meter,
        "name": f"gpt-4o, {meter}",
        "quantity": Decimal(quantity),
        "cost_pico": quantity * UNITS[meter],
    } | changes
    return ReportLine(**values)


def other(nature: Nature, name: str, cost_pico: int) -> ReportLine:
    """Return a line that bills no call."""
    return ReportLine(place=name, day=DAY, nature=nature, name=name, cost_pico=cost_pico)


def billed(row: UsageRow, **changes: Any) -> Iterator[ReportLine]:
    """Return the provider's lines for a row of ours."""
    price = PRICES[row.price_id]
    for meter, quantity in row.meters.items():
        yield line(
            meter, quantity, row.day, **({"model": row.model, "cost_pico": quantity * price.pico[meter]} | changes)
        )


def statement(
    lines: Iterable[ReportLine],
    rows: Iterable[UsageRow | OurUsage],
    *,
    decimals: int = 12,
    channels: Channels | None = None,
    aborted: dict[AbortedKey, int] | None = None,
    tells: frozenset[str] = frozenset(),
    **options: Any,
) -> Statement:
    report = Report(provider="openai", format="planted", lines=iter(list(lines)), tells=tells, decimals=decimals)
    sums = collect(report, channels or Channels(default="openai"), None, None)
    days = [key.day for key in sums] or [DAY]
    read = Read(report, sums, "ab" * 32, min(days), max(days))
    ours = [one if isinstance(one, OurUsage) else OurUsage(one) for one in rows]
    made = compare(read, ours, PRICES.get, aborted=aborted, **options)
    check(made)
    return made


def check(made: Statement) -> None:
    """Explained and unexplained are the difference, in every line and in all."""
    for one in made.lines:
        assert one.explained_pico + one.unexplained_pico == one.difference_pico, one
    for total in made.totals.values():
        assert total.explained_pico + total.unexplained_pico == total.difference_pico


def parts(made: Statement, currency: str = "USD") -> dict[str, int]:
    """Return kind → amount over all lines, without those that cancelled."""
    return {str(kind): pico for kind, pico in sorted(made.totals[currency].parts.items())}


def usd(text: str) -> int:
    return int(Decimal(text) * PICO_PER_UNIT)
