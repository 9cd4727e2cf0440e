"""Invoices in the state: gapless numbers, one document, one batch; on SQLite and on PostgreSQL."""

from __future__ import annotations

import datetime
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from support.invoice_side import EXAMPLES, PERIOD, close, invoicing, post, row
from upeti.control import tables
from upeti.control.book_audit import audit_books
from upeti.control.books import Books
from upeti.control.invoicing import Invoicing, _next_number
from upeti.control.store import Store
from upeti.core.amount import decimal_text, parse_pico
from upeti.core.errors import ConfigError
from upeti.money.ledger import Account, BatchKind, balances, digest_of, totals
from upeti.money.rates import Rates
from upeti.money.receivable import InvoiceError, State
from upeti.money.tenant import Tenants

OpenStore = Callable[[], Store]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    made = open_store()
    post(made, row("warung"), row("orchard", meters={"input": 1_000_000_007, "output": 3}), row("feed"))
    close(made)
    return made


def postings(store: Store) -> list[Any]:
    return [posting for batch in Books(store).batches() for posting in batch.postings]


def test_an_issued_invoice_is_numbered_kept_hashed_and_posted(store: Store) -> None:
    kept = invoicing(store).issue("warung", PERIOD)
    assert kept.number == "UPT-2026-000001"
    assert hashlib.sha256(kept.text).hexdigest() == kept.sha256
    batch = Books(store).batches()[-1]
    assert (batch.kind, batch.number, batch.reference) == (BatchKind.INVOICE, kept.batch, kept.number)
    assert batch.document_sha256 == kept.sha256
    assert batch.hash == kept.batch_hash == digest_of(batch)
    assert batch.period == "2026-11"  # the month is closed: an invoice is posted in the open one
    document = kept.document
    assert (document.issue_date, document.due_date) == ("2026-11-02", "2026-12-02")
    assert document.ledger_hash == batch.previous
    assert kept.standing.state is State.ISSUED
    assert balances(postings(store))[Account.RECEIVABLE, "IDR"] == parse_pico(document.totals.total.billing)


def test_the_audit_of_the_books_finds_every_document_posted(store: Store) -> None:
    made = invoicing(store)
    number = made.issue("orchard", PERIOD).number
    made.pay(number, "1000", "bank 1")
    made.credit(number, "wrong")
    made.correct(number, "right")
    result = audit_books(store, "")
    assert result.invoices == 3
    # The test's usage has no journal behind it, which is all there is to be found.
    assert {one.kind for one in result.findings} <= {"no journal", "usage differs", "usage is not posted"}


def test_the_audit_of_the_books_misses_the_last_document_though_its_batch_is_gone_too(store: Store) -> None:
    kept = invoicing(store).issue("orchard", PERIOD)
    with store.writing() as connection:
        connection.execute(delete(tables.invoices))
        connection.execute(delete(tables.postings).where(tables.postings.c.batch == kept.batch))
        connection.execute(delete(tables.batches).where(tables.batches.c.number == kept.batch))
    found = [one.where for one in audit_books(store, "").findings if one.kind == "missing invoice"]
    assert found == [kept.number]


def test_a_month_is_issued_once_and_only_when_it_is_closed(store: Store) -> None:
    made = invoicing(store)
    made.issue("warung", PERIOD)
    with pytest.raises(
        InvoiceError, match="warung 2026-10 is issued already as UPT-2026-000001; `upeti invoice correct"
    ):
        made.issue("warung", PERIOD)
    with pytest.raises(InvoiceError, match="2026-11 is not closed: `upeti ledger close 2026-11`"):
        made.issue("warung", "2026-11")
    assert [kept.number for kept in made.all()] == ["UPT-2026-000001"]
    assert made.draft("warung", "2026-11").number == ""


def test_a_failed_issue_leaves_no_gap(store: Store) -> None:
    made = invoicing(store)
    with pytest.raises(InvoiceError, match="orchard has nothing to invoice for 2026-09"):
        made.issue("orchard", "2026-09")  # closed with what came after it

    def fail_after_the_number_is_taken() -> None:
        with store.writing() as connection:
            assert _next_number(connection, "UPT", 2026) == "UPT-2026-000001"
            connection.execute(insert(tables.postings).values(batch=1, line=0))

    with pytest.raises(IntegrityError):
        fail_after_the_number_is_taken()
    assert made.issue("orchard", PERIOD).number == "UPT-2026-000001"
    assert made.issue("feed", PERIOD).number == "UPT-2026-000002"


