"""Team draft: fair to both rankings, and what users take says which they prefer."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from upeti.feed.interleaving import preference, team_draft

RANKING = st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=10)


@given(RANKING, RANKING, st.integers(0, 15), st.integers())
def test_a_list_holds_each_item_once_from_whose_ranking_it_is(
    first: list[str], second: list[str], length: int, seed: int
) -> None:
    drafted = team_draft(first, second, length, Random(seed))
    items = [one.item for one in drafted]
    assert len(set(items)) == len(items) == min(length, len(set(first) | set(second)))
    for one in drafted:
        assert one.item in (first, second)[one.team]


@given(st.permutations("abcdefgh"), st.integers())
def test_equal_rankings_are_shown_as_they_are(ranking: list[str], seed: int) -> None:
    drafted = team_draft(ranking, ranking, 8, Random(seed))
    assert [one.item for one in drafted] == ranking
    assert sum(one.team for one in drafted) == 4


def simulated(better: float, users: int, seed: int) -> list[tuple[str, int]]:
    """Events of users who each have a taste of their own; 0.5 is indifference."""
    draw = Random(seed)
    events = []
    for number in range(users):
        taste = draw.betavariate(4 * better, 4 * (1 - better))
        events += [(f"u{number}", int(draw.random() < taste)) for _ in range(draw.randrange(1, 8))]
    return events


def test_no_preference_is_found_where_there_is_none_however_often_one_looks() -> None:
    alarms = 0
    for seed in range(200):
        events = simulated(0.5, 400, seed)
        alarms += any(preference(events[:n]).interval.excludes_zero for n in range(300, len(events) + 1, 100))
    assert alarms / 200 <= 0.05


def test_a_preference_is_found() -> None:
    found = preference(simulated(0.6, 1000, 1))
    assert found.interval.low > 0
    assert found.users == 1000
    assert found.wins[1] > found.wins[0]
    assert preference(simulated(0.4, 1000, 1)).interval.high < 0
    assert not preference([]).interval.excludes_zero
