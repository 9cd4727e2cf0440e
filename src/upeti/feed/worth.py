"""What enrichment earned and what it cost: the verdict of an experiment.

Rules: arms stand in the order of what they cost, and each is judged over the next-cheaper one: ΔE, the extra engaged
events per 1,000 impressions, against ΔC, what the enrichment cost for 1,000 impressions. It is decided on the net benefit
λ·ΔE − ΔC with a confidence sequence, so at any time, and over all comparisons together with the experiment's error share.
ΔC/ΔE is shown only where ΔE's interval excludes zero: a ratio over nothing means nothing. Costs are exact and never a
float; what is estimated is a statistic and is one. An unknown cost gives no verdict. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise
from typing import Final, NamedTuple

from upeti.core.amount import PICO_DIGITS, PICO_PER_UNIT, Pico, parse_pico, round_fraction
from upeti.feed.experiment import ENRICHMENTS, PAID, STUDENT, Arm, Experiment
from upeti.feed.lift import Users, crossed, lift, variance_removed
from upeti.feed.sequential import (
    Estimate,
    Interval,
    fixed_interval,
    mismatch_evidence,
    mixture_interval,
    units_needed,
)

PER: Final = 1000  # impressions
_ALARM_SHARE: Final = 0.001  # a mismatch of users forbids the verdict, so it is only believed when it is glaring
_EVENTS_MIN: Final = 50


class Outcome(StrEnum):
    PAY = "pay"
    REPLACE = "replace by student"
    STOP = "stop paying"
    UNDECIDED = "undecided"


class Spent(NamedTuple):
    """What one source of enrichment cost."""

    pico: int
    versions: int
    unknown: int = 0  # versions whose cost nobody could say: then there is no verdict


class ArmUsers(NamedTuple):
    """An arm and its users; ``hides`` are events of "do not show me that" per user."""

    arm: Arm
    users: Users
    hides: Users | None = None


class Comparison(NamedTuple):
    """One arm over a cheaper one, per 1,000 impressions."""

    arm: str
    over: str
    extra_events: Interval  # ΔE
    extra_cost: Pico  # ΔC, rounded to the twelfth decimal to be shown
    net_benefit: Interval  # λ·ΔE − ΔC, in units of the currency
    cost_per_event: Interval | None  # ΔC/ΔE in units of the currency; None while ΔE may be zero
    users_needed: (
        int | None
    )  # of the smaller arm until this is decided, if all stays as it is; None: unknown or too many
    variance_removed: float  # by what users did before

    @property
    def pays(self) -> bool | None:
        """Whether the dearer arm earns its cost; None: undecided."""
        if self.net_benefit.low > 0:
            return True
        return False if self.net_benefit.high < 0 else None


class Worth(NamedTuple):
    """The verdict with all that it rests on."""

    experiment: str
    currency: str
    event_value: str
    outcome: Outcome
    advice: str
    comparisons: tuple[Comparison, ...]
    users: dict[str, int]
    impressions: dict[str, int]
    rates: dict[str, float]  # engaged events per 1,000 impressions
    spent: dict[str, Spent]
    warnings: tuple[str, ...]
    users_needed: int | None


def judge(experiment: Experiment, arms: Sequence[ArmUsers], spent: Mapping[str, Spent], impressions_all: int) -> Worth:
    """Return the verdict.

    ``spent`` is by source (``enrichment_paid``, ``enrichment_student``). It is spread over ``impressions_all``: all that
    were shown in the time, in any arm or none, since what is bought once serves every user once all have the arm.
    """
    ordered = sorted(arms, key=lambda one: (cost_of(one.arm, spent), len(one.arm.mask), one.arm.name))
    pairs = _pairs([one.arm for one in ordered])
    error_share = experiment.error_share / max(1, len(pairs))
    by_name = {one.arm.name: one for one in ordered}
    comparisons = tuple(
        _compare(experiment, by_name[arm], by_name[over], spent, impressions_all, error_share) for arm, over in pairs
    )
    stops, warnings = _checks(experiment, ordered, spent, impressions_all)
    outcome, deciding = _decide([one.arm for one in ordered], comparisons)
    if stops:
        outcome = Outcome.UNDECIDED
    needed = _needed(deciding) if outcome is Outcome.UNDECIDED and not stops else None
    return Worth(
        experiment.name,
        experiment.currency,
        experiment.event_value,
        outcome,
        stops[0] if stops else _advice(outcome, deciding, needed),
        comparisons,
        {one.arm.name: one.users.size for one in ordered},
        {one.arm.name: int(one.users.impressions.sum()) for one in ordered},
        {one.arm.name: PER * one.users.rate() for one in ordered},
        dict(spent),
        (*stops, *warnings),
        needed,
    )


def cost_of(arm: Arm, spent: Mapping[str, Spent]) -> int:
    """Return in pico what the sources cost that an arm uses."""
    return sum(spent[source].pico for source in ENRICHMENTS & arm.mask if source in spent)


def _pairs(ordered: Sequence[Arm]) -> list[tuple[str, str]]:
    """Each arm over the next-cheaper one, and the one with paid enrichment over the best without any."""
    pairs = [(above.name, below.name) for below, above in pairwise(ordered)]
    paid, student, free = _kinds(ordered)
    if paid and free and (paid.name, free.name) not in pairs:
        pairs.append((paid.name, free.name))
    if paid and student and (paid.name, student.name) not in pairs:
        pairs.append((paid.name, student.name))
    if student and free and (student.name, free.name) not in pairs:
        pairs.append((student.name, free.name))
    return pairs


def _kinds(arms: Sequence[Arm]) -> tuple[Arm | None, Arm | None, Arm | None]:
    """Return the arm with paid enrichment, the one with a student's alone, and the fullest without any."""
    most = sorted(arms, key=lambda arm: -len(arm.mask))
    paid = next((arm for arm in most if PAID in arm.mask), None)
    student = next((arm for arm in most if STUDENT in arm.mask and PAID not in arm.mask), None)
    free = next((arm for arm in most if not arm.mask & ENRICHMENTS), None)
    return paid, student, free


