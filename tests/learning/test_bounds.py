"""Bounds are exact: beside sums of fractions, beside each other, and beside redraws."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.learning import bounds

shares = st.floats(0.001, 0.5)
deltas = st.floats(1e-9, 0.5)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 5000))
    return draw(st.integers(0, n)), n


@given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 49))
def test_the_p_value_is_the_sum_of_the_binomial(errors: int, n: int, percent: int) -> None:
    alpha = Fraction(percent, 100)
    exact = sum(math.comb(n, k) * alpha**k * (1 - alpha) ** (n - k) for k in range(min(errors, n) + 1))
    assert float(bounds.p_value(errors, n, percent / 100)) == pytest.approx(float(exact), rel=1e-9)


@given(counts(), deltas)
def test_bounds_enclose_the_share_and_turn_around_with_rights_and_errors(count: tuple[int, int], delta: float) -> None:
    errors, n = count
    low, high = bounds.lower_bound(errors, n, delta), bounds.upper_bound(errors, n, delta)
    assert low <= errors / n <= high
    assert bounds.upper_bound(n - errors, n, delta) == pytest.approx(1 - low, abs=1e-9)


@given(counts(), deltas)
def test_a_bound_is_where_the_test_turns(count: tuple[int, int], delta: float) -> None:
    errors, n = count
    high = bounds.upper_bound(errors, n, delta)
    if high < 0.999:
        assert bounds.p_value(errors, n, high * 1.0001) <= delta <= bounds.p_value(errors, n, high * 0.9999)


@given(counts(), deltas, shares)
def test_more_errors_never_help_and_more_rows_never_harm(count: tuple[int, int], delta: float, alpha: float) -> None:
    errors, n = count
    assert bounds.upper_bound(errors, n, delta) <= bounds.upper_bound(errors + 1, n + 1, delta) + 1e-12
    assert bounds.lower_bound(errors, n, delta) <= bounds.lower_bound(errors + 1, n + 1, delta) + 1e-12
    assert bounds.upper_bound(errors, n + 1, delta) <= bounds.upper_bound(errors, n, delta) + 1e-12
    assert bounds.p_value(errors, n, alpha) <= bounds.p_value(errors + 1, n, alpha) + 1e-15
    assert bounds.upper_bound(errors, n, delta) <= bounds.upper_bound(errors, n, delta / 2) + 1e-12


@given(st.integers(1, 5000), shares, deltas)
def test_the_errors_allowed_are_the_last_that_pass(n: int, alpha: float, delta: float) -> None:
    allowed = bounds.errors_allowed(n, alpha, delta)
    assert bounds.p_value(allowed + 1, n, alpha) > delta
    assert allowed == -1 or bounds.p_value(allowed, n, alpha) <= delta
    assert (allowed == -1) == (n < bounds.rows_at_least(alpha, delta))


@given(shares, st.floats(0.001, 0.3), st.floats(0, 0.8))
def test_the_rows_needed_suffice_as_often_as_promised(alpha: float, delta: float, part: float) -> None:
    n = bounds.rows_needed(alpha, delta, alpha * part, 0.8)
    assert n is not None
    allowed = bounds.errors_allowed(n, alpha, delta)
    succeeds = 1.0 if part == 0 else float(bounds.p_value(allowed, n, alpha * part))
    assert succeeds >= 0.8 - 1e-6
    assert n >= bounds.rows_at_least(alpha, delta)


def test_nothing_is_shown_of_a_share_that_is_too_high() -> None:
    assert bounds.rows_needed(0.05, 0.05, 0.05) is None
    assert bounds.rows_needed(0.05, 0.05, 0.07) is None
    assert bounds.rows_needed(0.05, 0.05, 0.0499999) is None


def test_known_values() -> None:
    assert bounds.rows_at_least(0.05, 0.05) == 59
    assert bounds.rows_at_least(0.01, 0.05) == 299
    assert bounds.rows_to_start(0.05, 0.05) == 96
    assert bounds.upper_bound(0, 100, 0.05) == pytest.approx(1 - 0.05**0.01)
    assert bounds.errors_allowed(1000, 0.05, 0.05) == 38


def test_all_looks_together_spend_delta_and_no_more() -> None:
    assert sum(bounds.spent(0.05, look) for look in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)
    pairs = sum(bounds.spent(0.05, look, task) for look in range(1, 600) for task in range(1, 600))
    assert 0.0497 < pairs < 0.05
    with pytest.raises(ValueError, match="from 1"):
        bounds.spent(0.05, 0)


def test_a_share_chosen_on_the_same_rows_is_covered() -> None:
    draws = np.random.default_rng(3).random((2000, 400))
    worst = [
        np.abs(np.searchsorted(np.sort(row), np.arange(0, 1, 0.01)) / 400 - np.arange(0, 1, 0.01)) for row in draws
    ]
    half = bounds.any_share_interval(200, 400, 0.05).high - 0.5
    assert np.mean(np.max(worst, axis=1) > half) <= 0.05
