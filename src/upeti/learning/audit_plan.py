"""How soon audits would ring: many simulated runs at once, to choose the share of calls that is audited.

Rules: the same bets as ``audit``, over arrays; a test holds the two together. Randomness is passed in. Pure.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from upeti.learning import audit

_PORTION: Final = 500  # audits simulated at a time


class Delay(NamedTuple):
    """Audited answers from the change to the alarm; inf where it did not come in time."""

    median: float
    ninth: float  # 9 of 10 runs have rung by then
    early: float  # share of runs that rang before the change


class Runs:
    """The wealth of many independent runs of audits against a promise per answer. ``reserve``: some of it is kept back."""

    def __init__(self, runs: int, alpha: float, delta: float, *, reserve: bool = True) -> None:
        stakes = np.array(audit.stakes_of(alpha))
        self._bad, self._good = 1 + stakes * (1 - alpha), 1 - stakes * alpha
        self._kept = 1 - audit.AT_ONCE if reserve else 0.0
        self._staked = np.full((runs, len(stakes)), (1 - self._kept) / len(stakes))
        self._bar = 1 / delta
        self.audits = 0
        self.rang: NDArray[np.int64] = np.zeros(runs, dtype=np.int64)  # the number of the audit that rang; 0: none yet

    def see(self, broken: NDArray[np.bool_]) -> None:
        """Take audits into account; ``broken`` has the shape (runs, audits)."""
        for column in broken.T:
            self.audits += 1
            self._staked *= np.where(column[:, None], self._bad, self._good)
            put_down = self._kept * audit.put_down(self.audits - 1)
            self._staked += put_down / len(self._bad)
            self._kept -= put_down
            self.rang[(self.rang == 0) & (self._staked.sum(1) + self._kept >= self._bar)] = self.audits
            self._staked[self.rang > 0] = 0.0


def delay(
    rng: np.random.Generator,
    alpha: float,
    delta: float,
    risk: float,
    *,
    good_audits: int = 0,
    good_risk: float = 0.0,
    runs: int = 1000,
    audits_max: int = 20_000,
    reserve: bool = True,
) -> Delay:
    """Return how many audited answers it takes to notice ``risk``, after ``good_audits`` at ``good_risk``."""
    world = Runs(runs, alpha, delta, reserve=reserve)
    while world.audits < good_audits:
        world.see(rng.random((runs, min(_PORTION, good_audits - world.audits))) < good_risk)
    early = world.rang > 0
    while not np.all(world.rang) and world.audits < good_audits + audits_max:
        world.see(rng.random((runs, _PORTION)) < risk)
    late = np.where(world.rang[~early] > 0, world.rang[~early] - good_audits, math.inf)
    if not late.size:
        return Delay(math.inf, math.inf, 1.0)
    median, ninth = np.quantile(late, (0.5, 0.9), method="higher")
    return Delay(float(median), float(ninth), float(early.mean()))
