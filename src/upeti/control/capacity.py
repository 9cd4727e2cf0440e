"""Capacity that is paid by the hour, posted once a day.

Rules: a day is posted when it is over (UTC), one batch a row and day, with the usage row that chargeback reads; whatever
day a keeper was not there for follows later. A batch names its row and day as a journal's names its segment, so the
books take it once, whichever node posts it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import select

from upeti.control import tables
from upeti.control.books import Books
from upeti.control.store import Store
from upeti.money.capacity import Capacity, CapacityCost, capacity_costs
from upeti.money.ledger import Account, Batch, BatchKind, Posting
from upeti.money.usage import UsageRow
from upeti.wire.tiers import PROVISIONED

_INSTANCE: Final = "capacity-"  # and the row's id: where a batch of calls names the instance of a journal


def post_capacity(store: Store, rows: Sequence[Capacity], now_ns: int) -> int:
    """Post every day of ``rows`` that is over and not posted yet; return how many batches that were."""
    today = datetime.datetime.fromtimestamp(now_ns // 10**9, datetime.UTC).date()
    books = Books(store)
    posted = _posted(store) if rows else set()
    count = 0
    for row in rows:
        for day in _days(row, today):
            if (_INSTANCE + row.id, day.toordinal()) in posted:
                continue
            for cost in capacity_costs([row], day):
                count += books.append(batch_of(cost, now_ns), [usage_of(cost)]) is not None
    return count


def batch_of(cost: CapacityCost, at_ns: int) -> Batch:
    """Return the batch of one row and day."""
    row, day = cost.row, cost.day
    memo = f"{row.units} units of {row.name} for {cost.seconds} s"

    def posting(account: Account, amount_pico: int) -> Posting:
        return Posting(
            account=account,
            amount_pico=amount_pico,
            currency=row.currency,
            day=day,
            tenant=row.tenant,
            channel=row.channel,
            memo=memo,
        )

    return Batch(
        number=0,
        kind=BatchKind.CAPACITY,
        at_ns=at_ns,
        period=f"{day:%Y-%m}",
        reference=f"capacity {row.name} {day}",
        instance=_INSTANCE + row.id,
        segment=day.toordinal(),
        postings=(
            posting(Account.CAPACITY_COST, cost.cost_pico),
            posting(Account.PROVIDER_PAYABLE, -cost.cost_pico),
        ),
    )


def usage_of(cost: CapacityCost) -> UsageRow:
    """Return what chargeback shows of one row and day: a cost without calls and meters."""
    row = cost.row
    return UsageRow(
        day=cost.day,
        tenant=row.tenant,
        channel=row.channel,
        model=row.name,
        tier=PROVISIONED,
        price_id=row.id,
        outcome="posted",
        currency=row.currency,
        cost_pico=cost.cost_pico,
    )


def _days(row: Capacity, today: datetime.date) -> Iterable[datetime.date]:
    first, end = row.begins.date(), today
    if row.until is not None:
        end = min(end, row.until.date() + datetime.timedelta(days=1))
    return (first + datetime.timedelta(days=number) for number in range((end - first).days))


def _posted(store: Store) -> set[tuple[str, int]]:
    table = tables.batches.c
    query = select(table.instance, table.segment).where(table.kind == BatchKind.CAPACITY)
    with store.engine.connect() as connection:
        return {(row.instance, row.segment) for row in connection.execute(query)}
