"""`upeti capture`: questions and answers that are kept: who has consented, what is there, and its erasure.

What takes something away (`withdraw`, `erase`) works also while somebody is editing the configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from upeti.cli.options import ByOption, ConfigOption, JsonOption, WhyOption, values_of
from upeti.cli.state import open_state
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.control.store import Store
    from upeti.journal.bodies import Bodies

capture_app = typer.Typer(help="Kept questions and answers: consent, what is there, erasure.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Name of a tenant.")]


@capture_app.command("consent")
def consent_command(
    tenant: TenantArgument,
    evidence: Annotated[
        Path, typer.Option("--evidence", help="The document in which the tenant consents; a private copy is kept.")
    ],
    by: ByOption,
    why: WhyOption,
    purposes: Annotated[
        str, typer.Option(help="What it may be used for, comma-separated, such as evaluate,classify_internal.")
    ] = "",
    features: Annotated[
        str, typer.Option(help="Only calls for these features, comma-separated.", show_default="all")
    ] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Record that a tenant has consented, in place of what it said before. Keeping begins within a second, when
    `[capture] enabled = true` and the contract permits it.
    """
    from upeti.control.consents import give
    from upeti.control.rights import document_of

    with _opened(config) as (store, _):
        made = give(
            store,
            tenant,
            purposes=_names(purposes),
            features=_names(features),
            evidence=document_of(evidence),
            by=by,
            why=why,
        )
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(made), indent=2))
        return
    typer.echo(f"{made.id}: {tenant} has consented to: {', '.join(made.purposes)}.")
    if not _enabled(config):
        typer.echo("Nothing is kept yet: write enabled = true under [capture] in the configuration.")


@capture_app.command("withdraw")
def withdraw_command(tenant: TenantArgument, by: ByOption, why: WhyOption, config: ConfigOption = None) -> None:
    """End a tenant's consent: nothing more is kept within a second. What is there stays until it is erased."""
    from upeti.control.consents import withdraw

    with _opened(config) as (store, _):
        ended = withdraw(store, tenant, by=by, why=why)
    typer.echo(f"{ended.id} is withdrawn. `upeti capture erase --tenant {tenant}` erases what was kept.")


