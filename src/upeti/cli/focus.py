"""`upeti focus`: what was spent as FOCUS 1.4, the format that other cost tools read, and a checker for it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from upeti.cli.options import (
    ConfigOption,
    FirstDayOption,
    JsonOption,
    LastDayOption,
    TenantOption,
    complaints,
    rates_file_of,
    values_of,
)
from upeti.cli.output import cell, console, plain, table
from upeti.cli.places import Seen, channels_in
from upeti.cli.state import open_state
from upeti.core.amount import decimal_text
from upeti.money.focus import files
from upeti.money.focus.columns import Dataset
from upeti.money.focus.export import Parties, Party, Row, cost_and_usage, sum_pico

if TYPE_CHECKING:
    from upeti.control.store import Store
    from upeti.money.focus.checker import Verdict

focus_app = typer.Typer(help="Export what was spent as FOCUS 1.4, or check such a file.", no_args_is_help=True)


@focus_app.command("export")
def export_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    first_day: FirstDayOption = None,
    last_day: LastDayOption = None,
    dataset: Annotated[
        Dataset, typer.Option(help="What we pay, by day and meter; or what we invoiced, by printed line.")
    ] = Dataset.COST_AND_USAGE,
    file_format: Annotated[
        files.Format | None, typer.Option("--format", help="Without it the file's name says.", show_default=False)
    ] = None,
    tenant: TenantOption = None,
    config: ConfigOption = None,
) -> None:
    """Write costs, or the lines of issued invoices, as FOCUS 1.4.

    Days are those on which calls were settled; of invoices, on which they were issued.

    The sum of BilledCost is the sum of the bill, to the last digit.
    """
    with complaints():
        kind = file_format or files.format_of(output)
        first, last = (day.date() if day else None for day in (first_day, last_day))
        store = open_state(config)
        try:
            found, unpriced = (_invoiced if dataset is Dataset.INVOICE_DETAIL else _spent)(
                store, first, last, tenant, config
            )
            rows = _Counted(found)
            files.write(output, dataset, kind, rows)
        except OSError as error:
            raise files.FocusFileError(f"{output} cannot be written: {error.strerror}; name another file") from error
        finally:
            store.close()
    sums = ", ".join(f"{decimal_text(pico)} {currency}" for currency, pico in sorted(rows.sums.items()))
    typer.echo(f"{output}: {rows.count:,} rows, BilledCost {sums or '0'}")
    if unpriced:
        typer.echo(
            f"upeti: {unpriced:,} attempts have no price: owed, but not in the file. Add the price to a price file.",
            err=True,
        )


@focus_app.command("check")
def check_command(
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or JSON.", show_default=False)],
    dataset: Annotated[Dataset | None, typer.Option(help="Without it the columns say.", show_default=False)] = None,
    file_format: Annotated[
        files.Format | None, typer.Option("--format", help="Without it the file's name says.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a file against every rule of FOCUS 1.4 that can be seen in it; exit status 1 when one is broken."""
    from upeti.money.focus.checker import Checker

    with complaints():
        kind = file_format or files.format_of(file)
        opened = files.read(file, kind)
        checker = Checker(dataset or opened.dataset, opened.header, opened.types)
        for row, extra in opened.rows:
            checker.take(row, extra=extra)
    verdict = checker.verdict
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(verdict)).decode())
    else:
        _show(file, verdict)
    if not verdict.sound:
        raise typer.Exit(1)


class _Counted:
    """Rows that are counted and summed up while they are written."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self.count = 0
        self.sums: dict[str, int] = {}

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self.count += 1
            for currency, pico in sum_pico([row]).items():
                self.sums[currency] = self.sums.get(currency, 0) + pico
            yield row


def _spent(
    store: Store, first: datetime.date | None, last: datetime.date | None, tenant: str | None, config: Path | None
) -> tuple[Iterator[Row], int]:
    """Return the rows of what was spent, and how many attempts have no price."""
    from upeti.control.books import Books

    books = Books(store)
    usage = books.usage(first, last, tenant)
    unpriced = sum(row.attempts for row in usage if row.outcome == "unpriced")
    return cost_and_usage(usage, books.price, _parties(config), books.closed_periods()), unpriced


def _invoiced(
    store: Store, first: datetime.date | None, last: datetime.date | None, tenant: str | None, config: Path | None
) -> tuple[Iterator[Row], int]:
    """Return the rows of what was invoiced."""
    from upeti.control.invoicing import Invoicing
    from upeti.money.focus.invoice_detail import invoice_detail
    from upeti.money.rates import Rates

    issued = (kept.document for kept in Invoicing(store, None, Rates.load(rates_file_of(config))).all(tenant))
    chosen = (
        document
        for document in issued
        if (first is None or document.issued_at[:10] >= first.isoformat())
        and (last is None or document.issued_at[:10] <= last.isoformat())
    )
    return invoice_detail(chosen), 0


def _parties(config: Path | None) -> Parties:
    from upeti.money import parties as facts

    known = facts.Parties.load()
    today = datetime.datetime.now(datetime.UTC).date()
    seen = channels_in(values_of(config))

    def party(channel: str) -> Party:
        place = seen.get(channel, Seen())
        standing = known.standing(facts.Place(channel, place.kind, place.host), today)
        name = standing.party
        return Party(standing.service, name, name, name, place.account, place.zone)

    return cache(party)


def _show(file: Path, verdict: Verdict) -> None:
    screen = console()
    shown = table([("row", True), ("column", False), ("rule", False), ("value", False), ("what is wrong; cure", False)])
    for one in verdict.findings:
        message = f"{'' if one.severity == 'error' else 'warning: '}{one.message}; {one.cure}"
        shown.add_row(cell(one.row), cell(one.column), cell(one.rule), cell(one.value), cell(message))
    if verdict.findings:
        screen.print(shown)
    unlisted = sum(verdict.counts.values()) - len(verdict.findings)
    if unlisted:
        screen.print(f"… and {unlisted:,} more of the same kinds.")
    what = "keeps to" if verdict.sound else "breaks"
    typer.echo(
        f"{plain(str(file))}: {verdict.rows:,} rows of {verdict.dataset}, {verdict.errors:,} errors, "
        f"{verdict.warnings:,} warnings: it {what} FOCUS {verdict.focus_version} as far as a file shows it."
    )
