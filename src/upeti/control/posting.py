"""Posting: every journal segment that is done becomes one batch of the ledger, with the usage that it stands for.

Rules: a segment is read once for its events and its postings; batch and usage are one transaction, so a job that is
killed at any moment is done again from there. A node posts its own journals; batches of all nodes are one chain, in
the order in which they came. What is posted is not judged again: corrections are segments of their own.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import select, update

from upeti.control import tables
from upeti.control.books import Books
from upeti.control.store import Store
from upeti.core.errors import JournalError
from upeti.core.events import Outcome, SegmentOpened
from upeti.journal.blocks import segment_number
from upeti.journal.event_columns import SegmentRows
from upeti.journal.events_store import SegmentEnd
from upeti.journal.reader import SegmentScan, digest_before, instances, is_closed, segments
from upeti.journal.recovery import RecoveredName, recovered_names
from upeti.journal.usage_fold import UsageFold
from upeti.money.ledger import Account, Batch, BatchKind, Posting
from upeti.money.price import Price
from upeti.money.usage import UsageRow

_BATCH_ROWS: Final = 10_000
_LIABILITIES: Final = {str(Outcome.ESTIMATED): Account.PROVIDER_ESTIMATED}


class Prices:
    """Prices that calls were served with, each read once."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._known: dict[str, Price | None] = {}

    def __call__(self, price_id: str) -> Price | None:
        if price_id not in self._known:
            self._known[price_id] = self._books.price(price_id)
        return self._known[price_id]


class Poster:
    """Posts the segments of one node."""

    def __init__(self, store: Store, node: str, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._books = Books(store)
        self._prices = Prices(self._books)
        self._node = node
        self._now_ns = now_ns
        self._posted = posted_segments(store)
        self.batches = 0  # posted by this one

    def wants(self, instance: str, number: int) -> bool:
        """Tell whether a segment has no batch yet."""
        return (instance, number) not in self._posted

    def fold(self) -> UsageFold:
        """Return an empty sum for a segment's events."""
        return UsageFold(self._prices, self._node)

    def post(self, segment: SegmentEnd, fold: UsageFold) -> None:
        """Post a segment that was read to its end."""
        usage = fold.usage()
        at_ns = self._now_ns()
        batch = Batch(
            number=0,
            kind=BatchKind.USAGE,
            at_ns=at_ns,
            period=_period(usage, at_ns),
            node=self._node,
            instance=segment.instance,
            segment=segment.number,
            segment_bytes=segment.end,
            segment_digest=segment.digest,
            postings=postings_of(usage),
        )
        if self._books.append(batch, usage) is not None:
            self.batches += 1
        self._posted.add((segment.instance, segment.number))


def posted_segments(store: Store) -> set[tuple[str, int]]:
    """Return (instance, segment) of every segment that has a batch."""
    table = tables.batches
    query = select(table.c.instance, table.c.segment).where(table.c.kind == BatchKind.USAGE)
    with store.engine.connect() as connection:
        return {(row.instance, row.segment) for row in connection.execute(query)}


def postings_of(usage: Iterable[UsageRow]) -> tuple[Posting, ...]:
    """Return what usage costs, and to whom it is owed, by tenant, channel, currency, day and account.

    What is estimated is owed until the provider reports: its correction takes it back there.
    """
    sums: dict[tuple[str, str, str, str, str], int] = {}
    for row in usage:
        owed = _LIABILITIES.get(row.outcome, Account.PROVIDER_PAYABLE)
        for account, amount_pico in ((Account.MODEL_COST, row.cost_pico), (owed, -row.cost_pico)):
            key = (row.day.isoformat(), row.tenant, row.channel, row.currency, account)
            sums[key] = sums.get(key, 0) + amount_pico
    return tuple(
        Posting(
            account=Account(account),
            amount_pico=amount_pico,
            currency=currency,
            day=datetime.date.fromisoformat(day),
            tenant=tenant,
            channel=channel,
        )
        for (day, tenant, channel, currency, account), amount_pico in sorted(sums.items())
        if amount_pico
    )


class Waiting(msgspec.Struct):
    """What a node's journals hold that is not posted."""

    segments: list[str] = msgspec.field(default_factory=list)  # that hold a settled attempt or a correction
    settled_ns: int | None = None  # the earliest settlement in them
    open: int = 0  # attempts that are neither settled nor recovered
    opened_ns: int | None = None  # the earliest of these
    damaged: list[str] = msgspec.field(default_factory=list)


def waiting(store: Store, data_dir: Path) -> Waiting:
    """Read what is not posted yet, to its present end. Damage is named, not raised."""
    found = Waiting()
    posted = posted_segments(store)
    recovered = recovered_names(data_dir)
    for directory in instances(data_dir):
        try:
            paths = segments(directory)
            for index, path in enumerate(paths):
                last = index == len(paths) - 1
                if (directory.name, segment_number(path)) not in posted or (last and not is_closed(path)):
                    _look_into(paths, index, recovered, found, posted)
        except JournalError as error:
            found.damaged.append(str(error))
    return found


def _look_into(
    paths: list[Path],
    index: int,
    recovered: Collection[RecoveredName],
    found: Waiting,
    posted: Collection[tuple[str, int]],
) -> None:
    path = paths[index]
    instance = path.parent.name
    rows = SegmentRows(path, digest_before(paths, index))
    settled_ns: list[int] = []
    for batch in rows.batches(_BATCH_ROWS):
        settled_ns += [min(one.at_ns for one in batch.settled)] if batch.settled else []
    if settled_ns and (instance, segment_number(path)) not in posted:
        found.segments.append(f"{instance}/{path.name}")
        found.settled_ns = min(settled_ns if found.settled_ns is None else (found.settled_ns, *settled_ns))
    if index == len(paths) - 1:
        left = [opened.at_ns for name, opened in rows.open.items() if (instance, *name) not in recovered]
        found.open += len(left)
        if left:
            found.opened_ns = min(left if found.opened_ns is None else (found.opened_ns, *left))


def note_posted(store: Store, data_dir: Path, node: str, now_ns: Callable[[], int] = time.time_ns) -> None:
    """Tell the other nodes up to when all that was settled here is in the books.

    Only beginnings of segments are read: nothing in one is older than it is, or than what it carries.
    """
    until_ns = now_ns()
    posted = posted_segments(store)
    for directory in instances(data_dir):
        try:
            paths = segments(directory)
            for index, path in enumerate(paths):
                if (directory.name, segment_number(path)) in posted:
                    continue
                scan = SegmentScan(path, digest_before(paths, index))
                first, *more = next(iter(scan), [None])
                if isinstance(first, SegmentOpened):
                    begun_ns = [first.at_ns] if more or path.stat().st_size > scan.end else []
                    until_ns = min(until_ns, *begun_ns, *(opened.at_ns for opened in first.carried), until_ns)
        except JournalError:
            return
    table = tables.nodes
    with store.writing() as connection:
        connection.execute(update(table).where(table.c.node == node).values(posted_ns=until_ns))


def _period(usage: list[UsageRow], at_ns: int) -> str:
    """A segment belongs to the month of its first day: that cannot be closed before it is posted."""
    if usage:
        return f"{min(row.day for row in usage):%Y-%m}"
    return time.strftime("%Y-%m", time.gmtime(at_ns // 10**9))
