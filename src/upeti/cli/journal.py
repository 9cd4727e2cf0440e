"""`upeti journal`: check the journal, or look into it."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from upeti.cli.acts import acts_command
from upeti.cli.options import ConfigOption, DataDirOption, JsonOption, complaints, data_dir_of
from upeti.cli.output import cell, console, plain, table
from upeti.core.amount import decimal_text
from upeti.core.events import Record
from upeti.journal.reader import Follower, instances
from upeti.journal.verify import Verification, verify

_POLL_SECONDS = 0.2

journal_app = typer.Typer(help="Check the journal, or look into it.", no_args_is_help=True)
journal_app.command("acts")(acts_command)


@journal_app.command("verify")
def verify_command(as_json: JsonOption = False, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Check every byte of the journal and every rule of it; exit status 1 when something is damaged.

    Checksums, the chain of digests over all segments, missing segments;
    every attempt opened once and settled once, every cost within its bound.
    It may run while workers write.
    """
    with complaints():
        result = verify(data_dir_of(config, data_dir))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        _show(result, console())
    if not result.sound:
        raise typer.Exit(1)


def _show(result: Verification, screen: Console) -> None:
    numbers = (
        "segments",
        "blocks",
        "bytes",
        "opened",
        "settled",
        "recovered",
        "corrected",
        "refused",
        "signalled",
        "pairs",
        "acts",
        "open",
    )
    shown = table([("instance", False), *((name, True) for name in numbers), ("ended", False)])
    for one in result.instances:
        counts = (getattr(one, name) for name in numbers)
        shown.add_row(cell(one.instance), *map(cell, counts), cell("yes" if one.ended else "no"))
    if result.instances:
        screen.print(shown)
    for finding in result.findings:
        word = "damage" if finding.damage else "notice"
        where = finding.instance if finding.segment < 0 else f"{finding.instance} segment {finding.segment}"
        style = "bold red" if finding.damage else "yellow"
        text = plain(f"{word}: {where}: {finding.kind}: {finding.message}")
        screen.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    unlisted = sum(result.counts.values()) - len(result.findings)
    if unlisted:
        screen.print(f"… and {unlisted:,} more of the same kinds.")
    screen.print("The journal is sound." if result.sound else "The journal is damaged.", style="bold")


@journal_app.command("tail")
def tail_command(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing what is written.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many of the last records to begin with.")
    ] = 20,
    instance: Annotated[str | None, typer.Option(help="Only this worker's journal.", show_default=False)] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print the last records as JSON, one a line, oldest first.

    Looks into the newest segment of each instance.
    Times are UTC, money is exact decimals; characters beyond plain ASCII are escaped.
    """
    with complaints():
        tail = _Tail(data_dir_of(config, data_dir), instance)
        news = sorted(tail.news(), key=lambda one: one[1].at_ns)
        for name, record in news[max(0, len(news) - lines) :]:
            typer.echo(_json_line(name, record))
        try:
            while follow:
                time.sleep(_POLL_SECONDS)
                for name, record in tail.news():
                    typer.echo(_json_line(name, record))
        except KeyboardInterrupt:
            return


class _Tail:
    """Followers of all instances, also of those that appear later."""

    def __init__(self, data_dir: Path, instance: str | None) -> None:
        self._data_dir = data_dir
        self._instance = instance
        self._followers: dict[str, Follower] = {}

    def news(self) -> list[tuple[str, Record]]:
        """Return what is new in all instances. Raises ``JournalError`` when a journal is damaged."""
        first = not self._followers
        for directory in instances(self._data_dir):
            if directory.name not in self._followers and self._instance in (None, directory.name):
                self._followers[directory.name] = Follower(directory, from_last_segment=first)
        return [
            (name, record)
            for name, follower in self._followers.items()
            for records in follower.read()
            for record in records
        ]


def _json_line(instance: str, record: Record) -> str:
    return json.dumps({"instance": instance, **_named(record)}).replace("\x7f", "\\u007f")


def _named(value: Any) -> Any:
    """Return a record as a dictionary that reads well: times as text, amounts as decimals, kinds by name."""
    if isinstance(value, tuple):
        return [_named(one) for one in value]
    if not isinstance(value, msgspec.Struct):
        return value
    named: dict[str, Any] = {"record": value.__struct_config__.tag}
    for field in value.__struct_fields__:
        content = getattr(value, field)
        if field == "at_ns":
            named["at"] = _utc(content)
        elif field.endswith("_pico"):
            named[field.removesuffix("_pico")] = decimal_text(content)
        else:
            named[field] = _named(content)
    return named


def _utc(at_ns: int) -> str:
    seconds, rest = divmod(at_ns, 10**9)
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
