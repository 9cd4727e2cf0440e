"""`upeti rights`: what may be done with the answers of a channel, on which sentence, and who said so.

What takes a right away (`revoke`, `deny`, `end`) works also while somebody is editing the configuration.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from upeti.cli import rights_show
from upeti.cli.options import CONFIG_FILE, ByOption, ConfigOption, JsonOption, WhyOption, values_of
from upeti.cli.places import channels_in
from upeti.cli.state import open_state

if TYPE_CHECKING:
    from upeti.control.store import Store
    from upeti.core.config import Config
    from upeti.rights.terms import Terms

rights_app = typer.Typer(
    help="What may be done with a channel's answers, on which sentence: explain, review, grant, deny.",
    no_args_is_help=True,
)

ChannelArgument = Annotated[str, typer.Argument(metavar="CHANNEL", help="Name of a channel.")]
PurposeArgument = Annotated[
    str,
    typer.Argument(
        metavar="PURPOSE",
        help="What an answer is used for: serve, store, evaluate, classify_internal, classify_distributed, embed, rerank, "
        "task_generative, general_model, tune_at_provider or resell.",
    ),
]
_DAYS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
AtOption = Annotated[
    datetime | None,
    typer.Option("--at", formats=_DAYS, help="Decide as of this moment, UTC.", show_default="now"),
]
FromOption = Annotated[
    datetime | None, typer.Option("--from", formats=_DAYS, help="First moment, UTC.", show_default="now")
]
UntilOption = Annotated[
    datetime | None,
    typer.Option("--until", formats=_DAYS, help="First moment at which it holds no more, UTC.", show_default="no end"),
]
TenantScope = Annotated[str, typer.Option("--tenant", help="Only this tenant's traffic.", show_default="all")]


@rights_app.command("explain")
def explain_command(
    channel: ChannelArgument,
    purpose: PurposeArgument,
    at: AtOption = None,
    captured: Annotated[
        datetime | None,
        typer.Option(formats=_DAYS, help="When the answer was captured, UTC.", show_default="the moment of --at"),
    ] = None,
    tenant: TenantScope = "",
    model: Annotated[str, typer.Option(help="The provider's model name.", show_default=False)] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say whether answers of a channel may be used for a purpose: the clause, its words, who reviewed it, what comes with
    it, and what would change it.
    """
    from upeti.control.rights_view import explain

    _, terms, settings = _opened(config)
    at_ns = _ns(at)
    origin = terms.origin_now(channel, _ns(captured) if captured else at_ns, tenant, model)
    found = explain(terms, settings, origin, purpose, at_ns)
    if as_json:
        _print_json(found)
        return
    rights_show.explanation(found)


