"""`upeti channels`: which channels are usable or latched; latch, open and probe them."""

from __future__ import annotations

import json
import time
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from upeti.cli.keeper_call import ask_keeper
from upeti.cli.options import ByOption, ConfigOption, JsonOption, WhyOption, values_of
from upeti.cli.places import channels_in
from upeti.cli.state import open_state, state_of
from upeti.core.errors import ConfigError

channels_app = typer.Typer(
    help="Show which channels are usable or latched; latch, open and probe them.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The channel's name.")]
ModelOption = Annotated[
    str, typer.Option("--model", help="Only this model of the channel.", show_default="the channel")
]


@channels_app.command("list")
def list_command(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the channels: usable or latched, since when and why, when the next probe is due, and whether a breaker is open.

    What no running worker says, the breaker, is shown as unknown while Upeti does not run.
    """
    from upeti.control.latch_view import channels_shown
    from upeti.control.latches import all_latches

    try:
        rows = ask_keeper(config, "GET", "/v1/channels")
    except ConfigError:
        kinds = {name: seen.kind for name, seen in channels_in(values_of(config)).items()}
        rows = msgspec.to_builtins(channels_shown(kinds, all_latches(open_state(config)), None))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from upeti.cli.output import cell, console, table

    columns = ("channel", "model", "state", "since", "why", "incident", "next probe", "breaker")
    shown = table([(name, False) for name in columns])
    for row in rows:
        breaker = {None: None, True: "open", False: "closed"}[row["breaker_open"]]
        values = [row[name] or "" for name in ("channel", "model", "state", "since", "why", "incident", "next_probe")]
        shown.add_row(*map(cell, values), cell(breaker))
    console().print(shown if rows else "There are no channels yet: add a [[channel]].")


@channels_app.command("latch")
def latch_command(
    name: NameArgument, by: ByOption, why: WhyOption, model: ModelOption = "", config: ConfigOption = None
) -> None:
    """Take a channel, or one of its models, out of every plan until a person opens it. A running Upeti does it within a
    second; calls under way end as they would.
    """
    from upeti.control.latches import person_latched

    known = channels_in(values_of(config))
    if name not in known:
        raise ConfigError(f"there is no channel `{name}`; `upeti channels list` shows them")
    made = person_latched(
        open_state(config), state_of(config)[0], name, model=model, by=by, why=why, now_ns=time.time_ns()
    )
    typer.echo(f"{_of(name, model)} is latched (incident {made.incident}); `upeti channels open {name}` opens it.")


@channels_app.command("open")
def open_command(
    name: NameArgument, by: ByOption, why: WhyOption, model: ModelOption = "", config: ConfigOption = None
) -> None:
    """Open what is latched of a channel, or one of its models. Should it be cut off still, the next call latches it again."""
    from upeti.control.latches import person_opened

    opened = person_opened(
        open_state(config), state_of(config)[0], name, model=model, by=by, why=why, now_ns=time.time_ns()
    )
    for subject in opened:
        typer.echo(f"{subject.words} is open.")


@channels_app.command("probe")
def probe_command(
    name: NameArgument, model: ModelOption = "", as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Have a worker send a request that is known to be good, now. It costs a few tokens, of the tenant `upeti`.

    What a probe finds sound is opened, unless a person latched it. Ends with status 1 when anything is not.
    """
    found = ask_keeper(config, "POST", f"/v1/channels/{quote(name)}/probe", {"model": model})
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for one in found:
            status = f", status {one['status']}" if one["status"] else ""
            typer.echo(f"{one['subject']}: {one['verdict']}{status}: {one['what']}")
    if any(one["verdict"] != "sound" for one in found):
        raise typer.Exit(1)


def _of(name: str, model: str) -> str:
    return f"The model {model} of the channel {name}" if model else f"The channel {name}"
