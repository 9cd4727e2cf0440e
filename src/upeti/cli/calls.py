"""`upeti calls`: single attempts, newest first."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upeti.cli.options import (
    ConfigOption,
    CsvOption,
    DataDirOption,
    JsonOption,
    SkipDamagedOption,
    complaints,
    data_dir_of,
)
from upeti.cli.output import cell, console, only_one, plain, table, write_csv
from upeti.core.amount import decimal_text, parse_pico
from upeti.core.errors import ConfigError
from upeti.core.events import Outcome
from upeti.core.meters import ALL_METERS, INPUT_METERS, OUTPUT_METERS
from upeti.journal.event_columns import CORRECTED, EVENT_COLUMNS, REFUSAL_COLUMNS

if TYPE_CHECKING:
    import duckdb

REFUSED = "refused"  # beside the outcomes of attempts: calls that never became one
_OUTCOMES = (*Outcome, CORRECTED, REFUSED)
_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FETCH_ROWS = 10_000


def _exact(name: str, what: str) -> Any:
    return typer.Option(f"--{name}", help=f"Only this {what}.", show_default=False)


def calls(
    tenant: Annotated[str | None, _exact("tenant", "tenant")] = None,
    feature: Annotated[str | None, _exact("feature", "feature")] = None,
    task: Annotated[str | None, _exact("task", "task")] = None,
    key: Annotated[str | None, _exact("key", "key, by its public id")] = None,
    channel: Annotated[str | None, _exact("channel", "channel")] = None,
    model: Annotated[str | None, _exact("model", "model, by the name sent upstream")] = None,
    call_id: Annotated[str | None, _exact("call-id", "call: the x-request-id that the client was given")] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            help=f"Only this outcome: {', '.join(_OUTCOMES)} (refused: by a limit or a rule).", show_default=False
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Opened at this time or later: 2026-11-01, 2026-11-01T13:30 (UTC), or 2h ago as `2h`.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Opened before this time.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many to print; 0: all.")] = 50,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    skip_damaged: SkipDamagedOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List attempts, newest first: who called, what answered, how it ended, what it cost.

    A call that failed over has one line per attempt; what is still open is not listed.
    A correction has a line of its own, with the difference that it makes.
    Calls refused before any attempt are listed with `--outcome refused`.
    """
    only_one(json=as_json, csv=as_csv)
    with complaints():
        if outcome is not None and outcome not in _OUTCOMES:
            raise ConfigError(f"there is no outcome {plain(outcome)}; choose from {', '.join(_OUTCOMES)}")
        refusals = outcome == REFUSED
        if refusals and (channel or model):
            raise ConfigError("a refused call has no channel and no model; leave out --channel and --model")
        time = "refused_at" if refusals else "opened_at"
        exact = {"tenant": tenant, "feature": feature, "task": task, "key": key, "call_id": call_id}
        exact |= {"channel": channel, "model": model, "outcome": None if refusals else outcome}
        terms: list[tuple[str, Any]] = [(f"{name} = ?", value) for name, value in exact.items() if value is not None]
        terms += [(f"{time} >= ?", _moment(since))] if since else []
        terms += [(f"{time} < ?", _moment(until))] if until else []
        from upeti.journal.events_store import connect  # here: DuckDB is not loaded for other commands

        with connect(data_dir_of(config, data_dir), skip_damaged=skip_damaged) as connection:
            for segment, error in connection.execute("SELECT * FROM damage ORDER BY ALL").fetchall():
                message = f"upeti: incomplete: {plain(segment)} is left out from its damage on: {plain(error)}"
                typer.echo(message, err=True)
            view = _View("refusals" if refusals else "events", time)
            rows = view.rows(connection, terms, limit)
            if as_json:
                _write_json(rows)
            elif as_csv:
                write_csv(view.columns, (_csv_row(row) for row in rows))
            else:
                view.show(list(rows))


