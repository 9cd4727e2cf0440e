"""`upeti savings`: what choices saved or cost, and what they could save."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from upeti.cli.options import (
    ConfigOption,
    CsvOption,
    DataDirOption,
    FirstDayOption,
    JsonOption,
    LastDayOption,
    TenantOption,
    complaints,
    values_of,
)
from upeti.cli.output import aligned, cell, console, only_one, table, write_csv
from upeti.cli.places import channels_in
from upeti.cli.state import open_books
from upeti.core.amount import decimal_text

if TYPE_CHECKING:
    from pathlib import Path

    from upeti.journal.not_answered import NotAnswered
    from upeti.money.price import Price
    from upeti.money.price_book import PriceBook
    from upeti.money.savings import Finding
    from upeti.money.usage import UsageRow

_HOW_FAILED: Final = (
    "cost of attempts that ended without an answer, or were followed by another attempt of the same call, by how they "
    "ended; `worker_died` were posted at their bound, and may never have been sent"
)
_NOT_MEASURED: Final = (
    "Not measured: calls sent twice by an app. The journal keeps no digest of a call's body, so two equal calls "
    "cannot be told."
)


def savings(
    first_day: FirstDayOption = None,
    last_day: LastDayOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print what caching, service tiers, rented capacity and failed attempts saved or cost, each with its computation.

    What could be saved is a limit at the prices in the book, not a forecast.
    """
    only_one(json=as_json, csv=as_csv)
    with complaints():
        from upeti.control.books import Books
        from upeti.money.price_book import PriceBook
        from upeti.money.savings import find_savings

        first, last = (day.date() if day else None for day in (first_day, last_day))
        values = values_of(config)
        money = values.get("money", {})
        book = PriceBook.load(money.get("price_files", ()) if isinstance(money, dict) else ())
        with open_books(config, data_dir) as store:
            books = Books(store)
            prices: dict[str, Price | None] = {}

            def price_of(price_id: str) -> Price | None:
                if price_id not in prices:
                    prices[price_id] = books.price(price_id)
                return prices[price_id]

            findings = find_savings(books.usage(first, last, tenant), price_of, _Tiers(book, values).at)
            failed = [] if tenant else _not_answered(store.data_dir, first, last)
        if as_json:
            typer.echo(json.dumps(_values(findings, failed), indent=2))
        elif as_csv:
            _csv(findings, failed)
        else:
            _show(findings, failed)


class _Tiers:
    """Prices of a row's model at other service tiers, as the price book has them on the row's day."""

    def __init__(self, book: PriceBook, values: Mapping[str, Any]) -> None:
        self._book = book
        self._channels = channels_in(values)

    def at(self, row: UsageRow, tier: str) -> Price | None:
        seen = self._channels.get(row.channel)
        found = self._book.as_of(row.day, seen.part, row.model, tier, seen.zone) if seen is not None else None
        return None if found is None else found.price


def _not_answered(data_dir: Path, first: datetime.date | None, last: datetime.date | None) -> list[NotAnswered]:
    from upeti.journal.events_store import connect  # here: DuckDB is loaded for nothing else
    from upeti.journal.not_answered import not_answered

    with connect(data_dir) as connection:
        return not_answered(connection, first, last)


def _show(findings: Sequence[Finding], failed: Sequence[NotAnswered]) -> None:
    from upeti.money.savings import HOW

    screen = console()
    for kind, how in HOW.items():
        of_kind = [one for one in findings if one.kind == kind]
        if not of_kind:
            continue
        quantity = "attempts" if kind == "bounds" else "tokens"
        columns = [(kind, False), ("model", False), (quantity, True), ("", False)]
        shown = table([*columns, ("saved", True), ("could, at most", True)])
        saved = aligned([one.saved_pico for one in of_kind])
        possible = aligned([one.possible_pico for one in of_kind])
        for one, had, could in zip(of_kind, saved, possible, strict=True):
            named = [cell(one.channel), cell(one.model), cell(one.quantity), cell(one.currency)]
            shown.add_row(*named, cell(had), cell(could))
        screen.print(shown)
        screen.print(f"How: {how}.\n", markup=False, highlight=False)
    if failed:
        columns = [("did not answer", False), ("attempts", True), ("tried again", True), ("", False)]
        shown = table([*columns, ("cost", True), ("posted at a bound", True), ("no price", True)])
        costs, bounds = (aligned([getattr(one, name) for one in failed]) for name in ("cost_pico", "estimated_pico"))
        for each, cost, bound in zip(failed, costs, bounds, strict=True):
            counted = [cell(each.ended), cell(each.attempts), cell(each.retried), cell(each.currency)]
            shown.add_row(*counted, cell(cost), cell(bound), cell(each.unpriced))
        screen.print(shown)
        screen.print(f"How: {_HOW_FAILED}.\n", markup=False, highlight=False)
    if not findings and not failed:
        screen.print("Nothing can be said of this time: no usage with a price, no failed attempt.")
    screen.print(_NOT_MEASURED, markup=False, highlight=False, soft_wrap=True)


def _csv(findings: Sequence[Finding], failed: Sequence[NotAnswered]) -> None:
    header = ["kind", "channel", "model", "quantity", "currency", "saved", "could_at_most"]
    rows: list[list[object]] = []
    for one in findings:
        amounts = (decimal_text(one.saved_pico), decimal_text(one.possible_pico))
        rows.append([one.kind, one.channel, one.model, one.quantity, one.currency, *amounts])
    rows += [
        [f"not answered: {each.ended}", "", "", each.attempts, each.currency, "", decimal_text(each.cost_pico)]
        for each in failed
    ]
    write_csv(header, rows)


def _values(findings: Sequence[Finding], failed: Sequence[NotAnswered]) -> dict[str, Any]:
    from upeti.money.savings import HOW

    return {
        "findings": [
            {
                "kind": one.kind,
                "channel": one.channel,
                "model": one.model,
                "quantity": one.quantity,
                "currency": one.currency,
                "saved": decimal_text(one.saved_pico),
                "could_at_most": decimal_text(one.possible_pico),
            }
            for one in findings
        ],
        "not_answered": [
            {
                "ended": one.ended,
                "currency": one.currency,
                "attempts": one.attempts,
                "tried_again": one.retried,
                "cost": decimal_text(one.cost_pico),
                "posted_at_a_bound": decimal_text(one.estimated_pico),
                "unpriced": one.unpriced,
            }
            for one in failed
        ],
        "how": {**HOW, "not answered": _HOW_FAILED},
        "not_measured": [_NOT_MEASURED],
    }
