"""Usage of every sort, with the prices it was billed at, for tests of exports."""

from __future__ import annotations

import datetime

import msgspec

from upeti.money.focus.columns import INVOICE_DETAIL
from upeti.money.focus.export import Party, Row, cost_and_usage
from upeti.money.price import Cliff, Price
from upeti.money.usage import UsageRow

DAY = datetime.date(2026, 11, 3)
PRICE = Price(
    id="p1",
    currency="USD",
    effective_ns=0,
    pico={"input": 400_000, "output": 1_600_001, "audio_seconds": 7},
    cliffs=(Cliff(200_000, {"input": 800_000, "output": 3_200_000, "audio_seconds": 7}),),
    per_call_pico=123,
)
PARTY = Party("OpenAI API", "OpenAI", "OpenAI", "OpenAI")


def row(**changes: object) -> UsageRow:
    """Two posted attempts of one kind; the cost is what the price says of the meters."""
    made = UsageRow(
        day=DAY,
        tenant="acme",
        project="shop",
        key="k1",
        feature="search",
        route="fast",
        channel="openai",
        model="gpt-4.1-mini",
        wire="chat_completions",
        price_id="p1",
        outcome="posted",
        currency="USD",
        node="n1",
        calls=2,
        attempts=2,
        meters={"input": 1_000_001, "output": 20},
        cost_pico=1_000_001 * 400_000 + 20 * 1_600_001 + 2 * 123,
    )
    return msgspec.structs.replace(made, **changes)


def every_sort() -> list[UsageRow]:
    return [
        row(),
        row(tier="priority", cliff=1, meters={"input": 300_000}, attempts=1, cost_pico=300_000 * 800_000 + 123),
        row(meters={"audio_seconds": 61}, attempts=1, cost_pico=61 * 7 + 123, wire="transcriptions"),
        row(outcome="estimated", meters={}, attempts=3, unmetered=3, cost_pico=1_234_567_890_123),
        row(tier="provisioned", price_id="c1", tenant="", attempts=0, calls=0, meters={}, cost_pico=24 * 10**12),
        row(outcome="unpriced", price_id="", attempts=5, cost_pico=0),
        row(outcome="voided", price_id="", attempts=1, meters={}, cost_pico=0),
        row(outcome="corrected", attempts=0, calls=0, meters={"input": -7}, cost_pico=-7 * 400_000),
        row(outcome="corrected", attempts=0, calls=0, meters={}, price_id="", cost_pico=-1_000_000_000_001),
        row(day=datetime.date(2026, 10, 31), tenant="globex", currency="IDR", price_id="", cost_pico=322 * 10**21 + 1),
    ]


def exported(rows: list[UsageRow] | None = None, closed: tuple[str, ...] = ()) -> list[Row]:
    return list(cost_and_usage(every_sort() if rows is None else rows, {"p1": PRICE}.get, lambda _: PARTY, closed))


def invoice_line(**changes: str | None) -> Row:
    """A sound row of InvoiceDetail."""
    made: Row = {column.name: None for column in INVOICE_DETAIL}
    made |= {
        "BilledCost": "1234.50",
        "BillingAccountId": "acme",
        "BillingCurrency": "IDR",
        "BillingPeriodEnd": "2026-12-01T00:00:00Z",
        "BillingPeriodStart": "2026-11-01T00:00:00Z",
        "ChargeCategory": "Usage",
        "InvoiceDetailCreated": "2026-12-02T08:00:00Z",
        "InvoiceDetailDescription": "search, gpt-4.1-mini",
        "InvoiceDetailGrain": '{"SkuMeter":"input","x_Feature":"search"}',
        "InvoiceDetailId": "INV-1/1",
        "InvoiceDetailLastUpdated": "2026-12-02T08:00:00Z",
        "InvoiceId": "INV-1",
        "InvoiceIssueDate": "2026-12-02T08:00:00Z",
        "InvoiceIssueStatus": "Issued",
        "InvoiceIssuerName": "PT Upeti",
        "PaymentCurrency": "IDR",
        "PaymentCurrencyBilledCost": "1234.50",
        "PaymentCurrencyInvoiceDetailId": "INV-1/1",
        "PaymentDueDate": "2027-01-01T00:00:00Z",
        "PaymentTerms": "Net 30",
        "ReferenceInvoiceId": "INV-1",
    }
    return made | changes
