"""How well the feed ranks, on real data, one core: the quality half of ``python -m benchmarks.feed``.

MovieTweetings is ranked day by day by what was known when the day began, over the full catalogue, by the service's own
retrieval, features and ranker; the ranker is trained on the days before. Beside it stand popularity of three and fourteen
days (counted in windows) and the ranker without some groups of features. Films that nobody had rated before the day are
ranked apart, among all such films. RankLens has lists that were shown: what was clicked in them is predicted from the
lists before, in their order; its films are warm, or a third of them is held out as never seen.
Intervals are bootstraps over users. All of it is films, none of it short video.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import lightgbm
import numpy as np
from numpy.typing import NDArray

from upeti.feed.evaluation import bootstrap
from upeti.feed.experiment import COLLABORATIVE, FREE, GROUPS, POPULARITY
from upeti.feed.features import COLUMNS, features_of
from upeti.feed.importing import movietweetings, ranklens, ranklens_events
from upeti.feed.interactions import DAY_S
from upeti.feed.items import Feedback, Item, checked_item
from upeti.feed.loading import VectorCache, embed_missing
from upeti.feed.prior import train_prior
from upeti.feed.rank import PARAMETERS, Ranker, TrainingSet, popularity, train_ranker
from upeti.feed.replay import DAY_NS, ReplayedFeed, by_day, replay
from upeti.feed.state import FeedState
from upeti.providers.minilm import MiniLm

TEST_DAYS: Final = 30
TRAIN_DAYS: Final = 20
REFIT_DAYS: Final = 10
COLD_TEST_DAYS: Final = 60
COLD_TRAIN_DAYS: Final = 60
PLACES: Final = 10
_DISCOUNT: Final = 1 / np.log2(np.arange(2, 2 + PLACES))
_IDEAL: Final = np.cumsum(_DISCOUNT)
_MASKS: Final = {
    "LambdaRank, popularity only": frozenset({POPULARITY}),
    "LambdaRank, + collaborative": frozenset({POPULARITY, COLLABORATIVE}),
    "LambdaRank, + genres and year": FREE,
    "LambdaRank, + MiniLM": frozenset(GROUPS),
}
# What a first trial on the same data had come to, before there was a service: (data, ranking) → value.
EXPECTED: Final = {
    ("MovieTweetings, warm users", "3-day popularity"): 0.127,
    ("MovieTweetings, warm users", "14-day popularity"): 0.109,
    ("MovieTweetings, warm users", "als alone"): 0.032,
    ("MovieTweetings, warm users", "neighbours alone"): 0.026,
    ("MovieTweetings, warm users", "LambdaRank, + collaborative"): 0.139,
    ("MovieTweetings, warm users", "LambdaRank, + genres and year"): 0.1406,
    ("MovieTweetings, warm users", "LambdaRank, + MiniLM"): 0.1407,
    ("MovieTweetings, films nobody rated yet", "random"): 0.007,
    ("MovieTweetings, films nobody rated yet", "genre + year (words)"): 0.027,
    ("MovieTweetings, films nobody rated yet", "MiniLM, nearest to the mean"): 0.041,
    ("RankLens, warm lists", "+ both"): 0.6095,
    ("RankLens, cold films", "+ MiniLM of the description over nothing but place and clicks"): 0.067,
    ("RankLens, cold films", "+ MiniLM of the description over + genres, tags, people, year"): 0.018,
}
Scores = NDArray[np.float64]


class Row(NamedTuple):
    """One line of the table: NDCG@10 with its interval, by users."""

    data: str
    what: str
    ndcg: float
    low: float
    high: float
    cases: int
    recall: float = float("nan")  # @20


def ndcg_of(taken: NDArray[Any], scores: Scores, relevant: int) -> float:
    order = np.argsort(-scores, kind="stable")[:PLACES]
    return float((_DISCOUNT[: len(order)] * taken[order]).sum() / _IDEAL[min(relevant, PLACES) - 1])


def loaded(films: Sequence[Item], cache: Path) -> FeedState:
    """Return a state with the films and their vectors; those are kept in ``cache`` between runs."""
    state = FeedState()
    cache.mkdir(parents=True, exist_ok=True)
    state.put_items(checked_item(film, time.time_ns()) for film in films)
    began_s = time.process_time()
    number = embed_missing(state, VectorCache(cache), MiniLm())
    if number:
        print(f"  embedded {number:,} texts in {time.process_time() - began_s:.0f} s of one core")
    return state


def warm(folder: Path, cache: Path, *, test_days: int = TEST_DAYS, nights: int = 1) -> list[Row]:
    """Rank MovieTweetings' last days for users who had rated before."""
    films, ratings = movietweetings(folder)
    feedback = list(ratings)
    state = loaded(list(films), cache)
    last_day = feedback[-1].at_ns // DAY_NS
    test_from = last_day - test_days + 1
    found: dict[str, list[float]] = {}
    users: list[str] = []
    training, rankers = TrainingSet(), {}
    fitted_day = 0
    windows = Windows(feedback, state)
    for feed in replay(state, feedback, test_from - TRAIN_DAYS, nights=nights):
        if feed.day >= test_from:
            if not rankers or feed.day >= fitted_day + REFIT_DAYS:
                rankers, fitted_day = _fitted(training), feed.day
                training = _tail(training)
            users.append(feed.user)
            for name, value in _judged(feed, rankers, windows, state).items():
                found.setdefault(name, []).append(value)
        training.add(feed.features, feed.taken)
    return [_row("MovieTweetings, warm users", name, values, users) for name, values in found.items()] + [
        _lift(found, "LambdaRank, + genres and year", "3-day popularity", users),
        _lift(found, "LambdaRank, + MiniLM", "3-day popularity", users),
        _lift(found, "LambdaRank, + MiniLM", "LambdaRank, + genres and year", users),
    ]


