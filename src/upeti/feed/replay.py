"""The past, day by day, as the feed would have seen it: for training a ranker, for judging it, and for the demo.

Rules: the same code ranks here and in the service. A day is ranked by what was known when it began; the models of the
night before were trained on what lay before that. Nothing of an item is used that was not there yet: no counter, no model,
no date. What a user took on a day out of the candidates is what they liked; the rest of the candidates is what they left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from upeti.feed.collaborative import event_matrix, train_factors, train_neighbours
from upeti.feed.experiment import GROUPS
from upeti.feed.features import features_of
from upeti.feed.interactions import DAY_S, is_positive
from upeti.feed.items import Feedback
from upeti.feed.prior import train_prior
from upeti.feed.retrieval import retrieve
from upeti.feed.state import FeedState, Models

ALL: Final = frozenset(GROUPS)
RECENT_DAYS: Final = 30  # of the neighbours that follow the season
SHRINKAGE: Final = 5.0
DAY_NS: Final = 86_400 * 10**9
_PRIOR_AGE_S: Final = 3 * DAY_S  # an item had its chance after so long

Matrix = NDArray[np.float32]
Places = NDArray[np.int64]


class ReplayedFeed(NamedTuple):
    """One user's candidates at the beginning of a day, and what they then took."""

    day: int
    user: str
    places: Places
    sources: NDArray[np.int32]
    features: Matrix
    taken: NDArray[np.bool_]  # of each candidate
    relevant: int  # how many items they took, candidates or not
    positive_count: int = 0  # events of theirs before


class EventLog:
    """Positive events as arrays, for training over night."""

    def __init__(self) -> None:
        self._user_of: dict[str, int] = {}
        self._users: list[int] = []
        self._items: list[int] = []
        self._at_s: list[float] = []

    def add(self, state: FeedState, feedback: Sequence[Feedback]) -> None:
        for one in feedback:
            if is_positive(one.kind):
                self._users.append(self._user_of.setdefault(one.user, len(self._user_of)))
                self._items.append(state.catalogue.place(one.item))
                self._at_s.append(one.at_ns / 1e9)

    def train(self, size: int, now_s: float) -> Models:
        """Train what is trained over night, from everything that was added; ``size`` is the number of items."""
        users, items = np.array(self._users, np.int64), np.array(self._items, np.int64)
        if not len(items):
            return Models()
        shape = (len(self._user_of), size)
        ones = np.ones(len(items), np.float32)
        events = event_matrix(users, items, ones, shape)
        recent = np.array(self._at_s) > now_s - RECENT_DAYS * DAY_S
        latest = event_matrix(users[recent], items[recent], ones[recent], shape)
        return Models(
            train_factors(events),
            train_neighbours(events, shrinkage=SHRINKAGE),
            train_neighbours(latest, bm25=False, shrinkage=SHRINKAGE),
        )


def train_night(state: FeedState, log: EventLog, now_s: float) -> None:
    """Give ``state`` the models and the prior of a night."""
    state.models = log.train(len(state.catalogue), now_s)
    total = state.counters.total(slice(None))
    first_s = state.counters.first_s(slice(None))
    chance = np.where(first_s < now_s - _PRIOR_AGE_S, total, np.nan)
    state.prior = train_prior(state.catalogue.vectors, state.catalogue.has_vector, chance)
    state.forget_counts()


def train_at_night(state: FeedState, log: EventLog, day: int) -> None:
    """Train before ``day``, in days since 1970."""
    train_night(state, log, day * DAY_S)


Night = Callable[[FeedState, EventLog, int], None]


def by_day(feedback: Sequence[Feedback]) -> Iterator[tuple[int, list[Feedback]]]:
    """Yield (day since 1970, its feedback) in order of time."""
    days: dict[int, list[Feedback]] = {}
    for one in feedback:
        days.setdefault(one.at_ns // DAY_NS, []).append(one)
    yield from sorted(days.items())


def replay(
    state: FeedState,
    feedback: Sequence[Feedback],
    from_day: int,
    *,
    nights: int = 1,
    night: Night | None = None,
    wanted: Callable[[int, str], bool] = lambda _day, _user: True,
) -> Iterator[ReplayedFeed]:
    """Play ``feedback`` into ``state``; from ``from_day`` on yield the feed of everyone who took something that day.

    Only users who had done something before have a feed to judge. Models are trained before the first day and
    every ``nights`` of the calendar, by ``night``. ``state`` holds the items and nothing else at the beginning, and
    everything at the end.
    """
    log = EventLog()
    trained = False
    for day, of_day in by_day(feedback):
        if day >= from_day:
            now_s = day * DAY_S
            if not trained or day % nights == 0:
                (night or train_at_night)(state, log, day)
                trained = True
            yield from _feeds(state, of_day, day, now_s, wanted)
        state.apply(of_day)
        log.add(state, of_day)


def _feeds(
    state: FeedState, of_day: Sequence[Feedback], day: int, now_s: float, wanted: Callable[[int, str], bool]
) -> Iterator[ReplayedFeed]:
    taken: dict[str, set[int]] = {}
    for one in of_day:
        if is_positive(one.kind):
            place = state.catalogue.find(one.item)
            if place is not None:
                taken.setdefault(one.user, set()).add(place)
    shown = state.catalogue.can_be_shown(now_s + DAY_S)
    for user, items in taken.items():
        profile = state.profiles.get(user)
        new = items - profile.seen
        if not profile.positive_count or not new or not wanted(day, user):
            continue
        allowed = shown.copy()
        allowed[list(profile.seen)] = False
        found = retrieve(state, profile, now_s, allowed, ALL)
        rows = features_of(state, profile, found.places, now_s, found.scores)
        yield ReplayedFeed(
            day, user, found.places, found.sources, rows, np.isin(found.places, list(new)), len(new),
            profile.positive_count,
        )  # fmt: skip
