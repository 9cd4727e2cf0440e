"""Tenants and issuers as data: who is billed, by whom, in which currency, and on which terms.

Rules: rows are dated and only added; the one in force on a day is the last that began. A tenant's own terms stand before
those for every tenant (``*``), and what names a model stands before what names a feature, and that before a channel:
the most particular row decides, never a mixture. A tenant without terms for what it used is an error, not a gift; an
internal one pays cost and has no terms.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from upeti.core.amount import parse_pico
from upeti.core.errors import ConfigError
from upeti.core.meters import ALL_METERS
from upeti.money.currency import decimals_of, is_currency
from upeti.money.tax import NO_TAX, Tax, Taxes
from upeti.money.usage import PER_CALL
from upeti.providers.dated_file import CurrencyCode, DatedRow, DecimalText, Text, read_bytes, tables_of

EVERY_TENANT: Final = "*"
_AT_COST: Final = Fraction(1)
_UNITS_PER_MILLION: Final = 10**6

Percent = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]{1,4})?$")]
Decimals = Annotated[int, Meta(ge=0, le=6)]
Series = Annotated[str, Meta(pattern=r"^[A-Z0-9]{1,12}$")]
Lines = tuple[Text, ...]


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[issuer]]`: the company that sends the invoices."""

    name: Annotated[Text, Meta(description="What tenants name it by.")]
    effective: Annotated[datetime.date, Meta(description="First day on which the row holds.")] = msgspec.field(
        name="from"
    )
    legal_name: Annotated[Text, Meta(description="As it stands on the invoice.")]
    address: Annotated[Lines, Meta(description="Lines of the address.")]
    tax_id: Annotated[str, Meta(description="Tax number (NPWP in Indonesia).")] = ""
    contact: Annotated[Lines, Meta(description="Lines such as an e-mail address for questions.")] = ()
    bank: Annotated[Lines, Meta(description="Where to pay: bank, account, code.")] = ()
    series: Annotated[Series, Meta(description="Begins every number: UPT gives UPT-2026-000123.")]
    time_zone: Annotated[str, Meta(description="In which the day of issue is told.")] = "UTC"


class Tenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[tenant]]`: who is billed."""

    name: Annotated[Text, Meta(description="The tenant of keys and bills.")]
    effective: Annotated[datetime.date, Meta(description="First day on which the row holds.")] = msgspec.field(
        name="from"
    )
    issuer: Annotated[Text, Meta(description="Which issuer bills it.")]
    legal_name: Annotated[Text, Meta(description="As it stands on the invoice.")]
    address: Annotated[Lines, Meta(description="Lines of the address.")]
    tax_id: Annotated[str, Meta(description="Tax number.")] = ""
    parent: Annotated[
        str, Meta(description="Ultimate parent company, for concentration. Empty: the tenant itself.")
    ] = ""
    purchase_order: Annotated[str, Meta(description="The customer's own reference, printed on the invoice.")] = ""
    internal: Annotated[
        bool, Meta(description="A part of the issuer's own company: charged at cost, without margin and tax.")
    ] = False
    billing_currency: Annotated[CurrencyCode, Meta(description="Currency of the invoice and of what is owed.")]
    payment_currency: Annotated[str, Meta(description="Currency it is paid in. Empty: the billing currency.")] = ""
    billing_decimals: (
        Annotated[Decimals, Meta(description="Fewer decimals than the currency has: 0 for whole rupiah.")] | None
    ) = None
    payment_decimals: Annotated[Decimals, Meta(description="The same for the payment currency.")] | None = None
    locale: Annotated[Literal["en_US", "id_ID"], Meta(description="Language and number format.")] = "en_US"
    net_days: Annotated[int, Meta(ge=0, le=365, description="Days from issue until payment is due.")] = 30
    terms: Annotated[Lines, Meta(description="Further terms, printed as they stand.")] = ()
    tax: Annotated[str, Meta(description="Name of a tax, or `none`. An internal tenant has none.")] = ""

    @property
    def pays_in(self) -> str:
        return self.payment_currency or self.billing_currency

    @property
    def bills_to_decimals(self) -> int:
        return decimals_of(self.billing_currency) if self.billing_decimals is None else self.billing_decimals

    @property
    def pays_to_decimals(self) -> int:
        if self.pays_in == self.billing_currency:
            return self.bills_to_decimals  # one amount has one form
        return decimals_of(self.pays_in) if self.payment_decimals is None else self.payment_decimals


class _Scope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a row of terms is for; empty: all."""

    tenant: Annotated[Text, Meta(description="Whose; `*` for every tenant without a row of its own.")]
    effective: Annotated[datetime.date, Meta(description="First day of usage for which it holds.")] = msgspec.field(
        name="from"
    )
    channel: Annotated[str, Meta(description="Only through this channel.")] = ""
    model: Annotated[str, Meta(description="Only this model.")] = ""
    feature: Annotated[str, Meta(description="Only this feature.")] = ""

    @property
    def rank(self) -> tuple[bool, bool, bool, bool]:
        return (self.tenant != EVERY_TENANT, bool(self.model), bool(self.feature), bool(self.channel))


class Margin(_Scope, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[margin]]`: what is added to the cost."""

    percent: Annotated[Percent, Meta(description="Percent of the cost: with 12.5, what costs 80 is sold for 90.")]

    @property
    def factor(self) -> Fraction:
        return 1 + Fraction(self.percent) / 100


class SalePrice(_Scope, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[sale_price]]`: own prices by meter, in place of cost and margin."""

    currency: Annotated[CurrencyCode, Meta(description="Of the prices.")]
    per_million: Annotated[dict[str, DecimalText], Meta(min_length=1, description="Meter → price of a million units.")]
    per_call: Annotated[DecimalText, Meta(description="Price of each call.")] = "0"

    def unit(self, meter: str) -> Fraction | None:
        """Return the exact price of one unit, or of a call, in pico units; None when the meter is not sold."""
        if meter == PER_CALL:
            return Fraction(parse_pico(self.per_call))
        text = self.per_million.get(meter)
        return None if text is None else Fraction(parse_pico(text), _UNITS_PER_MILLION)


