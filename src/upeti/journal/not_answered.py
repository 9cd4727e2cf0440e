"""What was paid for attempts that answered nobody: retries, failovers, cut answers, clients that left.

Rules: an attempt is looked at beside its call. One that ended without an answer, or after which another attempt of
the same call was made, cost what it cost for nothing that the call needed. Sums are exact, by how the attempt ended,
corrections of single attempts included.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import msgspec

from upeti.core.amount import parse_pico

if TYPE_CHECKING:
    import duckdb

_ANSWERED = "answered"


class NotAnswered(msgspec.Struct, frozen=True):
    """Attempts that ended in one way without answering their call."""

    ended: str
    currency: str
    attempts: int
    retried: int  # of those, followed by another attempt of the same call
    cost_pico: int
    estimated_pico: int  # part of it that was posted at a bound: less, once a report corrects it
    unpriced: int


def not_answered(
    connection: duckdb.DuckDBPyConnection, first_day: datetime.date | None, last_day: datetime.date | None
) -> list[NotAnswered]:
    """Return sums over the events of a connection of ``events_store.connect``, the dearest first."""
    terms, values = ["outcome IN ('posted', 'estimated', 'unpriced')"], list[datetime.datetime]()
    if first_day is not None:
        terms.append("settled_at >= ?")
        values.append(datetime.datetime.combine(first_day, datetime.time()))
    if last_day is not None:
        terms.append("settled_at < ?")
        values.append(datetime.datetime.combine(last_day + datetime.timedelta(days=1), datetime.time()))
    rows = connection.execute(
        f"""
        WITH corrections AS (
            SELECT attempt_id, sum(cost) AS more FROM events WHERE outcome = 'corrected' GROUP BY attempt_id
        ), attempts AS (
            SELECT ended, currency, outcome, more IS NOT NULL AS corrected, cost + coalesce(more, 0) AS cost,
                attempt < max(attempt) OVER (PARTITION BY call_id) AS retried
            FROM events LEFT JOIN corrections USING (attempt_id)
            WHERE {" AND ".join(terms)}
        )
        SELECT ended, currency, count(*), count(*) FILTER (retried), coalesce(sum(cost), 0),
            coalesce(sum(cost) FILTER (outcome = 'estimated' AND NOT corrected), 0),
            count(*) FILTER (outcome = 'unpriced')
        FROM attempts
        WHERE retried OR ended <> '{_ANSWERED}'
        GROUP BY ended, currency
        ORDER BY sum(cost) DESC NULLS LAST, ended, currency
        """,  # noqa: S608 - only our own words are put in
        values,
    ).fetchall()
    return [
        NotAnswered(ended, currency, attempts, retried, parse_pico(cost), parse_pico(estimated), unpriced)
        for ended, currency, attempts, retried, cost, estimated, unpriced in rows
    ]
