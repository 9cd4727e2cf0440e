"""`upeti drill`: cut a channel off on purpose, in the shadow or for real, and read what was left."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from upeti.cli.drill_show import show_list, show_progress, show_report
from upeti.cli.keeper_call import ask_keeper
from upeti.cli.options import CONFIG_FILE, ConfigOption, JsonOption
from upeti.cli.state import open_state
from upeti.core.errors import ConfigError, UpetiError

if TYPE_CHECKING:
    from upeti.control.drill_reports import Checked
    from upeti.control.drills import DrillRow

drill_app = typer.Typer(
    help="Cut a channel off on purpose, in the shadow or for real, and read what was left.", no_args_is_help=True
)

_LOOK_S: Final = 1.0
_REPORT_S: Final = 60.0  # the keeper settles, then a process reads the journal
_HOURS: Final = 24.0
_PERCENT: Final = 100.0

DrillArgument = Annotated[str, typer.Argument(metavar="DRILL", help="Id of a drill, or `last`.")]
ByOption = Annotated[str, typer.Option("--by", help="Who does it: a person's name.")]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", help="Write the report's page into this file.", show_default=False)
]


@drill_app.command("cut")
def cut_command(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="Name of the channel that is cut off.")],
    by: ByOption,
    live: Annotated[
        str,
        typer.Option(
            "--live", help="For real, for this share of the calls, such as `5%`.", show_default="in the shadow"
        ),
    ] = "",
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Replay the journal; nothing is cut. It is the default.")
    ] = False,
    hours: Annotated[
        float, typer.Option(min=0.01, help="In the shadow: how much of the journal, from now back.")
    ] = _HOURS,
    minutes: Annotated[float, typer.Option(min=0.05, max=240, help="Live: how long; it ends then by itself.")] = 10.0,
    kind: Annotated[
        str, typer.Option(help="Live: what the calls meet: error, refused, reset, silent or slow.")
    ] = "error",
    signal: Annotated[
        str,
        typer.Option(help="Live: of an error, a row of the table of signals.", show_default="the account is gone"),
    ] = "",
    delay_ms: Annotated[int, typer.Option(min=1, help="Live: of a slow provider, how late it answers.")] = 2_000,
    abort_below: Annotated[
        str,
        typer.Option(help="Live: end at once when fewer calls survive, such as `90%`.", show_default="as [drill] says"),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Live: also when no route has an alternative.")] = False,
    why: Annotated[str, typer.Option(help="Why; it is journaled and in the report.", show_default=False)] = "",
    html: HtmlOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Cut a channel off, and report: share survived by feature, time to recover, cost and quality after, rights that change,
    what has no alternative.

    In the shadow (the default) the journal's last hours are replayed against what would remain; nothing is cut.

    With `--live` the calls of a share meet the cut for real; Ctrl-C ends it at once. Ends with status 1 when it was aborted.
    """
    if live and shadow:
        raise ConfigError("a drill is live or in the shadow: choose --live SHARE or --shadow")
    if not live:
        row = _shadow(config, channel, by, why, hours)
    else:
        wanted: dict[str, Any] = {
            "channel": channel,
            "share_percent": _share(live),
            "minutes": minutes,
            "by": by,
            "why": why,
            "kind": kind,
            "signal": signal,
            "delay_ms": delay_ms,
            "abort_below_percent": _share(abort_below) if abort_below else None,
            "force": force,
        }
        row = _live(config, wanted, quiet=as_json)
    _print(config, row, as_json=as_json, html=html)
    if row.ended_by == "rule:survival":
        raise typer.Exit(1)


