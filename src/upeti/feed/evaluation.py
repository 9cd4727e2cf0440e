"""How good a ranking is, offline: prequential by day, on full rankings, with users as the units.

Rules: a day is ranked by what was known before it began; every case is ranked over the whole catalogue, never against a
sample of negatives; next to every number stand popularity of the last three days and free metadata. Items are *cold* when
nobody had engaged with them, *near-cold* up to ``NEAR_COLD_MAX`` events, else *warm*: each kind is ranked among its own.
Pure: events and randomness come in.

Sources: Järvelin and Kekäläinen (2002, NDCG); Krichene and Rendle (2020, against sampled metrics); Efron (1979, bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from upeti.feed.sequential import Interval

Floats = NDArray[np.float64]

DAY_NS: Final = 86_400 * 10**9
NDCG_PLACES: Final = 10
RECALL_PLACES: Final = 20
NEAR_COLD_MAX: Final = 5  # events; popularity begins to say something after about as many
ALL: Final = "all"
COLD: Final = "cold"
NEAR_COLD: Final = "near-cold"
WARM: Final = "warm"
_DRAWS_AT_ONCE: Final = 200  # bootstrap weights in memory: 200 × users × 8 bytes


class Event(NamedTuple):
    """Somebody engaged with something."""

    user: str
    item: str
    at_ns: int
    value: float = 1.0


class Case(NamedTuple):
    """One ranking to judge: what was ranked for a user on a day, and what the user then took."""

    user: str
    day: int
    ranked: tuple[str, ...]  # best first, at least ``RECALL_PLACES`` where there are so many
    relevant: frozenset[str]
    group: str = ALL


class Scores(NamedTuple):
    """One value per case in each array, cases in their order."""

    cases: tuple[tuple[str, int, str], ...]  # user, day, group
    ndcg: Floats
    recall: Floats
    hit: Floats


class Shape(NamedTuple):
    """What the lists are like as a whole, over their first ``NDCG_PLACES``."""

    coverage: float  # share of the catalogue that anybody was shown
    novelty: float  # mean −log2 of an item's share of all earlier events
    distance: float  # mean 1 − cosine between items of a list; NaN without embeddings
    creator_gini: float  # of exposure over creators: 0 all alike, towards 1 one has all; NaN without creators


def score(cases: Sequence[Case]) -> Scores:
    """Return NDCG@10, Recall@20 and hit rate@10 of each case. A case without anything relevant is left out."""
    judged = [case for case in cases if case.relevant]
    return Scores(
        tuple((case.user, case.day, case.group) for case in judged),
        np.array([ndcg(case.ranked, case.relevant) for case in judged], dtype=np.float64),
        np.array([recall(case.ranked, case.relevant) for case in judged], dtype=np.float64),
        np.array([float(any(item in case.relevant for item in case.ranked[:NDCG_PLACES])) for case in judged]),
    )


def ndcg(ranked: Sequence[str], relevant: Collection[str], places: int = NDCG_PLACES) -> float:
    """Return the gain of the first ``places``, discounted by place, over the best that was possible; 0 for nothing."""
    gained = sum(1 / math.log2(place + 2) for place, item in enumerate(ranked[:places]) if item in relevant)
    possible = sum(1 / math.log2(place + 2) for place in range(min(places, len(relevant))))
    return gained / possible if possible else 0.0


def recall(ranked: Sequence[str], relevant: Collection[str], places: int = RECALL_PLACES) -> float:
    """Return the share of what is relevant that stands in the first ``places``; 0 for nothing."""
    return sum(item in relevant for item in ranked[:places]) / len(relevant) if relevant else 0.0


def by_heat(case: Case, events_before: Mapping[str, int]) -> list[Case]:
    """Return the case itself and one for each heat of items that something relevant is of, ranked among its own."""
    found = [case]
    for group in (WARM, NEAR_COLD, COLD):
        relevant = frozenset(item for item in case.relevant if heat(events_before.get(item, 0)) == group)
        if relevant:
            ranked = tuple(item for item in case.ranked if heat(events_before.get(item, 0)) == group)
            found.append(Case(case.user, case.day, ranked, relevant, group))
    return found


def heat(events_before: int) -> str:
    """Return how warm an item with so many earlier events is."""
    if events_before == 0:
        return COLD
    return NEAR_COLD if events_before <= NEAR_COLD_MAX else WARM


def shape(
    lists: Iterable[Sequence[str]],
    catalogue: Collection[str],
    events_before: Mapping[str, int],
    *,
    creator_of: Mapping[str, str] | None = None,
    embedding_of: Callable[[str], Floats | None] | None = None,
) -> Shape:
    """Return coverage, novelty, intra-list distance and the creators' Gini of ranked ``lists``."""
    tops = [tuple(ranked[:NDCG_PLACES]) for ranked in lists]
    shown: dict[str, int] = {}
    for top in tops:
        for item in top:
            shown[item] = shown.get(item, 0) + 1
    total, places = sum(events_before.values()), sum(shown.values())
    surprise = sum(
        count * -math.log2((events_before.get(item, 0) + 1) / (total + len(catalogue))) for item, count in shown.items()
    )
    gini_ = math.nan
    if creator_of is not None:
        exposure = dict.fromkeys(creator_of.values(), 0.0)
        for item, count in shown.items():
            if item in creator_of:
                exposure[creator_of[item]] += count
        gini_ = gini(list(exposure.values()))
    return Shape(
        len(shown) / len(catalogue) if catalogue else 0.0,
        surprise / places if places else math.nan,
        _distance(tops, embedding_of) if embedding_of is not None else math.nan,
        gini_,
    )


