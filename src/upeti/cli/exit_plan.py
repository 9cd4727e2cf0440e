"""`upeti exit-plan`: the register of ways out, route by route."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upeti.cli.options import CONFIG_FILE, ConfigOption, CsvOption, JsonOption
from upeti.cli.output import cell, console, only_one, plain, table, write_csv
from upeti.cli.state import open_state
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.control.drill_reports import Now
    from upeti.control.store import Store

exit_plan_app = typer.Typer(
    help="The way out of each provider: alternatives, last drill, months and cost to leave.", no_args_is_help=True
)

RouteArgument = Annotated[str, typer.Argument(metavar="ROUTE", help="Name of a route.")]
ByOption = Annotated[str, typer.Option("--by", help="Who says so: a person's name.")]
WhyOption = Annotated[str, typer.Option("--why", help="Why; it is journaled and shown.", show_default=False)]


@exit_plan_app.command("show")
def show_command(
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page into this file.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the register: for each route who else could take its calls, its last drill, months and cost to leave.

    Ends with status 1 when a route that is critical has a drill that is overdue.
    """
    only_one(json=as_json, csv=as_csv)
    plan = _plan(config)
    if html is not None:
        from upeti.control.exit_plan_page import html as page

        try:
            html.write_text(page(plan), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{html} cannot be written ({error.strerror}); name a file of yours") from None
    if as_json:
        typer.echo(json.dumps(plan, indent=2, ensure_ascii=False))
    elif as_csv:
        _csv(plan)
    else:
        _show(plan)
    if any(one["critical_or_important"] and one["overdue"] for one in plan["routes"]):
        raise typer.Exit(1)


@exit_plan_app.command("set")
def set_command(
    route: RouteArgument,
    alternative: Annotated[str, typer.Option("--alternative", help="Where the route's calls could go.")],
    by: ByOption,
    months: Annotated[str, typer.Option(help="Months that leaving takes, such as 3.", show_default=False)] = "",
    cost: Annotated[str, typer.Option(help="What leaving costs, a decimal.", show_default=False)] = "",
    currency: Annotated[str, typer.Option(help="Currency of the cost, such as EUR.", show_default=False)] = "",
    owner: Annotated[str, typer.Option(help="Who would do it.", show_default=False)] = "",
    why: WhyOption = "",
    config: ConfigOption = None,
) -> None:
    """Enter an alternative of a route that is not in the configuration, or months and cost to leave. Of the same name it
    takes the earlier entry's place.
    """
    from upeti.control.exit_plans import set_alternative
    from upeti.outlook.exit_plan import Said

    store, now = _now(config)
    said = Said("", route, alternative, months, cost, currency.upper(), owner, by, why, 0)
    made = set_alternative(store, now.world.routes, said)
    typer.echo(f"{made.id}: {plain(made.alternative)} is an alternative of {plain(route)}.")


@exit_plan_app.command("remove")
def remove_command(
    said: Annotated[str, typer.Argument(metavar="ID", help="Id of an entry (alt_…).")],
    by: ByOption,
    why: WhyOption = "",
    config: ConfigOption = None,
) -> None:
    """Take an entry back; it stays in the journal of acts."""
    from upeti.control.exit_plans import remove

    remove(open_state(config), said, by=by, why=why)
    typer.echo(f"{said} is removed.")


def _now(config: Path | None) -> tuple[Store, Now]:
    from upeti.control import config_file
    from upeti.control.drill_reports import now_of

    document = config_file.read(config or Path(CONFIG_FILE))
    store = open_state(config)
    return store, now_of(store, document, time.time_ns())


def _plan(config: Path | None) -> dict[str, Any]:
    from upeti.control.exit_plans import exit_plan

    store, now = _now(config)
    return exit_plan(store, now.document.config, now.world)


def _show(plan: dict[str, Any]) -> None:
    screen = console()
    columns = ("route", "depends on", "alternatives", "last drill", "survived", "months", "cost to leave")
    shown = table([(name, False) for name in columns])
    for one in plan["routes"]:
        shown.add_row(*map(cell, _row(one).values()))
    screen.print(shown if plan["routes"] else "There are no routes yet: add a [[route]].")
    for one in plan["routes"]:
        for warning in one["warnings"]:
            screen.print(f"{plain(one['route'])}: {plain(warning)}", markup=False, highlight=False, soft_wrap=True)
        if one["leaving"]["computation"]:
            text = f"{plain(one['route'])}: cost {plain(one['leaving']['computation'])}"
            screen.print(text, markup=False, highlight=False, soft_wrap=True)
    leaves = ", ".join(f"{name} {count}" for name, count in plan["leaves_with_us"].items())
    screen.print(f"Leaves with us: {leaves or 'nothing was captured or trained here'}.", markup=False, highlight=False)


def _row(one: dict[str, Any]) -> dict[str, str | None]:
    """Return a route as a line of the register; None is unknown."""
    trial, leaving = one["last_drill"], one["leaving"]
    permitted = [each["alternative"] for each in one["alternatives"] if each.get("permitted", True)]
    cost = leaving["cost"]
    return {
        "route": one["route"],
        "depends_on": one["depends_on"],
        "alternatives": ", ".join(permitted) or "none",
        "last_drill": f"{trial['drill']} ({trial['mode']})" if trial else "never",
        "survived": f"{trial['survived']} of {trial['calls']}" if trial else None,
        "months": leaving["months"],
        "cost_to_leave": ", ".join(f"{amount} {name}" for name, amount in cost.items()) if cost else None,
    }


def _csv(plan: dict[str, Any]) -> None:
    rows = [_row(one) | _more(one) for one in plan["routes"]]
    if rows:
        write_csv(list(rows[0]), [list(row.values()) for row in rows])


def _more(one: dict[str, Any]) -> dict[str, str | None]:
    critical = {True: "yes", False: "no", None: "not assessed"}[one["critical_or_important"]]
    return {
        "function": one["function"],
        "critical_or_important": critical,
        "overdue": "yes" if one["overdue"] else "no",
        "cost_source": one["leaving"]["source"],
        "computation": one["leaving"]["computation"],
        "warnings": "; ".join(one["warnings"]),
    }
