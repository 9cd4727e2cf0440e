"""Nearest neighbours among many vectors: faiss, when it is installed and there are enough items to need it.

Approximate: lists of an inverted file (Jégou, Douze, Schmid 2011), of which some are looked into. Below `ITEMS_MIN`
items, or without ``pip install 'upeti[feed-large]'``, every vector is compared.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ITEMS_MIN: Final = 50_000
_LISTS: Final = 1024
_LOOKED_INTO: Final = 16
_TRAINED_ON: Final = 60_000

Matrix = NDArray[np.float32]
Places = NDArray[np.int64]


class VectorIndex:
    """The vectors of some moment; what came later is not in it."""

    def __init__(self, index: Any, size: int) -> None:
        self._index = index
        self.size = size

    def nearest(self, vector: Matrix, number: int) -> tuple[Places, Matrix]:
        """Return places and cosines of about ``number`` nearest items, nearest first."""
        cosines, places = self._index.search(vector[None, :], number)
        found = places[0] >= 0
        return places[0][found].astype(np.int64), cosines[0][found]


def make_index(vectors: Matrix, has_vector: NDArray[np.bool_]) -> VectorIndex | None:
    """Return an index; None when there are too few items, or faiss is not installed."""
    places = np.flatnonzero(has_vector)
    if len(places) < ITEMS_MIN:
        return None
    try:
        return index_of(vectors, places)
    except ModuleNotFoundError:
        return None


def index_of(vectors: Matrix, places: Places, *, lists: int = _LISTS, looked_into: int = _LOOKED_INTO) -> VectorIndex:
    """Return an index of the rows at ``places``. Raises ``ModuleNotFoundError`` without faiss."""
    import faiss

    faiss.omp_set_num_threads(1)
    dimensions = vectors.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimensions), dimensions, lists, faiss.METRIC_INNER_PRODUCT)
    some = np.random.default_rng(0).choice(places, min(_TRAINED_ON, len(places)), replace=False)
    index.train(vectors[some])
    index.add_with_ids(vectors[places], places)
    index.nprobe = looked_into
    return VectorIndex(index, len(places))
