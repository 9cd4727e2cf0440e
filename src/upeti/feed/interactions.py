"""What feedback means, and the counters that every event moves at once.

Rules: a kind of feedback is positive, negative, or only says that something was seen. Counters decay: each event counts
half as much after each half-life, whenever it arrives, so an event that comes late counts as little as it should. They
are sums, so an event is taken back by adding it with the opposite sign.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from upeti.feed.arrays import Growing

DAY_S: Final = 86_400.0
# Short counters are the strongest single source of all (docs/feed.md): what is popular now is not what was last week.
HALF_LIVES_S: Final = (0.25 * DAY_S, DAY_S, 3 * DAY_S, 14 * DAY_S)
NEGATIVE_KINDS: Final = frozenset({"hide", "dislike", "skip", "report", "unlike"})
SEEN_KINDS: Final = frozenset({"read", "view", "impression", "seen"})
# 2**400 is far below the largest double, and sums of it are too.
_EXPONENT_MAX: Final = 400.0

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def is_positive(kind: str) -> bool:
    return kind not in NEGATIVE_KINDS and kind not in SEEN_KINDS


class Counters:
    """Positive events of each item: with decay, in all, and when the first was."""

    def __init__(self) -> None:
        self._decayed = Growing((len(HALF_LIVES_S),), np.float64)
        self._total = Growing((), np.float64)
        self._value = Growing((), np.float64)
        self._first_s = Growing((), np.float64, fill=np.inf)
        self._reference_s = 0.0  # the moment at which an event has the weight 1
        self._half_lives = np.array(HALF_LIVES_S)

    def resize(self, size: int) -> None:
        """Make room for items up to, not including, ``size``."""
        for each in (self._decayed, self._total, self._value, self._first_s):
            each.resize(size)

    def add(self, items: Places, at_s: Floats, values: Floats, sign: float = 1.0) -> None:
        """Count events; ``sign`` -1 takes them back (the first time stays)."""
        if not len(items):
            return
        newest_s = float(at_s.max())
        if (newest_s - self._reference_s) / HALF_LIVES_S[0] > _EXPONENT_MAX:
            self._rebase(newest_s)
        weights = np.exp2((at_s[:, None] - self._reference_s) / self._half_lives)
        np.add.at(self._decayed.values, items, sign * weights)
        np.add.at(self._total.values, items, sign)
        np.add.at(self._value.values, items, sign * values)
        if sign > 0:
            np.minimum.at(self._first_s.values, items, at_s)

    def decayed(self, items: Places | slice, now_s: float) -> Floats:
        """Return items × half-lives as of ``now_s``. An item whose events were all taken back has zero."""
        scale = np.exp2(np.minimum((self._reference_s - now_s) / self._half_lives, _EXPONENT_MAX))
        return np.asarray(np.maximum(self._decayed.values[items] * scale, 0.0))

    def total(self, items: Places | slice) -> Floats:
        return np.asarray(np.maximum(self._total.values[items], 0.0))

    def mean_value(self, items: Places | slice) -> Floats:
        """Return the mean value of the events on each item; 0 where there is none."""
        total = self._total.values[items]
        return np.asarray(np.divide(self._value.values[items], total, out=np.zeros_like(total), where=total > 0.5))

    def first_s(self, items: Places | slice) -> Floats:
        """Return when each item had its first event; infinite where it had none."""
        return self._first_s.values[items]

    def _rebase(self, reference_s: float) -> None:
        shift = (self._reference_s - reference_s) / self._half_lives
        self._decayed.values[:] *= np.exp2(np.maximum(shift, -1_000.0))
        self._reference_s = reference_s
