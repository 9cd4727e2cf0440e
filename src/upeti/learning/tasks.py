"""Tasks: what is asked again and again, what is known of it, and what owning it would save.

Rules: a task that was declared binds who taught it (channel, model), what was asked (the template) and how it is answered
(the form), and says what is promised and how it is watched. What is only found is a suggestion, with its reasons against.
Amounts are pico units; a saving is what it would be at a share that somebody assumes, never a forecast. Pure.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Final

import msgspec

from upeti.core.amount import AmountError, parse_pico
from upeti.core.errors import UpetiError
from upeti.learning.answers import UNREADABLE, AnswerForm, Values
from upeti.learning.target import Kind
from upeti.learning.template import Template

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_COMMONEST: Final = 10

FOUND: Final = "found-"  # begins the names of tasks that nobody has named


class TaskError(UpetiError):
    """A task cannot be declared so. The message says how it can."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A declared task."""

    name: str
    tag: str  # that its calls carry in x-upeti-task; "": the template alone tells them
    route: str
    channel: str  # the teacher's
    model: str
    template: Template
    template_sha256: str
    form: AnswerForm
    target: Kind
    alpha: float  # most of what may go wrong, as the target counts it
    delta: float  # probability that a certificate is wrong
    audit_share: float  # of the student's answers that the teacher is asked too
    audit_limit: str  # decimal text: what audits may cost in a month
    audit_currency: str
    declared_ns: int
    by: str
    why: str


class Labels(msgspec.Struct, frozen=True):
    """How a task's answers are distributed."""

    answers: int
    unreadable: int  # not of the form
    distinct: int
    entropy_bits: float  # of the readable ones; 0: always the same, log2(distinct): all as often
    commonest: tuple[tuple[str, int], ...]


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How often a teacher said again what it had said: texts of the task asked once more."""

    task: str
    at_ns: int
    route: str  # that was asked
    channel: str
    model: str
    asked: int  # that were answered by this channel and model
    agreed: int
    failed: int  # not answered, or by somebody else
    cost: str  # decimal text
    currency: str


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal and the kept pairs say of a task, declared or not."""

    name: str
    tag: str
    declared: bool
    route: str  # with most calls
    channel: str
    model: str
    calls: int
    unpriced: int
    costs: dict[str, int]  # currency → pico
    dearest: dict[str, int] = {}  # currency → pico of the dearest attempt
    captured: int = 0  # pairs that were looked at
    template: Template | None = None
    of_template: int = 0  # pairs that are of it
    form: AnswerForm | None = None
    labels: Labels | None = None
    against: tuple[str, ...] = ()  # why it cannot be owned as it is
    agreement: Agreement | None = None


def check(task: Task) -> None:
    """Raise ``TaskError`` for a declaration that cannot be kept."""
    if not _NAME.fullmatch(task.name) or task.name.startswith(FOUND):
        raise TaskError(
            f"`{task.name}` is no name of a task: letters, digits, _ . - (at most 63), and not beginning with {FOUND}"
        )
    for name in ("alpha", "delta", "audit_share"):
        if not 0 < getattr(task, name) < 1:
            raise TaskError(f"--{name.replace('_', '-')} is a share between 0 and 1, such as 0.05")
    try:
        enough = parse_pico(task.audit_limit) > 0
    except AmountError as error:
        raise TaskError(f"--audit-limit: {error}") from None
    if not enough:
        raise TaskError("--audit-limit must be more than 0: an answer that nobody ever looks at has no certificate")
    if not task.by.strip() or not task.why.strip():
        raise TaskError("a task has somebody who answers for it: give --by and --why")


def labels_of(values: Iterable[Values | None]) -> Labels:
    """Return the distribution of values; None and ``UNREADABLE`` are answers that are not of the form."""
    counts: Counter[str] = Counter()
    unreadable = 0
    for one in values:
        if one is None or one == UNREADABLE:
            unreadable += 1
        else:
            counts[", ".join(one)] += 1
    total = counts.total()
    entropy = -sum(count / total * math.log2(count / total) for count in counts.values()) if len(counts) > 1 else 0.0
    common = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:_COMMONEST]
    return Labels(total + unreadable, unreadable, len(counts), round(entropy, 4), tuple(common))


def saving_pico(cost_pico: int, share: Decimal, audit_share: Decimal) -> int:
    """Return what would not be spent if ``share`` of the calls were answered by an own model, and ``audit_share`` of those
    asked at the teacher all the same; rounded down.
    """
    kept = Fraction(share) * (1 - Fraction(audit_share))
    return math.floor(cost_pico * kept)


def ranked(seen: Iterable[Seen], currency: str = "") -> list[Seen]:
    """Return those that can be owned first, the dearest first; amounts of ``currency`` count, without one of any."""
    return sorted(seen, key=lambda one: (bool(one.against), -_most(one.costs, currency), -one.calls, one.name))


def _most(costs: dict[str, int], currency: str) -> int:
    return costs.get(currency, 0) if currency else max(costs.values(), default=0)


def template_share(seen: Seen) -> float | None:
    """Return which share of the pairs is of the template; None without any."""
    return seen.of_template / seen.captured if seen.captured and seen.template is not None else None


def most_common(names: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return the pair that comes most often, of several the first by name; blanks for none."""
    counts = Counter(names)
    return min(counts, key=lambda one: (-counts[one], one)) if counts else ("", "")
