"""Corrections of estimated costs: what was posted at a bound becomes what the provider billed.

Rules: a report by call corrects each attempt; any other corrects the day's estimated sum of a channel and model, divided
over who called in proportion to the bounds, by the largest remainder, so that the parts sum to what was billed in the last
pico. A correction is named by its content: the same report makes the same one, and it is written once. Nothing is corrected
on days that the report does not cover, and nothing that is right already.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from upeti.core.amount import decimal_text
from upeti.core.events import CostCorrected, Outcome
from upeti.money.reconcile.match import EstimatedRow
from upeti.money.reconcile.statement import Billed

REASON: Final = "reconciled"
_EPOCH: Final = datetime.date(1970, 1, 1)
_NS_PER_DAY: Final = 86_400 * 10**9
_ID_DIGITS: Final = 32


def corrections(
    billed: Iterable[Billed], reference: str, at_ns: int, first_day: datetime.date, last_day: datetime.date
) -> list[CostCorrected]:
    """Return the records that make estimates of the days from ``first_day`` to ``last_day`` what was billed.

    ``reference`` is the SHA-256 of the report.
    """
    made: list[CostCorrected] = []
    for one in billed:
        if not first_day <= one.day <= last_day:
            continue
        bounds = [max(0, row.bound_pico) for row in one.rows]
        if not sum(bounds):
            continue
        shares = largest_remainder(one.pico, bounds)
        meters = {meter: largest_remainder(quantity, bounds) for meter, quantity in (one.meters or {}).items()}
        for place, row in enumerate(one.rows):
            if shares[place] == row.now_pico:
                continue
            used = {meter: quantities[place] for meter, quantities in meters.items()}
            made.append(_correction(row, shares[place], used if one.meters else None, reference, at_ns))
    return made


def largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """Divide ``total`` in proportion to ``weights`` into whole parts that sum to it; of equals, the first gets more.

    ``weights`` are not negative, and not all zero.
    """
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda place: -(total * weights[place] % whole))
    for place in by_remainder[: total - sum(parts)]:
        parts[place] += 1
    return parts


def _correction(
    estimated: EstimatedRow, now_pico: int, used: dict[str, int] | None, reference: str, at_ns: int
) -> CostCorrected:
    row = estimated.row
    difference = None
    if used is not None:
        names = sorted({*used, *estimated.meters})
        changes = {meter: used.get(meter, 0) - estimated.meters.get(meter, 0) for meter in names}
        difference = {meter: change for meter, change in changes.items() if change}
    record = CostCorrected(
        correction_id="",
        at_ns=0,
        reason=REASON,
        reference=reference,
        attempt_id=estimated.call,
        settled_ns=(row.day - _EPOCH).days * _NS_PER_DAY,
        tenant=row.tenant,
        project=row.project,
        key=row.key,
        feature=row.feature,
        task=row.task,
        route=row.route,
        channel=row.channel,
        model=row.model,
        wire=row.wire,
        outcome=Outcome.POSTED if estimated.corrected else Outcome.ESTIMATED,
        currency=row.currency,
        was=decimal_text(estimated.now_pico),
        now=decimal_text(now_pico),
        meters=difference,
        tier=row.tier,
    )
    digest = hashlib.sha256(msgspec.json.encode(record, order="sorted")).hexdigest()
    return msgspec.structs.replace(record, correction_id=f"rec-{digest[:_ID_DIGITS]}", at_ns=at_ns)
