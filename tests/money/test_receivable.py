"""What is owed: the life cycle is its table, postings balance, a payment clears to the last pico."""

from __future__ import annotations

import datetime
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from money.test_invoice import drawn
from support.invoice_side import row
from upeti.core.amount import parse_pico
from upeti.money.invoice import Document
from upeti.money.ledger import Account, BatchKind, balances, totals
from upeti.money.receivable import (
    LIFE_CYCLE,
    Event,
    InvoiceError,
    Standing,
    State,
    Step,
    issue_postings,
    open_in_payment,
    payment_postings,
    standing_of,
)

DAY = datetime.date(2026, 11, 2)


def orchard(tokens: int = 1_000_000_007) -> Document:
    document = drawn("orchard", row("orchard", meters={"input": tokens, "output": 1}))
    return msgspec.structs.replace(document, number="UPT-2026-000001")


def test_every_step_leads_to_a_state_of_the_table() -> None:
    assert LIFE_CYCLE.keys() == set(State)
    assert {step for steps in LIFE_CYCLE.values() for step in steps} == set(Step)
    reached = {State.DRAFT} | {state for steps in LIFE_CYCLE.values() for state in steps.values()}
    assert reached == set(State)


ISSUE = Event(BatchKind.INVOICE, 100)


@pytest.mark.parametrize(
    ("events", "state", "open_pico"),
    [
        ([ISSUE], State.ISSUED, 100),
        ([Event(BatchKind.INVOICE, 0)], State.PAID, 0),
        ([ISSUE, Event(BatchKind.PAYMENT, -40)], State.PARTLY_PAID, 60),
        ([ISSUE, Event(BatchKind.PAYMENT, -40), Event(BatchKind.PAYMENT, -60)], State.PAID, 0),
        ([ISSUE, Event(BatchKind.CREDIT_NOTE, -30, 30)], State.ISSUED, 70),
        ([ISSUE, Event(BatchKind.PAYMENT, -70), Event(BatchKind.CREDIT_NOTE, -30, 30)], State.PAID, 0),
        ([ISSUE, Event(BatchKind.PAYMENT, -100), Event(BatchKind.CREDIT_NOTE, 0, 30)], State.PAID, 0),
        ([ISSUE, Event(BatchKind.CREDIT_NOTE, -100, 100)], State.CREDITED, 0),
        ([ISSUE, Event(BatchKind.PAYMENT, -100), Event(BatchKind.CREDIT_NOTE, 0, 100)], State.CREDITED, 0),
    ],
)
def test_a_standing_is_a_fold(events: list[Event], state: State, open_pico: int) -> None:
    standing = standing_of(events, 100)
    assert (standing.state, standing.open_pico) == (state, open_pico)


@pytest.mark.parametrize("state", [State.PAID, State.CREDITED])
def test_nothing_is_paid_twice(state: State) -> None:
    with pytest.raises(InvoiceError, match=f"an invoice that is {state} cannot take `pay_rest`"):
        Standing(state, 0, 0).after(Event(BatchKind.PAYMENT, 0), 100)


def test_issuing_posts_revenue_in_the_currency_of_prices_and_the_claim_in_that_of_the_bill() -> None:
    document = msgspec.structs.replace(drawn("warung", row("warung")), number="UPT-2026-000001")
    postings = issue_postings(document, DAY)
    assert set(totals(postings).values()) == {0}
    sums = balances(postings)
    assert sums[Account.RECEIVABLE, "IDR"] == parse_pico("8935500")
    assert sums[Account.TAX_PAYABLE, "IDR"] == -parse_pico("885500")
    assert sums[Account.REVENUE, "USD"] == -parse_pico("500")
    assert sums[Account.CONVERSION, "USD"] == parse_pico("500")
    assert sums[Account.CONVERSION, "IDR"] == -parse_pico("8050000")
    (memo,) = {posting.memo for posting in postings if posting.account is Account.CONVERSION}
    assert memo.startswith("1 USD = 16100 IDR 2026-01-01; rates ")


@given(tokens=st.integers(10**7, 10**15), shares=st.lists(st.integers(1, 99), max_size=6))
def test_payments_in_part_clear_the_claim_exactly(tokens: int, shares: list[int]) -> None:
    document = orchard(tokens)
    postings = list(issue_postings(document, DAY))
    open_pico = parse_pico(document.totals.due.billing)
    assert open_in_payment(document, open_pico) == parse_pico(document.totals.due.payment)
    paid_pico = 0
    for share in [*shares, 100]:
        whole_pico = open_in_payment(document, open_pico)
        part_pico = whole_pico * share // 100 // 10**12 * 10**12
        if not part_pico:
            continue
        made = payment_postings(document, DAY, part_pico, open_pico, "bank")
        assert set(totals(made).values()) == {0}
        postings += made
        paid_pico += part_pico
        open_pico = balances(postings)[Account.RECEIVABLE, "USD"]
        assert open_in_payment(document, open_pico) == whole_pico - part_pico
    assert open_pico == 0
    assert paid_pico == parse_pico(document.totals.due.payment)


def test_more_than_is_open_is_no_payment() -> None:
    document = orchard()
    open_pico = parse_pico(document.totals.due.billing)
    with pytest.raises(InvoiceError, match="at most what is open"):
        payment_postings(document, DAY, parse_pico(document.totals.due.payment) + 10**12, open_pico, "bank")


def test_credit_on_what_is_paid_becomes_prepaid_credit() -> None:
    document = orchard()
    total_pico = parse_pico(document.totals.total.billing)
    negated = {name: msgspec.structs.replace(money, billing="-" + money.billing) for name, money in (
        ("total", document.totals.total), ("due", document.totals.due), ("net", document.totals.net),
    )}  # fmt: skip
    pricing = tuple(
        msgspec.structs.replace(part, amount=msgspec.structs.replace(part.amount, billing="-" + part.amount.billing))
        for part in document.pricing
    )
    note = msgspec.structs.replace(
        document,
        kind="credit_note",
        number="UPT-2026-000002",
        refers_to=document.number,
        pricing=pricing,
        totals=msgspec.structs.replace(document.totals, **negated),
    )
    open_pico = int(total_pico * Fraction(1, 4))
    sums = balances(issue_postings(note, DAY, open_pico))
    assert sums[Account.RECEIVABLE, "USD"] == -open_pico
    assert sums[Account.CUSTOMER_CREDIT, "USD"] == open_pico - total_pico
    assert sums[Account.REVENUE, "USD"] == total_pico