def gini(amounts: ArrayLike) -> float:
    """Return the Gini coefficient of amounts of 0 or more; NaN when there is nothing to share."""
    given = np.sort(np.asarray(amounts, dtype=np.float64))
    whole = float(given.sum())
    if not given.size or not whole > 0:
        return math.nan
    ranks = np.arange(1, given.size + 1)
    return float((2 * ranks - given.size - 1) @ given) / (given.size * whole)


def _distance(tops: Sequence[Sequence[str]], embedding_of: Callable[[str], Floats | None]) -> float:
    distances = []
    for top in tops:
        vectors = [vector for item in top if (vector := embedding_of(item)) is not None]
        if len(vectors) < 2:
            continue
        rows = np.stack(vectors)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        summed, count = rows.sum(axis=0), len(rows)
        cosines = (float(summed @ summed) - float((rows * rows).sum())) / (count * (count - 1))
        distances.append(1 - cosines)
    return float(np.mean(distances)) if distances else math.nan


def bootstrap(
    values: ArrayLike, users: Sequence[str], *, draws: int = 1000, seed: int = 0, error_share: float = 0.05
) -> Interval:
    """Return the mean of ``values`` with its percentile interval when users are drawn anew, with all their cases."""
    given = np.asarray(values, dtype=np.float64)
    if not given.size:
        return Interval(math.nan, -math.inf, math.inf)
    place = np.unique(np.asarray(users), return_inverse=True)[1]
    sums, counts = np.bincount(place, given), np.bincount(place).astype(np.float64)
    draw = np.random.default_rng(seed)
    means = []
    for begin in range(0, draws, _DRAWS_AT_ONCE):
        rows = min(_DRAWS_AT_ONCE, draws - begin)
        weights = draw.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=rows).astype(np.float64)
        means.append((weights @ sums) / (weights @ counts))
    low, high = np.quantile(np.concatenate(means), [error_share / 2, 1 - error_share / 2])
    return Interval(float(given.mean()), float(low), float(high))


class Ranker(Protocol):
    """What is evaluated. ``learn`` gets the events of a day once it is over, ``rank`` is asked during later days."""

    def learn(self, events: Sequence[Event]) -> None: ...

    def rank(self, user: str, at_ns: int, seen: Collection[str]) -> Sequence[str]:
        """Return all items that could be shown, best first, without ``seen``."""
        ...


def prequential(
    events: Sequence[Event], ranker: Ranker, from_day: int, *, only_known_users: bool = True
) -> Iterator[Case]:
    """Yield one case per user and day from ``from_day`` on, with its parts by heat; ``events`` in order of time.

    Each day is ranked before ``ranker`` learns it. A user who was never seen before has nothing personal to be ranked
    by, and is left out unless ``only_known_users`` is False.
    """
    seen: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for day, of_day in _days(events):
        if day >= from_day:
            taken: dict[str, set[str]] = {}
            for event in of_day:
                taken.setdefault(event.user, set()).add(event.item)
            for user, items in taken.items():
                before = seen.get(user, set())
                if items - before and (before or not only_known_users):
                    ranked = tuple(ranker.rank(user, day * DAY_NS, before))
                    yield from by_heat(Case(user, day, ranked, frozenset(items - before)), counts)
        for event in of_day:
            seen.setdefault(event.user, set()).add(event.item)
            counts[event.item] = counts.get(event.item, 0) + 1
        ranker.learn(of_day)


def _days(events: Sequence[Event]) -> Iterator[tuple[int, list[Event]]]:
    of_day: list[Event] = []
    for event in events:
        if of_day and event.at_ns // DAY_NS != of_day[0].at_ns // DAY_NS:
            yield of_day[0].at_ns // DAY_NS, of_day
            of_day = []
        of_day.append(event)
    if of_day:
        yield of_day[0].at_ns // DAY_NS, of_day


class Popularity:
    """What was engaged with most in the last ``days``: the bar that every ranker is shown beside."""

    def __init__(self, catalogue: Iterable[str], days: int = 3) -> None:
        self._counts: dict[str, int] = dict.fromkeys(catalogue, 0)
        self._window: list[Sequence[Event]] = []
        self._days = days
        self._order: list[str] = list(self._counts)

    def learn(self, events: Sequence[Event]) -> None:
        self._window.append(events)
        for event in events:
            self._counts[event.item] = self._counts.get(event.item, 0) + 1
        newest = events[-1].at_ns // DAY_NS if events else 0
        while self._window and (not self._window[0] or self._window[0][0].at_ns // DAY_NS <= newest - self._days):
            for event in self._window.pop(0):
                self._counts[event.item] -= 1
        self._order = sorted(self._counts, key=lambda item: (-self._counts[item], item))

    def rank(self, user: str, at_ns: int, seen: Collection[str]) -> Sequence[str]:
        return [item for item in self._order if item not in seen]
