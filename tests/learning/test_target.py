"""Targets: their limits mean what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.learning.target import ClassLimit, Kind, Target, TargetError, limits_of

LABELS = (("yes",), ("no",), ("maybe",))
CLASSES = Target(Kind.CLASS, 0.1, (ClassLimit(LABELS[0], 0.1), ClassLimit(LABELS[1], 0.2)))
label = st.sampled_from(LABELS)


@given(label, label)
def test_a_served_wrong_answer_breaks_exactly_one_limit_of_classes(student, teacher) -> None:
    if not CLASSES.may_answer(student):
        assert student == LABELS[2]
        return
    broken = [limit.name for limit in limits_of(CLASSES) if limit.about(teacher) and limit.broken(student, teacher)]
    assert len(broken) == (student != teacher)
    assert teacher != LABELS[2] or broken == ["other classes"]


def test_only_a_promise_per_answer_is_about_served_calls_alone() -> None:
    assert [limits_of(Target(kind, 0.1))[0].only_served for kind in (Kind.SYSTEM, Kind.ANSWER)] == [False, True]
    assert not any(limit.only_served for limit in limits_of(CLASSES))


def test_a_target_that_says_nothing_definite_is_refused() -> None:
    for target in (
        Target(Kind.SYSTEM, 0.0),
        Target(Kind.CLASS, 0.1),
        Target(Kind.ANSWER, 0.1, CLASSES.classes),
        Target(Kind.CLASS, 0.1, (ClassLimit(LABELS[0], 1.0),)),
        Target(Kind.CLASS, 0.1, CLASSES.classes * 2),
    ):
        with pytest.raises(TargetError):
            limits_of(target)
