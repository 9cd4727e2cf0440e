"""`upeti dataset`: data sets out of kept pairs, every row by permission; their papers, and an audit that trusts nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from upeti.cli.options import AnswerableOption, ConfigOption, JsonOption
from upeti.cli.state import opened_rights

if TYPE_CHECKING:
    from upeti.cli.state import Opened
    from upeti.control.datasets import Dataset, Wanted
    from upeti.rights.manifest import Manifest

dataset_app = typer.Typer(
    help="Data sets out of kept pairs: every row by permission, signed, audited.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="NAME, or NAME@VERSION; without one the newest.")]
_DAYS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
_QUOTE_LETTERS = 160


@dataset_app.command("build")
def build_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name; each build is a new version.")],
    purpose: Annotated[
        str, typer.Option(help="What it is for, such as classify_internal; every row must be permitted for it.")
    ],
    by: AnswerableOption,
    tenant: Annotated[str, typer.Option(help="Only this tenant's pairs.", show_default="all")] = "",
    task: Annotated[str, typer.Option(help="Only this task's.", show_default="all")] = "",
    feature: Annotated[str, typer.Option(help="Only this feature's.", show_default="all")] = "",
    channel: Annotated[str, typer.Option(help="Only what this channel answered.", show_default="all")] = "",
    begin: Annotated[
        datetime | None, typer.Option("--from", formats=_DAYS, help="Captured from then on, UTC.", show_default=False)
    ] = None,
    end: Annotated[
        datetime | None, typer.Option("--until", formats=_DAYS, help="Captured before, UTC.", show_default=False)
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV of your own, with the columns text and label: rows from no provider.", show_default=False
        ),
    ] = None,
    labels_owner: Annotated[str, typer.Option(help="Who says that these labels are yours.", show_default=False)] = "",
    out: Annotated[
        Path | None, typer.Option(help="Directory to make.", show_default="data_dir/datasets/NAME/VERSION")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Build a version: rows.jsonl, its manifest, a Croissant description and a signed statement. Says what was left out and
    under which clause.
    """
    from upeti.control.datasets import Wanted

    wanted = Wanted(
        name=name,
        purpose=purpose,
        tenant=tenant,
        task=task,
        feature=feature,
        channel=channel,
        from_ns=_ns(begin),
        until_ns=_ns(end),
        labels=str(labels.resolve()) if labels is not None else "",
        labels_owner=labels_owner,
    )
    with opened_rights(config) as opened:
        _show(*_build(opened, wanted, by, out, quiet=as_json), as_json=as_json)


@dataset_app.command("rebuild")
def rebuild_command(
    name: NameArgument, by: AnswerableOption, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Build the next version of a data set as it was asked for: without what may no longer be in it."""
    from upeti.control.datasets import dataset, wanted_again

    with opened_rights(config) as opened:
        wanted = wanted_again(dataset(opened.store, name))
        _show(*_build(opened, wanted, by, None, quiet=as_json), as_json=as_json)


def _build(opened: Opened, wanted: Wanted, by: str, out: Path | None, *, quiet: bool) -> tuple[Dataset, Manifest]:
    from upeti.control.datasets import build

    with _progress(quiet) as seen:
        return build(opened.store, opened.terms, opened.bodies, wanted, by=by, directory=out, seen=seen)


@contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    screen = Console(stderr=True)
    if quiet or not screen.is_terminal:
        yield lambda count: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} pairs looked at"))
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda count: progress.update(task, completed=count)


def _show(made: Dataset, manifest: Manifest, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"directory": made.directory, **msgspec.to_builtins(manifest)}, indent=2))
        return
    from upeti.cli.output import cell, console, plain, table

    screen = console()
    print_plain(screen, f"{made.id}: {made.rows:,} rows for {made.purpose}, in {made.directory}")
    if manifest.duties:
        print_plain(screen, f"What comes with it: {', '.join(manifest.duties)}")
    if not manifest.left_out:
        return
    left = table(
        [("left out", True), ("because", False), ("clause", False), ("its words, or what would change it", False)]
    )
    for one in manifest.left_out:
        words = f"“{one.quote}”" if one.quote else one.why
        short = words if len(words) <= _QUOTE_LETTERS else f"{words[:_QUOTE_LETTERS]}…"
        left.add_row(*(cell(value) for value in (one.rows, one.reason, one.clause, plain(short))))
    screen.print(left)


def print_plain(screen: Any, text: str) -> None:
    from upeti.cli.output import plain

    screen.print(plain(text), markup=False, highlight=False, soft_wrap=True)


@dataset_app.command("list")
def list_command(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List all versions of all data sets."""
    from upeti.control.datasets import all_datasets

    with opened_rights(config, terms=False) as opened:
        found = all_datasets(opened.store)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    from upeti.cli.output import cell, console, table

    shown = table(
        [("data set", False), ("purpose", False), ("rows", True), ("left out", True), ("built", False), ("by", False)]
    )
    for one in found:
        shown.add_row(
            *(cell(value) for value in (one.id, one.purpose, one.rows, one.left_out, _day(one.built_ns), one.built_by))
        )
    console().print(shown if found else "There are no data sets yet: `upeti dataset build NAME --purpose …` makes one.")


@dataset_app.command("show")
def show_command(name: NameArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show a data set's manifest: where its rows are from and under which clauses, and what was left out."""
    from upeti.control.datasets import dataset, manifest_of

    with opened_rights(config, terms=False) as opened:
        made = dataset(opened.store, name)
        _show(made, manifest_of(made), as_json=as_json)


@dataset_app.command("verify")
def verify_command(name: NameArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Check files, statement and signature of a data set; exit status 1 when something is not as it was built."""
    from upeti.control.datasets import check, dataset

    with opened_rights(config, terms=False) as opened:
        made = dataset(opened.store, name)
        problems = check(opened.store, made)
    if as_json:
        typer.echo(json.dumps({"id": made.id, "sound": not problems, "problems": problems}, indent=2))
    else:
        typer.echo("\n".join(problems) if problems else f"{made.id} is as it was built.")
    if problems:
        raise typer.Exit(1)


@dataset_app.command("audit")
def audit_command(name: NameArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Judge every row of a data set anew, by code that shares nothing with what built it; exit status 1 when a row should
    not be there.
    """
    import time

    from upeti.control.consents import all_consents
    from upeti.control.datasets import dataset, lines_of
    from upeti.control.pairs import find
    from upeti.sim.rights_auditor import audit_rows

    with opened_rights(config) as opened:
        made = dataset(opened.store, name)
        rows = [json.loads(line) for line in lines_of(made)]
        wanted = {str(row.get("pair_id", "")) for row in rows}
        pairs = {
            one.pair_id: msgspec.structs.asdict(one) for one in find(opened.store, erased=None) if one.pair_id in wanted
        }
        consents = [msgspec.structs.asdict(one) for one in all_consents(opened.store)]
        found = audit_rows(opened.terms, rows, pairs, consents, made.purpose, time.time_ns())
    if as_json:
        typer.echo(json.dumps({"id": made.id, "rows": len(rows), "complaints": msgspec.to_builtins(found)}, indent=2))
    else:
        for one in found:
            typer.echo(f"line {one.line}: {one.pair_id}: {one.what}")
        typer.echo(
            f"{len(rows):,} rows of {made.id} were audited: {f'{len(found):,} complaints' if found else 'all may be there'}."
        )
    if found:
        raise typer.Exit(1)


def _ns(moment: datetime | None) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp()) * 10**9 if moment is not None else 0


def _day(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns // 10**9, UTC):%Y-%m-%d}"
