"""What the benchmark of the conduct monitor counts, and its intervals."""

from __future__ import annotations

import pytest
from benchmarks.conduct import HONEST, Rate, Results, tables
from scipy.stats import beta


@pytest.mark.parametrize(("found", "of"), [(0, 240), (1, 400), (7, 3_600), (40, 240), (120, 120)])
def test_intervals_are_the_exact_ones(found: int, of: int) -> None:
    rate = Rate.of_counts(found, of)
    low = beta.ppf(0.025, found, of - found + 1) if found else 0.0
    high = beta.ppf(0.975, found + 1, of - found) if found < of else 1.0
    assert (rate.low, rate.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_calls_that_are_judged_twice_count_once_among_the_honest() -> None:
    made = Results("2026-11-28")
    for course in HONEST:
        rate = {"found": 1, "of": 100, "low": 0.0, "high": 0.1}
        counts = course.habitual and not course.again
        made.honest.append({"course": course.name, "counts": counts, "opened": rate, "acted": rate})
    assert "| **all whose habits stay the same**, each call once | 500 | **1 % " in tables(made)
