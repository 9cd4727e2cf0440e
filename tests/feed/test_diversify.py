from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.feed.diversify import EXPLORED_EVERY, EXPLORED_FIRST, diversify, explore

UNKNOWN = -1


def listed(scores: list[float], creators: list[int], number: int = 10, cap: int = 2, balance: float = 0.0) -> list[int]:
    rows = np.eye(len(scores), 384, dtype=np.float32)
    return diversify(
        np.array(scores), rows, np.arange(len(scores)), np.array(creators, np.int32), number, balance=balance,
        per_creator=cap,
    )  # fmt: skip


def test_without_balance_and_creators_it_is_the_ranking() -> None:
    assert listed([0.1, 0.9, 0.5], [UNKNOWN] * 3) == [1, 2, 0]
    assert listed([0.1, 0.9, 0.5], [UNKNOWN] * 3, number=2) == [1, 2]
    assert listed([], []) == []


def test_a_creator_at_the_cap_comes_after_all_others() -> None:
    assert listed([9, 8, 7, 6, 5], [1, 1, 1, 2, 1]) == [0, 1, 3, 2, 4]
    assert listed([9, 8, 7, 6], [1, 1, 1, 1], number=3) == [0, 1, 2]  # nobody else: the list is not shorter


def test_what_is_like_what_stands_above_it_comes_later() -> None:
    rows = np.array([[1, 0], [0.99, 0.14], [0, 1]], np.float32)
    chosen = diversify(
        np.array([1.0, 0.95, 0.6]), rows, np.arange(3), np.full(3, UNKNOWN, np.int32), 3, balance=0.5, per_creator=9
    )
    assert chosen == [0, 2, 1]


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(-1, 3)), max_size=30),
    st.integers(1, 12), st.integers(1, 3), st.floats(0, 1),
)  # fmt: skip
def test_a_list_has_no_double_and_is_as_long_as_it_can_be(
    found: list[tuple[float, int]], number: int, cap: int, balance: float
) -> None:
    chosen = listed([score for score, _ in found], [creator for _, creator in found], number, cap, balance)
    assert len(chosen) == len(set(chosen)) == min(number, len(found))


def test_the_logged_propensity_is_how_often_an_item_is_at_its_place() -> None:
    draw = Random(7)
    times, pool, share = 20_000, 8, 0.4
    seen: dict[tuple[int, int, bool], int] = {}
    stated: dict[tuple[int, int, bool], float] = {}
    for _ in range(times):
        for rank, one in enumerate(explore(range(20), pool, share, draw)):
            key = (rank, one.at, one.is_explored)
            seen[key] = seen.get(key, 0) + 1
            stated[key] = one.propensity
    assert len(stated) == 20 + 2 * pool
    for key, number in seen.items():
        expected = stated[key] * times
        assert number == pytest.approx(expected, abs=5 * (expected * (1 - stated[key])) ** 0.5 + 1e-9), key


def test_only_the_places_that_are_meant_are_left_to_chance() -> None:
    for one_of in range(50):
        made = explore(range(30), 200, 1.0, Random(one_of))
        assert [rank for rank, one in enumerate(made) if one.is_explored] == [
            EXPLORED_FIRST, EXPLORED_FIRST + EXPLORED_EVERY, EXPLORED_FIRST + 2 * EXPLORED_EVERY,
        ]  # fmt: skip
        assert len({one.at for one in made if one.is_explored}) == 3
    assert all(not one.is_explored and one.propensity == 1 for one in explore(range(30), 0, 1.0, Random(1)))
    assert all(one.propensity == 1 for one in explore(range(30), 10, 0.0, Random(1)))
