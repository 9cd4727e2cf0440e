"""Is the student as good as the teacher? Answered with people's labels, asked for disagreements only.

Rules: where student and teacher agree, both are right or both are wrong, so such a row says nothing about the difference of
their accuracies and is not asked. Rows are independent draws of the task's calls; the difference of one is +1 (only the
student is right), −1 (only the teacher is) or 0. Non-inferior: the mean difference is over −margin. Who labels does not see
which answer is whose. Pure.

The test for one look is exact: for every share of rows that may differ (an interval that holds but for a tiny part of delta)
the probability of a sum of differences as high as this one. For looks after every portion of labels there is a bettor's
wealth, an average over fixed stakes, so that the order of rows does not matter; it needs about three times as many rows.

Sources: Berger and Boos, "P values maximized over a confidence set for the nuisance parameter" (1994); Waudby-Smith and
Ramdas, "Estimating means of bounded random variables by betting" (2020).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from scipy.special import betainc, gammaln, xlog1py, xlogy

from upeti.core.errors import UpetiError
from upeti.learning.answers import Values
from upeti.learning.bounds import Interval, lower_bound, upper_bound

COLUMNS: Final = ("row", "text", "answer_1", "answer_2", "right")

_TINY: Final = 0.01  # part of delta that is spent on the share of rows that differ
_SHARES: Final = 21  # points at which the probability is looked for its highest
_STAKES: Final = np.geomspace(0.005, 0.9, 24)  # of the stakes that lose nothing for sure


class GoldError(UpetiError):
    """A file of labels cannot be used. The message names the line."""


class Right(StrEnum):
    """Who gave the right answer to a call on which the two disagree."""

    STUDENT = "student"
    TEACHER = "teacher"
    NEITHER = "neither"


class Pair(NamedTuple):
    """One call with both answers. ``text`` is what people read to judge."""

    id: str
    student: Values
    teacher: Values
    text: str = ""


class Counts(NamedTuple):
    """What is known of ``n`` rows: only the student right, only the teacher right, disagreements not judged yet."""

    n: int
    wins: int
    losses: int
    unknown: int = 0


class Verdict(NamedTuple):
    """Whether the student is shown to be at most ``margin`` less accurate than the teacher."""

    non_inferior: bool
    difference: Interval  # student minus teacher, in accuracy; each limit alone is true with 1 − delta
    counts: Counts


def to_ask(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the rows that people have to judge, in an order that says nothing of them."""
    return sorted((pair for pair in pairs if pair.student != pair.teacher), key=lambda pair: _drawn(pair.id, "order"))


