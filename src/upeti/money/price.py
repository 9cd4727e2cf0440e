"""A price and what it says: cost of meters, bound of an attempt.

Rules: unknown is never zero. A meter without a price of its own is priced by another only where the
provider says so (``PRICED_AS``); otherwise the attempt is unpriced. The bound uses the dearest cell a
call can reach, so an attempt's cost never exceeds what was held for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from upeti.core import meters as m

# Which price applies to a meter that has none of its own, and why:
# - reasoning tokens are billed as output tokens (OpenAI pricing page; Anthropic "extended thinking").
# - cached input without a listed discount is billed as input (OpenAI, models before prompt caching).
# - images that a chat model reads are billed as its input tokens (OpenAI and Anthropic vision guides).
# Audio, cache writes, images made and seconds have no such rule: without a price they are unpriced.
PRICED_AS: Final[Mapping[str, str]] = {
    m.OUTPUT_REASONING: m.OUTPUT,
    m.INPUT_CACHED: m.INPUT,
    m.INPUT_IMAGE: m.INPUT,
}

_INPUT: Final = frozenset(m.INPUT_METERS)
# A second of audio takes more than a byte, so bytes bound seconds as they bound tokens: too high, but safe.
_INPUT_SIDE: Final = (*m.INPUT_METERS, m.AUDIO_SECONDS)


class Cliff(msgspec.Struct, frozen=True, array_like=True):
    """Prices that hold for a whole attempt once its input, over all input meters, passes a size."""

    above_input_tokens: int
    pico: dict[str, int]  # meter → pico units per counted unit


class Ceiling(msgspec.Struct, frozen=True, array_like=True):
    """The dearest prices per unit that a call with more input than ``above_input_tokens`` can reach."""

    above_input_tokens: int
    input_pico: int
    output_pico: int


class Price(msgspec.Struct, frozen=True, array_like=True):
    """One row of the price book: what a model costs on a channel from a date on."""

    id: str  # first 16 hex digits of the SHA-256 of the row's canonical JSON
    currency: str
    effective_ns: int  # from this moment on, UTC
    pico: dict[str, int]  # meter → pico units per counted unit
    cliffs: tuple[Cliff, ...] = ()  # ascending
    per_call_pico: int = 0
    source: str = ""
    remark: str = ""
    ceilings: tuple[Ceiling, ...] = ()  # derived from the cells, whatever is given: the bound of every call needs it
    tier: str = ""  # service tier: "" is the standard one
    zone: str = ""  # where a deployment may compute; "": anywhere

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "ceilings", _ceilings(self))


def _ceilings(price: Price) -> tuple[Ceiling, ...]:
    """One ceiling below the first cliff and one for each cliff, none lower than the one before."""
    ceilings: list[Ceiling] = []
    input_pico = output_pico = 0
    for cliff in (Cliff(-1, price.pico), *price.cliffs):
        input_pico = max(input_pico, *(cliff.pico.get(name, 0) for name in _INPUT_SIDE))
        output_pico = max(output_pico, *(cliff.pico.get(name, 0) for name in m.OUTPUT_METERS))
        ceilings.append(Ceiling(cliff.above_input_tokens, input_pico, output_pico))
    return tuple(ceilings)


def price_at(prices: tuple[Price, ...], at_ns: int) -> Price | None:
    """Return the newest of ``prices`` (ascending by date) in force at ``at_ns``."""
    for price in reversed(prices):
        if price.effective_ns <= at_ns:
            return price
    return None


def tiers_at(prices: tuple[Price, ...], at_ns: int) -> dict[str, Price]:
    """Return tier → the newest of ``prices`` (ascending by date within a tier) in force at ``at_ns``."""
    return {price.tier: price for price in prices if price.effective_ns <= at_ns}


def cost_of(price: Price, meters: Mapping[str, int]) -> int | None:
    """Return the exact cost in pico units of ``meters``, or None when a counted meter has no price."""
    cells = price.pico
    if price.cliffs:
        input_tokens = 0
        for name, quantity in meters.items():
            if name in _INPUT:
                input_tokens += quantity
        for cliff in price.cliffs:
            if input_tokens > cliff.above_input_tokens:
                cells = cliff.pico
    total = price.per_call_pico
    for name, quantity in meters.items():
        cell = cells.get(name)
        if cell is None:
            cell = cells.get(PRICED_AS.get(name, ""))
            if cell is None:
                if quantity:
                    return None
                continue
        total += quantity * cell
    return total


def cliff_of(price: Price, meters: Mapping[str, int]) -> int:
    """Return at which cliff ``cost_of`` prices ``meters``: 0 below the first."""
    input_tokens = sum(quantity for name, quantity in meters.items() if name in _INPUT)
    return sum(input_tokens > cliff.above_input_tokens for cliff in price.cliffs)


def cell_of(price: Price, meter: str, cliff: int) -> int | None:
    """Return the price of one unit of ``meter`` at a cliff, or None when it has none there."""
    cells = price.cliffs[cliff - 1].pico if cliff else price.pico
    cell = cells.get(meter)
    return cells.get(PRICED_AS.get(meter, "")) if cell is None else cell


def dearest(price: Price) -> tuple[int, int]:
    """Return the dearest input and the dearest output price per token over all cells and cliffs."""
    last = price.ceilings[-1]
    return last.input_pico, last.output_pico


def bound_of(price: Price, *, input_tokens_max: int, output_tokens_max: int, choices: int = 1) -> int:
    """Return a cost in pico units that the attempt cannot exceed.

    ``input_tokens_max`` is the body's length in bytes (a byte-level tokenizer makes no more tokens than
    bytes) or the context window where the input is not in the body. Every choice is billed its own output;
    the input is counted once per choice too, which some providers do. A cliff counts only when the input can
    pass it: most calls are far below, and would be held at twice their price.
    """
    input_max = choices * input_tokens_max
    ceiling = price.ceilings[0]
    for higher in price.ceilings[1:]:
        if input_max > higher.above_input_tokens:
            ceiling = higher
    input_cost = input_max * ceiling.input_pico
    return price.per_call_pico + input_cost + choices * output_tokens_max * ceiling.output_pico