def test_a_series_is_of_one_issuer_and_one_year_in_its_time_zone(store: Store, tmp_path: Path) -> None:
    text = (EXAMPLES / "tenants.toml").read_text()
    issuer = text[text.index("[[issuer]]") : text.index("# A customer in")]
    other = issuer.replace('"contoh-awan"', '"other"', 1).replace('"UPT"', '"OTH"').replace("Asia/Jakarta", "UTC")
    orchard = text.index('name = "orchard"')
    text = text[:orchard] + text[orchard:].replace('issuer = "contoh-awan"', 'issuer = "other"', 1) + other
    tenants = tmp_path / "tenants.toml"
    tenants.write_text(text)
    new_year_in_jakarta = int(datetime.datetime(2026, 12, 31, 17, 0, 1, tzinfo=datetime.UTC).timestamp()) * 10**9
    made = Invoicing(store, Tenants.load(tenants), Rates.load(EXAMPLES / "rates.toml"), lambda: new_year_in_jakarta)
    kept = made.issue("warung", PERIOD)
    assert (kept.number, kept.document.issue_date) == ("UPT-2027-000001", "2027-01-01")
    kept = made.issue("orchard", PERIOD)
    assert (kept.number, kept.document.issue_date) == ("OTH-2026-000001", "2026-12-31")
    assert made.issue("feed", PERIOD).number == "UPT-2027-000002"


def test_the_state_itself_refuses_a_second_first_invoice(store: Store) -> None:
    kept = invoicing(store).issue("warung", PERIOD)

    def again() -> None:
        with store.writing() as connection:
            found = connection.execute(select(tables.invoices)).mappings().one()
            connection.execute(insert(tables.invoices).values({**found, "number": "UPT-2026-000099"}))

    with pytest.raises(IntegrityError):
        again()
    assert [one.number for one in invoicing(store).all()] == [kept.number]


def test_a_kept_document_does_not_follow_the_files(store: Store, tmp_path: Path) -> None:
    kept = invoicing(store).issue("orchard", PERIOD)
    other = tmp_path / "tenants.toml"
    other.write_text((EXAMPLES / "tenants.toml").read_text().replace("Example Orchard K.K.", "Renamed"))
    assert invoicing(store, other).show(kept.number).text == kept.text
    # What is issued is shown without any file.
    assert Invoicing(store, None, Rates.load()).show(kept.number).text == kept.text
    with pytest.raises(ConfigError, match="there is no tenants file"):
        Invoicing(store, None, Rates.load()).draft("orchard", PERIOD)


def test_a_kept_document_that_was_changed_is_noticed(store: Store) -> None:
    made = invoicing(store)
    kept = made.issue("orchard", PERIOD)
    with store.writing() as connection:
        connection.execute(update(tables.invoices).values(document=kept.text.decode().replace("orchard", "orchids")))
    with pytest.raises(InvoiceError, match="the kept document is not what was issued"):
        made.show(kept.number)


def test_what_comes_later_is_a_credit_note_or_a_supplement_that_names_the_first(store: Store) -> None:
    made = invoicing(store)
    first = made.issue("orchard", PERIOD)
    assert made.correct(first.number, "nothing new") is None
    post(store, row("orchard", outcome="corrected", meters={}, attempts=0, cost_pico=-(10**12)))
    note = made.correct(first.number, "the provider's report")
    assert note is not None
    assert (note.kind, note.document.refers_to, note.document.reason) == (
        "credit_note",
        first.number,
        "the provider's report",
    )
    assert note.document.totals.total.billing == "-1.15"
    post(store, row("orchard", outcome="corrected", meters={}, attempts=0, cost_pico=3 * 10**12))
    more = made.correct(first.number, "repriced")
    assert more is not None
    assert (more.kind, more.document.totals.total.billing) == ("supplement", "3.45")
    assert made.correct(first.number, "again") is None
    assert [kept.number[-1] for kept in made.all("orchard")] == ["1", "2", "3"]
    with pytest.raises(InvoiceError, match=f"is no first invoice; name {first.number}"):
        made.correct(more.number, "x")
    billed = sum(Decimal(kept.document.totals.total.billing) for kept in made.all("orchard"))
    assert abs(billed - Decimal(made.draft("orchard", PERIOD).totals.total.billing)) <= Decimal("0.02")


