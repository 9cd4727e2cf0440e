"""Tasks: what may be declared, how answers are distributed, what owning would save."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.learning.answers import UNREADABLE, AnswerForm, Field
from upeti.learning.target import Kind
from upeti.learning.tasks import Seen, Task, TaskError, check, labels_of, most_common, ranked, saving_pico
from upeti.learning.template import Template

TEMPLATE = Template(("user",), (("Intent: ", ""),))
TASK = Task(
    name="intent",
    tag="intent",
    route="intents",
    channel="openai",
    model="gpt-4",
    template=TEMPLATE,
    template_sha256=TEMPLATE.digest,
    form=AnswerForm(kind="label", fields=(Field("label"),)),
    target=Kind.SYSTEM,
    alpha=0.05,
    delta=0.05,
    audit_share=0.05,
    audit_limit="10.00",
    audit_currency="USD",
    declared_ns=1,
    by="head of support",
    why="77 intents, asked all day",
)


def test_a_declaration_is_the_same_after_it_was_kept() -> None:
    check(TASK)
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(TASK)), Task) == TASK


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "no blanks"}, "no name of a task"),
        ({"name": "found-12345678"}, "not beginning with found-"),
        ({"alpha": 0.0}, "--alpha is a share"),
        ({"delta": 1.0}, "--delta is a share"),
        ({"audit_share": 1.5}, "--audit-share is a share"),
        ({"audit_limit": "0"}, "must be more than 0"),
        ({"audit_limit": "much"}, "not a decimal number"),
        ({"by": " "}, "--by and --why"),
    ],
)
def test_what_cannot_be_kept_is_not_declared(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        check(msgspec.structs.replace(TASK, **changes))


def test_labels_are_counted() -> None:
    found = labels_of([("a",), ("a",), ("b",), ("c", "d"), None, UNREADABLE])
    assert (found.answers, found.unreadable, found.distinct, found.entropy_bits) == (6, 2, 3, 1.5)
    assert found.commonest == (("a", 2), ("b", 1), ("c, d", 1))
    assert labels_of([("a",)] * 3).entropy_bits == 0
    assert labels_of([]).distinct == 0


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1))
def test_entropy_lies_between_nothing_and_all_as_often(letters: list[str]) -> None:
    found = labels_of([(one,) for one in letters])
    assert -1e-4 <= found.entropy_bits <= math.log2(found.distinct) + 1e-4


@given(st.integers(0, 10**24), st.decimals(0, 1, places=4), st.decimals(0, 1, places=4))
def test_a_saving_is_exact_and_never_more_than_the_share(cost: int, share: Decimal, audit: Decimal) -> None:
    saved = saving_pico(cost, share, audit)
    assert saved * 10**8 <= cost * int(share * 10**4) * int((1 - audit) * 10**4) < (saved + 1) * 10**8
    assert saving_pico(10**12, Decimal("0.6"), Decimal("0.05")) == 570_000_000_000


def seen(name: str, costs: dict[str, int], *against: str) -> Seen:
    return Seen(
        name=name,
        tag="",
        declared=False,
        route="r",
        channel="c",
        model="m",
        calls=1,
        unpriced=0,
        costs=costs,
        against=against,
    )


def test_what_can_be_owned_and_costs_most_is_first() -> None:
    all_of_them = [seen("a", {"USD": 1}), seen("b", {"USD": 9}, "free text"), seen("c", {"USD": 5}), seen("d", {})]
    assert [one.name for one in ranked(all_of_them)] == ["c", "a", "d", "b"]
    assert [one.name for one in ranked([seen("a", {"USD": 1, "IDR": 9}), seen("b", {"USD": 2})], "USD")] == ["b", "a"]
    assert most_common([("x", "1"), ("y", "1"), ("y", "1")]) == ("y", "1")
    assert most_common([]) == ("", "")
