"""Corrections bring what is recorded to what the book says, once, and say so in the last pico."""

from __future__ import annotations

import datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.amount import parse_pico
from upeti.core.events import CostCorrected
from upeti.money.price import Price
from upeti.money.reprice import Bearer, Change, Group, Repriced, changes, corrections, cost_of_group

DAY = datetime.date(2026, 11, 1)
BEARER = Bearer(DAY, "acme", "shop", "k1", "feed", "", "m", "up", "m", "responses", "posted", "USD", "flex")


def price(pico: int) -> Price:
    return Price(f"p{pico}", "USD", 0, {"input": pico, "output": 2 * pico}, per_call_pico=3)


@st.composite
def found(draw: st.DrawFn) -> list[Group]:
    return [
        Group(
            BEARER._replace(feature=draw(st.sampled_from(["feed", "search"])), day=DAY),
            price(draw(st.integers(0, 10**8))),
            0,
            draw(st.integers(1, 10**9)),
            {"input": draw(st.integers(0, 10**15)), "output": draw(st.integers(0, 10**15))},
            draw(st.integers(0, 10**25)),
        )
        for _ in range(draw(st.integers(1, 4)))
    ]


def applied(records: list[CostCorrected], before: dict[Bearer, Repriced]) -> dict[Bearer, Repriced]:
    after = dict(before)
    for record in records:
        bearer = BEARER._replace(feature=record.feature)
        was = after.get(bearer, Repriced())
        after[bearer] = Repriced(was.pico + parse_pico(record.now) - parse_pico(record.was), was.times + 1)
    return after


@given(found())
def test_after_the_corrections_all_is_owed_that_the_book_says_and_nothing_is_left(groups: list[Group]) -> None:
    records = corrections(changes(groups, {}, {}), "ab" * 32, 1)
    assert len({record.correction_id for record in records}) == len(records)
    done = applied(records, {})
    recorded = sum(group.cost_pico for group in groups) + sum(one.pico for one in done.values())
    assert recorded == sum(cost_of_group(group) or 0 for group in groups)
    assert changes(groups, done, {}) == []
    # The same book on the same records gives the same corrections, whenever it is asked.
    again = corrections(changes(groups, {}, {}), "ab" * 32, 2)
    assert [msgspec.structs.replace(record, at_ns=1) for record in again] == records


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_there_and_back_are_different_corrections(first: int, second: int) -> None:
    ids, done = set(), {}
    count = 0
    for pico in (first, second, first, second):
        group = Group(BEARER, price(pico), 0, 5, {"input": 7, "output": 1}, 1)
        records = corrections(changes([group], done, {}), "", 1)
        done = applied(records, done)
        ids |= {record.correction_id for record in records}
        count += len(records)
        assert 1 + done.get(BEARER, Repriced()).pico == cost_of_group(group)
    assert len(ids) == count


def test_a_correction_says_whom_it_is_about() -> None:
    group = Group(BEARER, price(10), 0, 2, {"input": 100}, 4)
    (record,) = corrections(changes([group], {}, {}), "cd" * 32, 9)
    assert (record.was, record.now, record.reason, record.reference) == (
        "0.000000000004",
        "0.000000001006",
        "repriced",
        "cd" * 32,
    )
    assert (record.tenant, record.feature, record.tier, record.price_id) == ("acme", "feed", "flex", "p10")
    assert (record.attempt_id, record.meters) == ("", {})
    assert datetime.datetime.fromtimestamp(record.settled_ns // 10**9, datetime.UTC).date() == DAY


def test_what_is_unknown_is_no_change_of_zero() -> None:
    lacking = Group(BEARER, None, 0, 2, {"input": 100}, 4)
    (change,) = changes([lacking], {}, {})
    assert change == Change(BEARER, 2, change.was_pico, None, (), 0, "the book has no price")
    rupiah = msgspec.structs.replace(lacking, price=msgspec.structs.replace(price(1), currency="IDR"))
    (change,) = changes([rupiah], {}, {})
    assert (change.now_pico, change.why) == (None, "its price is in IDR")
    assert corrections([change], "", 1) == []
