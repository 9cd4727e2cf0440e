"""Training: from examples to a student, and what cross-validation says of it.

Rules: only rows to train on are looked at; nothing here has seen a calibration row. The same rows in the same order, level
and seed give the same student. n-grams are first brought down to a few hundred directions, in which the regression is
fitted; the product of the two is what a student keeps, so that predicting is a sum over the n-grams of a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from upeti.core.errors import UpetiError
from upeti.learning.answers import UNREADABLE, AnswerForm, Values
from upeti.learning.examples import Example
from upeti.learning.features import TfIdf, fit_tf_idf
from upeti.learning.linear import (
    FOLDS,
    Floats,
    Head,
    Ints,
    Trust,
    decide,
    fit_head,
    fit_ridge,
    fit_trust,
    frequencies,
    joint,
    out_of_fold,
    softmax,
    waves,
)
from upeti.learning.student import FORMAT, About, Embed, Level, Student, save
from upeti.providers import minilm

Progress = Callable[[int, int, str], object]

ROWS_MIN: Final = 20
LEVELS: Final[tuple[Level, ...]] = ("l1", "l2")
_STRENGTH: Final[dict[Level, float]] = {"l1": 30.0, "l2": 10.0}  # inverse of the regularisation
_DIRECTIONS: Final = 256
_SVD_ROWS: Final = 3_000  # more show no other directions
_GRAMS_BESIDE_VECTORS: Final = 0.5  # weight of n-grams where there is an encoder's vector
_MIDDLES_MAX: Final = 512
_FAR: Final = 0.005  # share of training texts that would be out of scope
_SHARES: Final = (1 / 6, 1 / 3, 2 / 3, 1)  # of the rows that are not held out, in the learning curve


class TrainingError(UpetiError):
    """A student cannot be trained. The message names the cure."""


class OfAnswer(msgspec.Struct, frozen=True):
    """What cross-validation says of the rows with one answer of the teacher."""

    values: Values
    rows: int
    recalled: int  # rows where the student says the same
    said: int  # rows where the student says it


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What cross-validation on the training rows says of a student: no promise, that is what a certificate is for."""

    level: Level
    rows: int
    left_out: int  # rows whose answer is not of the form
    agreement: float
    confidence: tuple[float, ...]  # of each row
    agrees: tuple[bool, ...]
    answers: tuple[OfAnswer, ...]  # the most frequent ones first
    curve: tuple[tuple[int, float], ...]  # rows trained on, agreement on others

    def coverage(self, most: float) -> float:
        """Return the share that could be answered with at most ``most`` of all rows answered differently from the teacher."""
        order = np.argsort(-np.array(self.confidence), kind="stable")
        wrong = np.cumsum(~np.array(self.agrees)[order])
        return float(np.searchsorted(wrong, most * len(wrong), side="right")) / len(wrong)


class Trained(msgspec.Struct, frozen=True):
    """A student that is not kept yet, and its report."""

    student: Student
    report: Report
    files: dict[str, bytes] = {}  # that belong to the student: of level l3 its encoder


class _Seen(msgspec.Struct, frozen=True):
    """All that a level sees of the training rows."""

    tf_idf: TfIdf
    directions: Floats  # m × r
    vectors: Floats | None  # n × 384
    frequencies: Floats | None
    features: Floats  # n × (r [+ 384])


