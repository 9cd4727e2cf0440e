"""Lift with users as units: coverage, CUPED, and what items cannot tell about each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from upeti.feed.lift import Users, crossed, lift, rate, variance_removed
from upeti.feed.sequential import fixed_interval, mixture_interval
from upeti.sim.people import equal_arms_by_day, market, people


def test_intervals_of_rate_and_lift_cover_though_users_differ() -> None:
    draw = np.random.default_rng(1)
    trials, missed = 500, {"rate": 0, "lift": 0, "cuped": 0, "naive": 0}
    for _ in range(trials):
        one, other = people(draw, 600, 1.2), people(draw, 400)
        truth = 0.1 * 0.2
        for name, estimate, true in (
            ("rate", rate(other), 0.1),
            ("lift", lift(one, other, adjusted=False), truth),
            ("cuped", lift(one, other), truth),
        ):
            interval = fixed_interval(estimate)
            missed[name] += not interval.low <= true <= interval.high
        p, n = other.rate(), other.impressions.sum()
        missed["naive"] += abs(p - 0.1) > 1.96 * math.sqrt(p * (1 - p) / n)  # impressions as units
    allowed = 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / trials) + 0.01  # and ratios of 400 users are not quite normal
    for name in ("rate", "lift", "cuped"):
        assert missed[name] / trials <= allowed, (name, missed)
    assert missed["naive"] / trials > 0.15


def test_an_a_a_test_of_users_who_come_back_every_day_may_be_looked_at_every_day() -> None:
    draw = np.random.default_rng(2)
    trials, size = 300, 500
    alarms = naive = 0
    for _ in range(trials):
        looks = [lift(other, one) for one, other in equal_arms_by_day(draw, size, 28)]
        alarms += any(mixture_interval(estimate, size).excludes_zero for estimate in looks)
        naive += any(fixed_interval(estimate).excludes_zero for estimate in looks)
    assert alarms / trials <= 0.05
    assert naive / trials > 0.1


def test_what_users_did_before_takes_variance_out_and_does_not_bias() -> None:
    draw = np.random.default_rng(3)
    found, removed = [], []
    for _ in range(200):
        one, other = people(draw, 1000, 1.1), people(draw, 1000)
        found.append(lift(one, other).value)
        removed.append(variance_removed(one, other))
    assert abs(np.mean(found) - 0.01) < 3 * np.std(found) / math.sqrt(200)
    assert 0.2 < np.mean(removed) < 0.7


def test_users_without_a_past_are_compared_without_it() -> None:
    draw = np.random.default_rng(4)
    one, other = people(draw, 500), people(draw, 500)
    assert lift(one._replace(before=None), other) == lift(one, other, adjusted=False)
    nothing = one._replace(before=np.zeros(500))
    assert lift(nothing, other._replace(before=np.zeros(500))) == lift(one, other, adjusted=False)


@pytest.mark.parametrize("users", [Users(np.zeros(0), np.zeros(0)), Users(np.zeros(3), np.zeros(3))])
def test_nobody_or_nothing_shown_is_unknown(users: Users) -> None:
    some = people(np.random.default_rng(5), 200)
    assert math.isnan(rate(users).value)
    assert math.isnan(lift(users, some).variance)


# -- items take places from each other ----------------------------------------------------------------------------


def test_comparing_items_misjudges_and_the_crossed_design_does_not() -> None:
    draw = np.random.default_rng(6)
    truth = (
        market(draw, 40_000, 0.1, uses_enrichment=True).rate() - market(draw, 40_000, 0.1, uses_enrichment=False).rate()
    )
    trials, missed, leaks, claims, taken = 80, 0, 0, [], []
    for _ in range(trials):
        treated, control = (market(draw, 800, 0.1, uses_enrichment=used) for used in (True, False))
        found = crossed(treated, control, 0.1)
        interval = fixed_interval(found.total)
        missed += not interval.low <= truth <= interval.high
        leaks += fixed_interval(found.leaked).excludes_zero
        assert found.on_bought.value + found.on_held_out.value == pytest.approx(found.total.value)
        taken.append(found.on_held_out.value)
        claims.append(found.by_items_alone)
    allowed = 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / trials)
    assert missed / trials <= allowed + 0.01
    assert leaks / trials <= allowed + 0.01
    assert np.mean(taken) < 0
    assert np.mean(claims) > 1.5 * truth  # what comparing items within the arm would claim


def test_a_control_arm_that_learns_from_the_treated_one_is_seen() -> None:
    draw = np.random.default_rng(7)
    treated = market(draw, 3000, 0.1, uses_enrichment=True)
    taught = market(draw, 3000, 0.1, uses_enrichment=True)  # its counters know what enrichment found
    assert fixed_interval(crossed(treated, taught, 0.1).leaked).excludes_zero


def test_without_a_hold_out_there_is_nothing_to_cross() -> None:
    some = people(np.random.default_rng(8), 200)
    with pytest.raises(ValueError, match="item_holdout_share"):
        crossed(some, some, 0.0)
    with pytest.raises(ValueError, match="apart"):
        crossed(some, some, 0.1)
