"""`upeti ledger`: double entry over the journal: balances, postings, proof, closing of months."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

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
from upeti.cli.output import aligned, cell, console, only_one, plain, table, write_csv
from upeti.cli.state import open_books
from upeti.core.amount import decimal_text
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from upeti.control.book_audit import BookAudit
    from upeti.control.store import Store
    from upeti.money.ledger import Batch, Posting

ledger_app = typer.Typer(
    help="Double entry over the journal: balances, postings, proof, closing of months.", no_args_is_help=True
)

_BY: Final = ("account", "tenant", "channel", "day", "period")


@ledger_app.command("balance")
def balance_command(
    by: Annotated[str, typer.Option("--by", help=f"Comma-separated: {', '.join(_BY)}.")] = "account",
    first_day: FirstDayOption = None,
    last_day: LastDayOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print the trial balance: what each account owes or is owed, in every currency; exit status 1 when the whole is not
    zero.

    Debits are positive, credits negative. Every batch balances by itself, so the sum of all is zero.
    """
    only_one(json=as_json, csv=as_csv)
    with complaints():
        names = [name.strip() for name in by.split(",") if name.strip()]
        unknown = [name for name in names if name not in _BY]
        if unknown or not names:
            raise ConfigError(f"balances are by {', '.join(_BY)}, not by {', '.join(unknown) or 'nothing'}")
        with open_books(config, data_dir) as store:
            chosen = list(_chosen(store, first_day, last_day, tenant))
        sums: dict[tuple[str, ...], int] = {}
        totals: dict[str, int] = {}
        for batch, posting in chosen:
            key = (posting.currency, *(_value(batch, posting, name) for name in names))
            sums[key] = sums.get(key, 0) + posting.amount_pico
            totals[posting.currency] = totals.get(posting.currency, 0) + posting.amount_pico
    lines = [(key, pico) for key, pico in sorted(sums.items()) if pico]
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "by": names,
                    "lines": [
                        {"currency": key[0], **dict(zip(names, key[1:], strict=True)), "balance": decimal_text(pico)}
                        for key, pico in lines
                    ],
                    "totals": {currency: decimal_text(pico) for currency, pico in sorted(totals.items())},
                },
                indent=2,
            )
        )
    elif as_csv:
        write_csv(["currency", *names, "balance"], [[*key, decimal_text(pico)] for key, pico in lines])
    else:
        _show_balance(names, lines, totals)
    if any(totals.values()) and (tenant, first_day, last_day) == (None, None, None):  # a part need not be zero
        raise typer.Exit(1)


def _show_balance(names: list[str], lines: Sequence[tuple[tuple[str, ...], int]], totals: dict[str, int]) -> None:
    screen = console()
    if not lines:
        screen.print("Nothing is posted.")
        return
    shown = table([("currency", False), *((name, False) for name in names), ("debit", True), ("credit", True)])
    debits = aligned([pico if pico > 0 else None for _, pico in lines])
    credits = aligned([-pico if pico < 0 else None for _, pico in lines])
    for (key, _), debit, credit in zip(lines, debits, credits, strict=True):
        shown.add_row(*map(cell, key), debit or "", credit or "")
    screen.print(shown)
    for currency, pico in sorted(totals.items()):
        text = "debits and credits are equal" if not pico else f"debits and credits differ by {decimal_text(pico)}"
        screen.print(f"{currency}: {text}.", markup=False, highlight=False, style="" if not pico else "bold red")