@drill_app.command("list")
def list_command(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the drills, newest first."""
    from upeti.control.drill_watch import shown
    from upeti.control.drills import all_drills

    rows = all_drills(open_state(config))
    if as_json:
        typer.echo(json.dumps([shown(row) for row in rows], indent=2))
    else:
        show_list(rows)


@drill_app.command("show")
def show_command(
    drill: DrillArgument = "last",
    html: HtmlOption = None,
    envelope: Annotated[
        Path | None,
        typer.Option(help="Write the signed report, a DSSE envelope, into this file.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the report of a drill, after its signature was checked; `--json` prints it as it was signed."""
    from upeti.control.drills import drill_of

    row = drill_of(open_state(config), drill)
    if envelope is not None:
        if not row.envelope:
            raise ConfigError(f"the drill {row.id} has no report yet ({row.state})")
        _write(envelope, row.envelope)
    _print(config, row, as_json=as_json, html=html)


@drill_app.command("end")
def end_command(drill: DrillArgument, by: ByOption, config: ConfigOption = None) -> None:
    """End a live drill at once. It works also while the keeper is away: the workers then end it by its time, at the latest."""
    from upeti.control.drills import drill_of, end
    from upeti.outlook.drill_life import Event

    store = open_state(config)
    row = end(store, drill_of(store, drill).id, Event.PERSON_ENDED, by=by, why="ended by hand")
    typer.echo(f"The drill {row.id} is {row.state}.")


@drill_app.command("verify")
def verify_command(
    drill: Annotated[
        str, typer.Argument(metavar="DRILL|FILE", help="Id of a drill, `last`, or a signed report.")
    ] = "last",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check that a report is as it was signed here; exit status 1 when it is not. `upeti verify-signature` checks it with
    nothing but the public key.
    """
    from upeti.control.drill_reports import checked
    from upeti.control.drills import drill_of
    from upeti.rights.envelope import SignatureError

    store = open_state(config)
    file = Path(drill)
    data = file.read_bytes() if file.is_file() else drill_of(store, drill).envelope
    if not data:
        raise ConfigError(f"the drill {drill} has no report yet; `upeti drill list` shows how it stands")
    try:
        found = checked(store.data_dir, data)
    except SignatureError as error:
        typer.echo(f"upeti: {drill}: {error}", err=True)
        raise typer.Exit(1) from None
    told = {"sound": True, "drill": found.report["drill"]["id"], "sha256": found.sha256, "key": found.key_id}
    if as_json:
        typer.echo(json.dumps(told))
    else:
        typer.echo(
            f"The report of {told['drill']} is as it was signed, by the key {found.key_id}; SHA-256 {found.sha256}."
        )


def _shadow(config: Path | None, channel: str, by: str, why: str, hours: float) -> DrillRow:
    from upeti.control import config_file, drill_reports

    document = config_file.read(config or Path(CONFIG_FILE))
    now_ns = time.time_ns()
    from_ns = now_ns - int(hours * 3600 * 10**9)
    return drill_reports.shadow(open_state(config), document, channel, by=by, why=why, from_ns=from_ns, until_ns=now_ns)


def _live(config: Path | None, wanted: dict[str, Any], *, quiet: bool) -> DrillRow:
    """Begin a live drill, show how it stands until it has ended, and return it with its report."""
    from upeti.control.drills import drill_of

    began = ask_keeper(config, "POST", "/v1/drills", wanted)
    drill = began["id"]
    typer.echo(f"Drill {drill} has begun; Ctrl-C ends it.", err=True)
    for route, cure in sorted(began["without_alternative"].items()):
        typer.echo(f"Calls of the route {route} that meet it are lost: {cure}.", err=True)
    try:
        state = _watch(config, drill, quiet=quiet)
    except KeyboardInterrupt:
        _end(config, drill, wanted["by"])
        state = "ended"
    except UpetiError as error:
        until = datetime.datetime.fromtimestamp(began["until_ns"] / 1e9, datetime.UTC)
        raise ConfigError(f"{error} (the drill {drill} ends by itself at {until:%H:%M:%S} UTC)") from None
    store = open_state(config)
    deadline_s = time.monotonic() + _REPORT_S
    while state != "reported" and time.monotonic() < deadline_s:
        time.sleep(_LOOK_S / 4)
        state = drill_of(store, drill).state
    return drill_of(store, drill)


def _watch(config: Path | None, drill: str, *, quiet: bool) -> str:
    while True:
        seen = ask_keeper(config, "GET", f"/v1/drills/{drill}")
        if seen["progress"] is not None and not quiet:
            show_progress(seen)
        if seen["state"] != "running":
            if not quiet:
                typer.echo("", err=True)
            return str(seen["state"])
        time.sleep(_LOOK_S)


def _end(config: Path | None, drill: str, by: str) -> None:
    typer.echo("\nEnding the drill …", err=True)
    ask_keeper(config, "POST", f"/v1/drills/{drill}/end", {"by": by, "why": "ended by hand"})


def _print(config: Path | None, row: DrillRow, *, as_json: bool, html: Path | None) -> None:
    if not row.envelope:
        if as_json or html is not None:
            raise ConfigError(f"the drill {row.id} has no report yet ({row.state}); `upeti drill show {row.id}` later")
        typer.echo(f"The drill {row.id} has no report yet ({row.state}); `upeti drill show {row.id}` shows it later.")
        return
    found = _checked(config, row)
    if html is not None:
        from upeti.control.drill_pages import html as page

        _write(html, page(found).encode())
    if as_json:
        typer.echo(json.dumps(found.report, indent=2, ensure_ascii=False))
    else:
        show_report(found.report)
        if html is not None:
            typer.echo(f"{html} is written.")


def _checked(config: Path | None, row: DrillRow) -> Checked:
    from upeti.control.drill_reports import checked

    return checked(open_state(config).data_dir, row.envelope)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); name a file in a directory of yours") from None


def _share(text: str) -> float:
    """Return percent from `5%` or `5`. Raises ``ConfigError``."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= _PERCENT:
        raise ConfigError(f"{text!r} is no share: write it in percent, such as 5%")
    return value