def _compare(
    experiment: Experiment,
    arm: ArmUsers,
    over: ArmUsers,
    spent: Mapping[str, Spent],
    impressions: int,
    error_share: float,
) -> Comparison:
    estimate = _per_thousand(lift(arm.users, over.users))
    value = parse_pico(experiment.event_value) / PICO_PER_UNIT
    extra = Fraction(PER * (cost_of(arm.arm, spent) - cost_of(over.arm, spent)), max(1, impressions))
    cost = float(extra / PICO_PER_UNIT)
    events = mixture_interval(estimate, experiment.users_planned, error_share)
    benefit = events.scaled(value, -cost)
    needed = None
    if benefit.low <= 0 <= benefit.high:
        needed = units_needed(estimate, estimate.value - cost / value, experiment.users_planned, error_share)
    return Comparison(
        arm.arm.name,
        over.arm.name,
        events,
        round_fraction(extra, PICO_DIGITS),
        benefit,
        _cost_per_event(events, cost),
        needed,
        variance_removed(arm.users, over.users),
    )


def _per_thousand(estimate: Estimate) -> Estimate:
    return Estimate(PER * estimate.value, PER**2 * estimate.variance, estimate.units)


def _cost_per_event(events: Interval, cost: float) -> Interval | None:
    if not events.excludes_zero or not math.isfinite(events.low):
        return None
    ends = sorted((cost / events.low, cost / events.high))
    return Interval(cost / events.estimate, ends[0], ends[1])


