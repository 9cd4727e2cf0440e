"""What another way to rank would have earned, from the log of the one that ran: a screen, never a verdict.

Rules: every estimate needs the logged propensity of what was shown. Beside every value stands how many impressions, and how
many engaged ones, carry it: where these are few, its interval misses more often than it says and is not to be trusted.
Rates are skewed, so their intervals are made on the scale of logarithms. Units are users or requests (``clusters``), since
impressions of one person are not independent. Pure.

Sources: Horvitz and Thompson (1952, IPS); Swaminathan and Joachims (2015, SNIPS); Dudík et al. (2011, doubly robust);
Kish (1965, effective sample size).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from upeti.feed.sequential import Estimate, Interval, fixed_interval

Floats = NDArray[np.float64]

# Fewer than this many impressions' worth of evidence: the interval is no longer believed, and the screen says so.
SAMPLE_MIN: Final = 100.0
# … or engaged impressions' worth: in simulations of rare clicks 95 % intervals miss 16 % at 10, 9 % at 30, 7 % from 50 on.
EVENTS_MIN: Final = 50.0


class Screened(NamedTuple):
    """A value of the other policy, per impression."""

    method: str  # "ips" | "snips" | "dr"
    interval: Interval
    sample: float  # effective number of impressions
    events: float  # effective number of rewarded ones
    is_trusted: bool


def screen(
    rewards: ArrayLike,
    propensities: ArrayLike,
    targets: ArrayLike,
    *,
    predicted: ArrayLike | None = None,
    predicted_of_target: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    weight_max: float = 1000.0,
    error_share: float = 0.05,
) -> list[Screened]:
    """Return IPS, SNIPS and, with predictions, DR estimates of the target policy's reward per impression.

    All arrays have one place per impression: what was earned, the logged probability of what was shown, the target
    policy's probability of the same. ``predicted`` is a model's reward of what was shown and ``predicted_of_target`` its
    mean under the target policy; the model must not have been fitted on these rows. Weights over ``weight_max`` are cut,
    which biases towards 0. Raises ``ValueError`` for a propensity of 0 or arrays that do not fit.
    """
    reward, logged, target = (np.asarray(one, dtype=np.float64) for one in (rewards, propensities, targets))
    if not reward.shape == logged.shape == target.shape or reward.ndim != 1:
        raise ValueError("rewards, propensities and targets have one place per impression, all of them")
    if not np.all((logged > 0) & (logged <= 1)) or not np.all((target >= 0) & (target <= 1)):
        raise ValueError("a logged propensity lies in (0, 1], a target's probability in [0, 1]")
    weights = np.minimum(target / logged, weight_max)
    groups = np.arange(reward.size) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    sample = effective_sample(weights)
    ones = np.ones_like(reward)
    found = [
        ("ips", _ratio(weights * reward, ones, groups)),
        ("snips", _ratio(weights * reward, weights, groups)),
    ]
    if predicted is not None and predicted_of_target is not None:
        model, of_target = (np.asarray(one, dtype=np.float64) for one in (predicted, predicted_of_target))
        found.append(("dr", _ratio(of_target + weights * (reward - model), ones, groups)))
    events = effective_sample(weights * reward)
    is_rate = bool(np.all(reward >= 0))
    return [
        Screened(
            method,
            _skewed(estimate, error_share) if is_rate and method != "dr" else fixed_interval(estimate, error_share),
            sample,
            events,
            sample >= SAMPLE_MIN and events >= EVENTS_MIN,
        )
        for method, estimate in found
    ]


def _skewed(estimate: Estimate, error_share: float) -> Interval:
    """Return the interval of a value over 0, made of its logarithm; from 0 without anything rewarded."""
    if not estimate.value > 0:
        return Interval(estimate.value, 0.0 if estimate.value == 0 else -math.inf, math.inf)
    log = fixed_interval(estimate._replace(value=0.0, variance=estimate.variance / estimate.value**2), error_share)
    return Interval(estimate.value, estimate.value * math.exp(log.low), estimate.value * math.exp(log.high))


def effective_sample(weights: ArrayLike) -> float:
    """Return how many equally weighted impressions would say as much."""
    given = np.asarray(weights, dtype=np.float64)
    squares = float(given @ given)
    return float(given.sum()) ** 2 / squares if squares else 0.0


def _ratio(above: Floats, below: Floats, groups: NDArray[np.intp]) -> Estimate:
    """Return Σ above / Σ below with its variance over groups."""
    over, under = np.bincount(groups, above), np.bincount(groups, below)
    count, whole = len(over), float(under.sum())
    if count < 2 or not whole > 0:
        return Estimate(float("nan"), float("nan"), count)
    value = float(over.sum()) / whole
    rest = over - value * under
    return Estimate(value, float(rest @ rest) * count / (count - 1) / whole**2, count)
