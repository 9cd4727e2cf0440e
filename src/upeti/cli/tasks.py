"""`upeti tasks`: what is asked again and again, what owning it would save, and what was declared to be owned."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from upeti.cli.options import ByOption, ConfigOption, FirstDayOption, JsonOption, LastDayOption, WhyOption, values_of
from upeti.cli.output import console
from upeti.cli.state import opened_rights
from upeti.cli.tasks_show import (
    AUDIT_SHARE,
    agreement_text,
    answered,
    print_line,
    print_list,
    print_one,
    promise,
    reasons,
    taught,
    values_shown,
)
from upeti.core.errors import ConfigError
from upeti.learning.target import Kind

if TYPE_CHECKING:
    import datetime

    from upeti.cli.state import Opened
    from upeti.learning.tasks import Seen

tasks_app = typer.Typer(
    help="What is asked again and again: found, declared, and what owning it would save.", no_args_is_help=True
)

_SHARE: Final = "0.5"

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A task's name, as `upeti tasks list` shows it.")]
ShareOption = Annotated[
    str, typer.Option(help="Share of the calls that an own model is assumed to answer. An assumption, no forecast.")
]


@tasks_app.command("list")
def list_command(
    share: ShareOption = _SHARE,
    first_day: FirstDayOption = None,
    last_day: LastDayOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List all tasks: those that calls name in x-upeti-task, those found in kept pairs, those that were declared.

    First those that can be owned, the dearest first. Calls and costs are exact, from the journal; what is said of answers is
    from the newest 2,000 kept pairs of each.
    """
    assumed = _share(share)
    with opened_rights(config, terms=False) as opened:
        found = _survey(opened, config, first_day, last_day)
    if as_json:
        typer.echo(json.dumps([values_shown(one, assumed) for one in found], indent=2, ensure_ascii=False))
        return
    screen = console()
    if not found:
        screen.print(
            "No call names a task and no kept pair is of one: docs/tasks.md says how to find out.", soft_wrap=True
        )
        return
    print_list(screen, found, assumed)


@tasks_app.command("show")
def show_command(
    task: TaskArgument,
    share: ShareOption = _SHARE,
    first_day: FirstDayOption = None,
    last_day: LastDayOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one task: its template, how it is answered, what it costs, how steady its teacher is, what was declared."""
    from upeti.control.tasks import agreements_of, declared

    assumed = _share(share)
    with opened_rights(config, terms=False) as opened:
        seen = _one(opened, config, task, first_day, last_day)
        declaration = next((one for one in declared(opened.store) if one.name == task), None)
        measured = agreements_of(opened.store, task)
    if as_json:
        shown = values_shown(seen, assumed) | {
            "declaration": msgspec.to_builtins(declaration),
            "agreements": [msgspec.to_builtins(one) for one in measured],
        }
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    print_one(console(), seen, declaration, measured, assumed)


@tasks_app.command("declare")
def declare_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The task's name from now on.")],
    by: ByOption,
    why: WhyOption,
    tag: Annotated[str, typer.Option(help="Its calls carry this in x-upeti-task.", show_default=False)] = "",
    template: Annotated[
        str,
        typer.Option(
            help="Its template: the digest or how it begins, or the name it was found under. Without one: that of most "
            "kept pairs with the tag.",
            show_default=False,
        ),
    ] = "",
    route: Annotated[str, typer.Option(help="Its route.", show_default="that of most pairs")] = "",
    channel: Annotated[str, typer.Option(help="The teacher's channel.", show_default="that of most pairs")] = "",
    model: Annotated[str, typer.Option(help="The teacher's model there.", show_default="that of most pairs")] = "",
    target: Annotated[
        Kind,
        typer.Option(help="What alpha is a share of: all its calls, the student's answers, or each class."),
    ] = Kind.SYSTEM,
    alpha: Annotated[float, typer.Option(help="Most of that which may be answered other than by the teacher.")] = 0.05,
    delta: Annotated[float, typer.Option(help="Probability that a certificate is wrong.")] = 0.05,
    audit_share: Annotated[
        float, typer.Option(help="Share of the student's answers that the teacher is asked too.")
    ] = AUDIT_SHARE,
    audit_limit: Annotated[str, typer.Option(help="What audits may cost in a month.")] = "10",
    audit_currency: Annotated[str, typer.Option(help="Currency of that.")] = "USD",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Declare a task: from now on its name stands for its route, its teacher, its template and the form of its answers.

    All of them are read from kept pairs. Whatever is trained, certified and served for the task holds for exactly these.
    """
    from upeti.control.tasks import Wanted, declare

    wanted = Wanted(
        name=name,
        tag=tag,
        template=template,
        route=route,
        channel=channel,
        model=model,
        target=target,
        alpha=alpha,
        delta=delta,
        audit_share=audit_share,
        audit_limit=audit_limit,
        audit_currency=audit_currency,
        by=by,
        why=why,
    )
    with opened_rights(config) as opened:
        made = declare(opened.store, opened.bodies, wanted)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(made), indent=2, ensure_ascii=False))
        return
    screen = console()
    print_line(screen, f"{made.name} is declared: {taught(made)}; {answered(made)}. {promise(made)}")


