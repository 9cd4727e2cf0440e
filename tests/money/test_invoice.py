"""An invoice adds up in the last digit, in every currency, whatever the prices, rates and tax."""

from __future__ import annotations

import datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.invoice_side import DEAR, EXAMPLES, PERIOD, PRICE, row
from upeti.core.errors import ConfigError
from upeti.money import invoice
from upeti.money.invoice import Document, Frame, draw_up, entries_of, exact_text, frame_of
from upeti.money.price import Price
from upeti.money.rates import Conversion, Rate, Rates
from upeti.money.sale import Entries, Entry, LineKey, LineKind, difference
from upeti.money.tax import Tax
from upeti.money.tenant import Commitment, Issuer, Margin, Tenant, Tenants
from upeti.money.usage import UsageRow

DAY = datetime.date(2026, 10, 31)
ISSUER = Issuer(name="i", effective=DAY, legal_name="I", address=("a",), series="UPT")
CURRENCIES = {"USD": 2, "IDR": 2, "JPY": 0, "KWD": 3, "EUR": 2}
currencies = st.sampled_from(sorted(CURRENCIES))
rates = st.decimals("0.0001", "30000", places=6).filter(bool)
# From a pico to 400 billion units, with parts of a pico as margins make them.
amounts = st.builds(Fraction, st.integers(-(4 * 10**23), 4 * 10**23), st.sampled_from([1, 10, 3, 10**6]))


def tax_of(rate: str, base: str) -> Tax:
    return Tax(
        name="t",
        effective=DAY,
        rate=rate,
        base=base,
        label_en="T",
        label_id="T",
        reference="r",
        source="s",
        source_date=DAY,
    )


taxes = st.none() | st.builds(
    tax_of, st.sampled_from(["11", "12", "7.25", "0.5", "20"]), st.sampled_from(["1", "11/12", "2/3", "9/10"])
)


def rate_of(currency: str, rate: Decimal) -> Rate:
    return Rate("EUR", currency, rate, DAY, "test", "0" * 64)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    billing, payment = draw(currencies), draw(currencies)
    known = {code: rate_of(code, draw(rates)) for code in CURRENCIES if code != "EUR"}

    def conversion(source: str, target: str) -> Conversion:
        return Conversion(source, target, tuple(known[code] for code in (source, target) if code != "EUR"))

    tenant = Tenant(
        name="t",
        effective=DAY,
        issuer="i",
        legal_name="T",
        address=("a",),
        billing_currency=billing,
        payment_currency=payment,
        billing_decimals=draw(st.none() | st.integers(0, CURRENCIES[billing])),
        payment_decimals=draw(st.none() | st.integers(0, CURRENCIES[payment])),
        tax="t",
    )
    pairs = [(code, billing) for code in sorted(CURRENCIES)] + [(billing, payment)]
    return Frame(
        period=PERIOD,
        tenant=tenant,
        issuer=ISSUER,
        tax=draw(taxes),
        conversions=tuple(conversion(*pair) for pair in dict.fromkeys(pairs) if pair[0] != pair[1]),
    )


@st.composite
def entries(draw: st.DrawFn) -> Entries:
    made: Entries = {}
    for number, (amount, currency) in enumerate(draw(st.lists(st.tuples(amounts, currencies), max_size=12))):
        # Amounts of lines are decimals with an end, as those of prices and margins are.
        pico = Fraction(round(amount * 10**6), 10**6)
        key = LineKey(LineKind.USAGE, f"f{number % 3}", f"m{number}", "input", None, currency)
        made[key] = Entry(number + 1, pico)
    return made


def quantum(decimals: int) -> Decimal:
    return Decimal(1).scaleb(-decimals)


