"""From which confidence on a student may answer: Learn-then-Test over thresholds, with exact binomial tests.

Rules: thresholds are tested from the strictest on; one is accepted when the p-value of *every* limit of the target is at most
delta, and the one before was accepted; the loosest accepted one is taken. Several limits share one threshold, so they cost
no part of delta: a wrong threshold breaks some fixed limit, and that limit's own test lets it pass with probability at most
delta. Pure.

Which thresholds may be tried:

- Limits of kind *system* and *class* count answers that are served and wrong among rows that do not depend on the threshold.
  Their risk can only grow as the threshold falls, and so can the count of errors in any sample. So every threshold may be
  tried, those of the calibration rows themselves too: whichever wrong one is taken, the test then also let pass the strictest
  wrong one, which is a fixed point.
- A limit of kind *answer* is a share of the served answers; it may rise and fall. Its thresholds must be fixed without the
  calibration rows: quantiles of confidences of other rows (``answer_path``). Their sequence is entered at several points, each
  with its part of delta, which goes on to the next threshold while tests succeed (the fallback procedure): a bad patch among
  the surest answers then does not end it. Quantiles of the calibration rows' own confidences
  would not do, even without labels: given who is over the threshold, errors are no longer draws of one binomial.

Sources: Angelopoulos, Bates, Candès, Jordan and Lei, "Learn then Test" (2021); Bates et al., "Distribution-free,
risk-controlling prediction sets" (2021) for risks that only grow; Berger, "Multiparameter hypothesis testing and acceptance
sampling" (1982) for several limits at once; Wiens and Dmitrienko, "The fallback procedure for evaluating a single family of
hypotheses" (2005).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from upeti.learning.answers import Values
from upeti.learning.bounds import (
    Interval,
    any_share_interval,
    interval,
    p_value,
    rows_at_least,
    rows_needed,
    rows_to_start,
)
from upeti.learning.calibration import Row
from upeti.learning.target import ClassLimit, Kind, Target, TargetError, limits_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_POINTS: Final = 100  # measured: fewer lose coverage, more gain nothing (docs/guarantee.md)
_ENTRIES: Final = (0.1, 0.3)  # shares of calls; measured too


class Path(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds to try, the strictest first, and where delta comes in: an equal part at each of ``entries`` (places in it)."""

    thresholds: tuple[float, ...]
    entries: tuple[int, ...] = (0,)


class Counted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A limit at one threshold: errors among n rows."""

    limit: str  # "system", "answer", "class LABEL", "other classes"
    errors: int
    n: int


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One threshold that was tested."""

    threshold: float
    served: int
    counted: tuple[Counted, ...]
    p_value: float  # the largest over the limits
    level: float  # the part of delta that it was tested with


class Outcome(NamedTuple):
    """What calibration rows showed. Either a threshold, or why there is none and how many more calls may help."""

    threshold: float | None  # the student answers when its confidence is at least this
    coverage: Interval  # share of all calls that the student answers; the interval is true at every threshold at once
    agreement: Interval  # share of all rows where student and teacher agree, exact, 95 %
    n: int
    steps: tuple[Step, ...]  # what was tested, in order; of a fine sequence only its turning point
    needs: int | None = None  # more calls that would probably do; None: certified, or no number of calls would do
    reason: str = ""


class _Limit(NamedTuple):
    """A limit, and what it says of each row. Shapes (rows,)."""

    name: str
    alpha: float
    among: Bools  # rows that the limit is about
    broken: Bools  # of these, those that break it when they are served
    only_served: bool


