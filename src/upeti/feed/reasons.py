"""Why something is in a feed, in words for the person who sees it (Digital Services Act, articles 27 and 38).

Rules: a reason is true of this item and this person: it names the source that proposed it and, where there is one, the
thing they did that weighed most. It never guesses at the person. Without profiling it says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from upeti.feed.items import Item
from upeti.feed.profile import Profile
from upeti.feed.retrieval import SOURCES
from upeti.feed.state import FeedState

_HISTORY: Final = 20
_SIMILAR_MIN: Final = 0.35  # a cosine of MiniLM below it is no likeness that a person would see
# What the code of a reason means; `{title}` is something the person did.
TEXTS: Final[dict[str, str]] = {
    "explored": "New or rarely shown: we sometimes try something out.",
    "neighbour_of": "Because you chose {title}: people who did often choose this too.",
    "similar_to": "Similar to {title}, which you chose.",
    "liked_by_like": "People who choose what you choose often choose this.",
    "content": "Similar to what you chose lately.",
    "trending": "Many people chose this in the last hours.",
    "popular": "Popular in the last days.",
    "new": "New here.",
    "not_profiled": "Popular in the last days. Nothing about you was used.",
    "ranked": "Ranked by what you chose and what is popular.",
}


class Reason(NamedTuple):
    """Why; ``about`` is the item of theirs that the text names, or empty."""

    code: str
    text: str
    about: str


_NAMES: Final = [
    tuple(name for name, bit in SOURCES.items() if sources & bit) for sources in range(2 * max(SOURCES.values()))
]
_PLAIN: Final = {code: Reason(code, text, "") for code, text in TEXTS.items() if "{" not in text}


class Reasons:
    """Gives the reasons of one user's feed."""

    def __init__(self, state: FeedState, profile: Profile, *, profiled: bool) -> None:
        self._state = state
        self._profiled = profiled
        self._history = profile.recent(_HISTORY)
        neighbours = state.models.neighbours
        self._mine = self._history[self._history < (0 if neighbours is None else len(neighbours.places))]
        if neighbours is not None:
            self._near, self._similar = neighbours.places[self._mine], neighbours.similarities[self._mine]
        known = self._history[state.catalogue.has_vector[self._history]]
        self._known, self._vectors = known, state.catalogue.vectors[known]

    def of(self, place: int, sources: int, *, explored: bool = False) -> Reason:
        """Return the one reason that weighed most for an item that these sources proposed."""
        if explored:
            return _PLAIN["explored"]
        if not self._profiled:
            return _PLAIN["not_profiled"]
        if sources & SOURCES["neighbours"] and len(self._mine):
            near = self._nearest_neighbour(place)
            if near is not None:
                return self._about("neighbour_of", near)
        if sources & SOURCES["content"]:
            like = self._most_similar(place)
            return self._about("similar_to", like) if like is not None else _PLAIN["content"]
        if sources & SOURCES["als"]:
            return _PLAIN["liked_by_like"]
        for source in ("trending", "popular", "new"):
            if sources & SOURCES[source]:
                return _PLAIN[source]
        return _PLAIN["ranked"]

    def _nearest_neighbour(self, place: int) -> int | None:
        rows, columns = np.nonzero(self._near == place)
        if not len(rows):
            return None
        best = int(np.argmax(self._similar[rows, columns]))
        return int(self._mine[rows[best]]) if self._similar[rows[best], columns[best]] > 0 else None

    def _most_similar(self, place: int) -> int | None:
        if not len(self._known):
            return None
        similar = self._vectors @ self._state.catalogue.vectors[place]
        best = int(np.argmax(similar))
        return int(self._known[best]) if similar[best] >= _SIMILAR_MIN else None

    def _about(self, code: str, place: int) -> Reason:
        name = self._state.catalogue.ids[place]
        title = title_of(self._state.catalogue.item(place)) or name
        return Reason(code, TEXTS[code].format(title=title), name)


def names(sources: int) -> tuple[str, ...]:
    """Return the names of sources from their bits."""
    return _NAMES[sources]


def title_of(item: Item | None) -> str:
    if item is None:
        return ""
    labels = item.labels if isinstance(item.labels, Mapping) else {}
    return str(labels.get("title") or item.comment[:80] or item.id)
