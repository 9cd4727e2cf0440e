"""Why something is in a feed, in words for the person who sees it (Digital Services Act, articles 27 and 38).

Rules: a reason is true of this item and this person: it names the source that proposed it and, where there is one, the
thing they did that weighed most. It never guesses at the person. Without profiling it says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from upeti.feed.collaborative import Neighbours
from upeti.feed.items import Item
from upeti.feed.profile import Profile
from upeti.feed.retrieval import SOURCES
from upeti.feed.state import FeedState

Places = NDArray[np.int64]

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


def reason_of(
    state: FeedState, profile: Profile, place: int, sources: int, *, explored: bool, profiled: bool
) -> Reason:
    """Return the one reason that weighed most."""
    if explored:
        return _plain("explored")
    if not profiled:
        return _plain("not_profiled")
    history = profile.recent(_HISTORY)
    if sources & SOURCES["neighbours"] and state.models.neighbours is not None:
        near = _nearest_neighbour(state.models.neighbours, history, place)
        if near is not None:
            return _about(state, "neighbour_of", near)
    if sources & SOURCES["content"]:
        like = _most_similar(state, history, place)
        return _about(state, "similar_to", like) if like is not None else _plain("content")
    if sources & SOURCES["als"]:
        return _plain("liked_by_like")
    for source in ("trending", "popular", "new"):
        if sources & SOURCES[source]:
            return _plain(source)
    return _plain("ranked")


def names(sources: int) -> tuple[str, ...]:
    """Return the names of sources from their bits."""
    return tuple(name for name, bit in SOURCES.items() if sources & bit)


def title_of(item: Item | None) -> str:
    if item is None:
        return ""
    labels = item.labels if isinstance(item.labels, Mapping) else {}
    return str(labels.get("title") or item.comment[:80] or item.id)


def _nearest_neighbour(neighbours: Neighbours, history: Places, place: int) -> int | None:
    mine = history[history < len(neighbours.places)]
    weights = np.where(neighbours.places[mine] == place, neighbours.similarities[mine], 0.0).max(1, initial=0.0)
    best = int(np.argmax(weights)) if len(mine) else 0
    return int(mine[best]) if len(mine) and weights[best] > 0 else None


def _most_similar(state: FeedState, history: Places, place: int) -> int | None:
    catalogue = state.catalogue
    known = history[catalogue.has_vector[history]]
    if not len(known):
        return None
    similar = catalogue.vectors[known] @ catalogue.vectors[place]
    best = int(np.argmax(similar))
    return int(known[best]) if similar[best] >= _SIMILAR_MIN else None


def _plain(code: str) -> Reason:
    return Reason(code, TEXTS[code], "")


def _about(state: FeedState, code: str, place: int) -> Reason:
    title = title_of(state.catalogue.item(place)) or state.catalogue.ids[place]
    return Reason(code, TEXTS[code].format(title=title), state.catalogue.ids[place])
