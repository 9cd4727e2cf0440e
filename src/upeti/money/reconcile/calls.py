"""A report by call, in a format of our own: what a provider's detailed export or a simulated provider's log becomes.

Rules: one line per call and currency, as CSV or as JSON lines. A call is named by the attempt's id (``attempt_id``, what
Upeti sends as ``x-client-request-id``) or by the provider's (``provider_request_id``); one of them is needed. The columns
are ``day`` (UTC, when it was billed), ``attempt_id``, ``provider_request_id``, ``account``, ``model``, ``tier``, one column
per meter, ``cost`` and ``currency``; a meter's column holds a count, ``cost`` a decimal. JSON lines have the same fields,
with the meters in an object ``meters``.
"""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, TextIO

import msgspec

from upeti.core.amount import decimal_text
from upeti.core.meters import ALL_METERS, Meters
from upeti.money.reconcile.lines import Report, ReportError, ReportLine

FORMAT: Final = "calls, one per line"
_TEXTS: Final = ("day", "attempt_id", "provider_request_id", "account", "model", "tier", "cost", "currency")
COLUMNS: Final = (*_TEXTS[:6], *ALL_METERS, *_TEXTS[6:])


class BilledCall(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider bills for one call. ``cost_pico`` is in ``currency``."""

    day: datetime.date
    attempt_id: str = ""
    provider_request_id: str = ""
    account: str = ""
    model: str
    tier: str = ""
    meters: Meters = msgspec.field(default_factory=dict)
    cost_pico: int
    currency: str = "USD"


def is_header(header: Iterable[str]) -> bool:
    names = set(header)
    return "cost" in names and "day" in names and bool(names & {"attempt_id", "provider_request_id"})


def is_record(record: Any) -> bool:
    return isinstance(record, dict) and is_header(record)


def write_csv(calls: Iterable[BilledCall], stream: TextIO) -> None:
    """Write the report of ``calls``; amounts are exact decimals."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for call in calls:
        writer.writerow(
            [call.day.isoformat(), call.attempt_id, call.provider_request_id, call.account, call.model, call.tier]
            + [call.meters.get(meter, "") for meter in ALL_METERS]
            + [decimal_text(call.cost_pico), call.currency]
        )


def read_csv(stream: TextIO) -> Report:
    """Return the report of an open CSV file. Raises ``ReportError``."""
    rows = csv.DictReader(stream)
    header = list(rows.fieldnames or [])
    report = _report()
    for name in header:
        if name not in COLUMNS:
            report.note(f"column {name} is neither a field nor a meter; it is not read")

    def records() -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
        for row in rows:
            place = f"line {rows.line_num}"
            if None in row.values() or None in row:
                raise ReportError(f"{place}: not as many fields as columns; the file is cut or was edited")
            yield place, row, {meter: row[meter] for meter in ALL_METERS if row.get(meter)}

    report.lines = _lines(records(), report)
    return report


def read_json_lines(stream: TextIO) -> Report:
    """Return the report of an open file of JSON lines. Raises ``ReportError``."""
    report = _report()

    def records() -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
        for count, text in enumerate(stream, 1):
            if not text.strip():
                continue
            place = f"line {count}"
            try:
                record = json.loads(text, parse_float=Decimal)
            except ValueError as error:
                raise ReportError(f"{place}: not JSON: {error}") from None
            if not is_record(record):
                raise ReportError(f"{place}: a call has day, cost, and attempt_id or provider_request_id")
            yield place, record, record.get("meters") or {}

    report.lines = _lines(records(), report)
    return report


def _report() -> Report:
    return Report(provider="calls", format=FORMAT, lines=iter(()), tells=frozenset({"tier"}))


def _lines(records: Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]], report: Report) -> Iterator[ReportLine]:
    """One line per meter; the cost stands on the first, because a call has one."""
    for place, record, counts in records:
        call = str(record.get("attempt_id") or record.get("provider_request_id") or "")
        if not call:
            raise ReportError(f"{place}: neither attempt_id nor provider_request_id; without one nothing can be found")
        try:
            day = datetime.date.fromisoformat(str(record["day"]))
            meters = {str(meter): int(count) for meter, count in counts.items()}
        except ValueError as error:
            raise ReportError(f"{place}: {error}; a day is 2026-11-23, a meter's count a whole number") from None
        unknown = [meter for meter in meters if meter not in ALL_METERS]
        if unknown:
            raise ReportError(f"{place}: {', '.join(unknown)} is no meter; the meters are {', '.join(ALL_METERS)}")
        report.cover(day)
        cost_pico, error_pico = report.amount(record["cost"], place)
        account = str(record.get("account") or "").lower()
        common: dict[str, Any] = {
            "day": day,
            "accounts": (account,) if account else (),
            "model": str(record.get("model") or ""),
            "tier": str(record.get("tier") or ""),
            "currency": str(record.get("currency") or "USD").upper(),
            "call": call,
        }
        yield ReportLine(place=place, name="call", cost_pico=cost_pico, cost_error_pico=error_pico, **common)
        for meter, count in meters.items():
            yield ReportLine(place=place, name=meter, meter=meter, quantity=Decimal(count), **common)
