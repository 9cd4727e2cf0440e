"""Thresholds: equal to a plain search, never loosened by an error, and true as often as they say."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.certify_side import LABELS, PATH, TARGETS, Truth, population, samples
from upeti.learning.bounds import p_value, rows_to_start
from upeti.learning.calibration import Row
from upeti.learning.target import ClassLimit, Kind, Target, TargetError
from upeti.learning.threshold import Outcome, Path, answer_path, certify, class_limits, serves

SYSTEM, ANSWER, CLASSES = TARGETS.values()
DELTA = 0.1

targets = st.sampled_from([SYSTEM, ANSWER, CLASSES])


def outcome_of(rows: list[Row], target: Target) -> Outcome:
    return certify(rows, target, DELTA, PATH if target.kind is Kind.ANSWER else None)


def looseness(outcome: Outcome) -> float:
    return -math.inf if outcome.threshold is None else -outcome.threshold


def passes(rows: list[Row], target: Target, threshold: float, level: float = DELTA) -> bool:
    """The test of one threshold, written down plainly."""
    served = [row for row in rows if serves(row, target, threshold)]
    wrong = [row for row in served if not row.agrees]
    if target.kind is Kind.SYSTEM:
        tests = [(len(wrong), len(rows), target.alpha)]
    elif target.kind is Kind.ANSWER:
        tests = [(len(wrong), len(served), target.alpha)]
    else:
        tests = [
            (sum(row.teacher == one.label for row in wrong), sum(row.teacher == one.label for row in rows), one.alpha)
            for one in target.classes
        ]
        named = [one.label for one in target.classes]
        tests.append((sum(row.teacher not in named for row in served), len(rows), target.alpha))
    return all(p_value(errors, n, alpha) <= level for errors, n, alpha in tests)


@settings(deadline=None)
@given(samples(), targets)
def test_the_threshold_is_that_of_a_plain_search(rows: list[Row], target: Target) -> None:
    found = None
    if target.kind is Kind.ANSWER:
        level = 0.0
        for place, threshold in enumerate(PATH.thresholds):
            level += DELTA / 2 if place in PATH.entries else 0.0
            if level and passes(rows, target, threshold, level):
                found = threshold
            else:
                level = 0.0
    else:
        for threshold in sorted({0.0, *(row.confidence for row in rows)}, reverse=True):
            if not passes(rows, target, threshold):
                break
            found = threshold
    outcome = outcome_of(rows, target)
    if outcome.threshold != found:  # a confidence of an answer that is never served is no threshold of its own
        assert found is not None
        assert outcome.threshold is not None
        assert [serves(row, target, found) for row in rows] == [serves(row, target, outcome.threshold) for row in rows]
    served = 0 if outcome.threshold is None else sum(serves(row, target, outcome.threshold) for row in rows)
    assert outcome.coverage.estimate == served / len(rows)
    assert (outcome.threshold is None) == bool(outcome.reason)


@settings(deadline=None)
@given(samples(), targets, st.data())
def test_an_error_more_never_loosens_and_a_right_answer_more_never_tightens(
    rows: list[Row], target: Target, data: st.DataObject
) -> None:
    before = looseness(outcome_of(rows, target))
    place = data.draw(st.integers(0, len(rows) - 1))
    row = rows[place]
    if row.agrees and row.teacher in LABELS[:2]:
        other = LABELS[1] if row.teacher == LABELS[0] else LABELS[0]
        worse = [*rows[:place], msgspec.structs.replace(row, student=other), *rows[place + 1 :]]
        assert looseness(outcome_of(worse, target)) <= before
    right = Row("one more", data.draw(st.floats(0, 1)), LABELS[0], LABELS[0])
    after = outcome_of([*rows, right], target)
    assert looseness(after) >= before
    assert after.threshold is None or passes([*rows, right], target, after.threshold)


@settings(deadline=None)
@given(samples(), targets, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[Row], target: Target, random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert outcome_of(shuffled, target) == outcome_of(rows, target)


@settings(deadline=None)
@given(samples(), targets)
def test_less_risk_or_less_doubt_allowed_never_loosens(rows: list[Row], target: Target) -> None:
    loose = outcome_of(rows, target)
    grid = PATH if target.kind is Kind.ANSWER else None
    assert looseness(certify(rows, target, DELTA / 3, grid)) <= looseness(loose)
    if target.kind is not Kind.CLASS:
        strict = msgspec.structs.replace(target, alpha=target.alpha / 2)
        assert looseness(certify(rows, strict, DELTA, grid)) <= looseness(loose)


@pytest.mark.parametrize("target", [SYSTEM, ANSWER, CLASSES], ids=["system", "answer", "class"])
def test_promises_are_kept_as_often_as_they_say(target: Target) -> None:
    world = population(7, 4000)
    truth = Truth(world, target)
    path = answer_path([row.confidence for row in population(8, 500)], 300, target.alpha, DELTA)
    rng = np.random.default_rng(1)
    broken, certified = 0, 0
    known: dict[float | None, bool] = {}
    for _ in range(250):
        rows = [world[i] for i in rng.integers(0, len(world), 300)]
        threshold = certify(rows, target, DELTA, path if target.kind is Kind.ANSWER else None).threshold
        if threshold not in known:
            known[threshold] = truth.kept(threshold)
        broken += not known[threshold]
        certified += threshold is not None
    assert broken <= 250 * DELTA + 3 * math.sqrt(250 * DELTA * (1 - DELTA))
    assert certified > 125


def test_tuning_on_the_rows_breaks_the_promise_about_every_second_time() -> None:
    """The check of promises is one that can fail: the usual rule fails it by far."""
    world = population(7, 4000)
    truth = Truth(world, SYSTEM)
    rng = np.random.default_rng(1)
    broken = 0
    for _ in range(100):
        rows = sorted((world[i] for i in rng.integers(0, len(world), 300)), key=lambda row: -row.confidence)
        errors = np.cumsum([not row.agrees and row.in_scope for row in rows])
        last = int(np.searchsorted(errors, SYSTEM.alpha * len(rows), side="right")) - 1
        broken += not truth.kept(rows[last].confidence)
    assert broken > 100 * DELTA + 5 * math.sqrt(100 * DELTA * (1 - DELTA))


def test_an_answer_that_is_out_of_scope_or_of_no_named_class_is_never_served() -> None:
    assert not serves(Row("a", 1.0, LABELS[0], LABELS[0], in_scope=False), SYSTEM, 0.0)
    assert not serves(Row("a", 1.0, LABELS[2], LABELS[2]), CLASSES, 0.0)
    assert serves(Row("a", 1.0, LABELS[1], LABELS[2]), CLASSES, 0.0)


def test_what_is_lacking_is_said() -> None:
    rows = population(1, 1000)
    assert certify([], SYSTEM, DELTA).needs == rows_to_start(0.1, DELTA)
    few = certify(rows[:15], SYSTEM, DELTA)
    assert few.threshold is None
    assert few.needs == rows_to_start(0.1, DELTA) - 15
    assert "15 rows" in few.reason
    rare = msgspec.structs.replace(CLASSES, classes=(*CLASSES.classes, ClassLimit(LABELS[2], 0.1)))
    outcome = certify(rows[:100], rare, DELTA)
    assert outcome.needs is not None
    assert "class maybe" in outcome.reason
    more = certify(rows[: 100 + outcome.needs], rare, DELTA)
    assert more.threshold is not None


def test_a_student_that_is_wrong_where_it_is_surest_is_not_helped_by_calls() -> None:
    rows = [Row(str(i), 1.0, LABELS[i % 2], LABELS[0]) for i in range(500)]
    outcome = certify(rows, ANSWER, DELTA, PATH)
    assert (outcome.threshold, outcome.needs) == (None, None)
    assert "train a better student" in outcome.reason
    almost = [Row(str(i), 1.0, LABELS[i % 8 == 0], LABELS[0]) for i in range(100)]
    outcome = certify(almost, ANSWER, DELTA, PATH)
    assert outcome.threshold is None
    assert 100 < (outcome.needs or 0) < 2000


def test_targets_that_cannot_be_certified_say_what_to_do() -> None:
    rows = population(1, 100)
    for target, path, words in (
        (Target(Kind.CLASS, 0.1), None, "name the classes"),
        (msgspec.structs.replace(SYSTEM, classes=CLASSES.classes), None, "for no other"),
        (msgspec.structs.replace(CLASSES, classes=CLASSES.classes * 2), None, "named twice"),
        (ANSWER, None, "answer_path"),
        (SYSTEM, PATH, "for no other"),
        (ANSWER, Path(PATH.thresholds[::-1]), "strictest"),
        (ANSWER, Path(PATH.thresholds, (9,)), "entries"),
        (ANSWER, Path(PATH.thresholds, ()), "entries"),
        (Target(Kind.SYSTEM, 1.5), None, "between 0 and 1"),
    ):
        with pytest.raises(TargetError, match=words):
            certify(rows, target, DELTA, path)


def test_classes_are_chosen_on_other_rows() -> None:
    known = [row.teacher for row in population(2, 1000)]
    assert [limit.label for limit in class_limits(known, 300, 0.1, 0.05)] == [LABELS[1], LABELS[0]]
    assert len(class_limits(known, 1000, 0.1, 0.05)) == 3
    limits = class_limits(known, 1000, 0.1, 0.05, {LABELS[2]: 0.02})
    assert LABELS[2] not in {limit.label for limit in limits}


def test_the_path_begins_where_a_few_errors_are_survived_and_is_entered_twice() -> None:
    known = np.random.default_rng(1).random(5000)
    path = answer_path(known, 400, 0.1, 0.05)
    assert path is not None
    assert path.thresholds[-1] == 0.0
    reached = [float(np.mean(known >= path.thresholds[place])) for place in path.entries]
    assert reached == pytest.approx([rows_to_start(0.1, 0.05) / 400, 0.3], abs=0.001)
    assert answer_path(known, 10, 0.1, 0.05) is None


def test_a_bad_patch_among_the_surest_does_not_end_it() -> None:
    rows = population(3, 1000, wrong=0.05)
    surest = sorted(rows, key=lambda row: -row.confidence)[:60]
    rows = [
        msgspec.structs.replace(row, student=LABELS[2], teacher=LABELS[0]) if row in surest[::3] else row
        for row in rows
    ]
    outcome = certify(rows, ANSWER, DELTA, PATH)
    assert outcome.steps[0].p_value > outcome.steps[0].level
    assert outcome.threshold is not None
    assert certify(rows, ANSWER, DELTA, Path(PATH.thresholds)).threshold is None
