"""`upeti reconcile`: a provider's bill beside ours, every difference named; estimates corrected on request."""

from __future__ import annotations

import datetime
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import typer

from upeti.cli.options import (
    ChannelAccount,
    ConfigOption,
    CsvOption,
    DataDirOption,
    FirstDayOption,
    JsonOption,
    LastDayOption,
    SkipDamagedOption,
    accounts_of,
    complaints,
    data_dir_of,
    rates_file_of,
)
from upeti.cli.output import console, only_one, write_csv
from upeti.cli.reconcile_show import show, tell
from upeti.cli.state import open_state
from upeti.core.amount import parse_pico
from upeti.core.errors import ConfigError
from upeti.core.events import CostCorrected
from upeti.money.rates import Rates
from upeti.money.reconcile.match import Channels, ConvertTo, OurUsage
from upeti.money.reconcile.run import Read, Statement
from upeti.providers.catalog import PROVIDERS

if TYPE_CHECKING:
    from upeti.control.store import Store

EXIT_UNEXPLAINED = 1
# A channel's zone as the price book names it begins with the zone as the provider's meters name it.
_ZONES = ("data_zone", "regional")


ReportArgument = Annotated[
    list[Path],
    typer.Argument(help="The provider's report; several files when it has several pages or parts.", show_default=False),
]
ChannelOption = Annotated[
    str | None, typer.Option(help="Everything in the report belongs to this channel.", show_default=False)
]
AccountOption = Annotated[
    list[str] | None,
    typer.Option(
        "--account",
        help="CHANNEL=ID: whose account it is, where the configuration does not say; ID@data_zone for one zone of it.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="THEIRS=OURS: the name of a model that no rule finds.", show_default=False),
]
ToleranceOption = Annotated[str, typer.Option(help="An amount up to which what is left of a line counts as rounding.")]
RatesOption = Annotated[
    Path | None,
    typer.Option(
        help="File of dated rates, for a report in another currency; without it money.rates_file.", show_default=False
    ),
]
HtmlOption = Annotated[Path | None, typer.Option(help="Write the report as a page, too.", show_default=False)]
CorrectOption = Annotated[
    bool, typer.Option("--correct", help="Turn estimated costs into what was billed, by corrections.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="With --correct: show the corrections, write none.")]


def reconcile(
    report: ReportArgument,
    channel: ChannelOption = None,
    account: AccountOption = None,
    model: ModelOption = None,
    first_day: FirstDayOption = None,
    last_day: LastDayOption = None,
    tolerance: ToleranceOption = "0",
    rates: RatesOption = None,
    html: HtmlOption = None,
    correct: CorrectOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    skip_damaged: SkipDamagedOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Compare a provider's report with the books; name every difference.

    Reads Azure cost exports, OpenAI costs and usage, Anthropic cost and usage reports, and a list of calls.
    Exit status 0 when all is explained, 1 when something is not, 2 when it cannot be done.
    """
    only_one(json=as_json, csv=as_csv)
    if dry_run and not correct:
        raise typer.BadParameter("--dry-run goes with --correct.")
    with complaints():
        from upeti.money.reconcile.correct import corrections
        from upeti.money.reconcile.run import read

        known = _Known(config, channel, _pairs(account or [], "--account", "CHANNEL=ID"))
        asked = tuple(day.date() if day is not None else None for day in (first_day, last_day))
        found = read(report, known.channels_of, *asked)
        directory = data_dir_of(config, data_dir)
        options = _Options(
            models=dict(_pairs(model or [], "--model", "THEIRS=OURS")),
            convert=_converter(rates or rates_file_of(config)),
            tolerance_pico=_tolerance_pico(tolerance),
            skip_damaged=skip_damaged,
        )
        with _state(config, directory if data_dir is not None else None) as store:
            made = _compare(found, store, directory, options)
        records = (
            corrections(made.billed, made.sha256, time.time_ns(), made.first_day, made.last_day) if correct else None
        )
        written = _write(directory, records) if records and not dry_run else 0
        _print(made, records, written, as_json=as_json, as_csv=as_csv, html=html)
        if records is not None:
            tell(records, written, dry_run=dry_run, to_error=as_json or as_csv)
    if not made.explained:
        raise typer.Exit(EXIT_UNEXPLAINED)


class _Options(NamedTuple):
    """How two sides are compared."""

    models: dict[str, str]
    convert: ConvertTo | None
    tolerance_pico: int
    skip_damaged: bool


def _print(
    made: Statement,
    records: Sequence[CostCorrected] | None,
    written: int,
    *,
    as_json: bool,
    as_csv: bool,
    html: Path | None,
) -> None:
    from upeti.money.reconcile import report

    if html is not None:
        _write_page(html, report.html(made))
    if as_json:
        content = report.document(made, records)
        typer.echo(json.dumps(content if records is None else content | {"written": written}, indent=2))
    elif as_csv:
        write_csv(report.CSV_HEADER, report.csv_rows(made))
    else:
        show(made, console())


class _Known:
    """The channels that accounts of a report may belong to."""

    def __init__(self, config: Path | None, channel: str | None, accounts: list[tuple[str, str]]) -> None:
        self._channel = channel
        self._given = {identity.lower(): name for name, identity in accounts}
        self._channels = accounts_of(config)

    def channels_of(self, provider: str) -> Channels:
        """Return whose accounts are whose, for a report of one provider. Raises ``ConfigError``."""
        if self._channel is not None:
            return Channels(default=self._channel)
        ours = [
            one for one in self._channels if provider == "calls" or _provider_of(one.kind, one.base_url) == provider
        ]
        accounts = {**_accounts(ours), **self._given}
        if accounts or provider == "calls":
            return Channels(accounts=accounts)
        if len(ours) == 1:
            return Channels(default=ours[0].name)
        names = ", ".join(one.name for one in ours) or "none"
        raise ConfigError(
            f"the report is {provider}'s, and the configuration has {names} for it: name the channel with --channel, or give "
            "each channel its `account`"
        )


def _accounts(channels: Sequence[ChannelAccount]) -> dict[str, str]:
    """Return account → channel; with its zone where several channels share an account. Raises ``ConfigError``."""
    named = Counter(one.account.lower() for one in channels)
    accounts: dict[str, str] = {}
    for one in channels:
        identity = one.account.lower()
        if not identity:
            continue
        if named[identity] > 1:
            identity += f"@{next((zone for zone in _ZONES if one.zone.startswith(zone)), 'global')}"
        if accounts.setdefault(identity, one.name) != one.name:
            raise ConfigError(
                f"{accounts[identity]} and {one.name} have the same account and zone, and nothing tells them apart on a bill: "
                "compare them as one channel with --channel, or give each its own account"
            )
    return accounts


def _provider_of(kind: str, base_url: str) -> str:
    if kind in ("azure", "anthropic"):
        return kind
    provider = PROVIDERS.get(kind)
    host = urlsplit(base_url or (provider.base_url if provider else "")).hostname or ""
    if kind == "openai_compatible" and host.endswith(".azure.com"):
        return "azure"
    return "openai" if kind == "openai_compatible" and host.endswith("api.openai.com") else ""


def _pairs(texts: Sequence[str], option: str, shape: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    wrong = [text for text, (left, _, right) in zip(texts, pairs, strict=True) if not left or not right]
    if wrong:
        raise ConfigError(f"{option} {wrong[0]}: write {shape}")
    return [(left, right) for left, _, right in pairs]


def _tolerance_pico(text: str) -> int:
    """Return pico units. Raises ``AmountError``, ``ConfigError`` for one below zero."""
    pico = parse_pico(text)
    if pico < 0:
        raise ConfigError(f"--tolerance {text}: it is an amount of zero or more")
    return pico


def _converter(path: Path | None) -> ConvertTo | None:
    """Return how to convert, None without a file of rates: the shipped one has no market rates."""
    if path is None:
        return None
    rates = Rates.load(path)

    def convert(theirs: str, ours: str, day: datetime.date) -> Decimal:
        return rates.rate(ours, day).rate / rates.rate(theirs, day).rate

    return convert


@contextmanager
def _state(config: Path | None, data_dir: Path | None) -> Iterator[Store]:
    if data_dir is None:
        store = open_state(config)
    else:
        from upeti.control.store import Store

        store = Store(data_dir)
    try:
        yield store
    finally:
        store.close()


def _compare(found: Read, store: Store, directory: Path, options: _Options) -> Statement:
    from upeti.control.books import Books
    from upeti.control.posting import Prices
    from upeti.control.reconciling import Attempts, aborted_of, capacity_of, taken_back_of, usage_of
    from upeti.journal.events_store import connect
    from upeti.money.reconcile.run import compare

    books = Books(store)
    price_of = Prices(books)
    first, last = found.first_day, found.last_day
    if first is None or last is None or first > last:
        raise ConfigError("the report has nothing for these days: see what it covers, and --from and --to")
    sides: dict[str, Any]
    shared: dict[str, Any] = {
        "models": options.models,
        "convert": options.convert,
        "tolerance_pico": options.tolerance_pico,
    }
    with connect(directory, skip_damaged=options.skip_damaged) as events:
        if found.calls:
            attempts = Attempts(events, price_of, found.calls, first, last)
            sides = {"aborted": attempts.aborted, "call_names": attempts.names}
            return compare(found, attempts.usage, price_of, **sides, **shared)
        aborted = aborted_of(events, first, last)
        damage = events.execute("SELECT segment, error FROM damage ORDER BY segment").fetchall()
    channels = found.channels
    sides = {
        "aborted": aborted,
        "taken_back": taken_back_of(directory, first, last, channels),
        "capacity": capacity_of(books, first, last, channels),
    }
    usage = usage_of(store, directory, price_of, first, last, skip_damaged=options.skip_damaged)
    made = compare(found, [OurUsage(row) for row in usage if row.channel in channels], price_of, **sides, **shared)
    made.notes += [f"incomplete: {segment} is left out from its damage on: {error}" for segment, error in damage]
    others = {row.channel for row in usage} - channels
    if others:
        made.notes.append(f"not in the report, so not compared: {', '.join(sorted(others))}")
    return made


def _write(directory: Path, records: list[CostCorrected]) -> int:
    from upeti.control.corrections import write_corrections

    return write_corrections(directory, records)


def _write_page(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; name another file") from error
