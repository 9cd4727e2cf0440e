"""Worlds to draw calls from in which the truth is known: recorded answers of paid models, and one that is made.

A recorded set is taken as the whole population: calls are drawn from it with replacement, so that draws are independent and
the true risk of a threshold is a sum over all of its rows. The student is TF-IDF + logistic regression, trained once on
rows that are not in the population.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from upeti.learning.calibration import Row

Floats = NDArray[np.float64]


STREAM_LABELS = (("yes",), ("no",), ("maybe",))


class World(NamedTuple):
    """All calls of a task. ``other`` are calls that no certificate is calibrated on: what may be fixed is fixed on them."""

    name: str
    rows: tuple[Row, ...]
    other: tuple[Row, ...]
    stability: float | None = None  # how often the teacher agrees with its own next version, on the same texts

    def drawn(self, rng: np.random.Generator, n: int) -> list[Row]:
        return [self.rows[index] for index in rng.integers(0, len(self.rows), n)]


def shared() -> Path:
    return Path(os.environ.get("UPETI_SHARED", Path(__file__).parents[2] / "shared" / "data"))


def worlds() -> Iterator[World]:
    """Yield the worlds of the tables, made one after the other."""
    yield banking()
    yield policy("EN")
    yield policy("DA")
    yield made()


def banking() -> World:
    """77 intents; the student knows 1,001 + 500 answers of GPT-4."""
    folder = shared() / "banking77-gpt4"
    dev, test = _read(folder / "dev_llm.csv"), _read(folder / "test_llm.csv")
    order = np.random.default_rng(0).permutation(len(test))
    shuffled = [test[index] for index in order]
    learned = [(row["text"], row["gpt4"]) for row in dev + shuffled[:500]]
    called = [(row["text"], row["gpt4"]) for row in shuffled[500:]]
    return _world("Banking77, GPT-4", learned, called)


def policy(country: str) -> World:
    """21 topics of bills; the student knows people's labels, the teacher is gpt-4o-2024-11-20."""
    folder = shared() / "textclass-llm-labels"
    test = _read(folder / "test_llm" / f"policy_{country}.csv")
    known = {row["text"] for row in test}  # 588 of the Danish ones are in the training set too
    learned = [
        (row["text"], row["gold"])
        for row in _read(folder / "gold" / f"policy_{country}_train.csv")
        if row["text"] not in known
    ]
    called = [(row["text"], row["gpt-4o-2024-11-20"]) for row in test]
    same = [row["gpt-4o-2024-11-20"] == row["gpt-4o-2024-08-06"] for row in test]
    return _world(f"policy {country}, gpt-4o-2024-11-20", learned, called, float(np.mean(same)))


def made(size: int = 20_000, classes: int = 4) -> World:
    """A student whose confidence is only roughly right, with a dip: the surest calls are not the best ones."""
    rng = np.random.default_rng(1)

    def rows(prefix: str) -> tuple[Row, ...]:
        confidence = rng.beta(4, 1.2, size)
        right = 0.55 + 0.45 * confidence**1.5 - 0.25 * (confidence > 0.985)
        teacher = rng.choice(classes, size, p=[0.6, 0.25, 0.1, 0.05])
        agrees = rng.random(size) < right - 0.15 * (teacher == classes - 1)
        student = np.where(agrees, teacher, (teacher + rng.integers(1, classes, size)) % classes)
        return tuple(
            Row(f"{prefix}{i}", float(confidence[i]), (str(student[i]),), (str(teacher[i]),)) for i in range(size)
        )

    return World("made, 4 classes", rows("call"), rows("other"))


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _world(
    name: str, learned: list[tuple[str, str]], called: list[tuple[str, str]], stability: float | None = None
) -> World:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    order = np.random.default_rng(0).permutation(len(learned))
    kept = int(len(learned) * 0.8)  # the rest is seen by no student: what is fixed beforehand is fixed on it
    student = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=30, max_iter=300)
    )
    student.fit([learned[i][0] for i in order[:kept]], [learned[i][1] for i in order[:kept]])

    def rows(calls: list[tuple[str, str]], prefix: str) -> tuple[Row, ...]:
        probabilities = student.predict_proba([text for text, _ in calls])
        answers = student.classes_[probabilities.argmax(1)]
        sure = probabilities.max(1)
        return tuple(
            Row(f"{prefix}{i}", float(sure[i]), (str(answers[i]),), (teacher,)) for i, (_, teacher) in enumerate(calls)
        )

    return World(name, rows(called, "call"), rows([learned[i] for i in order[kept:]], "other"), stability)


class MadeStream:
    """Calls of three classes whose risks are known; from ``shift`` on what was learned before is wrong more often."""

    """``calls`` calls; from ``shift`` on an old student's answers turn wrong with probability ``turned``."""

    def __init__(self, seed: int, calls: int, shift: int, turned: float, wrong: float = 0.2) -> None:
        rng = np.random.default_rng(seed)
        self.sure = rng.random(calls)
        self.teacher = rng.choice(3, calls, p=[0.6, 0.3, 0.1])
        self.errs = rng.random(calls) < 2 * wrong * (1 - self.sure)
        self.turns = rng.random(calls) < turned
        self.other = rng.integers(1, 3, calls)
        self.shift = shift
        self.wrong, self.turned = wrong, turned
        self.trained: list[bool] = []  # for each student whether it is an old one

    def train(self, calls: Sequence[int]) -> MadeStudent:
        old = bool(np.mean(np.asarray(calls) < self.shift) > 0.5)
        self.trained.append(old)
        return MadeStudent(self, old)

    def risk(self, threshold: float, turned: float = 0.0) -> float:
        """The true P(served and wrong) of a student before the shift, or with its answers turned."""
        # ∫ over confidence from the threshold to 1 of 1 − (1 − 2·wrong·(1 − c))·(1 − turned)
        served = 1 - threshold
        base = self.wrong * served**2
        return base + turned * (served - base)


class MadeStudent:
    def __init__(self, stream: MadeStream, old: bool) -> None:
        self.stream, self.old = stream, old

    def __call__(self, calls: Sequence[int]) -> list[Row]:
        made, at = self.stream, np.asarray(calls)
        errs = made.errs[at] | (self.old & (at >= made.shift) & made.turns[at])
        student = np.where(errs, (made.teacher[at] + made.other[at]) % 3, made.teacher[at])
        return [
            Row(str(call), float(made.sure[call]), STREAM_LABELS[answer], STREAM_LABELS[made.teacher[call]])
            for call, answer in zip(calls, student, strict=True)
        ]
