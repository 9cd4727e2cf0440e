"""What a call cost and why: its events, put beside the price book."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from upeti.cli.output import cell, console, plain, table
from upeti.cli.prices_shown import STANDARD_SHOWN, per_million
from upeti.core.amount import decimal_text, parse_pico
from upeti.core.meters import ALL_METERS
from upeti.money.explain import Part, parts_of, sum_of
from upeti.money.price import Price
from upeti.money.price_book import PriceBook, Row

if TYPE_CHECKING:
    import duckdb

_COMMON = ("tenant", "project", "key", "feature", "task", "route", "channel", "model", "wire", "currency")


class Explained(msgspec.Struct, frozen=True):
    """One attempt with all that its cost follows from."""

    event: dict[str, Any]
    row: Row | None  # None: no file states it
    price: Price | None
    cliff: int
    parts: list[Part]
    corrections: list[dict[str, Any]]  # of this attempt
    of_the_day: list[dict[str, Any]]  # of all attempts that have everything in common with it

    @property
    def recorded_pico(self) -> int | None:
        return None if self.event["cost"] is None else parse_pico(self.event["cost"])

    @property
    def owed_pico(self) -> int | None:
        """What is owed now: as recorded, with the attempt's own corrections."""
        if self.recorded_pico is None and not self.corrections:
            return None
        return (self.recorded_pico or 0) + sum(parse_pico(one["cost"]) for one in self.corrections)

    def as_json(self) -> dict[str, Any]:
        event = self.event
        total = sum_of(self.parts) if self.price is not None else None
        return {
            **{name: event[name] for name in ("attempt_id", "call_id", *_COMMON, "outcome", "ended", "status")},
            "tier": event["tier"] or "",
            "opened_at": f"{event['opened_at'].isoformat()}Z",
            "settled_at": f"{event['settled_at'].isoformat()}Z",
            "price_id": event["price_id"],
            "from": self.row.effective.isoformat() if self.row else None,
            "file": f"{self.row.file}:{self.row.line}" if self.row else None,
            "source": self.price.source if self.price else None,
            "source_date": self.row.source_date.isoformat() if self.row else None,
            "cliff": self.cliff,
            "parts": [
                {
                    "meter": part.meter,
                    "billed_as": part.billed_as,
                    "quantity": part.quantity,
                    "per_unit": _text(part.unit_pico),
                    "cost": _text(part.cost_pico),
                }
                for part in self.parts
            ],
            "sum": _text(total),
            "cost": _text(self.recorded_pico),
            "bound": _text(None if event["bound"] is None else parse_pico(event["bound"])),
            "corrections": [_correction_json(one) for one in self.corrections],
            "corrections_of_the_day": [_correction_json(one) for one in self.of_the_day],
            "owed": _text(self.owed_pico),
        }


def explained(
    connection: duckdb.DuckDBPyConnection, call: str, book: PriceBook, remembered: Callable[[str], Price | None]
) -> list[Explained]:
    """Return the attempts of a call, or one attempt, in order."""
    events = _events(connection, "correction_id IS NULL AND (call_id = ? OR attempt_id = ?)", [call, call])
    return [_explain(connection, event, book, remembered) for event in events]


def _explain(
    connection: duckdb.DuckDBPyConnection,
    event: dict[str, Any],
    book: PriceBook,
    remembered: Callable[[str], Price | None],
) -> Explained:
    row = book.row(event["price_id"]) if event["price_id"] else None
    price = row.price if row is not None else remembered(event["price_id"]) if event["price_id"] else None
    meters = {meter: event[meter] for meter in ALL_METERS if event[meter] is not None}
    meters |= json.loads(event["meters_other"] or "{}")
    cliff, parts = parts_of(price, meters) if price is not None and meters else (0, [])
    own = _events(connection, "correction_id IS NOT NULL AND attempt_id = ?", [event["attempt_id"]])
    same = " AND ".join(f"{name} = ?" for name in _COMMON)
    where = f"correction_id IS NOT NULL AND coalesce(attempt_id, '') = '' AND settled_at::DATE = ? AND corrects = ? AND {same}"
    where += " AND coalesce(tier, '') = ?"
    day: datetime.date = event["settled_at"].date()
    values = [day, event["outcome"], *(event[name] for name in _COMMON), event["tier"] or ""]
    return Explained(event, row, price, cliff, parts, own, _events(connection, where, values))


