"""What the ranker sees of a user and a candidate: one row of numbers, in named groups that an experiment can mask.

Rules: everything is as of one moment, from counters and profiles that hold only what had happened by then. A model sees
similarities and a prior, never the dimensions of an embedding: those took NDCG on new items from .525 to .142. What is
unknown is NaN, which the trees treat as its own case. A masked group is NaN as a whole.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from upeti.feed.catalogue import NO_WORD
from upeti.feed.enrichment import Source
from upeti.feed.experiment import COLLABORATIVE, METADATA, PAID, POPULARITY, STUDENT
from upeti.feed.interactions import DAY_S, HALF_LIVES_S
from upeti.feed.profile import Profile
from upeti.feed.state import FeedState
from upeti.feed.user_scores import LAST, NEAR, RECENT, UserScores, recency

Places = NDArray[np.int64]
Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

_LOG_FLOOR: Final = 1e-3

# Of which group each feature is, in the order of the columns.
FEATURES: Final[dict[str, str]] = {
    "count_6h": POPULARITY,
    "count_1d": POPULARITY,
    "count_3d": POPULARITY,
    "count_14d": POPULARITY,
    "count_all": POPULARITY,
    "trend_1d_3d": POPULARITY,
    "trend_3d_14d": POPULARITY,
    "rank_3d": POPULARITY,
    "mean_value": POPULARITY,
    "days_since_first": POPULARITY,
    "user_count": POPULARITY,
    "user_days_idle": POPULARITY,
    "user_popularity": POPULARITY,
    "popularity_distance": POPULARITY,
    "als": COLLABORATIVE,
    "neighbours": COLLABORATIVE,
    "neighbours_last": COLLABORATIVE,
    "neighbours_recent": COLLABORATIVE,
    "days_since_published": METADATA,
    "words_shared": METADATA,
    "words_lift": METADATA,
    "year": METADATA,
    "year_distance": METADATA,
    "user_year": METADATA,
    "creator_known": METADATA,
    "content_mean": STUDENT,
    "content_max": STUDENT,
    "content_last": STUDENT,
    "content_prior": STUDENT,
    "student_tags_shared": STUDENT,
    "student_quality": STUDENT,
    "tags_shared": PAID,
    "quality": PAID,
}
NAMES: Final = tuple(FEATURES)
COLUMNS: Final = {name: number for number, name in enumerate(NAMES)}


def columns_of(mask: frozenset[str]) -> list[int]:
    """Return the columns that a mask leaves."""
    return [number for number, group in enumerate(FEATURES.values()) if group in mask]


def features_of(state: FeedState, profile: Profile, places: Places, now_s: float, scores: UserScores | None) -> Matrix:
    """Return candidates × features. ``scores`` are those of retrieval; None: no source has anything to say."""
    table = np.full((len(NAMES), len(places)), np.nan, np.float32)
    history = profile.items()[-RECENT:]
    weights = recency(profile.at_s()[-RECENT:], now_s)
    _popularity(table, state, profile, places, now_s)
    for source in ("als", *NEAR):
        of_source = None if scores is None else scores.at(source, places)
        if of_source is not None:
            table[COLUMNS[source]] = of_source
    _metadata(table, state, history, weights, places, now_s)
    _content(table, state, history, weights, places)
    return np.ascontiguousarray(table.T)


def _popularity(table: Matrix, state: FeedState, profile: Profile, places: Places, now_s: float) -> None:
    counts = state.counts(now_s)
    logs = np.log(counts.decayed[places] + _LOG_FLOOR).T
    table[0 : len(HALF_LIVES_S)] = logs
    total = np.log1p(counts.total[places])
    table[COLUMNS["count_all"]] = total
    table[COLUMNS["trend_1d_3d"]] = logs[1] - logs[2]
    table[COLUMNS["trend_3d_14d"]] = logs[2] - logs[3]
    table[COLUMNS["rank_3d"]] = np.log1p(counts.rank[places])
    table[COLUMNS["mean_value"]] = state.counters.mean_value(places)
    first_s = state.counters.first_s(places)
    table[COLUMNS["days_since_first"]] = np.where(np.isfinite(first_s), (now_s - first_s) / DAY_S, -1.0)
    history = profile.items()[-RECENT:]
    if len(history):
        table[COLUMNS["user_count"]] = np.log1p(profile.positive_count)
        table[COLUMNS["user_days_idle"]] = (now_s - profile.last_s) / DAY_S
        taste = float(np.log1p(counts.total[history]).mean())
        table[COLUMNS["user_popularity"]] = taste
        table[COLUMNS["popularity_distance"]] = np.abs(total - taste)


def _metadata(table: Matrix, state: FeedState, history: Places, weights: Matrix, places: Places, now_s: float) -> None:
    catalogue = state.catalogue
    table[COLUMNS["days_since_published"]] = (now_s - catalogue.at_s[places]) / DAY_S
    years = catalogue.year[places]
    table[COLUMNS["year"]] = years
    if not len(history):
        return
    shared, lift = word_scores(catalogue.words, catalogue.word_count, history, weights, places, state.word_shares())
    table[COLUMNS["words_shared"]] = shared
    table[COLUMNS["words_lift"]] = lift
    mine = catalogue.year[history]
    known = np.isfinite(mine)
    if known.any():
        mean = float(np.average(mine[known], weights=weights[known] + 1e-6))
        table[COLUMNS["user_year"]] = mean
        table[COLUMNS["year_distance"]] = np.abs(years - mean)
    creators = catalogue.creator[places]
    known_creators = (creators[:, None] == catalogue.creator[history]).any(1)
    table[COLUMNS["creator_known"]] = np.where(creators >= 0, known_creators, np.float32(np.nan))


def word_scores(
    words: NDArray[np.int32], count: int, history: Places, weights: Matrix, places: Places, shares: Matrix | None
) -> tuple[Matrix, Matrix]:
    """Return, for each candidate, the mean share of the history that has its words, and the mean log lift over all items.

    ``shares`` is the share of all items that has each word.
    """
    of_history = words[history]
    mine = np.bincount(of_history.ravel(), np.repeat(weights + 1e-6, words.shape[1]), count)
    mine[NO_WORD] = 0.0
    mine = (mine / (weights.sum() + 1e-6 * len(weights))).astype(np.float32)
    of_places = words[places]
    present = of_places != NO_WORD
    number = np.maximum(present.sum(1), 1)
    shared = mine[of_places].sum(1) / number
    shared[~present.any(1)] = np.nan
    if shares is None:
        return shared, shared
    lifts = np.log((mine + 0.02) / (shares[:count] + 0.02)).astype(np.float32)
    lifts[NO_WORD] = 0.0
    lift = lifts[of_places].sum(1) / number
    lift[~present.any(1)] = np.nan
    return shared, lift


def _content(table: Matrix, state: FeedState, history: Places, weights: Matrix, places: Places) -> None:
    catalogue = state.catalogue
    has = catalogue.has_vector[places]
    if state.prior is not None:
        table[COLUMNS["content_prior"]] = state.prior.of(places)
    for source, prefix in ((Source.STUDENT, "student_"), (Source.PAID, "")):
        table[COLUMNS[f"{prefix}quality"]] = catalogue.quality(source)[places]
        tags = catalogue.tags(source)
        if len(history) and tags[history].any():
            shared, _ = word_scores(tags, catalogue.word_count, history, weights, places, None)
            table[COLUMNS[f"{prefix}tags_shared"]] = shared
    known = catalogue.has_vector[history] if len(history) else np.zeros(0, np.bool_)
    if not known.any() or not has.any():
        return
    mine = catalogue.vectors[history[known]]
    similar = catalogue.vectors[places] @ mine.T
    weighted = similar @ (weights[known] + 1e-3) / (weights[known].sum() + 1e-3 * len(mine))
    table[COLUMNS["content_mean"]] = np.where(has, weighted, np.nan)
    table[COLUMNS["content_max"]] = np.where(has, similar.max(1), np.nan)
    table[COLUMNS["content_last"]] = np.where(has, similar[:, -LAST:].mean(1), np.nan)
