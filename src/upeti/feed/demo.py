"""`upeti feed demo`: real events replayed in the order of time, ranked before they are known, with a live view.

Rules: what is shown is what the service would have done: the same retrieval, features and ranker, trained on the days
before. Popularity of the last three days stands beside it, and each arm of a simulated experiment: users are drawn to
free features or to all of them. Nothing is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from upeti.core.errors import ConfigError
from upeti.feed.evaluation import bootstrap, ndcg
from upeti.feed.experiment import FREE, GROUPS, Arm, Experiment, State, user_arm
from upeti.feed.importing import movietweetings
from upeti.feed.rank import ALL, Ranker, TrainingSet, popularity, train_ranker
from upeti.feed.replay import DAY_NS, ReplayedFeed, replay
from upeti.feed.state import FeedState

WARM_UP_DAYS: Final = 10  # ranked by popularity while there is nothing to train on
REFIT_DAYS: Final = 5
_TRAIN_FEEDS: Final = 4_000
_EXPERIMENT: Final = Experiment(
    "demo", (Arm("free", FREE), Arm("all", frozenset(GROUPS))), state=State.RUNNING
)  # fmt: skip


class Day(NamedTuple):
    """What one day came to."""

    day: str
    feeds: int
    popular: float  # NDCG@10 of three-day popularity
    ranked: float  # of the arm that each user was in
    by_arm: dict[str, float]


class Total(NamedTuple):
    """What the whole replay came to."""

    events: int
    events_per_s: float
    feeds: int
    popular: float
    ranked: float
    lift: tuple[float, float, float]  # of the ranker over popularity: mean, low, high, by users
    arms: dict[str, float]
    verdict: str


def run(folder: Path, days: int, *, as_json: bool) -> None:
    """Replay the last ``days`` of MovieTweetings. Raises ``ConfigError`` when they are not enough to learn from."""
    screen = Console(stderr=as_json)
    shown: list[Day] = []
    total: Total | None = None
    with Live(_view(shown), console=screen, refresh_per_second=4) as live:
        for one in play(folder, days):
            if isinstance(one, Day):
                shown.append(one)
                live.update(_view(shown))
            else:
                total = one
    assert total is not None
    if as_json:
        print(json.dumps({"days": [one._asdict() for one in shown], **total._asdict()}, indent=2))
        return
    screen.print(
        f"{total.events:,} events at {total.events_per_s:,.0f} a second; {total.feeds:,} feeds ranked.\n"
        f"NDCG@10 {total.ranked:.4f}, three-day popularity {total.popular:.4f}: "
        f"{total.lift[0]:+.1%} (95 %: {total.lift[1]:+.1%} to {total.lift[2]:+.1%}).\n{total.verdict}"
    )


def play(folder: Path, days: int) -> Iterator[Day | Total]:
    """Yield each day as it is over, and the total at the end."""
    films, ratings = movietweetings(folder)
    feedback = list(ratings)
    state = FeedState()
    state.put_items(films)
    last_day = feedback[-1].at_ns // DAY_NS
    from_day = last_day - days + 1
    if days <= WARM_UP_DAYS or from_day <= feedback[0].at_ns // DAY_NS:
        raise ConfigError(f"{days} days cannot be replayed; choose {WARM_UP_DAYS + 2} to 180")
    began_s = time.monotonic()
    training, judged = TrainingSet(), _Judged()
    ranker: Ranker | None = None
    trained_day = from_day
    of_day: list[ReplayedFeed] = []
    for feed in replay(state, feedback, from_day, nights=REFIT_DAYS):
        if of_day and feed.day != of_day[0].day:
            yield judged.take(of_day, state, ranker)
            of_day = []
            if feed.day - from_day >= WARM_UP_DAYS and (ranker is None or feed.day - trained_day >= REFIT_DAYS):
                ranker, trained_day = train_ranker(training, (ALL, FREE), version=str(feed.day)), feed.day
        of_day.append(feed)
        training.add(feed.features, feed.taken)
        if len(training) > _TRAIN_FEEDS:
            training.drop_first(len(training) - _TRAIN_FEEDS)
    if of_day:
        yield judged.take(of_day, state, ranker)
    spent_s = time.monotonic() - began_s
    yield judged.total(len(feedback), spent_s)


class _Judged:
    """Every feed that a trained ranker ranked."""

    def __init__(self) -> None:
        self._users: list[str] = []
        self._arms: list[str] = []
        self._ranked: list[float] = []
        self._popular: list[float] = []

    def take(self, feeds: Sequence[ReplayedFeed], state: FeedState, ranker: Ranker | None) -> Day:
        day = np.datetime_as_string(np.datetime64(feeds[0].day, "D"))
        popular = [_ndcg(feed, popularity(feed.features)) for feed in feeds]
        if ranker is None:
            return Day(str(day), len(feeds), float(np.mean(popular)), float("nan"), {})
        arms = [arm for feed in feeds if (arm := user_arm(_EXPERIMENT, feed.user)) is not None]
        ranked = [_ndcg(feed, ranker.score(feed.features, arm.mask)) for feed, arm in zip(feeds, arms, strict=True)]
        self._users += [feed.user for feed in feeds]
        self._arms += [arm.name for arm in arms]
        self._ranked += ranked
        self._popular += popular
        by_arm = {
            name: float(np.mean([value for value, arm in zip(ranked, arms, strict=True) if arm.name == name]))
            for name in sorted({arm.name for arm in arms})
        }
        return Day(str(day), len(feeds), float(np.mean(popular)), float(np.mean(ranked)), by_arm)

    def total(self, events: int, spent_s: float) -> Total:
        ranked, popular = np.array(self._ranked), np.array(self._popular)
        base = float(popular.mean())
        lift = bootstrap((ranked - popular) / base, self._users)
        arms = {name: float(ranked[[arm == name for arm in self._arms]].mean()) for name in sorted(set(self._arms))}
        return Total(
            events, events / spent_s, len(ranked), base, float(ranked.mean()), (lift.estimate, lift.low, lift.high), arms,
            _verdict(ranked, self._arms, self._users),
        )  # fmt: skip


def _ndcg(feed: ReplayedFeed, scores: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")[:10]
    relevant = [str(place) for place in feed.places[feed.taken]] + [f"missed-{n}" for n in range(feed.relevant)]
    return ndcg([str(place) for place in feed.places[order]], relevant[: feed.relevant])


def _verdict(ranked: np.ndarray, arms: Sequence[str], users: Sequence[str]) -> str:
    """Say whether the arm with all features ranked better than the free one, and whether that is known."""
    means = {}
    for name in ("free", "all"):
        chosen = [place for place, arm in enumerate(arms) if arm == name]
        means[name] = bootstrap(ranked[chosen], [users[place] for place in chosen])
    difference = means["all"].estimate - means["free"].estimate
    half = float(np.hypot(means["all"].high - means["all"].low, means["free"].high - means["free"].low)) / 2
    low, high = difference - half, difference + half
    known = "pay for it only if" if low > 0 else "do not pay for it: nothing shows that"
    return (
        f"Enrichment against free features, users drawn to one or the other: {difference:+.4f} NDCG@10 "
        f"(95 %: {low:+.4f} to {high:+.4f}). Verdict: {known} it ranks better by more than it costs; `upeti feed worth` "
        "says so in money once calls have a price."
    )


def _view(days: Sequence[Day]) -> Table:
    table = Table(title="MovieTweetings, ranked before it happened", header_style="bold", show_edge=False)
    for header in ("day", "feeds", "popularity", "ranker", "free", "all"):
        table.add_column(header, justify="left" if header == "day" else "right")
    for one in days[-25:]:
        cells: list[Any] = [one.day, f"{one.feeds:,}", f"{one.popular:.4f}"]
        cells.append("" if one.ranked != one.ranked else f"{one.ranked:.4f}")
        cells += [f"{one.by_arm[name]:.4f}" if name in one.by_arm else "" for name in ("free", "all")]
        table.add_row(*cells)
    return table