def questions(pairs: Iterable[Pair]) -> str:
    """Return the CSV for who labels: both answers in an order that is drawn for each row, and an empty column ``right``."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair in to_ask(pairs):
        first, second = (pair.student, pair.teacher) if _student_first(pair.id) else (pair.teacher, pair.student)
        writer.writerow([_inert(pair.id), _inert(pair.text), _inert(_written(first)), _inert(_written(second)), ""])
    return out.getvalue()


def labels_in(text: str, pairs: Iterable[Pair]) -> dict[str, Right]:
    """Return the labels of a CSV that was filled in, by row. What is still empty is left out. Raises ``GoldError``.

    In ``right`` stands ``1`` or ``2``, the place of the right answer, or ``neither``.
    """
    known = {_inert(pair.id): pair.id for pair in to_ask(pairs)}
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if reader.fieldnames is None or not {"row", "right"} <= set(reader.fieldnames):
        raise GoldError("line 1: the columns `row` and `right` are needed; fill in the file that was written for this")
    try:
        lines = [(reader.line_num, line) for line in reader]
    except csv.Error as error:
        raise GoldError(f"line {reader.line_num}: this is no CSV ({error}); save the file as CSV with commas") from None
    found: dict[str, Right] = {}
    for number, line in lines:
        where, label = f"line {number}", (line["right"] or "").strip()
        row = known.get(line["row"] or "")
        if row is None:
            raise GoldError(
                f"{where}: row {line['row']!r} is none that was asked; fill in the file that was written for this"
            )
        if row in found:
            raise GoldError(f"{where}: row {row!r} is labelled twice; keep one")
        if label not in ("", "1", "2", Right.NEITHER):
            raise GoldError(f"{where}: {label!r} is no label; write 1 or 2 for the right answer, or neither")
        if label == Right.NEITHER:
            found[row] = Right.NEITHER
        elif label:
            found[row] = Right.STUDENT if (label == "1") == _student_first(row) else Right.TEACHER
    return found


def labels_of(pairs: Iterable[Pair], gold: Mapping[str, Values]) -> dict[str, Right]:
    """Return the labels that right answers give which are known already, by row."""
    found = {}
    for pair in to_ask(pairs):
        if pair.id in gold:
            right = gold[pair.id]
            found[pair.id] = (
                Right.STUDENT if right == pair.student else Right.TEACHER if right == pair.teacher else Right.NEITHER
            )
    return found


def counted(pairs: Sequence[Pair], labels: Mapping[str, Right]) -> Counts:
    """Return how often who was right. Raises ``GoldError`` when a row is there twice."""
    if len({pair.id for pair in pairs}) < len(pairs):
        raise GoldError("a row is there twice; a call counts once")
    asked = to_ask(pairs)
    judged = [labels[pair.id] for pair in asked if pair.id in labels]
    return Counts(len(pairs), judged.count(Right.STUDENT), judged.count(Right.TEACHER), len(asked) - len(judged))


def verdict(counts: Counts, margin: float, delta: float = 0.05, *, anytime: bool = False) -> Verdict:
    """Return what ``counts`` show, at one look; ``anytime``: at any number of looks.

    A disagreement without a label counts as lost for the student, so a verdict before the last label is safe.
    """
    worst = Counts(counts.n, counts.wins, counts.losses + counts.unknown)
    best = Counts(counts.n, counts.losses, counts.wins + counts.unknown)  # turned around: of the teacher
    estimate = (counts.wins - counts.losses) / counts.n if counts.n else math.nan
    excludes = shown_at_any_look if anytime else shown_at_one_look
    difference = Interval(estimate, _lower(worst, delta, excludes), -_lower(best, delta, excludes))
    return Verdict(counts.n > 0 and excludes(worst, -margin, delta), difference, counts)


def _lower(counts: Counts, delta: float, excludes: Callable[[Counts, float, float], bool]) -> float:
    """Return the greatest difference that is excluded from below, to four decimals, rounded down."""
    if not counts.n:
        return -1.0
    low, high = -1.0, (counts.wins - counts.losses) / counts.n
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if excludes(counts, middle, delta) else (low, middle)
    return low


def shown_at_one_look(counts: Counts, difference: float, delta: float) -> bool:
    """Tell whether the mean difference is shown to be over ``difference``, if this is the only look."""
    return one_look_p_value(counts, difference, delta * _TINY) <= delta


def one_look_p_value(counts: Counts, difference: float, tiny: float) -> float:
    """Return the p-value of "the mean difference is ``difference`` or less". ``tiny`` is spent on the share that differs."""
    n, wins, losses = counts.n, counts.wins, counts.losses
    differ = wins + losses
    low = max(lower_bound(differ, n, tiny / 2), abs(difference), 1e-12)
    high = upper_bound(differ, n, tiny / 2)
    if low > high:  # so many cannot differ as this difference would need
        return tiny
    first = max(0, math.floor(n * low - 5 * math.sqrt(n * low) - 5))
    last = min(n, math.ceil(n * high + 5 * math.sqrt(n * high) + 5))
    m = np.arange(first, last + 1, dtype=np.float64)[None, :]  # rows that may differ
    shares = np.linspace(low, high, _SHARES)[:, None]
    likely = np.exp(gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1) + xlogy(m, shares) + xlog1py(n - m, -shares))
    # The sum of differences is 2·wins − m: as high as this one from so many wins on.
    least = np.ceil((m + wins - losses) / 2)
    wins_share = np.clip((1 + difference / shares) / 2, 0.0, 1.0)
    inside = (least >= 1) & (least <= m)
    reached = np.where(
        inside, betainc(np.where(inside, least, 1), np.where(inside, m - least + 1, 1), wins_share), least <= 0
    )
    # What is left out of m counts as reached.
    return float(np.max((likely * reached).sum(axis=1) + np.maximum(0.0, 1 - likely.sum(axis=1)))) + tiny


def shown_at_any_look(counts: Counts, difference: float, delta: float) -> bool:
    """Tell whether the mean difference is shown to be over ``difference``, at any number of looks.

    That is when the wealth against "it is ``difference`` or less" has reached 1/delta.
    """
    # A bet multiplies the wealth by 1 + stake·(d − difference), d in {−1, 0, 1}; at stake 1/(1 + difference) d = −1 loses all.
    if difference <= -1:
        return True
    stakes = _STAKES / (1 + difference)
    zeros = counts.n - counts.wins - counts.losses
    logs = (
        counts.wins * np.log1p(stakes * (1 - difference))
        + zeros * np.log1p(-stakes * difference)
        + counts.losses * np.log1p(-stakes * (1 + difference))
    )
    return bool(np.logaddexp.reduce(logs) - math.log(len(stakes)) >= -math.log(delta))


def _student_first(row: str) -> bool:
    return _drawn(row, "place") < 2**63


def _drawn(row: str, what: str) -> int:
    digest = hashlib.blake2b(f"{what}\0{row}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _written(answer: Values) -> str:
    return answer[0] if len(answer) == 1 else json.dumps(answer, ensure_ascii=False)


def _inert(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula; different texts stay different."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r", "'") else text
