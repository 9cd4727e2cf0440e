"""`upeti prices`: the price book, looked into, compared with other sources, and turned back on what was recorded."""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from upeti.cli.options import (
    CONFIG_FILE,
    ConfigOption,
    JsonOption,
    complaints,
    data_dir_of,
    price_files_of,
)
from upeti.cli.prices_shown import (
    capacity_json,
    change_json,
    comparison_json,
    row_json,
    show_capacity,
    show_changes,
    show_comparison,
    show_row,
    show_rows,
)
from upeti.core.errors import ConfigError
from upeti.money.price_book import Cell, PriceBook, Row

if TYPE_CHECKING:
    from upeti.money.price import Price
    from upeti.money.price_import import Source

prices_app = typer.Typer(help="Look into the price book, compare it, explain a call's cost.", no_args_is_help=True)

AsOfOption = Annotated[
    datetime.datetime | None,
    typer.Option("--as-of", formats=["%Y-%m-%d"], help="Prices in force on this UTC day.", show_default="today"),
]
PartOption = Annotated[str | None, typer.Option(help="Only this part of the book.", show_default=False)]


@prices_app.command("list")
def list_command(
    part: PartOption = None,
    model: Annotated[str | None, typer.Option(help="Only this model.", show_default=False)] = None,
    tier: Annotated[
        str | None, typer.Option(help="Only this service tier; `standard` for the usual one.", show_default=False)
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="Only this zone; `any` for prices of every zone.", show_default=False)
    ] = None,
    as_of: AsOfOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the prices in force: by part, model, service tier and zone, per million units."""
    with complaints():
        book, day = PriceBook.load(price_files_of(config)), _day(as_of)
        wanted = {"part": part, "model": model, "tier": _empty(tier, "standard"), "zone": _empty(zone, "any")}
        found = [
            (cell, row)
            for cell in book.cells()
            if all(value is None or getattr(cell, name) == value for name, value in wanted.items())
            and (row := _in_force(book, cell, day)) is not None
        ]
        if as_json:
            typer.echo(json.dumps([row_json(cell, row) for cell, row in found], indent=2))
        elif found:
            show_rows(found)
        else:
            typer.echo(f"The book has no such price on {day}. Parts: {', '.join(book.parts())}.")


@prices_app.command("show")
def show_command(
    name: Annotated[
        str, typer.Argument(metavar="MODEL|ID", help="A model's name, or the id of a row that a bill names.")
    ],
    part: PartOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show every row of a model, or the row of an id: cells, cliffs, file and line, source, date, remark."""
    with complaints():
        book = PriceBook.load(price_files_of(config))
        rows = [
            row
            for row in book.rows
            if (name in row.models or row.price.id == name) and (part is None or row.part == part)
        ]
        if not rows:
            raise ConfigError(f"the book has no row of {name!r}; `upeti prices list` shows what it has")
        if as_json:
            shown = [row_json(Cell(row.part, ", ".join(row.models), row.tier, row.zone), row) for row in rows]
            typer.echo(json.dumps(shown, indent=2))
            return
        for row in rows:
            show_row(row)


