"""Invoices in the state: drafted, issued, corrected, credited, paid.

Rules: a number, the kept document and the ledger's batch are one transaction, so a series has no gaps and no number is
used twice, whoever issues at the same time. Only a closed month is issued, once; what comes later is the difference to
all that was billed for it, as a supplement or a credit note at the first invoice's rates. A kept document is never made
again: it is shown and rendered from its own text. What is open is a fold over postings.
"""

from __future__ import annotations

import datetime
import hashlib
import time
from collections.abc import Callable
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, insert, select

from upeti.control import tables
from upeti.control.books import Books, append_in
from upeti.control.store import Store, raise_counter
from upeti.core.amount import PICO_DIGITS, AmountError, decimal_text, parse_pico
from upeti.core.errors import ConfigError
from upeti.money import invoice as documents
from upeti.money.invoice import CREDIT_NOTE, INVOICE, SUPPLEMENT, Document, Frame
from upeti.money.ledger import GENESIS, Account, Batch, BatchKind, Posting
from upeti.money.rates import Rates
from upeti.money.receivable import (
    Event,
    InvoiceError,
    Standing,
    State,
    credit_postings,
    issue_postings,
    open_in_payment,
    payment_postings,
    standing_of,
)
from upeti.money.sale import Entries, Unsold, difference
from upeti.money.tenant import Issuer, Tenants

INVOICE_COUNTER: Final = "invoice:"  # begins the name of the counter of a series and year

_NS_PER_SECOND: Final = 10**9


class Kept(msgspec.Struct, frozen=True):
    """An issued document, as it is kept, with its proof and where it stands."""

    number: str
    kind: str
    tenant: str
    period: str
    text: bytes  # JSON
    sha256: str
    batch: int
    batch_hash: str
    standing: Standing

    @property
    def document(self) -> Document:
        return documents.decode(self.text)

    @property
    def open_pico(self) -> int:
        """What is open in the payment currency."""
        return open_in_payment(self.document, self.standing.open_pico)


