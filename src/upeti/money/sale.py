"""What usage is sold for: a row's cost by meter and the tenant's terms → parts of an invoice, exactly.

Rules: nothing is rounded here; a part is a fraction of pico units. With a margin the price of a meter is its cost times
a factor, and what has no meters (posted at a bound, corrected from a report) is sold so too. With own prices only meters
are sold: a bound is not billed until a report says which meters it stands for, and a correction of the cost alone changes
nothing. What cannot be sold yet is listed, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from fractions import Fraction

import msgspec

from upeti.core.amount import PICO_PER_UNIT
from upeti.core.meters import ALL_METERS
from upeti.money.price import Price
from upeti.money.tenant import SalePrice, Terms
from upeti.money.usage import CORRECTED, PER_CALL, UNMETERED, UsageRow, meter_costs


class LineKind(StrEnum):
    USAGE = "usage"
    ESTIMATED = "estimated"  # posted at a bound; a correction follows
    CORRECTION = "correction"
    SHORTFALL = "shortfall"  # what a commitment lacks
    DISCOUNT = "discount"  # on what is above a commitment


class LineKey(msgspec.Struct, frozen=True):
    """What a line is for; equal keys are one line."""

    kind: LineKind
    feature: str
    model: str
    meter: str
    unit: Fraction | None  # pico units of ``currency`` for one; None: no quantity times a price
    currency: str  # of the price

    @property
    def order(self) -> tuple[object, ...]:
        """By feature and model, meters as they are named; what is no usage comes last."""
        meters = (*ALL_METERS, PER_CALL, UNMETERED)
        place = meters.index(self.meter) if self.meter in meters else len(meters)
        own = self.kind in (LineKind.SHORTFALL, LineKind.DISCOUNT)
        kinds = list(LineKind)
        return (
            own,
            self.feature,
            self.model,
            kinds.index(self.kind),
            place,
            self.currency,
            -(self.unit or Fraction(0)),
        )


class Entry(msgspec.Struct):
    quantity: int = 0
    pico: Fraction = Fraction(0)  # of the key's currency


Entries = dict[LineKey, Entry]


class Unsold(msgspec.Struct, frozen=True):
    """Usage that is not billed yet."""

    feature: str
    model: str
    reason: str  # "unpriced" | "bound" | "no_sale_price"
    attempts: int
    meters: dict[str, int]


def sell(rows: Iterable[UsageRow], prices: Mapping[str, Price], terms: Terms) -> tuple[Entries, list[Unsold]]:
    """Sum what ``rows`` sell for into lines. Raises ``ConfigError`` when a row has no terms."""
    entries: Entries = {}
    unsold: dict[tuple[str, str, str], tuple[int, dict[str, int]]] = {}
    for row in rows:
        if row.outcome == "voided":
            continue
        own, factor = terms.of(row.day, row.channel, row.model, row.feature)
        if own is not None:
            parts, lacking = _at_own_prices(row, own)
        else:
            assert factor is not None
            parts = list(_at_margin(row, prices.get(row.price_id), factor))
            lacking = "unpriced" if row.outcome == "unpriced" else ""
        for key, quantity, pico in parts:
            add(entries, key, quantity, pico)
        if lacking:
            at = (row.feature, row.model, lacking)
            attempts, meters = unsold.get(at, (0, {}))
            sums = {name: meters.get(name, 0) + row.meters.get(name, 0) for name in (meters | row.meters)}
            unsold[at] = (attempts + row.attempts, sums)
    return entries, [Unsold(*at, attempts, meters) for at, (attempts, meters) in sorted(unsold.items())]


def add(entries: Entries, key: LineKey, quantity: int, pico: Fraction) -> None:
    entry = entries.setdefault(key, Entry())
    entry.quantity += quantity
    entry.pico += pico


def difference(now: Entries, billed: Entries) -> Entries:
    """Return what is missing from ``billed``: added, it gives ``now``. Nothing where they are equal."""
    entries: Entries = {}
    for key, entry in now.items():
        add(entries, key, entry.quantity, entry.pico)
    for key, entry in billed.items():
        add(entries, key, -entry.quantity, -entry.pico)
    return {key: entry for key, entry in entries.items() if entry.quantity or entry.pico}


def _kind(row: UsageRow) -> LineKind:
    if row.outcome == CORRECTED:
        return LineKind.CORRECTION
    return LineKind.ESTIMATED if row.outcome == "estimated" else LineKind.USAGE


_Parts = Iterator[tuple[LineKey, int, Fraction]]


def _at_margin(row: UsageRow, price: Price | None, factor: Fraction) -> _Parts:
    kind = _kind(row)
    for part in meter_costs(row, price):
        unit = None if part.unit_pico is None else part.unit_pico * factor
        key = LineKey(kind, row.feature, row.model, part.meter, unit, row.currency)
        yield key, part.quantity, part.cost_pico * factor


def _at_own_prices(row: UsageRow, own: SalePrice) -> tuple[list[tuple[LineKey, int, Fraction]], str]:
    """Return the parts, and why a rest is not billed: "" when there is none."""
    units = {meter: own.unit(meter) for meter, quantity in row.meters.items() if quantity}
    if None in units.values():
        return [], "no_sale_price"
    kind = _kind(row)
    parts = []
    for meter, unit in units.items():
        assert unit is not None
        key = LineKey(kind, row.feature, row.model, meter, unit, own.currency)
        parts.append((key, row.meters[meter], row.meters[meter] * unit))
    metered = row.attempts - row.unmetered
    per_call = Fraction(own.per_call) * PICO_PER_UNIT
    if per_call and metered > 0:
        key = LineKey(kind, row.feature, row.model, PER_CALL, per_call, own.currency)
        parts.append((key, metered, metered * per_call))
    # An attempt that was posted without meters cost nothing; only a bound, or no price, leaves something to be told.
    lacking = {"estimated": "bound", "unpriced": "unpriced"}.get(row.outcome, "")
    return parts, lacking if row.unmetered else ""
