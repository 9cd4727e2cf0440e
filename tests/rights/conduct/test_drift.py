"""The comparison of a window with its past: the tail is right, chance seldom alarms, a changed stream does."""

from __future__ import annotations

import math
import random

import pytest

from upeti.rights.conduct.drift import drift, gamma_tail, moved, own_scale
from upeti.rights.conduct.reading import Shape


def stream(seed: int, calls: int, foreign: float = 0.0) -> list[Shape]:
    """Short questions of an app, and a share of long lists."""
    dice = random.Random(seed)
    return [
        Shape(dice.randint(14, 20), dice.choice([2, 3, 8]), dice.randint(0, 3), 1, 0, 1, dice.randrange(4096))
        if dice.random() < foreign
        else Shape(
            dice.randint(9, 14),
            0,
            dice.randint(0, 1),
            0,
            dice.randint(0, 1),
            4,
            dice.choice([5, 6, dice.randrange(99)]),
        )
        for _ in range(calls)
    ]


@pytest.mark.parametrize("shape", [0.5, 1.0, 3.0, 40.0, 400.0])
def test_the_tail_of_the_gamma_distribution(shape: float) -> None:
    for times in (0.2, 0.9, 1.1, 2.0, 5.0):
        x = shape * times
        steps = 20_000  # by the trapezoid rule in log x, which shares no code with it
        low, high = math.log(x), math.log(x + 60 * math.sqrt(shape) + 60)
        values = [
            math.exp(shape * u - math.exp(u) - math.lgamma(shape))
            for u in (low + (high - low) * step / steps for step in range(steps + 1))
        ]
        area = (sum(values) - (values[0] + values[-1]) / 2) * (high - low) / steps
        assert gamma_tail(shape, x) == pytest.approx(area, rel=1e-4, abs=1e-12)
    assert gamma_tail(shape, 0) == 1
    assert 0 <= gamma_tail(shape, 1e6) < 1e-12


def test_p_values_of_unchanged_streams_are_level() -> None:
    values = [drift(stream(2 * k, 100), stream(2 * k + 1, 200), seed=k, permutations=200).p for k in range(60)]
    assert 0.3 < sum(values) / len(values) < 0.7
    assert sum(value < 0.001 for value in values) <= 1
    assert sum(value < 0.25 for value in values) in range(5, 28)


def test_a_tenth_of_foreign_calls_is_found() -> None:
    found = drift(stream(1, 500, 0.1), stream(2, 1000), seed=3)
    assert found.p < 1e-6
    assert found.ratio > 2
    assert (found.window_calls, found.reference_calls) == (500, 1000)
    assert found == drift(stream(1, 500, 0.1), stream(2, 1000), seed=3)


def test_a_tenant_whose_own_windows_vary_more_has_a_wider_threshold() -> None:
    assert own_scale([]) == 1
    assert own_scale([0.9, 0.8]) == 1
    assert own_scale([2.0, 4.0]) == 4
    window, past = stream(1, 300, 0.05), stream(2, 600)
    assert drift(window, past, seed=3, scale=3.0).p > drift(window, past, seed=3).p


def test_calls_that_are_all_alike_are_no_drift() -> None:
    same = [Shape(9, 0, 0, 0, 1, 4, 7)] * 50
    assert drift(same, same, seed=1).p == 1


def test_what_moved_is_told_in_words_and_shares_without_first_words() -> None:
    found = moved(stream(1, 500, 0.3), stream(2, 1000))
    assert found["lines"]["distance"] == pytest.approx(0.3, abs=0.08)
    assert found["lines"]["values"]["0"][0] == 1.0
    assert found["opening"]["values"] == {}
