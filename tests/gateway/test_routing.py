"""The plan of a call: all candidates, each once, in order."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.gateway.routing import plan


class Ranked(NamedTuple):
    name: int
    order: int
    weight: int


candidates = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=8).map(
    lambda rows: [Ranked(name, order, weight) for name, (order, weight) in enumerate(rows)]
)


@given(candidates, st.sets(st.integers(0, 7)), st.integers())
def test_a_plan_is_a_permutation_by_order_with_what_is_not_usable_last(
    ranked: list[Ranked], broken: set[int], seed: int
) -> None:
    planned = list(plan(ranked, lambda one: one.name not in broken, Random(seed).random))
    assert sorted(planned) == sorted(ranked)
    if len(ranked) == 1:
        return
    usable = [one for one in planned if one.name not in broken]
    left_out = [one for one in planned if one.name in broken]
    assert planned == usable + left_out
    for part in (usable, left_out):
        assert [one.order for one in part] == sorted(one.order for one in part)
        for order in {one.order for one in part}:
            weights = [one.weight for one in part if one.order == order]
            # Weight 0 comes last of its order …
            assert weights == [weight for weight in weights if weight] + [weight for weight in weights if not weight]
            # … and, among themselves, as in the file.
            zeros = [one.name for one in part if one.order == order and not one.weight]
            assert zeros == sorted(zeros)


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999_999_999_999_999_9])
def test_the_ends_of_the_draw(draw: float) -> None:
    ranked = [Ranked(0, 0, 0), Ranked(1, 0, 3), Ranked(2, 0, 1), Ranked(3, 0, 0)]
    planned = [one.name for one in plan(ranked, lambda one: True, lambda: draw)]
    assert planned == ([1, 2, 0, 3] if draw < 0.75 else [2, 1, 0, 3])


def test_equals_share_the_calls_by_their_weights() -> None:
    ranked = [Ranked(0, 1, 6), Ranked(1, 1, 3), Ranked(2, 1, 1), Ranked(3, 2, 100)]
    draw = Random(7).random
    plans = [plan(ranked, lambda one: True, draw) for _ in range(10_000)]
    first = Counter(planned[0].name for planned in plans)
    assert [round(first[name] / 1000) for name in range(4)] == [6, 3, 1, 0]
    # Who was not drawn first is drawn among the rest: 3 of 4 times the one of weight 3 follows the one of weight 6.
    second = Counter(planned[1].name for planned in plans if planned[0].name == 0)
    assert 0.72 < second[1] / (second[1] + second[2]) < 0.78


def test_one_candidate_is_tried_whatever_its_health() -> None:
    only = [Ranked(0, 0, 0)]
    assert plan(only, lambda one: False, lambda: 0.0) is only
