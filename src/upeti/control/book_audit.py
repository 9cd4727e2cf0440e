"""Checking the books from a call's record to the invoice, by reading everything anew.

Rules: nothing is believed that can be computed: a batch's hash and chain from its content, its postings and the usage
from the journal's segment that it names, the sums of the Parquet files from the files. The state is read at one moment,
because keepers go on posting. What is not as it should be is named, with its cure, and never repaired here. Journals of
other nodes are on their disks: they are said to be unchecked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import select

from upeti.control import tables
from upeti.control.books import Books, batches_in, usage_in
from upeti.control.invoicing import INVOICE_COUNTER
from upeti.control.posting import Prices, postings_of
from upeti.control.store import Store
from upeti.core.amount import decimal_text, parse_pico
from upeti.core.errors import JournalError
from upeti.journal.blocks import instance_dir, segment_number, segment_path
from upeti.journal.event_columns import SegmentRows
from upeti.journal.events_store import events_path, file_sums
from upeti.journal.reader import digest_before, segments
from upeti.journal.usage_fold import UsageFold
from upeti.money.ledger import GENESIS, SIMULATION, Account, Batch, BatchKind, Posting, digest_of, totals
from upeti.money.usage import UsageRow

_BATCH_ROWS: Final = 10_000
_RESTORE_STATE: Final = "restore the state from a copy"
_RESTORE_SEGMENT: Final = "restore the segment from a copy; `upeti journal verify` says more"
_FILES_AT_ONCE: Final = 500
_SUMS: Final = ("calls", "attempts", "unmetered", "meters", "cost_pico")

_Cell = tuple[str, str, str, str]  # tenant, channel, currency, day


class BookFinding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be."""

    kind: str
    where: str
    message: str  # with the cure


class BookAudit(msgspec.Struct):
    """The result: the books are sound when there is no finding."""

    batches: int = 0
    segments: int = 0  # of this node, read and folded again
    unchecked: dict[str, int] = msgspec.field(default_factory=dict)  # other node → its segments, not checked here
    simulated: dict[str, int] = msgspec.field(default_factory=dict)  # reference → batches that no journal stands behind
    invoices: int = 0
    last_hash: str = GENESIS  # note it elsewhere, and nobody can rewrite the past
    findings: list[BookFinding] = msgspec.field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.findings

    def find(self, kind: str, where: str, message: str) -> None:
        self.findings.append(BookFinding(kind, where, message))


def audit_books(store: Store, node: str) -> BookAudit:
    """Check the books of ``store``, and the journals of ``node`` that they stand for."""
    result = BookAudit()
    books = _read(store)
    _check_chain(books.batches, result)
    _check_totals(books, result)
    folded = _check_segments(store, node, books.batches, result)
    _check_usage(books, node, folded, result)
    _check_events(store.data_dir, node, books.batches, result)
    _check_invoices(books, result)
    _check_periods(books, result)
    return result


class _Kept(msgspec.Struct):
    """All that the state has of the books, at one moment."""

    batches: list[Batch]
    postings: int
    usage: list[UsageRow]
    named: list[tuple[str, str]]  # tenant and dimensions of every row of usage
    invoices: list[Any]
    numbered: dict[str, int]  # series and year of invoices, such as "UPT-2026" → the last number that was given
    closed: dict[str, int]  # period → batch


def _read(store: Store) -> _Kept:
    usage, counter = tables.usage_days.c, tables.counters.c
    numbers = select(counter.name, counter.value).where(counter.name.startswith(INVOICE_COUNTER))
    with store.engine.connect() as connection:
        return _Kept(
            batches=batches_in(connection),
            postings=len(connection.execute(select(tables.postings.c.batch)).all()),
            usage=usage_in(connection),
            named=[tuple(row) for row in connection.execute(select(usage.tenant, usage.dimensions).distinct())],
            invoices=list(connection.execute(select(tables.invoices).order_by(tables.invoices.c.number)).all()),
            numbered={
                "-".join(row.name.removeprefix(INVOICE_COUNTER).rsplit(":", 1)): row.value
                for row in connection.execute(numbers)
            },
            closed={row.period: row.batch for row in connection.execute(select(tables.periods))},
        )


def _check_chain(batches: list[Batch], result: BookAudit) -> None:
    previous = GENESIS
    for place, batch in enumerate(batches, 1):
        where = f"batch {batch.number}"
        if batch.number != place:
            result.find("missing batch", f"batch {place}", f"the numbers go on with {batch.number}: {_RESTORE_STATE}")
            return
        if batch.previous != previous:
            result.find("broken chain", where, f"it is not chained to the batch before: {_RESTORE_STATE}")
        if digest_of(batch) != batch.hash:
            result.find("changed batch", where, f"it or its postings are not what was posted: {_RESTORE_STATE}")
        off = {currency: pico for currency, pico in totals(batch.postings).items() if pico}
        for currency, pico in off.items():
            text = f"debits and credits differ by {decimal_text(pico)} {currency}: {_RESTORE_STATE}"
            result.find("unbalanced batch", where, text)
        previous = batch.hash
    result.batches = len(batches)
    result.last_hash = previous


