"""The gate: a new ranker serves only when it is shown to be no worse and not to have seen the future.

Rules: candidate and live ranker are judged on the same cases. Whatever is not known refuses: no proof about leaks, too few
cases, a guardrail without a number on one side only. A candidate may be a little worse (a refit need not win every time)
but no more than the margin, with its interval; it may not be far too good either, because offline that is a leak until
somebody has looked. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from upeti.feed.evaluation import ALL, Event, Scores, Shape, bootstrap
from upeti.feed.sequential import Interval

Features = Mapping[str, float]
# Given a log of events: what the ranker would see of an item for a user at a moment.
Builder = Callable[[Sequence[Event]], Callable[[str, str, int], Features]]

_SAME: Final = 1e-9  # relative: sums of the same numbers in another order


class Rules(msgspec.Struct, frozen=True):
    """What the gate asks for. Shares are of the live ranker's value."""

    cases_min: int = 200
    loss_max_share: float = 0.02  # of NDCG@10 over all cases, at the interval's lower end
    group_loss_max_share: float = 0.10  # … of warm, near-cold and cold items, where there are cases enough
    gain_max_share: float = 0.50  # more than this at the lower end is a leak until a person has looked
    gini_rise_max: float = 0.05
    coverage_loss_max_share: float = 0.20


class Leak(NamedTuple):
    """A feature that changes when the future is taken away."""

    feature: str
    share: float  # of the probes in which it did
    example: str


class Entry(NamedTuple):
    """A ranker as the gate sees it."""

    name: str
    scores: Scores
    shape: Shape | None = None
    leaks: tuple[Leak, ...] | None = None  # None: nobody has looked, see ``find_leaks``


class Verdict(NamedTuple):
    """Whether the candidate may serve, and why."""

    is_let_in: bool
    reasons: tuple[str, ...]  # why not; empty when it is let in
    gains: dict[str, Interval]  # group → NDCG@10 of the candidate minus the live one's


def judge(
    candidate: Entry, live: Entry | None, rules: Rules | None = None, *, is_gain_believed: bool = False
) -> Verdict:
    """Return whether ``candidate`` may take the place of ``live``; without a live one only leaks and cases count.

    ``is_gain_believed``: a person has looked at a gain that is too good and vouches for it.
    """
    rules = rules or Rules()
    reasons = _leak_reasons(candidate)
    if len(candidate.scores.cases) < rules.cases_min:
        reasons.append(f"only {len(candidate.scores.cases)} cases were ranked, {rules.cases_min} are needed")
    if not _finite(candidate.scores):
        reasons.append("a score is not a number: look for NaN among the features")
    if live is None or reasons:
        return Verdict(not reasons, tuple(reasons), {})
    if candidate.scores.cases != live.scores.cases:
        return Verdict(False, ("candidate and live ranker were not judged on the same cases",), {})
    gains = {group: _gain(candidate.scores, live.scores, group) for group in _groups(live.scores)}
    for group, gain in gains.items():
        base = float(live.scores.ndcg[_of(live.scores, group)].mean())
        reasons += _gain_reasons(group, gain, base, _count(live.scores, group), rules, is_gain_believed)
    reasons += _shape_reasons(candidate.shape, live.shape, rules)
    return Verdict(not reasons, tuple(reasons), gains)


def _leak_reasons(candidate: Entry) -> list[str]:
    if candidate.leaks is None:
        return ["its features were not probed for the future; give what find_leaks returns"]
    return [
        f"feature {leak.feature} knows the future: it changes in {leak.share:.0%} of the probes when later events are "
        f"taken away ({leak.example})"
        for leak in candidate.leaks
    ]


