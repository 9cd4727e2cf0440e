"""A past period at another book: which corrections bring what was recorded to what it says.

Rules: nothing is edited; a difference is a ``CostCorrected`` record. Every attempt is priced by the row in force when it was
opened, at the tier that was recorded. What nobody knows stays as it is: attempts without meters, and without a price. What
was corrected from a provider's report or by hand is left alone. Done again nothing is left to correct, because what was
repriced before counts as recorded. Pure.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from upeti.core.amount import Pico, decimal_text
from upeti.core.events import CostCorrected, Outcome
from upeti.core.meters import Meters
from upeti.money.price import Price, cell_of

REASON: Final = "repriced"
_NS_PER_DAY: Final = 86_400 * 10**9
_EPOCH: Final = datetime.date(1970, 1, 1)


class Bearer(NamedTuple):
    """Attempts that one correction stands for: all of a UTC day with these things in common."""

    day: datetime.date
    tenant: str
    project: str
    key: str
    feature: str
    task: str
    route: str
    channel: str
    model: str
    wire: str
    outcome: str
    currency: str
    tier: str


class Group(msgspec.Struct, frozen=True):
    """Sums over attempts of one bearer that one row prices at one cliff; all counted the same meters."""

    bearer: Bearer
    price: Price | None  # of the new book
    cliff: int
    attempts: int
    meters: Meters
    cost_pico: int  # as recorded; 0 of unpriced attempts


class Change(msgspec.Struct, frozen=True):
    """What one correction changes, or, with ``now_pico`` None, why nothing can be said."""

    bearer: Bearer
    attempts: int
    was_pico: Pico  # recorded, with what was repriced before
    now_pico: Pico | None
    price_ids: tuple[str, ...]
    times: int = 0  # that it was repriced before: prices may go and come back
    why: str = ""

    @property
    def difference_pico(self) -> int:
        return 0 if self.now_pico is None else self.now_pico - self.was_pico


class Repriced(NamedTuple):
    """What earlier repricing did to a bearer."""

    pico: int = 0  # in all
    times: int = 0


def changes(
    groups: Iterable[Group], repriced: Mapping[Bearer, Repriced], corrected: Mapping[Bearer, int]
) -> list[Change]:
    """Return what differs, and what cannot be repriced.

    ``corrected`` counts the corrections of another kind that name a bearer as a whole.
    """
    by_bearer: dict[Bearer, list[Group]] = {}
    for group in groups:
        by_bearer.setdefault(group.bearer, []).append(group)
    found = []
    for bearer, parts in sorted(by_bearer.items()):
        change = _change(bearer, parts, repriced.get(bearer, Repriced()), corrected.get(bearer, 0))
        if change.now_pico is None or change.difference_pico:
            found.append(change)
    return found


def _change(bearer: Bearer, parts: list[Group], before: Repriced, others: int) -> Change:
    attempts = sum(part.attempts for part in parts)
    was = Pico(sum(part.cost_pico for part in parts) + before.pico)
    ids = tuple(sorted({part.price.id for part in parts if part.price is not None}))
    if others:
        return Change(
            bearer, attempts, was, None, ids, before.times, "corrected otherwise: from a provider's report, or by hand"
        )
    total = 0
    for part in parts:
        cost = cost_of_group(part)
        if cost is None:
            lack = "the book has no price" if part.price is None else "a counted meter has no price"
            return Change(bearer, attempts, was, None, ids, before.times, lack)
        if part.price is not None and part.price.currency != bearer.currency:
            return Change(bearer, attempts, was, None, ids, before.times, f"its price is in {part.price.currency}")
        total += cost
    return Change(bearer, attempts, was, Pico(total), ids, before.times)


def cost_of_group(group: Group) -> int | None:
    """Return what the attempts cost at the new price: the sum of ``cost_of`` over each of them."""
    if group.price is None:
        return None
    total = group.attempts * group.price.per_call_pico
    for meter, quantity in group.meters.items():
        unit = cell_of(group.price, meter, group.cliff)
        if unit is None:
            if quantity:
                return None
            continue
        total += quantity * unit
    return total


def corrections(found: Iterable[Change], reference: str, at_ns: int) -> list[CostCorrected]:
    """Return the records that make the changes. ``reference`` is the hash of the book that they follow."""
    records = []
    for change in found:
        if change.now_pico is None or not change.difference_pico:
            continue
        bearer = change.bearer
        was, now = decimal_text(change.was_pico), decimal_text(change.now_pico)
        content = [str(part) for part in (REASON, change.times, *bearer, was, now, *change.price_ids)]
        records.append(
            CostCorrected(
                correction_id=f"{REASON}-{hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:24]}",
                at_ns=at_ns,
                reason=REASON,
                reference=reference,
                attempt_id="",
                settled_ns=(bearer.day - _EPOCH).days * _NS_PER_DAY,
                tenant=bearer.tenant,
                project=bearer.project,
                key=bearer.key,
                feature=bearer.feature,
                task=bearer.task,
                route=bearer.route,
                channel=bearer.channel,
                model=bearer.model,
                wire=bearer.wire,
                outcome=Outcome(bearer.outcome),
                currency=bearer.currency,
                was=was,
                now=now,
                meters={},
                price_id=change.price_ids[0] if len(change.price_ids) == 1 else "",
                tier=bearer.tier,
            )
        )
    return records
