"""What a provider's report says, line by line, in our words.

Rules: an amount is read from its decimal text and kept in pico units; what is finer than that is rounded half to even,
line by line, and the sum of what was rounded away is told. A quantity counts single units (tokens, seconds), whatever
unit the report counts in. What a report does not say is None or "", never a guess; what of it is not understood is a
note or an error, never dropped.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec

from upeti.core.amount import PICO_DIGITS, decimal_text
from upeti.core.errors import UpetiError

_PRECISION: Final = 60
_EXPONENT_MAX: Final = 26  # 38 digits, 12 of them behind the point, is what an amount at rest has
# A double holds 15 digits; more of them in a text are the noise of one, up to 2⁻⁵² of the value.
_DOUBLE_DIGITS: Final = 15
_DOUBLE_SHIFT: Final = 52


class ReportError(UpetiError):
    """A provider's report that cannot be read. The message names the place and the cure."""


class Nature(StrEnum):
    """What a line bills, as far as that decides how it is compared."""

    USAGE = "usage"  # of a model: compared with ours
    CAPACITY = "capacity"  # hours of provisioned throughput, reserved or not
    TAX = "tax"
    ADJUSTMENT = "adjustment"  # refund, credit, purchase: of no call
    ROUNDING = "rounding"  # the provider's own line for it
    UNMAPPED = "unmapped"  # a model's usage by a meter that we cannot name


class ReportLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a report."""

    place: str  # where it stands: "line 12", "bucket 3, result 1"
    day: datetime.date  # UTC
    accounts: tuple[str, ...] = ()  # every id that the line names its account by: subscription, resource, project, key
    nature: Nature = Nature.USAGE
    model: str = ""  # "": the report is not split by model
    meter: str = ""  # one of ours, "" when the report is not split by meter
    tier: str = ""
    context: str = ""  # "long" above a cliff, "short" below it, "" when the report does not say
    zone: str = ""  # "global", "data_zone", "regional", "" when there is no such thing
    name: str = ""  # the provider's own name of what is billed
    quantity: Decimal | None = None  # single units; None: not said
    cost_pico: int | None = None  # None: the report counts quantities only
    cost_error_pico: int = 0  # how far off the amount may be, because it was a double once
    currency: str = "USD"
    call: str = ""  # the attempt's id or the provider's request id, in a report by call


class Report(msgspec.Struct, kw_only=True):
    """A file that is being read: its lines are read as they are asked for, its notes are complete after the last one."""

    provider: str  # "azure", "openai", "anthropic", "calls"
    format: str  # what the file is, in words
    lines: Iterator[ReportLine]
    tells: frozenset[str]  # of "tier", "context": what its lines are split by beside day, account, model and meter
    by_account: bool = False  # whether a line without an account can be told from one of an account
    notes: dict[str, int] = msgspec.field(default_factory=dict)  # text → how many lines it is about
    first_day: datetime.date | None = None  # what the report covers, once it is read
    last_day: datetime.date | None = None
    decimals: int = 0  # most decimals of any amount, for what the provider itself may have rounded
    residue_pico: Decimal = Decimal(0)  # amounts finer than pico, less what they were rounded to

    def note(self, text: str, count: int = 1) -> None:
        self.notes[text] = self.notes.get(text, 0) + count

    def cover(self, day: datetime.date) -> None:
        """The report speaks of this day, whether or not anything was billed on it."""
        if self.first_day is None or day < self.first_day:
            self.first_day = day
        if self.last_day is None or day > self.last_day:
            self.last_day = day

    def amount(self, text: str | Decimal | int, place: str, *, scale: int = 0) -> tuple[int, int]:
        """Return an amount in pico units and how far off it may be; ``scale`` -2: the text counts hundredths.

        Raises ``ReportError`` when it is no number.
        """
        value = number(text, place).scaleb(scale)
        with localcontext() as context:
            context.prec = _PRECISION
            scaled = value.scaleb(PICO_DIGITS)
            pico = int(scaled.to_integral_value(rounding=ROUND_HALF_EVEN))
            self.residue_pico += scaled - pico
        exponent = value.normalize().as_tuple().exponent
        self.decimals = max(self.decimals, -exponent if isinstance(exponent, int) else 0)
        noisy = len(value.normalize().as_tuple().digits) >= _DOUBLE_DIGITS
        return pico, (abs(pico) >> _DOUBLE_SHIFT) + 1 if noisy else 0

    def residue_note(self) -> str | None:
        if not self.residue_pico:
            return None
        whole = int(self.residue_pico)
        text = decimal_text(whole) if whole else f"less than {decimal_text(1)}"
        return f"amounts finer than 12 decimals were rounded; together that is {text}"


@cache
def known_fields(name: str) -> frozenset[str]:
    """Return the documented columns or fields of one kind of report, from ``known_fields.toml``."""
    text = (files("upeti.money.reconcile") / "known_fields.toml").read_text("utf-8")
    return frozenset(tomllib.loads(text)[name])


def number(text: str | Decimal | int, place: str) -> Decimal:
    """Return a finite decimal. Raises ``ReportError``."""
    try:
        value = Decimal(text)
    except (InvalidOperation, ValueError, TypeError):
        raise ReportError(f"{place}: {text!r} is not a number; export the report again, without changing it") from None
    if not value.is_finite():
        raise ReportError(f"{place}: {text!r} is not a finite number")
    if value and not -_EXPONENT_MAX < value.adjusted() < _EXPONENT_MAX:
        raise ReportError(f"{place}: {text!r} is nothing that is billed or counted; export the report again")
    return value