def test_a_correction_is_at_the_first_invoices_rate(store: Store, tmp_path: Path) -> None:
    first = invoicing(store).issue("orchard", PERIOD)
    post(store, row("orchard", outcome="corrected", meters={}, attempts=0, cost_pico=10**14))
    rates = tmp_path / "rates.toml"
    rates.write_text((EXAMPLES / "rates.toml").read_text().replace('"151.25"', '"99"'))
    more = invoicing(store, rates=rates).correct(first.number, "more")
    assert more is not None
    assert more.document.conversions == first.document.conversions
    assert more.document.totals.due.payment == "17394"  # 115.00 at 151.25


def test_an_invoice_is_paid_in_parts_in_its_payment_currency(store: Store) -> None:
    made = invoicing(store)
    number = made.issue("orchard", PERIOD).number
    kept = made.pay(number, "100000", "bank 1")
    assert (kept.standing.state, decimal_text(kept.open_pico)) == (State.PARTLY_PAID, "247875")
    with pytest.raises(InvoiceError, match="has 247875 JPY open, less than 247876"):
        made.pay(number, "247876", "bank 2")
    with pytest.raises(InvoiceError, match="a payment with the reference bank 1 already"):
        made.pay(number, "1", "bank 1")
    with pytest.raises(InvoiceError, match="above zero with at most 0 decimals"):
        made.pay(number, "0.5", "bank 3")
    kept = made.pay(number, "247875", "bank 4")
    assert (kept.standing.state, kept.open_pico) == (State.PAID, 0)
    sums = balances(postings(store))
    assert sums[Account.RECEIVABLE, "USD"] == 0
    assert sums[Account.CASH, "JPY"] == parse_pico("347875")


def test_prepaid_credit_is_used_once_and_what_is_credited_comes_back_to_it(store: Store) -> None:
    made = invoicing(store)
    made.top_up("orchard", "1000.00", "USD", "bank 1")
    with pytest.raises(InvoiceError, match="orchard is billed in USD; book its credit in that currency"):
        made.top_up("orchard", "1000", "JPY", "bank 2")
    kept = made.issue("orchard", PERIOD)
    totals_ = kept.document.totals
    assert (totals_.total.billing, totals_.credit.billing, totals_.due.billing) == ("2300", "-1000", "1300")
    assert made.credits()["orchard"]["USD"] == 0
    note = made.credit(kept.number, "wrong account")
    assert note.document.totals.total.billing == "-2300"
    assert made.show(kept.number).standing.state is State.CREDITED
    assert made.credits()["orchard"]["USD"] == parse_pico("1000")
    with pytest.raises(InvoiceError, match="has nothing left to credit"):
        made.credit(kept.number, "again")
    with pytest.raises(InvoiceError, match="is a credit note, which is not paid"):
        made.pay(note.number, "1", "bank 3")
    again = made.correct(kept.number, "to the right account")
    assert again is not None
    assert (again.kind, again.document.totals.total.billing) == ("supplement", "2300")


def test_credit_that_covers_the_invoice_pays_it(store: Store) -> None:
    made = invoicing(store)
    made.top_up("orchard", "5000", "USD", "bank 1")
    kept = made.issue("orchard", PERIOD)
    assert (kept.standing.state, kept.open_pico) == (State.PAID, 0)
    assert made.credits()["orchard"]["USD"] == parse_pico("2700")


ISSUE = """
import sys
from pathlib import Path
from support.invoice_side import PERIOD, invoicing
from upeti.control.store import Store
from upeti.money.receivable import InvoiceError

store = Store(Path(sys.argv[1]), url=sys.argv[2])
made = invoicing(store, Path(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(12):
    try:
        print(made.issue(f"tenant-{number}", PERIOD).number, flush=True)
    except InvoiceError as error:
        assert "issued already" in str(error), error
"""


