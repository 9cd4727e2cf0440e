"""The first stage: from all items to a few hundred candidates, each with who proposed it.

Rules: every source proposes its best, and what several propose is one candidate with several names. A source that the
mask of an experiment's arm leaves out proposes nothing. What a user has seen or does not want, what is hidden, not yet
published or not safe is no candidate. Sources: three-day and one-day popularity, factors, neighbours, content, new items.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from upeti.feed.experiment import COLLABORATIVE, METADATA, PAID, POPULARITY, STUDENT
from upeti.feed.features import LAST, RECENT, recency
from upeti.feed.profile import Profile
from upeti.feed.state import FeedState

Places = NDArray[np.int64]
Matrix = NDArray[np.float32]
Flags = NDArray[np.bool_]

# source → its bit. The names are what the impression log and the API say.
SOURCES: Final = {"popular": 1, "trending": 2, "als": 4, "neighbours": 8, "content": 16, "new": 32, "words": 64}
_GROUP: Final = {
    "popular": POPULARITY, "trending": POPULARITY, "als": COLLABORATIVE, "neighbours": COLLABORATIVE,
    "content": STUDENT, "new": METADATA, "words": METADATA,
}  # fmt: skip
_EACH: Final = {"popular": 150, "trending": 60, "als": 100, "neighbours": 150, "content": 60, "new": 40, "words": 40}
_INDEXED: Final = 500  # asked of an index: enough that what is left after filters fills its share


class Candidates(NamedTuple):
    """Places, which sources proposed each (bits), and the scores of the sources over all places."""

    places: Places
    sources: NDArray[np.int32]
    scores: dict[str, Matrix]


def retrieve(state: FeedState, profile: Profile, now_s: float, allowed: Flags, mask: frozenset[str]) -> Candidates:
    """Return the candidates of one user; ``allowed`` tells of every place whether it may be shown to them."""
    size = len(state.catalogue)
    sources = np.zeros(size, np.int32)
    scores = user_scores(state, profile, now_s)
    counts = state.counts(now_s)
    if _GROUP["popular"] in mask:
        _take(sources, counts.order, allowed, "popular")
        _take_best(sources, counts.decayed[:, 0].astype(np.float32), allowed, "trending")
    if COLLABORATIVE in mask:
        if "als" in scores:
            _take_best(sources, scores["als"], allowed, "als")
        if "neighbours" in scores:
            _take_best(sources, scores["neighbours"] + scores["neighbours_recent"], allowed, "neighbours")
    if (STUDENT in mask or PAID in mask) and "content" in scores:
        _take_best(sources, scores["content"], allowed, "content")
    places = np.flatnonzero(sources)
    return Candidates(places, sources[places], scores)


def user_scores(state: FeedState, profile: Profile, now_s: float) -> dict[str, Matrix]:
    """Return source → score of every place for a user, kept with the profile until their next event."""
    kept = profile.cache.get("scores")
    if isinstance(kept, tuple) and kept[0] is state.models and kept[1] == len(state.catalogue):
        return kept[2]  # type: ignore[no-any-return]
    scores = _user_scores(state, profile, now_s)
    if len(profile.seen):
        profile.cache["scores"] = (state.models, len(state.catalogue), scores)
    return scores


def _user_scores(state: FeedState, profile: Profile, now_s: float) -> dict[str, Matrix]:
    size = len(state.catalogue)
    history = profile.items()[-RECENT:]
    if not len(history):
        return {}
    weights = recency(profile.at_s()[-RECENT:], now_s)
    scores: dict[str, Matrix] = {}
    models = state.models
    if models.factors is not None:
        values = np.full(size, -1.0, np.float32)
        values[: len(models.factors.items)] = models.factors.items @ models.factors.user(profile.items())
        scores["als"] = values
    if models.neighbours is not None:
        even = np.ones(len(history), np.float32)
        scores["neighbours"] = models.neighbours.scores(history, even / np.float32(len(history)), size)
        scores["neighbours_last"] = models.neighbours.scores(history[-LAST:], even[-LAST:] / np.float32(LAST), size)
        recent = models.neighbours_recent or models.neighbours
        scores["neighbours_recent"] = recent.scores(history, weights / (weights.sum() + 1e-6), size)
    known = state.catalogue.has_vector[history]
    if known.any():
        mine = (state.catalogue.vectors[history[known]] * (weights[known, None] + 1e-3)).sum(0)
        direction = (mine / (np.linalg.norm(mine) + 1e-9)).astype(np.float32)
        if state.index is None:
            scores["content"] = state.catalogue.vectors @ direction
        else:
            near, cosines = state.index.nearest(direction, _INDEXED)
            scores["content"] = np.zeros(size, np.float32)
            scores["content"][near] = cosines
    return scores


def _take(sources: NDArray[np.int32], order: Places, allowed: Flags, source: str) -> None:
    best = order[: 4 * _EACH[source] + 200]
    best = best[allowed[best]][: _EACH[source]]
    sources[best] |= SOURCES[source]


def _take_best(sources: NDArray[np.int32], scores: Matrix, allowed: Flags, source: str) -> None:
    shown = np.where(allowed, scores, -np.inf)
    number = min(_EACH[source], len(shown))
    if not number:
        return
    best = np.argpartition(-shown, number - 1)[:number]
    sources[best[shown[best] > 0]] |= SOURCES[source]
