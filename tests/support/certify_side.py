"""Calibration rows to test with: any at all, and draws from a world whose truth is known."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import msgspec
import numpy as np
from hypothesis import strategies as st

from upeti.learning.calibration import Row
from upeti.learning.certificate import Certificate, Facts, Stability, issue
from upeti.learning.target import ClassLimit, Kind, Target
from upeti.learning.threshold import Path, serves

LABELS = (("yes",), ("no",), ("maybe",))
confidences = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.floats(0, 1))


def row_lists(min_size: int = 0, max_size: int = 40) -> st.SearchStrategy[list[Row]]:
    ids = st.text(min_size=1, max_size=5)
    label = st.sampled_from(LABELS)
    return st.lists(
        st.builds(Row, ids, confidences, label, label, st.booleans()),
        min_size=min_size,
        max_size=max_size,
        unique_by=lambda row: row.id,
    )


@st.composite
def samples(draw: st.DrawFn) -> list[Row]:
    """Some hundred rows of a student that is usually right, so that something can be certified."""
    seed, n = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 400))
    return population(seed, n, wrong=draw(st.floats(0, 0.4)), ties=draw(st.booleans()))


def population(seed: int, n: int, wrong: float = 0.2, ties: bool = False) -> list[Row]:
    """Rows of three classes, the last one rare; the surer, the more often right."""
    rng = np.random.default_rng(seed)
    sure = np.round(rng.random(n), 1) if ties else rng.random(n)
    teacher = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    errs = rng.random(n) < 2 * wrong * (1 - sure)
    student = np.where(errs, (teacher + rng.integers(1, 3, n)) % 3, teacher)
    in_scope = rng.random(n) < 0.95
    return [Row(f"{i:06}", float(sure[i]), LABELS[student[i]], LABELS[teacher[i]], bool(in_scope[i])) for i in range(n)]


@dataclass(frozen=True)
class Truth:
    """The true risks of serving from a threshold on, when ``rows`` are all calls that there are."""

    rows: list[Row]
    target: Target

    def risk(self, threshold: float) -> float:
        served = [row for row in self.rows if serves(row, self.target, threshold)]
        return sum(not row.agrees for row in served) / len(self.rows)

    def answer_risk(self, threshold: float) -> float:
        served = [row for row in self.rows if serves(row, self.target, threshold)]
        return sum(not row.agrees for row in served) / max(len(served), 1)

    def class_risk(self, threshold: float, label: tuple[str, ...]) -> float:
        called = [row for row in self.rows if row.teacher == label]
        return sum(serves(row, self.target, threshold) and not row.agrees for row in called) / max(len(called), 1)

    def kept(self, threshold: float | None) -> bool:
        """Tell whether the target's promise is true."""
        if threshold is None:
            return True
        if self.target.kind == "system":
            return self.risk(threshold) <= self.target.alpha
        if self.target.kind == "answer":
            return self.answer_risk(threshold) <= self.target.alpha
        named = {limit.label for limit in self.target.classes}
        others = sum(row.teacher not in named and serves(row, self.target, threshold) for row in self.rows)
        return others / len(self.rows) <= self.target.alpha and all(
            self.class_risk(threshold, limit.label) <= limit.alpha for limit in self.target.classes
        )


CLASSES = Target(Kind.CLASS, 0.1, (ClassLimit(LABELS[0], 0.1), ClassLimit(LABELS[1], 0.2)))
TARGETS = {Kind.SYSTEM: Target(Kind.SYSTEM, 0.1), Kind.ANSWER: Target(Kind.ANSWER, 0.15), Kind.CLASS: CLASSES}
PATH = Path((0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2, 0.0), (0, 4))
FACTS = Facts(
    task="intents",
    student_sha256="a" * 64,
    template_sha256="b" * 64,
    labels_sha256="c" * 64,
    teacher_channel="main",
    teacher_model="gpt-4o",
    teacher_version="gpt-4o-2024-11-20",
    target=TARGETS[Kind.SYSTEM],
)


def certificate_of(rows: list[Row], kind: Kind, look: int = 1) -> Certificate:
    """Return a certificate of one of ``TARGETS``. Raises ``NotCertified``."""
    return issue(
        msgspec.structs.replace(FACTS, target=TARGETS[kind]),
        rows,
        issuer="upeti of the bank",
        valid_from=datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.UTC),
        look=look,
        path=PATH if kind is Kind.ANSWER else None,
        stability=Stability(same=870, n=1000),
    )