class Invoicing:
    """Everything that is done with the invoices of one state. ``tenants`` may be None for what is issued already."""

    def __init__(
        self, store: Store, tenants: Tenants | None, rates: Rates, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._store = store
        self._books = Books(store)
        self._tenants = tenants
        self._rates = rates
        self._now_ns = now_ns

    def draft(self, tenant: str, period: str) -> Document:
        """Return the month's invoice as it would be issued now; of an open month what there is so far.

        Raises ``ConfigError`` when tenant, terms, tax or a rate is missing.
        """
        computed = self._compute(tenant, period)
        with self._store.engine.connect() as connection:
            return _drawn(connection, computed)

    def issue(self, tenant: str, period: str) -> Kept:
        """Number and keep a closed month's invoice and post it. Raises ``InvoiceError`` or ``ConfigError``."""
        documents.days_of(period)
        closed = self._books.closed_periods()
        if not closed or period > closed[-1]:
            raise InvoiceError(
                f"{period} is not closed: `upeti ledger close {period}`, or look at it with `upeti invoice draft`"
            )
        computed = self._compute(tenant, period)
        with self._store.writing() as connection:
            first = _first(connection, tenant, period)
            if first is not None:
                raise InvoiceError(
                    f"{tenant} {period} is issued already as {first}; `upeti invoice correct {first}` bills what came later"
                )
            document = _drawn(connection, computed)
            if not document.lines:
                raise InvoiceError(f"{tenant} has nothing to invoice for {period}")
            number = self._keep(connection, document, computed.frame.issuer, 0)
        return self.show(number)

    def correct(self, number: str, reason: str) -> Kept | None:
        """Bill what came after the first invoice of a month; None when nothing did.

        Terms are those of the tenants file now; rates are the first invoice's. Raises ``InvoiceError``.
        """
        first = self.show(number)
        if first.kind != INVOICE:
            number = first.document.refers_to
            raise InvoiceError(f"{first.number} is no first invoice; name {number}, what comes later belongs to it")
        document = first.document
        computed = self._compute(first.tenant, first.period)
        frame = computed.frame
        if frame.tenant.billing_currency != document.billing_currency:
            raise InvoiceError(
                f"{number} is in {document.billing_currency}, the tenants file says {frame.tenant.billing_currency}: "
                "give the new currency a row that begins after the month"
            )
        pinned = {(one.source, one.target): one for one in (*frame.conversions, *document.conversions)}
        frame = msgspec.structs.replace(frame, conversions=tuple(pinned.values()))
        with self._store.writing() as connection:
            rest = computed.entries
            for text in _texts(connection, first.tenant, first.period):
                rest = difference(rest, documents.entries_of_document(documents.decode(text)))
            if not rest:
                return None
            computed = msgspec.structs.replace(computed, frame=frame, entries=rest)
            made = _drawn(connection, computed)
            owed_to_us = parse_pico(made.totals.total.billing) >= 0
            made = msgspec.structs.replace(
                made, kind=SUPPLEMENT if owed_to_us else CREDIT_NOTE, refers_to=number, reason=reason
            )
            open_pico = _standing(connection, number, document).open_pico
            following = self._keep(connection, made, frame.issuer, open_pico)
        return self.show(following)

    def credit(self, number: str, reason: str) -> Kept:
        """Take back a document in full with a credit note. Raises ``InvoiceError``."""
        kept = self.show(number)
        if kept.kind == CREDIT_NOTE:
            raise InvoiceError(f"{number} is a credit note; what it took back is billed with `upeti invoice correct`")
        if kept.standing.state is State.CREDITED or parse_pico(kept.document.totals.total.billing) <= 0:
            raise InvoiceError(f"{number} has nothing left to credit")
        issuer = self._file().issuer(kept.document.issuer.id, documents.days_of(kept.period)[1])
        with self._store.writing() as connection:
            notes = [documents.decode(text) for text in _texts(connection, kept.tenant, kept.period, number)]
            note = documents.taken_back(kept.document, notes)
            if parse_pico(note.totals.total.billing) >= 0:
                raise InvoiceError(f"{number} has nothing left to credit")
            standing = _standing(connection, number, kept.document)
            note = msgspec.structs.replace(note, reason=reason)
            following = self._keep(connection, note, issuer, standing.open_pico)
        return self.show(following)

    def pay(self, number: str, amount: str, reference: str, day: datetime.date | None = None) -> Kept:
        """Book a payment in the payment currency. Raises ``InvoiceError``; a reference is booked once per tenant."""
        kept = self.show(number)
        document = kept.document
        if kept.kind == CREDIT_NOTE:
            raise InvoiceError(f"{number} is a credit note, which is not paid")
        paid_pico = _amount(amount, document.payment_currency, document.payment_decimals)
        with self._store.writing() as connection:
            open_pico = _standing(connection, number, document).open_pico
            if paid_pico > open_in_payment(document, open_pico):
                left = decimal_text(open_in_payment(document, open_pico))
                raise InvoiceError(
                    f"{number} has {left} {document.payment_currency} open, less than {amount}; "
                    "pay that, and book the rest with `upeti tenant credit`"
                )
            postings = payment_postings(document, day or self._today(), paid_pico, open_pico, reference)
            self._book_payment(connection, document.customer.id, reference, postings)
        return self.show(number)

    def top_up(self, tenant: str, amount: str, currency: str, reference: str, day: datetime.date | None = None) -> None:
        """Book prepaid credit. Raises ``InvoiceError`` or ``ConfigError``."""
        row = self._file().tenant(tenant, self._today())
        if currency != row.billing_currency:
            raise InvoiceError(f"{tenant} is billed in {row.billing_currency}; book its credit in that currency")
        amount_pico = _amount(amount, currency, row.bills_to_decimals)
        postings = credit_postings(tenant, day or self._today(), amount_pico, currency, reference)
        with self._store.writing() as connection:
            self._book_payment(connection, tenant, reference, postings)

    def credits(self) -> dict[str, dict[str, int]]:
        """Return tenant → currency → prepaid credit in pico units."""
        found: dict[str, dict[str, int]] = {}
        with self._store.engine.connect() as connection:
            for tenant, currency, amount_pico in _credit_rows(connection, None):
                sums = found.setdefault(tenant, {})
                sums[currency] = sums.get(currency, 0) - amount_pico
        return found

    def all(self, tenant: str | None = None, period: str | None = None, number: str | None = None) -> list[Kept]:
        """Return what was issued, oldest first."""
        table = tables.invoices
        query = select(table, tables.batches.c.hash).join(tables.batches, table.c.batch == tables.batches.c.number)
        for column, value in ((table.c.tenant, tenant), (table.c.period, period), (table.c.number, number)):
            if value is not None:
                query = query.where(column == value)
        with self._store.engine.connect() as connection:
            return [_kept(connection, row) for row in connection.execute(query.order_by(table.c.batch)).all()]

    def show(self, number: str) -> Kept:
        """Raises ``InvoiceError`` when there is none, or its kept text is not what was issued."""
        found = self.all(number=number)
        if not found:
            raise InvoiceError(f"there is no invoice {number}; `upeti invoice list` shows them")
        return found[0]

    def _file(self) -> Tenants:
        if self._tenants is None:
            raise ConfigError("there is no tenants file; name one as tenants_file in [money]")
        return self._tenants

    def _compute(self, tenant: str, period: str) -> _Computed:
        first, last = documents.days_of(period)
        head, usage = self._head(), self._books.usage(first, last, tenant)
        while (after := self._head()) != head:  # the document says exactly which batches its usage is of
            head, usage = after, self._books.usage(first, last, tenant)
        prices = {name: self._books.price(name) for name in {row.price_id for row in usage if row.price_id}}
        known = {name: price for name, price in prices.items() if price is not None}
        entries, unsold = documents.entries_of(self._file(), tenant, period, usage, known, self._rates)
        frame = documents.frame_of(self._file(), tenant, period, entries, self._rates)
        return _Computed(frame, entries, unsold, documents.usage_digest(usage), head)

    def _head(self) -> tuple[int, str]:
        """Return number and hash of the ledger's last batch."""
        batch = tables.batches.c
        query = select(batch.number, batch.hash).order_by(batch.number.desc()).limit(1)
        with self._store.engine.connect() as connection:
            last = connection.execute(query).first()
        return (last.number, last.hash) if last is not None else (0, GENESIS)

    def _keep(self, connection: Connection, document: Document, issuer: Issuer, open_pico: int) -> str:
        """Number, post and keep ``document``; return its number."""
        at_ns = self._now_ns()
        at = datetime.datetime.fromtimestamp(at_ns // _NS_PER_SECOND, datetime.UTC)
        issued_on = at.astimezone(ZoneInfo(issuer.time_zone)).date()
        number = _next_number(connection, issuer.series, issued_on.year)
        document = msgspec.structs.replace(
            document,
            number=number,
            issued_at=at.isoformat().replace("+00:00", "Z"),
            issue_date=issued_on.isoformat(),
            due_date=(issued_on + datetime.timedelta(days=document.net_days)).isoformat(),
        )
        text = documents.encode(document)
        sha256 = hashlib.sha256(text).hexdigest()
        batch = Batch(
            number=0,
            kind=BatchKind.CREDIT_NOTE if document.kind == CREDIT_NOTE else BatchKind.INVOICE,
            at_ns=at_ns,
            period=f"{at:%Y-%m}",
            reference=number,
            document_sha256=sha256,
            postings=issue_postings(document, at.date(), open_pico),
        )
        posted = append_in(connection, batch)
        assert posted is not None  # only a segment's batch can be there already
        row = {
            "number": number,
            "kind": document.kind,
            "tenant": document.customer.id,
            "period": document.period,
            "refers_to": document.refers_to,
            "issued_ns": at_ns,
            "document": text.decode(),
            "sha256": sha256,
            "batch": posted.number,
        }
        connection.execute(insert(tables.invoices).values(row))
        return number

    def _book_payment(self, connection: Connection, tenant: str, reference: str, postings: tuple[Posting, ...]) -> None:
        """Raises ``InvoiceError`` when the reference was booked before: a payment that is told twice came in once."""
        batch, posting = tables.batches.c, tables.postings.c
        same = (
            select(batch.number)
            .join(tables.postings, posting.batch == batch.number)
            .where((batch.kind == BatchKind.PAYMENT) & (batch.reference == reference) & (posting.tenant == tenant))
        )
        if connection.execute(same).first() is not None:
            raise InvoiceError(f"{tenant} has a payment with the reference {reference} already; each has its own")
        at_ns = self._now_ns()
        period = f"{datetime.datetime.fromtimestamp(at_ns // _NS_PER_SECOND, datetime.UTC):%Y-%m}"
        made = Batch(
            number=0, kind=BatchKind.PAYMENT, at_ns=at_ns, period=period, reference=reference, postings=postings
        )
        append_in(connection, made)

    def _today(self) -> datetime.date:
        return datetime.datetime.fromtimestamp(self._now_ns() // _NS_PER_SECOND, datetime.UTC).date()


class _Computed(msgspec.Struct, frozen=True):
    frame: Frame
    entries: Entries
    unsold: list[Unsold]
    usage_sha256: str
    head: tuple[int, str]  # of the ledger, when the usage was read


def _drawn(connection: Connection, computed: _Computed) -> Document:
    tenant = computed.frame.tenant
    credit_pico = _credit(connection, tenant.name, tenant.billing_currency)
    document = documents.draw_up(
        computed.frame, computed.entries, computed.unsold, computed.usage_sha256, max(0, credit_pico)
    )
    number, digest = computed.head
    return msgspec.structs.replace(document, ledger_number=number, ledger_hash=digest)


def _credit(connection: Connection, tenant: str, currency: str) -> int:
    """Return the prepaid credit that is not used, in pico units."""
    return sum(-amount for _, code, amount in _credit_rows(connection, tenant) if code == currency)


def _credit_rows(connection: Connection, tenant: str | None) -> list[tuple[str, str, int]]:
    posting = tables.postings.c
    query = select(posting.tenant, posting.currency, posting.amount_pico).where(
        posting.account == Account.CUSTOMER_CREDIT
    )
    if tenant is not None:
        query = query.where(posting.tenant == tenant)
    return [(row.tenant, row.currency, row.amount_pico) for row in connection.execute(query)]


def _next_number(connection: Connection, series: str, year: int) -> str:
    table = tables.counters
    name = f"{INVOICE_COUNTER}{series}:{year}"
    if not connection.execute(select(table.c.value).where(table.c.name == name)).first():
        connection.execute(insert(table).values(name=name, value=0))
    return f"{series}-{year}-{raise_counter(connection, name):06d}"


def _first(connection: Connection, tenant: str, period: str) -> str | None:
    table = tables.invoices.c
    query = select(table.number).where((table.tenant == tenant) & (table.period == period) & (table.kind == INVOICE))
    found: str | None = connection.execute(query).scalar_one_or_none()
    return found


def _texts(connection: Connection, tenant: str, period: str, credited: str = "") -> list[str]:
    """Return the documents of a tenant's month; with ``credited`` only the credit notes for that invoice."""
    table = tables.invoices.c
    query = select(table.document).where((table.tenant == tenant) & (table.period == period))
    if credited:
        query = query.where((table.kind == CREDIT_NOTE) & (table.refers_to == credited))
    return list(connection.execute(query.order_by(table.batch)).scalars())


def _standing(connection: Connection, number: str, document: Document) -> Standing:
    """Fold what happened to an invoice, in the ledger's order."""
    if document.kind == CREDIT_NOTE:
        return Standing(State.ISSUED)
    batch, posting, kept = tables.batches.c, tables.postings.c, tables.invoices.c
    changes: dict[int, int] = {}
    query = select(posting.batch, posting.amount_pico).where(
        (posting.account == Account.RECEIVABLE) & (posting.tenant == document.customer.id) & (posting.memo == number)
    )
    for at, amount_pico in connection.execute(query):
        changes[at] = changes.get(at, 0) + amount_pico
    credited: dict[int, int] = {}
    own = (kept.number == number) | ((kept.refers_to == number) & (kept.kind == CREDIT_NOTE))
    for at, kind, text in connection.execute(select(kept.batch, kept.kind, kept.document).where(own)):
        credited[at] = -parse_pico(documents.decode(text).totals.total.billing) if kind == CREDIT_NOTE else 0
    numbers = sorted(changes.keys() | credited.keys())
    named = connection.execute(select(batch.number, batch.kind).where(batch.number.in_(numbers)))
    kinds = {at: BatchKind(kind) for at, kind in named}
    events = (Event(kinds[at], changes.get(at, 0), credited.get(at, 0)) for at in numbers)
    return standing_of(events, parse_pico(document.totals.total.billing))


def _kept(connection: Connection, row: Any) -> Kept:
    text = row.document.encode()
    if hashlib.sha256(text).hexdigest() != row.sha256:
        raise InvoiceError(f"{row.number}: the kept document is not what was issued; restore the state from a backup")
    return Kept(
        number=row.number,
        kind=row.kind,
        tenant=row.tenant,
        period=row.period,
        text=text,
        sha256=row.sha256,
        batch=row.batch,
        batch_hash=row.hash,
        standing=_standing(connection, row.number, documents.decode(text)),
    )


def _amount(text: str, currency: str, decimals: int) -> int:
    """Raises ``InvoiceError`` when it is no amount above zero of at most ``decimals`` places."""
    try:
        amount_pico = parse_pico(text)
    except AmountError as error:
        raise InvoiceError(str(error)) from None
    if amount_pico <= 0 or amount_pico % 10 ** (PICO_DIGITS - decimals):
        raise InvoiceError(f"{text} {currency}: give an amount above zero with at most {decimals} decimals")
    return amount_pico