def _fitted(training: TrainingSet) -> dict[str, Ranker]:
    return {name: train_ranker(training, (mask,)) for name, mask in _MASKS.items()}


def _tail(training: TrainingSet, feeds: int = 4_000) -> TrainingSet:
    training.drop_first(max(0, len(training) - feeds))
    return training


def _judged(feed: ReplayedFeed, rankers: dict[str, Ranker], windows: Windows, state: FeedState) -> dict[str, float]:
    values = {}
    for days in (3, 14):
        values[f"{days}-day popularity"] = windows.ndcg(feed, days, state)
    values["decayed 3-day counter"] = ndcg_of(feed.taken, popularity(feed.features), feed.relevant)
    for name in ("als", "neighbours"):
        scores = np.nan_to_num(feed.features[:, COLUMNS[name]].astype(np.float64), nan=-1.0)
        values[f"{name} alone"] = ndcg_of(feed.taken, scores, feed.relevant)
    for name, mask in _MASKS.items():
        values[name] = ndcg_of(feed.taken, rankers[name].score(feed.features, mask), feed.relevant)
    return values


class Windows:
    """Counts of the last days as a window, over the full catalogue: the baseline that others report."""

    def __init__(self, feedback: Sequence[Feedback], state: FeedState) -> None:
        self._days = np.array([one.at_ns // DAY_NS for one in feedback])
        self._places = np.array([state.catalogue.place(one.item) for one in feedback])
        self._taken: dict[tuple[int, str], set[int]] = {}
        for one, day, place in zip(feedback, self._days.tolist(), self._places.tolist(), strict=True):
            self._taken.setdefault((day, one.user), set()).add(place)
        self._order: dict[tuple[int, int], NDArray[Any]] = {}

    def ndcg(self, feed: ReplayedFeed, days: int, state: FeedState) -> float:
        order = self._order.get((feed.day, days))
        if order is None:
            size = len(state.catalogue)
            before = self._days < feed.day
            inside = before & (self._days >= feed.day - days)
            counts = np.bincount(self._places[inside], minlength=size) + 1e-6 * np.bincount(
                self._places[before], minlength=size
            )
            order = self._order[feed.day, days] = np.argsort(-counts, kind="stable")
        seen = state.profiles.get(feed.user).seen
        taken = self._taken[feed.day, feed.user]
        top = [place for place in order[: PLACES + len(seen)].tolist() if place not in seen][:PLACES]
        hits = np.array([place in taken for place in top])
        return float((_DISCOUNT[: len(top)] * hits).sum() / _IDEAL[min(feed.relevant, PLACES) - 1])


class ColdCase(NamedTuple):
    """One user and day: films nobody had rated, what the ranker may see of them, which the user took."""

    user: str
    rows: NDArray[np.float32]
    taken: NDArray[np.bool_]


_COLD_META: Final = (
    "words_shared",
    "words_lift",
    "year",
    "year_distance",
    "user_year",
    "user_count",
    "user_popularity",
)
_COLD_AI: Final = ("content_mean", "content_max", "content_last", "content_prior")
_COLD: Final = (*_COLD_META, *_COLD_AI)
_COLD_PARAMETERS: Final = PARAMETERS | {"num_leaves": 8, "learning_rate": 0.05, "min_data_in_leaf": 50}
_COLD_NEGATIVES: Final = 200  # of a training case; the pool is of one kind, and judging is on all of it


def cold(folder: Path, cache: Path) -> list[Row]:
    """Rank films that nobody had rated before the day, among all such films."""
    films, ratings = movietweetings(folder)
    state = loaded(list(films), cache)
    train, test = _cold_cases(state, list(ratings))
    users = [case.user for case in test]
    draw = np.random.default_rng(0)
    data = np.vstack([case.rows for case in train])
    labels = np.concatenate([case.taken for case in train]).astype(int)
    groups = [len(case.taken) for case in train]

    def fitted(names: Sequence[str]) -> Callable[[NDArray[Any]], Scores]:
        columns = [_COLD.index(name) for name in names]
        booster = lightgbm.train(_COLD_PARAMETERS, lightgbm.Dataset(data[:, columns], labels, group=groups), 100)
        return lambda rows: np.asarray(booster.predict(rows[:, columns]))

    def column(name: str) -> Callable[[NDArray[Any]], Scores]:
        return lambda rows: np.nan_to_num(rows[:, _COLD.index(name)].astype(np.float64), nan=-9.0)

    def spread(rows: NDArray[Any], name: str) -> Scores:
        value = np.nan_to_num(column(name)(rows), nan=0.0)
        return np.asarray((value - value.mean()) / (value.std() + 1e-9))

    rankings: dict[str, Callable[[NDArray[Any]], Scores]] = {
        "random": lambda rows: draw.random(len(rows)),
        "genre + year (words)": column("words_lift"),
        "genre + year (words, and distance in years)": lambda rows: (
            spread(rows, "words_lift") - spread(rows, "year_distance")
        ),
        "MiniLM, nearest to the mean": column("content_mean"),
        "MiniLM, nearest to the last five": column("content_last"),
        "prior from MiniLM alone": column("content_prior"),
        "LambdaRank, genre + year": fitted(_COLD_META),
        "LambdaRank, genre + year + MiniLM": fitted(_COLD),
    }
    found: dict[str, list[float]] = {}
    recalls: dict[str, list[float]] = {}
    for case in test:
        relevant = int(case.taken.sum())
        for name, ranking in rankings.items():
            scores = ranking(case.rows)
            found.setdefault(name, []).append(ndcg_of(case.taken, scores, relevant))
            top = np.argsort(-scores, kind="stable")[:20]
            recalls.setdefault(name, []).append(float(case.taken[top].sum()) / relevant)
    data_name = "MovieTweetings, films nobody rated yet"
    rows = [_row(data_name, name, values, users, recalls[name]) for name, values in found.items()]
    best_free = max(
        (name for name in found if "year" in name and "MiniLM" not in name), key=lambda name: np.mean(found[name])
    )
    for name in ("MiniLM, nearest to the mean", "LambdaRank, genre + year + MiniLM"):
        rows.append(_lift(found, name, best_free, users, data_name))
    rows.append(_lift(found, "LambdaRank, genre + year + MiniLM", "LambdaRank, genre + year", users, data_name))
    return rows


def _cold_cases(state: FeedState, feedback: Sequence[Feedback]) -> tuple[list[ColdCase], list[ColdCase]]:
    last_day = feedback[-1].at_ns // DAY_NS
    test_from = last_day - COLD_TEST_DAYS + 1
    draw = np.random.default_rng(1)
    columns = [COLUMNS[name] for name in _COLD]
    train: list[ColdCase] = []
    test: list[ColdCase] = []
    for day, of_day in by_day(feedback):
        if day >= test_from - COLD_TRAIN_DAYS:
            total = state.counters.total(slice(None))
            if day % 5 == 0:
                chance = np.where(state.counters.first_s(slice(None)) < (day - 3) * DAY_S, total, np.nan)
                state.prior = train_prior(state.catalogue.vectors, state.catalogue.has_vector, chance)
            pool = np.flatnonzero(total < 0.5)
            for user, taken in _took(state, of_day, total).items():
                profile = state.profiles.get(user)
                if not profile.positive_count:
                    continue
                places = pool
                if day < test_from:
                    some = draw.choice(pool, min(_COLD_NEGATIVES, len(pool)), replace=False)
                    places = np.union1d(some, list(taken))
                rows = features_of(state, profile, places, day * DAY_S, None)[:, columns]
                (test if day >= test_from else train).append(ColdCase(user, rows, np.isin(places, list(taken))))
        state.apply(of_day)
    return train, test


def _took(state: FeedState, of_day: Sequence[Feedback], total: NDArray[Any]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for one in of_day:
        place = state.catalogue.place(one.item)
        if total[place] < 0.5:
            found.setdefault(one.user, set()).add(place)
    return found


class Shown(NamedTuple):
    """One list of RankLens as a ranker sees it when it is shown."""

    user: str
    rows: NDArray[np.float32]
    clicked: NDArray[np.bool_]
    is_cold: NDArray[np.bool_]


_LIST_BASE: Final = ("position",)
_LIST_CLICKS: Final = ("shows", "clicks", "rate")
_LIST_META: Final = ("words_shared", "words_lift", "year", "year_distance", "user_year")
_LIST_AI: Final = ("content_mean", "content_max", "content_last", "content_prior")
_LIST: Final = (*_LIST_BASE, *_LIST_CLICKS, "user_count", *_LIST_META, *_LIST_AI)
_LIST_TRAIN_SHARE: Final = 0.7
_COLD_SHARE: Final = 3  # one film of three


def lists(folder: Path, cache: Path) -> list[Row]:
    """Predict what is clicked in RankLens' lists: with all films warm, and with a third of them never seen before."""
    state = loaded(list(ranklens(folder).items), cache)
    arms = {
        "nothing but place and clicks": (*_LIST_BASE, *_LIST_CLICKS, "user_count"),
        "+ genres, tags, people, year": (*_LIST_BASE, *_LIST_CLICKS, "user_count", *_LIST_META),
        "+ MiniLM of the description": (*_LIST_BASE, *_LIST_CLICKS, "user_count", *_LIST_AI),
        "+ both": _LIST,
    }
    rows = []
    for data, only_cold in (("RankLens, warm lists", False), ("RankLens, cold films", True)):
        shown = list(_shown(state, folder, hold_out=only_cold))
        split = int(_LIST_TRAIN_SHARE * len(shown))
        train, test = shown[:split], shown[split:]
        found: dict[str, list[float]] = {}
        users: list[str] = []
        kept = [case for case in test if (case.clicked & (case.is_cold | (not only_cold))).any()]
        users = [case.user for case in kept]
        for name, names in arms.items():
            score = _fitted_list(train, names)
            for case in kept:
                use = case.is_cold if only_cold else np.ones(len(case.clicked), np.bool_)
                found.setdefault(name, []).append(
                    ndcg_of(case.clicked[use], score(case.rows)[use], int(case.clicked[use].sum()))
                )
        rows += [_row(data, name, values, users) for name, values in found.items()]
        first = "nothing but place and clicks"
        rows += [_lift(found, name, first, users, data) for name in arms if name != first]
        free = "+ genres, tags, people, year"
        rows += [_lift(found, name, free, users, data) for name in ("+ MiniLM of the description", "+ both")]
    return rows


def _fitted_list(train: Sequence[Shown], names: Sequence[str]) -> Callable[[NDArray[Any]], Scores]:
    columns = [_LIST.index(name) for name in names]
    rows = np.vstack([case.rows for case in train])[:, columns]
    labels = np.concatenate([case.clicked for case in train]).astype(int)
    groups = [len(case.clicked) for case in train]
    booster = lightgbm.train(
        _COLD_PARAMETERS | {"min_data_in_leaf": 100}, lightgbm.Dataset(rows, labels, group=groups), 200
    )
    return lambda given: np.asarray(booster.predict(given[:, columns]))


def _shown(state: FeedState, folder: Path, *, hold_out: bool) -> Iterator[Shown]:
    """Yield the lists in their order, each as it was before its own clicks; held-out films have no clicks at all.

    Their clicks teach nothing: not the counters, not the profiles of who clicked, not the prior. In training a third of
    the other films is blinded in each list, so that the ranker learns to do without clicks.
    """
    events = list(ranklens_events(folder))
    clicked: dict[str, set[str]] = {}
    for one in events:
        if one["event"] == "interaction":
            clicked.setdefault(one["ranking"], set()).add(one["item"])
    fresh = FeedState()
    fresh.put_items(
        item for place in range(len(state.catalogue.ids)) if (item := state.catalogue.item(place)) is not None
    )
    fresh.catalogue.set_vectors(np.arange(len(state.catalogue)), state.catalogue.vectors)
    size = len(fresh.catalogue) + 64
    shows, clicks = np.zeros(size), np.zeros(size)
    draw = np.random.default_rng(2)
    cold_films = draw.random(size) < 1 / _COLD_SHARE if hold_out else np.zeros(size, np.bool_)
    rankings = [one for one in events if one["event"] == "ranking"]
    split = int(_LIST_TRAIN_SHARE * len(rankings))
    for number, one in enumerate(rankings):
        names = [item["id"] if isinstance(item, dict) else item for item in one["items"]]
        places = np.array([fresh.catalogue.place(name) for name in names])
        fresh.counters.resize(len(fresh.catalogue))
        at_s = float(one["timestamp"]) / 1000
        if number % 1000 == 0 and number:
            known = np.where(
                (shows[: len(fresh.catalogue)] > 5) & ~cold_films[: len(fresh.catalogue)],
                clicks[: len(fresh.catalogue)],
                np.nan,
            )
            fresh.prior = train_prior(fresh.catalogue.vectors, fresh.catalogue.has_vector, known)
        profile = fresh.profiles.get(one["user"])
        rows = features_of(fresh, profile, places, at_s, None)
        blind = cold_films[places] if number >= split or not hold_out else draw.random(len(places)) < 1 / _COLD_SHARE
        rate = (clicks[places] + 1) / (shows[places] + 5)
        own = np.array([np.where(blind, np.nan, value) for value in (shows[places], clicks[places], rate)])
        columns = [COLUMNS[name] for name in _LIST[4:]]
        table = np.column_stack([np.arange(len(places)), *own, rows[:, columns]]).astype(np.float32)
        took = np.array([name in clicked.get(one["id"], ()) for name in names])
        if took.any() and not took.all():
            keep = ~cold_films[places] if hold_out and number < split else np.ones(len(places), np.bool_)
            if took[keep].any():
                yield Shown(one["user"], table[keep], took[keep], cold_films[places][keep])
        learn = ~cold_films[places]
        shows[places[learn]] += 1
        clicks[places[learn & took]] += 1
        fresh.apply(
            [
                Feedback("click", one["user"], name, 1.0, int(at_s * 1e9))
                for name, hit, may in zip(names, took, learn, strict=True)
                if hit and may
            ]
        )


def _row(data: str, what: str, values: Sequence[float], users: Sequence[str], recalls: Sequence[float] = ()) -> Row:
    mean = bootstrap(values, users)
    return Row(
        data,
        what,
        mean.estimate,
        mean.low,
        mean.high,
        len(values),
        float(np.mean(recalls)) if recalls else float("nan"),
    )


def _lift(
    found: dict[str, list[float]], name: str, over: str, users: Sequence[str], data: str = "MovieTweetings, warm users"
) -> Row:
    """Return the relative gain of one ranking over another, by users."""
    base = float(np.mean(found[over]))
    gain = bootstrap((np.array(found[name]) - np.array(found[over])) / base, users)
    return Row(data, f"{name} over {over}", gain.estimate, gain.low, gain.high, len(users))


def table(rows: Sequence[Row]) -> str:
    """Return the rows for people: NDCG@10, or a relative gain, with its 95 % interval."""
    lines = []
    for row in rows:
        gain = " over " in row.what
        text = "{:+.1%} [{:+.1%}, {:+.1%}]" if gain else "{:.4f} [{:.4f}, {:.4f}]"
        before = EXPECTED.get((row.data, row.what))
        trial = "" if before is None else f"  first trial {before:+.1%}" if gain else f"  first trial {before:.4f}"
        recall = "" if row.recall != row.recall else f"  Recall@20 {row.recall:.3f}"
        lines.append(
            f"{row.data:<40} {row.what:<62} {text.format(row.ndcg, row.low, row.high)}  n={row.cases:,}{recall}{trial}"
        )
    return "\n".join(lines)
