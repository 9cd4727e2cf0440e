"""Concentration: shares, index and stress are exact, whatever the names and their order."""

from __future__ import annotations

import datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.money.concentration import (
    HHI_MAX,
    Flow,
    band_of,
    decimal_places,
    judge,
    of_wholes,
    percent_text,
    rank,
    reach_without,
    trend,
    without,
)
from upeti.money.parties import Denominator, bands, clauses
from upeti.money.usage import UsageRow

MONTH_PICO = 322_000_000_000 * 10**12  # a month in rupiah: beyond 64 bits

amounts = st.dictionaries(st.text("abcdefghij", min_size=1, max_size=3), st.integers(0, 2 * MONTH_PICO), min_size=1)
nonzero = amounts.filter(lambda values: sum(values.values()) > 0)


def flow(name: str, value: int, month: str = "2026-10", measure: str = "revenue") -> Flow:
    return Flow(month, {"tenant": name, "parent": name}, {measure: value})


def flows_of(values: dict[str, int]) -> list[Flow]:
    return [flow(name, value) for name, value in values.items()]


@given(nonzero)
def test_shares_sum_to_one_and_the_index_is_within_its_bounds(values: dict[str, int]) -> None:
    made = rank(flows_of(values), "parent", "revenue")
    assert sum(share.share or 0 for share in made.shares) == 1
    assert made.total == sum(values.values())
    assert made.hhi is not None
    assert Fraction(HHI_MAX, len(values)) <= made.hhi <= HHI_MAX
    assert made.hhi == sum((100 * (share.share or 0)) ** 2 for share in made.shares)
    assert made.top[1] <= made.top[3] <= made.top[5] <= made.top[10] <= 1


