"""The verdict: what each says, what forbids one, and that it is right as often as it promises."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from upeti.core.amount import parse_pico
from upeti.feed.experiment import FREE, GROUPS, PAID, STUDENT, Arm, Experiment
from upeti.feed.lift import Users
from upeti.feed.worth import ArmUsers, Comparison, Outcome, Spent, Worth, judge
from upeti.sim.people import LIKING, people

FREE_ARM = Arm("free", FREE)
STUDENT_ARM = Arm("student", FREE | {STUDENT})
PAID_ARM = Arm("paid", frozenset(GROUPS))
TWO = Experiment("two", (FREE_ARM, PAID_ARM), event_value="0.01", users_planned=3000)
THREE = Experiment("three", (FREE_ARM, STUDENT_ARM, PAID_ARM), event_value="0.01", users_planned=3000)
IMPRESSIONS = 1_000_000
BASE = LIKING


def spent(paid: str, student: str | None = None) -> dict[str, Spent]:
    """What was paid for a million impressions."""
    found = {PAID: Spent(parse_pico(paid), 5_000)}
    if student is not None:
        found[STUDENT] = Spent(parse_pico(student), 5_000)
    return found


def verdict(experiment: Experiment, rates: list[float], costs: dict[str, Spent], *, size: int, seed: int = 1) -> Worth:
    draw = np.random.default_rng(seed)
    arms = [ArmUsers(arm, people(draw, size, rate / BASE)) for arm, rate in zip(experiment.arms, rates, strict=True)]
    return judge(experiment, arms, costs, IMPRESSIONS)


def of(worth: Worth, arm: str, over: str) -> Comparison:
    return next(one for one in worth.comparisons if (one.arm, one.over) == (arm, over))


def test_a_lift_that_is_worth_more_than_it_costs_is_paid_for() -> None:
    found = verdict(TWO, [BASE, BASE * 1.2], spent("50"), size=4000)  # +20 events × 0.01 against 0.05 per 1,000
    assert found.outcome is Outcome.PAY
    one = of(found, "paid", "free")
    assert one.extra_cost == parse_pico("0.05")
    assert one.net_benefit.low > 0
    assert one.cost_per_event is not None
    assert one.cost_per_event.low < 0.05 / 20 < one.cost_per_event.high
    assert one.extra_events.low < 20 < one.extra_events.high
    assert found.users_needed is None
    assert "Go on paying" in found.advice


def test_enrichment_that_is_noise_is_not_paid_for() -> None:
    found = verdict(TWO, [BASE, BASE], spent("150"), size=4000)
    assert found.outcome is Outcome.STOP
    one = of(found, "paid", "free")
    assert one.net_benefit.high < 0
    assert one.cost_per_event is None  # a ratio over nothing


def test_enrichment_that_harms_is_not_paid_for_though_it_cost_nothing() -> None:
    assert verdict(TWO, [BASE, BASE * 0.8], spent("0"), size=4000).outcome is Outcome.STOP


def test_a_student_that_keeps_most_of_it_replaces_the_paid_model() -> None:
    found = verdict(THREE, [BASE, BASE * 1.18, BASE * 1.2], spent("150", "2"), size=6000)
    assert found.outcome is Outcome.REPLACE
    assert of(found, "student", "free").pays
    assert of(found, "paid", "student").pays is False
    assert "student's channel first" in found.advice


def test_a_student_that_keeps_little_does_not() -> None:
    found = verdict(THREE, [BASE, BASE * 1.05, BASE * 1.4], spent("50", "2"), size=6000)
    assert found.outcome is Outcome.PAY


def test_when_neither_earns_its_cost_the_paid_one_goes_and_the_student_stays_open() -> None:
    found = verdict(THREE, [BASE, BASE, BASE], spent("150", "0"), size=5000)
    assert found.outcome is Outcome.STOP
    assert "still open" in found.advice


def test_too_little_is_undecided_and_says_how_many_users_it_takes() -> None:
    few = verdict(TWO, [BASE, BASE * 1.2], spent("50"), size=150)
    assert few.outcome is Outcome.UNDECIDED
    assert few.users_needed is not None
    assert f"{few.users_needed:,}" in few.advice
    none = verdict(TWO, [BASE, BASE], spent("50"), size=0)
    assert none.outcome is Outcome.UNDECIDED
    assert math.isinf(of(none, "paid", "free").net_benefit.high)
    close = verdict(TWO, [BASE, BASE], spent("0.0001"), size=2000)
    assert close.outcome is Outcome.UNDECIDED


def test_users_in_the_wrong_ratio_forbid_a_verdict() -> None:
    draw = np.random.default_rng(1)
    arms = [ArmUsers(FREE_ARM, people(draw, 4000)), ArmUsers(PAID_ARM, people(draw, 3000, 1.5))]
    found = judge(TWO, arms, spent("50"), IMPRESSIONS)
    assert found.outcome is Outcome.UNDECIDED
    assert "planned ratio" in found.advice
    assert of(found, "paid", "free").pays  # shown, but not concluded from


def test_an_unknown_cost_forbids_a_verdict() -> None:
    found = verdict(TWO, [BASE, BASE * 1.5], {PAID: Spent(parse_pico("1"), 10, 3)}, size=4000)
    assert found.outcome is Outcome.UNDECIDED
    assert "Unknown is not zero" in found.advice


def test_an_experiment_without_a_paid_arm_has_nothing_to_judge() -> None:
    metadata = Arm("metadata", frozenset({"popularity", "metadata"}))
    popular = Arm("popular", frozenset({"popularity"}))
    found = verdict(msgspec.structs.replace(TWO, arms=(popular, metadata)), [BASE, BASE * 1.5], {}, size=3000)
    assert found.outcome is Outcome.UNDECIDED
    assert "enrichment_paid" in found.advice
    assert of(found, "metadata", "popular").extra_events.low > 0  # what free metadata gave is shown all the same


def test_guardrails_are_told_beside_the_verdict() -> None:
    draw = np.random.default_rng(1)
    arms = [
        ArmUsers(arm, people(draw, 3000, rate / BASE), people(draw, 3000, hides / BASE))
        for arm, rate, hides in ((FREE_ARM, BASE, 0.01), (PAID_ARM, BASE * 1.4, 0.03))
    ]
    found = judge(TWO, arms, spent("50"), IMPRESSIONS)
    assert found.outcome is Outcome.PAY
    assert any("hide more" in warning for warning in found.warnings)
    assert any("judged at a cost of 0" in one for one in verdict(TWO, [BASE, BASE], {}, size=200).warnings)


@pytest.mark.parametrize(
    ("rates", "costs", "right"),
    [
        ([BASE, BASE], ("100", None), Outcome.STOP),  # noise
        ([BASE, BASE * 1.2], ("50", None), Outcome.PAY),  # planted: worth four times its cost
        ([BASE, BASE * 1.18, BASE * 1.2], ("150", "2"), Outcome.REPLACE),
    ],
)
def test_truth_at_the_stated_power(rates: list[float], costs: tuple[str, str | None], right: Outcome) -> None:
    """At 5,000 users an arm: right in 80 of 100 runs or more; and a wrong one in 5 of 100 or fewer."""
    experiment = TWO if len(rates) == 2 else THREE
    outcomes = [verdict(experiment, rates, spent(*costs), size=5000, seed=seed).outcome for seed in range(60)]
    hits = sum(one is right for one in outcomes)
    allowed = {right, Outcome.UNDECIDED} | ({Outcome.STOP} if right is Outcome.REPLACE else set())
    assert hits / len(outcomes) >= 0.8, {one: outcomes.count(one) for one in outcomes}
    assert sum(one not in allowed for one in outcomes) / len(outcomes) <= 0.05


def test_looking_every_day_gives_no_false_verdict() -> None:
    """Enrichment that is worth exactly what it costs: whoever pays or stops is wrong."""
    wrong = 0
    for seed in range(120):
        draw = np.random.default_rng(seed)
        # +10 events per 1,000 at 0.01 are 0.10; a million impressions cost 100
        parts = [people(draw, 4000), people(draw, 4000, 1.1)]
        for size in range(400, 4001, 400):
            arms = [
                ArmUsers(arm, Users(*(one[:size] for one in part[:3])))  # type: ignore[index]
                for arm, part in zip(TWO.arms, parts, strict=True)
            ]
            if judge(TWO, arms, spent("100"), IMPRESSIONS).outcome is not Outcome.UNDECIDED:
                wrong += 1
                break
    assert wrong / 120 <= 0.05