def check(document: Document) -> None:
    """Everything that is printed follows from what is printed above it; an auditor that shares no code."""
    totals = document.totals
    with localcontext() as context:
        context.prec = 80
        for side in ("billing", "payment"):
            decimals = document.billing_decimals if side == "billing" else document.payment_decimals

            def value(money: invoice.Money, side: str = side) -> Decimal:
                return Decimal(getattr(money, side))

            lines = [value(line.amount) for line in document.lines]
            assert sum(lines) == value(totals.net)
            committed = sum(value(line.amount) for line in document.lines if line.kind in invoice.NO_USAGE)
            assert sum(value(one.amount) for one in document.features) + committed == value(totals.net)
            assert sum(value(one.amount) for one in document.pricing) == value(totals.net)
            assert value(totals.net) + value(totals.tax) == value(totals.total)
            assert value(totals.total) + value(totals.credit) == value(totals.due)
            for one in (*lines, value(totals.tax), value(totals.due)):
                assert one == one.quantize(quantum(decimals))
        for part in document.pricing:
            own = [Decimal(line.priced) for line in document.lines if line.pricing_currency == part.name]
            assert sum(own) == Decimal(part.priced[part.name])
        if document.tax is not None:
            unit = quantum(document.billing_decimals)
            base = Decimal(document.tax.base.billing)
            share = Fraction(document.tax.base_share)
            exact = Decimal(totals.net.billing) * share.numerator / share.denominator
            assert abs(base - exact) <= unit / 2
            assert Decimal(totals.tax.billing) == (base * Decimal(document.tax.rate) / 100).quantize(
                unit, ROUND_HALF_EVEN
            )


