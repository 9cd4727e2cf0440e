"""The first stage: from all items to a few hundred candidates, each with who proposed it.

Rules: every source proposes its best, and what several propose is one candidate with several names. A source that the
mask of an experiment's arm leaves out proposes nothing. What a user has seen or does not want, what is hidden, not yet
published or not safe is no candidate. Sources: three-day and six-hour popularity, factors, neighbours, content.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from upeti.feed.experiment import COLLABORATIVE, PAID, POPULARITY, STUDENT
from upeti.feed.profile import Profile
from upeti.feed.state import FeedState
from upeti.feed.user_scores import UserScores, first_of, user_scores

Places = NDArray[np.int64]
Flags = NDArray[np.bool_]

# source → its bit. The names are what the impression log and the API say.
SOURCES: Final = {"popular": 1, "trending": 2, "als": 4, "neighbours": 8, "content": 16, "new": 32, "words": 64}
_EACH: Final = {"popular": 150, "trending": 60, "als": 100, "neighbours": 150, "content": 60}


_GROUPS: Final = {
    "popular": {POPULARITY}, "trending": {POPULARITY}, "als": {COLLABORATIVE}, "neighbours": {COLLABORATIVE},
    "content": {STUDENT, PAID},
}  # fmt: skip


class Candidates(NamedTuple):
    """Places, which sources proposed each (bits), and what the sources say of any place."""

    places: Places
    sources: NDArray[np.int32]
    scores: UserScores


def retrieve(state: FeedState, profile: Profile, now_s: float, allowed: Flags, mask: frozenset[str]) -> Candidates:
    """Return the candidates of one user; ``allowed`` tells of every place whether it may be shown to them."""
    sources = np.zeros(len(state.catalogue), np.int32)
    scores = user_scores(state, profile, now_s)
    may = sources_of(mask)
    if may & SOURCES["popular"]:
        counts = state.counts(now_s)
        _take(sources, counts.order, allowed, "popular")
        _take(sources, counts.trending, allowed, "trending")
    if may & SOURCES["als"]:
        sources[scores.nearest_factors(allowed, _EACH["als"])] |= SOURCES["als"]
        sources[scores.nearest_neighbours(allowed, _EACH["neighbours"])] |= SOURCES["neighbours"]
    if may & SOURCES["content"]:
        sources[scores.nearest_content(allowed, _EACH["content"])] |= SOURCES["content"]
    places = np.flatnonzero(sources)
    return Candidates(places, sources[places], scores)


def sources_of(mask: frozenset[str]) -> int:
    """Return the bits of the sources that may propose under a mask."""
    return sum(SOURCES[source] for source, groups in _GROUPS.items() if groups & mask)


def _take(sources: NDArray[np.int32], order: Places, allowed: Flags, source: str) -> None:
    sources[first_of(order, allowed, _EACH[source])] |= SOURCES[source]
