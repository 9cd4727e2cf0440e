"""Who liked this also liked that: factors by alternating least squares, neighbours by BM25 and cosine.

Rules: both are trained from the log as a whole (nightly) and never in the request path. A user's factors are folded in
from their newest events at the time of the request. An item that came after the training has neither, and other sources
speak for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from upeti.feed.arrays import best_of

FACTORS: Final = 64
NEIGHBOURS: Final = 64
_ALPHA: Final = 10.0  # confidence of an event over no event
_REGULARISATION: Final = 5.0
_ITERATIONS: Final = 12
_SEED: Final = 7

Matrix = NDArray[np.float32]
Places = NDArray[np.int64]


class Neighbours:
    """Each item's nearest items: places and similarities, items × `NEIGHBOURS`, zero where there are fewer."""

    def __init__(self, places: NDArray[np.int32], similarities: Matrix) -> None:
        self.places = places
        self.similarities = similarities

    def scores(self, items: Places, weights: Sequence[Matrix]) -> tuple[Places, list[Matrix]]:
        """Return the neighbours of ``items``, in the order of places, and the sum of each one's similarities to them.

        A sum for each of ``weights``, which are of ``items``.
        """
        known = items < len(self.places)
        near = self.similarities[items[known]]
        places, of = np.unique(self.places[items[known]].ravel(), return_inverse=True)
        sums = [np.bincount(of, (near * each[known, None]).ravel(), len(places)) for each in weights]
        return places.astype(np.int64), [each.astype(np.float32) for each in sums]


class Factors:
    """Item factors; a user is folded in."""

    def __init__(self, items: Matrix) -> None:
        self.items = items
        self._gram = items.T @ items + _REGULARISATION * np.eye(items.shape[1], dtype=np.float32)

    def nearest(self, user: Matrix, number: int) -> tuple[Places, Matrix]:
        """Return the ``number`` items with the highest scores above 0 for a user's factors, best first."""
        scores = self.items @ user
        places = best_of(scores, number)
        places = places[np.argsort(-scores[places], kind="stable")]
        return places, scores[places]

    def user(self, items: Places) -> Matrix:
        """Return the factors of a user with these events (Hu, Koren, Volinsky 2008, equation 4)."""
        mine = self.items[items[items < len(self.items)]]
        left = self._gram + _ALPHA * (mine.T @ mine)
        return np.asarray(np.linalg.solve(left, (1 + _ALPHA) * mine.sum(0)), np.float32)


def event_matrix(users: Places, items: Places, weights: Matrix, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Return users × items, several events of one pair added up."""
    return sparse.csr_matrix((weights, (users, items)), shape=shape, dtype=np.float32)


def train_factors(events: sparse.csr_matrix, factors: int = FACTORS) -> Factors:
    from implicit.als import AlternatingLeastSquares

    with threadpool_limits(1, "blas"):  # the machine has feeds to serve
        model = AlternatingLeastSquares(
            factors=factors,
            regularization=_REGULARISATION,
            alpha=_ALPHA,
            iterations=_ITERATIONS,
            random_state=_SEED,
            num_threads=1,
            dtype=np.float32,
        )
        model.fit(events, show_progress=False)
    return Factors(np.ascontiguousarray(model.item_factors, np.float32))


def train_neighbours(events: sparse.csr_matrix, *, bm25: bool = True, shrinkage: float = 0.0) -> Neighbours:
    """Return each item's neighbours by the cosine of their columns, weighted by BM25 where asked for.

    ``shrinkage`` holds back similarities that rest on few common users.
    """
    from implicit.nearest_neighbours import bm25_weight

    weighted = (bm25_weight(events, K1=1.2, B=0.5) if bm25 else events).tocsr()
    columns = weighted.T.tocsr().astype(np.float32)
    norms = np.sqrt(np.asarray(columns.multiply(columns).sum(1)).ravel()) + 1e-9
    unit = sparse.diags(1 / norms) @ columns
    return nearest(unit.tocsr(), shrinkage=shrinkage, counts=(events.T.tocsr() > 0).astype(np.float32))


def nearest(unit: sparse.csr_matrix, *, shrinkage: float, counts: sparse.csr_matrix, rows: int = 512) -> Neighbours:
    """Return the rows that are nearest to each row of ``unit`` by dot product, blocks of ``rows`` at a time."""
    size = unit.shape[0]
    places = np.zeros((size, NEIGHBOURS), np.int32)
    similarities = np.zeros((size, NEIGHBOURS), np.float32)
    others, common_others = unit.T.tocsr(), counts.T.tocsr()
    for start in range(0, size, rows):
        block = (unit[start : start + rows] @ others).tocsr()
        if shrinkage:
            common = (counts[start : start + rows] @ common_others).tocsr()
            common.data = common.data / (common.data + shrinkage)
            block = block.multiply(common).tocsr()
        for row in range(block.shape[0]):
            begin, end = block.indptr[row], block.indptr[row + 1]
            found, values = block.indices[begin:end], block.data[begin:end]
            other = found != start + row
            found, values = found[other], values[other]
            if len(found) > NEIGHBOURS:
                best = np.argpartition(-values, NEIGHBOURS)[:NEIGHBOURS]
                found, values = found[best], values[best]
            places[start + row, : len(found)] = found
            similarities[start + row, : len(found)] = values
    return Neighbours(places, similarities)
