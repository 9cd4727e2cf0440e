"""Lift of one arm over another, in engaged events per impression, with users as the units.

Rules: a person's impressions are not independent, so every variance is over persons: events and impressions are summed per
user and the ratio is linearised (delta method). What a user did before the experiment takes variance out (CUPED) and
cannot bias, since the arm did not exist then. Item by item nothing is compared across sides of the hold-out: items take
places from each other, so what one side wins the other may only have lost. Pure.

Sources: Deng et al., "Improving the sensitivity of online controlled experiments" (2013, CUPED); Deng, Knoblich and Lu,
"Applying the delta method in metric analytics" (2018); Bajari et al., "Multiple randomization designs" (2021).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from upeti.feed.sequential import Estimate

Floats = NDArray[np.float64]


class Users(NamedTuple):
    """One arm's users, one place each in every array. Held-out items are those for which nothing was bought."""

    events: Floats  # engaged events after impressions in the experiment
    impressions: Floats
    before: Floats | None = None  # events before the experiment began, None when not known of anybody
    events_held_out: Floats | None = None  # part of ``events`` on held-out items
    impressions_held_out: Floats | None = None

    @property
    def size(self) -> int:
        return len(self.events)

    def rate(self) -> float:
        """Engaged events per impression; NaN without impressions."""
        shown = float(self.impressions.sum())
        return float(self.events.sum()) / shown if shown else math.nan


def rate(users: Users) -> Estimate:
    """Return engaged events per impression and its variance over users."""
    values = _linearised(users)
    if values is None or users.size < 2:
        return Estimate(users.rate(), math.nan, users.size)
    return Estimate(users.rate(), float(values.var(ddof=1)) / users.size, users.size)


def lift(treated: Users, control: Users, *, adjusted: bool = True) -> Estimate:
    """Return how many more engaged events an impression has in ``treated``; units are the users of the smaller arm.

    ``adjusted``: by what users did before (CUPED), where that is known of both arms.
    """
    units = min(treated.size, control.size)
    ours, theirs = _linearised(treated), _linearised(control)
    if ours is None or theirs is None or units < 2:
        return Estimate(math.nan, math.nan, units)
    value = treated.rate() - control.rate()
    if adjusted and treated.before is not None and control.before is not None:
        slope = _slope((ours, treated.before), (theirs, control.before))
        value -= slope * float(treated.before.mean() - control.before.mean())
        ours, theirs = ours - slope * treated.before, theirs - slope * control.before
    variance = float(ours.var(ddof=1)) / treated.size + float(theirs.var(ddof=1)) / control.size
    return Estimate(value, variance, units)


def variance_removed(treated: Users, control: Users) -> float:
    """Return the share of variance that CUPED takes out; 0 when nothing is known of the time before."""
    plain, adjusted = lift(treated, control, adjusted=False), lift(treated, control)
    if not plain.variance > 0:
        return 0.0
    return max(0.0, 1 - adjusted.variance / plain.variance)


class Crossed(NamedTuple):
    """Users' arms crossed with items' sides. All values are engaged events per impression of a user's whole feed."""

    total: Estimate  # what the arm changes in all: both sides of the items together
    on_bought: Estimate  # part of it on items with enrichment
    on_held_out: Estimate  # part of it on the others: what was taken from them (below 0), or given to them
    by_items_alone: float  # what comparing the sides within the arm would claim; biased, shown so that nobody does it
    leaked: Estimate  # control users: enriched items' surplus over the held-out ones', per item's share


def crossed(treated: Users, control: Users, held_out_share: float) -> Crossed:
    """Return the effect by side. ``held_out_share`` is of items, by number. Raises ``ValueError`` without the sides.

    ``leaked`` away from 0 says that the control arm lives on what the treated one taught the shared counters, or that
    the sides were not alike: then ``total`` understates (or misstates) what switching everybody would change.
    """
    if not 0 < held_out_share < 1:
        raise ValueError("nothing is held out, so there are no sides to cross; set item_holdout_share")
    treated_held, control_held = _held_out(treated), _held_out(control)
    treated_bought = treated._replace(events=treated.events - treated_held.events)
    control_bought = control._replace(events=control.events - control_held.events)
    within = _per_item(treated_bought.rate(), treated_held.rate(), held_out_share)
    return Crossed(
        lift(treated, control),
        lift(treated_bought, control_bought, adjusted=False),
        lift(treated_held, control_held, adjusted=False),
        within,
        _contrast(control, control_bought.events, control_held.events, held_out_share),
    )


def _held_out(users: Users) -> Users:
    if users.events_held_out is None:
        raise ValueError("events on held-out items were not counted apart")
    return users._replace(events=users.events_held_out)


def _per_item(bought: float, held_out: float, held_out_share: float) -> float:
    """Rates of a whole feed, scaled as if all items were on the one side or on the other."""
    return bought / (1 - held_out_share) - held_out / held_out_share


def _contrast(users: Users, bought: Floats, held_out: Floats, held_out_share: float) -> Estimate:
    return rate(users._replace(events=bought / (1 - held_out_share) - held_out / held_out_share))


def _linearised(users: Users) -> Floats | None:
    """One value per user whose mean is the ratio and whose variance is the ratio's."""
    shown = users.impressions.mean() if users.size else 0.0
    if not shown > 0:
        return None
    ratio = users.rate()
    values: Floats = ratio + (users.events - ratio * users.impressions) / shown
    return values


def _slope(*arms: tuple[Floats, Floats]) -> float:
    """Regress outcome on covariate within arms, pooled: one slope for all, so that arms stay comparable."""
    both = spread = 0.0
    for outcome, before in arms:
        centred = before - before.mean()
        both += float(centred @ outcome)
        spread += float(centred @ centred)
    return both / spread if spread > 0 else 0.0
