"""What is known of a user: what they did, newest last, and what follows from it.

Rules: every event is in it before it is acknowledged, so the next feed knows of it. The last `HISTORY_MAX` positive events
describe the taste; what was seen or hidden is kept whole. A user without profiling has what they have seen, so that it is
not shown again, and nothing that describes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

HISTORY_MAX: Final = 200

Places = NDArray[np.int64]
Floats = NDArray[np.float64]


class Profile:
    """One user."""

    __slots__ = (
        "__weakref__", "_at_s", "_items", "_values", "last_s", "positive_count", "profiling", "scores", "seen", "unwanted",
    )  # fmt: skip

    def __init__(self) -> None:
        self._items: list[int] = []
        self._at_s: list[float] = []
        self._values: list[float] = []
        self.seen: set[int] = set()
        self.unwanted: set[int] = set()  # hidden, disliked
        self.positive_count = 0
        self.last_s = 0.0
        self.profiling = True
        self.scores: object = None  # what was computed from it (``user_scores``); gone with the next event

    def add(self, item: int, at_s: float, value: float, *, positive: bool, negative: bool) -> None:
        self.scores = None
        self.seen.add(item)
        if negative:
            self.unwanted.add(item)
        if not positive:
            return
        self.positive_count += 1
        self.last_s = max(self.last_s, at_s)
        place = len(self._at_s)
        while place and self._at_s[place - 1] > at_s:  # late events are few, and late by little
            place -= 1
        self._items.insert(place, item)
        self._at_s.insert(place, at_s)
        self._values.insert(place, value)
        if len(self._items) > HISTORY_MAX:
            del self._items[0], self._at_s[0], self._values[0]

    def items(self) -> Places:
        """Return the places of the items of the history, oldest first."""
        return np.array(self._items if self.profiling else [], np.int64)

    def recent(self, number: int) -> Places:
        """Return the newest ``number`` items of the history, oldest first."""
        return np.array(self._items[-number:] if self.profiling else [], np.int64)

    def at_s(self) -> Floats:
        return np.array(self._at_s if self.profiling else [], np.float64)

    def values(self) -> Floats:
        return np.array(self._values if self.profiling else [], np.float64)


NOBODY: Final = Profile()  # who was never heard of; never changed


class Profiles:
    """All users of one tenant."""

    def __init__(self) -> None:
        self._of: dict[str, Profile] = {}

    def __len__(self) -> int:
        return len(self._of)

    def __iter__(self) -> Iterator[tuple[str, Profile]]:
        return iter(self._of.items())

    def get(self, user: str) -> Profile:
        """Return a profile to read; an empty one for an unknown user."""
        return self._of.get(user, NOBODY)

    def of(self, user: str) -> Profile:
        """Return a profile to change."""
        found = self._of.get(user)
        if found is None:
            found = self._of[user] = Profile()
        return found

    def drop(self, user: str) -> None:
        self._of.pop(user, None)
