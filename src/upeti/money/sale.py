"""What usage is sold for: a row's cost by meter and the tenant's terms → parts of an invoice, exactly.

Rules: nothing is rounded here; a part is a fraction of pico units. With a margin the price of a meter is its cost times
a factor, and what has no meters (posted at a bound, corrected from a report) is sold so too. With own prices only meters
are sold: a bound is not billed until a report says which meters it stands for, and a correction of the cost alone changes
nothing. What cannot be sold yet is listed, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from fractions import Fraction

import msgspec

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
    sums = _Sums()
    unsold: dict[tuple[str, str, str], tuple[int, dict[str, int]]] = {}
    for row in rows:
        if row.outcome == "voided":
            continue
        own, factor = terms.of(row.day, row.channel, row.model, row.feature)
        if own is not None:
            lacking = sums.at_own_prices(row, own)
        else:
            assert factor is not None
            sums.at_margin(row, prices.get(row.price_id), factor)
            lacking = "unpriced" if row.outcome == "unpriced" else ""
        if lacking:
            at = (row.feature, row.model, lacking)
            attempts, meters = unsold.get(at, (0, {}))
            both = {name: meters.get(name, 0) + row.meters.get(name, 0) for name in (meters | row.meters)}
            unsold[at] = (attempts + row.attempts, both)
    return sums.entries(), [Unsold(*at, attempts, meters) for at, (attempts, meters) in sorted(unsold.items())]


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


class _Sums:
    """Whole numbers by what they are multiplied with, because a month has many rows and few prices."""

    def __init__(self) -> None:
        self._terms: dict[int, SalePrice | Fraction] = {}  # by identity: the same object for the same row of terms
        self._sums: dict[tuple[LineKind, str, str, str, int | None, str, int], tuple[int, int]] = {}

    def at_margin(self, row: UsageRow, price: Price | None, factor: Fraction) -> None:
        self._terms[id(factor)] = factor
        kind = _kind(row)
        for part in meter_costs(row, price):
            key = (kind, row.feature, row.model, part.meter, part.unit_pico, row.currency, id(factor))
            quantity, pico = self._sums.get(key, (0, 0))
            self._sums[key] = (quantity + part.quantity, pico + part.cost_pico)

    def at_own_prices(self, row: UsageRow, own: SalePrice) -> str:
        """Return why a part is not billed yet; "" when there is none."""
        if not own.per_million.keys() >= {meter for meter, quantity in row.meters.items() if quantity}:
            return "no_sale_price"
        self._terms[id(own)] = own
        kind = _kind(row)
        counted = {meter: quantity for meter, quantity in row.meters.items() if quantity}
        metered = row.attempts - row.unmetered
        if metered > 0 and own.unit(PER_CALL):
            counted[PER_CALL] = metered
        for meter, count in counted.items():
            key = (kind, row.feature, row.model, meter, None, own.currency, id(own))
            quantity, _ = self._sums.get(key, (0, 0))
            self._sums[key] = (quantity + count, 0)
        # An attempt that was posted without meters cost nothing; only a bound, or no price, leaves something to be told.
        lacking = {"estimated": "bound", "unpriced": "unpriced"}.get(row.outcome, "")
        return lacking if row.unmetered else ""

    def entries(self) -> Entries:
        made: Entries = {}
        for (kind, feature, model, meter, unit_pico, currency, by), (quantity, pico) in self._sums.items():
            terms = self._terms[by]
            if isinstance(terms, SalePrice):
                unit = terms.unit(meter)
                amount = quantity * (unit or Fraction(0))
            else:
                unit = None if unit_pico is None else unit_pico * terms
                amount = pico * terms
            add(made, LineKey(kind, feature, model, meter, unit, currency), quantity, amount)
        return made
