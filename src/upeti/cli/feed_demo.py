"""`upeti feed demo`: real events replayed, on the screen as it happens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upeti.cli.feed import feed_app
from upeti.cli.feed_lab import print_worth
from upeti.cli.options import JsonOption
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from upeti.feed.demo import Day, Total, Understood

_DAYS_SHOWN = 25


@feed_app.command("demo")
def demo_command(
    folder: Annotated[Path, typer.Argument(help="The folder that holds MovieTweetings.", metavar="FOLDER")],
    days: Annotated[
        int,
        typer.Option(min=2, max=180, help="How many of the last days are replayed; the first ten are learned from."),
    ] = 30,
    price: Annotated[str, typer.Option(help="What enriching one film is taken to cost, in USD.")] = "0.0002",
    event_value: Annotated[str, typer.Option(help="What one more engaged event is worth (λ), in USD.")] = "0.01",
    embed: Annotated[
        bool, typer.Option("--embed/--no-embed", help="Let MiniLM read the films first, a minute or two of one core.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Replay real events in the order of time, each day ranked before it happened, and print the verdict.

    Beside the ranker stand three-day popularity and the two arms of an experiment. MiniLM stands in for a paid model, at
    an assumed price. Nothing is kept.
    """
    try:
        from upeti.feed.demo import play
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: `pip install 'upeti[feed]'`") from None
    days_shown, total = _watched(play(folder, days, price=price, event_value=event_value, embed=embed), quiet=as_json)
    if as_json:
        from upeti.feed.worth_pages import worth_values

        values = total._asdict() | {"worth": worth_values(total.worth, total.experiment)}
        values.pop("experiment")
        typer.echo(json.dumps({"days": [one._asdict() for one in days_shown], **values}, indent=2))
        return
    typer.echo(
        f"\n{total.events:,} events at {total.events_per_s:,.0f} a second; {total.feeds:,} feeds were ranked before what they "
        f"are judged by had happened.\nNDCG@10 {total.ranked:.4f}, three-day popularity {total.popular:.4f}: "
        f"{total.lift[0]:+.1%} (95 %: {total.lift[1]:+.1%} to {total.lift[2]:+.1%}).\n\n"
        f"Is enrichment worth it, if it costs {price} USD a film and an engaged event is worth {event_value} USD?\n"
    )
    print_worth(total.worth)


def _watched(played: Iterable[Understood | Day | Total], *, quiet: bool) -> tuple[list[Day], Total]:
    """Show what happens as it does, on standard error when standard output is for a program."""
    from rich.console import Console
    from rich.live import Live

    from upeti.feed.demo import Day, Total

    shown: list[Day] = []
    total: Total | None = None
    with Live("Reading …", console=Console(stderr=quiet), refresh_per_second=4) as live:
        for one in played:
            if isinstance(one, Day):
                shown.append(one)
                live.update(_view(shown))
            elif isinstance(one, Total):
                total = one
            else:
                live.update(f"MiniLM reads the films: {one.texts:,} of {one.of:,}")
    assert total is not None
    return shown, total


def _view(days: Sequence[Day]) -> RenderableType:
    from upeti.cli.output import cell, table

    names = ("free", "enriched")
    made = table([("day", False), *((header, True) for header in ("feeds", "popularity", "ranker", *names))])
    made.caption = f"NDCG@10 by day · {days[-1].events:,} events played, {days[-1].events_per_s:,.0f} a second"
    for one in days[-_DAYS_SHOWN:]:
        ranked = "" if one.ranked is None else f"{one.ranked:.4f}"
        arms = [f"{one.by_arm[name]:.4f}" if name in one.by_arm else "" for name in names]
        values: list[str | int | None] = [one.day, one.feeds, f"{one.popular:.4f}", ranked, *arms]
        made.add_row(*map(cell, values))
    return made
