"""A month of usage in a state, with the example's tenants: what tests of invoices begin with."""

from __future__ import annotations

import datetime
from pathlib import Path

from upeti.control.books import Books
from upeti.control.closing import close_period
from upeti.control.invoicing import Invoicing
from upeti.control.store import Store
from upeti.money.ledger import Batch, BatchKind
from upeti.money.price import Price
from upeti.money.rates import Rates
from upeti.money.tenant import Tenants
from upeti.money.usage import UsageRow

EXAMPLES = Path(__file__).parents[2] / "examples"
PERIOD = "2026-10"
NOW_NS = int(datetime.datetime(2026, 11, 2, 3, 4, 5, tzinfo=datetime.UTC).timestamp()) * 10**9
MINI = {"input": 400_000, "input_cached": 100_000, "output": 1_600_000}
PRICE = Price(id="price-mini", currency="USD", effective_ns=0, pico=MINI)
DEAR = Price(id="price-dear", currency="USD", effective_ns=0, pico={"input": 2_000_000, "output": 8_000_000})


def row(
    tenant: str, feature: str = "search", model: str = "gpt-4.1", *, price: Price = DEAR, **fields: object
) -> UsageRow:
    """Return a row of one price; its cost follows from its meters unless it is given."""
    meters = dict(fields.pop("meters", {"input": 1_000_003, "output": 200_007}))  # type: ignore[call-overload]
    cost = sum(quantity * price.pico[meter] for meter, quantity in meters.items())
    values = {
        "day": datetime.date(2026, 10, 5),
        "channel": "azure",
        "outcome": "posted",
        "currency": "USD",
        "price_id": price.id,
        "calls": 10,
        "attempts": 10,
        "meters": meters,
        "cost_pico": cost,
    }
    return UsageRow(**{"tenant": tenant, "feature": feature, "model": model, **values, **fields})  # type: ignore[arg-type]


def post(store: Store, *rows: UsageRow) -> None:
    """Put usage into the books, as a batch without postings."""
    books = Books(store)
    books.keep_prices([PRICE, DEAR], NOW_NS)
    books.append(Batch(number=0, kind=BatchKind.USAGE, at_ns=NOW_NS, period=PERIOD), rows)


def close(store: Store, period: str = PERIOD) -> None:
    close_period(store, "", period, lambda: NOW_NS)


def invoicing(
    store: Store, tenants: Path = EXAMPLES / "tenants.toml", rates: Path = EXAMPLES / "rates.toml"
) -> Invoicing:
    return Invoicing(store, Tenants.load(tenants), Rates.load(rates), lambda: NOW_NS)