def _check_totals(books: _Kept, result: BookAudit) -> None:
    for currency, pico in totals(posting for batch in books.batches for posting in batch.postings).items():
        if pico:
            text = f"debits and credits differ by {decimal_text(pico)} {currency}: {_RESTORE_STATE}"
            result.find("trial balance", currency, text)
    known = sum(len(batch.postings) for batch in books.batches)
    if books.postings != known:
        result.find("stray postings", "postings", f"{books.postings - known} belong to no batch: {_RESTORE_STATE}")


def _check_segments(store: Store, node: str, batches: list[Batch], result: BookAudit) -> dict[Any, UsageRow]:
    """Read this node's posted segments again; return their usage."""
    prices = Prices(Books(store))
    folded: dict[Any, UsageRow] = {}
    seen: dict[tuple[str, int], int] = {}
    for batch in batches:
        if batch.kind is not BatchKind.USAGE:
            continue
        if not batch.instance:
            _note_simulated(batch, result)
            continue
        name = (batch.instance, batch.segment)
        where = f"batch {batch.number}, {batch.instance}/{batch.segment:08d}.upj"
        if name in seen:
            result.find("posted twice", where, f"batch {seen[name]} stands for the same segment: {_RESTORE_STATE}")
        seen[name] = batch.number
        if batch.node != node:
            result.unchecked[batch.node] = result.unchecked.get(batch.node, 0) + 1
            continue
        fold = UsageFold(prices, node)
        try:
            _check_segment(store.data_dir, batch, fold, where, result)
        except JournalError as error:
            result.find("damaged segment", where, str(error))
            continue
        usage = fold.usage()
        if postings_of(usage) != batch.postings:
            text = f"its postings are not the sums of the segment: {_RESTORE_STATE}, or the segment"
            result.find("postings differ", where, text)
        add_usage(folded, usage)
        result.segments += 1
    return folded


def _note_simulated(batch: Batch, result: BookAudit) -> None:
    """Usage without a journal is a simulation that says so, or not to be believed."""
    if batch.reference.startswith(SIMULATION):
        result.simulated[batch.reference] = result.simulated.get(batch.reference, 0) + 1
    else:
        text = f"it posts usage and names no segment of a journal: {_RESTORE_STATE}"
        result.find("no journal", f"batch {batch.number}", text)


def _check_segment(data_dir: Path, batch: Batch, fold: UsageFold, where: str, result: BookAudit) -> None:
    directory = instance_dir(data_dir, batch.instance)
    paths = segments(directory) if directory.is_dir() else []
    path = segment_path(directory, batch.segment)
    if path not in paths:
        raise JournalError(f"the segment is not there: {_RESTORE_SEGMENT}")
    index = paths.index(path)
    if segment_number(paths[index]) != index:
        raise JournalError(f"segments before it are missing: {_RESTORE_SEGMENT}")
    rows = SegmentRows(path, digest_before(paths, index))
    for each in rows.batches(_BATCH_ROWS):
        fold.add(each)
    if rows.scan.end != batch.segment_bytes:
        text = f"{rows.scan.end} bytes can be read, {batch.segment_bytes} were posted: {_RESTORE_SEGMENT}"
        result.find("other length", where, text)
    if rows.scan.digest.hex() != batch.segment_digest:
        result.find("other digest", where, f"the segment is not the one that was posted: {_RESTORE_SEGMENT}")


def add_usage(sums: dict[Any, UsageRow], usage: Iterable[UsageRow]) -> None:
    """Add rows to sums by all their dimensions."""
    for row in usage:
        key = msgspec.json.encode(
            msgspec.structs.replace(row, calls=0, attempts=0, unmetered=0, meters={}, cost_pico=0)
        )
        before = sums.get(key)
        if before is not None:
            meters = dict(before.meters)
            for name, quantity in row.meters.items():
                meters[name] = meters.get(name, 0) + quantity
            row = msgspec.structs.replace(
                row,
                calls=row.calls + before.calls,
                attempts=row.attempts + before.attempts,
                unmetered=row.unmetered + before.unmetered,
                meters=meters,
                cost_pico=row.cost_pico + before.cost_pico,
            )
        sums[key] = row


