"""Intervals and alarms that stay true however often one looks.

Rules: a *confidence sequence* covers at all times together with probability 1 − α, so an experiment may be looked at after
every event and stopped on what is seen; a fixed interval looked at 20 times is wrong in a quarter of A/A tests. The
normal-mixture sequence is asymptotic (it needs some hundred units first), the bounded one is exact from the first
observation. Pure; units are whatever the caller's are.

Sources: Robbins, "Statistical methods related to the law of the iterated logarithm" (1970); Waudby-Smith et al.,
"Time-uniform central limit theory and asymptotic confidence sequences" (2021); Waudby-Smith and Ramdas, "Estimating means
of bounded random variables by betting" (2020), theorem 2; Lindon and Malek, "Anytime-valid inference for multinomial count
data" (2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

Floats = NDArray[np.float64]

# Below this the central limit theorem promises nothing about a rate of a few percent, and neither does the mixture.
UNITS_MIN: Final = 100
_PRIOR_UNITS: Final = 100.0  # how firmly the alarm believes in the planned shares: sees 1 % deviations by 20,000 units


class Interval(NamedTuple):
    """An estimate with its limits. The whole line, when there is too little to say anything."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def scaled(self, factor: float, shift: float = 0.0) -> Interval:
        """Return ``factor × self + shift``; a ``factor`` is over 0."""
        return Interval(*(factor * value + shift for value in self))


class Estimate(NamedTuple):
    """A value and the variance of that value (not of one unit), from so many independent units."""

    value: float
    variance: float
    units: int


def mixture_interval(estimate: Estimate, units_planned: float, error_share: float = 0.05) -> Interval:
    """Return the normal-mixture confidence sequence's interval now; it is tightest near ``units_planned``."""
    if estimate.units < UNITS_MIN or not math.isfinite(estimate.value) or not estimate.variance > 0:
        return Interval(estimate.value, -math.inf, math.inf)
    half = math.sqrt(estimate.variance) * mixture_factor(estimate.units / units_planned, error_share)
    return Interval(estimate.value, estimate.value - half, estimate.value + half)


def mixture_factor(progress: float, error_share: float) -> float:
    """Return by how many standard errors the sequence reaches when ``progress`` of the planned units are there."""
    believed = progress * _tightest(error_share)  # variance of the mixture over that of the estimate
    return math.sqrt((1 + 1 / believed) * (math.log1p(believed) - 2 * math.log(error_share)))


def _tightest(error_share: float) -> float:
    # Waudby-Smith et al. 2021, appendix B.2: the choice that makes the boundary narrowest at the planned time.
    bound = -2 * math.log(error_share)
    return bound + math.log(bound + 1)


def units_needed(estimate: Estimate, margin: float, units_planned: float, error_share: float = 0.05) -> int | None:
    """Return with how many units the interval excludes what lies ``margin`` away, if the estimate stays as it is.

    None: more than a thousand times as many as there are now, or nothing is known yet.
    """
    if estimate.units < UNITS_MIN or not estimate.variance > 0 or margin == 0 or not math.isfinite(margin):
        return None
    per_unit = estimate.variance * estimate.units
    low, high = 1.0, 1000.0 * estimate.units

    def reach(units: float) -> float:
        return math.sqrt(per_unit / units) * mixture_factor(units / units_planned, error_share)

    if reach(high) > abs(margin):
        return None
    while high - low > max(1.0, low * 0.01):
        middle = (low + high) / 2
        low, high = (low, middle) if reach(middle) <= abs(margin) else (middle, high)
    return math.ceil(high)


def fixed_interval(estimate: Estimate, error_share: float = 0.05) -> Interval:
    """Return the usual interval for one look at a time that was set before: for screens and for tables of benches."""
    if estimate.units < 2 or not estimate.variance >= 0:
        return Interval(estimate.value, -math.inf, math.inf)
    half = NormalDist().inv_cdf(1 - error_share / 2) * math.sqrt(estimate.variance)
    return Interval(estimate.value, estimate.value - half, estimate.value + half)


def bounded_sequence(values: ArrayLike, low: float = 0.0, high: float = 1.0, error_share: float = 0.05) -> Floats:
    """Return the exact confidence sequence of a mean of values in [low, high]: shape (n, 2), one row per time.

    Empirical-Bernstein with predictable plug-ins; limits are intersected over time, so they never widen. Raises
    ``ValueError`` for a value out of range: then nothing would be exact.
    """
    given = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    if given.size and not (np.all(given >= 0) and np.all(given <= 1)):
        raise ValueError(f"a value lies outside of [{low}, {high}]; give the true bounds, or cut the values at them")
    count = np.arange(1, given.size + 1)
    mean = (0.5 + np.cumsum(given)) / (count + 1)
    spread = (0.25 + np.cumsum((given - mean) ** 2)) / (count + 1)
    mean_before, spread_before = np.r_[0.5, mean[:-1]], np.r_[0.25, spread[:-1]]
    stakes = np.sqrt(2 * np.log(2 / error_share) / (spread_before * count * np.log1p(count)))
    stakes = np.minimum(stakes, 0.5)
    cost = (-np.log1p(-stakes) - stakes) * (given - mean_before) ** 2
    staked = np.cumsum(stakes)
    centre = np.cumsum(stakes * given) / staked
    reach = (math.log(2 / error_share) + np.cumsum(cost)) / staked
    lower = np.maximum.accumulate(np.maximum(centre - reach, 0.0))
    upper = np.minimum.accumulate(np.minimum(centre + reach, 1.0))
    return np.stack([lower, upper], axis=1) * (high - low) + low


def bounded_interval(values: ArrayLike, low: float = 0.0, high: float = 1.0, error_share: float = 0.05) -> Interval:
    """Return the exact sequence's interval now."""
    given = np.asarray(values, dtype=np.float64)
    if not given.size:
        return Interval(math.nan, low, high)
    limits = bounded_sequence(given, low, high, error_share)[-1]
    return Interval(float(given.mean()), float(limits[0]), float(limits[1]))


def mismatch_p_value(counts: Sequence[int], weights: Sequence[float]) -> float:
    """Return the chi-square p-value of a sample-ratio mismatch, for one look; 1 when nobody was counted."""
    total, whole = sum(counts), sum(weights)
    if total == 0:
        return 1.0
    expected = [total * weight / whole for weight in weights]
    statistic = sum((count - due) ** 2 / due for count, due in zip(counts, expected, strict=True))
    return float(chdtrc(len(counts) - 1, statistic))


def mismatch_evidence(counts: Sequence[int], weights: Sequence[float]) -> float:
    """Return the evidence (an e-value) that units do not come in the planned ratio; 1/α or more is an alarm at any time.

    It is the likelihood under a Dirichlet mixture around the planned shares over that under the plan itself.
    """
    whole = sum(weights)
    log = math.lgamma(_PRIOR_UNITS) - math.lgamma(_PRIOR_UNITS + sum(counts))
    for count, weight in zip(counts, weights, strict=True):
        believed = _PRIOR_UNITS * weight / whole
        log += math.lgamma(believed + count) - math.lgamma(believed) - count * math.log(weight / whole)
    return math.exp(min(log, 700.0))
