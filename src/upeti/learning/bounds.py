"""Exact statements about a share from counts: tests, bounds, sample sizes, and how an error probability is spent.

Rules: everything here is exact for independent draws, at every sample size; nothing is a normal approximation. "Errors" are
counted among ``n`` rows; ``alpha`` is the share of errors that is allowed; ``delta`` the probability with which a statement
may be false. Pure.

Sources: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial" (1934);
Dvoretzky, Kiefer and Wolfowitz (1956) with Massart's constant (1990).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betainccinv, betaincinv

Floats = NDArray[np.float64]

_START_FACTOR: Final = 1.6  # measured: below it a student that is twice as good as promised still fails by bad luck
_ROWS_MAX: Final = 10**8
_BASEL: Final = 6 / math.pi**2  # Σ 1/k² = π²/6


class Interval(NamedTuple):
    """An estimate with its limits."""

    estimate: float
    low: float
    high: float


def p_value(errors: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
    """Return P(Binomial(n, alpha) ≤ errors): what speaks against "the share of errors is over alpha". Any shapes.

    Whoever says "at most alpha" when this is ≤ delta is wrong with probability at most delta. It is 1 for n = 0.
    """
    k = np.asarray(errors, dtype=np.float64)
    rows = np.asarray(n, dtype=np.float64)
    whole = k >= rows
    value = betainc(np.where(whole, 1.0, rows - k), k + 1, 1 - alpha)
    return np.where(whole, 1.0, value)


def upper_bound(errors: int, n: int, delta: float) -> float:
    """Return the Clopper–Pearson upper bound: the true share is over it with probability at most ``delta``."""
    return 1.0 if errors >= n else float(betainccinv(errors + 1, n - errors, delta))


def lower_bound(errors: int, n: int, delta: float) -> float:
    """Return the Clopper–Pearson lower bound: the true share is under it with probability at most ``delta``."""
    return 0.0 if errors <= 0 else float(betaincinv(errors, n - errors + 1, delta))


def interval(errors: int, n: int, delta: float = 0.05) -> Interval:
    """Return the share with its exact two-sided interval; (nan, 0, 1) for no rows."""
    share = errors / n if n else math.nan
    return Interval(share, lower_bound(errors, n, delta / 2), upper_bound(errors, n, delta / 2))


def any_share_interval(count: int, n: int, delta: float = 0.05) -> Interval:
    """Return the share of rows over a limit, true for *all limits at once*, so also for one chosen on the same rows."""
    if not n:
        return Interval(math.nan, 0.0, 1.0)
    half = math.sqrt(math.log(2 / delta) / (2 * n))
    return Interval(count / n, max(0.0, count / n - half), min(1.0, count / n + half))


def errors_allowed(n: int, alpha: float, delta: float) -> int:
    """Return the most errors in ``n`` rows with which "at most alpha" is shown at ``delta``; −1 when even 0 is too many."""
    if n < rows_at_least(alpha, delta):
        return -1
    low, high = 0, n  # shown with low, not with high
    while high - low > 1:
        middle = (low + high) // 2
        if p_value(middle, n, alpha) <= delta:
            low = middle
        else:
            high = middle
    return low


def rows_at_least(alpha: float, delta: float) -> int:
    """Return the fewest rows with which anything can be shown: all of them right, (1 − alpha)ⁿ ≤ delta."""
    n = max(1, math.floor(math.log(delta) / math.log1p(-alpha)) - 1)
    while p_value(0, n, alpha) > delta:
        n += 1
    return n


def rows_to_start(alpha: float, delta: float) -> int:
    """Return with how many rows a sequence of tests should begin: a few errors are then survived."""
    return math.ceil(_START_FACTOR * math.log(1 / delta) / alpha)


def rows_needed(alpha: float, delta: float, error_share: float = 0.0, power: float = 0.8) -> int | None:
    """Return with how many rows "at most alpha" is shown with probability ``power``, if the true share is ``error_share``.

    None: never (the share is not under alpha), or more than a hundred million rows.
    """
    if error_share >= alpha:
        return None

    def enough(n: int) -> bool:
        allowed = errors_allowed(n, alpha, delta)
        return allowed >= 0 and bool(p_value(allowed, n, error_share) >= power)

    low = rows_at_least(alpha, delta) - 1
    high = low + 1
    while not enough(high):
        low, high = high, 2 * high
        if high > _ROWS_MAX:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def spent(delta: float, *places: int) -> float:
    """Return how much of ``delta`` the k-th of any number of looks may use: 6·delta/(π²k²); all of them sum to delta.

    With several places (the k-th look of the j-th task) the shares of all pairs sum to delta. Places begin with 1.
    """
    for place in places:
        if place < 1:
            raise ValueError(f"looks and tasks are counted from 1, not from {place}")
        delta *= _BASEL / place**2
    return delta
