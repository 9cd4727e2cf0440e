"""`upeti feed`: serve a personal feed, bring data in, train its ranker, see it at work."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upeti.cli.options import CONFIG_FILE, ConfigOption, JsonOption, values_of

if TYPE_CHECKING:
    from upeti.feed.importing import Data
    from upeti.feed.store import FeedStore

feed_app = typer.Typer(
    help="Serve a personal feed, bring data in, train its ranker, see what enrichment is worth.", no_args_is_help=True
)
import_app = typer.Typer(help="Bring items and feedback in.", no_args_is_help=True)
feed_app.add_typer(import_app, name="import")

TenantArgument = Annotated[str, typer.Option("--tenant", help="Whose feed it is.")]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that cannot be taken, and say which.")]
FolderArgument = Annotated[Path, typer.Argument(help="The folder that holds the data set.", metavar="FOLDER")]
ItemsOption = Annotated[Path | None, typer.Option("--items", help="File of items.", show_default=False)]
FeedbackOption = Annotated[Path | None, typer.Option("--feedback", help="File of feedback.", show_default=False)]


@feed_app.command("serve")
def serve_command(
    config: ConfigOption = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port, in place of `[feed] port`; 0 takes a free one.", show_default=False),
    ] = None,
) -> None:
    """Serve feeds until Ctrl-C or SIGTERM. `upeti serve` does so too with `[feed] enabled = true`."""
    from upeti.control.feed_service import serve

    serve(config or Path(CONFIG_FILE), port=port)


@import_app.command("movietweetings")
def movietweetings_command(
    folder: FolderArgument, tenant: TenantArgument = "demo", as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Import MovieTweetings: 10,506 films, 100,000 ratings."""
    from upeti.feed.importing import movietweetings

    _import(config, tenant, movietweetings(folder), None, as_json=as_json)


@import_app.command("ranklens")
def ranklens_command(
    folder: FolderArgument, tenant: TenantArgument = "demo", as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Import RankLens: 2,512 films with descriptions and tags, 46,125 clicks."""
    from upeti.feed.importing import ranklens

    _import(config, tenant, ranklens(folder), None, as_json=as_json)


@import_app.command("csv")
def csv_command(
    tenant: TenantArgument,
    items: ItemsOption = None,
    feedback: FeedbackOption = None,
    skip_bad: SkipBadOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Import CSV files with a header."""
    _one_of(items, feedback)
    from upeti.feed.importing import from_csv

    left_out: list[str] | None = [] if skip_bad else None
    _import(config, tenant, from_csv(items, feedback, left_out), left_out, as_json=as_json)


@import_app.command("parquet")
def parquet_command(
    tenant: TenantArgument,
    items: ItemsOption = None,
    feedback: FeedbackOption = None,
    skip_bad: SkipBadOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Import Parquet files with the columns that CSV files have."""
    _one_of(items, feedback)
    from upeti.feed.importing import from_parquet

    left_out: list[str] | None = [] if skip_bad else None
    _import(config, tenant, from_parquet(items, feedback, left_out), left_out, as_json=as_json)


@feed_app.command("refit")
def refit_command(tenant: TenantArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Train the models anew and let them serve if they pass the gate. A running service takes them within a second."""
    from upeti.feed.refit import refit

    with opened(config) as (store, directory):
        done = refit(store, directory, tenant, now_ns=time.time_ns())._asdict()
    if as_json:
        typer.echo(json.dumps(_finite(done), indent=2))
        return
    verdict = "serves now" if done["is_live"] else f"was refused: {'; '.join(done['reasons'])}"
    typer.echo(f"version {done['version']} {verdict}")
    typer.echo(
        f"NDCG@10 on {done['judged_on']} held-back feeds: {done['ndcg']:.4f}; before: {done['ndcg_live']:.4f}; "
        f"popularity: {done['ndcg_popular']:.4f}; trained on {done['trained_on']} feeds in {done['seconds']:.0f} s"
    )


@feed_app.command("rollback")
def rollback_command(
    tenant: TenantArgument,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the journal of acts.")],
    actor: Annotated[str, typer.Option(help="Who decides.")] = "cli",
    to: Annotated[str, typer.Option(help="The version; without it the one before.", show_default=False)] = "",
    config: ConfigOption = None,
) -> None:
    """Have an earlier version of the models serve again."""
    from upeti.feed.refit import rollback

    with opened(config) as (store, directory):
        version = rollback(store, directory, tenant, actor=actor, reason=reason, now_ns=time.time_ns(), to=to)
    typer.echo(f"version {version} serves again")


def _one_of(items: Path | None, feedback: Path | None) -> None:
    if items is None and feedback is None:
        raise typer.BadParameter("name a file with --items, --feedback or both: nothing would be imported.")


def _import(config: Path | None, tenant: str, data: Data, left_out: list[str] | None, *, as_json: bool) -> None:
    from upeti.feed.importing import import_data

    began_s = time.monotonic()
    with opened(config) as (store, _):
        done = import_data(store, tenant, data, time.time_ns(), left_out=left_out)
    if as_json:
        typer.echo(json.dumps(done._asdict(), indent=2))
        return
    spent_s = time.monotonic() - began_s
    typer.echo(
        f"{done.items:,} items and {done.feedback:,} new of {done.feedback_rows:,} rows of feedback for {tenant} "
        f"in {spent_s:.1f} s"
    )
    for reason in done.left_out[:20]:
        typer.echo(f"left out: {reason}", err=True)
    if len(done.left_out) > 20:
        typer.echo(f"… and {len(done.left_out) - 20:,} more rows were left out", err=True)


@contextmanager
def opened(config: Path | None) -> Iterator[tuple[FeedStore, Path]]:
    """Open the feed's store, made where it is not there yet. Raises ``ConfigError``."""
    from upeti.cli.state import state_of
    from upeti.core.errors import ConfigError

    directory, _ = state_of(config)
    feed = values_of(config).get("feed", {})
    try:
        from upeti.feed.store import FeedStore
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: `pip install 'upeti[feed]'`") from None
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = FeedStore(directory, url=feed.get("url", "") if isinstance(feed, dict) else "")
    try:
        yield store, directory
    finally:
        store.close()


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in values.items()}
