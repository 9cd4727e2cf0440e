"""Azure Cost Management: cost and usage details as CSV, native (actual cost) and FOCUS, and FOCUS as Parquet.

Rules: rows are read one after the other; an export of a whole company is mostly of other services, which are counted and
left out. Days are UTC days: Azure meters and bills in UTC, and writes days as month/day/year or ISO 8601. The same fact
has other column names under an Enterprise Agreement, a Customer Agreement and in FOCUS; a column that none of them has is
said. Costs are compared in the pricing currency where the file has it, because nothing is converted there.

Columns, as documented and read 2026-11-23:
https://learn.microsoft.com/en-us/azure/cost-management-billing/dataset-schema/cost-usage-details-ea (2024-08-01),
https://learn.microsoft.com/en-us/azure/cost-management-billing/dataset-schema/cost-usage-details-mca (2023-12-01-preview),
https://learn.microsoft.com/en-us/azure/cost-management-billing/dataset-schema/cost-usage-details-focus (1.0, 1.2-preview),
https://learn.microsoft.com/en-us/azure/cost-management-billing/automate/understand-usage-details-fields
"""

from __future__ import annotations

import csv
import datetime
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, BinaryIO, Final, TextIO

import msgspec

from upeti.money.reconcile.azure_meters import meter_named, services
from upeti.money.reconcile.lines import Nature, Report, ReportError, ReportLine, known_fields, number

NATIVE: Final = "Azure cost and usage details (native)"
FOCUS: Final = "Azure cost and usage details (FOCUS)"

_HOURS: Final = "hour"
_UNIT: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)?\s*([KM])?\b", re.IGNORECASE)
_PARQUET_ROWS: Final = 8_192

# Our name of a fact → the columns that have it, in small letters, the first one that is there counts.
_NATIVE_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "day": ("date", "usagedate", "usagedatetime"),
    "meter": ("metername",),
    "category": ("metercategory",),
    "product": ("metersubcategory",),
    "consumed": ("consumedservice",),
    "unit": ("unitofmeasure",),
    "quantity": ("quantity", "usagequantity"),
    "cost": ("costinpricingcurrency", "costinbillingcurrency", "cost", "pretaxcost"),
    "subscription": ("subscriptionid", "subscriptionguid"),
    "resource": ("resourceid", "instanceid"),
    "charge": ("chargetype",),
    "billing_currency": ("billingcurrency", "billingcurrencycode", "currency"),
    "pricing_currency": ("pricingcurrency", "pricingcurrencycode"),
    "publisher": ("publishertype",),
}
_FOCUS_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "day": ("chargeperiodstart",),
    "meter": ("x_skumetername", "skumeter"),
    "category": ("x_skumetercategory",),
    "product": ("x_skumetersubcategory",),
    "consumed": ("x_resourcetype", "resourcetype"),
    "service": ("servicename",),
    "unit": ("x_pricingunitdescription", "pricingunit"),
    "block": ("x_pricingblocksize",),
    "quantity": ("pricingquantity",),
    "consumed_quantity": ("consumedquantity",),
    "cost": ("billedcost",),
    "subscription": ("subaccountid",),
    "resource": ("resourceid",),
    "charge": ("chargecategory",),
    "charge_class": ("chargeclass",),
    "billing_currency": ("billingcurrency",),
}
_NATIVE_NEEDS: Final = ("day", "meter", "unit", "quantity", "cost", "subscription", "billing_currency")
_FOCUS_NEEDS: Final = ("day", "meter", "unit", "quantity", "cost", "subscription", "charge", "billing_currency")
_CHARGES: Final = {
    "": Nature.USAGE,
    "usage": Nature.USAGE,
    "tax": Nature.TAX,
    "purchase": Nature.ADJUSTMENT,
    "refund": Nature.ADJUSTMENT,
    "adjustment": Nature.ADJUSTMENT,
    "credit": Nature.ADJUSTMENT,
    "roundingadjustment": Nature.ROUNDING,
    "unusedreservation": Nature.CAPACITY,
    "unusedsavingsplan": Nature.ADJUSTMENT,
}
# What of the documented columns is not read, so that only what Microsoft added is said to be unknown.
_OTHER_COLUMNS: Final = known_fields("azure")


def is_native(header: Sequence[str]) -> bool:
    names = {name.lower() for name in header}
    return {"metername", "unitofmeasure"} <= names and bool({"date", "usagedate", "usagedatetime"} & names)