@ledger_app.command("postings")
def postings_command(
    batch: Annotated[int | None, typer.Option(help="Only this batch.", show_default=False)] = None,
    account: Annotated[str | None, typer.Option(help="Only this account.", show_default=False)] = None,
    tenant: TenantOption = None,
    first_day: FirstDayOption = None,
    last_day: LastDayOption = None,
    limit: Annotated[int, typer.Option(min=0, help="How many of the last to print; 0: all.")] = 100,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List postings in the order in which they were made, each with its batch and what that stands for."""
    only_one(json=as_json, csv=as_csv)
    with complaints(), open_books(config, data_dir) as store:
        found = [
            _row(one, posting)
            for one, posting in _chosen(store, first_day, last_day, tenant)
            if batch in (None, one.number) and account in (None, posting.account)
        ]
    found = found[-limit:] if limit else found
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif as_csv:
        write_csv(list(_ROW), [list(row.values()) for row in found])
    else:
        shown = table([(name, name in ("batch", "amount")) for name in _ROW])
        for row in found:
            shown.add_row(*(cell(str(value)) for value in row.values()))
        console().print(shown if found else "Nothing is posted.")


_ROW: Final = (
    "batch",
    "kind",
    "stands_for",
    "period",
    "day",
    "account",
    "tenant",
    "channel",
    "amount",
    "currency",
    "memo",
)


def _row(batch: Batch, posting: Posting) -> dict[str, Any]:
    segment = f"{batch.instance}/{batch.segment}" if batch.instance else ""
    amount = decimal_text(posting.amount_pico)
    values = (batch.number, batch.kind, batch.reference or segment, batch.period, posting.day.isoformat())
    more = (posting.account, posting.tenant, posting.channel, amount, posting.currency, posting.memo)
    return dict(zip(_ROW, (*values, *more), strict=True))


@ledger_app.command("verify")
def verify_command(as_json: JsonOption = False, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Check the whole chain from a call's record to the invoice; exit status 1 when something is not as it should be.

    Every batch's hash and chain; every posted segment of this node is read again and must give the same digest,
    postings and usage; the Parquet files, the usage and the postings must have the same sums;
    debits must equal credits; every invoice must be the document that was posted.
    """
    with complaints(), open_books(config, data_dir) as store:
        from upeti.control.book_audit import audit_books

        result = audit_books(store, _node(store, config, data_dir))
    if as_json:
        import msgspec

        values = {**msgspec.to_builtins(result), "sound": result.sound}
        typer.echo(json.dumps(values, indent=2))
    else:
        _show_audit(result)
    if not result.sound:
        raise typer.Exit(1)


def _show_audit(result: BookAudit) -> None:
    screen = console()
    for finding in result.findings:
        text = plain(f"{finding.where}: {finding.kind}: {finding.message}")
        screen.print(text, style="bold red", markup=False, highlight=False, soft_wrap=True)
    for node, count in sorted(result.unchecked.items()):
        text = f"{count:,} segments of the node {plain(node)} are not checked here: run this there, too."
        screen.print(text, markup=False, highlight=False)
    for reference, count in sorted(result.simulated.items()):
        text = f"{plain(reference)}: {count:,} batches of usage that never was; no journal stands behind them."
        screen.print(text, style="yellow", markup=False, highlight=False)
    checked = f"{result.batches:,} batches, {result.segments:,} segments, {result.invoices:,} invoices checked"
    screen.print(f"{checked}; the last hash is {result.last_hash}.", markup=False, highlight=False, soft_wrap=True)
    screen.print("The books are sound." if result.sound else "The books are damaged.", style="bold")


@ledger_app.command("close")
def close_command(
    period: Annotated[str, typer.Argument(help="A month, such as 2026-10.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Close a month: nothing is posted in it any more, and it can be invoiced.

    Refused while anything that was settled in it is not posted yet, or attempts made in it are open.
    What comes late, and every correction, is posted in the next open month.
    """
    with complaints(), open_books(config, data_dir) as store:
        from upeti.control.closing import close_period

        batch = close_period(store, _node(store, config, data_dir), period)
    if as_json:
        typer.echo(json.dumps({"period": period, "batch": batch.number, "hash": batch.hash}))
    else:
        typer.echo(f"{period} is closed with batch {batch.number}, hash {batch.hash}")


@ledger_app.command("periods")
def periods_command(as_json: JsonOption = False, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """List the months with batches, and which of them are closed."""
    with complaints(), open_books(config, data_dir) as store:
        from upeti.control.closing import periods

        rows = periods(store)
    if as_json:
        values = [{"period": r.period, "batches": r.batches, "closed_at": _utc(r.closed_ns)} for r in rows]
        typer.echo(json.dumps(values, indent=2))
        return
    shown = table([("period", False), ("batches", True), ("closed", False)])
    for row in rows:
        shown.add_row(cell(row.period), cell(row.batches), cell(_utc(row.closed_ns) or "open"))
    console().print(shown if rows else "Nothing is posted.")


@ledger_app.command("post")
def post_command(as_json: JsonOption = False, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Post now what the keeper would post within a minute; needed only where none runs.

    Journal segments that are closed become batches, and Parquet files, too.
    """
    with complaints(), open_books(config, data_dir) as store:
        from upeti.control.jobs import project
        from upeti.control.places import Places, TakenError

        _node(store, config, data_dir)
        places = Places(store.data_dir)
        places.make()
        keeper: str | None = ""
        try:
            os.close(places.lock("keeper"))
        except TakenError:
            keeper = None  # it lives, so its own journal is not taken for a dead one's
        lock = places.lock("projection")
        try:
            count = project(store.data_dir, store, keeper)
        finally:
            os.close(lock)
    typer.echo(json.dumps({"segments": count}) if as_json else f"{count:,} segments were posted")


def _node(store: Store, config: Path | None, data_dir: Path | None) -> str:
    """Return whose journals are in the data directory."""
    from upeti.control.places import Places

    named = values_of(config).get("node", {}) if data_dir is None else {}
    name = named.get("name", "") if isinstance(named, dict) else ""
    return Places(store.data_dir).node(name if isinstance(name, str) else "").name


def _chosen(
    store: Store, first_day: datetime.datetime | None, last_day: datetime.datetime | None, tenant: str | None
) -> Iterator[tuple[Batch, Posting]]:
    from upeti.control.books import Books

    return (
        (batch, posting)
        for batch in Books(store).batches()
        for posting in batch.postings
        if (first_day is None or posting.day >= first_day.date())
        and (last_day is None or posting.day <= last_day.date())
        and tenant in (None, posting.tenant)
    )


def _value(batch: Batch, posting: Posting, name: str) -> str:
    if name == "period":
        return batch.period
    return posting.day.isoformat() if name == "day" else str(getattr(posting, name))


def _utc(at_ns: int) -> str | None:
    return f"{datetime.datetime.fromtimestamp(at_ns // 10**9, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}" if at_ns else None