class _View:
    """Which table is listed, with which columns."""

    def __init__(self, name: str, time: str) -> None:
        self.name = name
        self.time = time
        self.columns = [column.name for column in (EVENT_COLUMNS if name == "events" else REFUSAL_COLUMNS)]

    def rows(
        self, connection: duckdb.DuckDBPyConnection, terms: Sequence[tuple[str, Any]], limit: int
    ) -> Iterator[dict[str, Any]]:
        where = f"WHERE {' AND '.join(term for term, _ in terms)}" if terms else ""
        order = f"{self.time} DESC, instance, call DESC" + (", attempt DESC" if self.name == "events" else "")
        found = connection.execute(
            f"SELECT * FROM {self.name} {where} ORDER BY {order} {'LIMIT ?' if limit else ''}",  # noqa: S608 constants
            [*(value for _, value in terms), *([limit] if limit else [])],
        )
        while batch := found.fetchmany(_FETCH_ROWS):
            for row in batch:
                yield dict(zip(self.columns, row, strict=True))

    def show(self, rows: list[dict[str, Any]]) -> None:
        screen = console()
        if not rows:
            screen.print("Nothing found.")
            return
        if self.name == "events":
            headers = ["opened (UTC)", "tenant", "key", "feature", "route", "channel", "model", "outcome", "ended"]
            numbers = ["input", "output", "ms", "cost"]
        else:
            headers = ["refused (UTC)", "tenant", "key", "feature", "route", "code"]
            numbers = []
        shown = table([*((name, False) for name in headers), *((name, True) for name in numbers), ("call id", False)])
        for row in rows:
            texts = [f"{row[self.time]:%Y-%m-%d %H:%M:%S}", *(row[name] for name in headers[1:])]
            cells = [cell(text) for text in texts]
            if self.name == "events":
                cells += [cell(_sum(row, INPUT_METERS)), cell(_sum(row, OUTPUT_METERS)), cell(_milliseconds(row))]
                cells.append(cell(_priced(row)))
            shown.add_row(*cells, cell(row["call_id"]))
        screen.print(shown)


def _moment(text: str) -> datetime.datetime:
    """Return a time in UTC without zone. Raises ``ConfigError``."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return now - datetime.timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        cure = "write it as 2026-11-01, 2026-11-01T13:30 or 2h"
        raise ConfigError(f"{plain(text)} is no time; {cure}") from error
    return moment if moment.tzinfo is None else moment.astimezone(datetime.UTC).replace(tzinfo=None)


def _sum(row: dict[str, Any], meters: Sequence[str]) -> int | None:
    counted = [row[meter] for meter in meters if row[meter] is not None]
    return sum(counted) if counted else None


def _milliseconds(row: dict[str, Any]) -> int | None:
    return None if row["total_us"] is None else row["total_us"] // 1000


def _priced(row: dict[str, Any]) -> str | None:
    return None if row["cost"] is None else f"{decimal_text(parse_pico(row['cost']))} {row['currency']}"


def _csv_row(row: dict[str, Any]) -> list[object]:
    return [_value(value) for value in row.values()]


def _write_json(rows: Iterator[dict[str, Any]]) -> None:
    """Write a JSON array, a row a line, as it is read: a month of calls needs no memory."""
    separator = "["
    for row in rows:
        named = {name: _value(value) for name, value in row.items() if name not in _METER_COLUMNS}
        if "call" in row and "attempt" in row:
            meters = {name: row[name] for name in ALL_METERS if row[name] is not None}
            named["meters"] = meters | json.loads(row["meters_other"] or "{}") or None
        typer.echo(f"{separator}\n{json.dumps(named)}", nl=False)
        separator = ","
    typer.echo("[]" if separator == "[" else "\n]")


_METER_COLUMNS = frozenset((*ALL_METERS, "meters_other"))


def _value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return decimal_text(parse_pico(value))
    if isinstance(value, datetime.datetime):
        return f"{value.isoformat(timespec='microseconds')}Z"
    return value
