"""The gate lets in what is no worse, and nothing that has seen the future."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from upeti.feed.evaluation import ALL, COLD, DAY_NS, WARM, Event, Scores, Shape
from upeti.feed.gate import Entry, Features, Leak, Rules, Verdict, find_leaks, judge, telling

CASES = 600
SHAPE = Shape(0.4, 8.0, 0.6, 0.7)


def scores(gain: float = 0.0, *, cases: int = CASES, group: str = ALL, seed: int = 1) -> Scores:
    draw = np.random.default_rng(seed)
    base = draw.beta(1, 6, cases)
    ndcg = np.clip(base + gain + np.random.default_rng(seed + 1).normal(0, 0.01, cases), 0, 1)
    return Scores(tuple((f"u{n % 150}", n // 150, group) for n in range(cases)), ndcg, ndcg, (ndcg > 0.1) * 1.0)


def joined(*parts: Scores) -> Scores:
    return Scores(
        sum((part.cases for part in parts), ()),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("ndcg", "recall", "hit")),
    )


def entry(found: Scores, shape: Shape | None = SHAPE, leaks: tuple[Leak, ...] | None = ()) -> Entry:
    return Entry("ranker", found, shape, leaks)


LIVE = entry(scores())


def why(verdict: Verdict) -> str:
    assert not verdict.is_let_in
    return "; ".join(verdict.reasons)


def test_one_that_is_as_good_or_better_is_let_in() -> None:
    assert judge(entry(scores()), LIVE) == Verdict(True, (), {ALL: pytest.approx((0, 0, 0))})
    better = judge(entry(scores(0.02)), LIVE)
    assert better.is_let_in
    assert better.gains[ALL].low > 0
    assert judge(entry(scores()), None).is_let_in  # the first of all


def test_one_that_is_worse_is_not() -> None:
    assert "may fall" in why(judge(entry(scores(-0.03)), LIVE))


def test_harm_to_cold_items_is_not_hidden_by_the_rest() -> None:
    live = joined(scores(), scores(group=WARM), scores(group=COLD, seed=5))
    candidate = joined(scores(0.02), scores(0.03, group=WARM), scores(-0.05, group=COLD, seed=5))
    verdict = judge(entry(candidate), entry(live))
    assert "on cold items" in why(verdict)
    assert set(verdict.gains) == {ALL, WARM, COLD}


def test_what_is_not_known_refuses() -> None:
    assert "not probed" in why(judge(entry(scores(), leaks=None), LIVE))
    assert "only 50 cases" in why(judge(entry(scores(cases=50)), LIVE))
    assert "same cases" in why(judge(entry(scores(cases=450)), LIVE))
    assert "live ranker only" in why(judge(entry(scores(), shape=None), LIVE))
    unknown = scores()
    unknown.ndcg[3] = math.nan
    assert "NaN" in why(judge(entry(unknown), LIVE))


def test_guardrails() -> None:
    assert "less even" in why(judge(entry(scores(), SHAPE._replace(creator_gini=0.8)), LIVE))
    assert "less of the catalogue" in why(judge(entry(scores(), SHAPE._replace(coverage=0.2)), LIVE))
    assert "less even" in why(judge(entry(scores(), SHAPE._replace(creator_gini=math.nan)), LIVE))
    no_creators = entry(scores(), SHAPE._replace(creator_gini=math.nan))
    assert judge(no_creators, no_creators).is_let_in


def test_a_gain_that_is_too_good_needs_somebody_who_has_looked() -> None:
    assert "too good" in why(judge(entry(scores(0.2)), LIVE))
    assert judge(entry(scores(0.2)), LIVE, is_gain_believed=True).is_let_in
    assert judge(entry(scores(0.2)), LIVE, Rules(gain_max_share=5)).is_let_in


# -- the future -----------------------------------------------------------------------------------------------------


def history(count: int = 400) -> list[Event]:
    draw = np.random.default_rng(9)
    return [
        Event(f"u{draw.integers(20)}", f"i{draw.integers(30)}", int(at))
        for at in np.sort(draw.integers(0, 20 * DAY_NS, count))
    ]


def honest(events: Sequence[Event]):  # type: ignore[no-untyped-def]
    def features(user: str, item: str, at_ns: int) -> Features:
        before = [event for event in events if event.at_ns < at_ns]
        return {
            "popularity": float(sum(event.item == item for event in before)),
            "activity": float(sum(event.user == user for event in before)),
            "age": math.nan,
        }

    return features


def planted(events: Sequence[Event]):  # type: ignore[no-untyped-def]
    known = honest(events)

    def features(user: str, item: str, at_ns: int) -> Features:
        later = sum(event.item == item and at_ns <= event.at_ns < at_ns + DAY_NS for event in events)
        return {**known(user, item, at_ns), "trend": float(later)}

    return features


def test_a_planted_future_feature_is_caught_by_the_gate() -> None:
    assert find_leaks(honest, history()) == ()
    leaks = find_leaks(planted, history())
    assert [leak.feature for leak in leaks] == ["trend"]
    assert leaks[0].share == 1.0  # each probe's own event is its future
    assert "trend knows the future" in why(judge(entry(scores(0.02), leaks=leaks), LIVE))
    assert "trend" in why(judge(entry(scores(0.02), leaks=leaks), None))


def test_a_feature_that_appears_only_with_the_future_is_caught() -> None:
    def sometimes(events: Sequence[Event]):  # type: ignore[no-untyped-def]
        last = {event.item: event.at_ns for event in events}
        return lambda user, item, at_ns: {"known": 1.0} if last.get(item, 0) > at_ns else {}

    assert find_leaks(sometimes, history())[0].feature == "known"


def test_a_feature_that_is_the_answer_tells_too_well() -> None:
    draw = np.random.default_rng(3)
    engaged = draw.random(2000) < 0.2
    assert telling(engaged + draw.normal(0, 0.01, 2000), engaged) > 0.99
    assert telling(draw.normal(0, 1, 2000), engaged) < 0.56
    assert telling(-1.0 * engaged, engaged) == 1.0
    assert telling(np.where(engaged, np.nan, 1.0), engaged) == 1.0  # absence tells, too
    assert math.isnan(telling([1.0, 2.0], [True, True]))
    assert telling([5.0] * 10, [True] * 5 + [False] * 5) == 0.5
