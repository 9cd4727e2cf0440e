"""What tasks cost: sums over events by task, of calls that carry its tag and of calls that are known to be its.

Rules: as on the bill, sums are exact, corrections are in the costs and are no calls, and what has no price is counted
beside the sum. A call with a tag belongs to that task, whatever else is known of it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from upeti.core.amount import parse_pico

if TYPE_CHECKING:
    import duckdb


class TaskSpend(msgspec.Struct, frozen=True):
    """Calls of a task on one route, at one channel and model, in one currency."""

    task: str
    tag: str  # "": known by their ids
    route: str
    channel: str
    model: str
    currency: str
    calls: int
    cost_pico: int | None  # None: none has a price
    dearest_pico: int | None  # of one attempt
    unpriced: int


def spend_of_tasks(
    connection: duckdb.DuckDBPyConnection,
    known: Mapping[str, str],
    first_day: datetime.date | None = None,
    last_day: datetime.date | None = None,
) -> list[TaskSpend]:
    """Sum the events of a connection of ``events_store.connect``, the dearest first. ``known``: call id → task."""
    terms, values = ["(e.task <> '' OR k.name IS NOT NULL)"], list[datetime.datetime]()
    if first_day is not None:
        terms.append("settled_at >= ?")
        values.append(datetime.datetime.combine(first_day, datetime.time()))
    if last_day is not None:
        terms.append("settled_at < ?")
        values.append(datetime.datetime.combine(last_day + datetime.timedelta(days=1), datetime.time()))
    connection.execute("CREATE OR REPLACE TEMP TABLE known (id VARCHAR, name VARCHAR)")
    connection.execute(
        "INSERT INTO known SELECT unnest(?::VARCHAR[]), unnest(?::VARCHAR[])", [[*known], [*known.values()]]
    )
    rows = connection.execute(
        f"""
        SELECT coalesce(nullif(e.task, ''), k.name), e.task, route, channel, model, currency,
               count(DISTINCT (instance, call)) FILTER (outcome <> 'corrected'),
               sum(cost), max(cost) FILTER (outcome <> 'corrected'),
               count(*) FILTER (outcome = 'unpriced')
        FROM events e LEFT JOIN known k ON regexp_replace(e.attempt_id, '-[0-9]+$', '') = k.id
        WHERE {" AND ".join(terms)}
        GROUP BY 1, 2, 3, 4, 5, 6
        ORDER BY sum(cost) DESC NULLS LAST, 1, 2, 3, 4, 5, 6
        """,  # noqa: S608 - only our own words are put in
        values,
    ).fetchall()
    return [
        TaskSpend(task, tag, route, channel, model, currency, calls, _pico(cost), _pico(dearest), unpriced)
        for task, tag, route, channel, model, currency, calls, cost, dearest, unpriced in rows
    ]


def _pico(cost: object) -> int | None:
    return None if cost is None else parse_pico(str(cost))
