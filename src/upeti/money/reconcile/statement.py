"""What a reconciliation states: kinds of differences and what to do about each, lines, sums.

Rules: a line's difference is theirs less ours; its parts and its unexplained rest sum to it. Amounts of two currencies are
never added.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from upeti.money.reconcile.match import EstimatedRow


class Kind(StrEnum):
    """What a difference is."""

    BYPASS = "bypass"
    DAY_BOUNDARY = "day boundary"
    PRICE = "price"
    TOKENS = "tokens"
    LOST = "lost"
    ABORTED = "aborted"
    ROUNDING = "rounding"
    CAPACITY = "capacity"
    TAX = "tax"
    FX = "fx"
    ADJUSTMENT = "adjustment"
    UNMAPPED = "unmapped"
    UNPRICED = "unpriced"


class Rule(msgspec.Struct, frozen=True):
    """What a class means, and what a person does about it."""

    kind: Kind
    meaning: str
    next_step: str


RULES: Final = (
    Rule(
        Kind.BYPASS,
        "Billed, and nothing of ours on that day: another account, key or model.",
        "Find who holds a key of this account and calls past Upeti; revoke it, or give the account to its channel.",
    ),
    Rule(
        Kind.DAY_BOUNDARY,
        "Less on one day and as much more on the next: calls around midnight UTC.",
        "Nothing: it cancels. A report that begins a day earlier or ends a day later shows the other half.",
    ),
    Rule(
        Kind.PRICE,
        "Same quantity at another unit price.",
        "Compare the two prices with your agreement; correct the price file, or ask the provider for a credit.",
    ),
    Rule(
        Kind.TOKENS,
        "Another quantity at our price.",
        "Look at the day's calls (`upeti calls`); if they are complete, ask the provider with these lines.",
    ),
    Rule(
        Kind.LOST,
        "Ours was posted at a bound: the worker died, or the answer was cut or timed out.",
        "Run again with --correct: the estimates become what was billed.",
    ),
    Rule(
        Kind.ABORTED,
        "Ours was posted at a bound: the client left or cancelled.",
        'Run again with --correct. With client_left = "drain" such calls are exact from the start.',
    ),
    Rule(Kind.ROUNDING, "Within what the provider rounds away.", "Nothing."),
    Rule(
        Kind.CAPACITY,
        "Provisioned throughput, by the hour.",
        "Compare the hours with your reservations; no call is behind them.",
    ),
    Rule(Kind.TAX, "A tax line.", "Book it as tax; it is no cost of a call."),
    Rule(
        Kind.FX,
        "The report is in another currency, converted at your rate, not the provider's.",
        "Put the rate of the provider's invoice into the rates file.",
    ),
    Rule(
        Kind.ADJUSTMENT,
        "A refund, credit, purchase or correction of the provider's.",
        "Book it by its own line; compare it with the credit that you expect.",
    ),
    Rule(
        Kind.UNMAPPED,
        "Billed by a meter that Upeti cannot name, such as searches, storage or a new model.",
        "See the provider's name of it; give it with --model, or leave it as a cost outside Upeti.",
    ),
    Rule(
        Kind.UNPRICED,
        "We have the usage, and no price for it.",
        "Add the price to a price file (the line shows what was billed) and re-price.",
    ),
)
RULE_OF: Final = {rule.kind: rule for rule in RULES}


class Line(msgspec.Struct, kw_only=True):
    """One cell of the report, with its difference named. Amounts are pico units of ``currency``."""

    currency: str
    day: datetime.date
    channel: str
    account: str  # of a line that belongs to no channel
    model: str
    tier: str
    context: str
    meter: str
    call: str
    theirs_pico: int
    ours_pico: int
    their_quantity: dict[str, int] | None
    our_quantity: dict[str, int]
    parts: dict[Kind, int] = msgspec.field(default_factory=dict)
    unexplained_pico: int = 0
    uncosted: bool = False  # a quantity without a cost and without a price of ours: its amount is not known
    why: list[str] = msgspec.field(default_factory=list)
    places: list[str] = msgspec.field(default_factory=list)
    names: list[str] = msgspec.field(default_factory=list)

    @property
    def difference_pico(self) -> int:
        return self.theirs_pico - self.ours_pico

    @property
    def explained_pico(self) -> int:
        return sum(self.parts.values())


class Billed(msgspec.Struct, frozen=True):
    """What the provider billed for the estimated calls of a day, as far as the report tells."""

    channel: str
    day: datetime.date
    rows: tuple[EstimatedRow, ...]
    pico: int
    meters: dict[str, int] | None


def totals(lines: Iterable[Line]) -> dict[str, Totals]:
    """Return currency → sums of lines."""
    sums: dict[str, Totals] = {}
    for line in lines:
        total = sums.setdefault(line.currency, Totals())
        total.theirs_pico += line.theirs_pico
        total.ours_pico += line.ours_pico
        total.unexplained_pico += line.unexplained_pico
        total.unexplained_lines += line.unexplained_pico != 0 or line.uncosted
        for kind, pico in line.parts.items():
            total.parts[kind] = total.parts.get(kind, 0) + pico
            total.lines[kind] = total.lines.get(kind, 0) + 1
    return sums


class Totals(msgspec.Struct):
    """Sums of one currency, in pico units."""

    theirs_pico: int = 0
    ours_pico: int = 0
    unexplained_pico: int = 0
    unexplained_lines: int = 0  # lines with an unexplained part, whatever they sum to
    parts: dict[Kind, int] = msgspec.field(default_factory=dict)
    lines: dict[Kind, int] = msgspec.field(default_factory=dict)

    @property
    def difference_pico(self) -> int:
        return self.theirs_pico - self.ours_pico

    @property
    def explained_pico(self) -> int:
        return sum(self.parts.values())
