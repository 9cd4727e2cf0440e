"""Closing a period: from then on nothing is posted in it, and what comes late belongs to the next open one.

Rules: a month is closed when it is over, in order, and when all that was settled in it is in the books: on this node
that is read from the journals, other nodes have said up to when it is so. It is a batch of its own in the chain.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable
from typing import Final

import msgspec
from sqlalchemy import insert, select

from upeti.control import tables
from upeti.control.books import Books, append_in
from upeti.control.posting import waiting
from upeti.control.store import Store
from upeti.core.errors import UpetiError
from upeti.money.ledger import Batch, BatchKind

_PERIOD: Final = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
_NAMED_MAX: Final = 5


class ClosingError(UpetiError):
    """The period cannot be closed now. The message names the cure."""


class PeriodRow(msgspec.Struct, frozen=True):
    """A month with batches. ``closed_ns`` 0: it is open."""

    period: str
    batches: int
    closed_ns: int


def close_period(store: Store, node: str, period: str, now_ns: Callable[[], int] = time.time_ns) -> Batch:
    """Close ``period`` and all before it. Raises ``ClosingError``."""
    end_ns = _end_ns(period)
    at_ns = now_ns()
    if at_ns < end_ns:
        raise ClosingError(f"{period} is not over; it can be closed from {_utc(end_ns)} on")
    _check_here(store, period, end_ns)
    _check_elsewhere(store, node, period, end_ns)
    with store.writing() as connection:
        closed = set(connection.execute(select(tables.periods.c.period)).scalars())
        if closed and period <= max(closed):
            raise ClosingError(f"{period} is closed already: `upeti ledger periods` shows when")
        batch = append_in(
            connection, Batch(number=0, kind=BatchKind.CLOSE, at_ns=at_ns, period=period, reference=period, node=node)
        )
        assert batch is not None  # only a segment's batch can be there already
        row = {"period": period, "closed_ns": at_ns, "batch": batch.number}
        connection.execute(insert(tables.periods), [row])
    return batch


def periods(store: Store) -> list[PeriodRow]:
    """Return every month that has a batch, oldest first."""
    with store.engine.connect() as connection:
        closed = {row.period: row.closed_ns for row in connection.execute(select(tables.periods))}
    counts: dict[str, int] = dict.fromkeys(closed, 0)
    for batch in Books(store).batches():
        counts[batch.period] = counts.get(batch.period, 0) + 1
    last = max(closed, default="")
    return [
        PeriodRow(period, count, closed.get(period, closed[last] if period <= last else 0))
        for period, count in sorted(counts.items())
    ]


def _check_here(store: Store, period: str, end_ns: int) -> None:
    found = waiting(store, store.data_dir)
    if found.damaged:
        raise ClosingError(f"{found.damaged[0]}; {period} stays open until then")
    if found.settled_ns is not None and found.settled_ns < end_ns:
        names = ", ".join(found.segments[:_NAMED_MAX])
        more = f" and {len(found.segments) - _NAMED_MAX} more" if len(found.segments) > _NAMED_MAX else ""
        raise ClosingError(
            f"not posted yet: {names}{more}. A segment is closed after journal.segment_seconds, at the latest after an "
            "hour, and when its worker ends; then the keeper posts it within a minute, or `upeti ledger post` does"
        )
    if found.opened_ns is not None and found.opened_ns < end_ns:
        raise ClosingError(
            f"{found.open} attempts are open, the oldest since {_utc(found.opened_ns)}: they are settled when their "
            "calls end, or by the keeper when their worker is gone; `upeti serve` starts one"
        )


def _check_elsewhere(store: Store, node: str, period: str, end_ns: int) -> None:
    table = tables.nodes.c
    query = select(table.node, table.posted_ns).where((table.node != node) & (table.posted_ns < end_ns))
    with store.engine.connect() as connection:
        row = connection.execute(query.order_by(table.node)).first()
    if row is not None:
        until = f"only up to {_utc(row.posted_ns)}" if row.posted_ns else "nothing"
        raise ClosingError(
            f"the node `{row.node}` has posted {until}: {period} can be closed when its keeper has posted the rest; "
            f"when its disk is lost, `upeti nodes forget {row.node}` gives it up"
        )


def _end_ns(period: str) -> int:
    if not _PERIOD.fullmatch(period):
        raise ClosingError(f"{period} is no period; write a month, such as 2026-10")
    year, month = map(int, period.split("-"))
    begin = datetime.datetime(year + month // 12, month % 12 + 1, 1, tzinfo=datetime.UTC)
    return int(begin.timestamp()) * 10**9


def _utc(at_ns: int) -> str:
    return f"{datetime.datetime.fromtimestamp(at_ns // 10**9, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
