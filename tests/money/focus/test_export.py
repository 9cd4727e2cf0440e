"""Usage as FOCUS rows: every pico is in them, and what they say of it is what FOCUS means."""

from __future__ import annotations

import datetime
import json
import re
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from support.focus_rows import PRICE, every_sort, exported, row
from upeti.core.amount import decimal_text
from upeti.money.focus.checker import check
from upeti.money.focus.columns import COST_AND_USAGE, Dataset
from upeti.money.focus.export import sum_pico
from upeti.money.price import cell_of


def test_every_sort_of_usage_keeps_to_focus() -> None:
    rows = exported()
    verdict = check(Dataset.COST_AND_USAGE, [column.name for column in COST_AND_USAGE], rows)
    assert verdict.rows == len(rows) == 12
    assert verdict.findings == []


def test_billed_cost_sums_to_the_last_pico() -> None:
    sums = sum_pico(exported())
    assert sums == {
        currency: sum(one.cost_pico for one in every_sort() if one.currency == currency) for currency in ("USD", "IDR")
    }
    assert sums["IDR"] == 322 * 10**21 + 1


_METERS = st.dictionaries(st.sampled_from(["input", "output", "audio_seconds"]), st.integers(-(10**15), 10**15))


@given(
    st.lists(
        st.tuples(
            _METERS,
            st.integers(-(10**24), 10**24),
            st.sampled_from(["posted", "estimated", "corrected"]),
            st.integers(0, 1),
            st.integers(0, 10**9),
        ),
        max_size=6,
    )
)
def test_any_usage_sums_to_the_last_pico(
    drawn: list[tuple[dict[str, int], int, str, int, int]],
) -> None:
    usage = [
        row(meters=meters, cost_pico=cost, outcome=outcome, cliff=cliff, attempts=attempts)
        for meters, cost, outcome, cliff, attempts in drawn
    ]
    rows = exported(usage)
    assert sum_pico(rows).get("USD", 0) == sum(one.cost_pico for one in usage)
    for one in rows:
        for name in ("BilledCost", "PricingQuantity", "ListUnitPrice"):
            assert one[name] is None or re.fullmatch(r"-?\d+(\.\d+)?", one[name])
        if one["ListUnitPrice"] is not None and one["PricingQuantity"] is not None:
            assert Decimal(one["ListUnitPrice"]) * Decimal(one["PricingQuantity"]) == Decimal(one["BilledCost"] or "")


def test_a_metered_charge_says_price_and_quantity_as_the_list_does() -> None:
    first = exported([row()])[0]
    assert first["x_Meter"] == "input"
    assert (first["ChargeCategory"], first["ChargeClass"]) == ("Usage", None)
    assert (first["ConsumedQuantity"], first["ConsumedUnit"]) == ("1000001", "Tokens")
    assert (first["PricingQuantity"], first["PricingUnit"]) == ("1.000001", "1000000 Tokens")
    assert first["ListUnitPrice"] == first["ContractedUnitPrice"] == "0.4"
    assert first["BilledCost"] == first["EffectiveCost"] == first["ListCost"] == "0.4000004"
    assert (first["ChargePeriodStart"], first["ChargePeriodEnd"]) == ("2026-11-03T00:00:00Z", "2026-11-04T00:00:00Z")
    assert (first["BillingPeriodStart"], first["BillingPeriodEnd"]) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    assert (first["BillingAccountId"], first["SubAccountId"]) == ("openai", "acme")
    assert first["SkuPriceId"] == "openai/gpt-4.1-mini/input/standard/0"
    assert json.loads(first["Tags"] or "") == {"tenant": "acme", "project": "shop", "key": "k1", "feature": "search"}
    assert (first["x_PriceId"], first["x_Estimated"], first["x_Node"]) == ("p1", "false", "n1")


def test_the_fixed_part_of_a_price_is_counted_in_requests() -> None:
    calls = exported([row()])[-1]
    assert (calls["x_Meter"], calls["ConsumedQuantity"], calls["PricingUnit"]) == ("per_call", "2", "Requests")
    assert calls["BilledCost"] == decimal_text(2 * 123)


def test_past_a_cliff_the_sku_price_is_another_of_the_same_sku() -> None:
    below = exported([row()])[0]
    above = exported([row(cliff=1, meters={"input": 300_000}, attempts=0, cost_pico=300_000 * 800_000)])[0]
    assert below["SkuId"] == above["SkuId"]
    assert below["SkuPriceId"] != above["SkuPriceId"]
    assert json.loads(above["SkuPriceDetails"] or "")["x_AboveInputTokens"] == 200_000
    assert above["ListUnitPrice"] == decimal_text((cell_of(PRICE, "input", 1) or 0) * 10**6)


def test_an_estimate_is_an_adjustment_that_says_so() -> None:
    (one,) = exported([row(outcome="estimated", meters={}, attempts=1, unmetered=1, cost_pico=5)])
    assert (one["ChargeCategory"], one["x_Estimated"], one["BilledCost"]) == ("Adjustment", "true", "0.000000000005")
    assert one["SkuPriceId"] is one["PricingQuantity"] is one["ConsumedQuantity"] is None
    assert "bound" in (one["ChargeDescription"] or "")


def test_unknown_cost_is_no_row() -> None:
    assert exported([row(outcome="unpriced", price_id="", cost_pico=0)]) == []


def test_a_correction_to_a_closed_month_is_billed_in_the_first_open_one() -> None:
    october = row(
        day=datetime.date(2026, 10, 31), outcome="corrected", attempts=0, meters={"input": -7}, cost_pico=-2_800_000
    )
    (still_open,) = exported([october], closed=("2026-09",))
    assert (still_open["ChargeClass"], still_open["BillingPeriodStart"]) == (None, "2026-10-01T00:00:00Z")
    (closed,) = exported([october], closed=("2026-09", "2026-10", "2026-11"))
    assert (closed["ChargeClass"], closed["BillingPeriodStart"]) == ("Correction", "2026-12-01T00:00:00Z")
    assert closed["ChargePeriodStart"] == "2026-10-31T00:00:00Z"
    assert closed["BillingPeriodEnd"] == "2027-01-01T00:00:00Z"
    assert closed["ConsumedQuantity"] == "-7"
    assert check(Dataset.COST_AND_USAGE, list(closed), [closed]).findings == []


def test_a_day_of_provisioned_throughput_is_a_recurring_purchase() -> None:
    capacity = row(tier="provisioned", price_id="c1", attempts=0, calls=0, meters={}, cost_pico=24 * 10**12, tenant="")
    (one,) = exported([capacity])
    assert (one["ChargeCategory"], one["ChargeFrequency"], one["BilledCost"]) == ("Purchase", "Recurring", "24")
    assert (one["SubAccountId"], one["x_Meter"], one["ConsumedQuantity"]) == (None, "capacity", None)
    assert check(Dataset.COST_AND_USAGE, list(one), [one]).findings == []
