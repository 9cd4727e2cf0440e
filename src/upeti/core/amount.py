"""Money as scaled integers.

Rules: an amount is an ``int`` of pico units (10⁻¹² of the currency's main unit), because prices per
token need twelve decimals and an int64 of nano units overflows at 9.2 billion (a month in rupiah does
not fit). No float ever becomes an amount. Nothing is rounded per call; here are the only
places where money is rounded, once per line of a bill. Zero is an amount; unknown is ``None``.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from fractions import Fraction
from typing import NewType

Pico = NewType("Pico", int)

PICO_PER_UNIT = 10**12
PICO_DIGITS = 12

# 38 digits is what DECIMAL(38,12) holds at rest; a few more keep intermediate products exact.
_DECIMAL_PRECISION = 60


class AmountError(ValueError):
    """A text or number is not an exact amount of money."""


def parse_pico(text: str | int | Decimal) -> Pico:
    """Return the pico units of a decimal ``text`` such as ``"2.5"``.

    Raises ``AmountError`` for a float, a non-number, or more than twelve decimals.
    """
    if isinstance(text, bool | float):
        raise AmountError(f'{text!r} is not exact: write the amount as a string, such as "{text}"')
    try:
        with localcontext() as context:
            context.prec = _DECIMAL_PRECISION
            scaled = Decimal(text) * PICO_PER_UNIT
            whole = int(scaled) if scaled.is_finite() else None
    except (InvalidOperation, ValueError) as error:
        raise AmountError(f"{text!r} is not a decimal number") from error
    if whole is None:
        raise AmountError(f"{text!r} is not a finite number")
    if whole != scaled:
        raise AmountError(f"{text!r} has more than {PICO_DIGITS} decimals")
    return Pico(whole)


def decimal_text(pico: int) -> str:
    """Return pico units as a plain decimal string without trailing zeros: ``1_500_000_000_000`` → ``"1.5"``."""
    if pico < 0:
        return "-" + decimal_text(-pico)
    return ("%d.%012d" % divmod(pico, PICO_PER_UNIT)).rstrip("0").rstrip(".")  # noqa: UP031 - half the time of an f-string


def to_decimal(pico: int) -> Decimal:
    """Return pico units as an exact ``Decimal`` with twelve decimals, the form stored at rest."""
    with localcontext() as context:
        context.prec = _DECIMAL_PRECISION
        return Decimal(pico).scaleb(-PICO_DIGITS)


def round_pico(pico: int, decimals: int) -> Decimal:
    """Round pico units to ``decimals`` places, half to even: the one rounding of a bill's line."""
    with localcontext() as context:
        context.prec = _DECIMAL_PRECISION
        return to_decimal(pico).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN)


def apportion_pico(lines: Sequence[int | Fraction], decimals: int) -> list[Decimal]:
    """Round the lines of a bill to ``decimals`` places so that they sum to their rounded total.

    Every line is rounded down, and what is missing goes to the lines with the largest remainders. Lines are pico units;
    a part of a pico (a margin on a price, a conversion) is a ``Fraction``, so that nothing is rounded before.
    """
    unit = 10 ** (PICO_DIGITS - decimals)
    total = round(Fraction(sum(lines)) / unit)  # half to even
    units = [line // unit for line in lines]
    by_remainder = sorted(range(len(lines)), key=lambda place: lines[place] % unit, reverse=True)
    for place in by_remainder[: total - sum(units)]:
        units[place] += 1
    return [round_pico(count * unit, decimals) for count in units]


def round_fraction(pico: Fraction, decimals: int) -> Pico:
    """Round an exact amount in pico units to ``decimals`` places, half to even."""
    unit = 10 ** (PICO_DIGITS - decimals)
    return Pico(round(pico / unit) * unit)


def convert_pico(pico: int, rate: Decimal) -> Pico:
    """Convert an amount at ``rate`` (target units per source unit), half to even at the twelfth decimal.

    A conversion is for showing or for a linked posting that names its rate; the meter never converts.
    """
    with localcontext() as context:
        context.prec = _DECIMAL_PRECISION
        return Pico(int((Decimal(pico) * rate).to_integral_value(rounding=ROUND_HALF_EVEN)))
