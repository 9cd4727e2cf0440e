"""`upeti chargeback`: what each part of a company used and cost, from the books."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from babel.numbers import format_currency, get_currency_precision

from upeti.cli.options import (
    ConfigOption,
    CsvOption,
    DataDirOption,
    FirstDayOption,
    JsonOption,
    LastDayOption,
    TenantOption,
    complaints,
    rates_file_of,
)
from upeti.cli.output import aligned, cell, console, only_one, plain, shown_rates, table, write_csv
from upeti.cli.state import open_books
from upeti.core.amount import apportion_pico, decimal_text
from upeti.core.errors import ConfigError
from upeti.money.chargeback import GROUPS, Chargeback, ChargebackLine, convert, make_chargeback

if TYPE_CHECKING:
    from upeti.money.usage import UsageRow

_LOCALES = {"IDR": "id_ID", "USD": "en_US"}
_TOP_FEATURES = 10
_AMOUNTS = ("cost", "estimated")
_COUNTS = ("calls", "attempts", "input_tokens", "output_tokens", "unmetered", "unpriced")


def chargeback(
    by: Annotated[
        str, typer.Option("--by", help=f"What to split by, comma-separated: {', '.join(GROUPS)}.")
    ] = "tenant,feature",
    period: Annotated[str | None, typer.Option(help="A month, such as 2026-10; UTC.", show_default=False)] = None,
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
    parquet: Annotated[
        Path | None,
        typer.Option(help="Write the lines to this Parquet file, amounts as DECIMAL(38,12).", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print what was used and what it cost, by whom and for what, from the books of all nodes.

    Read from sums by day, so that a month takes no longer than a day.
    What is not posted yet (the last minutes) is not in it; `upeti bill` reads up to this moment.
    With `--json` a page can be made of it: totals, lines, a series by day, the dearest features.
    """
    only_one(json=as_json, csv=as_csv, parquet=parquet is not None)
    with complaints():
        from upeti.money.rates import Rates

        first, last = _days(period, first_day, last_day)
        names = tuple(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
        with open_books(config, data_dir) as store:
            from upeti.control.books import Books
            from upeti.control.posting import Prices

            books = Books(store)
            rows = books.usage(first, last, tenant)
            price_of = Prices(books)
            made = make_chargeback(rows, names, price_of)
            if currency is not None:
                at = last or datetime.datetime.now(datetime.UTC).date()
                convert(made, currency.upper(), Rates.load(rates or rates_file_of(config)), at)
            if as_json:
                typer.echo(json.dumps(_page(made, rows, price_of, first, last, tenant), indent=2))
            elif as_csv:
                lines = [_values(made, line) for line in made.lines or made.totals]
                write_csv(list(lines[0]) if lines else [], [list(line.values()) for line in lines])
            elif parquet is not None:
                _write_parquet(made, parquet)
            else:
                _show(made)


def _days(
    period: str | None, first: datetime.datetime | None, last: datetime.datetime | None
) -> tuple[datetime.date | None, datetime.date | None]:
    """Return first and last day. Raises ``ConfigError``."""
    if period is None:
        return first.date() if first else None, last.date() if last else None
    if first is not None or last is not None:
        raise ConfigError("give a --period, or --from and --to, not both")
    try:
        begin = datetime.datetime.strptime(period, "%Y-%m").date()
    except ValueError:
        raise ConfigError(f"{plain(period)} is no period; write a month, such as 2026-10") from None
    return begin, (begin + datetime.timedelta(days=32)).replace(day=1) - datetime.timedelta(days=1)


def _page(
    made: Chargeback,
    rows: list[UsageRow],
    price_of: Any,
    first: datetime.date | None,
    last: datetime.date | None,
    tenant: str | None,
) -> dict[str, Any]:
    """Return the data of a showback page."""
    days = make_chargeback(rows, ("day",), price_of)
    features = make_chargeback(rows, ("feature",), price_of)
    return {
        "by": made.by,
        "from": first.isoformat() if first else None,
        "to": last.isoformat() if last else None,
        "tenant": tenant,
        "lines": [_values(made, line) for line in made.lines],
        "totals": [_values(made, line) | _shares(line) for line in made.totals],
        "series": [_values(days, line) for line in days.lines],
        "top_features": [_values(features, line) for line in features.lines[:_TOP_FEATURES]],
        "converted_currency": made.currency,
        "converted_total": None if made.converted_total_pico is None else decimal_text(made.converted_total_pico),
        "rates": shown_rates(made.rates),
    }


def _shares(line: ChargebackLine) -> dict[str, str | None]:
    """Return what is not certain: unpriced of the attempts, estimated of the cost; in four decimals, or unknown."""
    return {
        "unpriced_share": _share(line.unpriced, line.attempts),
        "estimated_share": _share(line.estimated_pico, line.cost_pico),
    }


def _share(part: int, whole: int) -> str | None:
    return None if not whole else decimal_text(part * 10**4 // whole * 10**8)


def _values(made: Chargeback, line: ChargebackLine) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(made.by, line.group, strict=False))
    by_meter = "meter" in made.by and bool(line.group)
    values |= {name: getattr(line, name) for name in (("quantity",) if by_meter else _COUNTS)}
    values["currency"] = line.currency
    values |= {name: decimal_text(getattr(line, f"{name}_pico")) for name in _AMOUNTS}
    if made.currency is not None:
        values[f"cost_{made.currency.lower()}"] = decimal_text(line.converted_pico or 0)
    return values


def _write_parquet(made: Chargeback, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from upeti.core.amount import to_decimal

    lines = made.lines or made.totals
    columns: dict[str, Any] = {
        name: pa.array([line.group[place] for line in lines], pa.string()) for place, name in enumerate(made.by)
    }
    columns |= {name: pa.array([getattr(line, name) for line in lines], pa.int64()) for name in (*_COUNTS, "quantity")}
    columns["currency"] = pa.array([line.currency for line in lines], pa.string())
    amounts = {name: f"{name}_pico" for name in _AMOUNTS}
    if made.currency is not None:
        amounts[f"cost_{made.currency.lower()}"] = "converted_pico"
    for name, field in amounts.items():
        columns[name] = pa.array([to_decimal(getattr(line, field)) for line in lines], pa.decimal128(38, 12))
    try:
        pq.write_table(pa.table(columns), path, compression="zstd")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error
    typer.echo(f"{len(lines):,} lines written to {path}")


def _show(made: Chargeback) -> None:
    screen = console()
    if not made.totals:
        screen.print("Nothing is posted in this time.")
        return
    single = made.totals[0].currency if len(made.totals) == 1 else None
    counts = [("quantity", True)] if "meter" in made.by else []
    counts = counts or [(name, True) for name in ("calls", "attempts", "input tokens", "output tokens")]
    columns = [*((name, False) for name in made.by or ("",)), *counts]
    columns += [(f"cost {single}", True)] if single else [("currency", False), ("cost", True)]
    columns += [("estimated", True), ("unpriced", True)]
    columns += [(f"cost {made.currency}", True)] if made.currency else []
    shown = table(columns)
    every = [*made.lines, *made.totals]
    costs = iter(aligned([line.cost_pico for line in every]))
    estimates = iter(aligned([line.estimated_pico for line in every]))
    local = iter(_local_texts(made))
    for line in every:
        if not line.group:
            shown.add_section()
        group = line.group or ("total", *[""] * (len(made.by) - 1))
        quantities = [line.quantity or None] if "meter" in made.by else []
        quantities = quantities or [line.calls, line.attempts, line.input_tokens, line.output_tokens]
        cells = [*map(cell, group), *(cell("") if value is None else cell(value) for value in quantities)]
        cells += [] if single else [cell(line.currency)]
        cells += [cell(next(costs)), cell(next(estimates)), cell(line.unpriced)]
        cells += [cell(next(local))] if made.currency else []
        shown.add_row(*cells, style="" if line.group else "bold")
    screen.print(shown)
    unpriced = sum(total.unpriced for total in made.totals)
    if unpriced:
        screen.print(f"{unpriced:,} attempts were settled without a price: owed, but not in the cost.")
    for rate in made.rates:
        text = f"1 {rate.base} = {rate.rate:f} {rate.currency}, {rate.date.isoformat()}: {plain(rate.source)}"
        screen.print(text, markup=False, highlight=False)


def _local_texts(made: Chargeback) -> list[str]:
    """Return the amounts in the other currency, lines first, rounded so that they add up to their totals."""
    if made.currency is None:
        return []
    lines = made.lines or made.totals
    rounded = apportion_pico([line.converted_pico or 0 for line in lines], get_currency_precision(made.currency))
    sums = {total.currency: rounded[0] * 0 for total in made.totals} if rounded else {}
    for line, amount in zip(lines, rounded, strict=True):
        sums[line.currency] += amount
    amounts = [*(rounded if made.lines else []), *(sums[total.currency] for total in made.totals)]
    locale = _LOCALES.get(made.currency, "en_US")
    return [format_currency(amount, made.currency, locale=locale) for amount in amounts]
