"""The bill: exact sums over events, by whatever a reader wants to see them by.

Rules: sums are made in DECIMAL(38,12) and never rounded here. A cost that is not known (*unpriced*) is counted
beside the sum, never as zero in it; so are attempts whose tokens are not known. Corrections are in the costs and the
tokens, and are no calls or attempts. Amounts of different currencies are never added; a conversion names its rates.
An attempt, and a correction of it, belong to the UTC day the attempt was settled on.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from upeti.core.amount import convert_pico, parse_pico
from upeti.core.errors import ConfigError
from upeti.core.meters import INPUT_METERS, OUTPUT_METERS
from upeti.money.rates import Rate, Rates

if TYPE_CHECKING:
    import duckdb

# What a bill can be split by → the SQL that says it.
GROUPS: Final = {
    **{name: name for name in ("tenant", "project", "key", "feature", "task")},
    **{name: name for name in ("route", "channel", "model", "wire", "outcome", "instance")},
    "day": "strftime(settled_at, '%Y-%m-%d')",
    "month": "strftime(settled_at, '%Y-%m')",
}


class BillFilter(msgspec.Struct, frozen=True):
    """Which events are on the bill: days are UTC, both included."""

    first_day: datetime.date | None = None
    last_day: datetime.date | None = None
    tenant: str | None = None


class BillLine(msgspec.Struct):
    """Sums of one group in one currency. Money is pico units of ``currency``."""

    group: tuple[str, ...]  # values of what the bill is split by; () of a total
    currency: str
    calls: int
    attempts: int
    input_tokens: int | None  # None: no attempt reported any
    output_tokens: int | None
    unmetered: int  # attempts that were sent and reported no meters
    cost_pico: int | None  # None: everything is unpriced
    estimated_pico: int  # part of the cost that was posted at a bound
    unpriced: int  # attempts whose cost is not known
    converted_pico: int | None = None  # in the bill's currency, when one was asked for


class Pending(msgspec.Struct):
    """Attempts that are open and will be on a later bill."""

    currency: str
    attempts: int
    bound_pico: int | None


class Bill(msgspec.Struct):
    by: tuple[str, ...]
    lines: list[BillLine]  # dearest first; by day or month: in its order
    totals: list[BillLine]  # one per currency
    pending: list[Pending]
    currency: str | None = None  # that everything is converted to
    rates: list[Rate] = msgspec.field(default_factory=list)  # used for it
    converted_total_pico: int | None = None


def make_bill(connection: duckdb.DuckDBPyConnection, by: Sequence[str], chosen: BillFilter) -> Bill:
    """Sum the events of a connection of ``events_store.connect``. Raises ``KeyError`` for an unknown group."""
    groups = [f"{GROUPS[name]} AS {name}_" for name in by]
    names = [f"{name}_" for name in by]
    where, values = _where(chosen)
    sets = f"GROUPING SETS (({', '.join([*names, 'currency'])}), (currency))" if by else "currency"
    is_total = f"GROUPING({names[0]})" if by else "1"
    rows = connection.execute(
        f"""
        WITH chosen AS (SELECT *, {_tokens("input_", INPUT_METERS)}, {_tokens("output_", OUTPUT_METERS)}
                               {"".join(f", {group}" for group in groups)} FROM events {where})
        SELECT {is_total} = 1, {"".join(f"{name}, " for name in names)} currency,
               count(DISTINCT (instance, call)) FILTER (outcome <> 'corrected'),
               count(*) FILTER (outcome <> 'corrected'), sum(input_tokens), sum(output_tokens),
               count(*) FILTER (outcome NOT IN ('voided', 'corrected')
                                AND input_tokens IS NULL AND output_tokens IS NULL),
               sum(cost),
               coalesce(sum(cost) FILTER (outcome = 'estimated'), 0)
               - coalesce(sum(was) FILTER (corrects = 'estimated'), 0),
               count(*) FILTER (outcome = 'unpriced' AND attempt_id NOT IN (
                   SELECT attempt_id FROM events WHERE corrects = 'unpriced' AND attempt_id <> ''))
        FROM chosen GROUP BY {sets}
        """,  # noqa: S608 the texts are constants of this module, the values are bound
        values,
    ).fetchall()
    lines: list[BillLine] = []
    totals: list[BillLine] = []
    for row in rows:
        line = _line(row[1:], len(by))
        if row[0]:
            line.group = ()
            totals.append(line)
        else:
            lines.append(line)
    in_time = bool(by) and by[0] in ("day", "month")
    lines.sort(key=lambda line: (line.currency, 0 if in_time else -(line.cost_pico or 0), line.group))
    totals.sort(key=lambda line: line.currency)
    return Bill(tuple(by), lines, totals, _pending(connection, chosen))


def convert(bill: Bill, currency: str, rates: Rates, at: datetime.date) -> None:
    """Fill in every line's amount in ``currency``. Raises ``ConfigError`` when a rate is missing.

    A total is the sum of its lines, so that the converted bill adds up in the last digit too.
    """
    used: dict[str, Rate] = {}

    def factor(source: str) -> Decimal:
        ratio = Decimal(1)
        for one in () if source == currency else (currency, source):
            if one != rates.base:
                used[one] = rates.rate(one, at)
                ratio = ratio * used[one].rate if one == currency else ratio / used[one].rate
        return ratio

    by_currency: dict[str, int] = {}
    for line in bill.lines or bill.totals:
        if line.cost_pico is not None:
            line.converted_pico = convert_pico(line.cost_pico, factor(line.currency))
            by_currency[line.currency] = by_currency.get(line.currency, 0) + line.converted_pico
    for total in bill.totals:
        total.converted_pico = by_currency.get(total.currency)
    if by_currency:
        bill.converted_total_pico = sum(by_currency.values())
    bill.currency = currency
    bill.rates = list(used.values())


def parse_groups(text: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list. Raises ``ConfigError`` for one that does not exist."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise ConfigError(f"a bill cannot be split by {', '.join(unknown)}; choose from {', '.join(GROUPS)}")
    return names


def _where(chosen: BillFilter) -> tuple[str, list[Any]]:
    terms, values = [], list[Any]()
    if chosen.first_day is not None:
        terms.append("settled_at >= ?")
        values.append(datetime.datetime.combine(chosen.first_day, datetime.time()))
    if chosen.last_day is not None:
        terms.append("settled_at < ?")
        next_day = chosen.last_day + datetime.timedelta(days=1)
        values.append(datetime.datetime.combine(next_day, datetime.time()))
    if chosen.tenant is not None:
        terms.append("tenant = ?")
        values.append(chosen.tenant)
    return (f"WHERE {' AND '.join(terms)}" if terms else ""), values


def _tokens(name: str, meters: Sequence[str]) -> str:
    """SQL for the sum of an event's meters; NULL when it reported none of them."""
    known = ", ".join(meters)
    total = " + ".join(f"coalesce({meter}, 0)" for meter in meters)
    return f"CASE WHEN coalesce({known}) IS NOT NULL THEN {total} END AS {name}tokens"


def _line(row: tuple[Any, ...], groups: int) -> BillLine:
    group = tuple(str(value) for value in row[:groups])
    currency, calls, attempts, input_tokens, output_tokens, unmetered, cost, estimated, unpriced = row[groups:]
    return BillLine(
        group=group,
        currency=currency,
        calls=calls,
        attempts=attempts,
        input_tokens=None if input_tokens is None else int(input_tokens),
        output_tokens=None if output_tokens is None else int(output_tokens),
        unmetered=unmetered,
        cost_pico=None if cost is None else parse_pico(cost),
        estimated_pico=parse_pico(estimated),
        unpriced=unpriced,
    )


def _pending(connection: duckdb.DuckDBPyConnection, chosen: BillFilter) -> list[Pending]:
    where, values = ("WHERE tenant = ?", [chosen.tenant]) if chosen.tenant is not None else ("", [])
    rows = connection.execute(
        f"SELECT currency, count(*), sum(bound) FROM pending {where} GROUP BY currency ORDER BY currency",  # noqa: S608
        values,
    ).fetchall()
    return [Pending(currency, count, None if bound is None else parse_pico(bound)) for currency, count, bound in rows]
