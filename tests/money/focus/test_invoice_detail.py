"""Issued invoices as FOCUS rows: they sum to what is due, line by line as printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from support.invoice_side import PERIOD, close, invoicing, post, row
from upeti.control.store import Store
from upeti.money.focus.checker import check
from upeti.money.focus.columns import Dataset
from upeti.money.focus.export import Row
from upeti.money.focus.invoice_detail import invoice_detail
from upeti.money.invoice import Document


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Three tenants of the example, one of which has prepaid; one invoice has been corrected."""
    made = Store(tmp_path / "data")
    post(made, row("warung"), row("orchard", meters={"input": 1_000_000_007, "output": 3}), row("feed"))
    close(made)
    yield made
    made.close()


def issued(store: Store) -> list[Document]:
    made = invoicing(store)
    tenants = ("warung", "orchard", "feed")
    made.top_up("warung", "1000", made.draft("warung", PERIOD).billing_currency, "bank-1")
    numbers = [made.issue(tenant, PERIOD).number for tenant in tenants]
    made.credit(numbers[1], "sent to the wrong company")
    return [kept.document for kept in made.all()]


def test_rows_of_a_document_sum_to_what_is_due_and_keep_to_focus(store: Store) -> None:
    documents = issued(store)
    assert [document.kind for document in documents] == ["invoice", "invoice", "invoice", "credit_note"]
    rows: list[Row] = []
    for document in documents:
        made = list(invoice_detail([document]))
        assert sum(Decimal(one["BilledCost"] or "") for one in made) == Decimal(document.totals.due.billing)
        assert sum(Decimal(one["PaymentCurrencyBilledCost"] or "") for one in made) == Decimal(
            document.totals.due.payment
        )
        assert [one["ChargeCategory"] for one in made].count("Tax") == (document.tax is not None)
        rows += made
    assert check(Dataset.INVOICE_DETAIL, list(rows[0]), rows).findings == []


def test_a_line_says_what_is_printed(store: Store) -> None:
    document = issued(store)[0]
    first, *_, credit = invoice_detail([document])
    line = document.lines[0]
    assert (first["BilledCost"], first["x_Quantity"], first["x_UnitPrice"]) == (
        line.amount.billing,
        str(line.quantity),
        line.unit_price,
    )
    assert first["InvoiceDetailId"] == f"{document.number}/1"
    assert json.loads(first["InvoiceDetailGrain"] or "") == {
        "SkuMeter": "input",
        "x_Feature": "search",
        "x_Kind": "usage",
        "x_Model": "gpt-4.1",
    }
    assert (first["InvoiceIssueDate"], first["PaymentDueDate"]) == ("2026-11-02T03:04:05Z", "2026-12-02T00:00:00Z")
    assert (first["BillingPeriodStart"], first["BillingPeriodEnd"]) == ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z")
    assert (first["BillingAccountId"], first["PaymentTerms"]) == ("warung", f"Net {document.net_days}")
    assert (credit["ChargeCategory"], credit["BilledCost"]) == ("Credit", "-1000")


def test_a_credit_note_names_the_invoice_that_it_takes_back(store: Store) -> None:
    documents = issued(store)
    (first, *_) = invoice_detail([documents[-1]])
    assert first["ReferenceInvoiceId"] == documents[1].number != first["InvoiceId"]
    assert (first["BilledCost"] or "").startswith("-")
