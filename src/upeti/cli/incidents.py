"""`upeti incidents`: what was cut off, when, why, and since when it works again."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from upeti.cli.options import ConfigOption, JsonOption
from upeti.cli.state import open_state

incidents_app = typer.Typer(
    help="What providers cut off, when, why, and since when it works again.", no_args_is_help=True
)


@incidents_app.command("list")
def list_command(
    channel: Annotated[str, typer.Option(help="Only this channel.", show_default="all")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List incidents, newest first: one for each latch."""
    from upeti.control.latch_view import shown_incident
    from upeti.control.latches import all_incidents

    rows = [shown_incident(one) for one in all_incidents(open_state(config), channel)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from upeti.cli.output import cell, console, table

    columns = ("id", "channel", "scope", "opened", "why", "calls", "probes", "recovered")
    shown = table([(name, name in ("calls", "probes")) for name in columns])
    for row in rows:
        shown.add_row(*(cell(row[name] if row[name] is not None else "") for name in columns))
    console().print(shown if rows else "There were no incidents.")


@incidents_app.command("show")
def show_command(
    incident: Annotated[str, typer.Argument(metavar="ID", help="As in the list, and in what clients are told.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one incident: what the provider said (without keys, addresses and ids), and what it was taken to mean."""
    from upeti.cli.output import plain
    from upeti.control.latch_view import shown_incident
    from upeti.control.latches import incident_of

    row = shown_incident(incident_of(open_state(config), incident))
    if as_json:
        typer.echo(json.dumps(row, indent=2))
        return
    for name, value in row.items():
        if value is not None:
            typer.echo(f"{name.replace('_', ' '):<13} {plain(str(value))}")
