from __future__ import annotations

import datetime
import random

from hypothesis import given
from hypothesis import strategies as st

from upeti.money.owned import AUDITS_MIN, Estimate, Owned, estimate

DAY = datetime.date(2026, 11, 1)
PICO = 10**12


def days(count: int) -> list[datetime.date]:
    return [DAY + datetime.timedelta(days=number) for number in range(count)]


@given(st.integers(2, 80), st.integers(0, 10**6), st.integers(0, 10**13))
def test_equal_costs_give_the_exact_sum(audits: int, calls: int, cost: int) -> None:
    found = estimate({DAY: calls}, [(DAY, cost)] * audits)
    assert found == Estimate(calls * cost, calls * cost, calls * cost)


def test_all_that_was_answered_was_audited_leaves_nothing_open() -> None:
    costs = [random.Random(7).randrange(PICO) for _ in range(50)]
    assert estimate({DAY: 50}, [(DAY, cost) for cost in costs]) == Estimate(sum(costs), sum(costs), sum(costs))


def test_nothing_is_said_of_fewer_than_two_audits() -> None:
    assert estimate({DAY: 100}, []) is None
    assert estimate({DAY: 100}, [(DAY, 5)]) is None


def test_days_with_other_shares_and_other_prices_are_estimated_apart() -> None:
    """A canary whose every answer is audited, then all of the calls at twice the price and a small share."""
    first, second = days(2)
    audits = [(first, 1000)] * 100 + [(second, 2000)] * 40
    found = estimate({first: 100, second: 4000}, audits)
    assert found == Estimate(100 * 1000 + 4000 * 2000, 100 * 1000 + 4000 * 2000, 100 * 1000 + 4000 * 2000)
    assert len(audits) * 4100 * 1300 // 140 != found.pico, "one mean over all would be another sum"


def test_the_interval_holds_as_often_as_it_says() -> None:
    """Skewed costs (log-normal, as lengths of prompts are), shares that change from day to day, 400 times."""
    draw = random.Random(20261128)
    runs, held = 400, 0
    for _ in range(runs):
        answered, audits, truth = {}, [], 0
        for day, (calls, share) in zip(days(4), ((60, 1.0), (400, 0.2), (1500, 0.05), (3000, 0.03)), strict=True):
            costs = [int(draw.lognormvariate(15, 0.6)) for _ in range(calls)]
            answered[day] = calls
            truth += sum(costs)
            audits += [(day, cost) for cost in costs if draw.random() < share]
        found = estimate(answered, audits)
        assert found is not None
        held += found.low_pico <= truth <= found.high_pico
    # 93.6 % of 3,000 such runs: with costs this skewed a t interval is a little narrow. The bound is that less three errors.
    assert 0.90 <= held / runs < 0.99, held
    assert AUDITS_MIN == 30


def test_the_net_is_what_is_left_after_all_that_it_cost() -> None:
    one = Owned(
        task="intents",
        currency="USD",
        calls=10,
        audits=2,
        teacher=Estimate(100, 80, 120),
        audits_pico=20,
        own_pico=5,
        training_pico=90,
    )
    assert (one.charged_pico, one.net) == (115, Estimate(-15, -35, 5))
