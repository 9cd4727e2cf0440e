"""What is owed on an invoice: its life cycle as a table, and the postings of issuing, paying and crediting.

Rules: the subledger is the memo of a RECEIVABLE posting, the number of the invoice; its open amount and its state are
folds over those postings, kept nowhere else. A conversion is two pairs of postings over CONVERSION, so that each
currency balances by itself, and their memo names the rate and the set it is from. What is credited on an invoice that is
paid already becomes prepaid credit.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from enum import StrEnum
from fractions import Fraction
from typing import Final

import msgspec

from upeti.core.amount import Pico, parse_pico, round_fraction
from upeti.core.errors import UpetiError
from upeti.money.invoice import Document
from upeti.money.ledger import Account, BatchKind, Posting
from upeti.money.rates import Conversion


class InvoiceError(UpetiError):
    """What was asked for cannot be done with this invoice. The message names the cure."""


class State(StrEnum):
    DRAFT = "draft"
    ISSUED = "issued"
    PARTLY_PAID = "partly_paid"
    PAID = "paid"
    CREDITED = "credited"  # taken back in full


class Step(StrEnum):
    ISSUE = "issue"
    ISSUE_SETTLED = "issue_settled"  # prepaid credit covers it, or nothing is owed
    PAY_PART = "pay_part"
    PAY_REST = "pay_rest"
    CREDIT_PART = "credit_part"  # something stays open
    CREDIT_REST = "credit_rest"  # nothing stays open
    CREDIT_ALL = "credit_all"  # credit notes are as large as the invoice


LIFE_CYCLE: Final[dict[State, dict[Step, State]]] = {
    State.DRAFT: {Step.ISSUE: State.ISSUED, Step.ISSUE_SETTLED: State.PAID},
    State.ISSUED: {
        Step.PAY_PART: State.PARTLY_PAID,
        Step.PAY_REST: State.PAID,
        Step.CREDIT_PART: State.ISSUED,
        Step.CREDIT_REST: State.PAID,
        Step.CREDIT_ALL: State.CREDITED,
    },
    State.PARTLY_PAID: {
        Step.PAY_PART: State.PARTLY_PAID,
        Step.PAY_REST: State.PAID,
        Step.CREDIT_PART: State.PARTLY_PAID,
        Step.CREDIT_REST: State.PAID,
        Step.CREDIT_ALL: State.CREDITED,
    },
    State.PAID: {Step.CREDIT_REST: State.PAID, Step.CREDIT_ALL: State.CREDITED},
    State.CREDITED: {Step.CREDIT_ALL: State.CREDITED},  # later credit notes of the month are prepaid credit
}


class Event(msgspec.Struct, frozen=True):
    """What a batch did to an invoice. A credit note is negative."""

    kind: BatchKind
    receivable_pico: int  # change of what is open
    credited_pico: int = 0  # total of the credit note


class Standing(msgspec.Struct, frozen=True):
    """An invoice after all that happened to it."""

    state: State = State.DRAFT
    open_pico: int = 0  # in the billing currency
    credited_pico: int = 0

    def after(self, event: Event, total_pico: int) -> Standing:
        """Raises ``InvoiceError`` when the state has no such step."""
        open_pico = self.open_pico + event.receivable_pico
        credited_pico = self.credited_pico + event.credited_pico
        step = _step(event.kind, open_pico, credited_pico, total_pico)
        following = LIFE_CYCLE[self.state].get(step)
        if following is None:
            raise InvoiceError(f"an invoice that is {self.state} cannot take `{step}`")
        return Standing(following, open_pico, credited_pico)


def _step(kind: BatchKind, open_pico: int, credited_pico: int, total_pico: int) -> Step:
    if kind == BatchKind.INVOICE:
        return Step.ISSUE if open_pico else Step.ISSUE_SETTLED
    if kind == BatchKind.PAYMENT:
        return Step.PAY_PART if open_pico else Step.PAY_REST
    if credited_pico >= total_pico:
        return Step.CREDIT_ALL
    return Step.CREDIT_PART if open_pico else Step.CREDIT_REST


def standing_of(events: Iterable[Event], total_pico: int) -> Standing:
    standing = Standing()
    for event in events:
        standing = standing.after(event, total_pico)
    return standing


def issue_postings(document: Document, day: datetime.date, open_pico: int = 0) -> tuple[Posting, ...]:
    """Return the postings of an issued document; of a credit note ``open_pico`` is what the invoice still lacks."""
    tenant, currency = document.customer.id, document.billing_currency
    total_pico, tax_pico = parse_pico(document.totals.total.billing), parse_pico(document.totals.tax.billing)
    due_pico, used_pico = parse_pico(document.totals.due.billing), -parse_pico(document.totals.credit.billing)
    about = document.number
    if total_pico < 0:
        about = document.refers_to or about
        due_pico = Pico(-min(open_pico, -total_pico))
        used_pico = Pico(total_pico - due_pico)
    book = _Book(tenant, day)
    book.post(Account.RECEIVABLE, due_pico, currency, about)
    book.post(Account.CUSTOMER_CREDIT, used_pico, currency, document.number)
    book.post(Account.TAX_PAYABLE, -tax_pico, currency, document.number)
    for part in document.pricing:
        net_pico = parse_pico(part.amount.billing)
        if part.name == currency:
            book.post(Account.REVENUE, -net_pico, currency, document.number)
            continue
        conversion = next(one for one in document.conversions if (one.source, one.target) == (part.name, currency))
        priced_pico = round_fraction(Fraction(part.priced[part.name]) * 10**12, 12)
        book.convert(conversion, priced_pico, net_pico)
        book.post(Account.REVENUE, -priced_pico, part.name, document.number)
    return tuple(book.postings)


def payment_postings(
    document: Document, day: datetime.date, paid_pico: int, open_pico: int, reference: str
) -> tuple[Posting, ...]:
    """Return the postings of a payment in the payment currency. Raises ``InvoiceError`` when it is more than is open."""
    whole_pico = open_in_payment(document, open_pico)
    if not 0 < paid_pico <= whole_pico:
        raise InvoiceError(
            "a payment is more than zero and at most what is open; book the rest with `upeti tenant credit`"
        )
    cleared_pico = round_fraction(Fraction(open_pico * paid_pico, whole_pico), 12)
    book = _Book(document.customer.id, day)
    book.post(Account.CASH, paid_pico, document.payment_currency, reference)
    if document.payment_currency != document.billing_currency:
        book.convert(_to_payment(document), cleared_pico, paid_pico)
    book.post(Account.RECEIVABLE, -cleared_pico, document.billing_currency, document.number)
    return tuple(book.postings)


def credit_postings(
    tenant: str, day: datetime.date, amount_pico: int, currency: str, reference: str
) -> tuple[Posting, ...]:
    """Return the postings of a top-up: money came in that is not used yet."""
    book = _Book(tenant, day)
    book.post(Account.CASH, amount_pico, currency, reference)
    book.post(Account.CUSTOMER_CREDIT, -amount_pico, currency, reference)
    return tuple(book.postings)


def open_in_payment(document: Document, open_pico: int) -> Pico:
    """Return what is open in the payment currency, as it is printed and paid."""
    factor = Fraction(1)
    if document.payment_currency != document.billing_currency:
        factor = _to_payment(document).factor
    return round_fraction(open_pico * factor, document.payment_decimals)


def _to_payment(document: Document) -> Conversion:
    pair = (document.billing_currency, document.payment_currency)
    return next(one for one in document.conversions if (one.source, one.target) == pair)


class _Book:
    def __init__(self, tenant: str, day: datetime.date) -> None:
        self._tenant = tenant
        self._day = day
        self.postings: list[Posting] = []

    def post(self, account: Account, amount_pico: int, currency: str, memo: str) -> None:
        if amount_pico:
            self.postings.append(
                Posting(
                    account=account,
                    amount_pico=amount_pico,
                    currency=currency,
                    day=self._day,
                    tenant=self._tenant,
                    memo=memo,
                )
            )

    def convert(self, conversion: Conversion, source_pico: int, target_pico: int) -> None:
        """Debit the source and credit the target: an amount in one stands for an amount in the other."""
        rates = ", ".join(f"1 {rate.base} = {rate.rate:f} {rate.currency} {rate.date}" for rate in conversion.rates)
        memo = f"{rates}; rates {conversion.rates[0].set_sha256[:16]}"
        self.post(Account.CONVERSION, source_pico, conversion.source, memo)
        self.post(Account.CONVERSION, -target_pico, conversion.target, memo)