@given(nonzero, st.randoms(use_true_random=False))
def test_order_changes_nothing(values: dict[str, int], random: object) -> None:
    flows = flows_of(values)
    shuffled = list(flows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert rank(flows, "parent", "revenue") == rank(shuffled, "parent", "revenue")


@given(nonzero.filter(lambda values: len(values) > 1), st.data())
def test_one_parent_for_two_never_lowers_the_index(values: dict[str, int], data: st.DataObject) -> None:
    one, other = data.draw(st.lists(st.sampled_from(sorted(values)), min_size=2, max_size=2, unique=True))
    apart = rank(flows_of(values), "parent", "revenue").hhi
    merged = [
        Flow(each.month, {"parent": one if each.names["parent"] == other else each.names["parent"]}, each.values)
        for each in flows_of(values)
    ]
    together = rank(merged, "parent", "revenue").hhi
    assert together is not None
    assert apart is not None
    assert together >= apart


@given(nonzero, st.integers(2, 5))
def test_a_month_split_in_parts_is_the_same_month(values: dict[str, int], parts: int) -> None:
    split = [flow(name, value // parts) for name, value in values.items() for _ in range(parts)]
    split += [flow(name, value % parts) for name, value in values.items()]
    assert rank(split, "parent", "revenue") == rank(flows_of(values), "parent", "revenue")


def test_figures_by_hand() -> None:
    made = rank(flows_of({"a": 30, "b": 30, "c": 20, "d": 20}), "parent", "revenue")
    assert made.hhi == 2600  # the example on the Antitrust Division's page
    assert made.top == {1: Fraction(3, 10), 3: Fraction(8, 10), 5: 1, 10: 1}
    assert [share.name for share in made.shares] == ["a", "b", "c", "d"]


def test_a_loss_has_no_shares_and_an_unknown_is_named() -> None:
    made = rank([flow("a", 5, measure="margin"), flow("b", -1, measure="margin")], "parent", "margin")
    assert made.hhi is None
    assert [share.share for share in made.shares] == [None, None]
    assert made.total == 4
    made = rank([flow("a", 5), flow("b", 1, measure="calls")], "parent", "revenue")
    assert made.unknown == ("b",)
    assert [share.name for share in made.shares] == ["a"]


@pytest.mark.parametrize(
    ("hhi", "name"),
    [
        (Fraction(0), "unconcentrated"),
        (Fraction(99_999, 100), "unconcentrated"),
        (Fraction(1000), "moderately concentrated"),
        (Fraction(1800), "moderately concentrated"),
        (Fraction(18_001, 10), "highly concentrated"),
        (Fraction(10_000), "highly concentrated"),
    ],
)
def test_bands(hhi: Fraction, name: str) -> None:
    band = band_of(hhi, bands())
    assert band is not None
    assert band.name == name


def whole(name: str, scope: str, amount: int, month: str = "2026-10") -> Denominator:
    return Denominator(name, scope, month, "IDR", amount, "test")  # type: ignore[arg-type]


def test_a_quarter_of_the_line_is_a_thousandth_of_the_company_and_no_rule_asks() -> None:
    made = rank(flows_of({"app": MONTH_PICO, "rest": 3 * MONTH_PICO}), "parent", "revenue")
    wholes = [whole("cloud", "segment", 8 * MONTH_PICO), whole("group", "company", 1000 * MONTH_PICO)]
    shares = {(one.name, one.denominator): one for one in of_wholes(made, ["2026-10"], wholes)}
    assert shares["app", "line"].share == Fraction(1, 4)
    assert shares["app", "cloud"].share == Fraction(1, 8)
    assert shares["app", "group"].share == Fraction(1, 1000)
    assert [shares["app", name].large for name in ("line", "cloud", "group")] == [True, True, False]
    findings = {(one.clause.id, one.name): one for one in judge(clauses("customers"), list(shares.values()))}
    assert findings["IFRS 8.34", "app"].asks is False
    assert findings["ASC 280-10-50-42", "app"].share == Fraction(1, 1000)


def test_at_ten_percent_of_the_company_the_clauses_ask() -> None:
    made = rank(flows_of({"app": 10, "rest": 20}), "parent", "revenue")
    for company, asks in ((100, True), (101, False)):
        shares = of_wholes(made, ["2026-10"], [whole("group", "company", company)])
        found = {one.name: one.asks for one in judge(clauses("customers"), shares) if one.clause.id == "IFRS 8.34"}
        assert found["app"] is asks
    findings = judge(clauses("customers"), of_wholes(made, ["2026-10"], []))
    assert {one.asks for one in findings} == {None}  # the company's revenue was not given


def test_a_whole_without_every_month_has_no_share() -> None:
    flows = [flow("app", 5, "2026-09"), flow("app", 5, "2026-10")]
    made = rank(flows, "parent", "revenue")
    (line, group) = of_wholes(made, ["2026-09", "2026-10"], [whole("group", "company", 100)])
    assert line.share == 1
    assert (group.share, group.missing) == (None, ("2026-09",))


def test_the_trend_is_by_month() -> None:
    flows = [flow("a", 1, "2026-10"), flow("a", 1, "2026-09"), flow("b", 3, "2026-10")]
    made = trend(flows, "parent", "revenue")
    assert list(made) == ["2026-09", "2026-10"]
    assert [one.largest.name for one in made.values() if one.largest] == ["a", "b"]


def test_what_is_left_when_one_leaves() -> None:
    flows = [
        Flow("2026-10", {"parent": "a"}, {"revenue": 70, "margin": 7}),
        Flow("2026-10", {"parent": "b"}, {"revenue": 30}),
    ]
    revenue, margin = without(flows, "parent", "a", ["revenue", "margin", "tokens"])
    assert (revenue.before, revenue.after) == (100, 30)
    assert (margin.before, margin.after) == (7, 0)
    _, margin = without(flows, "parent", "b", ["revenue", "margin"])
    assert margin.after is None  # not known, so not zero


def test_calls_that_nobody_else_could_take() -> None:
    def row(route: str, channel: str, attempts: int, outcome: str = "posted") -> UsageRow:
        return UsageRow(
            day=datetime.date(2026, 10, 1),
            tenant="t",
            route=route,
            channel=channel,
            model="m",
            outcome=outcome,
            currency="USD",
            attempts=attempts,
        )

    rows = [
        row("alone", "x1", 5),
        row("both", "x1", 3),
        row("both", "y", 100),
        row("gone", "x2", 2),
        row("two-of-one", "x2", 4),
        row("alone", "x1", 50, "voided"),
    ]
    routes = {"alone": ["x1"], "both": ["x1", "y"], "two-of-one": ["x1", "x2"]}
    found = reach_without(rows, {"x1": "X", "x2": "X", "y": "Y"}, "X", routes)
    assert [(one.route, one.calls, one.alone) for one in found] == [
        ("alone", 5, True),
        ("two-of-one", 4, True),
        ("both", 3, False),
        ("gone", 2, None),
    ]
    found = reach_without(rows, {"x1": "X", "x2": "X", "y": "Y"}, "X", {"*": ["x2", "y"]})
    assert {one.alone for one in found} == {False}


def test_percentages_are_rounded_to_be_shown() -> None:
    assert percent_text(Fraction(1, 3)) == "33.33 %"
    assert percent_text(Fraction(1, 800)) == "0.12 %"  # half to even
    assert percent_text(None) == "?"
    assert decimal_places(Fraction(-5, 4), 1) == "-1.2"
    assert decimal_places(Fraction(12_345), 0) == "12,345"
