"""What a drill reads of the journal, through DuckDB: in processes of their own, never in the keeper.

A call is replayed by its attempt that was answered. Corrections are not looked at: they change what is owed, not which
calls there were.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from upeti.core.amount import parse_pico
from upeti.core.meters import ALL_METERS
from upeti.money.budget_terms import BudgetTerms
from upeti.outlook.drill import Seen
from upeti.outlook.live_drill import DRILLED, AttemptSeen, RefusalSeen
from upeti.outlook.remaining import Asked

if TYPE_CHECKING:
    import duckdb

_ROWS: Final = 10_000
_METERS: Final = ", ".join(ALL_METERS)
_EPOCH: Final = datetime.datetime(1970, 1, 1)  # times of the journal are UTC without a zone
_MICROSECOND: Final = datetime.timedelta(microseconds=1)


def moment(at_ns: int) -> datetime.datetime:
    """Return a time as the events have it."""
    return _EPOCH + datetime.timedelta(microseconds=at_ns // 1000)


def nanoseconds(at: datetime.datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND * 1000


def seen_attempts(connection: duckdb.DuckDBPyConnection, channel: str, from_ns: int, until_ns: int) -> Iterator[Seen]:
    """Yield what was settled of the calls that were opened in the window, in that order; drills left out."""
    failed = _failed_before(connection, channel, from_ns, until_ns)
    found = connection.execute(
        "SELECT call_id, opened_at, tenant, project, key, feature, route, channel, model, wire, coalesce(tier, ''), "  # noqa: S608
        f"ended = 'answered', stream, cost, currency, total_us, meters_other, {_METERS} "
        "FROM events WHERE correction_id IS NULL AND ended <> ? AND opened_at >= ? AND opened_at < ? ORDER BY opened_at, call_id",
        [DRILLED, moment(from_ns), moment(until_ns)],
    )
    while batch := found.fetchmany(_ROWS):
        for row in batch:
            call_id, opened_at, tenant, project, key, feature, route, by, model, wire, tier = row[:11]
            answered, stream, cost, currency, total_us, others, *counts = row[11:]
            before = failed.get(call_id, frozenset())
            yield Seen(
                Asked(tenant, project, key, feature, route, by, model, wire, tier, before),
                call_id,
                nanoseconds(opened_at),
                answered,
                stream,
                _meters(others, counts),
                None if cost is None else parse_pico(cost),
                currency,
                total_us or 0,
            )


def _failed_before(
    connection: duckdb.DuckDBPyConnection, channel: str, from_ns: int, until_ns: int
) -> dict[str, frozenset[str]]:
    """Return call → channels that had failed before ``channel`` answered it."""
    rows = connection.execute(
        """
        SELECT call_id, list(DISTINCT channel) FROM events
        WHERE correction_id IS NULL AND ended NOT IN ('answered', ?) AND call_id IN (
            SELECT call_id FROM events
            WHERE channel = ? AND attempt > 0 AND ended = 'answered' AND opened_at >= ? AND opened_at < ?)
        GROUP BY call_id
        """,
        [DRILLED, channel, moment(from_ns), moment(until_ns)],
    ).fetchall()
    return {call_id: frozenset(channels) - {channel} for call_id, channels in rows}


def spent_before(connection: duckdb.DuckDBPyConnection, budgets: tuple[BudgetTerms, ...], at_ns: int) -> dict[str, int]:
    """Return what the present window of each budget of money had posted before ``at_ns``, by the window's id."""
    spent: dict[str, int] = {}
    for terms in budgets:
        if terms.is_rate or terms.soft:
            continue
        window = terms.window_at(at_ns)
        wanted = {"tenant": terms.tenant, "project": terms.project, "key": terms.key, "feature": terms.feature}
        named = {name: value for name, value in wanted.items() if value}
        where = "".join(f" AND {name} = ?" for name in named)
        (total,) = connection.execute(
            f"SELECT coalesce(sum(cost), 0) FROM events WHERE currency = ? AND opened_at >= ? AND opened_at < ?{where}",  # noqa: S608
            [terms.unit, moment(window.begins_ns), moment(at_ns), *named.values()],
        ).fetchone() or (0,)
        spent[terms.id_of(window)] = parse_pico(total)
    return spent


def failover_gaps_us(connection: duckdb.DuckDBPyConnection, from_ns: int, until_ns: int) -> list[int]:
    """Return, for each attempt that failed and was followed by another, how long it was until that one, in microseconds.

    Drills' attempts too: there the same path was measured.
    """
    rows = connection.execute(
        """
        SELECT next_us FROM (
            SELECT ended, epoch_us(lead(opened_at) OVER (PARTITION BY call_id ORDER BY attempt)) - epoch_us(opened_at) AS next_us
            FROM events WHERE correction_id IS NULL AND opened_at >= ? AND opened_at < ?)
        WHERE next_us IS NOT NULL AND ended <> 'answered'
        """,
        [moment(from_ns), moment(until_ns)],
    ).fetchall()
    return [int(gap) for (gap,) in rows]


def attempts_of(connection: duckdb.DuckDBPyConnection, from_ns: int, until_ns: int) -> Iterator[AttemptSeen]:
    """Yield the attempts of all calls that were opened while a drill ran."""
    found = connection.execute(
        "SELECT call_id, attempt, opened_at, settled_at, channel, model, feature, tenant, route, ended, status, "  # noqa: S608
        f"coalesce(first_byte_us, -1), cost, currency, meters_other, {_METERS} FROM events "
        "WHERE correction_id IS NULL AND call_id IN "
        "(SELECT call_id FROM events WHERE opened_at >= ? AND opened_at < ? AND correction_id IS NULL) AND opened_at >= ?",
        [moment(from_ns), moment(until_ns), moment(from_ns)],
    )
    while batch := found.fetchmany(_ROWS):
        for row in batch:
            call_id, attempt, opened_at, settled_at, channel, model, feature, tenant, route, ended = row[:10]
            status, first_byte_us, cost, currency, others, *counts = row[10:]
            yield AttemptSeen(
                call_id,
                attempt,
                nanoseconds(opened_at),
                nanoseconds(settled_at),
                channel,
                model,
                feature,
                tenant,
                route,
                ended,
                status,
                first_byte_us,
                _meters(others, counts),
                None if cost is None else parse_pico(cost),
                currency,
            )


def refusals_of(connection: duckdb.DuckDBPyConnection, from_ns: int) -> Iterator[RefusalSeen]:
    """Yield the calls that were told an error of ours since ``from_ns``."""
    found = connection.execute(
        "SELECT call_id, refused_at, feature, tenant, route, code FROM refusals WHERE refused_at >= ?",
        [moment(from_ns)],
    )
    while batch := found.fetchmany(_ROWS):
        for call_id, at, *rest in batch:
            yield RefusalSeen(call_id, nanoseconds(at), *rest)


def pending_calls(connection: duckdb.DuckDBPyConnection) -> frozenset[str]:
    """Return the calls that have an attempt under way."""
    return frozenset(call_id for (call_id,) in connection.execute("SELECT call_id FROM pending").fetchall())


def _meters(others: str | None, counts: list[Any]) -> Mapping[str, int] | None:
    """Return what was counted; None when nothing was reported."""
    meters = {name: count for name, count in zip(ALL_METERS, counts, strict=True) if count is not None}
    if others:
        meters |= json.loads(others)
    return meters or None
