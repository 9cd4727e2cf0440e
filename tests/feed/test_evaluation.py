"""Metrics agree with trec_eval, by day nothing of the day is known, and intervals cover."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from upeti.feed.evaluation import (
    ALL,
    COLD,
    DAY_NS,
    NEAR_COLD,
    WARM,
    Case,
    Event,
    Popularity,
    bootstrap,
    by_heat,
    gini,
    prequential,
    score,
    shape,
)

ITEMS = [f"i{n}" for n in range(40)]


@settings(max_examples=60)
@given(st.permutations(ITEMS), st.sets(st.sampled_from(ITEMS), min_size=1, max_size=30))
def test_metrics_are_those_of_trec_eval(ranked: list[str], relevant: set[str]) -> None:
    oracle = pytrec_eval.RelevanceEvaluator(
        {"q": dict.fromkeys(relevant, 1)}, {"ndcg_cut.10", "recall.20", "success.10"}
    ).evaluate({"q": {item: float(len(ranked) - place) for place, item in enumerate(ranked)}})["q"]
    found = score([Case("u", 0, tuple(ranked), frozenset(relevant))])
    assert found.ndcg[0] == pytest.approx(oracle["ndcg_cut_10"])
    assert found.recall[0] == pytest.approx(oracle["recall_20"])
    assert found.hit[0] == oracle["success_10"]


def test_a_case_without_anything_relevant_is_left_out() -> None:
    found = score([Case("u", 0, ("a",), frozenset()), Case("v", 0, ("a",), frozenset("a"))])
    assert found.cases == (("v", 0, ALL),)
    assert found.ndcg.tolist() == [1.0]


def test_each_heat_is_ranked_among_its_own() -> None:
    case = Case("u", 3, ("hot", "old", "new", "fresh"), frozenset({"fresh", "old"}))
    parts = by_heat(case, {"hot": 90, "old": 5})
    assert parts == [
        case,
        Case("u", 3, ("old",), frozenset({"old"}), NEAR_COLD),
        Case("u", 3, ("new", "fresh"), frozenset({"fresh"}), COLD),
    ]
    assert by_heat(case, {"hot": 90, "old": 6, "fresh": 6})[1].group == WARM


def test_shape() -> None:
    vectors = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 2.0]), "c": np.array([3.0, 0.0])}
    found = shape(
        [("a", "b"), ("a", "c")],
        ["a", "b", "c", "d"],
        {"a": 10, "b": 2},
        creator_of={"a": "x", "b": "y", "c": "y", "d": "z"},
        embedding_of=vectors.get,
    )
    assert found.coverage == 0.75
    assert found.distance == pytest.approx(0.5)  # one pair apart, one alike
    assert found.creator_gini == pytest.approx(gini([2, 2, 0]))
    expected = -(2 * math.log2(11 / 16) + math.log2(3 / 16) + math.log2(1 / 16)) / 4
    assert found.novelty == pytest.approx(expected)
    bare = shape([], [], {})
    assert bare.coverage == 0
    assert math.isnan(bare.distance)


@pytest.mark.parametrize(
    ("amounts", "expected"), [([1, 1, 1], 0.0), ([0, 0, 6], 2 / 3), ([1, 3], 0.25), ([], math.nan), ([0, 0], math.nan)]
)
def test_gini(amounts: list[float], expected: float) -> None:
    assert gini(amounts) == pytest.approx(expected, nan_ok=True)


def test_the_bootstrap_covers_though_users_cases_hang_together() -> None:
    draw = np.random.default_rng(1)
    trials, missed, naive = 200, 0, 0
    for _ in range(trials):
        cases = draw.integers(1, 20, 150)
        taste = draw.normal(0.2, 0.3, 150)
        users = np.repeat(np.arange(150), cases)
        values = taste[users] + draw.normal(0, 0.3, len(users))
        interval = bootstrap(values, [str(user) for user in users], draws=400)
        missed += not interval.low <= 0.2 <= interval.high
        naive += abs(values.mean() - 0.2) > 1.96 * values.std() / math.sqrt(len(values))
    assert missed / trials <= 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / trials) + 0.01
    assert naive / trials > 0.2
    assert math.isnan(bootstrap([], []).estimate)


class Spy:
    """Ranks nothing; notes what it had learnt when it was asked."""

    def __init__(self) -> None:
        self.learnt: list[Event] = []
        self.asked: list[tuple[str, int, int]] = []

    def learn(self, events: Sequence[Event]) -> None:
        self.learnt += events

    def rank(self, user: str, at_ns: int, seen: Collection[str]) -> Sequence[str]:
        assert all(event.at_ns < at_ns for event in self.learnt)
        self.asked.append((user, at_ns // DAY_NS, len(self.learnt)))
        return []


def test_a_day_is_ranked_by_what_was_known_before_it() -> None:
    events = [Event(f"u{n % 5}", f"i{n}", n * DAY_NS // 10) for n in range(100)]
    spy = Spy()
    cases = [case for case in prequential(events, spy, 3) if case.group == ALL]
    assert {case.day for case in cases} == set(range(3, 10))
    assert all(learnt == day * 10 for _, day, learnt in spy.asked)
    assert len(spy.learnt) == 100
    again = [Event("a", "x", 1), Event("a", "x", DAY_NS + 1), Event("b", "y", DAY_NS + 2)]
    assert list(prequential(again, Spy(), 1)) == []  # nothing new for a, nothing known of b
    assert [case.user for case in prequential(again, Spy(), 1, only_known_users=False)] == ["b", "b"]


def test_popularity_forgets_what_is_older_than_its_days() -> None:
    ranker = Popularity(["a", "b", "c"], days=2)
    ranker.learn([Event("u", "a", 1), Event("v", "a", 2)])
    ranker.learn([Event("u", "b", DAY_NS)])
    assert ranker.rank("w", 0, ()) == ["a", "b", "c"]
    ranker.learn([Event("u", "c", 2 * DAY_NS), Event("v", "c", 2 * DAY_NS)])
    assert ranker.rank("w", 0, {"b"}) == ["c", "a"]