def _decide(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> tuple[Outcome, list[Comparison]]:
    """Return the outcome and the comparisons that it rests on, or that it still waits for."""
    paid, student, free = _kinds(arms)
    found = {(one.arm, one.over): one for one in comparisons}
    if paid is None or (free is None and student is None):
        return Outcome.UNDECIDED, []
    over_free = found.get((paid.name, free.name)) if free else None
    over_student = found.get((paid.name, student.name)) if student else None
    student_over_free = found.get((student.name, free.name)) if student and free else None
    above = [one for one in (over_student, over_free) if one]
    if all(one.pays for one in above):
        return Outcome.PAY, above
    student_pays = student_over_free.pays if student_over_free else True  # nothing cheaper to compare it with
    if over_student and over_student.pays is False and student_pays:
        return Outcome.REPLACE, [one for one in (over_student, student_over_free) if one]
    if over_free and over_free.pays is False:
        return Outcome.STOP, [one for one in (over_free, student_over_free) if one]
    return Outcome.UNDECIDED, _waited_for(above, over_student, student_over_free)


def _waited_for(
    above: list[Comparison], over_student: Comparison | None, student_over_free: Comparison | None
) -> list[Comparison]:
    """Return the comparisons that are still open on the way to what now looks most likely."""
    leans_to_student = over_student is not None and over_student.net_benefit.estimate < 0
    way = [over_student, student_over_free] if leans_to_student else above
    return [one for one in way if one is not None and one.pays is None]


def _needed(deciding: Sequence[Comparison]) -> int | None:
    needed = [one.users_needed for one in deciding]
    if not needed or any(one is None for one in needed):
        return None
    return max(one for one in needed if one is not None)


def _advice(outcome: Outcome, deciding: Sequence[Comparison], needed: int | None) -> str:
    """Say what to do next, in one sentence."""
    if outcome is Outcome.PAY:
        return "Go on paying: at its lower limit the net benefit is above zero. Give every user the arm and stop the experiment."
    if outcome is Outcome.REPLACE:
        return (
            "Let the student answer: it keeps enough of the lift that the paid model does not earn the rest. Put the "
            "student's channel first in the route of the enrichment, and keep a small paid arm to see when that changes."
        )
    if outcome is Outcome.STOP:
        open_ = [one for one in deciding if one.pays is None]
        more = " Whether the student earns its own cost is still open: go on with those two arms." if open_ else ""
        return "Stop buying this enrichment: at its upper limit the net benefit is below zero." + more
    if not deciding:
        return (
            "Give the experiment an arm with enrichment_paid and one without any enrichment: there is nothing to judge."
        )
    if needed is None:
        return "Go on: what there is says too little to tell how long it will take, or the difference is too small to matter."
    return f"Go on until the smaller arm has about {needed:,} users; the verdict stays valid however often you look."


def _checks(
    experiment: Experiment, arms: Sequence[ArmUsers], spent: Mapping[str, Spent], impressions: int
) -> tuple[list[str], list[str]]:
    """Return what forbids a verdict, and what a reader must know beside it."""
    stops, warnings = [], []
    counts, weights = [one.users.size for one in arms], [float(one.arm.weight) for one in arms]
    if sum(counts) and mismatch_evidence(counts, weights) >= 1 / _ALARM_SHARE:
        shown = ", ".join(f"{one.arm.name} {one.users.size:,}" for one in arms)
        stops.append(
            f"Users do not come in the planned ratio ({shown}): assignment or logging is broken, so no difference can be "
            "believed. Find out where users get lost before anything else."
        )
    unknown = {source: one.unknown for source, one in spent.items() if one.unknown}
    for source, count in unknown.items():
        stops.append(
            f"The cost of {count:,} versions of {source} is unknown: give the model a price (upeti prices), then it is "
            "corrected, or leave the source out. Unknown is not zero."
        )
    for source in sorted(ENRICHMENTS):
        if any(source in one.arm.mask for one in arms) and source not in spent:
            warnings.append(f"nothing was spent on {source}: its arm is judged at a cost of 0")
    if not impressions:
        stops.append("Nothing was shown yet.")
    for one in arms:
        if one.users.size and one.users.events.sum() < _EVENTS_MIN:
            warnings.append(f"arm {one.arm.name} has fewer than {_EVENTS_MIN} engaged events: intervals are rough")
    warnings += _hides(arms)
    warnings += _sides(experiment, arms)
    return stops, warnings


def _hides(arms: Sequence[ArmUsers]) -> list[str]:
    """Guardrail: users of a dearer arm hide more."""
    found = []
    for over, arm in pairwise(arms):
        if arm.hides is None or over.hides is None:
            continue
        more = fixed_interval(_per_thousand(lift(arm.hides, over.hides)), 0.01)
        if more.low > 0:
            found.append(
                f"users of {arm.arm.name} hide more than those of {over.arm.name}: {more.estimate:+.2f} per 1,000 impressions"
            )
    return found


def _sides(experiment: Experiment, arms: Sequence[ArmUsers]) -> list[str]:
    """What the items' hold-out says about the users' arms."""
    share = experiment.item_holdout_share
    if not share or len(arms) < 2 or any(one.users.events_held_out is None for one in arms):
        return []
    found = crossed(arms[-1].users, arms[0].users, share)
    leaked = fixed_interval(found.leaked, 0.01)
    if not leaked.excludes_zero:
        return []
    return [
        f"in arm {arms[0].arm.name} items with enrichment do {PER * leaked.estimate:+.1f} events per 1,000 impressions "
        "against held-out ones: it lives in part on what the other arms taught the shared counters, so the lift that is "
        "shown is not all of it"
    ]
