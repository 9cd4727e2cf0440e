"""`upeti bill`: what was spent, exactly, by whom and for what."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from babel.numbers import format_currency, get_currency_precision
from rich.console import Console
from rich.table import Table

from upeti.cli.options import (
    ConfigOption,
    CsvOption,
    DataDirOption,
    FirstDayOption,
    JsonOption,
    LastDayOption,
    SkipDamagedOption,
    TenantOption,
    complaints,
    data_dir_of,
    rates_file_of,
)
from upeti.cli.output import aligned, cell, console, only_one, plain, shown_rates, table, write_csv
from upeti.core.amount import apportion_pico, decimal_text
from upeti.journal.bill import GROUPS, Bill, BillFilter, BillLine, convert, make_bill, parse_groups
from upeti.money.rates import Rates

if TYPE_CHECKING:
    from upeti.money.owned import Owned

# How an amount is written where its currency is at home.
_LOCALES = {"IDR": "id_ID", "USD": "en_US"}


def bill(
    by: Annotated[
        str, typer.Option("--by", help=f"What to split the bill by, comma-separated: {', '.join(GROUPS)}.")
    ] = "tenant,feature,model",
    first_day: FirstDayOption = None,
    last_day: LastDayOption = None,
    tenant: TenantOption = None,
    currency: Annotated[
        str | None,
        typer.Option(help="Show the costs in this currency too, such as IDR, at a dated rate.", show_default=False),
    ] = None,
    rates: Annotated[
        Path | None,
        typer.Option(
            help="File of dated rates; without it money.rates_file of the configuration, else the shipped file.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    skip_damaged: SkipDamagedOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print the bill: calls, tokens and exact costs, with what is estimated and what has no price.

    An attempt is on the bill once it is settled, on the UTC day it was settled on.
    A call that failed over has several attempts.
    Unpriced attempts are counted, never summed up as zero.
    """
    only_one(json=as_json, csv=as_csv)
    with complaints():
        chosen = BillFilter(first_day.date() if first_day else None, last_day.date() if last_day else None, tenant)
        from upeti.journal.events_store import connect  # here: DuckDB is not loaded for other commands

        with connect(data_dir_of(config, data_dir), skip_damaged=skip_damaged) as connection:
            made = make_bill(connection, parse_groups(by), chosen)
            damage = connection.execute("SELECT segment, error FROM damage ORDER BY segment").fetchall()
        owned = [] if tenant else _owned(config, data_dir, chosen)
        if currency is not None:
            at = chosen.last_day or datetime.datetime.now(datetime.UTC).date()
            convert(made, currency.upper(), Rates.load(rates or rates_file_of(config)), at)
        for segment, error in damage:
            typer.echo(f"upeti: incomplete: {plain(segment)} is left out from its damage on: {plain(error)}", err=True)
        if as_json:
            typer.echo(json.dumps(_json(made, chosen, damage, owned), indent=2))
        elif as_csv:
            _csv(made)
        else:
            _show(made, console())
            for each in owned:
                console().print(_saved(each), markup=False, highlight=False, soft_wrap=True)


def _owned(config: Path | None, data_dir: Path | None, chosen: BillFilter) -> list[Owned]:
    """Return what own models saved; a bill is a bill also where the state cannot be read."""
    from upeti.cli.state import state_of
    from upeti.control.places import STATE_FILE
    from upeti.core.errors import UpetiError

    directory, url = (data_dir, "") if data_dir is not None else state_of(config)
    if not url and not (directory / STATE_FILE).exists():
        return []
    from upeti.cli.students_savings import found

    try:
        return found(config, data_dir, chosen.first_day, chosen.last_day)
    except UpetiError as error:
        typer.echo(f"upeti: what own models saved is not said: {plain(str(error))}", err=True)
        return []


def _saved(one: Owned) -> str:
    from upeti.cli.students_savings import shown_estimate

    calls = f"{plain(one.task)}: own models answered {_count(one.calls, 'call')}"
    if one.net is None:
        return f"{calls}; what the teacher would have cost is not known yet (`upeti students savings`)."
    return (
        f"{calls}; the teacher would have cost {shown_estimate(one.teacher)} {one.currency}, net of audits, own answers and "
        f"training {shown_estimate(one.net)} {one.currency} were saved (95 %)."
    )


def _json(made: Bill, chosen: BillFilter, damage: list[tuple[str, str]], owned: Sequence[Owned] = ()) -> dict[str, Any]:
    from upeti.cli.students_savings import as_values

    return {
        "by": made.by,
        "from": chosen.first_day.isoformat() if chosen.first_day else None,
        "to": chosen.last_day.isoformat() if chosen.last_day else None,
        "tenant": chosen.tenant,
        "lines": [_line_json(made, line) for line in made.lines],
        "totals": [_line_json(made, line) for line in made.totals],
        "converted_currency": made.currency,
        "converted_total": _money(made.converted_total_pico),
        "rates": shown_rates(made.rates),
        "pending": [
            {"currency": one.currency, "attempts": one.attempts, "bound": _money(one.bound_pico)}
            for one in made.pending
        ],
        "own_models": [as_values(one) for one in owned],
        "damage": [{"segment": segment, "error": error} for segment, error in damage],
    }


