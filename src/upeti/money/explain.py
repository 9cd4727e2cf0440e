"""Why an attempt cost what it did: which cells of which row, times which quantities.

Rules: the parts are what ``cost_of`` adds up, so they sum to it in the last pico. A meter that is billed as another one
says so. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from upeti.core.amount import Pico
from upeti.money.price import PRICED_AS, Price, cell_of, cliff_of
from upeti.money.usage import PER_CALL


class Part(msgspec.Struct, frozen=True):
    """One term of a cost: ``quantity`` × ``unit_pico``. Both are None of a meter without a price."""

    meter: str
    billed_as: str  # the meter whose price it is; "" when it has none
    quantity: int
    unit_pico: int | None
    cost_pico: Pico | None


def parts_of(price: Price, meters: Mapping[str, int]) -> tuple[int, list[Part]]:
    """Return at which cliff an attempt was priced (0: below the first) and the terms of its cost."""
    cliff = cliff_of(price, meters)
    cells = price.cliffs[cliff - 1].pico if cliff else price.pico
    parts = []
    for meter, quantity in meters.items():
        unit = cell_of(price, meter, cliff)
        if unit is None:
            parts.append(Part(meter, "", quantity, None, None if quantity else Pico(0)))
        else:
            billed_as = meter if meter in cells else PRICED_AS[meter]
            parts.append(Part(meter, billed_as, quantity, unit, Pico(quantity * unit)))
    if price.per_call_pico:
        parts.append(Part(PER_CALL, PER_CALL, 1, price.per_call_pico, Pico(price.per_call_pico)))
    return cliff, parts


def sum_of(parts: list[Part]) -> Pico | None:
    """Return the cost that the parts make; None when one of them has no price."""
    total = 0
    for part in parts:
        if part.cost_pico is None:
            return None
        total += part.cost_pico
    return Pico(total)
