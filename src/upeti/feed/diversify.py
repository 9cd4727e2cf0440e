"""From a ranking to a list: like things apart, creators capped, and a few places left to chance.

Rules: maximal marginal relevance (Carbonell and Goldstein 1998) over the best candidates; a creator has at most so many
places of one list. Exploration is drawn at fixed places from a pool apart from the list, so the probability of every item
at its place is known and logged: that is what off-policy estimates divide by.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]
Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

POOL: Final = 60  # candidates that diversity may choose from
_LATE: Final = -1e6  # behind everything else; scores are brought to 0 to 1
EXPLORED_FIRST: Final = 4  # the fifth place, and every tenth after it
EXPLORED_EVERY: Final = 10


class Chosen(NamedTuple):
    """One place of the list."""

    at: int  # into the candidates, or into the pool when it is explored
    is_explored: bool
    propensity: float
    arm: str = ""  # whose pick it is in an interleaved list


def diversify(
    scores: Floats,
    vectors: Matrix,
    places: Places,
    creators: NDArray[np.int32],
    number: int,
    *,
    balance: float,
    per_creator: int,
) -> list[int]:
    """Return indexes of up to ``number`` candidates in the order in which they are shown.

    ``vectors`` are of all items, ``places`` those of the candidates. ``balance`` 0 is the ranking itself; 1 looks at nothing
    but difference. ``creators`` below 0 are unknown and have no cap. Candidates whose creator is at its cap come after all
    others, so a list is never shorter than it could be.
    """
    order = np.argsort(-scores, kind="stable")[: max(POOL, 2 * number)]
    if not len(order):
        return []
    spread = float(scores[order[0]] - scores[order[-1]]) or 1.0
    value = (1 - balance) * (scores[order] - scores[order[-1]]) / spread
    alike = _alike(vectors, places[order]) if balance else None
    nearest = np.zeros(len(order))
    made_by = creators[order]
    used: dict[int, int] = {}
    chosen: list[int] = []
    while len(chosen) < min(number, len(order)):
        best = int(np.argmax(value - balance * nearest))
        creator = int(made_by[best])
        if creator >= 0 and used.get(creator, 0) >= per_creator and _put_off(value, made_by, used, per_creator):
            continue
        used[creator] = used.get(creator, 0) + 1
        chosen.append(int(order[best]))
        value[best] = -np.inf
        if alike is not None:
            nearest = np.maximum(nearest, alike[best])
    return chosen


def _alike(vectors: Matrix, places: Places) -> Matrix:
    rows = vectors[places]
    return np.asarray(rows @ rows.T)


def _put_off(value: Floats, made_by: NDArray[np.int32], used: dict[int, int], per_creator: int) -> bool:
    """Put everything of creators at their cap behind the rest; tell whether that changed anything."""
    full = np.array([creator for creator, number in used.items() if creator >= 0 and number >= per_creator])
    late = np.isin(made_by, full) & (value > _LATE / 2)
    value[late] += _LATE
    return bool(late.any())


def explore(listed: Sequence[int], pool: int, share: float, draw: Random) -> list[Chosen]:
    """Leave some places of a list to chance: each of them, with probability ``share``, to one of ``pool`` others.

    Which other stands ready for a place is drawn first, without looking at the other draws, so an item's probability at a
    place is ``share / pool``, whatever came before.
    """
    open_places = list(range(EXPLORED_FIRST, len(listed), EXPLORED_EVERY)) if share > 0 else []
    ready = dict(zip(open_places, draw.sample(range(pool), min(pool, len(open_places))), strict=False))
    made = []
    for rank, at in enumerate(listed):
        if rank not in ready:
            made.append(Chosen(at, False, 1.0))
        elif draw.random() < share:
            made.append(Chosen(ready[rank], True, share / pool))
        else:
            made.append(Chosen(at, False, 1.0 - share))
    return made
