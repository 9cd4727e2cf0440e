"""Corrections of estimates: exact sums, the same ones each time."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from money.reconcile.planted import DAY, NEXT, UNITS, estimated, line, statement, usage
from upeti.core.amount import parse_pico
from upeti.core.events import CostCorrected, Outcome
from upeti.money.reconcile.correct import corrections, largest_remainder
from upeti.money.reconcile.lines import ReportLine
from upeti.money.reconcile.match import TakenBackKey, estimated_name
from upeti.money.usage import UsageRow


def made_of(
    lines: list[ReportLine], rows: list[UsageRow], before: list[CostCorrected] | None = None
) -> list[CostCorrected]:
    taken_back = {TakenBackKey(DAY, estimated_name(one, "")): parse_pico(one.was) for one in before or []}
    made = statement(lines, rows, taken_back=taken_back)
    return corrections(made.billed, made.sha256, 7, made.first_day, made.last_day)


@given(st.integers(0, 10**30), st.lists(st.integers(0, 10**20), min_size=1).filter(any))
def test_parts_sum_to_the_whole(total: int, weights: list[int]) -> None:
    parts = largest_remainder(total, weights)
    assert sum(parts) == total
    assert all(
        abs(part * sum(weights) - total * weight) < sum(weights) for part, weight in zip(parts, weights, strict=True)
    )


def test_the_sum_is_what_was_billed() -> None:
    rows = [
        estimated(bound_pico=10**9, tenant="acme"),
        estimated(bound_pico=10**9, tenant="beta"),
        usage(meters={"input": 5}),
    ]
    records = made_of([line("input", 6 + 100)], rows)
    assert [(one.tenant, one.was, one.now, one.meters) for one in records] == [
        ("acme", "0.001", "0.00012625", {"input": 51}),
        ("beta", "0.001", "0.00012625", {"input": 50}),
    ]
    assert sum(parse_pico(one.now) for one in records) == 101 * UNITS["input"]
    first = records[0]
    assert (first.reason, first.reference, first.attempt_id, first.price_id) == ("reconciled", "ab" * 32, "", "")
    assert (first.outcome, first.at_ns) == (Outcome.ESTIMATED, 7)
    assert datetime.datetime.fromtimestamp(first.settled_ns / 1e9, datetime.UTC).date() == DAY


def test_a_second_run_has_nothing_to_correct() -> None:
    rows = [estimated(bound_pico=10**9, tenant="acme"), estimated(bound_pico=2 * 10**9, tenant="beta")]
    lines = [line("input", 100)]
    records = made_of(lines, rows)
    assert made_of(lines, rows) == records, "named by content"
    assert len({one.correction_id for one in records}) == 2
    posted = [
        usage(
            tenant=one.tenant,
            outcome="corrected",
            price_id="",
            attempts=0,
            calls=0,
            meters=one.meters or {},
            cost_pico=parse_pico(one.now),
        )
        for one in records
    ]
    nothing_left = [estimated(bound_pico=0, tenant=one.tenant) for one in records]
    assert made_of(lines, nothing_left + posted, records) == []


def test_a_later_report_corrects_from_where_the_first_one_left() -> None:
    guess = estimated(bound_pico=10**9)
    (first,) = made_of([line("input", 100)], [guess])
    posted = usage(outcome="corrected", price_id="", attempts=0, calls=0, meters={"input": 100}, cost_pico=250_000_000)
    rows = [estimated(bound_pico=0), posted]
    (record,) = made_of([line("input", 120)], rows, [first])
    assert (record.was, record.now, record.meters) == ("0.00025", "0.0003", {"input": 20})
    assert (first.outcome, record.outcome) == (Outcome.ESTIMATED, Outcome.POSTED)


def test_what_was_not_billed_becomes_nothing() -> None:
    (record,) = made_of([line("input", 1_000)], [usage(meters={"input": 1_000}), estimated(bound_pico=10**9)])
    assert (record.was, record.now) == ("0.001", "0")


def test_days_that_the_report_does_not_cover_stay() -> None:
    assert made_of([line("input", 5)], [estimated(NEXT, bound_pico=10**9), usage(meters={"input": 5})]) == []


DAYS = st.integers(0, 2).map(lambda number: DAY + datetime.timedelta(days=number))
LINES = st.builds(
    lambda day, count, more, known: line(
        "input", count, day, cost_pico=count * UNITS["input"] + more, **({} if known else {"quantity": None})
    ),
    DAYS,
    st.integers(0, 10_000),
    st.integers(-(10**6), 10**9),
    st.booleans(),
)
ROWS = st.one_of(
    st.builds(lambda day, count: usage(day, meters={"input": count}), DAYS, st.integers(0, 10_000)),
    st.builds(
        lambda day, bound_pico, tenant: estimated(day, bound_pico, tenant=tenant),
        DAYS,
        st.integers(0, 10**11),
        st.sampled_from(["acme", "beta", "gamma"]),
    ),
)


@given(st.lists(LINES, max_size=8), st.lists(ROWS, max_size=8))
def test_after_corrections_nothing_is_lost_and_nothing_is_left_to_correct(
    lines: list[ReportLine], rows: list[UsageRow]
) -> None:
    before = statement(lines, rows)
    records = corrections(before.billed, before.sha256, 7, DAY, DAY + datetime.timedelta(days=2))
    corrected = [
        estimated(
            DAY
            + datetime.timedelta(days=(one.settled_ns // (86_400 * 10**9)) - (DAY - datetime.date(1970, 1, 1)).days),
            parse_pico(one.now) - parse_pico(one.was),
            tenant=one.tenant,
            outcome="corrected",
            meters=one.meters or {},
            attempts=0,
        )
        for one in records
    ]
    after = statement(lines, rows + corrected)
    assert corrections(after.billed, after.sha256, 7, DAY, DAY + datetime.timedelta(days=2)) == []
    for currency, total in after.totals.items():
        first = before.totals[currency]
        assert total.ours_pico == first.ours_pico + sum(parse_pico(one.now) - parse_pico(one.was) for one in records)
        assert total.unexplained_pico == first.unexplained_pico
        assert not {"lost", "aborted"} & {str(kind) for kind in total.parts}, "what is left is of other kinds"
