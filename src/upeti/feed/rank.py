"""The second stage: LambdaRank over a few hundred candidates.

Rules: it is trained on feeds as they would have been served (the candidates that retrieval found, the features as of that
moment) and on what the user then did; negatives are candidates nobody took, never items nobody proposed. For each mask of
an experiment's arm there is a model of its own on the same training set: an arm does without what it is denied, it is not
merely blinded. Without a model the three-day popularity decides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from upeti.feed.experiment import GROUPS
from upeti.feed.features import COLUMNS, FEATURES, NAMES, columns_of

Matrix = NDArray[np.float32]

ALL: Final = frozenset(GROUPS)
ROUNDS: Final = 40
PARAMETERS: Final[dict[str, Any]] = {
    "objective": "lambdarank",
    "lambdarank_truncation_level": 15,
    "learning_rate": 0.1,
    "num_leaves": 15,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "num_threads": 1,
    "seed": 7,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


class TrainingSet:
    """Feeds with what followed: rows of features, 1 for what was taken, grouped by feed."""

    def __init__(self) -> None:
        self._rows: list[Matrix] = []
        self._labels: list[NDArray[np.int8]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, features: Matrix, taken: NDArray[np.bool_]) -> None:
        """Add one feed; one in which nothing or everything was taken teaches no order."""
        if taken.any() and not taken.all():
            self._rows.append(features)
            self._labels.append(taken.astype(np.int8))

    def drop_first(self, number: int) -> None:
        del self._rows[:number], self._labels[:number]

    def arrays(self) -> tuple[Matrix, NDArray[np.int8], list[int]]:
        return np.vstack(self._rows), np.concatenate(self._labels), [len(each) for each in self._labels]


class Ranker:
    """One booster for each mask."""

    def __init__(self, boosters: dict[frozenset[str], Any], version: str) -> None:
        self._boosters = boosters
        self.version = version

    def score(self, features: Matrix, mask: frozenset[str] = ALL) -> NDArray[np.float64]:
        """Return one score per row. A mask that was not trained for is served by blinding the one for all features."""
        booster = self._boosters.get(mask)
        columns = columns_of(mask)
        if booster is not None:
            return np.asarray(booster.predict(features[:, columns], num_threads=1))
        full = self._boosters.get(ALL)
        if full is None:
            return popularity(features)
        blind = np.full_like(features, np.nan)
        blind[:, columns] = features[:, columns]
        return np.asarray(full.predict(blind, num_threads=1))

    def weights(self, features: Matrix, mask: frozenset[str] = ALL) -> dict[str, float]:
        """Return what each group of features adds to the score of the first row (SHAP values, summed)."""
        booster = self._boosters.get(mask, self._boosters.get(ALL))
        if booster is None:
            return {}
        columns = columns_of(mask if mask in self._boosters else ALL)
        shares = np.asarray(booster.predict(features[:1, columns], pred_contrib=True))[0]
        found = dict.fromkeys(mask, 0.0)
        for column, share in zip(columns, shares[:-1].tolist(), strict=True):
            group = FEATURES[NAMES[column]]
            found[group] = found.get(group, 0.0) + share
        return found

    def save(self, directory: Path) -> None:
        """Write the boosters; ``load`` reads them."""
        for number, (mask, booster) in enumerate(self._boosters.items()):
            booster.save_model(str(directory / f"ranker-{number}.txt"))
            (directory / f"ranker-{number}.json").write_text(json.dumps({"mask": sorted(mask), "features": NAMES}))

    @classmethod
    def load(cls, directory: Path, version: str) -> Ranker | None:
        """Return the ranker in a directory; None when there is none, or its features are not these."""
        import lightgbm

        boosters = {}
        for path in sorted(directory.glob("ranker-*.json")):
            meta = json.loads(path.read_text())
            if tuple(meta["features"]) != NAMES:
                return None
            boosters[frozenset(meta["mask"])] = lightgbm.Booster(model_file=str(path.with_suffix(".txt")))
        return cls(boosters, version) if boosters else None


def popularity(features: Matrix) -> NDArray[np.float64]:
    """Return the order without a model: by three-day popularity."""
    return -features[:, COLUMNS["rank_3d"]].astype(np.float64)


def train_ranker(
    data: TrainingSet, masks: Sequence[frozenset[str]] = (ALL,), *, version: str = "", rounds: int = ROUNDS
) -> Ranker:
    """Train a booster for each mask on one training set."""
    import lightgbm

    rows, labels, groups = data.arrays()
    boosters = {}
    for mask in masks:
        columns = columns_of(mask)
        names = [NAMES[column] for column in columns]
        train = lightgbm.Dataset(rows[:, columns], labels, group=groups, feature_name=names, free_raw_data=True)
        boosters[mask] = lightgbm.train(PARAMETERS, train, num_boost_round=rounds)
    return Ranker(boosters, version)
