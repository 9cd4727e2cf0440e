"""`upeti journal acts`: who decided what, when and why."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import typer

from upeti.cli.options import ConfigOption, DataDirOption, JsonOption, complaints, data_dir_of
from upeti.cli.output import cell, console, table
from upeti.journal.acts import read_acts
from upeti.money.window import iso_time


def acts_command(
    kind: Annotated[
        str, typer.Option(help="Only this kind, or all of one idea, such as rights.", show_default="all")
    ] = "",
    subject: Annotated[str, typer.Option(help="Only what happened to this id.", show_default="all")] = "",
    by: Annotated[str, typer.Option("--by", help="Only what this person or rule decided.", show_default="all")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print acts, oldest first: what people and rules decided, with name and reason, from their own chained journal."""
    with complaints():
        found = [
            one
            for one in read_acts(data_dir_of(config, data_dir))
            if (not kind or one.kind == kind or one.kind.startswith(f"{kind}."))
            and subject in ("", one.subject)
            and by in ("", one.actor)
        ]
    if as_json:
        rows: list[dict[str, Any]] = [
            {**msgspec.structs.asdict(one), "detail": msgspec.json.decode(one.detail)} for one in found
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    shown = table([(name, False) for name in ("at", "by", "what", "subject", "why")])
    for one in found:
        shown.add_row(*map(cell, (iso_time(one.at_ns, "UTC"), one.actor, one.kind, one.subject, one.reason)))
    console().print(shown if found else "No act fits.")
