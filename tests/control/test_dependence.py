"""From usage rows to flows."""

from __future__ import annotations

import datetime
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest

from upeti.control.dependence import (
    Converter,
    converted,
    currencies_of,
    currency_of,
    customer_flows,
    last_day_of,
    supplier_flows,
)
from upeti.core.errors import ConfigError
from upeti.money.parties import Denominator, Parties, Place
from upeti.money.price import Price
from upeti.money.rates import Rates
from upeti.money.tenant import Tenants
from upeti.money.usage import UsageRow

RATES = """
base = "USD"
[[rate]]
currency = "IDR"
rate = "16000"
date = 2026-01-01
source = "test"
[[rate]]
currency = "IDR"
rate = "17000"
date = 2026-10-15
source = "test, later"
[[rate]]
currency = "EUR"
rate = "0.8"
date = 2026-01-01
source = "test"
"""


@pytest.fixture
def rates(tmp_path: Path) -> Rates:
    path = tmp_path / "rates.toml"
    path.write_text(RATES)
    return Rates.load(path)


def row(channel: str = "x", cost: int = 0, day: str = "2026-10-03", **values: object) -> UsageRow:
    fields = {
        "outcome": "posted",
        "currency": "USD",
        "attempts": 1,
        "meters": {"input": 3, "audio_seconds": 9},
        **values,
    }
    return UsageRow(
        day=datetime.date.fromisoformat(day),
        tenant="t",
        channel=channel,
        model="m",
        cost_pico=cost,
        **fields,  # type: ignore[arg-type]
    )


def test_flows_are_sums_by_channel_and_month(rates: Rates) -> None:
    rows = [
        row("az", 5),
        row("az", 7, "2026-10-31", outcome="estimated", attempts=2),
        row("az", 1, "2026-09-30"),
        row("az", 0, outcome="voided", attempts=100),
        row("other", 0, outcome="unpriced", attempts=4),
    ]
    made = supplier_flows(rows, {"az": Place("az", "azure", "h")}, Parties.load(), Converter("USD", rates))
    assert [(flow.month, flow.names["channel"], flow.values) for flow in made.flows] == [
        ("2026-09", "az", {"spend": 1, "calls": 1, "tokens": 3}),
        ("2026-10", "az", {"spend": 12, "calls": 3, "tokens": 6}),
        ("2026-10", "other", {"spend": 0, "calls": 4, "tokens": 3}),
    ]
    assert made.flows[0].names["parent"] == "Microsoft Corporation"
    assert made.flows[2].names["parent"] == "other"
    assert (made.unpriced, made.estimated_pico) == (4, 7)
    assert not made.rates


def test_currencies_are_added_only_after_a_conversion_that_names_its_rate(rates: Rates) -> None:
    rows = [
        row("x", 10**12),
        row("x", 8 * 10**11, "2026-09-01", currency="EUR"),
        row("x", 1, outcome="unpriced", currency="CHF"),
    ]
    assert currencies_of(rows) == ["EUR", "USD"]
    with pytest.raises(ConfigError, match="amounts are in EUR, USD; choose one with --currency"):
        currency_of(currencies_of(rows), None)
    converter = Converter("IDR", rates)
    made = supplier_flows(rows, {}, Parties.load(), converter)
    assert [flow.values["spend"] for flow in made.flows] == [16000 * 10**12, 17000 * 10**12]
    assert {(rate.currency, str(rate.rate)) for rate in made.rates} == {
        ("IDR", "16000"),
        ("IDR", "17000"),
        ("EUR", "0.8"),
    }


def test_wholes_in_the_currency_of_the_report(rates: Rates) -> None:
    whole = Denominator("group", "company", "2026-10", "USD", 5 * 10**24, "test")
    (found,) = converted([whole], Converter("IDR", rates))
    assert (found.currency, found.amount_pico) == ("IDR", 85_000 * 10**24)


def test_the_last_day_of_a_month() -> None:
    assert [str(last_day_of(month)) for month in ("2026-02", "2026-12", "2028-02")] == [
        "2026-02-28",
        "2026-12-31",
        "2028-02-29",
    ]


TENANTS = """
[[issuer]]
name = "me"
from = 2026-01-01
legal_name = "Me Ltd."
address = ["Street 1"]
series = "ME"

[[tenant]]
name = "a"
from = 2026-01-01
issuer = "me"
legal_name = "A Ltd."
address = ["Street 2"]
parent = "Group"
billing_currency = "USD"
tax = "none"

[[tenant]]
name = "b"
from = 2026-01-01
issuer = "me"
legal_name = "B Ltd."
address = ["Street 3"]
parent = "Group"
billing_currency = "IDR"
tax = "none"

[[tenant]]
name = "own"
from = 2026-01-01
issuer = "me"
legal_name = "Own department"
address = ["Street 1"]
billing_currency = "USD"
internal = true

[[margin]]
tenant = "*"
from = 2026-01-01
percent = "12.5"

[[sale_price]]
tenant = "b"
from = 2026-01-01
currency = "IDR"
per_million = { input = "8000000" }

[[commitment]]
tenant = "a"
from = 2026-01-01
currency = "USD"
minimum = "3"
"""


def test_what_customers_pay_and_what_is_left_of_it(rates: Rates, tmp_path: Path) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text(TENANTS)
    rows = [
        sold("a", 8 * 10**12),
        sold("b", 10**12, {"input": 10_000}, price_id="p"),
        sold("b", 2 * 10**12, {}, outcome="estimated", unmetered=1),
        sold("own", 7 * 10**12),
        sold("", 5 * 10**11, {}, tier="provisioned", attempts=0, day="2026-10-02"),
    ]
    converter = Converter("USD", rates)
    price = Price("p", "USD", 0, {"input": 10**8})
    made = customer_flows(rows, Tenants.load(path), {"p": price}.get, rates, converter)
    a, b = made.flows
    assert a.names == {"tenant": "a", "parent": "Group"}
    assert a.values == {"revenue": 9 * 10**12, "margin": 10**12, "committed": 3 * 10**12, "calls": 1, "tokens": 0}
    assert b.values["revenue"] == round(Fraction(80_000 * 10**12, 17_000))  # a bound is not sold by own prices
    assert b.values["margin"] == b.values["revenue"] - 3 * 10**12
    assert "committed" not in b.values
    assert (made.unsold, made.internal, made.fixed_pico) == (["b"], ["own"], 5 * 10**11)
    assert [rate.currency for rate in made.rates] == ["IDR"]


def sold(tenant: str, cost: int, meters: dict[str, int] | None = None, **changes: object) -> UsageRow:
    return msgspec.structs.replace(row("x", cost, **{"meters": meters or {}, **changes}), tenant=tenant)  # type: ignore[arg-type]


def test_a_tenant_without_terms_is_an_error(rates: Rates, tmp_path: Path) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text(TENANTS)
    with pytest.raises(ConfigError, match="stranger"):
        customer_flows([sold("stranger", 1)], Tenants.load(path), lambda _: None, rates, Converter("USD", rates))
