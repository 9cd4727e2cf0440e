"""An invoice: what a tenant owes for a month, as one document that can be checked digit by digit.

Rules: everything follows from usage rows, terms, rates and tax, without a clock or a store. A line is rounded once, in
the billing currency, half to even, and what rounding leaves goes to the lines with the largest remainders, so that the
printed lines sum to the printed net. Tax follows from the printed net, the total from both. The payment currency gets
the same amounts at its pinned rate, apportioned so that they sum there too. Amounts in the document are decimal text.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Final

import msgspec

from upeti.core.amount import PICO_DIGITS, PICO_PER_UNIT, apportion_pico, decimal_text, parse_pico, round_fraction
from upeti.money.price import Price
from upeti.money.rates import Conversion, Rates
from upeti.money.sale import Entries, Entry, LineKey, LineKind, Unsold, add, sell
from upeti.money.tax import Tax
from upeti.money.tenant import Commitment, Issuer, Tenant, Tenants
from upeti.money.usage import UsageRow

VERSION: Final = 1
_FINER_MAX: Final = 12  # digits below the pico: a price per million times a margin with four decimals has twelve
INVOICE: Final = "invoice"
SUPPLEMENT: Final = "supplement"  # what came after the first invoice of a month, owed to us
CREDIT_NOTE: Final = "credit_note"  # … owed to the tenant; or the first one taken back
NO_USAGE: Final = (LineKind.SHORTFALL, LineKind.DISCOUNT)  # lines of the commitment, which no feature has


class Money(msgspec.Struct, frozen=True):
    """One amount as decimal text in both currencies of the document."""

    billing: str
    payment: str


_ZERO: Final = Money("0", "0")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    kind: LineKind
    feature: str
    model: str
    meter: str
    quantity: int
    unit_price: str | None  # exact, of one unit, in the pricing currency
    pricing_currency: str
    priced: str  # exact, in the pricing currency
    amount: Money


class TaxOn(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    label_en: str
    label_id: str
    rate: str  # percent
    base_share: str
    base: Money
    reference: str  # the law
    source: str
    status: str


class Sum(msgspec.Struct, frozen=True):
    """Sum of a group of lines: by feature, or by pricing currency."""

    name: str
    priced: dict[str, str]  # pricing currency → exact
    amount: Money


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    net: Money
    tax: Money
    total: Money
    credit: Money  # prepaid credit that is used, as a negative amount
    due: Money


class Party(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    legal_name: str
    address: tuple[str, ...]
    tax_id: str
    contact: tuple[str, ...] = ()
    bank: tuple[str, ...] = ()
    purchase_order: str = ""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice, a supplement or a credit note. ``number`` and ``issued_at`` are "" in a draft."""

    version: int = VERSION
    kind: str
    number: str = ""
    issued_at: str = ""  # UTC
    issue_date: str = ""  # in the issuer's time zone
    due_date: str = ""
    refers_to: str = ""  # the first invoice of the tenant and month
    reason: str = ""
    issuer: Party
    customer: Party
    internal: bool  # a chargeback within one company
    period: str
    first_day: str  # UTC, as the last
    last_day: str
    locale: str
    billing_currency: str
    billing_decimals: int
    payment_currency: str
    payment_decimals: int
    net_days: int
    terms: tuple[str, ...]
    lines: tuple[Line, ...]
    features: tuple[Sum, ...]
    pricing: tuple[Sum, ...]
    unbilled: tuple[Unsold, ...]
    tax: TaxOn | None
    totals: Totals
    conversions: tuple[Conversion, ...]  # pricing → billing → payment
    usage_sha256: str  # of the rows that it was computed from
    ledger_number: int = 0  # last batch that those rows are in
    ledger_hash: str = ""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What a document has beside its lines: parties, currencies, rates and tax of one tenant and month."""

    period: str
    tenant: Tenant
    issuer: Issuer
    tax: Tax | None
    conversions: tuple[Conversion, ...]

    def conversion(self, source: str, target: str) -> Conversion:
        if source == target:
            return Conversion(source, target)
        return next(one for one in self.conversions if (one.source, one.target) == (source, target))


def days_of(period: str) -> tuple[datetime.date, datetime.date]:
    """Return the first and the last day of a month such as "2026-11". Raises ``ValueError``."""
    first = datetime.datetime.strptime(period, "%Y-%m").date()
    if f"{first:%Y-%m}" != period:
        raise ValueError(period)
    following = (first.replace(day=28) + datetime.timedelta(days=4)).replace(day=1)
    return first, following - datetime.timedelta(days=1)


def entries_of(
    tenants: Tenants, name: str, period: str, usage: Iterable[UsageRow], prices: Mapping[str, Price], rates: Rates
) -> tuple[Entries, list[Unsold]]:
    """Return what a month's usage is sold for, the commitment included. Raises ``ConfigError``."""
    first, last = days_of(period)
    entries, unsold = sell(usage, prices, tenants.terms(name, last))
    commitment = tenants.commitment(name, first)
    if commitment is not None:
        _commit(entries, commitment, rates, last)
    return entries, unsold


