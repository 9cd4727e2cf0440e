"""The books by themselves: rows that add up, names of any length, periods that stay closed."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from upeti.control.books import Books
from upeti.control.store import Store
from upeti.money.ledger import Account, Batch, BatchKind, LedgerError, Posting, digest_of
from upeti.money.usage import UsageRow

DAY = datetime.date(2026, 11, 3)
LARGE = 4 * 10**23  # pico: 400 bn rupiah


@pytest.fixture
def books(tmp_path: Path, state_url: str) -> Iterator[Books]:
    store = Store(tmp_path, url=state_url)
    yield Books(store)
    store.close()


def batch(segment: int, *amounts_pico: int) -> Batch:
    postings = tuple(
        Posting(account=account, amount_pico=amount, currency="IDR", day=DAY, tenant="acme")
        for account, amount in zip((Account.MODEL_COST, Account.PROVIDER_PAYABLE), amounts_pico, strict=False)
    )
    return Batch(
        number=0,
        kind=BatchKind.USAGE,
        at_ns=1,
        period="2026-11",
        instance="w0-1",
        segment=segment,
        postings=postings,
    )


def usage(name: str = "m", cost_pico: int = LARGE) -> UsageRow:
    return UsageRow(
        day=DAY,
        tenant="acme",
        route=name,
        channel="c",
        model=name[::-1],
        outcome="posted",
        currency="IDR",
        calls=1,
        attempts=1,
        meters={"input": 7},
        cost_pico=cost_pico,
    )


def test_rows_of_the_same_dimensions_are_one_sum(books: Books) -> None:
    for segment in (0, 1):
        assert books.append(batch(segment, LARGE, -LARGE), [usage()]) is not None
    (row,) = books.usage()
    assert (row.attempts, row.meters, row.cost_pico) == (2, {"input": 14}, 2 * LARGE)
    first, second = books.batches()
    assert second.previous == first.hash == digest_of(first)
    assert sum(posting.amount_pico for posting in (*first.postings, *second.postings)) == 0


def test_a_segment_is_posted_once(books: Books) -> None:
    assert books.append(batch(0, LARGE, -LARGE), [usage()]) is not None
    assert books.append(batch(0, LARGE, -LARGE), [usage()]) is None
    assert len(books.batches()) == len(books.usage()) == 1
    assert books.usage()[0].attempts == 1


def test_names_of_any_length_are_posted(books: Books) -> None:
    """An index of PostgreSQL takes 2,704 bytes; names that do not compress are longer together."""
    letters = random.Random(1)
    names = ["".join(chr(letters.randrange(0x10000, 0x1F000)) for _ in range(512)) for _ in range(2)]
    assert books.append(batch(0, LARGE, -LARGE), [usage(name) for name in names]) is not None
    assert {row.route for row in books.usage()} == set(names)


def test_what_does_not_balance_is_not_posted(books: Books) -> None:
    with pytest.raises(LedgerError, match="differ by"):
        books.append(batch(0, LARGE, 1 - LARGE), [usage()])
    assert books.batches() == books.usage() == []


def test_days_and_tenants_are_chosen(books: Books) -> None:
    books.append(batch(0, LARGE, -LARGE), [usage()])
    assert len(books.usage(DAY, DAY, "acme")) == 1
    assert books.usage(DAY + datetime.timedelta(days=1)) == []
    assert books.usage(None, DAY - datetime.timedelta(days=1)) == []
    assert books.usage(tenant="globex") == []
