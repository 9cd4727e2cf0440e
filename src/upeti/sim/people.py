"""People whose tastes are known, for tests and benchmarks of experiments: what is true is what was put in.

Pure: the generator is passed in. Users differ in how much they look and in how much they like, so their impressions hang
together; what they did before says something about them and nothing about the arm they are in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from upeti.feed.lift import Users

LIKING: Final = 0.1  # engaged events per impression, in the mean
_ITEMS: Final = 60
_PLACES: Final = 10
_LIKING_VARIANCE: Final = 0.1 * 0.9 / 11  # of Beta(1, 9)


def people(draw: np.random.Generator, count: int, factor: float = 1.0) -> Users:
    """Return users of an arm that multiplies everybody's liking by ``factor``."""
    taste = draw.beta(2.0, 18.0, count)
    shown = draw.geometric(1 / 40, count).astype(np.float64)
    events = draw.binomial(shown.astype(int), np.minimum(taste * factor, 1)).astype(np.float64)
    return Users(events, shown, draw.binomial(40, taste).astype(np.float64))


def equal_arms_by_day(draw: np.random.Generator, size: int, days: int) -> Iterator[tuple[Users, Users]]:
    """Yield two arms between which there is no difference, as they stand after each day; the same people come back."""
    taste = draw.beta(1.0, 9.0, (2, size))
    arrival = draw.integers(0, days, (2, size))
    shown, events = np.zeros((2, size)), np.zeros((2, size))
    for day in range(days):
        today = np.where(arrival <= day, draw.poisson(3, (2, size)), 0)
        shown += today
        events += draw.binomial(today, taste)
        one, other = (Users(events[arm][shown[arm] > 0], shown[arm][shown[arm] > 0]) for arm in (0, 1))
        yield one, other


def market(draw: np.random.Generator, users: int, held_out_share: float, *, uses_enrichment: bool) -> Users:
    """Return users who each get 10 of 60 items and engage with what they like.

    The ranker goes by what it expects after a rough look at an item; of items with enrichment, in the arm that may use
    it, after a sharp one, so it dares to expect more of the good ones. Ten places: what goes up pushes another down.
    """
    held = np.arange(_ITEMS) < held_out_share * _ITEMS
    liking = draw.beta(1, 9, (users, _ITEMS))
    noise = np.where(held | (not uses_enrichment), 0.15, 0.05)
    trust = _LIKING_VARIANCE / (_LIKING_VARIANCE + noise**2)
    score = trust * (liking - LIKING + noise * draw.standard_normal((users, _ITEMS)))
    shown = np.argpartition(-score, _PLACES, axis=1)[:, :_PLACES]
    events = (draw.random((users, _PLACES)) < liking[np.arange(users)[:, None], shown]).astype(np.float64)
    on_held = held[shown]
    return Users(
        events.sum(axis=1),
        np.full(users, float(_PLACES)),
        None,
        (events * on_held).sum(axis=1),
        on_held.sum(axis=1).astype(np.float64),
    )