def test_two_processes_share_one_series_without_gaps(open_store: OpenStore, state_url: str, tmp_path: Path) -> None:
    store = open_store()
    text = (EXAMPLES / "tenants.toml").read_text()
    row_of_tenant = text[text.index('[[tenant]]\nname = "orchard"') : text.index("# A department")]
    for number in range(12):
        text += row_of_tenant.replace('"orchard"', f'"tenant-{number}"')
    tenants = tmp_path / "tenants.toml"
    tenants.write_text(text)
    post(store, *(row(f"tenant-{number}") for number in range(12)))
    close(store)
    command = [sys.executable, "-c", ISSUE, str(tmp_path / "data"), state_url, str(tenants)]
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=120)[0].split() for process in both]
    assert all(process.returncode == 0 for process in both)
    assert sorted(printed[0] + printed[1]) == [f"UPT-2026-{number:06d}" for number in range(1, 13)]
    assert len({kept.tenant for kept in invoicing(store, tenants).all()}) == 12


class Receivables(RuleBasedStateMachine):
    """Any sequence of usage, corrections, issuing, crediting, paying and prepaying."""

    issued = Bundle("issued")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self._folder.name))
        self.made = invoicing(self.store)
        self.references = 0
        post(self.store, row("warung", meters={"input": 400_000_007}), row("orchard", meters={"input": 123_456_789}))
        close(self.store)

    def teardown(self) -> None:
        self.store.close()
        self._folder.cleanup()

    def reference(self) -> str:
        self.references += 1
        return f"bank {self.references}"

    @rule(target=issued, tenant=st.sampled_from(["warung", "orchard"]))
    def issue(self, tenant: str) -> Any:
        try:
            return self.made.issue(tenant, PERIOD).number
        except InvoiceError:
            assert self.made.all(tenant, PERIOD)
            return multiple()

    @rule(tenant=st.sampled_from(["warung", "orchard"]), cost=st.integers(-(10**14), 10**14))
    def usage_is_corrected(self, tenant: str, cost: int) -> None:
        post(self.store, row(tenant, outcome="corrected", meters={}, attempts=0, cost_pico=cost))

    @rule(target=issued, number=issued)
    def correct(self, number: str) -> Any:
        first = self.made.show(number).document.refers_to or number
        first = self.made.show(first).document.refers_to or first
        kept = self.made.correct(first, "later")
        return multiple() if kept is None or kept.kind == "credit_note" else kept.number

    @rule(number=issued)
    def credit(self, number: str) -> None:
        try:
            self.made.credit(number, "wrong")
        except InvoiceError as error:
            if "nothing left to credit" in str(error):
                return
            raise
        kept = self.made.show(number)
        assert kept.standing.state is State.CREDITED

    @rule(number=issued, share=st.integers(1, 100))
    def pay(self, number: str, share: int) -> None:
        kept = self.made.show(number)
        decimals = kept.document.payment_decimals
        unit = 10 ** (12 - decimals)
        part_pico = kept.open_pico * share // 100 // unit * unit
        if part_pico > 0:
            after = self.made.pay(number, decimal_text(part_pico), self.reference())
            assert after.open_pico == kept.open_pico - part_pico

    @rule(tenant=st.sampled_from([("warung", "IDR"), ("orchard", "USD")]), amount=st.integers(1, 3000))
    def top_up(self, tenant: tuple[str, str], amount: int) -> None:
        self.made.top_up(tenant[0], str(amount), tenant[1], self.reference())

    @invariant()
    def the_ledger_balances_and_says_what_is_owed(self) -> None:
        batches = Books(self.store).batches()
        every = [posting for batch in batches for posting in batch.postings]
        assert not any(totals(every).values())
        assert all(digest_of(batch) == batch.hash for batch in batches)
        kept = self.made.all()
        assert [one.number for one in kept] == [f"UPT-2026-{number:06d}" for number in range(1, len(kept) + 1)]
        sums = balances(every)
        for tenant, currency in (("warung", "IDR"), ("orchard", "USD")):
            mine = [one for one in kept if one.tenant == tenant]
            assert all(one.standing.open_pico >= 0 for one in mine)
            assert sums.get((Account.RECEIVABLE, currency), 0) == sum(one.standing.open_pico for one in mine)
            tax = sum(parse_pico(one.document.totals.tax.billing) for one in mine)
            assert sums.get((Account.TAX_PAYABLE, currency), 0) == -tax
            assert self.made.credits().get(tenant, {}).get(currency, 0) >= 0


TestReceivables = Receivables.TestCase
TestReceivables.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)
