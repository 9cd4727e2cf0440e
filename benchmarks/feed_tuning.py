"""Parameters of the ranker, chosen on earlier days alone and judged on later ones.

    python -m benchmarks.feed_tuning [--shared ../shared/data] [--share 0.3]

MovieTweetings is replayed day by day as in `benchmarks/feed_quality.py`. The days from the 60th to the 31st before the
last are where parameters are compared; what is best there is judged once on the last 30 days, which no choice has seen,
beside three-day popularity counted in windows. Each ranker is trained on the feeds before its ten days.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import lightgbm
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.feed import CACHE, SHARED
from benchmarks.feed_quality import TRAIN_DAYS, Windows, loaded, ndcg_of
from upeti.feed.evaluation import bootstrap
from upeti.feed.experiment import FREE
from upeti.feed.features import columns_of
from upeti.feed.importing import movietweetings
from upeti.feed.rank import PARAMETERS, ROUNDS
from upeti.feed.replay import DAY_NS, ReplayedFeed, replay

BLOCK_DAYS: Final = 10
BLOCKS: Final = 3  # to choose on, and as many to judge on
NIGHTS: Final = 5  # models are trained anew every so many days
# What is tried: a name, what it changes of the service's parameters, rounds.
TRIED: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "as served": ({}, ROUNDS),
    "31 leaves, rate .06, 150 rounds": ({"num_leaves": 31, "learning_rate": 0.06}, 150),
    "7 leaves, rate .1, 120 rounds": ({"num_leaves": 7}, 120),
    "15 leaves, rate .05, 160 rounds": ({"learning_rate": 0.05}, 160),
    "15 leaves, rate .1, 80 rounds": ({}, 80),
}


class Kept(NamedTuple):
    """A replayed feed, its features of free groups alone, and what popularity came to."""

    day: int
    user: str
    rows: np.ndarray
    taken: np.ndarray
    relevant: int
    popular: float


def collect(shared: Path, share: float, days: int) -> tuple[list[Kept], int]:
    """Replay; return a share of all feeds of the last days and of those before that teach, and the last day."""
    films, ratings = movietweetings(shared / "movietweetings-100k")
    feedback = list(ratings)
    state = loaded(list(films), CACHE / "movietweetings")
    last_day = feedback[-1].at_ns // DAY_NS
    from_day = last_day + 1 - days - TRAIN_DAYS
    draw = np.random.default_rng(5)
    windows = Windows(feedback, state)
    columns = columns_of(FREE)
    kept = []
    for feed in replay(
        state, feedback, from_day, nights=NIGHTS, wanted=lambda _day, _user: bool(draw.random() < share)
    ):
        kept.append(_kept(feed, columns, windows.ndcg(feed, 3, state)))
    return kept, last_day


def _kept(feed: ReplayedFeed, columns: Sequence[int], popular: float) -> Kept:
    return Kept(feed.day, feed.user, feed.features[:, columns], feed.taken, feed.relevant, popular)


def judged(feeds: Sequence[Kept], from_day: int, trained_on: int, changes: dict[str, Any], rounds: int) -> list[float]:
    """Return NDCG@10 of every feed of three blocks of days, each ranked by what its past taught."""
    values = []
    for block in range(BLOCKS):
        first = from_day + block * BLOCK_DAYS
        past = [one for one in feeds if one.day < first and one.taken.any() and not one.taken.all()][-trained_on:]
        train = lightgbm.Dataset(
            np.vstack([one.rows for one in past]),
            np.concatenate([one.taken for one in past]).astype(np.int8),
            group=[len(one.taken) for one in past],
        )
        booster = lightgbm.train(PARAMETERS | changes, train, num_boost_round=rounds)
        for one in feeds:
            if first <= one.day < first + BLOCK_DAYS:
                values.append(ndcg_of(one.taken, np.asarray(booster.predict(one.rows, num_threads=1)), one.relevant))
    return values


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=SHARED, help="The folder of all data sets.")
    parser.add_argument("--share", type=float, default=0.3, help="Share of all feeds that is looked at.")
    parser.add_argument("--trained-on", type=int, default=2_000, help="Feeds that a ranker is trained on.")
    parser.add_argument(
        "--later-only", action="store_true", help="Judge what is served on the later days; choose nothing."
    )
    given = parser.parse_args()
    threadpool_limits(1)
    half = BLOCKS * BLOCK_DAYS
    feeds, last_day = collect(given.shared, given.share, half if given.later_only else 2 * half)
    later = last_day + 1 - half
    best = "as served" if given.later_only else _chosen(feeds, later - half, later, given.trained_on)
    judged_on = [one for one in feeds if later <= one.day]
    popular = np.array([one.popular for one in judged_on])
    print(f"judged on: {len(judged_on):,} feeds of the last days; three-day popularity {popular.mean():.4f}")
    for name in dict.fromkeys((best, "as served")):
        values = np.array(judged(feeds, later, given.trained_on, *TRIED[name]))
        gain = bootstrap((values - popular) / popular.mean(), [one.user for one in judged_on])
        print(f"  {name:<36} {values.mean():.4f}: {gain.estimate:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}]")
    return 0


def _chosen(feeds: Sequence[Kept], earlier: int, later: int, trained_on: int) -> str:
    """Return the name of what ranks best on the earlier days."""
    chosen_on = [one for one in feeds if earlier <= one.day < later]
    print(f"to choose on: {len(chosen_on):,} feeds; three-day popularity {_mean(chosen_on):.4f}", flush=True)
    found = {}
    for name, (changes, rounds) in TRIED.items():
        began_s = time.process_time()
        found[name] = float(np.mean(judged(feeds, earlier, trained_on, changes, rounds)))
        lift = found[name] / _mean(chosen_on) - 1
        print(f"  {name:<36} {found[name]:.4f} ({lift:+.1%})  {time.process_time() - began_s:.0f} s", flush=True)
    return max(found, key=lambda name: found[name])


def _mean(feeds: Sequence[Kept]) -> float:
    return float(np.mean([one.popular for one in feeds]))


if __name__ == "__main__":
    sys.exit(main())