def _check_usage(books: _Kept, node: str, folded: dict[Any, UsageRow], result: BookAudit) -> None:
    kept: dict[Any, UsageRow] = {}
    add_usage(kept, (row for row in books.usage if row.node == node))
    if not any(finding.kind in ("damaged segment", "other length") for finding in result.findings):
        for key in kept.keys() | folded.keys():
            found, expected = kept.get(key), folded.get(key)
            one = found or expected
            if one is not None and (found is None or expected is None or _sums(found) != _sums(expected)):
                where = f"{one.day} {one.tenant}/{one.feature}/{one.model} ({one.outcome})"
                result.find("usage differs", where, f"it is not the sum of the journals: {_RESTORE_STATE}")
    used: dict[_Cell, int] = {}
    for row in books.usage:
        cell = (row.tenant, row.channel, row.currency, row.day.isoformat())
        used[cell] = used.get(cell, 0) + row.cost_pico
    posted: dict[_Cell, int] = {}
    for batch in books.batches:
        if batch.kind in (BatchKind.USAGE, BatchKind.CAPACITY):
            _add_costs(posted, batch.postings)
    for cell in sorted(used.keys() | posted.keys()):
        if used.get(cell, 0) != posted.get(cell, 0):
            amounts = f"usage says {decimal_text(used.get(cell, 0))}, postings {decimal_text(posted.get(cell, 0))}"
            result.find("usage is not posted", " ".join(cell), f"{amounts}: {_RESTORE_STATE}")
    for tenant, dimensions in books.named:
        if msgspec.json.decode(dimensions).get("tenant", "") != tenant:
            result.find("usage differs", tenant, f"a row names another tenant than it counts for: {_RESTORE_STATE}")


def _sums(row: UsageRow) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in _SUMS)


def _add_costs(sums: dict[_Cell, int], postings: Iterable[Posting]) -> None:
    for posting in postings:
        if posting.account in (Account.MODEL_COST, Account.CAPACITY_COST):
            cell = (posting.tenant, posting.channel, posting.currency, posting.day.isoformat())
            sums[cell] = sums.get(cell, 0) + posting.amount_pico


def _check_events(data_dir: Path, node: str, batches: list[Batch], result: BookAudit) -> None:
    """The Parquet files of posted segments have the same sums; one that is not there is made again."""
    files: dict[Path, Batch] = {}
    for batch in batches:
        if batch.kind is BatchKind.USAGE and batch.node == node and batch.instance:
            path = events_path(data_dir, batch.instance, batch.segment)
            if path.exists():
                files[path] = batch
    paths = list(files)
    for start in range(0, len(paths), _FILES_AT_ONCE):
        some = paths[start : start + _FILES_AT_ONCE]
        try:
            found = file_sums(some)
        except JournalError as error:
            result.find("damaged events", "events", str(error))
            continue
        for path in some:
            expected: dict[_Cell, int] = {}
            _add_costs(expected, files[path].postings)
            in_file = {cell: parse_pico(Decimal(cost)) for cell, cost in found.get(path.name, {}).items()}
            for cell in sorted(in_file.keys() | expected.keys()):
                if in_file.get(cell, 0) != expected.get(cell, 0):
                    amounts = f"{decimal_text(in_file.get(cell, 0))} for {' '.join(cell)}"
                    text = f"it says {amounts}, posted is {decimal_text(expected.get(cell, 0))}: delete it, it is made again"
                    result.find("events differ", path.name, text)


def _check_invoices(books: _Kept, result: BookAudit) -> None:
    by_number = {batch.number: batch for batch in books.batches}
    documents = set()
    for row in books.invoices:
        result.invoices += 1
        documents.add(row.sha256)
        if hashlib.sha256(row.document.encode()).hexdigest() != row.sha256:
            result.find("changed invoice", row.number, f"its document is not the one that was issued: {_RESTORE_STATE}")
        batch = by_number.get(row.batch)
        if batch is None or (batch.document_sha256, batch.reference) != (row.sha256, row.number):
            result.find("invoice is not posted", row.number, f"batch {row.batch} is not for it: {_RESTORE_STATE}")
    for batch in books.batches:
        if batch.document_sha256 and batch.document_sha256 not in documents:
            text = f"its document {batch.reference} is not there: {_RESTORE_STATE}"
            result.find("missing invoice", f"batch {batch.number}", text)
    known = {row.number for row in books.invoices}
    for series, last in sorted(books.numbered.items()):
        for number in (f"{series}-{one:06d}" for one in range(1, last + 1)):
            if number not in known:
                text = f"the number was given, and its document is not there: {_RESTORE_STATE}"
                result.find("missing invoice", number, text)


def _check_periods(books: _Kept, result: BookAudit) -> None:
    closed = books.closed
    closing = {batch.period: batch.number for batch in books.batches if batch.kind is BatchKind.CLOSE}
    for period in sorted(closed.keys() | closing.keys()):
        if closed.get(period) != closing.get(period):
            result.find("period", period, f"its row and its batch do not say the same: {_RESTORE_STATE}")
    last = ""
    for batch in books.batches:
        if batch.kind is BatchKind.CLOSE:
            last = max(last, batch.period)
        elif batch.period <= last:
            text = f"it is posted in {batch.period}, which was closed by then: {_RESTORE_STATE}"
            result.find("posted in a closed period", f"batch {batch.number}", text)