def _commit(entries: Entries, commitment: Commitment, rates: Rates, at: datetime.date) -> None:
    used = Fraction(0)
    for key, entry in entries.items():
        used += entry.pico * rates.conversion(key.currency, commitment.currency, at).factor
    above = used - parse_pico(commitment.minimum)
    kind, pico = LineKind.SHORTFALL, -above
    if above > 0:
        kind, pico = LineKind.DISCOUNT, -above * Fraction(commitment.discount_above) / 100
    pico = Fraction(round_fraction(pico, 12))  # across currencies it has no end
    if pico:
        add(entries, LineKey(kind, "", "", "", None, commitment.currency), 0, pico)


def frame_of(tenants: Tenants, name: str, period: str, entries: Entries, rates: Rates) -> Frame:
    """Pin parties, rates and tax as they are on the month's last day. Raises ``ConfigError``."""
    _, last = days_of(period)
    tenant = tenants.tenant(name, last)
    currencies = sorted({key.currency for key in entries})
    billing = tenant.billing_currency
    return Frame(
        period=period,
        tenant=tenant,
        issuer=tenants.issuer(tenant.issuer, last),
        tax=None if tenant.internal else tenants.taxes.tax(tenant.tax, last),
        conversions=tuple(
            rates.conversion(source, target, last)
            for source, target in (*((currency, billing) for currency in currencies), (billing, tenant.pays_in))
            if source != target
        ),
    )


def draw_up(
    frame: Frame, entries: Entries, unsold: Iterable[Unsold], usage_sha256: str, credit_pico: int = 0
) -> Document:
    """Return the document of ``entries``; at most ``credit_pico`` of prepaid credit, in the billing currency, is used."""
    tenant, issuer = frame.tenant, frame.issuer
    keys = sorted((key for key, entry in entries.items() if entry.quantity or entry.pico), key=lambda key: key.order)
    billing = tenant.billing_currency
    to_payment = frame.conversion(billing, tenant.pays_in).factor
    exact = [entries[key].pico * frame.conversion(key.currency, billing).factor for key in keys]
    amounts = [parse_pico(amount) for amount in apportion_pico(exact, tenant.bills_to_decimals)]
    net_pico = sum(amounts)
    base_pico, tax_pico = frame.tax.of(net_pico, tenant.bills_to_decimals) if frame.tax is not None else (0, 0)
    used_pico = max(0, min(credit_pico, net_pico + tax_pico))
    parts = [*amounts, tax_pico, -used_pico]
    exact_paid = [part * to_payment for part in parts]
    paid_parts = [parse_pico(part) for part in apportion_pico(exact_paid, tenant.pays_to_decimals)]
    *paid_amounts, paid_tax, paid_credit = paid_parts
    paid_net = sum(paid_amounts)
    first, last = days_of(frame.period)
    tax_on = None
    if frame.tax is not None:
        paid_base = round_fraction(base_pico * to_payment, tenant.pays_to_decimals)
        tax_on = _tax_on(frame.tax, _money(base_pico, paid_base))
    rows = list(zip(keys, [entries[key].pico for key in keys], amounts, paid_amounts, strict=True))
    return Document(
        kind=INVOICE,
        issuer=_issuer(issuer),
        customer=_customer(tenant),
        internal=tenant.internal,
        period=frame.period,
        first_day=first.isoformat(),
        last_day=last.isoformat(),
        locale=tenant.locale,
        billing_currency=billing,
        billing_decimals=tenant.bills_to_decimals,
        payment_currency=tenant.pays_in,
        payment_decimals=tenant.pays_to_decimals,
        net_days=tenant.net_days,
        terms=tenant.terms,
        lines=tuple(_line(key, entries[key], _money(amount, paid)) for key, _, amount, paid in rows),
        features=_sums([None if key.kind in NO_USAGE else key.feature for key in keys], rows),
        pricing=_sums([key.currency for key in keys], rows),
        unbilled=tuple(unsold),
        tax=tax_on,
        totals=Totals(
            net=_money(net_pico, paid_net),
            tax=_money(tax_pico, paid_tax),
            total=_money(net_pico + tax_pico, paid_net + paid_tax),
            credit=_money(-used_pico, paid_credit),
            due=_money(net_pico + tax_pico - used_pico, paid_net + paid_tax + paid_credit),
        ),
        conversions=frame.conversions,
        usage_sha256=usage_sha256,
    )