def is_focus(header: Sequence[str]) -> bool:
    return {"billedcost", "chargeperiodstart", "chargecategory"} <= {name.lower() for name in header}


def read_csv(stream: TextIO) -> Report:
    """Return the report of an open CSV file, native or FOCUS by its header. Raises ``ReportError``."""
    rows = csv.reader(stream)
    header = [name.strip() for name in next(rows, [])]
    report, reader = _begin(header)

    def lines() -> Iterator[ReportLine]:
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise ReportError(f"line {rows.line_num}: not CSV: {error}") from None
            if row is None:
                return
            if not row:
                continue
            if len(row) != len(header):
                raise ReportError(
                    f"line {rows.line_num}: {len(row)} fields under {len(header)} columns; the file is cut or was edited"
                )
            line = reader.line(row, f"line {rows.line_num}")
            if line is not None:
                yield line

    report.lines = lines()
    return report


def read_parquet(stream: BinaryIO) -> Report:
    """Return the report of a FOCUS export as Parquet, row group by row group. Raises ``ReportError``."""
    import pyarrow.parquet as pq  # only here: nothing else of money needs it

    file = pq.ParquetFile(stream)
    header = list(file.schema_arrow.names)
    if not is_focus(header):
        raise ReportError("a Parquet file without BilledCost, ChargePeriodStart and ChargeCategory is no FOCUS export")
    report, reader = _begin(header)

    def lines() -> Iterator[ReportLine]:
        number_of_row = 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            columns = [column.to_pylist() for column in batch.columns]
            for values in zip(*columns, strict=True):
                number_of_row += 1
                line = reader.line([_text(value) for value in values], f"row {number_of_row}")
                if line is not None:
                    yield line

    report.lines = lines()
    return report


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    return value.isoformat() if isinstance(value, datetime.date) else str(value)


def _begin(header: Sequence[str]) -> tuple[Report, _Reader]:
    names = [name.lower() for name in header]
    focus = is_focus(header)
    if not focus and not is_native(header):
        raise ReportError("the columns are neither those of Azure's cost and usage details nor of FOCUS")
    known = _FOCUS_COLUMNS if focus else _NATIVE_COLUMNS
    at = {
        fact: names.index(column)
        for fact, columns in known.items()
        if (column := next((column for column in columns if column in names), None)) is not None
    }
    lacking = [fact for fact in (_FOCUS_NEEDS if focus else _NATIVE_NEEDS) if fact not in at]
    if lacking:
        wanted = "; ".join(f"{fact}: {' or '.join(known[fact])}" for fact in lacking)
        raise ReportError(f"columns are missing ({wanted}); export actual cost with all columns")
    report = Report(
        provider="azure", format=FOCUS if focus else NATIVE, lines=iter(()), tells=frozenset({"tier", "context"})
    )
    read = {column for columns in known.values() for column in columns}
    for name, column in zip(header, names, strict=True):
        if column not in read and column not in _OTHER_COLUMNS and not column.startswith("x_"):
            report.note(f"column {name} is not one that is documented; it is not read")
    in_pricing = not focus and names[at["cost"]] == "costinpricingcurrency"
    return report, _Reader(report, at, in_pricing=in_pricing)


