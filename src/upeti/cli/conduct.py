"""`upeti conduct`: cases of tenants that may harvest answers to train a rival: evidence, decisions, appeals, purposes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from upeti.cli.options import ByOption, ConfigOption, JsonOption, values_of
from upeti.cli.state import open_state
from upeti.core.config import Conduct
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.control.store import Store

conduct_app = typer.Typer(
    help="Cases of tenants that may harvest answers: evidence, warnings, suspensions, appeals.", no_args_is_help=True
)

CaseArgument = Annotated[str, typer.Argument(metavar="CASE", help="Number of a case, such as C-000007.")]
WhyOption = Annotated[str, typer.Option("--why", help="Why; it is journaled, and the tenant can be told.")]


@conduct_app.command("list")
def list_command(
    every: Annotated[bool, typer.Option("--all", help="Closed cases too.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the cases, newest first."""
    from upeti.control.case_view import shown_case
    from upeti.control.cases import all_cases

    with _opened(config) as store:
        rows = [shown_case(case) for case in all_cases(store, live=not every)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from upeti.cli.output import cell, console, table

    columns = ("id", "state", "tenants", "kind", "families", "opened", "until", "suspended_by")
    shown = table([(name, False) for name in columns])
    for row in rows:
        texts = {**row, "tenants": _few(row["tenants"]), "families": ", ".join(row["families"])}
        shown.add_row(*(cell(texts[name] or "") for name in columns))
    console().print(
        shown if rows else "There is no case." if every else "There is no open case; --all lists closed ones."
    )


@conduct_app.command("show")
def show_command(case: CaseArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one case and all that happened in it."""
    from upeti.control.case_view import shown_whole

    with _opened(config) as store:
        whole = shown_whole(store, case)
    if as_json:
        typer.echo(json.dumps(whole, indent=2))
        return
    from upeti.cli.output import cell, console, plain, table

    for name in ("id", "state", "tenants", "kind", "families", "opened", "until", "suspended", "suspended_by"):
        value = whole[name]
        if value:
            typer.echo(f"{name:<13} {plain(_few(value) if isinstance(value, list) else value)}")
    shown = table([(name, False) for name in ("at", "event", "state", "actor", "reason")])
    for event in whole["events"]:
        what = f"{event['event']} ({event['family']})" if event["family"] else event["event"]
        shown.add_row(*map(cell, (event["at"], what, event["state"], event["actor"], event["reason"])))
    console().print(shown)


@conduct_app.command("evidence")
def evidence_command(
    case: CaseArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="A directory for the bundle and a plot of it.", show_default=False)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Print the evidence as JSON, or write it with a plot: for a suspension exactly what it stands on, by its SHA-256.

    It holds figures and digests of calls, no prompt. Of tenants that have consented to capture, `upeti capture list` shows
    what was kept in the time of the window.
    """
    from upeti.control.case_view import bundle_of, write_bundle

    with _opened(config) as store:
        text, sha256 = bundle_of(store, case)
    if out is None:
        typer.echo(text.decode())
        return
    for path in write_bundle(text, out):
        typer.echo(f"{path}")
    typer.echo(f"SHA-256 of the bundle: {sha256}")


@conduct_app.command("open")
def open_command(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Name of a tenant.")],
    what: Annotated[str, typer.Option("--what", help="What was seen: a provider's letter, a tip.")],
    by: ByOption,
    why: WhyOption,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Open a case by hand, on a report from outside."""
    from upeti.control.cases import report

    with _opened(config) as store:
        _say(report(store, store.data_dir, tenant, what, person=by, why=why), as_json)


@conduct_app.command("warn")
def warn_command(
    case: CaseArgument, by: ByOption, why: WhyOption, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Note that the tenant was warned. Telling it is yours to do."""
    _decide(case, "warn", by, why, as_json, config)


@conduct_app.command("throttle")
def throttle_command(
    case: CaseArgument, by: ByOption, why: WhyOption, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Serve the tenant no more than `[conduct] throttle_calls_per_minute`, until the case is closed."""
    _decide(case, "throttle", by, why, as_json, config)


@conduct_app.command("suspend")
def suspend_command(
    case: CaseArgument, by: ByOption, why: WhyOption, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Serve the tenant no more. Its calls are answered 403 with the case and how to appeal, within a second."""
    _decide(case, "suspend", by, why, as_json, config)


@conduct_app.command("appeal")
def appeal_command(
    case: CaseArgument, by: ByOption, why: WhyOption, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Record a suspended tenant's appeal. Undecided after `[conduct] appeal_days` the suspension lapses."""
    _decide(case, "appeal", by, why, as_json, config)


@conduct_app.command("decide")
def decide_command(
    case: CaseArgument,
    outcome: Annotated[
        Literal["uphold", "reduce", "close"],
        typer.Argument(
            help="uphold: it stays suspended (another person than who suspended); reduce: throttled; close: served."
        ),
    ],
    by: ByOption,
    why: WhyOption,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Decide an appeal."""
    _decide(case, outcome, by, why, as_json, config)


@conduct_app.command("release")
def release_command(
    case: CaseArgument, by: ByOption, why: WhyOption, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """End a hold by rule before its time. The case stays open."""
    _decide(case, "hold_ended", by, why, as_json, config)


@conduct_app.command("close")
def close_command(
    case: CaseArgument, by: ByOption, why: WhyOption, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Close a case: the tenant is served as before, and what it does now is its new past."""
    _decide(case, "close", by, why, as_json, config)


@conduct_app.command("declare")
def declare_command(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Name of a tenant.")],
    purpose: Annotated[str, typer.Option("--purpose", help="Such as customer_support, coding, content.")],
    by: ByOption,
    why: WhyOption,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Record what a tenant says it uses models for; what it does is held against that."""
    from upeti.control.purposes import declare

    with _opened(config) as store:
        made = declare(store, store.data_dir, tenant, purpose, person=by, why=why)
    typer.echo(
        json.dumps(msgspec.structs.asdict(made), indent=2) if as_json else f"{tenant} has declared: {made.purpose}."
    )


@conduct_app.command("status")
def status_command(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show how full the windows are and what the last looks have found, as of at most half a minute ago."""
    from upeti.control.conduct import standing
    from upeti.control.purposes import declared

    with _opened(config) as store:
        whole: dict[str, Any] = {
            "enabled": _settings(config).enabled,
            "purposes": {name: one.purpose for name, one in declared(store).items()},
            "units": standing(store.data_dir),
        }
    if as_json:
        typer.echo(json.dumps(whole, indent=2))
        return
    from upeti.cli.output import cell, console, table

    screen = console()
    screen.print(
        "The monitor is on." if whole["enabled"] else "The monitor is off: [conduct] enabled = true turns it on."
    )
    numbers = {"calls_in_window", "past_calls", "looks"}
    columns = ("unit", "calls_in_window", "past_calls", "looks", "last_found", "purpose")
    shown = table([(name, name in numbers) for name in columns])
    for unit in whole["units"]:
        found = ", ".join(unit["last"].get("families", ())) or ("nothing" if unit["looks"] else "")
        purpose = whole["purposes"].get(unit["unit"].removeprefix("tenant:"), "")
        shown.add_row(*(cell({**unit, "last_found": found, "purpose": purpose}[name]) for name in columns))
    if whole["units"]:
        screen.print(shown)


def _decide(case_id: str, event: str, by: str, why: str, as_json: bool, config: Path | None) -> None:
    from upeti.control.cases import decide
    from upeti.rights.conduct.case import Event

    settings = _settings(config)
    with _opened(config) as store:
        _say(decide(store, store.data_dir, case_id, Event(event), person=by, why=why, settings=settings), as_json)


def _say(case: Any, as_json: bool) -> None:
    from upeti.control.case_view import shown_case

    shown = shown_case(case)
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    until = f" until {shown['until']}" if shown["until"] else ""
    typer.echo(f"{shown['id']} is {shown['state']}{until}: {_few(shown['tenants'])}.")
    if shown["bundle_sha256"] and shown["suspended_by"]:
        typer.echo(f"It stands on the evidence with the SHA-256 {shown['bundle_sha256']}.")


def _settings(config: Path | None) -> Conduct:
    try:
        return msgspec.convert(values_of(config).get("conduct", {}), Conduct)
    except msgspec.ValidationError as error:
        raise ConfigError(f"[conduct]: {error}; `upeti check` says more") from None


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def _opened(config: Path | None) -> Iterator[Store]:
    store = open_state(config)
    try:
        yield store
    finally:
        store.close()
