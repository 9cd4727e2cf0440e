"""Issued invoices as rows of FOCUS InvoiceDetail: one row per printed line, and one each for tax and used credit.

Rules: a document's rows sum to what is due on it, in both of its currencies; amounts are as they are printed. Lines
of zero are rows too. Pure.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from upeti.money.focus.columns import INVOICE_DETAIL
from upeti.money.focus.export import Row, billing_period, moment
from upeti.money.invoice import NO_USAGE, Document, Line, Money

_NO_ROW: Final[Row] = {column.name: None for column in INVOICE_DETAIL}


def invoice_detail(documents: Iterable[Document]) -> Iterator[Row]:
    """Yield the FOCUS rows of issued documents."""
    for document in documents:
        common = _common(document)
        for number, line in enumerate(document.lines, 1):
            category = "Adjustment" if line.kind in NO_USAGE else "Usage"
            row = _row(document, common, str(number), category, line.amount)
            yield row | {
                "InvoiceDetailDescription": _description(line),
                "InvoiceDetailGrain": _grain(line),
                "x_PricingCurrency": line.pricing_currency,
                "x_Quantity": str(line.quantity),
                "x_UnitPrice": line.unit_price,
            }
        totals = document.totals
        if document.tax is not None:
            name = f"{document.tax.label_en} {document.tax.rate} %"
            grain: Row = {"InvoiceDetailDescription": name, "InvoiceDetailGrain": _json({"x_Tax": document.tax.name})}
            yield _row(document, common, "tax", "Tax", totals.tax) | grain
        if totals.credit.billing != "0" or totals.credit.payment != "0":
            yield _row(document, common, "credit", "Credit", totals.credit) | {
                "InvoiceDetailDescription": "Prepaid credit used",
            }


def _common(document: Document) -> Row:
    issued = f"{datetime.datetime.fromisoformat(document.issued_at):%Y-%m-%dT%H:%M:%SZ}"
    due = document.due_date
    return (
        _NO_ROW
        | billing_period(datetime.date.fromisoformat(document.first_day))
        | {
            "BillingAccountId": document.customer.id,
            "BillingCurrency": document.billing_currency,
            "InvoiceDetailCreated": issued,
            "InvoiceDetailLastUpdated": issued,
            "InvoiceId": document.number,
            "InvoiceIssueDate": issued,
            "InvoiceIssueStatus": "Issued",
            "InvoiceIssuerName": document.issuer.legal_name,
            "PaymentCurrency": document.payment_currency,
            "PaymentDueDate": moment(datetime.date.fromisoformat(due)) if due else None,
            "PaymentTerms": f"Net {document.net_days}",
            "PurchaseOrderNumber": document.customer.purchase_order or None,
            "ReferenceInvoiceId": document.refers_to or document.number,
        }
    )


def _row(document: Document, common: Row, line: str, category: str, amount: Money) -> Row:
    name = f"{document.number}/{line}"
    return common | {
        "BilledCost": amount.billing,
        "ChargeCategory": category,
        "InvoiceDetailId": name,
        "PaymentCurrencyBilledCost": amount.payment,
        "PaymentCurrencyInvoiceDetailId": name,
    }


def _description(line: Line) -> str:
    names = [line.kind.value, line.feature, line.model, line.meter.replace("_", " ")]
    return ", ".join(name for name in names if name)


def _grain(line: Line) -> str:
    own = {"SkuMeter": line.meter, "x_Feature": line.feature, "x_Kind": line.kind.value, "x_Model": line.model}
    return _json({name: value for name, value in own.items() if value})


def _json(values: dict[str, str]) -> str:
    return msgspec.json.encode(values, order="sorted").decode()
