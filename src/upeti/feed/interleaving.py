"""Two rankers in one list: which one's items do people take? It needs a tenth of the users of an A/B test, and no money.

Rules: team draft. In each round a coin says who picks first; each picks its best item that is not in the list yet; an
engaged event counts for the team that picked the item. A user's requests are one unit. It says which ranking people prefer
within one list; it does not say how many more events there would be, so no verdict on worth rests on it. Pure: the coin is
passed in.

Source: Radlinski, Kurup and Joachims, "How does clickthrough data reflect retrieval quality?" (2008).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from random import Random
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from upeti.feed.lift import Users, rate
from upeti.feed.sequential import Interval, mixture_interval

Item = TypeVar("Item", bound=Hashable)


class Drafted(NamedTuple, Generic[Item]):
    """One place of an interleaved list."""

    item: Item
    team: int  # 0 or 1: whose pick it was


def team_draft(first: Sequence[Item], second: Sequence[Item], length: int, coin: Random) -> list[Drafted[Item]]:
    """Return a list of at most ``length`` items, drafted from two rankings of distinct items."""
    rankings = (first, second)
    places = [0, 0]
    taken: set[Item] = set()
    drafted: list[Drafted[Item]] = []
    while len(drafted) < length:
        starts = coin.randrange(2)
        before = len(drafted)
        for team in (starts, 1 - starts):
            ranking = rankings[team]
            while places[team] < len(ranking) and ranking[places[team]] in taken:
                places[team] += 1
            if places[team] < len(ranking) and len(drafted) < length:
                item = ranking[places[team]]
                taken.add(item)
                drafted.append(Drafted(item, team))
        if len(drafted) == before:
            break  # both are at their end
    return drafted


class Preference(NamedTuple):
    """By how much engaged events prefer the second ranking, from −1 (all the first's) to 1; valid at any time."""

    interval: Interval
    users: int  # who engaged with anything
    wins: tuple[int, int]  # users who took more from the first, from the second


def preference(engaged: Iterable[tuple[str, int]], users_planned: int = 1000, error_share: float = 0.05) -> Preference:
    """Return the preference over ``engaged`` events, as (user, team whose item it was). A user is one unit."""
    balance: dict[str, int] = {}
    count: dict[str, int] = {}
    for user, team in engaged:
        balance[user] = balance.get(user, 0) + (1 if team else -1)
        count[user] = count.get(user, 0) + 1
    balances = np.fromiter(balance.values(), dtype=np.float64, count=len(balance))
    counts = np.fromiter(count.values(), dtype=np.float64, count=len(count))
    wins = (int((balances < 0).sum()), int((balances > 0).sum()))
    return Preference(mixture_interval(rate(Users(balances, counts)), users_planned, error_share), len(balance), wins)