@given(frame=frames(), lines=entries(), credit=st.integers(0, 10**24))
def test_lines_sum_to_the_total_in_every_currency(frame: Frame, lines: Entries, credit: int) -> None:
    unit = 10 ** (12 - frame.tenant.bills_to_decimals)
    document = draw_up(frame, lines, [], "", credit // unit * unit)
    check(document)
    tenant = frame.tenant
    for key, line in zip(sorted((k for k, e in lines.items()), key=lambda key: key.order), document.lines, strict=True):
        exact = lines[key].pico * frame.conversion(key.currency, tenant.billing_currency).factor / 10**12
        # Rounded once: less than one unit away.
        assert abs(Fraction(line.amount.billing) - exact) < Fraction(quantum(tenant.bills_to_decimals))
    factor = frame.conversion(tenant.billing_currency, tenant.pays_in).factor
    due = Fraction(document.totals.due.billing) * factor
    assert abs(Fraction(document.totals.due.payment) - due) <= Fraction(quantum(tenant.pays_to_decimals)) / 2
    used, total = -Fraction(document.totals.credit.billing), Fraction(document.totals.total.billing)
    assert used == max(0, min(total, Fraction(credit // unit * unit, 10**12)))


@given(frame=frames(), lines=entries())
def test_a_document_says_exactly_what_it_sold_and_is_read_as_it_was_written(frame: Frame, lines: Entries) -> None:
    document = draw_up(frame, lines, [], "")
    text = invoice.encode(document)
    assert invoice.encode(invoice.decode(text)) == text
    assert difference(lines, invoice.entries_of_document(invoice.decode(text))) == {}


@given(frame=frames(), first=entries(), later=entries())
def test_what_is_taken_back_is_what_was_printed(frame: Frame, first: Entries, later: Entries) -> None:
    document = msgspec.structs.replace(draw_up(frame, first, [], ""), number="UPT-2026-000001")
    correction = draw_up(frame, later, [], "")
    note = invoice.taken_back(document, [correction])
    for side in ("billing", "payment"):
        for name in ("net", "tax", "total"):
            printed = [Decimal(getattr(getattr(one.totals, name), side)) for one in (document, correction, note)]
            with localcontext() as context:
                context.prec = 80
                assert sum(printed) == 0
    assert (note.kind, note.refers_to) == ("credit_note", "UPT-2026-000001")
    rest = difference(invoice.entries_of_document(document), {})
    for one in (correction, note):
        rest = difference(
            rest, {key: Entry(-e.quantity, -e.pico) for key, e in invoice.entries_of_document(one).items()}
        )
    assert rest == {}


def drawn(tenant: str, *usage: UsageRow, text: str = "") -> Document:
    tenants, known = Tenants.load(EXAMPLES / "tenants.toml"), Rates.load(EXAMPLES / "rates.toml")
    prices = {PRICE.id: PRICE, DEAR.id: DEAR}
    lines, unsold = entries_of(tenants, tenant, PERIOD, usage, prices, known)
    return draw_up(frame_of(tenants, tenant, PERIOD, lines, known), lines, unsold, invoice.usage_digest(usage))


def test_four_hundred_billion_rupiah_are_exact() -> None:
    # 23 million dollars of cost, 8 % margin, 16,100 rupiah for one: far beyond what 64 bits of pico hold.
    document = drawn("warung", row("warung", meters={"input": 11_500_000_000_001, "output": 1}))
    check(document)
    assert document.totals.net.billing == "379928202500"  # less 5 % above the commitment of 500 dollars
    assert Decimal(document.lines[0].priced) == Decimal("24840000.00000216")
    assert document.lines[0].amount.billing == "399924000000"
    assert document.totals.tax.billing == "41792102275"


def test_less_than_the_commitment_is_billed_as_a_line() -> None:
    document = drawn("warung", row("warung"))
    assert [line.kind for line in document.lines] == ["usage", "usage", "shortfall"]
    assert document.totals.net.billing == str(500 * 16_100)
    assert sum(Decimal(line.priced) for line in document.lines) == 500


def test_without_usage_the_commitment_is_still_owed() -> None:
    document = drawn("warung")
    assert [(line.kind, line.priced) for line in document.lines] == [("shortfall", "500")]


def test_what_is_above_the_commitment_is_discounted() -> None:
    document = drawn("warung", row("warung", meters={"input": 1_000_000_000, "output": 0}))
    discount = document.lines[-1]
    assert (discount.kind, discount.priced) == ("discount", "-83")  # 5 % of 2160 less 500


def test_an_internal_tenant_is_charged_cost_by_feature_without_tax() -> None:
    document = drawn("feed", row("feed", "rank"), row("feed", "caption"), row("feed", ""))
    assert document.internal
    assert document.tax is None
    assert [one.name for one in document.features] == ["", "caption", "rank"]
    assert {one.priced["USD"] for one in document.features} == {"3.600062"}
    assert document.totals.total.billing == "10.8"
    check(document)


def test_unpriced_usage_is_listed_never_zero() -> None:
    document = drawn("orchard", row("orchard", outcome="unpriced", price_id="", cost_pico=0))
    assert not document.lines
    assert [(one.model, one.attempts) for one in document.unbilled] == [("gpt-4.1", 10)]


def test_the_rate_is_pinned_with_source_and_set() -> None:
    (pinned,) = drawn("orchard", row("orchard")).conversions
    (rate,) = pinned.rates
    assert (pinned.source, pinned.target, rate.rate, rate.date) == (
        "USD",
        "JPY",
        Decimal("151.25"),
        datetime.date(2026, 1, 1),
    )
    assert rate.set_sha256 == Rates.load(EXAMPLES / "rates.toml").sha256


def test_usage_has_one_digest_whatever_its_order() -> None:
    one, two = row("feed"), row("feed", "other")
    assert invoice.usage_digest([one, two]) == invoice.usage_digest([two, one]) != invoice.usage_digest([one])


@pytest.mark.parametrize(
    ("period", "days"),
    [
        ("2026-10", ("2026-10-01", "2026-10-31")),
        ("2028-02", ("2028-02-01", "2028-02-29")),
        ("2026-12", ("2026-12-01", "2026-12-31")),
    ],
)
def test_days_of_a_month(period: str, days: tuple[str, str]) -> None:
    assert tuple(day.isoformat() for day in invoice.days_of(period)) == days


@pytest.mark.parametrize("period", ["2026-13", "2026-1", "2026", "october", ""])
def test_what_is_no_month(period: str) -> None:
    with pytest.raises(ValueError):
        invoice.days_of(period)


def test_exact_text_ends_or_is_refused() -> None:
    assert exact_text(Fraction(-27, 20)) == "-0.00000000000135"
    assert exact_text(Fraction(0)) == "0"
    with pytest.raises(ValueError, match="no end"):
        exact_text(Fraction(1, 3))


def test_a_missing_rate_is_an_error() -> None:
    tenants, known = Tenants.load(EXAMPLES / "tenants.toml"), Rates("USD", (), "rates.toml", "")
    lines, _ = entries_of(tenants, "orchard", PERIOD, [row("orchard")], {DEAR.id: DEAR}, known)
    with pytest.raises(ConfigError, match="no rate for JPY"):
        frame_of(tenants, "orchard", PERIOD, lines, known)


@st.composite
def months(draw: st.DrawFn) -> tuple[list[UsageRow], dict[str, Price], str, str, str]:
    """Draw usage at random prices, a margin, a rate and a tenant's commitment."""
    meters = ("input", "input_cached", "output", "output_audio")
    prices = {}
    for number in range(draw(st.integers(1, 3))):
        cells = {meter: draw(st.integers(0, 10**8)) for meter in meters}
        per_call = draw(st.sampled_from([0, 5 * 10**9, 123_456_789_012]))
        currency = draw(st.sampled_from(["USD", "EUR"]))
        prices[f"p{number}"] = Price(
            id=f"p{number}", currency=currency, effective_ns=0, pico=cells, per_call_pico=per_call
        )
    usage = []
    for number in range(draw(st.integers(0, 6))):
        price = draw(st.sampled_from(sorted(prices)))
        outcome = draw(st.sampled_from(["posted", "estimated", "corrected", "unpriced", "voided"]))
        quantities = {meter: draw(st.integers(0, 10**13)) for meter in draw(st.sets(st.sampled_from(meters)))}
        usage.append(
            UsageRow(
                day=datetime.date(2026, 10, draw(st.integers(1, 31))),
                tenant="t",
                feature=f"f{number % 2}",
                model=price,
                channel="c",
                price_id=price,
                outcome=outcome,
                currency=prices[price].currency,
                attempts=draw(st.integers(0, 1000)) if outcome != "corrected" else 0,
                meters=quantities,
                cost_pico=draw(st.integers(-(10**24), 10**24)) if outcome != "unpriced" else 0,
            )
        )
    margin = draw(st.decimals("-100", "400", places=4))
    rate = draw(st.decimals("0.000001", "30000", places=6))
    return usage, prices, f"{margin:f}", f"{rate:f}", str(draw(st.integers(0, 10**9)))


@given(month=months(), billing=currencies, payment=currencies)
def test_from_usage_to_the_total_nothing_is_lost(
    month: tuple[list[UsageRow], dict[str, Price], str, str, str], billing: str, payment: str
) -> None:
    usage, prices, margin, rate, minimum = month
    tenant = Tenant(
        name="t",
        effective=datetime.date(2026, 1, 1),
        issuer="i",
        legal_name="T",
        address=("a",),
        billing_currency=billing,
        payment_currency=payment,
        tax="id-ppn",
    )
    began = {"tenant": "t", "effective": datetime.date(2026, 1, 1)}
    rows = {
        "issuer": [msgspec.structs.replace(ISSUER, effective=datetime.date(2026, 1, 1))],
        "tenant": [tenant],
        "margin": [Margin(**began, percent=margin)],
        "commitment": [Commitment(**began, currency="USD", minimum=minimum, discount_above="3.5")],
    }
    known = Rates("EUR", tuple(rate_of(code, Decimal(rate)) for code in CURRENCIES if code != "EUR"), "", "")
    tenants = Tenants(rows, "tenants.toml")
    lines, unsold = entries_of(tenants, "t", PERIOD, usage, prices, known)
    document = draw_up(frame_of(tenants, "t", PERIOD, lines, known), lines, unsold, "")
    check(document)
    factor = 1 + Fraction(margin) / 100
    for currency in ("USD", "EUR"):
        billed = [row for row in usage if row.currency == currency and row.outcome not in ("voided", "unpriced")]
        sold = [
            entry.pico for key, entry in lines.items() if key.currency == currency and key.kind not in invoice.NO_USAGE
        ]
        assert sum(sold) == sum(row.cost_pico for row in billed) * factor
    assert sum(one.attempts for one in unsold) == sum(row.attempts for row in usage if row.outcome == "unpriced")
