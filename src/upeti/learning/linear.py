"""How a student decides: one multinomial logistic regression a field, and how sure to be of it.

Where there is an encoder's vector, half the say is a kernel ridge regression's, which sees curves where the other sees planes;
their errors differ. Its kernel, exp(_CURVE · (cosine − 1)), is told by random waves, so that no vector of a text is kept.

Confidence is the probability that the answer agrees with the teacher's, told by a second, tiny regression from what the
first one's probabilities look like (how high, how far from the next, how spread, how often that answer was right). It
is fitted on answers to rows that the first was not fitted on. A certificate needs no such care, but a better order of who is
surer lets a student answer more under the same certificate.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

FEATURES: Final = 5  # of `_looks`
WAVES: Final = 1_024
_CURVE: Final = 1.5
_RIDGE: Final = 0.4
_SHARPNESS: Final = 8.0  # makes of a ridge regression's values, about 0 and 1, scores like the other's
FOLDS: Final = 4
_PRIOR_ROWS: Final = 5.0  # of a label: until it has more, its share of right answers is mostly that of all


class Head(NamedTuple):
    """One field. ``weights`` is m × k, ``bias`` k: k labels."""

    weights: Floats
    bias: Floats


class Trust(NamedTuple):
    """What makes a field's probabilities a confidence: ``label_trust`` k log-odds, ``weights`` FEATURES + 1."""

    label_trust: Floats
    weights: Floats


def softmax(scores: Floats) -> Floats:
    """Return probabilities of rows of scores."""
    scores = np.exp(scores - scores.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    return scores


def fit_head(features: Floats, labels: Ints, count: int, strength: float) -> Head:
    """Fit labels 0 … ``count`` − 1, of which some may not occur. ``strength`` is the inverse of the regularisation."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    seen = np.unique(labels)
    weights = np.zeros((features.shape[1], count), np.float32)
    bias = np.full(count, -20, np.float32)  # a label that no row has is never answered
    if len(seen) == 1:
        bias[seen] = 0
        return Head(weights, bias)
    model: Any = LogisticRegression(C=strength, max_iter=150, tol=1e-3)
    with warnings.catch_warnings():
        # The last digits of the weights move no answer; and many labels in few rows are what there is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")
        model.fit(features, labels)
    found, base = model.coef_, model.intercept_
    if len(seen) == 2:
        found, base = np.vstack((-found, found)) / 2, np.concatenate((-base, base)) / 2
    weights[:, seen] = found.T
    bias[seen] = base
    return Head(weights, bias)


def out_of_fold(features: Floats, labels: Ints, count: int, strength: float, seed: int) -> Floats:
    """Return each row's scores (n × k) by a head that was fitted without it."""
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    scores = np.zeros((len(labels), count), np.float32)
    for number in range(FOLDS):
        inside, outside = fold != number, fold == number
        if not outside.any():
            continue
        head = fit_head(features[inside], labels[inside], count, strength)
        scores[outside] = features[outside] @ head.weights + head.bias
    return scores


def frequencies(dimensions: int, seed: int) -> Floats:
    """Return dimensions × (WAVES / 2), random and at right angles to each other as far as there is room."""
    draw = np.random.default_rng(seed)
    blocks = []
    for _ in range(-(-WAVES // 2 // dimensions)):
        directions, _ = np.linalg.qr(draw.normal(size=(dimensions, dimensions)))
        blocks.append(directions * np.sqrt(draw.chisquare(dimensions, dimensions)))
    found = np.hstack(blocks)[:, : WAVES // 2] * np.sqrt(_CURVE)
    return np.ascontiguousarray(found, np.float32)


def waves(vectors: Floats, of: Floats) -> Floats:
    """Return n × WAVES: products of two rows are about the kernel of their vectors."""
    angles = vectors @ of
    found = np.concatenate((np.cos(angles), np.sin(angles)), axis=1)
    found /= np.float32(np.sqrt(of.shape[1]))
    return found


def fit_ridge(seen: Floats, labels: Sequence[Ints], counts: Sequence[int]) -> tuple[Floats, Floats]:
    """Fit all fields at once; return weights (waves × k) and each row's scores (n × k) by a fit without it, k over all fields."""
    wanted = np.hstack([np.eye(count, dtype=np.float32)[one] for one, count in zip(labels, counts, strict=True)])
    products = seen.T @ seen
    products[np.diag_indices_from(products)] += _RIDGE
    inverse = np.linalg.inv(products.astype(np.float64)).astype(np.float32)
    weights = inverse @ (seen.T @ wanted)
    own = ((seen @ inverse) * seen).sum(1)  # how much each row's value is its own doing
    without = wanted - (wanted - seen @ weights) / np.maximum(1 - own, 1e-3)[:, np.newaxis]
    return weights * np.float32(_SHARPNESS), without * np.float32(_SHARPNESS)


def fit_trust(probabilities: Floats, labels: Ints) -> Trust:
    """Fit confidence on probabilities of rows that the head was not fitted on."""
    from sklearn.linear_model import LogisticRegression

    said = probabilities.argmax(1)
    right = said == labels
    count = probabilities.shape[1]
    overall = (right.sum() + 1) / (len(right) + 2)
    share = (np.bincount(said, right, count) + overall * _PRIOR_ROWS) / (
        np.bincount(said, minlength=count) + _PRIOR_ROWS
    )
    label_trust = np.log(share / (1 - share)).astype(np.float32)
    if right.all() or not right.any():
        # Nothing tells them apart: the order of the probabilities is all there is.
        return Trust(label_trust, np.array([0, 1, 0, 0, 0, 0], np.float32))
    looks = _looks(probabilities, said, label_trust)
    middle, spread = looks.mean(0), looks.std(0) + 1e-6
    model: Any = LogisticRegression(C=0.3).fit((looks - middle) / spread, right)
    weights = model.coef_[0] / spread
    base = model.intercept_[0] - (weights * middle).sum()
    return Trust(label_trust, np.append(weights, base).astype(np.float32))


def decide(probabilities: Floats, trust: Trust) -> tuple[Ints, Floats]:
    """Return each row's label and the confidence in it."""
    said = probabilities.argmax(1)
    odds = _looks(probabilities, said, trust.label_trust) @ trust.weights[:-1] + trust.weights[-1]
    return said, (1 / (1 + np.exp(-odds))).astype(np.float32)


def _looks(probabilities: Floats, said: Ints, label_trust: Floats) -> Floats:
    rows = np.arange(len(said))
    safe = np.maximum(probabilities, 1e-9)
    first = safe[rows, said]
    logs = np.log(safe)
    if safe.shape[1] > 1:
        second = np.partition(safe, -2, axis=1)[:, -2]
    else:
        second = np.full(len(said), 1e-9, np.float32)
    looks = np.empty((len(said), FEATURES), np.float32)
    looks[:, 0] = np.log(first)
    looks[:, 1] = first - second
    looks[:, 2] = np.log(first / second)
    looks[:, 3] = (safe * logs).sum(1)
    looks[:, 4] = label_trust[said]
    return looks


def joint(confidences: Sequence[Floats]) -> Floats:
    """Return the confidence that all fields agree."""
    found = np.ones(len(confidences[0]), np.float32)
    for confidence in confidences:
        found *= confidence
    return found
