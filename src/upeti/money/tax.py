"""Taxes on what is sold: dated data with their legal source, and the arithmetic of one.

Rules: code carries no rate. The base is a part of the net amount, rounded once; the tax is a percentage of the base as
it is printed, rounded once, so that a reader can check each figure from those above it. ``NO_TAX`` is a choice that a
tenant's row states, not what happens when nothing was said.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from fractions import Fraction
from importlib.resources import files
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from upeti.core.amount import round_fraction
from upeti.core.errors import ConfigError
from upeti.providers.dated_file import DatedRow, DecimalText, Text, read_bytes, rows_of

NO_TAX: Final = "none"

ShareText = Annotated[str, Meta(pattern=r"^[1-9][0-9]*(/[1-9][0-9]*)?$")]


class Tax(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[tax]]`: a tax of your own, in place of or after the shipped ones."""

    name: Annotated[Text, Meta(description="What tenants name it by.")]
    effective: Annotated[datetime.date, Meta(description="First day on which it holds.")] = msgspec.field(name="from")
    rate: Annotated[DecimalText, Meta(description="Percent of the base.")]
    base: Annotated[ShareText, Meta(description="Part of the net amount that is the base, such as 11/12.")] = "1"
    label_en: Annotated[Text, Meta(description="Its name on an English invoice.")]
    label_id: Annotated[Text, Meta(description="Its name on an Indonesian one.")]
    reference: Annotated[Text, Meta(description="The law, as an invoice cites it.")]
    source: Annotated[Text, Meta(description="What the law says and where, for who checks it.")]
    source_date: Annotated[datetime.date, Meta(description="When the source was read.")]
    status: Annotated[
        Literal["checked", "to be checked"],
        Meta(description="`checked` once somebody has agreed that it is right for you."),
    ] = "to be checked"
    remark: Annotated[str, Meta(description="For what it holds.")] = ""

    def of(self, net_pico: int, decimals: int) -> tuple[int, int]:
        """Return the base and the tax on ``net_pico``, in pico units, each rounded to ``decimals`` places."""
        base_pico = round_fraction(net_pico * Fraction(self.base), decimals)
        return base_pico, round_fraction(base_pico * Fraction(self.rate) / 100, decimals)


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Taxes:
    """Taxes by name and date: the shipped ones, then one's own."""

    def __init__(self, own: Iterable[Tax] = ()) -> None:
        source = files("upeti.providers") / "facts" / "taxes.toml"
        rows: list[DatedRow[Tax]]
        _, rows = rows_of(source.name, read_bytes(source), "tax", _Head, Tax)
        dated = {(tax.name, tax.effective): tax for tax in (*(row.values for row in rows), *own)}
        self.rows: tuple[Tax, ...] = tuple(sorted(dated.values(), key=lambda tax: tax.effective))

    def names(self) -> list[str]:
        return sorted({tax.name for tax in self.rows})

    def tax(self, name: str, at_date: datetime.date) -> Tax | None:
        """Return the row in force, None for ``NO_TAX``. Raises ``ConfigError`` when there is none."""
        if name == NO_TAX:
            return None
        for tax in reversed(self.rows):
            if tax.name == name and tax.effective <= at_date:
                return tax
        raise ConfigError(
            f"there is no tax `{name}` on {at_date}, only {', '.join([*self.names(), NO_TAX])}; "
            "add a [[tax]] to the tenants file, or correct the tenant's row"
        )
