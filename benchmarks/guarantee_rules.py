"""Rules to choose a threshold by, beside the one that is used: what was tried, and the usual one that keeps no promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from upeti.learning.bounds import p_value, rows_to_start
from upeti.learning.calibration import Row
from upeti.learning.target import Target, limits_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Flat(NamedTuple):
    """Rows as arrays: confidence and eligible (rows,), about and broken (limits, rows)."""

    confidence: Floats
    eligible: Bools
    about: Bools
    broken: Bools
    alphas: Floats
    only_served: bool

    @classmethod
    def of(cls, rows: Sequence[Row], target: Target) -> Flat:
        limits = limits_of(target)
        about = np.array([[limit.about(row.teacher) for row in rows] for limit in limits])
        broken = np.array([[limit.broken(row.student, row.teacher) for row in rows] for limit in limits])
        return cls(
            np.array([row.confidence for row in rows]),
            np.array([row.in_scope and target.may_answer(row.student) for row in rows]),
            about,
            about & broken,
            np.array([limit.alpha for limit in limits]),
            limits[0].only_served,
        )

    def at(self, index: NDArray[np.int64]) -> Flat:
        return self._replace(
            confidence=self.confidence[index],
            eligible=self.eligible[index],
            about=self.about[:, index],
            broken=self.broken[:, index],
        )

    def risks(self, threshold: float | None) -> Floats:
        """The shares of broken ones, exactly. Shape (limits,)."""
        served = self.eligible & (self.confidence >= (math.inf if threshold is None else threshold))
        among = (self.about & served).sum(1) if self.only_served else self.about.sum(1)
        return (self.broken & served).sum(1) / np.maximum(among, 1)

    def coverage(self, threshold: float | None) -> float:
        return 0.0 if threshold is None else float(np.mean(self.eligible & (self.confidence >= threshold)))

    def counts(self, thresholds: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Errors and rows of each limit at each threshold. Shapes (limits, thresholds)."""
        order = np.flatnonzero(self.eligible)[np.argsort(-self.confidence[self.eligible], kind="stable")]
        reached = np.searchsorted(-self.confidence[order], -thresholds, side="right")

        def summed(flags: Bools) -> NDArray[np.int64]:
            zero = np.zeros((len(flags), 1), dtype=np.int64)
            return np.hstack([zero, np.cumsum(flags[:, order], axis=1)])[:, reached]

        among = summed(self.about) if self.only_served else np.repeat(self.about.sum(1)[:, None], len(thresholds), 1)
        return summed(self.broken), among

    def own(self) -> Floats:
        return np.unique(np.r_[0.0, self.confidence[self.eligible]])[::-1]


# calibration rows, other rows, delta, randomness → threshold
Rule = Callable[[Flat, Flat, float, np.random.Generator], float | None]
Test = Callable[[NDArray[np.int64], NDArray[np.int64], float, float], Floats]


def best(flat: Flat, tolerance: float = 0.0) -> float | None:
    """The loosest threshold that is right: on calibration rows "tune on validation", on all rows the best there is."""
    thresholds = flat.own()
    errors, among = flat.counts(thresholds)
    kept = np.all(errors <= flat.alphas[:, None] * among + tolerance, axis=0)
    return float(thresholds[np.flatnonzero(kept)[-1]]) if kept.any() else None


def tuned(flat: Flat, other: Flat, delta: float, rng: np.random.Generator) -> float | None:
    return best(flat)


def exact(errors: NDArray[np.int64], among: NDArray[np.int64], alpha: float, delta: float) -> Floats:
    return p_value(errors, among, alpha)


def hoeffding(errors: NDArray[np.int64], among: NDArray[np.int64], alpha: float, delta: float) -> Floats:
    share = errors / np.maximum(among, 1)
    return np.where(share < alpha, np.exp(-2 * among * (alpha - share) ** 2), 1.0)


def betting(errors: NDArray[np.int64], among: NDArray[np.int64], alpha: float, delta: float) -> Floats:
    """One over the wealth of 40 fixed stakes: may be looked at after every row."""
    stakes = np.linspace(0.02, 0.98, 40)[:, None] / (1 - alpha)
    logs = np.log1p(-stakes * (1 - alpha)) * errors + np.log1p(stakes * alpha) * (among - errors)
    return np.minimum(1.0, np.exp(-(np.logaddexp.reduce(logs, axis=0) - math.log(len(stakes)))))


def fine(test: Test = exact, split: bool = False) -> Rule:
    """Every threshold of the calibration rows, for limits whose risk only grows. ``split``: delta over the limits."""

    def rule(flat: Flat, other: Flat, delta: float, rng: np.random.Generator) -> float | None:
        return _first_run(flat, flat.own(), test, delta / len(flat.alphas) if split else delta)

    return rule


def quantiles(points: int, test: Test = exact) -> Rule:
    """Even quantiles of other rows."""

    def rule(flat: Flat, other: Flat, delta: float, rng: np.random.Generator) -> float | None:
        return _first_run(flat, _quantiles(other, np.linspace(1 / points, 1, points)), test, delta)

    return rule


def entered(
    entries: Sequence[float], points: int = 100, test: Test = exact, own: bool = False, factor: float = 1.6
) -> Rule:
    """Quantiles, entered at shares of calls (0: where a few errors are survived) with an equal part of delta each."""

    def rule(flat: Flat, other: Flat, delta: float, rng: np.random.Generator) -> float | None:
        alpha = float(flat.alphas[0])
        least = factor / 1.6 * rows_to_start(alpha, delta) / len(flat.confidence)
        if least > 1:
            return None
        starts = sorted({max(least, share) for share in entries})
        shares = np.unique(np.r_[np.geomspace(starts[0], 1, points), starts])
        thresholds = _quantiles(flat if own else other, shares)
        errors, among = flat.counts(thresholds)
        p = test(errors[0], among[0], alpha, delta)
        return _fallback(p, thresholds, shares, starts, delta)

    return rule


def guided(points: int = 100) -> Rule:
    """One entry, where labels of other rows promise the smallest p-value."""

    def rule(flat: Flat, other: Flat, delta: float, rng: np.random.Generator) -> float | None:
        alpha, n = float(flat.alphas[0]), len(flat.confidence)
        least = rows_to_start(alpha, delta) / n
        if least > 1:
            return None
        thresholds = _quantiles(other, np.geomspace(least, 1, points))
        errors, among = other.counts(thresholds)
        share = (errors[0] + 0.5) / (among[0] + 1)
        rows = np.maximum(1, n * among[0] / len(other.confidence))
        return _first_run(flat, thresholds[int(np.argmin(p_value(rows * share, rows, alpha))) :], exact, delta)

    return rule


def _quantiles(rows: Flat, shares: Floats) -> Floats:
    return np.quantile(np.where(rows.eligible, rows.confidence, 0.0), 1 - shares, method="lower")


def _first_run(flat: Flat, thresholds: Floats, test: Test, delta: float) -> float | None:
    errors, among = flat.counts(thresholds)
    p = np.max([test(errors[i], among[i], float(alpha), delta) for i, alpha in enumerate(flat.alphas)], axis=0)
    run = len(p) if np.all(p <= delta) else int(np.argmin(p <= delta))
    return float(thresholds[run - 1]) if run else None


def _fallback(p: Floats, thresholds: Floats, shares: Floats, starts: Sequence[float], delta: float) -> float | None:
    found, level = None, 0.0
    for place, share in enumerate(shares):
        level += delta / len(starts) if share in starts else 0.0
        if level and p[place] <= level:
            found = float(thresholds[place])
        else:
            level = 0.0
    return found
