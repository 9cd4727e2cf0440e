"""`upeti feed demo`: real events played in the order of time, each day ranked before it happened, with a verdict.

Rules: what is shown is what the service would have shown: the same retrieval, features and ranker, trained on the days
before; popularity stands beside it. The verdict is that of the worth report, on a replay: a user's ten best are taken as
ten impressions, and what the user then took of them as engaged events. Users are drawn to two arms; the one with
enrichment has the packaged MiniLM in place of a paid model, at a price that is assumed. Nothing is kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from upeti.core.amount import AmountError, parse_pico
from upeti.core.errors import ConfigError
from upeti.feed.evaluation import NDCG_PLACES, bootstrap, ndcg
from upeti.feed.experiment import FREE, GROUPS, PAID, Arm, Experiment, State, check, user_arm
from upeti.feed.importing import movietweetings
from upeti.feed.items import Feedback
from upeti.feed.lift import Users
from upeti.feed.rank import ALL, Ranker, TrainingSet, popularity, train_ranker
from upeti.feed.replay import DAY_NS, ReplayedFeed, replay
from upeti.feed.state import FeedState
from upeti.feed.worth import ArmUsers, Spent, Worth, judge
from upeti.providers.minilm import MiniLm

WARM_UP_DAYS: Final = 10  # ranked by popularity while there is nothing to train on
REFIT_DAYS: Final = 5
_TRAIN_FEEDS: Final = 4_000
_FEEDS_MIN: Final = 50  # to train on
_TEXTS_AT_ONCE: Final = 256


class Understood(NamedTuple):
    """So many of all texts have been embedded."""

    texts: int
    of: int


class Day(NamedTuple):
    """What one day came to. NDCG@10; None while there is no ranker."""

    day: str
    events: int  # played so far
    events_per_s: float
    feeds: int
    popular: float  # the ranking by the decayed three-day counter
    ranked: float | None  # by the arm that each user was in
    by_arm: dict[str, float]


class Total(NamedTuple):
    """What the whole replay came to."""

    events: int
    events_per_s: float
    feeds: int  # that a trained ranker ranked
    popular: float
    ranked: float
    lift: tuple[float, float, float]  # of the ranker over popularity, relative: mean, low, high, by users
    experiment: Experiment
    worth: Worth


def play(
    folder: Path, days: int, *, price: str = "0.0002", event_value: str = "0.01", embed: bool = True
) -> Iterator[Understood | Day | Total]:
    """Replay the last ``days`` of MovieTweetings: yield how far the texts are, each day as it is over, and the total.

    ``price`` is what enriching one item is taken to cost, ``event_value`` what an engaged event is worth. Raises
    ``ConfigError`` when there are not days enough to learn from, ``ImportingError`` without the data.
    """
    experiment = Experiment(
        "demo", (Arm("free", FREE), Arm("enriched", frozenset(GROUPS))), event_value=event_value, users_planned=1_000,
        state=State.RUNNING,
    )  # fmt: skip
    check(experiment)
    try:
        pico = parse_pico(price)
    except AmountError as error:
        raise ConfigError(f"the price of a film: {error}") from None
    with threadpool_limits(1):
        films, ratings = movietweetings(folder)
        feedback = list(ratings)
        state = FeedState()
        state.put_items(films)
        last_day = feedback[-1].at_ns // DAY_NS
        from_day = last_day - days + 1
        if days <= WARM_UP_DAYS or from_day <= feedback[0].at_ns // DAY_NS:
            raise ConfigError(
                f"{days} days cannot be replayed: the first {WARM_UP_DAYS} are learned from, and there must be some before"
            )
        if embed:
            yield from _embedded(state)
        judged = _Judged(experiment, Spent(pico * len(state.catalogue), len(state.catalogue)))
        yield from _played(state, feedback, from_day, judged)


def _embedded(state: FeedState) -> Iterator[Understood]:
    model = MiniLm()
    size = len(state.catalogue)
    for start in range(0, size, _TEXTS_AT_ONCE):
        places = np.arange(start, min(size, start + _TEXTS_AT_ONCE))
        items = [state.catalogue.item(place) for place in places.tolist()]
        state.catalogue.set_vectors(places, model.embed([item.text if item is not None else "" for item in items]))
        yield Understood(start + len(places), size)


def _played(state: FeedState, feedback: Sequence[Feedback], from_day: int, judged: _Judged) -> Iterator[Day | Total]:
    ended = np.array([one.at_ns // DAY_NS for one in feedback])
    began_s = time.monotonic()
    training, ranker, trained_day = TrainingSet(), None, from_day
    of_day: list[ReplayedFeed] = []

    def over() -> Day:
        events = int(np.searchsorted(ended, of_day[0].day, side="right"))
        return judged.take(of_day, ranker, events, events / (time.monotonic() - began_s))

    for feed in replay(state, feedback, from_day, nights=REFIT_DAYS):
        if of_day and feed.day != of_day[0].day:
            yield over()
            of_day = []
            is_due = ranker is None or feed.day - trained_day >= REFIT_DAYS
            if is_due and feed.day - from_day >= WARM_UP_DAYS and len(training) >= _FEEDS_MIN:
                ranker, trained_day = train_ranker(training, (ALL, FREE), version=str(feed.day)), feed.day
        of_day.append(feed)
        training.add(feed.features, feed.taken)
        training.drop_first(max(0, len(training) - _TRAIN_FEEDS))
    if of_day:
        yield over()
    yield judged.total(len(feedback), time.monotonic() - began_s)


class _Person:
    """What a user of an arm was shown and took."""

    __slots__ = ("before", "events", "impressions")

    def __init__(self, before: int) -> None:
        self.before = before  # what they had done when they came into the experiment
        self.events = self.impressions = 0


class _Judged:
    """Every feed that a trained ranker ranked."""

    def __init__(self, experiment: Experiment, spent: Spent) -> None:
        self._experiment = experiment
        self._spent = spent
        self._users: list[str] = []
        self._ranked: list[float] = []
        self._popular: list[float] = []
        self._people: dict[str, dict[str, _Person]] = {arm.name: {} for arm in experiment.arms}

    def take(self, feeds: Sequence[ReplayedFeed], ranker: Ranker | None, events: int, per_s: float) -> Day:
        """Judge the feeds of one day."""
        day = str(np.datetime_as_string(np.datetime64(feeds[0].day, "D")))
        popular = [_ndcg(feed, popularity(feed.features)) for feed in feeds]
        mean = float(np.mean(popular))
        if ranker is None:
            return Day(day, events, per_s, len(feeds), mean, None, {})
        by_arm: dict[str, list[float]] = {}
        for feed in feeds:
            arm = user_arm(self._experiment, feed.user) or self._experiment.arms[0]
            scores = ranker.score(feed.features, arm.mask)
            value = _ndcg(feed, scores)
            by_arm.setdefault(arm.name, []).append(value)
            self._ranked.append(value)
            self._note(arm.name, feed, scores)
        self._users += [feed.user for feed in feeds]
        self._popular += popular
        ranked = float(np.mean([value for values in by_arm.values() for value in values]))
        arms = {name: float(np.mean(values)) for name, values in sorted(by_arm.items())}
        return Day(day, events, per_s, len(feeds), mean, ranked, arms)

    def _note(self, arm: str, feed: ReplayedFeed, scores: np.ndarray) -> None:
        shown = _best(scores)
        person = self._people[arm].get(feed.user)
        if person is None:
            person = self._people[arm][feed.user] = _Person(feed.positive_count)
        person.impressions += len(shown)
        person.events += int(feed.taken[shown].sum())

    def total(self, events: int, spent_s: float) -> Total:
        if not self._ranked:
            raise ConfigError("nobody came back after the first days: there is nothing to judge; replay more --days")
        ranked, popular = np.array(self._ranked), np.array(self._popular)
        base = float(popular.mean()) or 1.0
        lift = bootstrap((ranked - popular) / base, self._users)
        arms = [ArmUsers(arm, _users(self._people[arm.name].values())) for arm in self._experiment.arms]
        shown = int(sum(arm.users.impressions.sum() for arm in arms))
        worth = judge(self._experiment, arms, {PAID: self._spent}, shown)
        return Total(
            events, events / spent_s, len(ranked), float(popular.mean()), float(ranked.mean()),
            (lift.estimate, lift.low, lift.high), self._experiment, worth,
        )  # fmt: skip


def _users(people: Iterable[_Person]) -> Users:
    kept = list(people)
    columns = [[getattr(one, name) for one in kept] for name in ("events", "impressions", "before")]
    return Users(*(np.array(column, np.float64) for column in columns))


def _best(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[:NDCG_PLACES]


def _ndcg(feed: ReplayedFeed, scores: np.ndarray) -> float:
    taken = [str(place) for place in feed.places[feed.taken]]
    missed = [f"missed-{number}" for number in range(feed.relevant - len(taken))]
    return ndcg([str(place) for place in feed.places[_best(scores)]], taken + missed)
