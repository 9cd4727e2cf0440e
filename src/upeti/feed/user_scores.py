"""What the sources say of items for one user: factors, neighbours, nearness of texts.

Rules: what is asked is answered for the places asked about, never for all: a score of every item for every user is what
takes the time and the memory of a large catalogue. The best of all items are found once and kept, until the user's next
event, for the users who came last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from upeti.feed.arrays import best_of
from upeti.feed.collaborative import Neighbours
from upeti.feed.interactions import DAY_S
from upeti.feed.profile import Profile
from upeti.feed.state import FeedState, Models

RECENT: Final = 50  # events that describe what a user is after now
LAST: Final = 5
_RECENT_HALF_LIFE_S: Final = 7 * DAY_S
_BEST: Final = 600  # kept of the best: enough that what is left after filters nearly always fills the share
NEAR: Final = ("neighbours", "neighbours_last", "neighbours_recent")

Places = NDArray[np.int64]
Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]
Flags = NDArray[np.bool_]
Nearest = Callable[[Matrix, int], tuple[Places, Matrix]]


class Sparse(NamedTuple):
    """A value for some places, in their order; 0 for all others."""

    places: Places
    values: Matrix

    def at(self, places: Places) -> Matrix:
        if not len(self.places):
            return np.zeros(len(places), np.float32)
        found = np.minimum(np.searchsorted(self.places, places), len(self.places) - 1)
        return np.where(self.places[found] == places, self.values[found], np.float32(0))


class UserScores:
    """Of one user as of one moment."""

    def __init__(self, state: FeedState, profile: Profile, now_s: float) -> None:
        self.models: Models = state.models
        self._vectors_index = state.index
        self._factors_index = state.factors_index
        self._catalogue = state.catalogue
        self.size = len(state.catalogue)
        self._factors: Matrix | None = None
        self._direction: Matrix | None = None
        self._near: dict[str, Sparse] = {}
        self._best: dict[str, Places] = {}
        history = profile.items()[-RECENT:]
        if not len(history):
            return
        weights = recency(profile.at_s()[-RECENT:], now_s)
        if self.models.factors is not None:
            self._factors = self.models.factors.user(profile.items())
        if self.models.neighbours is not None:
            self._near = _near(self.models, self.models.neighbours, history, weights)
        known = self._catalogue.has_vector[history]
        if known.any():
            mine = (self._catalogue.vectors[history[known]] * (weights[known, None] + 1e-3)).sum(0)
            self._direction = (mine / (np.linalg.norm(mine) + 1e-9)).astype(np.float32)

    def at(self, source: str, places: Places) -> Matrix | None:
        """Return the score of each place by ``als`` or one of `NEAR`; None when the source knows nothing of the user."""
        if source in self._near:
            return self._near[source].at(places)
        if source != "als" or self._factors is None or self.models.factors is None:
            return None
        items = self.models.factors.items
        scores = np.full(len(places), -1.0, np.float32)
        known = places < len(items)
        scores[known] = items[places[known]] @ self._factors
        return scores

    def nearest_factors(self, allowed: Flags, number: int) -> Places:
        if self._factors is None or self.models.factors is None:
            return np.zeros(0, np.int64)
        factors, index = self.models.factors, self._factors_index
        nearest = factors.nearest if index is None else index.nearest
        return self._nearest("als", factors.items, self._factors, nearest, allowed, number)

    def nearest_content(self, allowed: Flags, number: int) -> Places:
        if self._direction is None:
            return np.zeros(0, np.int64)
        index = self._vectors_index
        nearest = self._catalogue.nearest if index is None else index.nearest
        return self._nearest("content", self._catalogue.vectors, self._direction, nearest, allowed, number)

    def nearest_neighbours(self, allowed: Flags, number: int) -> Places:
        if not self._near:
            return np.zeros(0, np.int64)
        both = [self._near["neighbours"], self._near["neighbours_recent"]]
        places = np.union1d(both[0].places, both[1].places)
        places = places[allowed[places]]
        return places[best_of(both[0].at(places) + both[1].at(places), number)]

    def _nearest(
        self, source: str, rows: Matrix, direction: Matrix, nearest: Nearest, allowed: Flags, number: int
    ) -> Places:
        best = self._best.get(source)
        if best is None:
            best = self._best[source] = nearest(direction, _BEST)[0]
        found = first_of(best, allowed, number)
        if len(found) == number or len(best) < _BEST:
            return found
        places = np.flatnonzero(allowed[: len(rows)])  # most of the best were filtered out: look at what was not
        return places[best_of(rows[places] @ direction, number)]


def user_scores(state: FeedState, profile: Profile, now_s: float) -> UserScores:
    """Return what the sources say for a user; of the users who came last it is kept."""
    kept = profile.scores
    if isinstance(kept, UserScores) and kept.models is state.models and kept.size == len(state.catalogue):
        return kept
    scores = UserScores(state, profile, now_s)
    if profile.seen:
        profile.scores = scores
        state.keep_scores_of(profile)
    return scores


def recency(at_s: Floats, now_s: float) -> Matrix:
    """Return the weight of each event of a history: a half after each week, the newest ones near 1."""
    return np.exp2(-np.maximum(now_s - at_s, 0.0) / _RECENT_HALF_LIFE_S).astype(np.float32)


def first_of(order: Places, allowed: Flags, number: int) -> Places:
    """Return the first ``number`` of ``order`` that are allowed."""
    found = order[:0]
    for looked_at in (4 * number + 200, len(order)):  # the first look is enough unless most are not allowed
        found = order[:looked_at]
        found = found[allowed[found]][:number]
        if len(found) == number or looked_at >= len(order):
            break
    return found


def _near(models: Models, neighbours: Neighbours, history: Places, weights: Matrix) -> dict[str, Sparse]:
    last = np.zeros(len(history), np.float32)
    last[-LAST:] = 1 / LAST
    even = np.full(len(history), 1 / len(history), np.float32)
    recent = models.neighbours_recent or neighbours
    places, (of_all, of_last) = neighbours.scores(history, (even, last))
    places_recent, (of_recent,) = recent.scores(history, (weights / (weights.sum() + 1e-6),))
    return dict(
        zip(NEAR, (Sparse(places, of_all), Sparse(places, of_last), Sparse(places_recent, of_recent)), strict=True)
    )
