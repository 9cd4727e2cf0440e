"""`upeti budget`: budgets in the state; how all budgets stand, those of the file, of keys and rate limits too."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from upeti.cli.options import CONFIG_FILE, ConfigOption, JsonOption
from upeti.cli.state import open_state
from upeti.core.config import Config
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.control.budgets import Standing
    from upeti.control.store import Store
    from upeti.money.budget_terms import BudgetTerms

budget_app = typer.Typer(help="Set, show and release budgets: limits on what calls may cost.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The budget's name.")]


@budget_app.command("set")
def set_command(
    name: NameArgument,
    limit: Annotated[str | None, typer.Option(help="What may be spent in each window, such as 100.00.")] = None,
    currency: Annotated[str | None, typer.Option(help="Currency of the limit.", show_default="USD")] = None,
    window: Annotated[str | None, typer.Option(help="total, month, week or day.", show_default="total")] = None,
    zone: Annotated[str | None, typer.Option(help="Time zone in which windows begin.", show_default="UTC")] = None,
    mode: Annotated[
        str | None, typer.Option(help="hard refuses, soft only counts and alerts.", show_default="hard")
    ] = None,
    alert_shares: Annotated[
        str | None, typer.Option(help="Percent of the limit, comma-separated.", show_default="50,80,100")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Only calls of this tenant.")] = None,
    project: Annotated[str | None, typer.Option(help="Only calls of keys with this project.")] = None,
    key: Annotated[str | None, typer.Option(help="Only calls with the key of this id.")] = None,
    feature: Annotated[str | None, typer.Option(help="Only calls for this feature.")] = None,
    config: ConfigOption = None,
) -> None:
    """Make a budget, or change one: what is not given stays as it is; `--tenant ""` takes a selector away.

    A running Upeti takes it within a second. What was spent stays spent.
    """
    from upeti.control.budgets import SELECTORS, budget_from, fields_of, keep_terms, stored_terms
    from upeti.control.compile import terms_of

    store = open_state(config)
    if any(budget.name == name for budget in _configuration(config).budget):
        raise ConfigError(f"the budget `{name}` is in the configuration file: change it there")
    before = next((terms for terms in stored_terms(store) if terms.name == name), None)
    if before is None and limit is None:
        raise ConfigError(f"there is no budget `{name}` yet: give --limit to make it")
    given = {
        "limit": limit,
        "currency": currency,
        "window": window,
        "zone": zone,
        "mode": mode,
        "alert_shares": None if alert_shares is None else _shares(alert_shares),
        "tenant": tenant,
        "project": project,
        "key": key,
        "feature": feature,
    }
    fields: dict[str, Any] = {"name": name} if before is None else fields_of(before)
    fields |= {field: value for field, value in given.items() if value is not None}
    for selector in SELECTORS:
        fields[selector] = fields.get(selector) or None
    keep_terms(store, terms_of(budget_from(fields)), time.time_ns())
    standing = next(each for each in _standings(store, config) if each.name == name and each.source == "state")
    typer.echo(f"{_sentence(standing)}{_lowered(standing)}")


@budget_app.command("list")
def list_command(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List all budgets and rate limits as they stand in their present window."""
    standings = _standings(open_state(config), config)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(standings), indent=2))
        return
    if not standings:
        typer.echo("There are no budgets yet: `upeti budget set NAME --limit 100 --window month` makes one.")
        return
    _print(standings)


