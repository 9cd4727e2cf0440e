"""`upeti keys`: client keys, kept in the state."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upeti.cli.options import ConfigOption, JsonOption
from upeti.cli.state import open_state
from upeti.core.amount import decimal_text

if TYPE_CHECKING:
    from upeti.control.keys import KeyRow

keys_app = typer.Typer(help="Make, list and revoke client keys.", no_args_is_help=True)


@keys_app.command("create")
def create_command(
    tenant: Annotated[str, typer.Option(help="Who pays.")],
    project: Annotated[str, typer.Option(help="A part of the tenant.", show_default=False)] = "",
    feature: Annotated[str, typer.Option(help="Feature of calls that carry no tag.", show_default=False)] = "",
    limit: Annotated[
        str, typer.Option(help="What the key may spend in all, in USD, such as 12.50.", show_default="no limit")
    ] = "",
    routes: Annotated[str, typer.Option(help="Routes the key may use, comma-separated.", show_default="all")] = "",
    expires: Annotated[
        str, typer.Option(help="A date, a time, or a span such as 12h, 30d, 4w.", show_default="never")
    ] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a key and print it, this once: only its digest is kept. A running Upeti takes it within a
    second.
    """
    from upeti.control.keys import KeyRequest, make_key

    names = tuple(name.strip() for name in routes.split(",") if name.strip())
    store = open_state(config)
    key, row = make_key(KeyRequest(tenant, project, feature, limit, names, expires))
    store.add_key(row)
    shown = _named(row)
    if as_json:
        typer.echo(json.dumps({"key": key, **shown}, indent=2))
        return
    typer.echo(f"key      {key}\n         (shown only now: keep it)")
    for name in ("id", "tenant", "project", "feature", "limit", "routes", "expires"):
        value = shown[name]
        if value:
            typer.echo(f"{name:<8} {', '.join(value) if isinstance(value, list) else value}")


@keys_app.command("list")
def list_command(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the keys that were made here, revoked ones included; never the keys themselves."""
    rows = [_named(row) for row in open_state(config).all_keys()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from upeti.cli.output import cell, console, table

    columns = ("id", "tenant", "project", "feature", "limit", "routes", "created", "expires", "state")
    shown = table([(name, name == "limit") for name in columns])
    for row in rows:
        row["routes"] = ", ".join(row["routes"])
        shown.add_row(*(cell(row[name] or "") for name in columns))
    console().print(shown if rows else "There are no keys yet: `upeti keys create --tenant NAME` makes one.")


@keys_app.command("revoke")
def revoke_command(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's public id.")], config: ConfigOption = None
) -> None:
    """Revoke a key for good. A running Upeti refuses it within a second; calls under way end as they would."""
    open_state(config).revoke_key(key_id)
    typer.echo(f"{key_id} is revoked.")


def _named(row: KeyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "tenant": row.tenant,
        "project": row.project,
        "feature": row.feature,
        "limit": None if row.limit_pico is None else decimal_text(row.limit_pico),
        "routes": list(row.routes),
        "created": _time(row.created_ns),
        "expires": _time(row.expires_ns),
        "revoked": _time(row.revoked_ns),
        "state": "revoked" if row.revoked_ns else "expired" if _has_passed(row.expires_ns) else "valid",
    }


def _time(at_ns: int) -> str | None:
    if not at_ns:
        return None
    return datetime.datetime.fromtimestamp(at_ns // 10**9, datetime.UTC).isoformat().replace("+00:00", "Z")


def _has_passed(at_ns: int) -> bool:
    return bool(at_ns) and at_ns <= datetime.datetime.now(datetime.UTC).timestamp() * 10**9
