"""`upeti concentration`: how much hangs on one supplier or one customer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upeti.cli.options import (
    ConfigOption,
    CsvOption,
    DataDirOption,
    FirstDayOption,
    JsonOption,
    LastDayOption,
    complaints,
    rates_file_of,
    tenants_file_of,
    values_of,
)
from upeti.cli.output import only_one, write_csv
from upeti.cli.places import channels_in, routes_in
from upeti.cli.state import open_books
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.control.dependence import Converter, Dependence
    from upeti.money.concentration_report import Report
    from upeti.money.parties import Place
    from upeti.money.tenant import Tenants


def concentration(
    side: Annotated[str, typer.Option(help="Whom to look at: suppliers or customers.")] = "suppliers",
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="Levels, comma-separated: channel, party, parent of suppliers; tenant, parent of customers.",
            show_default="all",
        ),
    ] = "",
    first_day: FirstDayOption = None,
    last_day: LastDayOption = None,
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
        from upeti.control.dependence import Converter, currencies_of, currency_of, customer_flows, supplier_flows
        from upeti.money.concentration import LEVELS, reach_without
        from upeti.money.concentration_report import with_reach
        from upeti.money.parties import Parties
        from upeti.money.rates import Rates

        if side not in LEVELS:
            raise ConfigError(f"there is no side `{side}`; choose suppliers or customers")
        levels = _levels(by, LEVELS[side])
        rates = Rates.load(rates_file_of(config))
        with open_books(config, data_dir) as store:
            books = Books(store)
            rows = books.usage(first_day.date() if first_day else None, last_day.date() if last_day else None)
            converter = Converter(currency_of(currencies_of(rows), currency.upper() if currency else None), rates)
            if side == "customers":
                found = customer_flows(rows, _tenants(config), books.price, rates, converter)
            else:
                found = supplier_flows(rows, _places(values_of(config)), Parties.load(parties or []), converter)
        report = _report(found, levels, denominators, converter)
        if side == "suppliers" and report.stress is not None:
            parent_of = {channel: standing.parent for channel, standing in found.standings.items()}
            reach = reach_without(rows, parent_of, report.stress.name, routes_in(values_of(config)))
            report = with_reach(report, reach)
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


def _report(found: Dependence, levels: Sequence[str], denominators: Path | None, converter: Converter) -> Report:
    from upeti.control.dependence import converted
    from upeti.money import parties as facts
    from upeti.money.concentration_report import make_report

    wholes = facts.denominators(denominators, found.side) if denominators else []
    return make_report(
        found.side,
        found.currency,
        found.flows,
        levels,
        bands=facts.bands(),
        clauses=facts.clauses(found.side),
        wholes=converted(wholes, converter),
        fixed_pico=found.fixed_pico or None,
    )


def _places(values: Mapping[str, Any]) -> dict[str, Place]:
    from upeti.money.parties import Place

    return {name: Place(name, seen.kind, seen.host) for name, seen in channels_in(values).items()}


def _tenants(config: Path | None) -> Tenants:
    from upeti.money.tenant import Tenants

    file = tenants_file_of(config)
    if file is None:
        raise ConfigError("what customers pay is in a tenants file; name one as tenants_file in [money]")
    return Tenants.load(file)


def _levels(text: str, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"{', '.join(unknown)} is no level of this side; choose from {', '.join(known)}")
    return names or tuple(known)
