"""Chargeback: what each part of a company used and cost, summed from roll-ups by day.

Rules: exact and pure over usage rows, so any split has the same total. Split by meter, a cost is quantity times price;
what no price explains (a bound, a correction without meters) is the meter *unmetered*. Unpriced attempts are counted
beside the sum, never as zero in it. Currencies are never added; a conversion names its rates, and a converted total is
the sum of its converted lines.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from upeti.core.amount import PICO_DIGITS, round_fraction
from upeti.core.errors import ConfigError
from upeti.core.meters import INPUT_METERS, OUTPUT_METERS
from upeti.money.price import Price
from upeti.money.rates import Rate, Rates
from upeti.money.usage import UsageRow, meter_costs

GROUPS: Final = (
    *("tenant", "project", "key", "feature", "task", "route", "channel", "model"),
    *("meter", "tier", "day", "month"),
)
_SUMS: Final = (
    *("calls", "attempts", "input_tokens", "output_tokens", "unmetered", "unpriced"),
    *("cost_pico", "estimated_pico"),
)
_OUTPUT: Final = frozenset(OUTPUT_METERS)
_TOKENS: Final = frozenset((*INPUT_METERS, *OUTPUT_METERS))


class ChargebackLine(msgspec.Struct):
    """Sums of one group in one currency, in pico units of it. By meter, calls and attempts are 0: they have no meter."""

    group: tuple[str, ...]
    currency: str
    calls: int = 0  # first attempts: a call that failed over counts where it began
    attempts: int = 0
    quantity: int = 0  # units of the meter, when split by meter
    input_tokens: int = 0
    output_tokens: int = 0
    unmetered: int = 0  # attempts that were sent and reported no usage
    unpriced: int = 0  # attempts that were settled without a price: owed, and not in the cost
    cost_pico: int = 0
    estimated_pico: int = 0  # part of the cost that is posted at a bound and not corrected yet
    converted_pico: int | None = None


class Chargeback(msgspec.Struct):
    by: tuple[str, ...]
    lines: list[ChargebackLine]  # dearest first; by day or month: in its order
    totals: list[ChargebackLine]  # one per currency
    currency: str | None = None  # that everything is converted to
    rates: list[Rate] = msgspec.field(default_factory=list)
    converted_total_pico: int | None = None


def make_chargeback(rows: Iterable[UsageRow], by: Sequence[str], price_of: Callable[[str], Price | None]) -> Chargeback:
    """Sum ``rows``. ``price_of`` knows prices by id; only a split by meter asks it. Raises ``ConfigError``."""
    unknown = [name for name in by if name not in GROUPS]
    if unknown:
        raise ConfigError(f"chargeback cannot be split by {', '.join(unknown)}; choose from {', '.join(GROUPS)}")
    lines: dict[tuple[Any, ...], ChargebackLine] = {}
    totals: dict[str, ChargebackLine] = {}
    key_of = _key_of(by)
    meter = by.index("meter") if "meter" in by else None
    for row in rows:
        key = key_of(row)
        if meter is not None:
            total = totals.get(row.currency)
            if total is None:
                total = totals[row.currency] = ChargebackLine((), row.currency)
            _add(total, row)
            _add_meters(lines, key, meter, row, price_of(row.price_id) if row.price_id else None)
            continue
        line = lines.get(key)
        if line is None:
            line = lines[key] = ChargebackLine((), row.currency)
        _add(line, row)
    if meter is None:
        for line in lines.values():
            total = totals.setdefault(line.currency, ChargebackLine((), line.currency))
            for name in _SUMS:
                setattr(total, name, getattr(total, name) + getattr(line, name))
    for key, line in lines.items():
        line.group = tuple(str(value) for value in key[1:])
    in_time = bool(by) and by[0] in ("day", "month")
    made = sorted(lines.values(), key=lambda one: (one.currency, 0 if in_time else -one.cost_pico, one.group))
    return Chargeback(tuple(by), made if by else [], sorted(totals.values(), key=lambda one: one.currency))


def convert(made: Chargeback, currency: str, rates: Rates, at: datetime.date) -> None:
    """Fill in every line's amount in ``currency``. Raises ``ConfigError`` when a rate is missing."""
    conversions = {total.currency: rates.conversion(total.currency, currency, at) for total in made.totals}
    sums: dict[str, int] = {}
    for line in made.lines or made.totals:
        line.converted_pico = round_fraction(line.cost_pico * conversions[line.currency].factor, PICO_DIGITS)
        sums[line.currency] = sums.get(line.currency, 0) + line.converted_pico
    for total in made.totals:
        total.converted_pico = sums.get(total.currency, 0)
    made.currency = currency
    made.converted_total_pico = sum(sums.values())
    made.rates = list(dict.fromkeys(rate for one in conversions.values() for rate in one.rates))


def _key_of(by: Sequence[str]) -> Callable[[UsageRow], tuple[Any, ...]]:
    """Return what gives a row's currency and group; a meter's place is left empty."""
    values: dict[str, Callable[[UsageRow], Any]] = {
        "month": lambda row: f"{row.day:%Y-%m}",
        "meter": lambda _: "",
    }
    if not values.keys() & set(by):
        return attrgetter("currency", *by) if by else lambda row: (row.currency,)
    fields = [values.get(name, attrgetter(name)) for name in by]
    return lambda row: (row.currency, *(field(row) for field in fields))


def _add(line: ChargebackLine, row: UsageRow) -> None:
    line.calls += row.calls
    line.attempts += row.attempts
    line.unmetered += row.unmetered
    line.cost_pico += row.cost_pico
    for name, quantity in row.meters.items():
        if name in _OUTPUT:
            line.output_tokens += quantity
        elif name in _TOKENS:
            line.input_tokens += quantity
    if row.outcome == "estimated":
        line.estimated_pico += row.cost_pico
    elif row.outcome == "unpriced":
        line.unpriced += row.attempts


def _add_meters(
    lines: dict[tuple[Any, ...], ChargebackLine], key: tuple[Any, ...], place: int, row: UsageRow, price: Price | None
) -> None:
    """Add a row's parts by meter; a quantity that no price explains has its meter, and its cost is *unmetered*."""
    parts = {part.meter: part.cost_pico for part in meter_costs(row, price)}
    for name in parts.keys() | row.meters.keys():
        named = (*key[: place + 1], name, *key[place + 2 :])
        line = lines.get(named)
        if line is None:
            line = lines[named] = ChargebackLine((), row.currency)
        cost_pico = parts.get(name, 0)
        line.quantity += row.meters.get(name, 0)
        line.cost_pico += cost_pico
        if row.outcome == "estimated":
            line.estimated_pico += cost_pico
