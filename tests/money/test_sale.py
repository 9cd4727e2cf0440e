"""What usage sells for: exactly, by margin and by own prices; what cannot be sold is listed, never zero."""

from __future__ import annotations

import datetime
from fractions import Fraction

from support.invoice_side import DEAR, EXAMPLES, PRICE, row
from upeti.money.sale import Entries, LineKey, LineKind, Unsold, difference, sell
from upeti.money.tenant import SalePrice, Tenants, Terms
from upeti.money.usage import UsageRow

DAY = datetime.date(2026, 10, 31)
PRICES = {PRICE.id: PRICE, DEAR.id: DEAR}


def sold(*rows: UsageRow) -> tuple[Entries, list[Unsold]]:
    terms = Tenants.load(EXAMPLES / "tenants.toml").terms(rows[0].tenant, DAY)
    return sell(rows, PRICES, terms)


def caption(**fields: object) -> UsageRow:
    return row("warung", "caption", "gpt-4.1-mini", price=PRICE, **fields)


def test_a_margin_multiplies_every_meter_exactly() -> None:
    entries, unsold = sold(row("warung"), row("warung"))
    unit = DEAR.pico["input"] * Fraction("1.08")
    key = LineKey(LineKind.USAGE, "search", "gpt-4.1", "input", unit, "USD")
    assert entries[key].quantity == 2 * 1_000_003
    assert entries[key].pico == 2 * 1_000_003 * unit
    assert not unsold


def test_lines_sum_to_cost_times_margin_whatever_the_meters_explain() -> None:
    rows = [
        row("warung"),
        row("warung", outcome="estimated", meters={}, attempts=2, unmetered=2, cost_pico=7_777_777_777),
        row("warung", outcome="corrected", meters={}, attempts=0, cost_pico=-1_000_000_001),
    ]
    entries, _ = sold(*rows)
    assert sum(entry.pico for entry in entries.values()) == sum(one.cost_pico for one in rows) * Fraction("1.08")
    assert [key.kind for key in sorted(entries, key=lambda key: key.order)] == [
        "usage",
        "usage",
        "estimated",
        "correction",
    ]


def test_unpriced_usage_is_listed_and_not_in_any_line() -> None:
    entries, unsold = sold(row("warung", outcome="unpriced", price_id="", cost_pico=0))
    assert not entries
    assert unsold == [Unsold("search", "gpt-4.1", "unpriced", 10, {"input": 1_000_003, "output": 200_007})]


def test_voided_attempts_are_nothing() -> None:
    assert sold(row("warung", outcome="voided", meters={}, cost_pico=0)) == ({}, [])


def test_own_prices_sell_meters_whatever_they_cost() -> None:
    entries, unsold = sold(
        caption(meters={"input": 3, "output": 1}), caption(meters={"input": 4}, outcome="unpriced", price_id="")
    )
    assert {key.meter: (entry.quantity, entry.pico) for key, entry in entries.items()} == {
        "input": (7, 7 * 8_000 * 10**6),
        "output": (1, 32_000 * 10**6),
    }
    assert {key.currency for key in entries} == {"IDR"}
    assert not unsold


def test_own_prices_bill_a_bound_only_when_its_meters_are_known() -> None:
    bound = caption(meters={}, outcome="estimated", attempts=2, unmetered=2, cost_pico=9_999)
    entries, unsold = sold(bound)
    assert not entries
    assert unsold == [Unsold("caption", "gpt-4.1-mini", "bound", 2, {})]
    reported = caption(meters={"input": 10}, outcome="corrected", attempts=0, cost_pico=-5_000)
    entries, _ = sold(bound, reported)
    ((key, entry),) = entries.items()
    assert (key.kind, key.meter, entry.pico) == ("correction", "input", 10 * 8_000 * 10**6)


def test_a_price_for_each_call_counts_what_reported_meters() -> None:
    began = {"tenant": "t", "effective": datetime.date(2026, 1, 1)}
    own = SalePrice(**began, currency="EUR", per_million={"input": "1"}, per_call="0.25")
    terms = Terms("t", False, [], [own])
    entries, unsold = sell([row("t", meters={"input": 4}, attempts=5, unmetered=2)], PRICES, terms)
    assert {key.meter: (entry.quantity, entry.pico) for key, entry in entries.items()} == {
        "input": (4, 4 * 10**6),
        "per_call": (3, 3 * 25 * 10**10),
    }
    assert not unsold


def test_a_correction_of_the_cost_alone_changes_no_own_price() -> None:
    assert sold(caption(meters={}, outcome="corrected", attempts=0, cost_pico=5_000)) == ({}, [])


def test_a_meter_without_a_sale_price_is_listed() -> None:
    audio = UsageRow(
        day=DAY, tenant="warung", feature="caption", model="gpt-4.1-mini", channel="azure", outcome="posted",
        currency="USD", attempts=1, meters={"input": 1, "output_audio": 5}, cost_pico=9,
    )  # fmt: skip
    entries, unsold = sold(audio)
    assert not entries
    assert [(one.reason, one.attempts) for one in unsold] == [("no_sale_price", 1)]


def test_the_difference_is_what_is_missing_and_nothing_between_equals() -> None:
    one, _ = sold(row("warung"))
    two, _ = sold(row("warung"), row("warung", outcome="corrected", meters={}, attempts=0, cost_pico=-5))
    assert difference(one, one) == {}
    ((key, entry),) = difference(two, one).items()
    assert (key.kind, entry.pico) == ("correction", Fraction("-5.4"))
    assert sum(entry.pico for entry in difference({}, one).values()) == -sum(entry.pico for entry in one.values())