class Commitment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[commitment]]`: a minimum per month, and a discount on what is above it. Holds for whole months."""

    tenant: Annotated[Text, Meta(description="Whose.")]
    effective: Annotated[
        datetime.date, Meta(description="First day; counts from the first month that begins on it.")
    ] = msgspec.field(name="from")
    currency: Annotated[CurrencyCode, Meta(description="Of the minimum.")]
    minimum: Annotated[DecimalText, Meta(description="Net amount per month; what is missing is billed as a line.")]
    discount_above: Annotated[DecimalText, Meta(description="Percent off what is above the minimum.")] = "0"


TABLES: Final[dict[str, type]] = {
    "issuer": Issuer,
    "tenant": Tenant,
    "margin": Margin,
    "sale_price": SalePrice,
    "commitment": Commitment,
    "tax": Tax,
}
_Named = TypeVar("_Named", Issuer, Tenant)
_Dated = TypeVar("_Dated", Issuer, Tenant, Commitment)
_Scoped = TypeVar("_Scoped", Margin, SalePrice)


class Terms:
    """What one tenant pays for usage. Found once per day and scope, because a month has few of them."""

    def __init__(self, tenant: str, internal: bool, margins: Iterable[Margin], prices: Iterable[SalePrice]) -> None:
        self.tenant = tenant
        self.internal = internal
        self._margins = tuple(margins)
        self._prices = tuple(prices)
        self._factors: dict[str, Fraction] = {}
        self._found: dict[tuple[datetime.date, str, str, str], tuple[SalePrice | None, Fraction | None]] = {}

    def of(
        self, day: datetime.date, channel: str, model: str, feature: str
    ) -> tuple[SalePrice | None, Fraction | None]:
        """Return own prices, or what the cost is multiplied by. Raises ``ConfigError`` when there are no terms."""
        if self.internal:
            return None, _AT_COST
        at = (day, channel, model, feature)
        if at not in self._found:
            self._found[at] = self._find(*at)
        return self._found[at]

    def _find(
        self, day: datetime.date, channel: str, model: str, feature: str
    ) -> tuple[SalePrice | None, Fraction | None]:
        price = _most_particular(self._prices, day, channel, model, feature)
        margin = _most_particular(self._margins, day, channel, model, feature)
        if price is not None and (margin is None or price.rank >= margin.rank):
            return price, None
        if margin is not None:
            return None, self._factors.setdefault(margin.percent, margin.factor)  # one object, however many days
        raise ConfigError(
            f"tenant {self.tenant} has no terms for channel {channel}, model {model}, feature {feature or '(none)'} on "
            f'{day}; add a [[margin]] (percent = "0" sells at cost) or a [[sale_price]] to the tenants file'
        )


class Tenants:
    """One tenants file."""

    def __init__(self, rows: dict[str, list[Any]], file: str) -> None:
        self.file = file
        self.issuers: tuple[Issuer, ...] = tuple(rows.get("issuer", ()))
        self.tenants: tuple[Tenant, ...] = tuple(rows.get("tenant", ()))
        self.margins: tuple[Margin, ...] = tuple(rows.get("margin", ()))
        self.sale_prices: tuple[SalePrice, ...] = tuple(rows.get("sale_price", ()))
        self.commitments: tuple[Commitment, ...] = tuple(rows.get("commitment", ()))
        self.taxes = Taxes(rows.get("tax", ()))

    @classmethod
    def load(cls, path: Path | str) -> Tenants:
        """Read and check a file. Raises ``ConfigError`` with line, row and cure."""
        file = str(path)
        found = tables_of(file, read_bytes(Path(path)), TABLES)
        made = cls({table: [row.values for row in rows] for table, rows in found.items()}, file)
        for rows in found.values():
            for row in rows:
                _check(row, made)
        _refuse_twice(found)
        return made

    def names(self) -> list[str]:
        return sorted({tenant.name for tenant in self.tenants})

    def tenant(self, name: str, day: datetime.date) -> Tenant:
        """Return the row in force. Raises ``ConfigError``."""
        return self._in_force("tenant", self.tenants, name, day)

    def issuer(self, name: str, day: datetime.date) -> Issuer:
        """Return the row in force. Raises ``ConfigError``."""
        return self._in_force("issuer", self.issuers, name, day)

    def parent(self, name: str, day: datetime.date) -> str:
        """Return the ultimate parent of a tenant; the tenant itself when the file does not name one."""
        row = _newest((one for one in self.tenants if one.name == name), day)
        return row.parent or name if row is not None else name

    def terms(self, name: str, day: datetime.date) -> Terms:
        """Return what a tenant pays; ``day`` decides only whether it is internal. Raises ``ConfigError``."""
        mine = (name, EVERY_TENANT)
        return Terms(
            name,
            self.tenant(name, day).internal,
            (row for row in self.margins if row.tenant in mine),
            (row for row in self.sale_prices if row.tenant in mine),
        )

    def commitment(self, name: str, first_day: datetime.date) -> Commitment | None:
        """Return the commitment for the month that begins on ``first_day``."""
        return _newest((row for row in self.commitments if row.tenant == name), first_day)

    def _in_force(self, table: str, rows: Iterable[_Named], name: str, day: datetime.date) -> _Named:
        dated = [row for row in rows if row.name == name]
        row = _newest(dated, day)
        if row is not None:
            return row
        lack = f"no {table} `{name}`"
        if dated:
            lack += f" on {day}, the first row is from {min(row.effective for row in dated)}"
        raise ConfigError(f"{self.file}: there is {lack}; add a [[{table}]] with its name")


def _newest(rows: Iterable[_Dated], day: datetime.date) -> _Dated | None:
    return max((row for row in rows if row.effective <= day), key=lambda row: row.effective, default=None)


def _most_particular(
    rows: Iterable[_Scoped], day: datetime.date, channel: str, model: str, feature: str
) -> _Scoped | None:
    fitting = (
        row
        for row in rows
        if row.effective <= day
        and row.channel in ("", channel)
        and row.model in ("", model)
        and row.feature in ("", feature)
    )
    return max(fitting, key=lambda row: (row.rank, row.effective), default=None)


def _check(row: DatedRow[Any], file: Tenants) -> None:
    """Raise ``ConfigError`` for what the row's types cannot say."""
    values = row.values
    for field in ("billing_currency", "payment_currency", "currency"):
        code = getattr(values, field, "")
        if code and not is_currency(code):
            raise row.error(f"{field}: there is no currency {code}; write its ISO 4217 code")
    if isinstance(values, Issuer):
        for other in file.issuers:
            if other.series == values.series and other.name != values.name:
                raise row.error(f"series {values.series} is {other.name}'s too; numbers of two issuers must differ")
        try:
            ZoneInfo(values.time_zone)
        except (KeyError, ValueError, OSError):
            raise row.error(f"there is no time zone {values.time_zone}; write one like Asia/Jakarta") from None
    elif isinstance(values, Tenant):
        _check_tenant(row, values, file)
    elif isinstance(values, Margin) and values.factor < 0:
        raise row.error(f"a margin of {values.percent} % is a price below zero; the least is -100")
    elif isinstance(values, SalePrice):
        for meter in values.per_million:
            if meter not in ALL_METERS:
                raise row.error(f"{meter} is not a meter; the meters are: {', '.join(ALL_METERS)}")
    if not isinstance(values, Issuer | Tenant | Tax) and values.tenant not in (EVERY_TENANT, *file.names()):
        raise row.error(f"there is no tenant {values.tenant}; the tenants are: {', '.join(file.names())}")


def _check_tenant(row: DatedRow[Any], tenant: Tenant, file: Tenants) -> None:
    if tenant.name == EVERY_TENANT:
        raise row.error(f'"{EVERY_TENANT}" stands for every tenant; give the tenant a name')
    if tenant.issuer not in {issuer.name for issuer in file.issuers}:
        raise row.error(f"there is no issuer {tenant.issuer}; add an [[issuer]] with its name")
    if tenant.internal and tenant.tax not in ("", NO_TAX):
        raise row.error(f"an internal tenant has no tax; leave `tax` out, or set internal = false ({tenant.name})")
    if not tenant.internal and tenant.tax not in (*file.taxes.names(), NO_TAX):
        what = f"there is no tax {tenant.tax}" if tenant.tax else "`tax` is missing"
        raise row.error(f"{what}; choose from {', '.join([*file.taxes.names(), NO_TAX])}, or add a [[tax]]")
    for code, decimals in (
        (tenant.billing_currency, tenant.bills_to_decimals),
        (tenant.pays_in, tenant.pays_to_decimals),
    ):
        if decimals > decimals_of(code):
            raise row.error(f"{code} has {decimals_of(code)} decimals; fewer can be chosen, not {decimals}")


def _refuse_twice(found: dict[str, list[DatedRow[Any]]]) -> None:
    for table, rows in found.items():
        first: dict[Any, int] = {}
        for row in rows:
            one = row.values
            names = ("name",) if hasattr(one, "name") else ("tenant", "channel", "model", "feature")
            key = (*(getattr(one, name, "") for name in names), one.effective)
            if first.setdefault(key, row.line) != row.line:
                raise row.error(
                    f"a second [[{table}]] for the same from {one.effective}, after line {first[key]}; "
                    "keep one, or give the newer one its own date"
                )
