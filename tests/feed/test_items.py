from __future__ import annotations

import math

import pytest

from support.feed_side import NOW_NS
from upeti.core.errors import BadRequest, CallError, TooLarge
from upeti.feed.items import (
    CLOCK_AHEAD_NS,
    TEXT_BYTES_MAX,
    Feedback,
    Item,
    User,
    checked_feedback,
    checked_item,
    checked_user,
    words_of,
)


@pytest.mark.parametrize("name", ["", "a/b", "a\nb", "x" * 257, "a\x00b", "\ud800"])
def test_what_cannot_be_an_id_is_refused(name: str) -> None:
    for check in (
        lambda: checked_item(Item(name), NOW_NS),
        lambda: checked_user(User(name), NOW_NS),
        lambda: checked_feedback(Feedback("click", name, "a"), NOW_NS),
        lambda: checked_feedback(Feedback("click", "ana", name), NOW_NS),
    ):
        with pytest.raises(BadRequest, match="is no id"):
            check()


@pytest.mark.parametrize(
    "bad",
    [
        Item("a", comment="x" * (TEXT_BYTES_MAX + 1)),
        Item("a", labels={"title": "é" * TEXT_BYTES_MAX}),
        Item("a", labels=3),
        Item("a", labels={"n": {1, 2, 3}.__iter__()}),
        Item("a", categories=tuple(f"c{n}" for n in range(65))),
        Item("a", categories=("x/y",)),
        Item("a", at_ns=-(2**63)),
    ],
    ids=["comment", "labels", "number", "no JSON", "categories", "category", "time"],
)
def test_bad_items_are_refused_with_a_reason(bad: Item) -> None:
    with pytest.raises(CallError) as raised:
        checked_item(bad, NOW_NS)
    assert raised.value.status in (400, 413)
    assert len(raised.value.message) < 200


def test_a_huge_text_is_too_large() -> None:
    with pytest.raises(TooLarge, match="shorten"):
        checked_user(User("ana", comment="x" * 10_000_000), NOW_NS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(BadRequest, match="finite"):
        checked_feedback(Feedback("click", "ana", "a", value), NOW_NS)


def test_a_clock_that_is_ahead_counts_as_now_and_one_that_is_behind_is_believed() -> None:
    for sent, counted in (
        (NOW_NS + CLOCK_AHEAD_NS + 1, NOW_NS),
        (NOW_NS + CLOCK_AHEAD_NS, NOW_NS + CLOCK_AHEAD_NS),
        (NOW_NS - 10**18, NOW_NS - 10**18),
        (0, NOW_NS),
    ):
        assert checked_feedback(Feedback("click", "ana", "a", 1, sent), NOW_NS).at_ns == counted


def test_only_what_a_model_reads_changes_the_digest() -> None:
    first = checked_item(Item("a", labels={"title": "Heat", "genre": ["crime"]}), NOW_NS)
    assert checked_item(Item("a", ("new",), {"genre": ["crime"], "title": "Heat"}, is_hidden=True), NOW_NS).digest == (
        first.digest
    )
    assert checked_item(Item("a", labels={"title": "Heat", "genre": ["war"]}), NOW_NS).digest != first.digest


def test_labels_become_words_and_texts_stay_out() -> None:
    labels = {
        "title": "Heat",
        "description": "A long text",
        "genre": ["Crime", "Drama"],
        "cast": {"lead": "Al"},
        "n": 1,
    }
    assert words_of(labels) == ["cast.lead:al", "genre:crime", "genre:drama", "n:1"]
    assert words_of(["War", "war"]) == ["war"]
    assert words_of(None) == []
