"""Events summed up for repricing: groups that one row of the price book prices at one cliff.

Rules: attempts that were sent and reported meters; what a correction names by its attempt is left out, because it knows
better. Summed in the database, so that a month fits; exact, because a group's attempts count the same meters and are all
on the same side of every cliff.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from upeti.core.amount import parse_pico
from upeti.core.meters import ALL_METERS, INPUT_METERS
from upeti.money.price import Price
from upeti.money.reprice import REASON, Bearer, Group, Repriced

if TYPE_CHECKING:
    import duckdb

PriceOf = Callable[[str, str, str, datetime.date], Price | None]  # channel, model, tier, day it was opened on

_DIMENSIONS: Final = ("tenant", "project", "key", "feature", "task", "route", "channel", "model", "wire")
_METERED: Final = " OR ".join(f"{meter} IS NOT NULL" for meter in ALL_METERS)
_INPUT: Final = " + ".join(f"coalesce({meter}, 0)" for meter in INPUT_METERS)
_COUNTED: Final = " || ".join(f"(CASE WHEN coalesce({meter}, 0) > 0 THEN '1' ELSE '0' END)" for meter in ALL_METERS)
_SUMS: Final = ", ".join(f"sum({meter})" for meter in ALL_METERS)
_TIER: Final = "coalesce(tier, '')"


def priced_attempts(first_day: datetime.date, last_day: datetime.date) -> tuple[str, list[Any]]:
    """Return the condition that an event of these days can be repriced, and its values."""
    corrected = "SELECT attempt_id FROM events WHERE correction_id IS NOT NULL AND attempt_id <> ''"
    where = (
        "correction_id IS NULL AND settled_at >= ? AND settled_at < ? AND meters_other IS NULL "
        "AND outcome IN ('posted', 'unpriced', 'estimated') AND ended <> 'refused' "
        f"AND ({_METERED}) AND attempt_id NOT IN ({corrected})"
    )
    return where, [first_day, last_day + datetime.timedelta(days=1)]


def groups(
    connection: duckdb.DuckDBPyConnection, first_day: datetime.date, last_day: datetime.date, price_of: PriceOf
) -> list[Group]:
    """Return the attempts settled on these UTC days, both included, with the prices of ``price_of``."""
    where, values = priced_attempts(first_day, last_day)
    places = connection.execute(
        f"SELECT DISTINCT channel, model, {_TIER}, opened_at::DATE FROM events WHERE {where}",  # noqa: S608
        values,
    ).fetchall()
    prices = [price_of(*place) for place in places]
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE targets "
        "(channel TEXT, model TEXT, tier TEXT, day DATE, place INT, steps BIGINT[])"
    )
    if places:
        steps = [[cliff.above_input_tokens for cliff in price.cliffs] if price else [] for price in prices]
        rows = [(*place, number, steps[number]) for number, place in enumerate(places)]
        connection.executemany("INSERT INTO targets VALUES (?, ?, ?, ?, ?, ?)", rows)
    names = ", ".join(f"e.{name}" for name in _DIMENSIONS)
    query = (
        f"SELECT e.settled_at::DATE, {names}, e.outcome, e.currency, t.tier, t.place, "  # noqa: S608
        f"len(list_filter(t.steps, lambda step: e.input_tokens > step)) AS cliff, e.counted, count(*), sum(e.cost), {_SUMS} "
        f"FROM (SELECT *, {_INPUT} AS input_tokens, {_COUNTED} AS counted FROM events WHERE {where}) e "
        f"JOIN targets t ON t.channel = e.channel AND t.model = e.model AND t.tier = coalesce(e.tier, '') "
        "AND t.day = e.opened_at::DATE GROUP BY ALL ORDER BY ALL"
    )
    found = []
    for row in connection.execute(query, values).fetchall():
        place, cliff, _, attempts, cost, *sums = row[13:]
        meters = {meter: int(total) for meter, total in zip(ALL_METERS, sums, strict=True) if total is not None}
        found.append(Group(Bearer(*row[:13]), prices[place], cliff, attempts, meters, parse_pico(cost or 0)))
    return found


def earlier_corrections(
    connection: duckdb.DuckDBPyConnection, first_day: datetime.date, last_day: datetime.date
) -> tuple[dict[Bearer, Repriced], dict[Bearer, int]]:
    """Return what was repriced before, and how many corrections of another kind name a bearer as a whole."""
    names = ", ".join(_DIMENSIONS)
    rows = connection.execute(
        f"SELECT settled_at::DATE, {names}, corrects, currency, {_TIER}, ended, cost FROM events "  # noqa: S608
        "WHERE correction_id IS NOT NULL AND coalesce(attempt_id, '') = '' AND settled_at >= ? AND settled_at < ?",
        [first_day, last_day + datetime.timedelta(days=1)],
    ).fetchall()
    repriced: dict[Bearer, Repriced] = {}
    others: Counter[Bearer] = Counter()
    for *key, reason, cost in rows:
        bearer = Bearer(*key)
        if reason == REASON:
            before = repriced.get(bearer, Repriced())
            repriced[bearer] = Repriced(before.pico + parse_pico(cost), before.times + 1)
        else:
            others[bearer] += 1
    return repriced, dict(others)