@capture_app.command("status")
def status_command(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show who has consented, how much is kept, and what was left out and why."""
    from upeti.control import consents, pairs

    with _opened(config) as (store, _):
        shown: dict[str, Any] = {
            "enabled": _enabled(config),
            "consents": [msgspec.to_builtins(one) for one in consents.all_consents(store)],
            "kept": [msgspec.to_builtins(one) for one in pairs.counts(store)],
            "left_out": pairs.left_out_counts(store),
        }
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    from upeti.cli.output import cell, console, table

    screen = console()
    screen.print("Capture is on." if shown["enabled"] else "Capture is off: [capture] enabled = true turns it on.")
    who = table([(name, False) for name in ("tenant", "consent", "purposes", "features", "since", "withdrawn")])
    for one in shown["consents"]:
        times = (_time(one["at_ns"]), _time(one["withdrawn_ns"]))
        lists = (", ".join(one["purposes"]), ", ".join(one["features"]) or "all")
        who.add_row(*map(cell, (one["tenant"], one["id"], *lists, *times)))
    screen.print(who if shown["consents"] else "Nobody has consented: `upeti capture consent TENANT` records it.")
    kept = table([("tenant", False), ("pairs", True), ("erased", True), ("bytes", True), ("oldest", False)])
    for one in shown["kept"]:
        kept.add_row(*map(cell, (one["tenant"], one["pairs"], one["erased"], one["bytes"], _time(one["oldest_ns"]))))
    if shown["kept"]:
        screen.print(kept)
    out = table(
        [("day", False), ("tenant", False), ("channel", False), ("left out because", False), ("exchanges", True)]
    )
    for one in shown["left_out"]:
        reason = REASONS.get(one["reason"], one["reason"])
        out.add_row(*map(cell, (one["day"], one["tenant"], one["channel"], reason, one["exchanges"])))
    if shown["left_out"]:
        screen.print(out)


REASONS = {
    "no_consent": "no consent of the tenant for it was in force",
    "no_answer": "the provider answered with an error",
    "contract_deny": "the contract denies storing it: `upeti rights explain CHANNEL store`",
    "contract_ask": "nobody has reviewed whether the contract allows storing it: `upeti rights explain CHANNEL store`",
    "not_readable": "question or answer is no JSON, or the answer is not whole",
    "not_redactable": "it could not be redacted with certainty",
}


@capture_app.command("list")
def list_command(
    tenant: Annotated[str, typer.Option(help="Only this tenant's.", show_default="all")] = "",
    task: Annotated[str, typer.Option(help="Only this task's.", show_default="all")] = "",
    feature: Annotated[str, typer.Option(help="Only this feature's.", show_default="all")] = "",
    channel: Annotated[str, typer.Option(help="Only this channel's.", show_default="all")] = "",
    erased: Annotated[bool, typer.Option("--erased", help="Erased ones too.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many at most.")] = 50,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List kept pairs, oldest first: where each came from and under which contract. No text is shown."""
    from itertools import islice

    from upeti.control.pairs import find

    where: dict[str, Any] = {"tenant": tenant, "task": task, "feature": feature, "channel": channel}
    with _opened(config) as (store, _):
        found = list(islice(find(store, **where, erased=None if erased else False), lines))
    if as_json:
        typer.echo(json.dumps([msgspec.to_builtins(one) for one in found], indent=2))
        return
    from upeti.cli.output import cell, console, table

    names = ("pair_id", "tenant", "feature", "task", "channel", "model", "contract", "consent")
    shown = table([("at", False), *((name, False) for name in names), ("redacted", False), ("bytes", True)])
    for one in found:
        redacted = ", ".join(f"{kind} {count}" for kind, count in sorted(one.redactions.items()))
        size = one.request_bytes + one.answer_bytes if not one.erased_ns else "erased"
        shown.add_row(cell(_time(one.at_ns)), *(cell(getattr(one, name)) for name in names), cell(redacted), cell(size))
    console().print(shown if found else "Nothing is kept that fits: `upeti capture status` says why not.")


@capture_app.command("show")
def show_command(
    pair: Annotated[str, typer.Argument(metavar="PAIR", help="Id of a pair.")], config: ConfigOption = None
) -> None:
    """Print one pair as JSON: its provenance, and question and answer as they are kept, redacted."""
    from upeti.control.pairs import body, find

    with _opened(config) as (store, bodies):
        found = next(find(store, pair_id=pair, erased=None), None)
        if found is None:
            raise ConfigError(f"there is no pair `{pair}`: `upeti capture list` shows them")
        kept = body(store, bodies, found)
    shown: dict[str, Any] = msgspec.to_builtins(found)
    shown["request"], shown["answer"] = map(json.loads, kept) if kept is not None else (None, None)
    typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))


@capture_app.command("erase")
def erase_command(
    by: ByOption,
    why: WhyOption,
    tenant: Annotated[str, typer.Option(help="Everything of this tenant.", show_default=False)] = "",
    user: Annotated[str, typer.Option(help="… of this end user of the tenant alone.", show_default=False)] = "",
    pair: Annotated[str, typer.Option(help="One pair.", show_default=False)] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether a whole tenant is meant.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Erase bodies and the link to the person for good. The journal's chain stays as it is: there is no text in it."""
    from upeti.control.pairs import erase

    if user and not tenant:
        raise typer.BadParameter("--user needs --tenant: two tenants may have users of the same name.")
    if tenant and not (user or pair or yes):
        typer.confirm(f"Erase everything that was kept of {tenant}?", abort=True)
    with _opened(config) as (store, bodies):
        erased = erase(store, bodies, tenant=tenant, user=user, pair_id=pair, by=by, why=why)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(erased), indent=2))
        return
    typer.echo(f"{len(erased.pairs)} pairs were erased, {erased.bodies} bodies with them.")


@capture_app.command("rebuild")
def rebuild_command(config: ConfigOption = None) -> None:
    """Make the list of pairs anew from the journals of captures, where the state was lost. What was erased stays so."""
    from upeti.control.pairs import rebuild

    with _opened(config) as (store, bodies):
        typer.echo(f"{rebuild(store, store.data_dir, bodies)} pairs were added.")


@contextmanager
def _opened(config: Path | None) -> Iterator[tuple[Store, Bodies]]:
    from upeti.journal.bodies import bodies_at

    store = open_state(config)
    try:
        yield store, bodies_at(store.data_dir, str(_settings(config).get("url", "")))
    finally:
        store.close()


def _settings(config: Path | None) -> dict[str, Any]:
    found = values_of(config).get("capture", {})
    return found if isinstance(found, dict) else {}


def _enabled(config: Path | None) -> bool:
    return _settings(config).get("enabled") is True


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _time(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns // 10**9, UTC):%Y-%m-%d %H:%M:%S}" if at_ns else ""