def taken_back(document: Document, notes: Iterable[Document]) -> Document:
    """Return the credit note that, with ``notes`` before it, takes back ``document`` to the last printed digit."""
    before = (document, *notes)
    lines: dict[LineKey, list[Line]] = {}
    for one in before:
        for line in one.lines:
            lines.setdefault(_key(line), []).append(line)
    rows = []
    for key, same in sorted(lines.items(), key=lambda pair: pair[0].order):
        pico = -sum((_pico(line.priced) for line in same), Fraction(0))
        amount = _negated([line.amount for line in same])
        entry = Entry(-sum(line.quantity for line in same), pico)
        if entry.quantity or pico or amount != _ZERO:
            rows.append((key, entry, amount))
    sums = [(key, entry.pico, parse_pico(amount.billing), parse_pico(amount.payment)) for key, entry, amount in rows]
    tax = document.tax
    if tax is not None:
        tax = msgspec.structs.replace(tax, base=_negated([one.tax.base for one in before if one.tax is not None]))
    total = _negated([one.totals.total for one in before])
    return msgspec.structs.replace(
        document,
        kind=CREDIT_NOTE,
        refers_to=document.number,
        number="",
        issued_at="",
        issue_date="",
        due_date="",
        lines=tuple(_line(*row) for row in rows),
        features=_sums([None if key.kind in NO_USAGE else key.feature for key, _, _ in rows], sums),
        pricing=_sums([key.currency for key, _, _ in rows], sums),
        unbilled=(),
        tax=tax,
        totals=Totals(
            net=_negated([one.totals.net for one in before]),
            tax=_negated([one.totals.tax for one in before]),
            total=total,
            credit=_ZERO,
            due=total,
        ),
    )


def entries_of_document(document: Document) -> Entries:
    """Return what a document's lines sold, exactly."""
    entries: Entries = {}
    for line in document.lines:
        add(entries, _key(line), line.quantity, _pico(line.priced))
    return entries


def usage_digest(usage: Iterable[UsageRow]) -> str:
    """Return the SHA-256 of usage rows, whatever their order."""
    encoded = sorted(
        msgspec.json.encode(msgspec.structs.replace(row, cost_pico=0)) + b"%d" % row.cost_pico for row in usage
    )
    return hashlib.sha256(b"\n".join(encoded)).hexdigest()


def encode(document: Document) -> bytes:
    """Return the JSON that is kept, hashed and rendered from."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def decode(data: bytes | str) -> Document:
    return msgspec.json.decode(data, type=Document)


def _key(line: Line) -> LineKey:
    unit = None if line.unit_price is None else _pico(line.unit_price)
    return LineKey(line.kind, line.feature, line.model, line.meter, unit, line.pricing_currency)


def _negated(amounts: Iterable[Money]) -> Money:
    """Return minus the sum of ``amounts``."""
    billing = payment = 0
    for amount in amounts:
        billing -= parse_pico(amount.billing)
        payment -= parse_pico(amount.payment)
    return _money(billing, payment)


def _pico(text: str) -> Fraction:
    return Fraction(text) * PICO_PER_UNIT


def exact_text(pico: Fraction) -> str:
    """Return an exact amount as a plain decimal; margins end within a few digits below the pico."""
    finer = 0
    while (pico * 10**finer).denominator != 1:
        finer += 1
        if finer > _FINER_MAX:
            raise ValueError(f"{pico} pico units have no end as a decimal")
    digits = int(pico * 10**finer)
    sign, places = "-" if digits < 0 else "", PICO_DIGITS + finer
    whole, rest = divmod(abs(digits), 10**places)
    return sign + f"{whole}.{rest:0{places}d}".rstrip("0").rstrip(".")


def _money(billing_pico: int, payment_pico: int) -> Money:
    return Money(decimal_text(billing_pico), decimal_text(payment_pico))


def _line(key: LineKey, entry: Entry, amount: Money) -> Line:
    return Line(
        kind=key.kind,
        feature=key.feature,
        model=key.model,
        meter=key.meter,
        quantity=entry.quantity,
        unit_price=None if key.unit is None else exact_text(key.unit),
        pricing_currency=key.currency,
        priced=exact_text(entry.pico),
        amount=amount,
    )


def _sums(names: list[str | None], rows: Sequence[tuple[LineKey, Fraction, int, int]]) -> tuple[Sum, ...]:
    """Sum lines by name, in the order of the lines; those without one are left out."""
    priced: dict[str, dict[str, Fraction]] = {}
    money: dict[str, tuple[int, int]] = {}
    for name, (key, pico, billing_pico, payment_pico) in zip(names, rows, strict=True):
        if name is None:
            continue
        before = money.get(name, (0, 0))
        money[name] = (before[0] + billing_pico, before[1] + payment_pico)
        sums = priced.setdefault(name, {})
        sums[key.currency] = sums.get(key.currency, Fraction(0)) + pico
    return tuple(
        Sum(name, {code: exact_text(pico) for code, pico in priced[name].items()}, _money(*money[name]))
        for name in money
    )


def _tax_on(tax: Tax, base: Money) -> TaxOn:
    return TaxOn(
        name=tax.name,
        label_en=tax.label_en,
        label_id=tax.label_id,
        rate=tax.rate,
        base_share=tax.base,
        base=base,
        reference=tax.reference,
        source=tax.source,
        status=tax.status,
    )


def _issuer(issuer: Issuer) -> Party:
    return Party(
        id=issuer.name,
        legal_name=issuer.legal_name,
        address=issuer.address,
        tax_id=issuer.tax_id,
        contact=issuer.contact,
        bank=issuer.bank,
    )


def _customer(tenant: Tenant) -> Party:
    return Party(
        id=tenant.name,
        legal_name=tenant.legal_name,
        address=tenant.address,
        tax_id=tenant.tax_id,
        purchase_order=tenant.purchase_order,
    )
