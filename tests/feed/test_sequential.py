"""Intervals hold what they promise, looked at as often as one likes: shown by simulation, not by one number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.feed.sequential import (
    UNITS_MIN,
    Estimate,
    Interval,
    bounded_interval,
    bounded_sequence,
    fixed_interval,
    mismatch_evidence,
    mismatch_p_value,
    mixture_factor,
    mixture_interval,
    units_needed,
)

ALPHA = 0.05


def binomial_limit(trials: int, share: float) -> float:
    """What a share of ``share`` exceeds by chance in fewer than one of a thousand test runs."""
    return share + 3.1 * math.sqrt(share * (1 - share) / trials)


def looks_of_two_arms(trials: int, users: int, looks: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences of two equal arms, their variances and users, at each look; (trials, looks)."""
    draw = np.random.default_rng(seed)
    at = np.linspace(users / looks, users, looks).astype(int)
    values = (draw.random((trials, 2, users)) < 0.1).astype(np.float64)
    means = np.cumsum(values, axis=2)[:, :, at - 1] / at
    variances = means * (1 - means) / at
    return means[:, 1] - means[:, 0], variances.sum(axis=1), at


def test_looking_20_times_at_an_a_a_test_alarms_in_few_cases() -> None:
    differences, variances, at = looks_of_two_arms(600, 4000, 20, seed=1)
    always, once = 0, 0
    for trial in range(len(differences)):
        estimates = [Estimate(*row) for row in zip(differences[trial], variances[trial], at.tolist(), strict=True)]
        always += any(mixture_interval(one, 4000, ALPHA).excludes_zero for one in estimates)
        once += any(fixed_interval(one, ALPHA).excludes_zero for one in estimates)
    assert always / len(differences) <= ALPHA
    assert once / len(differences) > 0.15  # what is promised here is not free: the usual interval breaks it


def test_the_sequence_covers_the_truth_at_all_times() -> None:
    draw = np.random.default_rng(2)
    truth, missed, trials = 0.3, 0, 500
    for _ in range(trials):
        values = draw.exponential(truth, 3000)  # skewed, as time spent is
        for n in range(UNITS_MIN, 3001, 25):
            part = values[:n]
            interval = mixture_interval(Estimate(float(part.mean()), float(part.var(ddof=1)) / n, n), 2000, ALPHA)
            if not interval.low <= truth <= interval.high:
                missed += 1
                break
    assert missed / trials <= binomial_limit(trials, ALPHA)


@pytest.mark.parametrize("truth", [0.02, 0.3, 0.9])
def test_the_bounded_sequence_is_exact_from_the_first_value(truth: float) -> None:
    draw = np.random.default_rng(3)
    missed, trials = 0, 400
    for _ in range(trials):
        limits = bounded_sequence(draw.random(2000) < truth, error_share=ALPHA)
        missed += bool(np.any((limits[:, 0] > truth) | (limits[:, 1] < truth)))
    assert missed / trials <= binomial_limit(trials, ALPHA)


def test_the_bounded_sequence_becomes_useful() -> None:
    draw = np.random.default_rng(4)
    interval = bounded_interval(2 * (draw.random(20_000) < 0.3) - 1.0, -1.0, 1.0)
    assert interval.low <= -0.4 <= interval.high
    assert interval.high - interval.low < 0.065
    assert bounded_interval([], 0, 1)[1:] == (0, 1)
    with pytest.raises(ValueError, match="outside"):
        bounded_sequence([0.5, 1.5])
    with pytest.raises(ValueError, match="outside"):
        bounded_sequence([float("nan")])


def test_the_mixture_is_tightest_where_it_was_planned() -> None:
    def width(units: int, planned: int) -> float:
        return mixture_factor(units / planned, ALPHA) / math.sqrt(units)

    assert width(10_000, 10_000) < min(width(10_000, 1_000), width(10_000, 100_000))
    # 30 % to 50 % wider than one look at a set time: the price of looking whenever one likes
    assert 1.3 < mixture_factor(1.0, ALPHA) / 1.96 < 1.6


@pytest.mark.parametrize(
    "estimate",
    [
        Estimate(0.1, 0.01, UNITS_MIN - 1),
        Estimate(math.nan, 0.1, 500),
        Estimate(0.1, math.nan, 500),
        Estimate(0, 0, 500),
    ],
)
def test_too_little_says_nothing(estimate: Estimate) -> None:
    interval = mixture_interval(estimate, 1000)
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert not interval.excludes_zero


@given(st.floats(1e-4, 1e-1), st.integers(200, 100_000))
def test_units_needed_are_enough_and_hardly_more(margin: float, units: int) -> None:
    estimate = Estimate(margin, 0.09 / units, units)
    needed = units_needed(estimate, margin, 10_000)
    if needed is None:
        assert not mixture_interval(Estimate(margin, 0.09 / (1000 * units), 1000 * units), 10_000).excludes_zero
        return
    assert needed < UNITS_MIN or mixture_interval(Estimate(margin, 0.09 / needed, needed), 10_000).excludes_zero
    less = int(needed * 0.95)
    assert less < UNITS_MIN or not mixture_interval(Estimate(margin, 0.09 / less, less), 10_000).excludes_zero


def test_units_needed_of_nothing_are_unknown() -> None:
    assert units_needed(Estimate(0, 1e-6, 1000), 0.0, 1000) is None
    assert units_needed(Estimate(0, 1.0, 10), 0.5, 1000) is None


def test_users_in_the_wrong_ratio_are_seen_and_in_the_right_one_are_not() -> None:
    assert mismatch_p_value([5_050, 4_950], [1, 1]) > 0.05
    assert mismatch_p_value([5_300, 4_700], [1, 1]) < 1e-6
    assert mismatch_p_value([0, 0], [1, 1]) == 1
    assert mismatch_evidence([5_050, 4_950], [1, 1]) < 20
    assert mismatch_evidence([5_300, 4_700], [1, 1]) > 1e6
    assert mismatch_evidence([100_000, 300_000], [1, 3]) < 1
    assert mismatch_evidence([10**9, 0], [1, 1]) > 1e300  # no overflow


def test_the_alarm_of_the_ratio_may_be_looked_at_after_every_user() -> None:
    draw = np.random.default_rng(5)
    trials, users = 300, 2000
    alarms = naive = 0
    for _ in range(trials):
        first = np.cumsum(draw.random(users) < 0.5)
        seen = [(int(first[n - 1]), n - int(first[n - 1])) for n in range(20, users + 1, 20)]
        alarms += any(mismatch_evidence(counts, [1, 1]) >= 1 / ALPHA for counts in seen)
        naive += any(mismatch_p_value(counts, [1, 1]) < ALPHA for counts in seen)
    assert alarms / trials <= ALPHA
    assert naive / trials > 0.15


def test_an_interval_in_other_units() -> None:
    assert Interval(1, 0.5, 2).scaled(2, -1) == Interval(1, 0, 3)
    assert not Interval(1, 0, 3).excludes_zero
    assert Interval(-1, -2, -0.1).excludes_zero
