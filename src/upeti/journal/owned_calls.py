"""Calls that own models answered, and calls that audited them, from the events.

Rules: an audit is a call by the key of audits on the route of its task; all that it cost, in all its attempts and corrections,
belongs to the day on which it began to be settled.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import msgspec

from upeti.core.amount import parse_pico

if TYPE_CHECKING:
    import duckdb

FEATURE: Final = "audit"
ROUTES: Final = "audit:"


class Answered(msgspec.Struct, frozen=True):
    """Calls of one day that were answered at a channel under a name."""

    channel: str
    model: str
    day: datetime.date
    currency: str
    calls: int
    cost_pico: int
    unpriced: int


class Audit(msgspec.Struct, frozen=True):
    """One audit that the teacher answered."""

    task: str
    day: datetime.date
    currency: str
    cost_pico: int | None  # None: it has no price


def owned_calls(
    connection: duckdb.DuckDBPyConnection,
    channels: Collection[str],
    first_day: datetime.date | None = None,
    last_day: datetime.date | None = None,
) -> tuple[list[Answered], list[Audit]]:
    """Return what ``channels`` answered, by day, and the audits, over a connection of ``events_store.connect``."""
    terms, values = ["TRUE"], list[object]()
    if first_day is not None:
        terms.append("settled_at >= ?")
        values.append(datetime.datetime.combine(first_day, datetime.time()))
    if last_day is not None:
        terms.append("settled_at < ?")
        values.append(datetime.datetime.combine(last_day + datetime.timedelta(days=1), datetime.time()))
    where = " AND ".join(terms)
    answered = connection.execute(
        f"""
        SELECT channel, model, settled_at::DATE, currency, count(*) FILTER (outcome <> 'corrected'),
            coalesce(sum(cost), 0), count(*) FILTER (outcome = 'unpriced')
        FROM events
        WHERE {where} AND list_contains(?::VARCHAR[], channel) AND ended = 'answered'
        GROUP BY 1, 2, 3, 4 ORDER BY 3, 1, 2, 4
        """,  # noqa: S608 - only our own words are put in
        [*values, list(channels)],
    ).fetchall()
    audits = connection.execute(
        f"""
        SELECT substr(any_value(route), {len(ROUTES) + 1}), min(settled_at)::DATE, max(currency), sum(cost),
            count(*) FILTER (outcome = 'unpriced')
        FROM events
        WHERE {where} AND feature = '{FEATURE}' AND starts_with(route, '{ROUTES}')
        GROUP BY regexp_replace(attempt_id, '-[0-9]+$', '')
        HAVING count(*) FILTER (ended = 'answered') > 0
        ORDER BY 2, 1
        """,  # noqa: S608 - only our own words are put in
        values,
    ).fetchall()
    return (
        [
            Answered(channel, model, day, currency, calls, parse_pico(str(cost)), unpriced)
            for channel, model, day, currency, calls, cost, unpriced in answered
        ],
        [
            Audit(task, day, currency, None if unpriced or cost is None else parse_pico(str(cost)))
            for task, day, currency, cost, unpriced in audits
        ],
    )