@budget_app.command("show")
def show_command(name: NameArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one budget: its terms, and how it stands and stood in each of its windows."""
    from upeti.control.budgets import history
    from upeti.control.ledger import Ledger

    store = open_state(config)
    found = [each for each in _standings(store, config) if each.name == name]
    if not found:
        raise ConfigError(f"there is no budget `{name}`: `upeti budget list` shows them")
    terms = [each for each in _terms(store, config).values() if each.name == name]
    past = [each for one in terms for each in history(name, one, Ledger(store))]
    windows = found + [each for each in past if each.id not in {standing.id for standing in found}]
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(windows), indent=2))
        return
    for standing in found:
        typer.echo(_sentence(standing))
        if standing.frozen is not None:
            typer.echo(f"Frozen: {standing.frozen}. `upeti budget release {name}` lets calls go on.")
    _print(windows)


@budget_app.command("delete")
def delete_command(name: NameArgument, config: ConfigOption = None) -> None:
    """Remove a budget from the state. A running Upeti holds nothing on it within a second; what was spent is kept."""
    from upeti.control.budgets import drop_terms

    drop_terms(open_state(config), name)
    typer.echo(f"The budget {name} is removed.")


@budget_app.command("release")
def release_command(name: NameArgument, config: ConfigOption = None) -> None:
    """Let a frozen budget go on. It was frozen because a call cost more than the bound that was held for it: look at the
    price and the output cap first.
    """
    from upeti.control.budgets import release
    from upeti.control.ledger import Ledger

    release(Ledger(open_state(config)), name)
    typer.echo(f"The budget {name} is released.")


def _configuration(config: Path | None) -> Config:
    """Return what the file says; one that somebody is in the middle of editing is left out, and that is said."""
    from upeti.control.config_file import load

    path = config or Path(CONFIG_FILE)
    try:
        return load(path)
    except ConfigError as error:
        typer.echo(f"upeti: budgets of {path} are left out, because it has a mistake: {error}", err=True)
        return Config()


def _terms(store: Store, config: Path | None) -> dict[str, BudgetTerms]:
    from upeti.control.budgets import stored_terms, terms_of_keys
    from upeti.control.compile import terms_in_file

    settings = _configuration(config)
    found = [
        *terms_of_keys([*settings.key, *store.all_keys()]),
        *terms_in_file(settings),
        *stored_terms(store),
    ]
    return {each.root: each for each in found}


def _standings(store: Store, config: Path | None) -> list[Standing]:
    from upeti.control.budgets import standings, stored_terms
    from upeti.control.ledger import Ledger

    stored = [terms.name for terms in stored_terms(store)]
    return standings(_terms(store, config), stored, Ledger(store), time.time_ns())


def _shares(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"alert-shares: {text!r} is no list of percentages; write it like 50,80,100") from None


def _for_whom(standing: Standing) -> str:
    parts = [f"{name} {getattr(standing, name)}" for name in ("tenant", "project", "key", "feature")]
    return ", ".join(part for part in parts if not part.endswith(" ")) or "everything"


def _sentence(standing: Standing) -> str:
    each = "" if standing.window == "total" else f" a {standing.window} ({standing.zone})"
    until = f" until {standing.resets_at}" if standing.resets_at else ""
    return (
        f"{standing.name}: {standing.limit} {standing.unit}{each} for {_for_whom(standing)}, {standing.mode}; "
        f"{standing.spent} is spent{until}."
    )


def _lowered(standing: Standing) -> str:
    from upeti.core.amount import parse_pico

    if parse_pico(standing.spent) <= parse_pico(standing.limit) or standing.mode == "soft":
        return ""
    until = f" until {standing.resets_at}" if standing.resets_at else ""
    return f"\nThat is more than the limit: calls are refused{until}."


def _print(standings: list[Standing]) -> None:
    from upeti.cli.output import cell, console, table

    columns = ("budget", "for", "unit", "limit", "spent", "%", "leased", "left", "resets", "state", "from")
    shown = table([(name, name in ("limit", "spent", "%", "leased", "left")) for name in columns])
    for each in standings:
        state = "frozen" if each.frozen is not None else each.mode
        row = (each.id, _for_whom(each), each.unit, each.limit, each.spent, each.share or "", each.leased, each.left)
        shown.add_row(*map(cell, (*row, each.resets_at or "never", state, each.source)))
    console().print(shown)
