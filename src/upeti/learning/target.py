"""What is promised of a student: the kinds of targets, and the limits that each consists of.

Rules: *wrong* is always: other than the teacher's answer. A target is a set of limits that hold together; thresholds, audits
and certificates know limits only, so a kind of promise is defined here once. Pure.

Exactly, with "served" for "answered by the student", over the task's calls as they come:

- ``system``: P(served and wrong) ≤ alpha. Calls that go to the teacher count as right.
- ``answer``: P(wrong | served) ≤ alpha.
- ``class``: for every class k that is named, P(served and wrong | the teacher answers k) ≤ alpha_k; and for all other classes
  together, P(served and the teacher answers none of the named) ≤ alpha. The student never answers with a class that is not
  named. Nothing is said of a single class that is not named: calls of such a class may be served with a named one (the
  teacher's answer is not known beforehand), but of all calls no more than alpha are.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from upeti.core.errors import UpetiError
from upeti.learning.answers import Values

Rate = Annotated[float, Meta(gt=0, lt=1)]


class TargetError(UpetiError):
    """A target cannot be certified as it is given. The message says how it can."""


class Kind(StrEnum):
    SYSTEM = "system"
    ANSWER = "answer"
    CLASS = "class"


class ClassLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most that may go wrong of the calls that the teacher answers with ``label``."""

    label: Values
    alpha: Rate


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A promise. The classes of kind *class* are named without looking at calibration rows (``threshold.class_limits``)."""

    kind: Kind
    alpha: Rate
    classes: tuple[ClassLimit, ...] = ()

    def may_answer(self, student: Values) -> bool:
        """Tell whether the student may give this answer at all."""
        return not self.classes or any(limit.label == student for limit in self.classes)


class Limit(NamedTuple):
    """A share of calls that may be served and *broken*, among the calls that it is *about*."""

    name: str
    alpha: float
    label: Values | None = None  # about calls that the teacher answers so; None: about all
    named: frozenset[Values] | None = (
        None  # broken is a call that the teacher answers with none of these; None: a wrong one
    )
    only_served: bool = False  # about served calls only

    def about(self, teacher: Values) -> bool:
        return self.label is None or teacher == self.label

    def broken(self, student: Values, teacher: Values) -> bool:
        return student != teacher if self.named is None else teacher not in self.named


def limits_of(target: Target) -> tuple[Limit, ...]:
    """Return what has to hold together for ``target``. Raises ``TargetError`` for one that says nothing definite."""
    if not 0 < target.alpha < 1 or any(not 0 < limit.alpha < 1 for limit in target.classes):
        raise TargetError("alpha is a share between 0 and 1, such as 0.05")
    if (target.kind is Kind.CLASS) != bool(target.classes):
        raise TargetError(
            "name the classes for a target of kind class, and for no other; class_limits() finds those with rows"
        )
    if target.kind is not Kind.CLASS:
        return (Limit(str(target.kind), target.alpha, only_served=target.kind is Kind.ANSWER),)
    named = frozenset(limit.label for limit in target.classes)
    if len(named) < len(target.classes):
        raise TargetError("a class is named twice; give each one limit")
    each = [Limit(f"class {', '.join(limit.label)}", limit.alpha, limit.label) for limit in target.classes]
    return (*each, Limit("other classes", target.alpha, named=named))