def train(
    examples: Sequence[Example],
    form: AnswerForm,
    *,
    level: Level,
    seed: int = 0,
    template: str = "",
    embed: Embed | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Trained:
    """Train on ``examples`` (of the training side only) and look at the student by cross-validation.

    ``embed``: vectors of the encoder, if they are had already; ``progress`` is told steps done, steps in all, and what is next.
    Raises ``TrainingError`` where there are too few rows or the level is not made here.
    """
    if level not in LEVELS:
        raise TrainingError(f"a student of level {level} is not made here: there are {', '.join(LEVELS)}")
    known = [row for row in examples if row.values != UNREADABLE]
    if len(known) < ROWS_MIN:
        raise TrainingError(f"{len(known)} rows with an answer are too few: a student needs {ROWS_MIN}, better 500")
    labels, numbers = _numbered(form, [row.values for row in known])
    steps = ["n-grams", "vectors", *([f"field {name}" for name in _field_names(form, labels)]), "learning curve"]
    told = iter(range(len(steps)))
    import_module("sklearn.linear_model")  # only what is loaded can be told to use one thread
    with threadpool_limits(1):  # as it is served; and sums in another order would be another student
        progress(next(told), len(steps), steps[0])
        if level == "l2" and embed is None:
            embed = minilm.MiniLm().embed
        seen = _look(known, level, seed, embed, lambda: progress(next(told), len(steps), steps[1]))
        by_waves, beside = _ridge(seen, numbers, labels)
        heads, trusts, said, sure = [], [], [], []
        start = 0
        for field, field_labels in enumerate(labels):
            number = next(told)
            progress(number, len(steps), steps[number])
            end = start + len(field_labels)
            scores = out_of_fold(seen.features, numbers[:, field], len(field_labels), _STRENGTH[level], seed)
            probabilities = softmax(scores if beside is None else (scores + beside[:, start:end]) * np.float32(0.5))
            head = fit_head(seen.features, numbers[:, field], len(field_labels), _STRENGTH[level])
            trust = fit_trust(probabilities, numbers[:, field])
            start = end
            heads.append(head)
            trusts.append(trust)
            chosen, confidence = decide(probabilities, trust)
            said.append(chosen)
            sure.append(confidence)
        progress(next(told), len(steps), steps[-1])
        curve = _curve(seen.features, numbers, labels, level, seed)
        student = _student(form, level, labels, seen, heads, trusts, by_waves, numbers, known, embed, template, seed)
    progress(len(steps), len(steps), "done")
    chosen_all = np.column_stack(said)
    agrees = (chosen_all == numbers).all(1)
    report = Report(
        level=level,
        rows=len(known),
        left_out=len(examples) - len(known),
        agreement=float(agrees.mean()),
        confidence=tuple(joint(sure).tolist()),
        agrees=tuple(agrees.tolist()),
        answers=_by_answer([row.values for row in known], student.answers_of(list(chosen_all.T.tolist()))),
        curve=curve,
    )
    return Trained(student, report)


def _numbered(form: AnswerForm, values: list[Values]) -> tuple[tuple[tuple[str, ...], ...], Ints]:
    """Return the labels of each field, and each row's labels as numbers (n × fields)."""
    if form.kind == "tags":
        tags = sorted({tag for row in values for tag in row})
        if not tags:
            raise TrainingError("no row has a tag: there is nothing to learn")
        return tuple(("", tag) for tag in tags), np.array([[tag in row for tag in tags] for row in values], np.int64)
    labels = tuple(tuple(sorted(set(column))) for column in zip(*values, strict=True))
    places = [{label: number for number, label in enumerate(field)} for field in labels]
    return labels, np.array([[place[one] for place, one in zip(places, row, strict=True)] for row in values], np.int64)


def _field_names(form: AnswerForm, labels: tuple[tuple[str, ...], ...]) -> list[str]:
    return [field[1] for field in labels] if form.kind == "tags" else list(form.names)


def _look(rows: list[Example], level: Level, seed: int, embed: Embed | None, embedding: Callable[[], object]) -> _Seen:
    texts = [row.text for row in rows]
    tf_idf = fit_tf_idf(texts)
    counts, _ = tf_idf(texts)
    directions = _directions(counts, seed)
    features = np.asarray(counts @ directions, np.float32)
    embedding()
    if level == "l1" or embed is None:
        return _Seen(tf_idf, directions, None, None, features)
    vectors = embed(texts)
    both = np.hstack((features * np.float32(_GRAMS_BESIDE_VECTORS), vectors))
    return _Seen(tf_idf, directions, vectors, frequencies(vectors.shape[1], seed), both)


def _directions(counts: Any, seed: int) -> Floats:
    from sklearn.utils.extmath import randomized_svd

    if counts.shape[0] > _SVD_ROWS:
        counts = counts[np.sort(np.random.default_rng(seed).permutation(counts.shape[0])[:_SVD_ROWS])]
    size = min(_DIRECTIONS, *(side - 1 for side in counts.shape))
    if size < 1:
        raise TrainingError("the texts have hardly an n-gram in common: a student cannot be made of them")
    _, _, found = randomized_svd(counts, size, n_iter=2, random_state=seed)
    return np.ascontiguousarray(found.T, np.float32)


def _ridge(seen: _Seen, numbers: Ints, labels: tuple[tuple[str, ...], ...]) -> tuple[Floats | None, Floats | None]:
    if seen.vectors is None or seen.frequencies is None:
        return None, None
    columns = [numbers[:, field] for field in range(len(labels))]
    return fit_ridge(waves(seen.vectors, seen.frequencies), columns, [len(field) for field in labels])


def _curve(
    features: Floats, numbers: Ints, labels: tuple[tuple[str, ...], ...], level: Level, seed: int
) -> tuple[tuple[int, float], ...]:
    """Return agreement on a quarter of the rows after training on ever more of the others."""
    order = np.random.default_rng(seed + 1).permutation(len(numbers))
    held, others = np.split(order, [len(order) // FOLDS])
    curve = []
    for share in _SHARES:
        some = others[: int(len(others) * share)]
        agrees = np.ones(len(held), np.bool_)
        for field, field_labels in enumerate(labels):
            head = fit_head(features[some], numbers[some, field], len(field_labels), _STRENGTH[level])
            agrees &= (features[held] @ head.weights + head.bias).argmax(1) == numbers[held, field]
        curve.append((len(some), float(agrees.mean())))
    return tuple(curve)


def _student(
    form: AnswerForm,
    level: Level,
    labels: tuple[tuple[str, ...], ...],
    seen: _Seen,
    heads: list[Head],
    trusts: list[Trust],
    by_waves: Floats | None,
    numbers: Ints,
    rows: list[Example],
    embed: Embed | None,
    template: str,
    seed: int,
) -> Student:
    half = np.float32(1 if by_waves is None else 0.5)  # of the say
    weights = np.hstack([head.weights for head in heads]) * half
    size = seen.directions.shape[1]
    by_grams = seen.directions @ weights[:size]
    arrays: dict[str, NDArray[Any]] = {
        "buckets": seen.tf_idf.buckets,
        "rarity": seen.tf_idf.weights,
        "grams": by_grams if seen.vectors is None else by_grams * np.float32(_GRAMS_BESIDE_VECTORS),
        "bias": np.concatenate([head.bias for head in heads]) * half,
        "label_trust": np.concatenate([trust.label_trust for trust in trusts]),
        "trust": np.vstack([trust.weights for trust in trusts]),
    }
    least_cosine = -1.0
    if seen.vectors is not None and seen.frequencies is not None and by_waves is not None:
        arrays["frequencies"] = seen.frequencies
        arrays["waves"] = by_waves * half
        arrays["vectors"] = weights[size:]
        arrays["middles"], least_cosine = _middles(seen.vectors, numbers)
    about = About(
        format=FORMAT,
        level=level,
        form=form,
        labels=labels,
        scope=(_least_known(seen.tf_idf, [row.text for row in rows]), least_cosine),
        template=template,
        encoder=minilm.files_digest() if level == "l2" else "",
        trained={"rows": len(rows), "seed": seed},
    )
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return Student(about, arrays, embed if level == "l2" else None)


def _least_known(tf_idf: TfIdf, texts: list[str]) -> float:
    """Return the share of known n-grams under which a text is unlike those trained on.

    An n-gram of only two texts would be unknown to the vocabulary of all texts but one of them: so it counts as unknown.
    """
    of_two = 1 + np.log((1 + len(texts)) / (1 + 2))
    common = tf_idf.weights < of_two - 1e-4
    _, shares = TfIdf(tf_idf.buckets[common], tf_idf.weights[common])(texts)
    return float(np.quantile(shares, _FAR, method="lower"))


def _middles(vectors: Floats, numbers: Ints) -> tuple[Floats, float]:
    """Return the middle of the vectors of each answer, and the least cosine with the nearest, each row left out of its own."""
    _, groups, sizes = np.unique(numbers, axis=0, return_inverse=True, return_counts=True)
    groups = groups.ravel()
    sums = np.zeros((len(sizes), vectors.shape[1]), np.float32)
    np.add.at(sums, groups, vectors)
    kept = np.sort(np.argsort(-sizes, kind="stable")[:_MIDDLES_MAX])
    middles = sums[kept] / np.maximum(np.linalg.norm(sums[kept], axis=1, keepdims=True), 1e-9)
    cosines = vectors @ middles.T
    place = np.full(len(sizes), -1)
    place[kept] = np.arange(len(kept))
    own = place[groups]
    rest = sums[groups] - vectors
    without = (vectors * rest).sum(1) / np.maximum(np.linalg.norm(rest, axis=1), 1e-9)
    without[sizes[groups] == 1] = -1
    inside = np.flatnonzero(own >= 0)
    cosines[inside, own[inside]] = without[inside]
    return middles.astype(np.float32), float(np.quantile(cosines.max(1), _FAR, method="lower"))


def _by_answer(taught: list[Values], said: list[Values]) -> tuple[OfAnswer, ...]:
    rows = Counter(taught)
    recalled = Counter(one for one, other in zip(taught, said, strict=True) if one == other)
    times_said = Counter(said)
    return tuple(OfAnswer(values, count, recalled[values], times_said[values]) for values, count in rows.most_common())


def keep(trained: Trained, folder: Path, more: dict[str, bytes] | None = None) -> str:
    """Write the student's folder with its report, and return its digest. Raises ``StudentError``."""
    report = msgspec.json.encode(trained.report) + b"\n"
    return save(trained.student, folder, {"report.json": report, **trained.files, **(more or {})})
