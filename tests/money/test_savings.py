"""Savings: figures by hand, and that they fit what rows cost."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from upeti.money.price import Cliff, Price, cliff_of, cost_of
from upeti.money.savings import HOW, Finding, cost_at, find_savings
from upeti.money.usage import UsageRow

STANDARD = Price("s", "USD", 0, {"input": 100, "input_cached": 10, "input_cache_write": 125, "output": 400})
BATCH = Price("b", "USD", 0, {"input": 50, "input_cached": 5, "input_cache_write": 62, "output": 200}, tier="batch")
PRIORITY = Price("p", "USD", 0, {"input": 200, "input_cached": 20, "output": 800}, tier="priority")
PRICES = {price.id: price for price in (STANDARD, BATCH, PRIORITY)}
TIERS = {price.tier: price for price in PRICES.values()}


def row(meters: dict[str, int], price: Price | None = STANDARD, **changes: object) -> UsageRow:
    cost = (cost_of(price, meters) if price else 0) or 0
    fields = {
        "outcome": "posted",
        "currency": "USD",
        "attempts": 1,
        "price_id": price.id if price else "",
        "tier": price.tier if price else "",
        "cost_pico": cost,
        **changes,
    }
    return UsageRow(day=datetime.date(2026, 10, 1), tenant="t", channel="c", model="m", meters=meters, **fields)  # type: ignore[arg-type]


def found(*rows: UsageRow, tiers: dict[str, Price] | None = None) -> dict[str, Finding]:
    at = TIERS if tiers is None else tiers
    return {one.kind: one for one in find_savings(rows, PRICES.get, lambda _, tier: at.get(tier))}


def test_cached_input() -> None:
    one = found(row({"input": 30, "input_cached": 70}), row({"input": 5}), tiers={})["cached input"]
    assert (one.quantity, one.saved_pico, one.possible_pico) == (70, 70 * 90, 35 * 90)


def test_writing_a_cache_costs() -> None:
    one = found(row({"input_cache_write": 8}), tiers={})["cache writes"]
    assert (one.quantity, one.saved_pico) == (8, -8 * 25)


def test_calls_that_could_wait() -> None:
    one = found(row({"input": 10, "output": 2}))["slower tiers"]
    assert (one.saved_pico, one.possible_pico) == (0, 10 * 50 + 2 * 200)
    one = found(row({"input": 10, "output": 2}, BATCH))["slower tiers"]
    assert (one.saved_pico, one.possible_pico) == (10 * 50 + 2 * 200, 0)
    assert "slower tiers" not in found(row({"input": 10}), tiers={"": STANDARD})


def test_speed_that_was_paid_for() -> None:
    one = found(row({"input": 10, "output": 2}, PRIORITY))["dearer tiers"]
    assert (one.saved_pico, one.possible_pico) == (-(10 * 100 + 2 * 400), 10 * 100 + 2 * 400)


def test_rented_hours_against_what_they_served() -> None:
    hours = row({}, None, tier="provisioned", attempts=0, cost_pico=5000)
    served = row({"input": 20, "output": 5}, None, tier="provisioned", cost_pico=0)
    one = found(hours, served)["capacity"]
    assert one.saved_pico == 20 * 100 + 5 * 400 - 5000


def test_bounds_are_told_apart() -> None:
    one = found(row({}, None, outcome="estimated", attempts=3, unmetered=3, cost_pico=900))["bounds"]
    assert (one.quantity, one.possible_pico) == (3, 900)


def test_nothing_is_said_without_a_price() -> None:
    assert not found(row({"input": 5}, None, outcome="unpriced"), row({}, None, outcome="voided"))
    assert not found(row({"input": 5}, None))


def test_currencies_are_never_compared() -> None:
    other = Price("e", "EUR", 0, {"input": 1}, tier="batch")
    assert "slower tiers" not in found(row({"input": 5}), tiers={"batch": other})


meters = st.dictionaries(
    st.sampled_from(["input", "input_cached", "output", "output_reasoning"]), st.integers(0, 10**14)
)


@given(meters)
def test_meters_cost_at_their_tier_what_the_gateway_charged(counts: dict[str, int]) -> None:
    price = Price("x", "USD", 0, STANDARD.pico, (Cliff(1000, {"input": 7, "input_cached": 3, "output": 9}),))
    assert cost_at(price, counts, cliff_of(price, counts)) == cost_of(price, counts)
    one = found(row(counts), tiers={})
    if "cached input" in one:
        dearest = counts.get("input", 0) + counts.get("input_cached", 0)
        assert one["cached input"].saved_pico + one["cached input"].possible_pico == dearest * 90


def test_every_kind_says_how() -> None:
    assert set(HOW) == {"cached input", "cache writes", "slower tiers", "dearer tiers", "capacity", "bounds"}
