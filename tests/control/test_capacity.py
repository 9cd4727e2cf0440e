"""Rented hours in the books: each day once, balanced, and seen by chargeback."""

from __future__ import annotations

import datetime
from pathlib import Path

from support.keeper_side import CONFIG, KeeperProcess, until
from upeti.control.books import Books
from upeti.control.capacity import post_capacity
from upeti.control.store import Store
from upeti.money.capacity import Capacity
from upeti.money.ledger import Account, BatchKind, balances, totals
from upeti.money.price_book import PriceBook

UNIT = 10**12
TEXT = """
part = "azure"

[[capacity]]
deployment = "chat-ptu"
channel = "up"
units = 100
per_unit_hour = "1.00"
currency = "USD"
from = {begins}
tenant = "acme"
source = "reservation 4"
source_date = 2026-03-01
"""


def rows(folder: Path, begins: str, more: str = "") -> tuple[Capacity, ...]:
    path = folder / "capacity.toml"
    path.write_text(TEXT.format(begins=begins) + more)
    return PriceBook.load([path]).capacity


def at_ns(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp()) * 10**9


def test_each_day_that_is_over_is_posted_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    books = Books(store)
    rented = rows(tmp_path, "2026-03-10T12:00:00Z")
    assert post_capacity(store, rented, at_ns("2026-03-10T23:59:59+00:00")) == 0
    assert post_capacity(store, rented, at_ns("2026-03-12T00:00:00+00:00")) == 2
    assert post_capacity(store, rented, at_ns("2026-03-12T00:00:00+00:00")) == 0
    ended = rows(tmp_path, "2026-03-10T12:00:00Z", "until = 2026-03-12T06:00:00Z\n")
    assert post_capacity(store, ended, at_ns("2026-04-01T00:00:00+00:00")) == 1, "an end does not charge days again"
    batches = books.batches()
    assert [batch.kind for batch in batches] == [BatchKind.CAPACITY] * 3
    assert [batch.postings[0].amount_pico for batch in batches] == [1_200 * UNIT, 2_400 * UNIT, 600 * UNIT]
    postings = [posting for batch in batches for posting in batch.postings]
    assert totals(postings) == {"USD": 0}
    assert balances(postings) == {
        (Account.CAPACITY_COST, "USD"): 4_200 * UNIT,
        (Account.PROVIDER_PAYABLE, "USD"): -4_200 * UNIT,
    }
    usage = books.usage(tenant="acme")
    assert [(row.day.day, row.model, row.channel, row.tier, row.cost_pico) for row in usage] == [
        (10, "chat-ptu", "up", "provisioned", 1_200 * UNIT),
        (11, "chat-ptu", "up", "provisioned", 2_400 * UNIT),
        (12, "chat-ptu", "up", "provisioned", 600 * UNIT),
    ]
    store.close()


def test_a_keeper_posts_capacity_and_remembers_its_prices(tmp_path: Path) -> None:
    yesterday = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
    price = """
[[price]]
models = ["m"]
from = 2026-01-01
currency = "USD"
per_million = { input = "1.00", output = "2.00" }
source = "contract 17"
source_date = 2026-01-01
"""
    (tmp_path / "own.toml").write_text(TEXT.format(begins=yesterday).replace('"azure"', '"own"') + price)
    text = CONFIG.replace('prices = "local"', 'prices = "own"') + '\n[money]\nprice_files = ["own.toml"]\n'
    keeper = KeeperProcess(tmp_path, text)
    keeper.start()
    (row,) = PriceBook.of_file(tmp_path / "own.toml").rows
    store = Store(keeper.data_dir)
    books = Books(store)
    until(lambda: books.batches(), what="the batch of yesterday")
    assert keeper.stop() == 0
    assert {posting.day for batch in books.batches() for posting in batch.postings} <= {
        yesterday,
        yesterday + datetime.timedelta(days=1),
    }
    (tmp_path / "own.toml").unlink()
    assert books.price(row.price.id) == row.price
    store.close()


def test_what_is_shared_has_no_tenant_and_is_read_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = tmp_path / "shared.toml"
    path.write_text(TEXT.format(begins="2026-03-10").replace('tenant = "acme"\n', ""))
    assert post_capacity(store, PriceBook.load([path]).capacity, at_ns("2026-03-11T00:00:00+00:00")) == 1
    (usage,) = Books(store).usage()
    assert (usage.tenant, usage.cost_pico) == ("", 2_400 * UNIT)
    store.close()
