"""Everything of one tenant that a feed is made from, in memory: a fold over the store.

Rules: the store is the truth, this is made from it at the start and by every event after it was committed. It has one
owner, the event loop; trained parts are swapped in whole. Nothing in here knows of HTTP, files or time: the moment is
passed in, so a replay of the past sees what was known then and no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from upeti.feed.catalogue import Catalogue
from upeti.feed.collaborative import Factors, Neighbours
from upeti.feed.interactions import NEGATIVE_KINDS, Counters, is_positive
from upeti.feed.items import Feedback, Item
from upeti.feed.prior import Prior
from upeti.feed.profile import Profile, Profiles
from upeti.feed.vector_index import VectorIndex, make_index

RARE_EVENTS_MAX: Final = 5.0  # an item with fewer events is one that few have chosen
SCORES_KEPT: Final = 500  # users for whom what the sources say is kept: some 20 KB each, 100 KB at most
COUNTS_FRESH_S: Final = (
    1.0  # so old may the ranking by popularity be; an item's own counter is never old in it for longer
)

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


class Counts(NamedTuple):
    """Counters of all items as of one moment."""

    decayed: Floats  # items × half-lives
    total: Floats
    order: Places  # places by three-day popularity, most popular first
    rank: Floats  # of each place in that order, from 0
    trending: Places  # places by six-hour popularity, those without any left out
    rare: Places  # places that few have chosen, the newest first


class Models(NamedTuple):
    """What is trained over night."""

    factors: Factors | None = None
    neighbours: Neighbours | None = None
    neighbours_recent: Neighbours | None = None


class FeedState:
    """Items, counters, profiles and models of one tenant."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.counters = Counters()
        self.profiles = Profiles()
        self.models = Models()
        self.prior: Prior | None = None
        self.index: VectorIndex | None = None
        self.factors_index: VectorIndex | None = None
        self.sequence = 0  # of the last feedback that was applied
        self._counts: Counts | None = None
        self._counts_at_s = -np.inf
        self._newest: tuple[int, Places] = (-1, np.zeros(0, np.int64))
        self._with_scores: deque[ref[Profile]] = deque()  # a user who is deleted is gone at once
        self._word_shares: tuple[int, NDArray[np.float32]] = (-1, np.zeros(0, np.float32))

    def put_items(self, items: Iterable[Item]) -> None:
        self.catalogue.put(items)
        self.counters.resize(len(self.catalogue))
        self._counts = None

    def apply(self, feedback: Sequence[Feedback]) -> None:
        """Take feedback that was committed, in the order of the log."""
        places = np.array([self.catalogue.place(one.item) for one in feedback], np.int64)
        self.counters.resize(len(self.catalogue))
        positive = np.array([is_positive(one.kind) for one in feedback], np.bool_)
        for one, place, counts in zip(feedback, places.tolist(), positive.tolist(), strict=True):
            self.profiles.of(one.user).add(
                place, one.at_ns / 1e9, one.value, positive=counts, negative=one.kind in NEGATIVE_KINDS
            )
            self.sequence = max(self.sequence, one.sequence)
        self._count(feedback, places, positive, 1.0)

    def take_back(self, user: str, taken: Sequence[Feedback], left: Sequence[Feedback]) -> None:
        """Undo feedback of one user that left the log; ``left`` is all that they have in it now, in its order."""
        places = np.array([self.catalogue.place(one.item) for one in taken], np.int64)
        positive = np.array([is_positive(one.kind) for one in taken], np.bool_)
        self._count(taken, places, positive, -1.0)
        profiling = self.profiles.get(user).profiling
        self.profiles.drop(user)
        if left or not profiling:
            profile = self.profiles.of(user)
            profile.profiling = profiling
            for one in left:
                profile.add(
                    self.catalogue.place(one.item), one.at_ns / 1e9, one.value,
                    positive=is_positive(one.kind), negative=one.kind in NEGATIVE_KINDS,
                )  # fmt: skip

    def counts(self, now_s: float) -> Counts:
        """Return all counters as of ``now_s``, or of up to `COUNTS_FRESH_S` before."""
        kept = self._counts
        if (
            kept is not None
            and 0 <= now_s - self._counts_at_s < COUNTS_FRESH_S
            and len(kept.total) == len(self.catalogue)
        ):
            return kept
        decayed = self.counters.decayed(slice(None), now_s)
        total = self.counters.total(slice(None))
        # What the last days do not tell apart, all time does.
        popular = decayed[:, 2] + 1e-6 * total
        order = np.concatenate([_descending(popular), np.flatnonzero(popular == 0)])
        rank = np.empty(len(order))
        rank[order] = np.arange(len(order))
        newest = self._newest_first()
        rare = newest[total[newest] < RARE_EVENTS_MAX]
        self._counts = Counts(decayed, total, order, rank, _descending(decayed[:, 0]), rare)
        self._counts_at_s = now_s
        return self._counts

    def keep_scores_of(self, profile: Profile) -> None:
        """Keep what was computed of a user; with too much of it, forget what was computed first."""
        self._with_scores.append(ref(profile))
        while len(self._with_scores) > SCORES_KEPT:
            if (first := self._with_scores.popleft()()) is not None:
                first.scores = None

    def forget_counts(self) -> None:
        """Have the next feed see the counters as they are now."""
        self._counts = None

    def index_vectors(self) -> None:
        """Index vectors and factors, where there are so many that comparing them all takes too long."""
        self.catalogue.reduce()
        self.index = make_index(self.catalogue.vectors, self.catalogue.has_vector)
        factors = self.models.factors
        self.factors_index = None
        if factors is not None:
            self.factors_index = make_index(factors.items, np.asarray(factors.items.any(1)))

    def word_shares(self) -> NDArray[np.float32]:
        """Return the share of items that has each word."""
        version, shares = self._word_shares
        words = self.catalogue.word_count
        if len(shares) < words or self.catalogue.version - version > max(100, len(self.catalogue) // 20):
            counted = np.bincount(self.catalogue.words.ravel(), minlength=words) / max(len(self.catalogue), 1)
            self._word_shares = (self.catalogue.version, counted.astype(np.float32))
        return self._word_shares[1]

    def _newest_first(self) -> Places:
        version, places = self._newest
        if version != self.catalogue.version or len(places) != len(self.catalogue):
            places = np.argsort(-self.catalogue.at_s, kind="stable")
            self._newest = (self.catalogue.version, places)
        return places

    def _count(self, feedback: Sequence[Feedback], places: Places, positive: NDArray[np.bool_], sign: float) -> None:
        if not positive.any():
            return
        at_s = np.array([one.at_ns / 1e9 for one in feedback])[positive]
        values = np.array([one.value for one in feedback])[positive]
        self.counters.add(places[positive], at_s, values, sign)
        if self._counts is not None and len(self._counts.total) != len(self.catalogue):
            self._counts = None


def _descending(values: Floats) -> Places:
    """Return the places of what is above 0, highest first, equal ones in their order."""
    places = np.flatnonzero(values > 0)
    return places[np.argsort(-values[places], kind="stable")]


Clock = Callable[[], float]  # seconds since 1970
