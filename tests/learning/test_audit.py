"""Audits: no call can gain on average while the promise holds; nothing counts twice; alarms are rare or quick."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upeti.learning.audit import (
    Audited,
    AuditError,
    Count,
    Deferred,
    Observation,
    State,
    begin,
    evidence,
    observe,
    present_risk,
    sequence,
)
from upeti.learning.audit_plan import Runs, delay
from upeti.learning.target import ClassLimit, Kind, Target

LABELS = (("yes",), ("no",), ("maybe",))
SYSTEM, ANSWER = Target(Kind.SYSTEM, 0.05), Target(Kind.ANSWER, 0.05)
CLASSES = Target(Kind.CLASS, 0.05, (ClassLimit(LABELS[0], 0.1), ClassLimit(LABELS[1], 0.02)))
DELTA = 0.05
label = st.sampled_from(LABELS)


@st.composite
def observations(draw: st.DrawFn, max_size: int = 40) -> list[Observation]:
    def one(number: int) -> Observation:
        deferred = tuple(
            Deferred(teacher, draw(st.integers(1, 30))) for teacher in draw(st.lists(label, max_size=2, unique=True))
        )
        audited = draw(st.one_of(st.none(), st.builds(Audited, label, label)))
        return Observation("a", number, draw(st.sampled_from([0.01, 0.05, 0.3, 1.0])), deferred, audited)

    return [one(number) for number in range(1, draw(st.integers(0, max_size)) + 1)]


def first_alarms(broken: np.ndarray, alpha: float, delta: float) -> np.ndarray:
    runs = Runs(len(broken), alpha, delta)
    runs.see(broken)
    return runs.rang


def after(target: Target, seen: list[Observation]) -> State:
    state = begin(target)
    for one in seen:
        state = observe(state, target, DELTA, one)
    return state


def next_seen(state: State, share: float, audited: Audited | None, deferred: tuple[Deferred, ...] = ()) -> Observation:
    return Observation("a", state.seen.get("a", 0) + 1, share, deferred, audited)


@settings(deadline=None)
@given(observations(), st.sampled_from([0.01, 0.2, 1.0]), st.floats(0, 1), st.data())
def test_one_more_call_gains_nothing_on_average_at_the_edge_of_the_promise(
    seen: list[Observation], share: float, coverage: float, data: st.DataObject
) -> None:
    """All that can happen to the next call, weighted: the wealth is what it was, and less where the risk is less."""
    target = data.draw(st.sampled_from([SYSTEM, ANSWER]))
    state = after(target, seen)
    before = evidence(state)
    if target.kind is Kind.SYSTEM:
        coverage = max(coverage, target.alpha)
        wrong = target.alpha / coverage
    else:
        wrong = target.alpha

    def expected(wrong: float) -> float:
        good = observe(state, target, DELTA, next_seen(state, share, Audited(LABELS[0], LABELS[0])))
        bad = observe(state, target, DELTA, next_seen(state, share, Audited(LABELS[0], LABELS[1])))
        deferred = observe(state, target, DELTA, next_seen(state, share, None, (Deferred(LABELS[0], 1),)))
        audited = wrong * evidence(bad) + (1 - wrong) * evidence(good)
        return coverage * (share * audited + (1 - share) * before) + (1 - coverage) * evidence(deferred)

    assert expected(wrong) == pytest.approx(before, rel=1e-9)
    assert expected(wrong / 2) <= before * (1 + 1e-9)
    assert coverage == 0 or expected(min(1.0, wrong * 1.5)) >= before * (1 - 1e-9)


@settings(deadline=None)
@given(observations(), st.sampled_from([0.01, 0.2, 1.0]), st.lists(st.floats(0.1, 1), min_size=6, max_size=6))
def test_the_same_for_all_limits_of_classes_together(
    seen: list[Observation], share: float, weights: list[float]
) -> None:
    """Of calls of each class as many are served wrong as are allowed, the rest is served right or deferred."""
    state = after(CLASSES, seen)
    called = np.array(weights[:3]) / sum(weights[:3])
    allowed = {LABELS[0]: 0.1, LABELS[1]: 0.02, LABELS[2]: min(1.0, 0.05 / called[2])}
    total = 0.0
    for teacher, weight, part in zip(LABELS, called, weights[3:], strict=True):
        broken = allowed[teacher]
        good = 0.0 if teacher == LABELS[2] else (1 - broken) * part
        student = LABELS[1] if teacher == LABELS[0] else LABELS[0]
        bad_state = observe(state, CLASSES, DELTA, next_seen(state, share, Audited(student, teacher)))
        good_state = observe(state, CLASSES, DELTA, next_seen(state, share, Audited(teacher, teacher)))
        off_state = observe(state, CLASSES, DELTA, next_seen(state, share, None, (Deferred(teacher, 1),)))
        served = broken * evidence(bad_state) + good * evidence(good_state)
        total += weight * (
            share * served + (1 - share) * (broken + good) * evidence(state) + (1 - broken - good) * evidence(off_state)
        )
    assert total <= evidence(state) * (1 + 1e-9)


@settings(deadline=None)
@given(observations(), st.sampled_from([0.01, 0.2, 1.0]), label)
def test_deferred_calls_may_be_drawn_too_and_then_count_whole(seen: list[Observation], share: float, teacher) -> None:
    state = after(CLASSES, seen)
    all_known = observe(state, CLASSES, DELTA, next_seen(state, share, None, (Deferred(teacher, 1),)))
    drawn = observe(state, CLASSES, DELTA, next_seen(state, 1.0, None, (Deferred(teacher, 1),)))
    on_average = share * evidence(drawn) + (1 - share) * evidence(state)
    assert on_average == pytest.approx(evidence(all_known), rel=1e-9)


@settings(deadline=None)
@given(observations(), st.data())
def test_after_a_kill_the_state_goes_on_and_nothing_counts_twice(seen: list[Observation], data: st.DataObject) -> None:
    target = data.draw(st.sampled_from([SYSTEM, ANSWER, CLASSES]))
    cut, back = data.draw(st.integers(0, len(seen))), data.draw(st.integers(0, 10))
    kept = msgspec.json.encode(after(target, seen[:cut]))
    state = msgspec.json.decode(kept, type=State)
    for one in seen[max(0, cut - back) :]:
        state = observe(state, target, DELTA, one)
    assert state == after(target, seen)


def test_a_gap_in_a_journal_is_no_small_matter() -> None:
    state = after(SYSTEM, [Observation("a", 1, 0.1)])
    with pytest.raises(AuditError, match="observations 2 to 4 of audit journal a are missing"):
        observe(state, SYSTEM, DELTA, Observation("a", 5, 0.1))
    assert observe(state, SYSTEM, DELTA, Observation("b", 1, 0.1)).seen == {"a": 1, "b": 1}
    with pytest.raises(AuditError, match="share"):
        observe(state, SYSTEM, DELTA, Observation("a", 2, 0.0))


def test_the_alarm_rings_at_one_over_delta_and_stays() -> None:
    state = begin(ANSWER)
    number = 0
    while state.alarm is None:
        number += 1
        state = observe(state, ANSWER, DELTA, Observation("a", number, 0.1, (), Audited(LABELS[0], LABELS[1])))
    assert number <= 4
    assert evidence(state) >= 1 / DELTA
    rang = state.alarm
    for later in range(number + 1, number + 200):
        state = observe(state, ANSWER, DELTA, Observation("a", later, 0.1, (), Audited(LABELS[0], LABELS[0])))
    assert state.alarm == rang
    assert state.peak >= math.log(1 / DELTA)


def test_wrong_answers_about_a_class_ring_for_that_class() -> None:
    state = begin(CLASSES)
    for number in range(1, 400):
        teacher = LABELS[1] if number % 4 == 0 else LABELS[0]
        wrong = number % 32 == 0  # 12.5 % of the second class, 3 % of all
        seen = Observation("a", number, 0.1, (), Audited(LABELS[0] if wrong else teacher, teacher))
        state = observe(state, CLASSES, DELTA, seen)
    assert state.alarm is not None
    assert max(state.bets, key=lambda bets: bets.log_wealth).limit == "class no"
    assert present_risk(state.bets[1]).low > 0.02


def test_many_runs_at_once_are_the_same_as_one_by_one() -> None:
    rng = np.random.default_rng(2)
    broken = rng.random((20, 300)) < 0.12
    for run, expected in zip(broken, first_alarms(broken, 0.05, DELTA), strict=True):
        state = begin(ANSWER)
        for number, bad in enumerate(run, 1):
            state = observe(
                state, ANSWER, DELTA, Observation("a", number, 1.0, (), Audited(LABELS[0], LABELS[int(bad)]))
            )
        assert (state.alarm[1] if state.alarm else 0) == expected


def test_false_alarms_are_rare_and_true_ones_are_quick() -> None:
    rng = np.random.default_rng(3)
    quiet = first_alarms(rng.random((400, 4000)) < 0.05, 0.05, DELTA)  # at the edge, where they are most frequent
    assert np.mean(quiet > 0) <= DELTA + 3 * math.sqrt(DELTA / 400)
    loud = first_alarms(rng.random((200, 1000)) < 0.15, 0.05, DELTA)
    assert np.all(loud > 0)
    assert np.median(loud) < 80


def test_delays_are_told_beforehand() -> None:
    rng = np.random.default_rng(6)
    early, late = delay(rng, 0.05, DELTA, 0.25, runs=200), delay(rng, 0.05, DELTA, 0.1, runs=200)
    assert early.median < early.ninth < late.median < late.ninth < math.inf
    shifted = delay(rng, 0.05, DELTA, 0.25, good_audits=700, good_risk=0.02, runs=200)
    assert early.median < shifted.median < 100
    assert shifted.early <= DELTA
    assert delay(rng, 0.05, DELTA, 0.01, runs=20, audits_max=500).median == math.inf


def test_years_of_good_calls_do_not_deafen() -> None:
    rng = np.random.default_rng(4)
    risk = np.where(np.arange(3000) < 2000, 0.02, 0.15)
    rang = first_alarms(rng.random((100, 3000)) < risk, 0.05, DELTA)
    assert np.mean((rang > 0) & (rang <= 2000)) <= DELTA
    assert np.median(rang[rang > 2000]) - 2000 < 250


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_interval_encloses_the_share(errors: int, n: int) -> None:
    errors = min(errors, n)
    found = sequence(Count(errors, n))
    assert found.low <= found.estimate <= found.high
    assert sequence(Count(errors, n), 0.01).high >= found.high
    assert sequence(Count(errors + 1, n + 1)).high >= found.high - 1e-9


def test_the_interval_covers_at_all_times_together() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(100):
        errors = np.cumsum(rng.random(400) < 0.06)
        found = [sequence(Count(int(errors[n - 1]), n), 0.2) for n in range(1, 401, 7)]
        missed += any(not one.low <= 0.06 <= one.high for one in found)
    assert missed <= 100 * 0.2 + 3 * math.sqrt(100 * 0.16)