@tasks_app.command("forget")
def forget_command(task: TaskArgument, by: ByOption, why: WhyOption, config: ConfigOption = None) -> None:
    """Take a declaration back. Kept pairs, data sets and models stay as they are."""
    from upeti.control.tasks import forget

    with opened_rights(config, terms=False) as opened:
        forget(opened.store, task, by=by, why=why)
    typer.echo(f"{task} is no declared task any more.")


@tasks_app.command("stability")
def stability_command(
    task: TaskArgument,
    key: Annotated[
        str, typer.Option(envvar="UPETI_KEY", help="A client key of this Upeti; it pays.", show_default=False)
    ],
    limit: Annotated[str, typer.Option(help="What this may cost.")],
    sample: Annotated[int, typer.Option(min=1, help="How many kept questions are asked again.")] = 50,
    currency: Annotated[str, typer.Option(help="Currency of the limit.")] = "USD",
    route: Annotated[
        str,
        typer.Option(
            help="Ask here, and compare with the teacher: a newer snapshot, a smaller model.", show_default="the same"
        ),
    ] = "",
    base_url: Annotated[
        str, typer.Option(help="Address of the gateway.", show_default="that of the configuration")
    ] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Ask a teacher some kept questions once more, through the gateway, and count how often it says the same.

    No own model can agree with a teacher more than the teacher with itself. The calls carry the feature `stability`.
    """
    from upeti.control.task_stability import ask_again, questions
    from upeti.control.tasks import keep_agreement, read_kept
    from upeti.feed.gateway_client import GatewayClient

    with opened_rights(config) as opened:
        seen = _one(opened, config, task, None, None)
        if seen.template is None or seen.form is None:
            raise ConfigError(f"`{task}` has no template and form to compare by: {'; '.join(seen.against)}")
        kept = read_kept(opened.store, opened.bodies, seen.tag)
        asked, left_out = questions(opened.store, opened.terms, kept, seen.template, (seen.channel, seen.model), sample)
        if not asked:
            raise ConfigError(f"no kept question of `{task}` may be asked again: {reasons(left_out)}")
        client = GatewayClient(base_url or _gateway(config), key)
        made, ended = ask_again(
            client,
            seen,
            seen.form,
            asked,
            limit=limit,
            currency=currency,
            route=route,
            told=_progress(len(asked), as_json),
        )
        keep_agreement(opened.store, made)
    if as_json:
        shown = {**msgspec.to_builtins(made), "left_out": left_out, "ended_early": ended}
        typer.echo(json.dumps(shown, indent=2))
        return
    screen = console()
    print_line(screen, agreement_text(made))
    if left_out:
        print_line(screen, f"Left out: {reasons(left_out)}.")
    if ended:
        print_line(screen, f"It ended early: {ended}.")


# -- finding
# -------------------------------------------------------------------------------------------------------------


def _survey(
    opened: Opened, config: Path | None, first_day: datetime.datetime | None, last_day: datetime.datetime | None
) -> list[Seen]:
    from upeti.control.tasks import survey

    first, last = (day.date() if day else None for day in (first_day, last_day))
    return survey(opened.store, opened.bodies, first_day=first, last_day=last)


def _one(
    opened: Opened,
    config: Path | None,
    name: str,
    first_day: datetime.datetime | None,
    last_day: datetime.datetime | None,
) -> Seen:
    found = next((one for one in _survey(opened, config, first_day, last_day) if one.name == name), None)
    if found is None:
        raise ConfigError(f"there is no task `{name}`: `upeti tasks list` shows them")
    return found


def _gateway(config: Path | None) -> str:
    gateway = values_of(config).get("gateway", {})
    port = gateway.get("port", 8080) if isinstance(gateway, dict) else 8080
    if not port:
        raise ConfigError("the configuration leaves the gateway's port to the system: give --base-url")
    scheme = "https" if gateway.get("tls_certificate") else "http"
    return f"{scheme}://{gateway.get('host', '127.0.0.1')}:{port}/v1"


def _progress(total: int, quiet: bool) -> Any:
    def told(count: int) -> None:
        if not quiet and (count % 10 == 0 or count == total):
            typer.echo(f"{count} of {total} asked", err=True)

    return told


def _share(text: str) -> Decimal:
    try:
        share = Decimal(text)
    except InvalidOperation:
        share = Decimal(-1)
    if not 0 < share <= 1:
        raise ConfigError(f"--share {text}: write a share above 0 and up to 1, such as 0.6")
    return share
