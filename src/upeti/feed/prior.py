"""What a text says of how many will like it, before anybody has: a ridge regression from embeddings to early success.

Rules: the prior of an item that has events comes from a model that was fitted without it (folds by place), or the ranker
would read its own answer; that of a new item is the mean of all. Trained on items that are old enough to have had their
chance.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FOLDS: Final = 5
_RIDGE: Final = 30.0
ITEMS_MIN: Final = 200  # with fewer a prior says nothing that counters do not

Matrix = NDArray[np.float32]
Places = NDArray[np.int64]


class Prior:
    """Expected log of events by place."""

    def __init__(self, values: Matrix, model: Matrix) -> None:
        self.values = values
        self.model = model  # with the intercept as its last row

    def learn_new(self, vectors: Matrix, has_vector: NDArray[np.bool_]) -> None:
        """Give items that came after the training what the mean of the models says of their vectors."""
        if len(self.values) < len(vectors):
            more = np.full(len(vectors) - len(self.values), np.nan, np.float32)
            self.values = np.concatenate([self.values, more])
        new = np.flatnonzero(has_vector & ~np.isfinite(self.values))
        self.values[new] = vectors[new] @ self.model[:-1] + self.model[-1]

    def of(self, places: Places) -> Matrix:
        """Return the prior of items; NaN for one that had no vector or came after the training."""
        out = np.full(len(places), np.nan, np.float32)
        known = places < len(self.values)
        out[known] = self.values[places[known]]
        return out


def train_prior(vectors: Matrix, has_vector: NDArray[np.bool_], events: NDArray[np.float64]) -> Prior | None:
    """Return a prior over all items; ``events`` is how many each had, NaN for items that had no chance yet.

    None when there is too little to learn from.
    """
    usable = np.flatnonzero(has_vector & np.isfinite(events))
    if len(usable) < ITEMS_MIN:
        return None
    target = np.log1p(events[usable])
    design = np.hstack([vectors[usable], np.ones((len(usable), 1), np.float32)]).astype(np.float64)
    fold = usable % FOLDS
    values = np.full(len(vectors), np.nan, np.float32)
    models = []
    for number in range(FOLDS):
        model = _ridge(design[fold != number], target[fold != number])
        models.append(model)
        out = usable[fold == number]
        values[out] = design[fold == number] @ model
    mean = np.mean(models, axis=0).astype(np.float32)
    rest = np.flatnonzero(has_vector & ~np.isfinite(events))
    values[rest] = vectors[rest] @ mean[:-1] + mean[-1]
    return Prior(values, mean)


def _ridge(design: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    penalty = _RIDGE * np.eye(design.shape[1])
    penalty[-1, -1] = 0.0  # the intercept is free
    return np.asarray(np.linalg.solve(design.T @ design + penalty, design.T @ target))