@rights_app.command("list")
def list_command(
    at: AtOption = None, tenant: TenantScope = "", as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """List what may be done with the answers of every channel; contracts that they are under, grants and denials."""
    from upeti.control.rights_view import rights_of_channels

    _, terms, _ = _opened(config)
    found = rights_of_channels(terms, _ns(at), tenant)
    if as_json:
        records = {name: getattr(terms, name) for name in ("bindings", "grants", "denials", "reviews")}
        _print_json({"channels": found, **records})
        return
    rights_show.channels(found)
    rights_show.records(terms)


@rights_app.command("contracts")
def contracts_command(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the contract versions that files of terms have."""
    _, terms, _ = _opened(config)
    if as_json:
        _print_json(terms.contracts)
        return
    rights_show.contracts(terms)


@rights_app.command("clauses")
def clauses_command(
    contract: Annotated[str, typer.Option(help="Only this contract and what it includes.", show_default="all")] = "",
    unreviewed: Annotated[bool, typer.Option("--unreviewed", help="Only those that nobody here has reviewed.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List clauses: their words, what they were read to mean, and who reviewed them."""
    from upeti.control.rights_view import clauses_of

    _, terms, _ = _opened(config)
    found = clauses_of(terms, terms.closure(contract) or [contract]) if contract else list(terms.clauses)
    if unreviewed:
        reviewed = {review.clause for review in terms.reviews}
        found = [clause for clause in found if clause.id not in reviewed]
    if as_json:
        reviews = {review.clause: review for review in terms.reviews}
        _print_json([{**msgspec.to_builtins(one), "review": reviews.get(one.id)} for one in found])
        return
    rights_show.clauses(terms, found)


@rights_app.command("diff")
def diff_command(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A contract's id, or a file of terms.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The same of its newer text.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare two texts of a contract: what may no longer be done, which words say so, what of yours was captured under
    the old one.
    """
    from upeti.control.rights_view import change_of

    store, terms, _ = _opened(config)
    found = change_of(store, terms, old, new)
    if as_json:
        _print_json(found)
        return
    rights_show.changes(found)


@rights_app.command("bind")
def bind_command(
    channel: ChannelArgument,
    contract: Annotated[str, typer.Argument(metavar="CONTRACT", help="Id of a contract version.")],
    by: ByOption,
    why: WhyOption,
    from_: FromOption = None,
    until: UntilOption = None,
    order_form: Annotated[
        Path | None,
        typer.Option(help="The signed order form: updates of published terms do not change it.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say under which contract version a channel's account is. Without one nothing but serving is allowed."""
    from upeti.control.rights import bind, document_of

    store, terms, _ = _opened(config)
    made = bind(
        store,
        terms,
        channel,
        contract,
        from_ns=_ns(from_),
        until_ns=_ns(until) if until else 0,
        order_form=document_of(order_form) if order_form is not None else None,
        by=by,
        why=why,
    )
    _say(made, as_json, f"The channel {channel} is under {contract}: {made.id}.")


@rights_app.command("end")
def end_command(
    binding: Annotated[
        str, typer.Argument(metavar="BINDING", help="Id of a binding, as `upeti rights list` shows it.")
    ],
    by: ByOption,
    why: WhyOption,
    until: UntilOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Let a contract end, now or at a date: its channel serves nothing any more unless another one is in force."""
    from upeti.control.rights import end_binding

    made = end_binding(open_state(config), binding, until_ns=_ns(until), by=by, why=why)
    _say(made, as_json, f"{made.contract} ends for the channel {made.channel}.")


@rights_app.command("review")
def review_command(
    clause: Annotated[
        str, typer.Argument(metavar="CLAUSE", help="Id of a clause, as `upeti rights clauses` lists it.")
    ],
    decision: Annotated[str, typer.Option(help="allow, deny or ask; confirm takes each purpose as the file reads it.")],
    by: ByOption,
    why: WhyOption,
    purpose: Annotated[
        list[str] | None, typer.Option(help="Only for this purpose; may be repeated.", show_default="all of the clause")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Record what a named person reads in a clause. It counts for this text only: when the text changes, it is asked
    again.
    """
    from upeti.control.rights import review

    store, terms, _ = _opened(config)
    made = review(store, terms, clause, decision, purposes=tuple(purpose or ()), by=by, why=why)
    read = ", ".join(f"{name}: {value}" for name, value in sorted(made.decisions.items()))
    _say(made, as_json, f"{by} reads {clause} as {read}.")


@rights_app.command("grant")
def grant_command(
    channel: ChannelArgument,
    purpose: PurposeArgument,
    evidence: Annotated[Path, typer.Option(help="The written permission; its hash and a private copy are kept.")],
    by: ByOption,
    why: WhyOption,
    party: Annotated[str, typer.Option(help="Who permits.", show_default="the party of the contract")] = "",
    from_: FromOption = None,
    until: UntilOption = None,
    captured_from: Annotated[
        datetime | None,
        typer.Option(formats=_DAYS, help="It covers answers captured from then on.", show_default="--from"),
    ] = None,
    tenant: TenantScope = "",
    models: Annotated[str, typer.Option(help="Only these models, comma-separated.", show_default="all")] = "",
    duty: Annotated[
        list[str] | None,
        typer.Option(help="What comes with it, such as notice:TEXT; may be repeated.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Record a written permission of a channel's party. It lifts what that party's clauses ask, or deny unless
    authorized; never what somebody here denied.
    """
    from upeti.control.rights import document_of, grant

    store, terms, _ = _opened(config)
    made = grant(
        store,
        terms,
        channel,
        purpose,
        document_of(evidence),
        by=by,
        why=why,
        party=party,
        from_ns=_ns(from_) if from_ else 0,
        until_ns=_ns(until) if until else 0,
        captured_from_ns=_ns(captured_from) if captured_from else None,
        tenant=tenant,
        models=tuple(name.strip() for name in models.split(",") if name.strip()),
        duties=tuple(duty or ()),
    )
    _say(made, as_json, f"{made.party} permits {purpose} on {channel}: {made.id}, evidence {made.evidence_sha256}.")


@rights_app.command("revoke")
def revoke_command(
    grant: Annotated[str, typer.Argument(metavar="GRANT", help="Id of a grant, as `upeti rights list` shows it.")],
    by: ByOption,
    why: WhyOption,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take a grant back from now on, within a second."""
    from upeti.control.rights import revoke

    made = revoke(open_state(config), grant, by=by, why=why)
    _say(made, as_json, f"The grant {grant} is revoked: {made.purpose} on {made.channel}.")


@rights_app.command("deny")
def deny_command(
    channel: ChannelArgument,
    purpose: PurposeArgument,
    by: ByOption,
    why: WhyOption,
    tenant: TenantScope = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Deny a purpose on a channel, whoever permits it. `deny CHANNEL serve` stops the channel within a second."""
    from upeti.control.rights import deny

    channels = channels_in(values_of(config or Path(CONFIG_FILE)))
    made = deny(open_state(config), channels, channel, purpose, tenant=tenant, by=by, why=why)
    _say(made, as_json, f"{purpose} is denied on {channel}: {made.id}.")


@rights_app.command("lift")
def lift_command(
    denial: Annotated[str, typer.Argument(metavar="DENIAL", help="Id of a denial, as `upeti rights list` shows it.")],
    by: ByOption,
    why: WhyOption,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take a denial back from now on; what clauses and grants say counts again."""
    from upeti.control.rights import lift

    made = lift(open_state(config), denial, by=by, why=why)
    _say(made, as_json, f"The denial {denial} is lifted: {made.purpose} on {made.channel}.")


def _opened(config: Path | None) -> tuple[Store, Terms, Config]:
    from upeti.control import config_file
    from upeti.control.rights import terms_in_force

    settings = config_file.load(config or Path(CONFIG_FILE))
    store = open_state(config)
    return store, terms_in_force(store, settings), settings


def _ns(moment: datetime | None) -> int:
    when = datetime.now(UTC) if moment is None else moment.replace(tzinfo=UTC)
    return int(when.timestamp() * 10**6) * 1000


def _say(made: Any, as_json: bool, sentence: str) -> None:
    if as_json:
        _print_json(made)
    else:
        typer.echo(sentence)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(msgspec.to_builtins(value), indent=2))
