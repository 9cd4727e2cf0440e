"""Our side of a reconciliation, from real journals and books."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest

from support.journal_files import DAY_NS, START_NS, JournalFiles, corrected, opened, settled
from upeti.control.books import Books
from upeti.control.posting import Poster
from upeti.control.reconciling import Attempts, aborted_of, capacity_of, taken_back_of, usage_of
from upeti.control.store import Store
from upeti.core.errors import JournalError
from upeti.core.events import Outcome
from upeti.journal.blocks import KEEPER_PREFIX
from upeti.journal.events_store import connect, project_closed_segments
from upeti.money.ledger import Account, Batch, BatchKind, Posting
from upeti.money.price import Cliff, Price
from upeti.money.reconcile.match import AbortedKey, OurCapacity

DAY = datetime.date(2026, 11, 1)
NEXT = DAY + datetime.timedelta(days=1)
STEEP = Price("steep", "USD", 0, {"input": 1, "output": 1}, (Cliff(100, {"input": 2, "output": 2}),))
GUESS = {"outcome": Outcome.ESTIMATED, "meters": None, "price_id": ""}


def test_both_ways_lead_to_the_same_usage(open_store: Callable[[], Store]) -> None:
    """The books' sums and the single attempts, before and after a correction."""
    store = open_store()
    journal = JournalFiles(store.data_dir)
    journal.append(opened(1), settled(1, meters={"input": 101, "output": 1}, cost_pico=204, price_id="steep"))
    journal.append(opened(2), settled(2, **GUESS, ended="client_left", cost_pico=70))
    journal.append(opened(3), settled(3, **GUESS, ended="cut", cost_pico=30))
    journal.append(opened(4, channel="other"), settled(4, cost_pico=9, at_ns=START_NS + DAY_NS))
    journal.close()
    keeper = JournalFiles(store.data_dir, f"{KEEPER_PREFIX}corrections-1")
    was, now = "0.00000000007", "0.00000000002"
    keeper.append(corrected(2, outcome=Outcome.ESTIMATED, was=was, now=now, meters={"input": 5}))
    keeper.close()
    books = Books(store)
    books.keep_prices([STEEP], 1)
    early = usage_of(store, store.data_dir, books.price, DAY, DAY)
    project_closed_segments(store.data_dir, sink=Poster(store, "here"))
    summed = usage_of(store, store.data_dir, books.price, DAY, DAY)
    sums = [{row.outcome: row.cost_pico for row in rows if row.cost_pico} for rows in (early, summed)]
    assert sums == [{"posted": 204, "estimated": 100 - 70, "corrected": 20}] * 2, "posted or not yet"
    with connect(store.data_dir) as events:
        attempts = Attempts(events, books.price, ["call-0001-0"], DAY, DAY)
        aborted = aborted_of(events, DAY, DAY)
    assert sum(row.cost_pico for row in summed) == sum(one.row.cost_pico for one in attempts.usage) == 204 + 20 + 30
    assert {one.call for one in attempts.usage} == {"call-0001-0", "call-0002-0", "call-0003-0"}
    assert {one.row.cliff for one in attempts.usage if one.row.price_id} == {1}
    assert attempts.names["chatcmpl-2"] == "call-0002-0"
    assert aborted == {AbortedKey(DAY, "openai", "gpt-4.1-mini"): 70}
    assert attempts.aborted == {AbortedKey(DAY, "openai", "gpt-4.1-mini", "call-0002-0"): 70}
    assert list(taken_back_of(store.data_dir, DAY, DAY, {"openai"}).values()) == [70]
    assert (
        taken_back_of(store.data_dir, NEXT, NEXT, {"openai"})
        == taken_back_of(store.data_dir, DAY, DAY, {"other"})
        == {}
    )


def test_a_billed_call_of_another_day_is_found(open_store: Callable[[], Store]) -> None:
    store = open_store()
    journal = JournalFiles(store.data_dir)
    journal.append(opened(1), settled(1, at_ns=START_NS + DAY_NS))
    journal.append(opened(2), settled(2, at_ns=START_NS + DAY_NS))
    with connect(store.data_dir) as events:
        found = Attempts(events, Books(store).price, ["chatcmpl-1"], DAY, DAY)
    assert [(one.call, one.row.day) for one in found.usage] == [("call-0001-0", NEXT)]


def test_capacity_is_what_the_ledger_has(open_store: Callable[[], Store]) -> None:
    store = open_store()
    books = Books(store)
    common = {"currency": "USD", "day": DAY, "channel": "azure"}
    postings = (
        Posting(account=Account.CAPACITY_COST, amount_pico=24, **common),
        Posting(account=Account.PROVIDER_PAYABLE, amount_pico=-24, **common),
    )
    books.append(Batch(number=0, kind=BatchKind.CAPACITY, at_ns=1, period="2026-11", postings=postings))
    assert capacity_of(books, DAY, DAY, {"azure"}) == [OurCapacity(DAY, "azure", "USD", 24)]
    assert capacity_of(books, NEXT, NEXT, {"azure"}) == capacity_of(books, DAY, DAY, {"openai"}) == []


def test_damage_is_an_error_unless_it_is_skipped(open_store: Callable[[], Store]) -> None:
    store = open_store()
    journal = JournalFiles(store.data_dir)
    journal.append(opened(1), settled(1, price_id="", cost_pico=5))
    journal.rotate()
    journal.append(opened(2), settled(2, price_id="", cost_pico=7))
    first = next(path for path in journal.directory.iterdir() if path != journal.path)
    first.write_bytes(first.read_bytes()[:-40])
    with pytest.raises(JournalError):
        usage_of(store, store.data_dir, Books(store).price, DAY, DAY)
    rows = usage_of(store, store.data_dir, Books(store).price, DAY, DAY, skip_damaged=True)
    assert [row.cost_pico for row in rows] == [5], "what stands before the damage"
