"""A stream of calls whose risks are known, with a shift: a student learned before it is wrong more often after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from support.certify_side import LABELS
from upeti.learning.calibration import Row


class MadeStream:
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

    def train(self, calls: Sequence[int]) -> Student:
        old = bool(np.mean(np.asarray(calls) < self.shift) > 0.5)
        self.trained.append(old)
        return Student(self, old)

    def risk(self, threshold: float, turned: float = 0.0) -> float:
        """The true P(served and wrong) of a student before the shift, or with its answers turned."""
        # ∫ over confidence from the threshold to 1 of 1 − (1 − 2·wrong·(1 − c))·(1 − turned)
        served = 1 - threshold
        base = self.wrong * served**2
        return base + turned * (served - base)


class Student:
    def __init__(self, stream: MadeStream, old: bool) -> None:
        self.stream, self.old = stream, old

    def __call__(self, calls: Sequence[int]) -> list[Row]:
        made, at = self.stream, np.asarray(calls)
        errs = made.errs[at] | (self.old & (at >= made.shift) & made.turns[at])
        student = np.where(errs, (made.teacher[at] + made.other[at]) % 3, made.teacher[at])
        return [
            Row(str(call), float(made.sure[call]), LABELS[answer], LABELS[made.teacher[call]])
            for call, answer in zip(calls, student, strict=True)
        ]
