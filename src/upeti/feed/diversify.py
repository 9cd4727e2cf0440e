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

POOL: Final = 100  # candidates that diversity may choose from
EXPLORED_FIRST: Final = 4  # the fifth place, and every tenth after it
EXPLORED_EVERY: Final = 10


class Chosen(NamedTuple):
    """One place of the list."""

    at: int  # into the candidates, or into the pool when it is explored
    is_explored: bool
    propensity: float


def diversify(
    scores: Floats, vectors: Matrix, creators: NDArray[np.int32], number: int, *, balance: float, per_creator: int
) -> list[int]:
    """Return indexes of up to ``number`` candidates in the order in which they are shown.

    ``balance`` 0 is the ranking itself; 1 looks at nothing but difference. ``creators`` below 0 are unknown and have no cap.
    Candidates whose creator is at its cap come after all others, so a list is never shorter than it could be.
    """
    order = np.argsort(-scores, kind="stable")[: max(POOL, 2 * number)]
    if not len(order):
        return []
    spread = float(scores[order[0]] - scores[order[-1]]) or 1.0
    gain = (scores[order] - scores[order[-1]]) / spread
    rows = vectors[order]
    nearest = np.zeros(len(order))
    left = np.ones(len(order), np.bool_)
    used: dict[int, int] = {}
    chosen: list[int] = []
    while len(chosen) < min(number, len(order)):
        value = (1 - balance) * gain - balance * nearest
        free = left & ~_capped(creators[order], used, per_creator)
        best = int(np.argmax(np.where(free if free.any() else left, value, -np.inf)))
        chosen.append(int(order[best]))
        left[best] = False
        creator = int(creators[order[best]])
        used[creator] = used.get(creator, 0) + 1
        if balance:
            nearest = np.maximum(nearest, rows @ rows[best])
    return chosen


def _capped(creators: NDArray[np.int32], used: dict[int, int], per_creator: int) -> NDArray[np.bool_]:
    full = [creator for creator, number in used.items() if creator >= 0 and number >= per_creator]
    return np.isin(creators, full) if full else np.zeros(len(creators), np.bool_)


def explore(listed: Sequence[int], pool: int, share: float, draw: Random) -> list[Chosen]:
    """Leave some places of a list to chance: each of them, with probability ``share``, to one of ``pool`` others.

    The order of the pool is drawn once, so an item's probability at a place is ``share / pool``, whatever came before.
    """
    deck = list(range(pool))
    draw.shuffle(deck)
    made = []
    for rank, index in enumerate(listed):
        if share <= 0 or not pool or rank % EXPLORED_EVERY != EXPLORED_FIRST:
            made.append(Chosen(index, False, 1.0))
        elif deck and draw.random() < share:
            made.append(Chosen(deck.pop(), True, share / pool))
        else:
            made.append(Chosen(index, False, 1.0 - share))
    return made