def _line_json(made: Bill, line: BillLine) -> dict[str, Any]:
    return {
        **dict(zip(made.by, line.group, strict=False)),
        "calls": line.calls,
        "attempts": line.attempts,
        "input_tokens": line.input_tokens,
        "output_tokens": line.output_tokens,
        "unmetered": line.unmetered,
        "currency": line.currency,
        "cost": _money(line.cost_pico),
        "estimated": _money(line.estimated_pico),
        "unpriced": line.unpriced,
        "converted": _money(line.converted_pico),
    }


def _money(pico: int | None) -> str | None:
    return None if pico is None else decimal_text(pico)


def _csv(made: Bill) -> None:
    """Lines only: a spreadsheet makes its own totals, and a totals row would be added in twice."""
    header = [*made.by, "calls", "attempts", "input_tokens", "output_tokens", "unmetered"]
    header += ["currency", "cost", "estimated", "unpriced"]
    if made.currency:
        header += [f"cost_{made.currency.lower()}"]
    rows = []
    for line in made.lines or made.totals:
        row = [*line.group, line.calls, line.attempts, line.input_tokens, line.output_tokens, line.unmetered]
        row += [line.currency, _money(line.cost_pico), _money(line.estimated_pico), line.unpriced]
        if made.currency:
            row += [_money(line.converted_pico)]
        rows.append(row)
    write_csv(header, rows)


def _show(made: Bill, screen: Console) -> None:
    if not made.totals:
        screen.print("Nothing has been settled in this time.")
    else:
        screen.print(_table(made))
    for note in _notes(made):
        screen.print(note, markup=False, highlight=False)


def _table(made: Bill) -> Table:
    """Return the table for people: costs exact, amounts in another currency rounded so that they add up."""
    currencies = {total.currency for total in made.totals}
    single = currencies.copy().pop() if len(currencies) == 1 else None
    columns = [(name, False) for name in made.by] or [("", False)]
    columns += [(name, True) for name in ("calls", "attempts", "input tokens", "output tokens")]
    columns += [(f"cost {single}", True)] if single else [("currency", False), ("cost", True)]
    columns += [("estimated", True), ("unpriced", True)]
    if made.currency:
        columns.append((f"cost {made.currency}", True))
    shown = table(columns)

    def add(group: tuple[str, ...], line: BillLine, local: Decimal | None, style: str = "") -> None:
        cells = [cell(name) for name in group]
        cells += [cell(count) for count in (line.calls, line.attempts, line.input_tokens, line.output_tokens)]
        cells += [] if single else [cell(line.currency)]
        cells += [cell(next(costs)), cell(next(estimates)), cell(line.unpriced)]
        if made.currency:
            cells.append(cell(None if local is None else _local_text(local, made.currency)))
        shown.add_row(*cells, style=style)

    costs = iter(aligned([line.cost_pico for line in (*made.lines, *made.totals)]))
    estimates = iter(aligned([line.estimated_pico for line in (*made.lines, *made.totals)]))
    local_lines = _local_amounts(made)
    for line, local in zip(made.lines, local_lines, strict=False):
        add(line.group, line, local)
    shown.add_section()
    for total in made.totals:
        parts = [
            local
            for line, local in zip(made.lines or made.totals, local_lines, strict=True)
            if line.currency == total.currency and local is not None
        ]
        local_total = sum(parts, Decimal(0)) if parts else None
        add(("total", *[""] * (len(made.by) - 1)), total, local_total, "bold")
    return shown


def _local_amounts(made: Bill) -> list[Decimal | None]:
    """Return the lines' amounts in the bill's other currency, rounded as one bill."""
    lines = made.lines or made.totals
    known = [line.converted_pico for line in lines if line.converted_pico is not None]
    rounded = iter(apportion_pico(known, get_currency_precision(made.currency or "")) if known else [])
    return [None if line.converted_pico is None else next(rounded) for line in lines]


def _local_text(amount: Decimal, currency: str) -> str:
    return format_currency(amount, currency, locale=_LOCALES.get(currency, "en_US"))


def _notes(made: Bill) -> Iterator[str]:
    """Yield what a reader of the figures must know beside them."""
    unmetered = sum(total.unmetered for total in made.totals)
    unpriced = sum(total.unpriced for total in made.totals)
    if unpriced:
        yield f"{_count(unpriced, 'attempt')} without a price: owed, but not in the cost. Add the price to a price file."
    if unmetered:
        yield f"{_count(unmetered, 'attempt')} without reported usage: tokens unknown, not in the sums."
    for one in made.pending:
        bound = "an unknown amount" if one.bound_pico is None else f"{decimal_text(one.bound_pico)} {one.currency}"
        yield f"{_count(one.attempts, 'attempt')} open, at most {bound}: on the bill once settled."
    for rate in made.rates:
        yield f"1 {rate.base} = {rate.rate:f} {rate.currency}, {rate.date.isoformat()}: {plain(rate.source)}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