@prices_app.command("capacity")
def capacity_command(as_of: AsOfOption = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show what is rented by the hour (provisioned throughput), and what it costs on a day."""
    with complaints():
        from upeti.money.capacity import capacity_costs

        day = _day(as_of)
        costs = capacity_costs(PriceBook.load(price_files_of(config)).capacity, day)
        if as_json:
            typer.echo(json.dumps([capacity_json(cost) for cost in costs], indent=2))
        elif costs:
            show_capacity(costs)
        else:
            typer.echo(f"Nothing is rented on {day}: a [[capacity]] row in a file of money.price_files says what is.")


@prices_app.command("import")
def import_command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="`genai-prices`, `azure-genai-prices`, or a file: .toml or .csv.")
    ],
    part: PartOption = None,
    write: Annotated[
        Path | None,
        typer.Option(help="Write chosen rows as a new price file; never over one that is there.", show_default=False),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Write only this model; can be given again.", show_default="all")
    ] = None,
    take: Annotated[
        Literal["source", "book"], typer.Option(help="Whose price is written where they differ.")
    ] = "source",
    from_day: Annotated[
        datetime.datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="First day of the written rows.", show_default="as stated"),
    ] = None,
    remark: Annotated[str, typer.Option(help="Why, for the head of the written file.", show_default=False)] = "",
    regional: Annotated[bool, typer.Option("--regional", help="Azure: take in regional deployments, too.")] = False,
    show_all: Annotated[
        bool, typer.Option("--all", help="List everything, also what is otherwise only counted.")
    ] = False,
    as_of: AsOfOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare another source with the book: every disagreement, and what only one side has.

    Writes nothing, but for --write FILE: rows that you chose, to be named in money.price_files.
    """
    with complaints():
        from upeti.money.price_import import chosen, compare, price_file

        book, day = PriceBook.load(price_files_of(config)), _day(as_of)
        said = _source(source, part, book, regional)
        comparison = compare(said, book, day)
        if as_json:
            typer.echo(json.dumps(comparison_json(comparison), indent=2))
        else:
            show_comparison(comparison, everything=show_all)
        if write is None:
            return
        offers = chosen(comparison, model or (), take, from_day.date() if from_day else None)
        parts = sorted({offer.cell.part for offer in offers})
        if len(parts) != 1:
            raise ConfigError(f"rows of {len(parts)} parts ({', '.join(parts)}) were chosen; take one with --part")
        head = [f"Chosen on {_today()} from {said.name}, against the book of {day}: the {take}'s prices."]
        head += [remark] if remark else []
        text = price_file(parts[0], offers, head)
        try:
            with write.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise ConfigError(f"{write} cannot be written: {error.strerror}; choose a new name") from None
        count = len(PriceBook.of_file(write).rows)  # read back: what was written can be used
        typer.echo(f"{count} rows for {len(offers)} prices are in {write}. Name it in money.price_files.", err=as_json)


@prices_app.command("diff")
def diff_command(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="A day, such as 2026-01-31, or a price file.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="Another day, or another price file.")],
    show_all: Annotated[
        bool, typer.Option("--all", help="List everything, also what is otherwise only counted.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what changed in the book between two days, or what differs between two price files."""
    with complaints():
        from upeti.money.price_import import compare, of_rows

        book = PriceBook.load(price_files_of(config))
        left, left_day = _side(first, book)
        right, right_day = _side(second, book)
        rows = [row for cell in right.cells() if (row := _in_force(right, cell, right_day)) is not None]
        comparison = compare(of_rows(second, rows), left, left_day, source_day=right_day)
        if as_json:
            typer.echo(json.dumps(comparison_json(comparison), indent=2))
        else:
            show_comparison(comparison, everything=show_all, book=first)


@prices_app.command("explain")
def explain_command(
    call: Annotated[
        str,
        typer.Argument(metavar="CALL", help="A call's id (the x-request-id of its answer) or an attempt's (`ID-0`)."),
    ],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Data directory, in place of the configuration's.", show_default=False),
    ] = None,
) -> None:
    """Explain what a call cost: quantities, prices, the row of the book with its source, the hold, corrections."""
    with complaints():
        from upeti.cli.prices_explained import explained, show_explained
        from upeti.journal.events_store import connect

        book = PriceBook.load(price_files_of(config))
        with connect(data_dir_of(config, data_dir), skip_damaged=True) as connection:
            attempts = explained(connection, call, book, lambda price_id: _remembered(config, price_id))
        if not attempts:
            raise ConfigError(
                f"there is no settled attempt of {call!r}; `upeti calls` lists them, an open one has no cost yet"
            )
        if as_json:
            typer.echo(json.dumps([one.as_json() for one in attempts], indent=2))
        else:
            show_explained(attempts)


@prices_app.command("reprice")
def reprice_command(
    first_day: Annotated[datetime.datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day.")],
    last_day: Annotated[datetime.datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day, included.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the differences; write nothing.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Price a past period by today's book, and write what differs as corrections. Nothing is edited.

    Done twice the second time changes nothing. Attempts without reported usage, and what was corrected from a provider's
    report, stay as they are.
    """
    with complaints():
        from upeti.control.compile import price_place
        from upeti.control.config_file import read
        from upeti.control.corrections import write_corrections
        from upeti.journal.events_store import connect
        from upeti.journal.repricing import earlier_corrections, groups
        from upeti.money.reprice import changes, corrections

        if last_day < first_day:
            raise ConfigError("--to is before --from; both days are included")
        document = read(config or Path(CONFIG_FILE))
        book = PriceBook.load(document.config.money.price_files)
        places = {channel.name: price_place(channel) for channel in document.config.channel}

        def price_of(channel: str, model: str, tier: str, day: datetime.date) -> Price | None:
            part, zone = places.get(channel, ("", ""))
            row = book.as_of(day, part, model, tier, zone)
            return None if row is None else row.price

        days = (first_day.date(), last_day.date())
        directory = data_dir_of(config, None)
        with connect(directory) as connection:
            found = changes(groups(connection, *days, price_of), *earlier_corrections(connection, *days))
        if as_json:
            typer.echo(json.dumps([change_json(change) for change in found], indent=2))
        else:
            show_changes(found)
        reference = hashlib.sha256("".join(row.price.id for row in book.rows).encode()).hexdigest()
        records = corrections(found, reference, time.time_ns())
        if dry_run:
            typer.echo(f"{len(records)} corrections would be written; nothing was.", err=as_json)
            return
        count = write_corrections(directory, records)
        _remember(config, [row.price for row in book.rows if row.price.id in {record.price_id for record in records}])
        typer.echo(f"{count} corrections were written, following the book {reference[:16]}.", err=as_json)


# -- what the commands share -----------------------------------------------------------------------------------


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def _day(as_of: datetime.datetime | None) -> datetime.date:
    return as_of.date() if as_of is not None else _today()


def _empty(text: str | None, word: str) -> str | None:
    """Return what is looked for: a word stands for the empty name that cannot be typed."""
    return "" if text == word else text


def _in_force(book: PriceBook, cell: Cell, day: datetime.date) -> Row | None:
    row = book.as_of(day, cell.part, cell.model, cell.tier, cell.zone)
    return row if row is not None and row.zone == cell.zone and cell.model in row.models else None


def _side(text: str, book: PriceBook) -> tuple[PriceBook, datetime.date]:
    """Return one side of a difference: the book on a day, or a file alone with its newest rows."""
    try:
        return book, datetime.date.fromisoformat(text)
    except ValueError:
        pass
    if not Path(text).is_file():
        raise ConfigError(f"{text} is neither a day such as 2026-01-31 nor a file")
    return PriceBook.of_file(text), datetime.date.max


def _source(name: str, part: str | None, book: PriceBook, regional: bool) -> Source:
    """Raises ``ConfigError``."""
    from upeti.money.price_import import of_csv, of_rows

    if name == "genai-prices":
        from upeti.money.price_import_genai import PARTS, of_genai

        return of_genai(book, _today(), PARTS if part is None else (part,))
    if name == "azure-genai-prices":
        from upeti.money.price_import_azure import of_azure

        return of_azure(regional=regional)
    path = Path(name)
    if path.suffix.lower() not in (".toml", ".csv"):
        raise ConfigError(f"{name} is no source: write genai-prices, azure-genai-prices, or a file .toml or .csv")
    said = of_csv(path) if path.suffix.lower() == ".csv" else of_rows(path.name, PriceBook.of_file(path).rows)
    if part is None:
        return said
    offers = [offer for offer in said.offers if offer.cell.part == part]
    return type(said)(said.name, (part,), offers, said.unmapped)


def _remember(config: Path | None, prices: list[Price]) -> None:
    """Keep prices that corrections name, as those that calls are served with."""
    if not prices:
        return
    from upeti.cli.state import open_state
    from upeti.control.books import Books

    store = open_state(config)
    try:
        Books(store).keep_prices(prices, time.time_ns())
    finally:
        store.close()


def _remembered(config: Path | None, price_id: str) -> Price | None:
    """Return a price that was served with and that no file states any more."""
    if config is None and not Path(CONFIG_FILE).is_file():
        return None
    from upeti.cli.state import open_state
    from upeti.control.books import Books

    store = open_state(config)
    try:
        return Books(store).price(price_id)
    finally:
        store.close()
