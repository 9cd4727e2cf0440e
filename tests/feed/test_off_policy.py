"""Off-policy estimates: on real logs with an answer to compare to, and by simulation."""

from __future__ import annotations

import csv
import gzip
import io
import math

import numpy as np
import pytest

from support.shared_data import shared_data
from upeti.feed.off_policy import SAMPLE_MIN, effective_sample, screen

ITEMS, PLACES = 34, 3


def bandit_log(policy: str) -> dict[str, np.ndarray]:
    raw = gzip.decompress((shared_data("obd-men-small") / f"{policy}-men.csv.gz").read_bytes()).decode()
    rows = list(csv.DictReader(io.StringIO(raw)))
    return {
        "item": np.array([int(row["item_id"]) for row in rows]),
        "place": np.array([int(row["position"]) for row in rows]) - 1,
        "click": np.array([float(row["click"]) for row in rows]),
        "propensity": np.array([float(row["propensity_score"]) for row in rows]),
    }


def test_the_log_of_one_policy_tells_what_the_other_earned() -> None:
    random, learned = bandit_log("random"), bandit_log("bts")
    # what uniform choice earned, from the log of Thompson sampling
    uniform = np.full(len(learned["click"]), 1 / ITEMS)
    for found in screen(learned["click"], learned["propensity"], uniform):
        assert found.interval.low <= random["click"].mean() <= found.interval.high, found
        # 69 clicks, and most of the weight is on 15 of them: covered, and rightly not trusted
        assert (found.sample > 600, found.events < 20, found.is_trusted) == (True, True, False), found
    # and the other way: what Thompson sampling earned, its choices as often as it made them
    often = np.zeros((PLACES, ITEMS))
    np.add.at(often, (learned["place"], learned["item"]), 1)
    often /= often.sum(axis=1, keepdims=True)
    rates = np.zeros(ITEMS)
    half = len(learned["click"]) // 2  # a model of clicks per item, from rows that are not used again
    for item in range(ITEMS):
        seen = random["click"][:half][random["item"][:half] == item]
        rates[item] = (seen.sum() + 0.5) / (seen.size + 100)
    rows = slice(half, None)
    found = screen(
        random["click"][rows],
        random["propensity"][rows],
        often[random["place"][rows], random["item"][rows]],
        predicted=rates[random["item"][rows]],
        predicted_of_target=(often @ rates)[random["place"][rows]],
    )
    assert [one.method for one in found] == ["ips", "snips", "dr"]
    for one in found:
        assert one.interval.low <= learned["click"].mean() <= one.interval.high, one


def test_intervals_cover_the_value_of_the_target() -> None:
    draw = np.random.default_rng(1)
    arms, requests, trials = 5, 1500, 400
    worth = np.array([0.05, 0.08, 0.1, 0.15, 0.3])
    logging = np.array([0.4, 0.25, 0.15, 0.12, 0.08])
    target = np.array([0.05, 0.1, 0.15, 0.3, 0.4])
    truth = float(target @ worth)
    model = worth + np.array([0.05, -0.03, 0.02, -0.05, -0.1])  # wrong, as models are
    missed = {"ips": 0, "snips": 0, "dr": 0}
    widths: dict[str, list[float]] = {name: [] for name in missed}
    for _ in range(trials):
        user = draw.integers(0, 500, requests)
        action = draw.choice(arms, requests, p=logging)
        mood = draw.beta(2, 2, 500)[user] * 2  # a user's impressions hang together
        reward = (draw.random(requests) < np.minimum(worth[action] * mood, 1)).astype(float)
        for one in screen(
            reward,
            logging[action],
            target[action],
            predicted=model[action],
            predicted_of_target=np.full(requests, target @ model),
            clusters=user,
        ):
            missed[one.method] += not one.interval.low <= truth <= one.interval.high
            widths[one.method].append(one.interval.high - one.interval.low)
    for name, count in missed.items():
        assert count / trials <= 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / trials) + 0.01, missed
        assert np.mean(widths[name]) < truth
    assert np.mean(widths["dr"]) < np.mean(widths["ips"])


def test_a_log_that_says_little_about_the_target_is_not_trusted() -> None:
    reward = np.zeros(1000)
    logged = np.full(1000, 0.5)
    target = np.zeros(1000)
    target[:3] = 1.0
    assert effective_sample(target / logged) == 3
    assert all(not one.is_trusted and one.sample < SAMPLE_MIN for one in screen(reward, logged, target))
    assert effective_sample(np.zeros(5)) == 0
    assert screen(reward, logged, target)[0].interval[:2] == (0, 0)  # nothing rewarded: it may be anything


def test_rare_rewards_are_covered_about_as_often_as_is_said_where_they_are_trusted() -> None:
    draw = np.random.default_rng(2)
    items = 34
    trusted = missed = doubted = missed_doubted = 0
    for base in (0.004, 0.1):
        for _ in range(6):
            logging = np.maximum(draw.dirichlet(np.full(items, 0.35)), 0.002)
            logging /= logging.sum()
            worth = draw.beta(2, 2 / base - 2, items)
            for _ in range(50):
                action = draw.choice(items, 8000, p=logging)
                reward = (draw.random(8000) < worth[action]).astype(float)
                snips = screen(reward, logging[action], np.full(8000, 1 / items))[1]
                outside = not snips.interval.low <= worth.mean() <= snips.interval.high
                trusted += snips.is_trusted
                missed += snips.is_trusted and outside
                doubted += not snips.is_trusted
                missed_doubted += outside and not snips.is_trusted
    assert trusted > 150
    assert missed / trusted < 0.10
    assert missed_doubted / doubted > missed / trusted


@pytest.mark.parametrize("logged", [0.0, 1.2, float("nan")])
def test_a_propensity_that_is_none_is_refused(logged: float) -> None:
    with pytest.raises(ValueError, match="propensity"):
        screen([1.0, 0.0], [0.5, logged], [0.5, 0.5])


def test_arrays_must_fit() -> None:
    with pytest.raises(ValueError, match="one place per impression"):
        screen([1.0], [0.5, 0.5], [0.5, 0.5])
