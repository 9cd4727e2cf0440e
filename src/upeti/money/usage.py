"""Usage: what groups of attempts used and cost, the one input of chargeback, invoice, reconciliation and export.

Rules: a row is a sum over attempts that have everything but their amounts in common, so rows add up to any coarser sum
exactly. Its cost splits by meter exactly too, because all its attempts were priced by one row of the price book at
one cliff. An unknown cost (*unpriced*) is counted in ``attempts`` of a row with that outcome, never as zero in a sum of
others. A correction is a row of its own with signed amounts; nothing is edited.
"""

from __future__ import annotations

import datetime
from typing import Final

import msgspec

from upeti.core.amount import Pico
from upeti.core.meters import Meters
from upeti.money.price import Price, cell_of

PER_CALL: Final = "per_call"  # instead of a meter: the fixed part of a price
UNMETERED: Final = "unmetered"  # a cost without meters: posted at a bound, or corrected from a report without them

CORRECTED: Final = "corrected"  # the outcome of a row of corrections, beside those of ``core.events.Outcome``


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over one UTC day. Dimensions first, then amounts."""

    day: datetime.date
    tenant: str
    project: str = ""
    key: str = ""
    feature: str = ""
    task: str = ""
    route: str = ""
    channel: str
    model: str
    wire: str = ""
    tier: str = ""  # "" is the standard one
    price_id: str = ""  # "" when no row of the price book applied
    cliff: int = 0  # which prices of the row held: 0 below the first cliff, 1 past the first, …
    outcome: str  # "posted" | "estimated" | "unpriced" | "voided" | "corrected"
    currency: str
    node: str = ""
    calls: int = 0  # attempts that were the first of their call
    attempts: int = 0  # 0 in a row of corrections
    unmetered: int = 0  # attempts, of those sent, that reported no meters
    meters: Meters = msgspec.field(default_factory=dict)
    cost_pico: int = 0  # unknown, and 0 here, in a row with the outcome "unpriced"


class MeterCost(msgspec.Struct, frozen=True):
    """A part of a row's cost. ``unit_pico`` is None where the part is no quantity times a price."""

    meter: str  # a meter, ``PER_CALL`` or ``UNMETERED``
    quantity: int
    unit_pico: int | None
    cost_pico: Pico


def meter_costs(row: UsageRow, price: Price | None) -> list[MeterCost]:
    """Split a row's cost by meter; the parts sum to ``row.cost_pico`` in the last pico.

    ``price`` is the row of the price book with ``row.price_id``. What the price does not explain (a cost posted at its
    bound, a correction after a report without meters) is one part named ``UNMETERED``.
    """
    parts: list[MeterCost] = []
    if price is not None and row.outcome not in ("unpriced", "voided"):
        for meter, quantity in row.meters.items():
            unit = cell_of(price, meter, row.cliff)
            if unit is not None and quantity:
                parts.append(MeterCost(meter, quantity, unit, Pico(quantity * unit)))
        metered = row.attempts - row.unmetered
        if price.per_call_pico and metered > 0:
            parts.append(MeterCost(PER_CALL, metered, price.per_call_pico, Pico(metered * price.per_call_pico)))
    rest = row.cost_pico - sum(part.cost_pico for part in parts)
    if rest:
        parts.append(MeterCost(UNMETERED, row.unmetered, None, Pico(rest)))
    return parts
