"""`upeti nodes`: the gateway nodes that share a state."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Annotated

import typer

from upeti.cli.options import ConfigOption, JsonOption
from upeti.cli.state import open_state
from upeti.core.amount import decimal_text

if TYPE_CHECKING:
    from upeti.control.nodes import NodeRow

nodes_app = typer.Typer(help="Show the gateway nodes that share a state; forget a lost one.", no_args_is_help=True)


@nodes_app.command("list")
def list_command(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the nodes: when each was last seen, its workers, and what they have leased of each budget.

    What a node has leased stays reserved while it is away.
    """
    from upeti.control.nodes import Nodes

    store = open_state(config)
    rows = Nodes(store).all()
    if as_json:
        shown = [
            {**_named(row), "leased": {name: decimal_text(amount) for name, amount in _leased(row)}} for row in rows
        ]
        typer.echo(json.dumps(shown, indent=2))
        return
    if not rows:
        only = "`upeti serve` enters this one" if store.url else "the state is SQLite, which is for one node"
        typer.echo(f"There are no nodes: {only}.")
        return
    from upeti.cli.output import cell, console, table

    columns = ("node", "state", "seen", "workers", "control", "leased")
    lines = table([(name, name == "workers") for name in columns])
    for row in rows:
        leased = ", ".join(f"{name} {decimal_text(amount)}" for name, amount in _leased(row))
        lines.add_row(*(cell(str(value)) for value in (*_named(row).values(), leased)))
    console().print(lines)


@nodes_app.command("forget")
def forget_command(
    node: Annotated[str, typer.Argument(metavar="NODE", help="Its name.")], config: ConfigOption = None
) -> None:
    """Give up a node whose disk is lost for good, and free its name.

    All that its workers had leased counts as spent: that is the most they can have cost. Do not do it to a node that
    comes back: it would be refused.
    """
    from upeti.control.nodes import Nodes

    lost = Nodes(open_state(config)).forget(node)
    for budget, amount in sorted(lost.items()):
        if amount:
            typer.echo(f"{budget}: {decimal_text(amount)} counts as spent")
    typer.echo(f"{node} is forgotten.")


def _named(row: NodeRow) -> dict[str, str | int]:
    return {
        "node": row.node,
        "state": "away" if row.is_away else "there",
        "seen": datetime.datetime.fromtimestamp(row.seen_ns // 10**9, datetime.UTC).isoformat().replace("+00:00", "Z"),
        "workers": row.workers,
        "control": row.address,
    }


def _leased(row: NodeRow) -> list[tuple[str, int]]:
    return [(budget, amount) for budget, amount in sorted(row.leased_pico.items()) if amount]