def certify(rows: Sequence[Row], target: Target, delta: float, path: Path | None = None) -> Outcome:
    """Return the loosest threshold that keeps ``target`` with probability at least 1 − ``delta``.

    ``rows`` are independent draws of the task's calls. ``path`` are the thresholds to try, fixed without ``rows``: needed for
    kind *answer* (see ``answer_path``), for no other. Raises ``TargetError``.
    """
    check(target, delta, path)
    confidence = np.array([row.confidence for row in rows], dtype=np.float64)
    eligible = _eligible(rows, target)
    limits = _limits(rows, target)
    if not rows:
        return _nothing(rows, (), rows_to_start(target.alpha, delta), "there are no calibration rows yet")
    lacking = _lacking(rows, limits, delta)
    if lacking is not None:
        return lacking
    # 0 at the end: every answer in scope. It serves the same rows as the least confidence does.
    thresholds = np.array(path.thresholds) if path else np.unique(np.r_[0.0, confidence[eligible]])[::-1]
    table = _Table(confidence, eligible, limits, thresholds)
    levels = _levels(table.p_values, delta, path.entries if path else (0,))
    accepted = np.flatnonzero(table.p_values <= levels)
    if path:
        tested = np.flatnonzero(levels > 0)
    else:  # where it turns says all: risk and errors only grow
        turn = len(accepted)
        tested = np.arange(max(turn - 1, 0), min(turn + 1, len(thresholds)))
    steps = tuple(table.step(int(index), float(levels[index])) for index in tested)
    if not len(accepted):
        return _hopeless_or_few(rows, limits, steps)
    served = int(table.served[accepted[-1]])
    threshold = float(thresholds[accepted[-1]])
    return Outcome(threshold, any_share_interval(served, len(rows)), _agreement(rows), len(rows), steps)


def serves(row: Row, target: Target, threshold: float) -> bool:
    """Tell whether the student answers this call itself."""
    return row.confidence >= threshold and bool(_eligible([row], target)[0])


def answer_path(confidences: ArrayLike, rows: int, alpha: float, delta: float) -> Path | None:
    """Return thresholds for kind *answer*: quantiles of confidences of calls that are no calibration rows, down to 0.

    The first is where ``rows`` calibration rows will have enough served answers to survive a few errors; None when they are
    too few for that. Calls that the student held for out of scope count as confidence 0.
    """
    known = np.asarray(confidences, dtype=np.float64)
    first = rows_to_start(alpha, delta) / max(rows, 1)
    if first > 1 or not known.size:
        return None
    entries = sorted({max(first, share) for share in _ENTRIES})
    shares = np.unique(np.r_[np.geomspace(entries[0], 1.0, _POINTS), entries])

    def at(shares: ArrayLike) -> Floats:
        return np.asarray(np.quantile(known, 1 - np.asarray(shares), method="lower"), dtype=np.float64)

    thresholds = np.unique(np.r_[0.0, at(shares)])[::-1]
    places = np.searchsorted(-thresholds, -at(entries))
    return Path(tuple(map(float, thresholds)), tuple(sorted({int(place) for place in places})))


def class_limits(
    known: Iterable[Values], rows: int, alpha: float, delta: float, alphas: dict[Values, float] | None = None
) -> tuple[ClassLimit, ...]:
    """Return the classes that ``rows`` calibration rows can say something about, judged by teacher's answers of *other* rows.

    ``alphas`` has the limits of classes that are not to have ``alpha``. Classes left out are never answered by the student.
    """
    shares = Counter(known)
    total = sum(shares.values())
    chosen = []
    for label, count in sorted(shares.items()):
        limit = (alphas or {}).get(label, alpha)
        if count * rows >= rows_to_start(limit, delta) * total:
            chosen.append(ClassLimit(label, limit))
    return tuple(chosen)


def check(target: Target, delta: float, path: Path | None = None) -> None:
    """Raise ``TargetError`` for a target that cannot be certified as it is given."""
    limits_of(target)
    if not 0 < delta < 1:
        raise TargetError("delta is a probability between 0 and 1, such as 0.05")
    if (target.kind is Kind.ANSWER) != (path is not None):
        raise TargetError(
            "give thresholds for a target of kind answer, and for no other; answer_path() makes them, once there are as many "
            "calibration rows as bounds.rows_to_start() says"
        )
    if path is None:
        return
    if not path.thresholds or any(not later < earlier for earlier, later in pairwise(path.thresholds)):
        raise TargetError("thresholds go from the strictest, the highest, to the loosest")
    places = range(len(path.thresholds))
    if not path.entries or len(set(path.entries)) < len(path.entries) or any(one not in places for one in path.entries):
        raise TargetError("entries are places in the sequence of thresholds, each named once; 0 is the strictest")


def _levels(p_values: Floats, delta: float, entries: Sequence[int]) -> Floats:
    """Return what each threshold is tested with: its own part of delta, and what the one before had if it was accepted."""
    levels = np.zeros(len(p_values))
    levels[list(entries)] = delta / len(entries)
    for place in range(1, len(levels)):
        if levels[place - 1] and p_values[place - 1] <= levels[place - 1]:
            levels[place] += levels[place - 1]
    return np.minimum(levels, delta)


