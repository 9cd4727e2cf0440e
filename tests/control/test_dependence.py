"""From usage rows to flows."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from upeti.control.dependence import Converter, converted, currencies_of, currency_of, last_day_of, supplier_flows
from upeti.core.errors import ConfigError
from upeti.money.parties import Denominator, Parties, Place
from upeti.money.rates import Rates
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
