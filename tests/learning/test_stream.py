"""The loop over a whole stream: promises are kept, a shift is noticed, another student takes over."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from benchmarks.guarantee_worlds import MadeStream

from upeti.learning.stream import Plan, run
from upeti.learning.target import Kind, Target, TargetError

PLAN = Plan(Target(Kind.SYSTEM, 0.05), learn=200, calibrate=400, audit_share=0.1)


def test_without_a_shift_the_promise_holds_over_whole_streams() -> None:
    broken = alarms = certified = 0
    for seed in range(60):
        made = MadeStream(seed, 6000, shift=6000, turned=0.0)
        ran = run(6000, made.train, PLAN, np.random.default_rng(seed))
        certified += bool(ran.periods)
        broken += any(made.risk(period.threshold) > 0.05 for period in ran.periods)
        alarms += any(period.alarm for period in ran.periods)
        assert ran.wrong <= ran.served <= ran.calls
        assert ran.to_teacher + ran.served >= ran.calls
    assert certified == 60
    assert broken <= 60 * PLAN.delta + 3 * math.sqrt(60 * PLAN.delta)
    assert alarms <= 60 * PLAN.delta + 3 * math.sqrt(60 * PLAN.delta)


def test_a_shift_is_noticed_and_another_student_takes_over() -> None:
    calls_to_notice = []
    for seed in range(8):
        made = MadeStream(seed, 12_000, shift=4000, turned=0.6)
        ran = run(12_000, made.train, PLAN, np.random.default_rng(seed))
        first, second = ran.periods[:2]
        assert first.alarm
        assert first.first <= 4000 < first.end
        calls_to_notice.append(first.end - 4000)
        assert made.trained == [True, False]
        assert second.first == first.end + PLAN.learn + PLAN.calibrate
        assert not second.alarm
        assert second.wrong / (12_000 - second.first) <= 0.05
    assert np.median(calls_to_notice) < 800


def test_classes_are_kept_apart_in_the_loop() -> None:
    made = MadeStream(1, 8000, shift=4000, turned=0.5)
    classes = Target(Kind.CLASS, 0.05, tuple(_limit(label) for label in ("yes", "no")))
    ran = run(8000, made.train, PLAN._replace(target=classes), np.random.default_rng(1))
    assert ran.periods
    assert ran.periods[0].alarm
    assert ran.periods[0].served > 0


def _limit(label: str):
    from upeti.learning.target import ClassLimit

    return msgspec.convert({"label": [label], "alpha": 0.08}, ClassLimit)


def test_a_student_that_is_never_good_enough_never_answers() -> None:
    made = MadeStream(1, 5000, shift=5000, turned=0.0)
    ran = run(5000, made.train, PLAN._replace(target=Target(Kind.SYSTEM, 0.0001)), np.random.default_rng(1))
    assert (ran.served, ran.to_teacher, ran.periods) == (0, 5000, ())
    assert ran.looks > 3
    assert run(100, made.train, PLAN, np.random.default_rng(1)).periods == ()


def test_thresholds_per_answer_would_need_other_calls() -> None:
    made = MadeStream(1, 100, shift=100, turned=0.0)
    with pytest.raises(TargetError):
        run(100, made.train, PLAN._replace(target=Target(Kind.ANSWER, 0.05)), np.random.default_rng(1))