def _eligible(rows: Sequence[Row], target: Target) -> Bools:
    allowed = {student: target.may_answer(student) for student in {row.student for row in rows}}
    return np.array([row.in_scope and allowed[row.student] for row in rows], dtype=np.bool_)


def _limits(rows: Sequence[Row], target: Target) -> list[_Limit]:
    pairs: dict[tuple[Values, Values], int] = {}  # the few that differ: limits are asked about these only
    places = np.array([pairs.setdefault((row.student, row.teacher), len(pairs)) for row in rows], dtype=np.int64)
    found = []
    for limit in limits_of(target):
        about = np.array([limit.about(teacher) for _, teacher in pairs], dtype=np.bool_)
        breaks = np.array([limit.broken(student, teacher) for student, teacher in pairs], dtype=np.bool_)
        among, broken = about[places], (about & breaks)[places]
        found.append(_Limit(limit.name, limit.alpha, among, broken, limit.only_served))
    return found


class _Table:
    """Counts of all limits at all thresholds. ``thresholds`` fall; shapes are (thresholds,) and (limits, thresholds)."""

    def __init__(self, confidence: Floats, eligible: Bools, limits: list[_Limit], thresholds: Floats) -> None:
        order = np.argsort(-confidence[eligible], kind="stable")
        reached = np.searchsorted(-confidence[eligible][order], -thresholds, side="right")

        def count(flags: Bools) -> NDArray[np.int64]:
            counts: NDArray[np.int64] = np.r_[0, np.cumsum(flags[eligible][order])][reached].astype(np.int64)
            return counts

        self.thresholds = thresholds
        self.limits = limits
        self.served = count(np.ones(len(eligible), dtype=np.bool_))
        self.errors = np.array([count(limit.broken) for limit in limits])
        self.n = np.array(
            [
                count(limit.among) if limit.only_served else np.full(len(thresholds), limit.among.sum())
                for limit in limits
            ]
        )
        each = [p_value(self.errors[i], self.n[i], limit.alpha) for i, limit in enumerate(limits)]
        self.p_values = np.max(each, axis=0)

    def step(self, index: int, level: float) -> Step:
        counted = tuple(
            Counted(limit.name, int(self.errors[i, index]), int(self.n[i, index]))
            for i, limit in enumerate(self.limits)
        )
        return Step(float(self.thresholds[index]), int(self.served[index]), counted, float(self.p_values[index]), level)


def _lacking(rows: Sequence[Row], limits: list[_Limit], delta: float) -> Outcome | None:
    """Return the outcome when some limit could not be shown even without one error."""
    worst: tuple[int, str] | None = None
    for limit in limits:
        have = int(limit.among.sum())
        if have >= rows_at_least(limit.alpha, delta):
            continue
        wanted = rows_to_start(limit.alpha, delta)
        more = math.ceil((wanted - have) * len(rows) / max(have, 1))
        reason = f"{limit.name}: {have} rows, and at least {wanted} are needed to show {limit.alpha:.2%}"
        if worst is None or more > worst[0]:
            worst = (more, reason)
    return None if worst is None else _nothing(rows, (), *worst)


def _hopeless_or_few(rows: Sequence[Row], limits: list[_Limit], steps: tuple[Step, ...]) -> Outcome:
    step = min(steps, key=lambda step: step.p_value)
    needs = 0
    for limit, counted in zip(limits, step.counted, strict=True):
        if p_value(counted.errors, counted.n, limit.alpha) <= step.level:
            continue
        share = counted.errors / counted.n if counted.n else 0.0
        wanted = rows_needed(limit.alpha, step.level, share)
        if wanted is None:
            reason = (
                f"{limit.name}: {share:.2%} go wrong even at the best threshold, and {limit.alpha:.2%} are allowed; "
                "more calls do not help: train a better student, or allow more"
            )
            return _nothing(rows, steps, None, reason)
        needs = max(needs, math.ceil((wanted - counted.n) * len(rows) / max(counted.n, 1)))
    reason = f"the student may be good enough, but {len(rows)} rows do not show it"
    return _nothing(rows, steps, max(needs, 1), reason)


def _nothing(rows: Sequence[Row], steps: tuple[Step, ...], needs: int | None, reason: str) -> Outcome:
    return Outcome(None, Interval(0.0, 0.0, 0.0), _agreement(rows), len(rows), steps, needs, reason)


def _agreement(rows: Sequence[Row]) -> Interval:
    return interval(sum(row.agrees for row in rows), len(rows))
