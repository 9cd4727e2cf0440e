"""Each kind of difference, planted with a known amount, is found under its name with that amount."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from money.reconcile.planted import (
    CHEAP,
    DAY,
    NEXT,
    PRICE,
    UNITS,
    billed,
    check,
    estimated,
    line,
    other,
    parts,
    statement,
    usage,
)
from upeti.core.amount import convert_pico
from upeti.money.reconcile.lines import Nature, ReportLine
from upeti.money.reconcile.match import AbortedKey, Channels, OurUsage, TakenBackKey, estimated_name
from upeti.money.reconcile.statement import RULES, Kind
from upeti.money.usage import UsageRow

Planted = tuple[list[ReportLine], list[UsageRow], dict[str, int]]


def test_nothing_differs() -> None:
    row = usage()
    made = statement(billed(row), [row])
    assert made.explained
    assert parts(made) == {}
    assert (
        made.totals["USD"].theirs_pico == made.totals["USD"].ours_pico == 1_000 * UNITS["input"] + 100 * UNITS["output"]
    )


def bypass() -> Planted:
    stranger = line("input", 777, model="gpt-4.1", cost_pico=1_554_000_000)
    return [stranger], [], {"bypass": 1_554_000_000}


def day_boundary() -> Planted:
    today, tomorrow = usage(model="o3"), usage(NEXT, model="o3")
    lines = [*billed(today), *billed(tomorrow)]
    shifted = [
        line("output", 90, model="o3"),
        line("output", 110, NEXT, model="o3"),
        *(one for one in lines if one.meter == "input"),
    ]
    return shifted, [today, tomorrow], {"day boundary": 0}


def price() -> Planted:
    row = usage(model="gpt-5", meters={"input": 1_000})
    return [line("input", 1_000, model="gpt-5", cost_pico=1_000 * 2_700_000)], [row], {"price": 1_000 * 200_000}


def tokens() -> Planted:
    row = usage(model="gpt-5-mini", meters={"input": 1_000, "output": 100})
    lines = [line("input", 1_003, model="gpt-5-mini"), line("output", 100, model="gpt-5-mini")]
    return lines, [row], {"tokens": 3 * UNITS["input"]}


def lost() -> Planted:
    row = usage(model="o1", meters={"input": 1_000, "output": 100})
    guess = estimated(bound_pico=50_000_000_000, model="o1")
    lines = [line("input", 1_200, model="o1"), line("output", 140, model="o1")]
    return lines, [row, guess], {"lost": 200 * UNITS["input"] + 40 * UNITS["output"] - 50_000_000_000}


def aborted() -> Planted:
    guess = estimated(bound_pico=9_000_000_000, model="o4-mini")
    return [line("input", 300, model="o4-mini")], [guess], {"aborted": 300 * UNITS["input"] - 9_000_000_000}


def rounding() -> Planted:
    row = usage(model="gpt-4o-mini", price_id=CHEAP.id, meters={"input": 1_234_567})
    exact = 1_234_567 * 100_000
    shown = (exact + 500_000) // 1_000_000 * 1_000_000  # six decimals
    return [line("input", 1_234_567, model="gpt-4o-mini", cost_pico=shown)], [row], {"rounding": shown - exact}


def capacity() -> Planted:
    return [other(Nature.CAPACITY, "Provisioned Managed Global Unit", 24 * 10**12)], [], {"capacity": 24 * 10**12}


def tax() -> Planted:
    return [other(Nature.TAX, "VAT", 11 * 10**11)], [], {"tax": 11 * 10**11}


def adjustment() -> Planted:
    return [other(Nature.ADJUSTMENT, "credit", -5)], [], {"adjustment": -5}


def unmapped() -> Planted:
    return [other(Nature.UNMAPPED, "web search", 25)], [], {"unmapped": 25}


def unpriced() -> Planted:
    row = usage(model="new", price_id="", outcome="unpriced", meters={"input": 400, "output": 20}, cost_pico=0)
    lines = [line("input", 400, model="new"), line("output", 20, model="new")]
    return lines, [row], {"unpriced": 400 * UNITS["input"] + 20 * UNITS["output"]}


PLANTS = [
    bypass, day_boundary, price, tokens, lost, aborted, rounding, capacity, tax, adjustment, unmapped, unpriced,
]  # fmt: skip
ABORTED = {AbortedKey(DAY, "openai", "o4-mini"): 9_000_000_000}


@pytest.mark.parametrize("plant", PLANTS)
def test_each_kind_alone(plant: Any) -> None:
    lines, rows, expected = plant()
    made = statement(lines, rows, decimals=6 if plant is rounding else 12, aborted=ABORTED)
    assert parts(made) == expected
    assert made.explained, "all of it is named"
    assert all(one.names or not one.theirs_pico for one in made.lines)


def test_all_kinds_together() -> None:
    lines: list[ReportLine] = []
    rows: list[UsageRow] = []
    expected: dict[str, int] = {}
    for plant in PLANTS:
        some_lines, some_rows, named = plant()
        lines += some_lines
        rows += some_rows
        expected |= named
    made = statement(lines, rows, decimals=6, aborted=ABORTED)
    assert parts(made) == dict(sorted(expected.items()))
    assert made.explained
    assert {str(rule.kind) for rule in RULES} == {*expected, "fx"}, "every kind has its plant"
    backwards = statement(reversed(lines), reversed(rows), decimals=6, aborted=ABORTED)
    assert backwards.lines == made.lines, "the order of the two sides is nothing"


def test_all_kinds_of_one_model_on_neighbouring_days() -> None:
    """A price, other tokens, a lost call and a shift over midnight, all in the same meters."""
    today = usage(meters={"input": 1_000, "output": 100})
    tomorrow = usage(NEXT, meters={"input": 1_000, "output": 100})
    lines = [
        line("input", 1_000 + 50, cost_pico=1_050 * 2_600_000),  # 50 of the lost call, all at another price
        line("output", 100 - 10),  # 10 are billed tomorrow
        line("input", 1_000, NEXT),
        line("output", 100 + 10, NEXT),
    ]
    made = statement(lines, [today, tomorrow, estimated(bound_pico=10**9)])
    assert parts(made) == {"day boundary": 0, "lost": 50 * UNITS["input"] - 10**9, "price": 1_050 * 100_000}
    assert made.explained
    shifted = [one for one in made.lines if Kind.DAY_BOUNDARY in one.parts]
    assert [(one.day, one.parts[Kind.DAY_BOUNDARY]) for one in shifted] == [
        (DAY, -10 * UNITS["output"]),
        (NEXT, 10 * UNITS["output"]),
    ]


def test_price_names_both_cells_and_the_row() -> None:
    lines, rows, _ = price()
    made = statement(lines, rows)
    assert made.lines[0].why == [f"input: billed 2.7 USD per million, ours 2.5 (price {PRICE.id})"]


def test_bypass_says_why() -> None:
    named = line("input", 5, accounts=("proj_unknown",))
    made = statement([named], [usage()], channels=Channels(accounts={"proj_ours": "openai"}))
    (found,) = [one for one in made.lines if Kind.BYPASS in one.parts]
    assert found.why == ["account proj_unknown belongs to no channel"]
    made = statement(billed(usage()), [usage(NEXT)])
    assert {why for one in made.lines for why in one.why if "went through" in why} == set(), "it is a day boundary"
    later = DAY + datetime.timedelta(days=5)
    made = statement([*billed(usage()), *billed(usage(later))], [usage()])
    assert {why for one in made.lines for why in one.why} == {"no call of gpt-4o went through openai on this day"}


def test_without_quantities_only_what_is_sure_is_named() -> None:
    """A cost that differs, and no quantity: it is a price or tokens, and nobody can say which."""
    row = usage(meters={"input": 1_000})
    made = statement([line("input", 0, quantity=None, cost_pico=2_600_000_000)], [row])
    assert parts(made) == {}
    assert made.totals["USD"].unexplained_pico == 100_000_000
    assert not made.explained


def test_a_bill_above_the_bound_is_not_all_the_lost_calls() -> None:
    made = statement([line("input", 1_000)], [estimated(bound_pico=10**9)])
    assert parts(made) == {"tokens": 1_000 * UNITS["input"] - 10**9}


def test_a_lost_call_that_was_recovered_the_next_day() -> None:
    """The keeper settles it after midnight; the provider bills it on its own day."""
    made = statement([line("input", 100), *billed(usage(NEXT))], [usage(NEXT), estimated(NEXT, bound_pico=10**9)])
    assert parts(made) == {"lost": 100 * UNITS["input"] - 10**9}
    assert made.explained
    assert [(one.day, one.pico, one.meters) for one in made.billed] == [(NEXT, 100 * UNITS["input"], {"input": 100})]


def test_aborted_and_lost_share_by_their_bounds() -> None:
    rows = [estimated(bound_pico=3_000), estimated(bound_pico=1_000, feature="chat")]
    made = statement(
        [line("input", 0, cost_pico=400, quantity=None)], rows, aborted={AbortedKey(DAY, "openai", "gpt-4o"): 1_000}
    )
    assert parts(made) == {"aborted": 100 - 1_000, "lost": 300 - 3_000}


CORRECTION = {"outcome": "corrected", "price_id": "", "attempts": 0, "calls": 0, "meters": {"input": 100}}


def test_what_was_corrected_is_not_corrected_again() -> None:
    """Usage has the estimate taken back, and what is owed instead in its place."""
    rows = [estimated(bound_pico=0), usage(**CORRECTION, cost_pico=250_000_000)]
    key = TakenBackKey(DAY, estimated_name(rows[0], ""))
    made = statement([line("input", 100)], rows, taken_back={key: 10**9})
    assert parts(made) == {}
    assert [(one.meter, one.ours_pico) for one in made.lines] == [("input", 250_000_000), ("estimated", 0)]
    (found,) = made.billed
    assert (found.pico, found.rows[0].now_pico, found.rows[0].bound_pico) == (250_000_000, 250_000_000, 10**9)
    again = [estimated(bound_pico=10**9), estimated(bound_pico=-(10**9)), rows[1]]
    assert statement([line("input", 100)], again, taken_back={key: 10**9}).lines == made.lines, "posted or not yet"
    aborted = {AbortedKey(DAY, "openai", "gpt-4o"): 10**9}
    later = statement([line("input", 90)], again, taken_back={key: 10**9}, aborted=aborted)
    assert parts(later) == {"aborted": -10 * UNITS["input"]}
    elsewhere = statement([line("input", 90)], rows)
    assert parts(elsewhere) == {"lost": -10 * UNITS["input"]}, "the correction's journal is on another node"


def test_events_have_the_estimate_and_the_difference() -> None:
    rows = [estimated(bound_pico=10**9), usage(**CORRECTION, cost_pico=250_000_000 - 10**9)]
    made = statement([line("input", 100)], rows)
    assert parts(made) == {}
    assert made.billed[0].rows[0].bound_pico == 10**9


REPRICED = {"outcome": "corrected", "meters": {}, "attempts": 0, "calls": 0}


def test_what_was_repriced_to_what_is_billed_does_not_differ() -> None:
    rows = [usage(meters={"input": 1_000}), usage(**REPRICED, price_id=CHEAP.id, cost_pico=-2_400_000_000)]
    made = statement([line("input", 1_000, cost_pico=100_000_000)], rows)
    assert parts(made) == {}
    assert [(one.meter, one.ours_pico) for one in made.lines] == [("input", 100_000_000), ("repriced", 0)]


def test_what_had_no_price_and_was_repriced_does_not_differ() -> None:
    row = usage(model="new", price_id="", outcome="unpriced", meters={"input": 400}, cost_pico=0)
    made = statement([line("input", 400, model="new")], [row, usage(**REPRICED, model="new", cost_pico=10**9)])
    assert parts(made) == {}
    assert made.explained


def test_repricing_to_another_price_leaves_a_price_difference() -> None:
    """From several rows of the book at once, which names no single price."""
    rows = [usage(meters={"input": 1_000}), usage(**REPRICED, price_id="", cost_pico=-1_400_000_000)]
    made = statement([line("input", 1_000, cost_pico=100_000_000)], rows)
    assert parts(made) == {"price": -1_000_000_000}
    assert made.explained


def test_foreign_currency_is_converted_and_named() -> None:
    row = usage(meters={"input": 1_000})
    rupiah = convert_pico(2_500_000_000, Decimal("16500"))
    lines = [line("input", 1_000, currency="IDR", cost_pico=rupiah)]
    made = statement(lines, [row], convert=lambda theirs, ours, day: 1 / Decimal(16_000))
    found = convert_pico(rupiah, 1 / Decimal(16_000))
    assert parts(made) == {"fx": found - 2_500_000_000}
    assert made.explained
    assert made.notes == ["1 lines in IDR were converted at your rate"]


def test_a_report_that_is_not_split_by_model_is_compared_as_a_whole() -> None:
    rows = [usage(), usage(model="gpt-5", price_id=CHEAP.id, meters={"input": 10})]
    cost = sum(row.cost_pico for row in rows)
    whole = line("input", 0, model="", meter="", quantity=None, cost_pico=cost)
    made = statement([whole], rows)
    assert parts(made) == {}
    assert made.explained
    assert [(one.model, one.meter) for one in made.lines] == [("*", "*")]


def test_usage_without_amounts_is_valued_at_our_price() -> None:
    row = usage(meters={"input": 1_000})
    made = statement([line("input", 1_010, cost_pico=None)], [row])
    assert parts(made) == {"tokens": 10 * UNITS["input"]}
    made = statement([line("input", 5, cost_pico=None, model="gpt-9")], [row])
    assert not made.explained, "a quantity without any price has no amount, and that is said"
    assert [one.why for one in made.lines if one.model == "gpt-9"] == [["no price of ours for it"]]


def test_tolerance_is_none_unless_asked_for() -> None:
    lines, rows = [line("input", 0, quantity=None, cost_pico=2_500_000_007)], [usage(meters={"input": 1_000})]
    assert statement(lines, rows).totals["USD"].unexplained_pico == 7
    assert parts(statement(lines, rows, tolerance_pico=7)) == {"rounding": 7}
    assert not statement(lines, rows, tolerance_pico=6).explained


def test_calls_are_compared_one_by_one() -> None:
    same = third = usage(calls=1, attempts=1, meters={"input": 10})
    lost_call = estimated(bound_pico=1_000_000_000)
    rows = [OurUsage(same, "a-0"), OurUsage(lost_call, "b-0"), OurUsage(third, "c-0")]

    def call(name: str, cost_pico: int, count: int) -> list[ReportLine]:
        return [
            line("input", 0, meter="", quantity=None, cost_pico=cost_pico, call=name),
            line("input", count, cost_pico=None, call=name),
        ]

    lines = [
        *call("a-0", 25_000_000, 10),
        *call("b-0", 50_000_000, 20),
        *call("req-c", 30_000_000, 12),
        *call("x-0", 7, 1),
    ]
    made = statement(lines, rows, call_names={"req-c": "c-0"}, tells=frozenset({"tier"}))
    assert parts(made) == {"bypass": 7, "lost": 50_000_000 - 10**9, "tokens": 5_000_000}
    assert [(one.rows[0].call, one.pico, one.meters) for one in made.billed] == [("b-0", 50_000_000, {"input": 20})]


METERS = st.sampled_from(["input", "output"])
MODELS = st.sampled_from(["gpt-4o", "gpt-4o-2024-08-06", "o3"])
DAYS = st.integers(0, 3).map(lambda number: DAY + datetime.timedelta(days=number))
COUNT = st.integers(0, 10**9)
PICO = st.integers(-(10**15), 10**15)


@st.composite
def their_lines(draw: Any) -> ReportLine:
    whole = draw(st.sampled_from([Nature.USAGE] * 5 + list(Nature)))
    return line(
        draw(METERS),
        draw(COUNT),
        draw(DAYS),
        model=draw(MODELS),
        nature=whole,
        quantity=draw(st.none() | COUNT.map(Decimal)),
        cost_pico=draw(PICO),
        accounts=draw(st.sampled_from([(), ("ours",), ("other",)])),
    )


@st.composite
def our_rows(draw: Any) -> UsageRow:
    outcome = draw(st.sampled_from(["posted", "estimated", "unpriced", "corrected", "voided"]))
    meters = draw(st.dictionaries(METERS, COUNT))
    priced = draw(st.sampled_from([PRICE.id, CHEAP.id])) if outcome in ("posted", "corrected") else ""
    values: dict[str, Any] = {
        "model": draw(MODELS),
        "outcome": outcome,
        "meters": meters,
        "price_id": priced or PRICE.id,
    }
    row = usage(draw(DAYS), tenant=draw(st.sampled_from(["acme", "beta"])), **values)
    cost = {"estimated": draw(PICO), "corrected": draw(PICO), "posted": row.cost_pico}.get(outcome, 0)
    return usage(
        row.day, tenant=row.tenant, **(values | {"price_id": draw(st.sampled_from([priced, ""])), "cost_pico": cost})
    )


@given(
    st.lists(their_lines(), max_size=20), st.lists(our_rows(), max_size=20), st.integers(0, 12), st.integers(0, 10**9)
)
def test_explained_and_unexplained_are_the_difference(
    lines: list[ReportLine], rows: list[UsageRow], decimals: int, tolerance_pico: int
) -> None:
    channels = Channels(accounts={"ours": "openai"})
    made = statement(lines, rows, decimals=decimals, channels=channels, tolerance_pico=tolerance_pico)
    check(made)
    theirs = sum(one.cost_pico or 0 for one in lines)
    ours = sum(row.cost_pico for row in rows if row.outcome not in ("voided", "unpriced"))
    assert sum(total.theirs_pico for total in made.totals.values()) == theirs, "nothing of the report is dropped"
    assert sum(total.ours_pico for total in made.totals.values()) == ours, "nothing of ours is dropped"
    again = statement(
        reversed(lines), reversed(rows), decimals=decimals, channels=channels, tolerance_pico=tolerance_pico
    )
    assert again.totals == made.totals
