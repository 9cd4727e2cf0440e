"""Drift: whether a window of calls is unlike the tenant's own past, by the maximum mean discrepancy of their shapes.

Rules: a text is embedded as the sum of one fixed random direction for each of its seven shape numbers, whitened over both
samples; the statistic is the squared distance of the two means, which is the maximum mean discrepancy for the linear
kernel of that embedding. Its distribution under "nothing has changed" is that of the same calls dealt at random into two
piles; far out it is read off a gamma distribution of the same mean and variance. What a tenant's earlier windows varied
more than chance makes the threshold wider. Needs numpy (the extra ``conduct``). Pure: the seed is passed in.

Source of the test: Gretton, Borgwardt, Rasch, Schölkopf, Smola, A Kernel Two-Sample Test, JMLR 13 (2012).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from upeti.rights.conduct.reading import Shape

DIRECTIONS: Final = 128
PERMUTATIONS: Final = 400
VALUES_MAX: Final = 4_096  # of one shape number
_SEED: Final = 20_261_127  # of the directions: the same for all, or past and present could not be compared
_RIDGE: Final = 1.0  # of the mean variance, added when whitening: directions that hardly vary are not blown up
_NOISE: Final = 1e-6  # of single precision, where the variance of one direction is about 1

Matrix = NDArray[np.float32]


class Drift(msgspec.Struct, frozen=True):
    """One comparison of a window with a reference."""

    statistic: float
    expected: float  # its mean when nothing has changed
    ratio: float  # statistic / expected: about 1 when nothing has changed
    scale: float  # by how much the tenant's own windows vary more than chance; at least 1
    p: float  # probability of such a statistic when nothing has changed
    window_calls: int
    reference_calls: int


def drift(
    window: Sequence[Shape],
    reference: Sequence[Shape],
    *,
    seed: int,
    scale: float = 1.0,
    permutations: int = PERMUTATIONS,
) -> Drift:
    """Compare two samples of at least two shapes each."""
    n, m = len(window), len(reference)
    rows = _whitened(_embedded([*window, *reference]))
    total = rows.sum(0)

    def statistics(sums: Matrix) -> NDArray[np.float64]:
        difference = sums / n - (total - sums) / m
        return np.asarray((difference.astype(np.float64) ** 2).sum(-1))

    observed = float(statistics(rows[:n].sum(0)))
    random = np.random.default_rng(seed)
    piles = np.zeros((permutations, n + m), np.float32)
    for pile in piles:
        pile[random.permutation(n + m)[:n]] = 1
    null = statistics(piles @ rows)
    expected, variance = float(null.mean()), float(null.var())
    if not rows.any() or variance <= 0:  # all calls are alike
        return Drift(observed, expected, 1.0, scale, 1.0, n, m)
    shape = expected * expected / variance
    p = gamma_tail(shape, observed / scale * shape / expected)
    return Drift(observed, expected, observed / expected, scale, p, n, m)


def own_scale(ratios: Sequence[float]) -> float:
    """Return by how much a tenant's unremarkable windows have varied more than chance, from their ratios; at least 1.

    The largest counts: windows that follow topics of the day vary by more than their mean says, and there are few of them.
    """
    return max(1.0, *ratios) if ratios else 1.0


def moved(window: Sequence[Shape], reference: Sequence[Shape], *, most: int = 3) -> dict[str, dict[str, Any]]:
    """Return what moved, for people: for each shape number its distance (share of calls that would have to change) and
    the values whose shares changed most, with the share before and now. First words are not named.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in Shape.__struct_fields__:
        before = _shares([getattr(shape, name) for shape in reference])
        now = _shares([getattr(shape, name) for shape in window])
        changes = {value: now.get(value, 0.0) - before.get(value, 0.0) for value in before.keys() | now.keys()}
        largest = sorted(changes, key=lambda value: (-abs(changes[value]), value))[: 0 if name == "opening" else most]
        found[name] = {
            "distance": round(math.fsum(abs(change) for change in changes.values()) / 2, 4),
            "values": {
                str(value): [round(before.get(value, 0.0), 4), round(now.get(value, 0.0), 4)] for value in largest
            },
        }
    return found


def gamma_tail(shape: float, x: float) -> float:
    """Return the probability that a gamma variable of ``shape`` and scale 1 is above ``x``.

    Series below the mean, Lentz's continued fraction above (Abramowitz and Stegun 6.5.29 and 6.5.31).
    """
    if x <= 0:
        return 1.0
    front = math.exp(max(-745.0, shape * math.log(x) - x - math.lgamma(shape)))
    if x < shape + 1:
        term = total = 1 / shape
        step = shape
        while term > total * 1e-15:
            step += 1
            term *= x / step
            total += term
        return max(0.0, 1 - front * total)
    tiny = 1e-300
    b = x + 1 - shape
    c, d = 1 / tiny, 1 / b
    fraction = d
    for k in range(1, 10_000):
        a = -k * (k - shape)
        b += 2
        d = 1 / (a * d + b or tiny)
        c = b + a / c or tiny
        fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return min(1.0, front * fraction)


def _embedded(shapes: Sequence[Shape]) -> Matrix:
    places = np.array([msgspec.structs.astuple(shape) for shape in shapes], np.int64) % VALUES_MAX
    rows = np.zeros((len(shapes), DIRECTIONS), np.float32)
    for number, column in enumerate(places.T):
        values, where = np.unique(column, return_inverse=True)
        rows += np.stack([_direction(number, int(value)) for value in values])[where]
    return rows


_directions: dict[tuple[int, int], Matrix] = {}  # at most 7 × 4,096


def _direction(number: int, value: int) -> Matrix:
    found = _directions.get((number, value))
    if found is None:
        random = np.random.default_rng((_SEED, number, value))
        found = _directions[number, value] = random.standard_normal(DIRECTIONS, np.float32)
    return found


def _whitened(rows: Matrix) -> Matrix:
    rows = rows - rows.mean(0)
    variances, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    mean = float(variances.mean())
    if mean < _NOISE:
        return np.zeros_like(rows)
    return np.asarray(rows @ (axes / np.sqrt(np.maximum(variances, 0) + _RIDGE * mean)), np.float32)


def _shares(values: Sequence[int]) -> dict[int, float]:
    counts: dict[int, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return {value: count / len(values) for value, count in counts.items()}
