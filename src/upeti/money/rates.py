"""Exchange rates for showing an amount in another currency.

Rules: the meter never converts; a conversion names its rate, and the rate names its source, its date and the
hash of the file it came from. A currency without a rate is an error, never one to one. A file of one's own
stands in place of the shipped one, which holds a single rate for the demo and no market rates.
"""

from __future__ import annotations

import datetime
import hashlib
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import msgspec

from upeti.core.errors import ConfigError
from upeti.providers.dated_file import CurrencyCode, DecimalText, Text, read_bytes, rows_of


class Rate(msgspec.Struct, frozen=True):
    """How many units of ``currency`` one unit of ``base`` is."""

    base: str
    currency: str
    rate: Decimal
    date: datetime.date  # from this day on
    source: str
    set_sha256: str  # of the file's bytes


class Conversion(msgspec.Struct, frozen=True):
    """From one currency to another, with the rates that say so: none for the same currency, two across the base."""

    source: str
    target: str
    rates: tuple[Rate, ...] = ()

    @property
    def factor(self) -> Fraction:
        """How many units of the target one unit of the source is, exactly."""
        factor = Fraction(1)
        for rate in self.rates:
            factor = factor * Fraction(rate.rate) if rate.currency == self.target else factor / Fraction(rate.rate)
        return factor


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    base: CurrencyCode


class _RowFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    currency: CurrencyCode
    rate: DecimalText
    date: datetime.date
    source: Text


class Rates:
    """The dated rates of one file, against one base currency."""

    def __init__(self, base: str, rows: tuple[Rate, ...], file: str, sha256: str) -> None:
        self.base = base
        self.rows = rows
        self.file = file
        self.sha256 = sha256

    @classmethod
    def load(cls, path: Path | str | None = None) -> Rates:
        """Return the rates of ``path``, or, for None or "", the shipped ones. Raises ``ConfigError``."""
        source = Path(path) if path else files("upeti.providers") / "facts" / "rates.toml"
        file = str(path) if path else source.name
        data = read_bytes(source)
        sha256 = hashlib.sha256(data).hexdigest()
        head, dated_rows = rows_of(file, data, "rate", _Head, _RowFields)
        first_at: dict[tuple[str, datetime.date], int] = {}
        rows = []
        for dated in dated_rows:
            fields = dated.values
            rate = Decimal(fields.rate)
            if not rate:
                raise dated.error(f"{fields.currency} has a rate of zero; write how many one {head.base} buys")
            if fields.currency == head.base:
                raise dated.error(f"{head.base} is the base, its rate is 1; take the row out")
            earlier = first_at.setdefault((fields.currency, fields.date), dated.line)
            if earlier != dated.line:
                raise dated.error(
                    f"{fields.currency} has a rate from {fields.date} in line {earlier} already; "
                    "keep one of them, or give the newer one its own date"
                )
            rows.append(Rate(head.base, fields.currency, rate, fields.date, fields.source, sha256))
        return cls(head.base, tuple(sorted(rows, key=lambda row: row.date)), file, sha256)

    def currencies(self) -> list[str]:
        return sorted({self.base, *(row.currency for row in self.rows)})

    def rate(self, currency: str, at_date: datetime.date) -> Rate:
        """Return the newest rate in force on ``at_date``. Raises ``ConfigError`` when there is none."""
        if currency == self.base:
            return Rate(self.base, currency, Decimal(1), at_date, "base currency", self.sha256)
        dated = [row for row in self.rows if row.currency == currency]
        for row in reversed(dated):
            if row.date <= at_date:
                return row
        lack = f"no rate for {currency}, only for {', '.join(self.currencies())}"
        if dated:
            lack = f"no rate for {currency} on {at_date}, the first one is of {dated[0].date}"
        raise ConfigError(
            f"{self.file}: {lack}; write a [[rate]] with currency, rate, date and source into a file "
            "and name it as money.rates_file"
        )

    def conversion(self, source: str, target: str, at_date: datetime.date) -> Conversion:
        """Return how ``source`` is converted to ``target`` on ``at_date``. Raises ``ConfigError`` without a rate."""
        if source == target:
            return Conversion(source, target)
        named = tuple(self.rate(one, at_date) for one in (source, target) if one != self.base)
        return Conversion(source, target, named)
