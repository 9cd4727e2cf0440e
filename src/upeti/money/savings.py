"""Savings: what the choices behind a bill saved or cost, from usage and prices alone.

Rules: every figure is a sum of quantities times prices that stand in the book, and says how it was computed. What was
saved is exact. What could be saved is a limit (all of it, at the cheaper price), never a forecast: how much of it can
be reached, only who knows the calls can say. Without a price nothing is said. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from upeti.core import meters as m
from upeti.core.meters import Meters
from upeti.money.price import Price, cell_of
from upeti.money.usage import UsageRow
from upeti.wire.tiers import BATCH, FLEX, PROVISIONED, STANDARD

# Each kind of finding, and how its figures come about.
HOW: Final = {
    "cached input": "cached tokens times (price of input less price of cached input); could: the same for all input "
    "tokens that were not cached, which is the limit",
    "cache writes": "tokens written to a cache times (price of the write less price of input): what caching costs first",
    "slower tiers": "cost less what the same tokens cost at the cheapest tier that may wait (batch, flex); could: the "
    "limit, if every call of the standard tier could wait",
    "dearer tiers": "cost less what the same tokens cost at the standard tier: could be saved where the speed is not needed",
    "capacity": "saved: what its calls would have cost at the standard tier, less what the hours cost; negative is what "
    "the hours cost more, and could be saved by renting fewer",
    "bounds": "posted at a bound because the end is unknown: could: the whole amount, until a provider's report corrects "
    "it; the true cost is somewhere below",
}

_WRITES: Final = (m.INPUT_CACHE_WRITE, m.INPUT_CACHE_WRITE_5M, m.INPUT_CACHE_WRITE_1H, m.INPUT_CACHE_WRITE_12H)
_WAITING: Final = (BATCH, FLEX)

PriceOf = Callable[[str], Price | None]
AtTier = Callable[[UsageRow, str], Price | None]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One choice at one channel and model. Amounts are pico units of ``currency``."""

    kind: str  # a key of ``HOW``
    channel: str
    model: str
    currency: str
    quantity: int  # tokens; attempts of "bounds"
    saved_pico: int = 0  # negative: it cost more
    possible_pico: int = 0  # the limit of what could still be saved


class _Sums(msgspec.Struct):
    quantity: int = 0
    saved_pico: int = 0
    possible_pico: int = 0


class _Findings:
    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str, str], _Sums] = {}

    def add(self, kind: str, row: UsageRow, quantity: int, saved_pico: int = 0, possible_pico: int = 0) -> None:
        sums = self._sums.setdefault((kind, row.channel, row.model, row.currency), _Sums())
        sums.quantity += quantity
        sums.saved_pico += saved_pico
        sums.possible_pico += possible_pico

    def made(self) -> list[Finding]:
        order = list(HOW)
        findings = [
            Finding(
                kind=kind,
                channel=channel,
                model=model,
                currency=currency,
                quantity=sums.quantity,
                saved_pico=sums.saved_pico,
                possible_pico=sums.possible_pico,
            )
            for (kind, channel, model, currency), sums in self._sums.items()
            if sums.quantity or sums.saved_pico or sums.possible_pico
        ]
        return sorted(findings, key=lambda one: (order.index(one.kind), -one.possible_pico, one.channel, one.model))


def find_savings(rows: Iterable[UsageRow], price_of: PriceOf, at_tier: AtTier) -> list[Finding]:
    """Return what can be said of ``rows``.

    ``price_of`` finds the price with an id; ``at_tier`` the price of a row's model on its day at another tier, or None.
    """
    found = _Findings()
    for row in rows:
        if row.outcome == "estimated":
            found.add("bounds", row, row.attempts, possible_pico=row.cost_pico)
        if row.outcome not in ("posted", "corrected"):
            continue
        if row.tier == PROVISIONED:
            _capacity(found, row, at_tier)
            continue
        price = price_of(row.price_id)
        if price is not None and row.meters:
            _cache(found, row, price)
            _tier(found, row, price, at_tier)
    return found.made()


def cost_at(price: Price, meters: Meters, cliff: int) -> int | None:
    """Return what meters cost at a cliff of a price, as their own row was priced; None when one has no price."""
    if cliff > len(price.cliffs):
        return None
    total = 0
    for meter, quantity in meters.items():
        cell = cell_of(price, meter, cliff)
        if cell is None:
            if quantity:
                return None
            continue
        total += quantity * cell
    return total


def _cache(found: _Findings, row: UsageRow, price: Price) -> None:
    full, cached = (cell_of(price, meter, row.cliff) for meter in (m.INPUT, m.INPUT_CACHED))
    if full is None:
        return
    if cached is not None and cached < full:
        read, unread = row.meters.get(m.INPUT_CACHED, 0), row.meters.get(m.INPUT, 0)
        found.add("cached input", row, read, read * (full - cached), unread * (full - cached))
    for meter in _WRITES:
        cell = cell_of(price, meter, row.cliff)
        quantity = row.meters.get(meter, 0)
        if cell is not None and quantity:
            found.add("cache writes", row, quantity, -quantity * (cell - full))


def _tier(found: _Findings, row: UsageRow, price: Price, at_tier: AtTier) -> None:
    cost_pico = cost_at(price, row.meters, row.cliff)
    if cost_pico is None:
        return
    tokens = sum(row.meters.values())
    if row.tier == STANDARD:
        others = [_cost_at_tier(row, tier, at_tier) for tier in _WAITING]
        cheapest = min((other for other in others if other is not None), default=cost_pico)
        if cheapest < cost_pico:
            found.add("slower tiers", row, tokens, possible_pico=cost_pico - cheapest)
        return
    standard = _cost_at_tier(row, STANDARD, at_tier)
    if standard is None:
        return
    if standard > cost_pico:
        found.add("slower tiers", row, tokens, saved_pico=standard - cost_pico)
    elif standard < cost_pico:
        found.add("dearer tiers", row, tokens, standard - cost_pico, cost_pico - standard)


def _capacity(found: _Findings, row: UsageRow, at_tier: AtTier) -> None:
    if not row.attempts:  # the hours
        found.add("capacity", row, 0, saved_pico=-row.cost_pico)
        return
    worth = _cost_at_tier(row, STANDARD, at_tier)
    if worth is not None:
        found.add("capacity", row, sum(row.meters.values()), saved_pico=worth - row.cost_pico)


def _cost_at_tier(row: UsageRow, tier: str, at_tier: AtTier) -> int | None:
    price = at_tier(row, tier)
    if price is None or price.currency != row.currency:
        return None
    return cost_at(price, row.meters, row.cliff)
