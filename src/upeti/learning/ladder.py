"""Two students as one: the quick one says what it is sure of, the other one the rest.

A ladder is certified as one student: its answer and its confidence are those of whichever of the two has spoken. Where the
quick one is sure follows from the text alone, so it is the same in whatever batch the text comes. No numerical library is
imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from upeti.learning.answers import AnswerForm, Values


class Prediction(Protocol):
    """Of n texts: n answers, n confidences in [0, 1], n times whether the text is like those of the task."""

    @property
    def answers(self) -> Sequence[Values]: ...

    @property
    def confidence(self) -> Any: ...

    @property
    def in_scope(self) -> Any: ...


class Student(Protocol):
    """A student that is loaded."""

    @property
    def form(self) -> AnswerForm: ...

    def predict(self, texts: Sequence[str]) -> Prediction: ...


class Both(msgspec.Struct):
    """What a ladder says."""

    answers: list[Values]
    confidence: list[float]
    in_scope: list[bool]


class Ladder:
    """``first`` speaks where its confidence is ``sure`` or more and the text is like those of the task; else ``then``."""

    def __init__(self, first: Student, then: Student, sure: float) -> None:
        """Raises ``ValueError`` when the two do not answer in one form."""
        if first.form != then.form:
            raise ValueError("the two students of a ladder answer in different forms: train both on the same examples")
        self.first = first
        self.then = then
        self.sure = sure

    @property
    def form(self) -> AnswerForm:
        return self.then.form

    def speaks(self, confidence: float, in_scope: bool) -> bool:
        """Whether what ``first`` says is said."""
        return in_scope and confidence >= self.sure

    def predict(self, texts: Sequence[str]) -> Both:
        quick = self.first.predict(texts)
        answers = list(quick.answers)
        confidence = [float(one) for one in quick.confidence]
        in_scope = [bool(one) for one in quick.in_scope]
        others = [place for place in range(len(texts)) if not self.speaks(confidence[place], in_scope[place])]
        if others:
            slow = self.then.predict([texts[place] for place in others])
            for place, said, sure, scope in zip(others, slow.answers, slow.confidence, slow.in_scope, strict=True):
                answers[place], confidence[place], in_scope[place] = said, float(sure), bool(scope)
        return Both(answers, confidence, in_scope)
