"""`upeti concentration`: how much hangs on one supplier or one customer."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upeti.cli.options import (
    ConfigOption,
    CsvOption,
    DataDirOption,
    JsonOption,
    complaints,
    rates_file_of,
    values_of,
)
from upeti.cli.output import only_one, write_csv
from upeti.cli.places import channels_in, routes_in
from upeti.cli.state import open_books
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.control.dependence import Converter, Dependence
    from upeti.money.concentration_report import Report
    from upeti.money.usage import UsageRow


def concentration(
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="Levels, comma-separated: channel, party, parent.",
            show_default="all",
        ),
    ] = "",
    first_day: Annotated[
        datetime.datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="First day, UTC.", show_default=False),
    ] = None,
    last_day: Annotated[
        datetime.datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, UTC, included.", show_default=False),
    ] = None,
    denominators: Annotated[
        Path | None,
        typer.Option(help="File with what a segment and the company amount to by month.", show_default=False),
    ] = None,
    parties: Annotated[
        list[Path] | None,
        typer.Option(help="File of contract parties and their parents, after the shipped one.", show_default=False),
    ] = None,
    currency: Annotated[
        str | None, typer.Option(help="Show amounts in this currency, at dated rates.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw shares and index by month into this .svg or .png.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print how much hangs on one supplier or customer, and what is left when it leaves.

    Shares, top 1, 3, 5 and 10, the Herfindahl-Hirschman index, the trend by month, rules that ask for 10 %.
    Amounts are exact; percentages are rounded to be shown.
    """
    only_one(json=as_json, csv=as_csv)
    with complaints():
        from upeti.cli.concentration_show import as_values, csv_rows, show
        from upeti.control.books import Books
        from upeti.control.dependence import Converter, currencies_of, currency_of
        from upeti.money.concentration import LEVELS
        from upeti.money.rates import Rates

        levels = _levels(by, LEVELS["suppliers"])
        with open_books(config, data_dir) as store:
            rows = Books(store).usage(first_day.date() if first_day else None, last_day.date() if last_day else None)
        chosen = currency_of(currencies_of(rows), currency.upper() if currency else None)
        converter = Converter(chosen, Rates.load(rates_file_of(config)))
        found, report = _suppliers(rows, levels, parties or [], denominators, converter, values_of(config))
        if plot is not None:
            from upeti.control.plots import plot_concentration

            plot_concentration(report, plot)
        if as_json:
            typer.echo(json.dumps(as_values(report, found), indent=2))
        elif as_csv:
            write_csv(*csv_rows(report))
        else:
            show(report, found)
            if plot is not None:
                typer.echo(f"{plot} is written.")


def _suppliers(
    rows: Sequence[UsageRow],
    levels: Sequence[str],
    parties: Sequence[Path],
    denominators: Path | None,
    converter: Converter,
    values: Mapping[str, Any],
) -> tuple[Dependence, Report]:
    from upeti.control.dependence import converted, supplier_flows
    from upeti.money import parties as facts
    from upeti.money.concentration import reach_without
    from upeti.money.concentration_report import make_report, with_reach

    places = {name: facts.Place(name, seen.kind, seen.host) for name, seen in channels_in(values).items()}
    found = supplier_flows(rows, places, facts.Parties.load(parties), converter)
    wholes = facts.denominators(denominators, "suppliers") if denominators else []
    report = make_report(
        "suppliers",
        found.currency,
        found.flows,
        levels,
        bands=facts.bands(),
        clauses=facts.clauses("suppliers"),
        wholes=converted(wholes, converter),
    )
    if report.stress is not None:
        parent_of = {channel: standing.parent for channel, standing in found.standings.items()}
        report = with_reach(report, reach_without(rows, parent_of, report.stress.name, routes_in(values)))
    return found, report


def _levels(text: str, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"{', '.join(unknown)} is no level of this side; choose from {', '.join(known)}")
    return names or tuple(known)