class _Reader:
    """Rows of one file → lines."""

    def __init__(self, report: Report, at: Mapping[str, int], *, in_pricing: bool) -> None:
        self._report = report
        self._at = at
        self._currency_at = (
            at["pricing_currency"] if in_pricing and "pricing_currency" in at else at["billing_currency"]
        )
        self._block_at = at.get("block")
        self._days: dict[str, datetime.date] = {}
        self._units: dict[str, tuple[Decimal, bool]] = {}

    def line(self, row: Sequence[str], place: str) -> ReportLine | None:
        """Return what a row says, None for one of another service."""
        at = self._at
        day_text = row[at["day"]]
        day = self._days.get(day_text)
        if day is None:
            day = self._days[day_text] = _day(day_text, place)
            self._report.cover(day)
        nature = self._nature(row)
        if nature is Nature.USAGE and not self._of_models(row):
            self._report.note("lines of other services, not compared")
            return None
        if nature is not Nature.USAGE and nature is not Nature.TAX and not self._of_models(row):
            self._report.note("lines of other services, not compared")
            return None
        cost_pico, error_pico = self._report.amount(row[at["cost"]], place)
        name = row[at["meter"]]
        line = ReportLine(
            place=place,
            day=day,
            accounts=self._accounts(row),
            nature=nature,
            name=name,
            cost_pico=cost_pico,
            cost_error_pico=error_pico,
            currency=self._currency(row, place),
        )
        return self._metered(line, row) if nature is Nature.USAGE else line

    def _currency(self, row: Sequence[str], place: str) -> str:
        text = row[self._currency_at].strip().upper()
        if not text:
            raise ReportError(f"{place}: an amount without a currency; export the report again with all columns")
        return text

    def _metered(self, line: ReportLine, row: Sequence[str]) -> ReportLine:
        found = meter_named(line.name, self._value(row, "product"))
        quantity, hours = self._quantity(row, line.place)
        if found is None or (hours and found.nature is Nature.USAGE):
            return msgspec.structs.replace(line, nature=Nature.UNMAPPED, quantity=quantity)
        if not found.listed:
            self._report.note(
                f"meter {line.name!r} is not in the price list that comes along; read by its naming rules"
            )
        return msgspec.structs.replace(
            line,
            nature=found.nature,
            model=found.model,
            meter=found.meter,
            tier=found.tier,
            context=found.context,
            zone=found.zone,
            quantity=quantity,
        )

    def _nature(self, row: Sequence[str]) -> Nature:
        if self._value(row, "charge_class"):
            return Nature.ADJUSTMENT  # FOCUS: a correction of an earlier period
        charge = self._value(row, "charge")
        nature = _CHARGES.get(charge.lower().replace(" ", ""))
        if nature is None:
            self._report.note(f"charge type {charge!r} is not one that is documented; its lines are unmapped")
            return Nature.UNMAPPED
        return nature

    def _of_models(self, row: Sequence[str]) -> bool:
        known = services()
        product = self._value(row, "product").lower()
        return (
            self._value(row, "category").lower() in known.categories
            or self._value(row, "consumed").lower().partition("/")[0] in known.consumed
            or self._value(row, "service").lower() in known.categories
            or product.startswith(known.products)
        )

    def _accounts(self, row: Sequence[str]) -> tuple[str, ...]:
        """The subscription, with and without its path, and the resource, by path and by name; in small letters."""
        subscription = self._value(row, "subscription").lower()
        resource = self._value(row, "resource").lower()
        names = (subscription, subscription.rpartition("/")[2], resource, resource.rpartition("/")[2])
        return tuple(dict.fromkeys(name for name in names if name))

    def _quantity(self, row: Sequence[str], place: str) -> tuple[Decimal | None, bool]:
        """Return single units, and whether they are hours."""
        text = row[self._at["quantity"]]
        unit = row[self._at["unit"]]
        known = self._units.get(unit)
        if known is None:
            known = self._units[unit] = _unit(unit)
        block, hours = known
        if self._block_at is not None and row[self._block_at]:
            block = number(row[self._block_at], place)
        return (number(text, place) * block if text else None), hours

    def _value(self, row: Sequence[str], fact: str) -> str:
        at = self._at.get(fact)
        return "" if at is None else row[at]


def _unit(text: str) -> tuple[Decimal, bool]:
    """Return how many single units one of "1K", "1M", "1000 Tokens", "1 Hour" or "1/Hour" is, and whether it is hours."""
    found = _UNIT.match(text)
    count = Decimal(found[1] or 1) if found else Decimal(1)
    factor = {"K": 1_000, "M": 1_000_000}.get((found[2] or "").upper() if found else "", 1)
    return count * factor, _HOURS in text.lower()


def _day(text: str, place: str) -> datetime.date:
    """Month/day/year, as native files have it, or ISO 8601 with or without a time, which is UTC."""
    try:
        if "/" in text:
            month, day, year = (int(part) for part in text.split(" ")[0].split("/"))
            return datetime.date(year, month, day)
        if len(text) == len("2026-11-23"):
            return datetime.date.fromisoformat(text)
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (moment.astimezone(datetime.UTC) if moment.tzinfo else moment).date()
    except ValueError:
        raise ReportError(f"{place}: {text!r} is no day; Azure writes month/day/year or 2026-11-23") from None


def open_text(stream: BinaryIO) -> TextIO:
    """Return a CSV's text; Azure's files begin with a byte order mark."""
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
