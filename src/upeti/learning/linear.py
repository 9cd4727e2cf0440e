"""How a student decides: one multinomial logistic regression a field, and how sure to be of it.

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
        # The last digits of the weights move no answer.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
    found, base = model.coef_, model.intercept_
    if len(seen) == 2:
        found, base = np.vstack((-found, found)) / 2, np.concatenate((-base, base)) / 2
    weights[:, seen] = found.T
    bias[seen] = base
    return Head(weights, bias)


def out_of_fold(features: Floats, labels: Ints, count: int, strength: float, seed: int) -> Floats:
    """Return each row's probabilities (n × k) by a head that was fitted without it."""
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    probabilities = np.zeros((len(labels), count), np.float32)
    for number in range(FOLDS):
        inside, outside = fold != number, fold == number
        if not outside.any():
            continue
        head = fit_head(features[inside], labels[inside], count, strength)
        probabilities[outside] = softmax(features[outside] @ head.weights + head.bias)
    return probabilities


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