def _gain_reasons(group: str, gain: Interval, base: float, cases: int, rules: Rules, believed: bool) -> list[str]:
    where = "over all cases" if group == ALL else f"on {group} items"
    loss_max = rules.loss_max_share if group == ALL else rules.group_loss_max_share
    if group != ALL and cases < rules.cases_min:
        return []
    if gain.low < -loss_max * base:
        return [f"NDCG@10 {where} may fall by {-gain.low:.4f} of {base:.4f}; at most {loss_max:.0%} is allowed"]
    if gain.low > rules.gain_max_share * base and base > 0 and group == ALL and not believed:
        return [f"NDCG@10 {where} rises by {gain.low / base:.0%} or more: too good to be true; look for a leak first"]
    return []


def _shape_reasons(candidate: Shape | None, live: Shape | None, rules: Rules) -> list[str]:
    if live is None:
        return []
    if candidate is None:
        return ["coverage and creators' exposure are known of the live ranker only"]
    reasons = []
    if not math.isnan(live.creator_gini) and not candidate.creator_gini <= live.creator_gini + rules.gini_rise_max:
        reasons.append(
            f"creators' exposure gets less even: Gini {live.creator_gini:.3f} → {candidate.creator_gini:.3f}"
        )
    if not candidate.coverage >= live.coverage * (1 - rules.coverage_loss_max_share):
        reasons.append(f"less of the catalogue is shown: {live.coverage:.1%} → {candidate.coverage:.1%}")
    return reasons


def _groups(scores: Scores) -> list[str]:
    return sorted({group for _, _, group in scores.cases})


def _of(scores: Scores, group: str) -> list[int]:
    return [place for place, case in enumerate(scores.cases) if case[2] == group]


def _count(scores: Scores, group: str) -> int:
    return len(_of(scores, group))


def _gain(candidate: Scores, live: Scores, group: str) -> Interval:
    places = _of(live, group)
    users = [live.cases[place][0] for place in places]
    return bootstrap(candidate.ndcg[places] - live.ndcg[places], users)


def _finite(scores: Scores) -> bool:
    return all(bool(np.all(np.isfinite(values))) for values in (scores.ndcg, scores.recall, scores.hit))


def find_leaks(build: Builder, events: Sequence[Event], *, probes: int = 50, seed: int = 0) -> tuple[Leak, ...]:
    """Return the features that know more than the moment they are asked about.

    Each probe is an event of ``events`` (in order of time): its features are built twice, from the whole log and from
    what lies before the event alone. What differs has used the event itself or something after it.
    """
    draw = Random(seed)  # noqa: S311 - picks probes, guards nothing
    asked = sorted(draw.sample(range(len(events)), min(probes, len(events))))
    with_future = build(events)
    differing: dict[str, list[str]] = {}
    for place in asked:
        event = events[place]
        now = with_future(event.user, event.item, event.at_ns)
        then = build([one for one in events[:place] if one.at_ns < event.at_ns])(event.user, event.item, event.at_ns)
        for name in now.keys() | then.keys():
            ours, honest = now.get(name, math.nan), then.get(name, math.nan)
            if not (
                math.isclose(ours, honest, rel_tol=_SAME, abs_tol=_SAME) or (math.isnan(ours) and math.isnan(honest))
            ):
                differing.setdefault(name, []).append(f"{ours:g} with the future, {honest:g} without it")
    return tuple(Leak(name, len(seen) / len(asked), seen[0]) for name, seen in sorted(differing.items()))


def telling(values: ArrayLike, engaged: ArrayLike) -> float:
    """Return how well one feature alone tells engaged impressions from others (area under the ROC curve, 0.5 to 1).

    Near 1 is no feature but the answer: a look at it comes before a training run. NaN with only one kind.
    """
    given, label = np.asarray(values, dtype=np.float64), np.asarray(engaged, dtype=bool)
    yes, no = int(label.sum()), int((~label).sum())
    if not yes or not no:
        return math.nan
    given = np.where(np.isnan(given), -np.inf, given)
    _, place, counts = np.unique(given, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # ties share the mean of their ranks
    area = (float(ranks[place][label].sum()) - yes * (yes + 1) / 2) / (yes * no)
    return max(area, 1 - area)
