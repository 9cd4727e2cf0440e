"""Our side of a reconciliation: usage from the books, single attempts and how they ended from the events."""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from upeti.control.books import Books
from upeti.control.posting import posted_segments
from upeti.control.store import Store
from upeti.core.amount import parse_pico
from upeti.core.errors import JournalError
from upeti.core.events import Outcome
from upeti.core.meters import ALL_METERS
from upeti.journal.blocks import segment_number
from upeti.journal.event_columns import SegmentRows
from upeti.journal.reader import corrections, digest_before, instances, segments
from upeti.journal.usage_fold import UsageFold
from upeti.money.ledger import Account, BatchKind
from upeti.money.price import cliff_of
from upeti.money.reconcile.match import AbortedKey, OurCapacity, OurUsage, PriceOf, TakenBackKey, estimated_name
from upeti.money.usage import CORRECTED, UsageRow

if TYPE_CHECKING:
    import duckdb

ABORTED: Final = "client_left"  # the ``ended`` of an attempt whose client left or cancelled

_BATCH_ROWS: Final = 10_000
_TEXTS: Final = ("tenant", "project", "key", "feature", "task", "route", "channel", "model", "wire")


def usage_of(
    store: Store,
    data_dir: Path,
    price_of: PriceOf,
    first_day: datetime.date,
    last_day: datetime.date,
    *,
    skip_damaged: bool = False,
) -> list[UsageRow]:
    """Return all usage of these days: what is in the books, and what this node's journal has and they have not yet.

    Raises ``JournalError`` when a segment that is not posted is damaged, unless ``skip_damaged``.
    """
    books = Books(store)
    while True:  # the keeper may post a segment between two looks, and then it would be there twice or not at all
        posted = posted_segments(store)
        rows = books.usage(first_day, last_day) + _unposted(data_dir, posted, price_of, skip_damaged=skip_damaged)
        if posted_segments(store) == posted:
            return [row for row in rows if first_day <= row.day <= last_day]


def _unposted(
    data_dir: Path, posted: Collection[tuple[str, int]], price_of: PriceOf, *, skip_damaged: bool
) -> list[UsageRow]:
    fold = UsageFold(price_of, "")
    for directory in instances(data_dir):
        paths = segments(directory)
        for index, path in enumerate(paths):
            if (directory.name, segment_number(path)) in posted:
                continue
            try:
                for rows in SegmentRows(path, digest_before(paths, index)).batches(_BATCH_ROWS):
                    fold.add(rows)
            except JournalError:
                if not skip_damaged:
                    raise
    return fold.usage()


def taken_back_of(
    data_dir: Path, first_day: datetime.date, last_day: datetime.date, channels: Collection[str]
) -> dict[TakenBackKey, int]:
    """Return what corrections in this data directory took back of estimated usage."""
    found: dict[TakenBackKey, int] = {}
    for record in corrections(data_dir):
        day = datetime.datetime.fromtimestamp(record.settled_ns // 10**9, datetime.UTC).date()
        estimated = record.outcome is Outcome.ESTIMATED and record.channel in channels
        if estimated and first_day <= day <= last_day:
            key = TakenBackKey(day, estimated_name(record, ""))
            found[key] = found.get(key, 0) + parse_pico(record.was)
    return found


def capacity_of(
    books: Books, first_day: datetime.date, last_day: datetime.date, channels: Collection[str]
) -> list[OurCapacity]:
    """Return what the ledger has for provisioned throughput of some channels, by posting."""
    return [
        OurCapacity(posting.day, posting.channel, posting.currency, posting.amount_pico)
        for batch in books.batches()
        if batch.kind is BatchKind.CAPACITY
        for posting in batch.postings
        if posting.account is Account.CAPACITY_COST
        and first_day <= posting.day <= last_day
        and posting.channel in channels
    ]


def aborted_of(
    events: duckdb.DuckDBPyConnection, first_day: datetime.date, last_day: datetime.date
) -> dict[AbortedKey, int]:
    """Return how much of the estimated usage was of clients that left or cancelled, as far as its events are here."""
    found = events.execute(
        """
        SELECT settled_at::DATE, channel, model, sum(cost) FROM events
        WHERE outcome = 'estimated' AND ended = ? AND settled_at::DATE BETWEEN ? AND ? GROUP BY ALL
        """,
        [ABORTED, first_day, last_day],
    ).fetchall()
    return {AbortedKey(day, channel, model): parse_pico(cost) for day, channel, model, cost in found}


class Attempts:
    """The attempts beside a report by call."""

    def __init__(
        self,
        events: duckdb.DuckDBPyConnection,
        price_of: PriceOf,
        calls: Iterable[str],
        first_day: datetime.date,
        last_day: datetime.date,
    ) -> None:
        """``calls`` are the ids that the report names; the attempts of their channels on its days are compared too."""
        self.usage: list[OurUsage] = []
        self.names: dict[str, str] = {}  # provider's request id → attempt id
        self.aborted: dict[AbortedKey, int] = {}
        events.execute("CREATE OR REPLACE TEMP TABLE billed (name VARCHAR)")
        events.execute("INSERT INTO billed SELECT unnest(?)", [sorted(calls)])
        meters = ", ".join(ALL_METERS)
        cursor = events.execute(
            f"""
            WITH named AS (
                SELECT *, attempt_id IN (FROM billed) OR
                          (provider_request_id <> '' AND provider_request_id IN (FROM billed)) AS billed FROM events
                WHERE attempt_id <> ''
            )
            SELECT settled_at::DATE AS day, attempt_id, provider_request_id, outcome, ended, price_id, tier, currency, cost,
                   {", ".join(_TEXTS)}, meters_other, {meters}
            FROM named
            WHERE channel IN (SELECT channel FROM named WHERE billed) AND (billed OR settled_at::DATE BETWEEN ? AND ?)
            ORDER BY attempt_id, outcome
            """,  # noqa: S608 the texts are constants of this module, the values are bound
            [first_day, last_day],
        )
        names = [column[0] for column in cursor.description or ()]
        while rows := cursor.fetchmany(10_000):
            for row in rows:
                self._add(dict(zip(names, row, strict=True)), price_of)

    def _add(self, event: dict[str, Any], price_of: PriceOf) -> None:
        call, outcome = str(event["attempt_id"]), str(event["outcome"])
        meters = {meter: int(event[meter]) for meter in ALL_METERS if event[meter] is not None}
        if event["meters_other"]:
            meters |= json.loads(event["meters_other"])
        price_id = event["price_id"] or ""
        price = price_of(price_id) if price_id and outcome != CORRECTED else None
        cost_pico = 0 if event["cost"] is None else parse_pico(event["cost"])
        own = int(outcome != CORRECTED)
        row = UsageRow(
            day=event["day"],
            tier=event["tier"] or "",
            price_id=price_id,
            cliff=cliff_of(price, meters) if price is not None else 0,
            outcome=outcome,
            currency=event["currency"],
            calls=own,
            attempts=own,
            unmetered=own if not meters else 0,
            meters=meters,
            cost_pico=cost_pico,
            **{name: event[name] for name in _TEXTS},
        )
        self.usage.append(OurUsage(row, call))
        if event["provider_request_id"]:
            self.names[event["provider_request_id"]] = call
        if outcome == "estimated" and event["ended"] == ABORTED:
            self.aborted[AbortedKey(row.day, row.channel, row.model, call)] = cost_pico