def _events(connection: duckdb.DuckDBPyConnection, where: str, values: list[Any]) -> list[dict[str, Any]]:
    found = connection.execute(f"SELECT * FROM events WHERE {where} ORDER BY opened_at, attempt", values)  # noqa: S608
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _correction_json(one: dict[str, Any]) -> dict[str, Any]:
    was, difference = parse_pico(one["was"]), parse_pico(one["cost"])
    return {
        "correction_id": one["correction_id"],
        "reason": one["ended"],
        "written_at": f"{one['opened_at'].isoformat()}Z",
        "was": _text(was),
        "now": _text(was + difference),
        "difference": _text(difference),
        "price_id": one["price_id"],
    }


def _text(pico: int | None) -> str | None:
    return None if pico is None else decimal_text(pico)


# -- for people ------------------------------------------------------------------------------------------------


def show_explained(attempts: list[Explained]) -> None:
    for number, one in enumerate(attempts):
        if number:
            typer.echo("")
        _show(one)


def _show(one: Explained) -> None:
    event, currency, say = one.event, one.event["currency"], typer.echo
    tier = event["tier"] or STANDARD_SHOWN
    say(f"attempt {plain(event['attempt_id'])}: {plain(event['channel'])}/{plain(event['model'])}, {plain(tier)} tier")
    say(f"  opened {event['opened_at']} UTC, {event['outcome']}, {plain(event['ended'])}, status {event['status']}")
    if one.row is not None:
        row = one.row
        say(f"  row {row.price.id} of the part {row.part}, from {row.effective}: {plain(row.file)}:{row.line}")
        say(f"  source: {plain(row.price.source)}, {row.source_date}")
    elif one.price is not None:
        say(f"  row {one.price.id}: no price file states it any more; as it was served with")
        say(f"  source: {plain(one.price.source)}")
    elif event["price_id"]:
        say(f"  row {plain(event['price_id'])}: neither in the book nor remembered here")
    else:
        say("  no row of the price book applied")
    if one.price is not None and one.price.remark:
        say(f"  remark: {plain(one.price.remark)}")
    if one.cliff and one.price is not None:
        above = one.price.cliffs[one.cliff - 1].above_input_tokens
        say(f"  long context: more than {above:,} input tokens, so the dearer prices hold for the whole call")
    if one.parts:
        _show_parts(one)
    elif event["outcome"] == "estimated":
        say("  the provider reported no usage, so it is posted at its bound")
    if event["outcome"] == "estimated" and one.parts:
        say("  recorded at its bound all the same: the answer's tier or usage could not be priced within it")
    recorded = "unknown" if one.recorded_pico is None else f"{_text(one.recorded_pico)} {currency}"
    say(f"  cost  {recorded}")
    bound = "nothing: it had no bound" if event["bound"] is None else f"{_text(parse_pico(event['bound']))} {currency}"
    say(f"  held  {bound}")
    for what, corrections in (("corrected", one.corrections), ("with others of the day corrected", one.of_the_day)):
        for correction in corrections:
            shown = _correction_json(correction)
            say(
                f"  {what} ({plain(shown['reason'])}): {shown['was']} → {shown['now']} {currency}, "
                f"{plain(shown['correction_id'])}"
            )
    if one.corrections:
        say(f"  owed  {_text(one.owed_pico)} {currency}")


def _show_parts(one: Explained) -> None:
    shown = table([("meter", False), ("quantity", True), ("per million", True), ("cost", True)])
    for part in one.parts:
        name = part.meter if part.billed_as in (part.meter, "") else f"{part.meter} (billed as {part.billed_as})"
        unit = None if part.unit_pico is None else per_million(part.unit_pico)
        shown.add_row(cell(name), cell(part.quantity), cell(unit or "no price"), cell(_text(part.cost_pico)))
    shown.add_section()
    shown.add_row(cell("sum"), cell(""), cell(""), cell(_text(sum_of(one.parts))))
    console().print(shown)
