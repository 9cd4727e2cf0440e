"""`upeti feed experiment`, `worth`, `enrich`: what enrichment earns, what it costs, and getting it."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upeti.cli.feed import TenantArgument, feed_app, opened
from upeti.cli.options import CONFIG_FILE, ConfigOption, JsonOption
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.core.config import Config, FeedEnrichment
    from upeti.feed.enrichment_worker import Passed
    from upeti.feed.experiment import Arm, Experiment
    from upeti.feed.experiments import Experiments
    from upeti.feed.store import FeedStore
    from upeti.feed.worth import Worth
    from upeti.feed.worth_data import Report

experiment_app = typer.Typer(help="Make, start, stop and list experiments.", no_args_is_help=True)
feed_app.add_typer(experiment_app, name="experiment")

NameArgument = Annotated[str, typer.Argument(help="Name of an experiment.", metavar="NAME")]
ActorOption = Annotated[str, typer.Option("--by", help="Who decides; it is kept in the journal of acts.")]
ReasonOption = Annotated[str, typer.Option("--why", help="Why; it is kept in the journal of acts.")]

KindOption = Annotated[
    list[str] | None, typer.Option(help="Kinds of feedback that count; all positive ones without it.")
]
WithinOption = Annotated[int, typer.Option(min=1, help="Seconds after an impression in which an event counts.")]


@experiment_app.command("create")
def create_command(
    name: NameArgument,
    tenant: TenantArgument,
    arm: Annotated[
        list[str],
        typer.Option(
            help="An arm as NAME=GROUPS or NAME=GROUPS:WEIGHT, once for each. GROUPS are popularity, collaborative, metadata, "
            "enrichment_student, enrichment_paid, joined by +; `free` is the first three, `all` is all."
        ),
    ],
    event_value: Annotated[str, typer.Option(help="What one more engaged event is worth (λ), as a decimal.")] = "0.001",
    currency: Annotated[str, typer.Option(help="Currency of that value, the one in which enrichment is paid.")] = "USD",
    holdout: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of items for which no enrichment is bought.")
    ] = 0.0,
    traffic: Annotated[float, typer.Option(min=0, max=1, help="Share of users who are in it.")] = 1.0,
    users: Annotated[int, typer.Option(min=100, help="Users per arm at which intervals shall be tightest.")] = 10_000,
    error: Annotated[float, typer.Option(help="How often the verdict may be wrong, at any time.")] = 0.05,
    kind: KindOption = None,
    within: WithinOption = 86_400,
    interleaved: Annotated[
        bool, typer.Option("--interleaved", help="Show two arms in one list: which do people prefer?")
    ] = False,
    by: ActorOption = "cli",
    why: ReasonOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make an experiment, or replace one that has not begun. It begins with `upeti feed experiment start`."""
    with opened(config) as (store, directory):
        from upeti.feed.experiment import Experiment

        made = Experiment(
            name,
            tuple(_arm(text) for text in arm),
            traffic,
            holdout,
            event_value,
            currency.upper(),
            tuple(kind or ()),
            within,
            error,
            users,
            interleaved=interleaved,
        )
        _show([_experiments(store, directory, tenant).put(_checked(made), by, time.time_ns(), why)], as_json=as_json)


@experiment_app.command("start")
def start_command(
    name: NameArgument, tenant: TenantArgument, by: ActorOption = "cli", why: ReasonOption = "",
    as_json: JsonOption = False, config: ConfigOption = None,
) -> None:  # fmt: skip
    """Begin an experiment. From here on it cannot be changed; a running feed service takes it within a second."""
    with opened(config) as (store, directory):
        _show([_experiments(store, directory, tenant).start(name, by, time.time_ns(), why)], as_json=as_json)


@experiment_app.command("stop")
def stop_command(
    name: NameArgument, tenant: TenantArgument, by: ActorOption = "cli", why: ReasonOption = "",
    as_json: JsonOption = False, config: ConfigOption = None,
) -> None:  # fmt: skip
    """End an experiment; everybody gets the default arm again. Its verdict stays."""
    with opened(config) as (store, directory):
        _show([_experiments(store, directory, tenant).stop(name, by, time.time_ns(), why)], as_json=as_json)


@experiment_app.command("drop")
def drop_command(
    name: NameArgument, tenant: TenantArgument, by: ActorOption = "cli", why: ReasonOption = "",
    as_json: JsonOption = False, config: ConfigOption = None,
) -> None:  # fmt: skip
    """Give up an experiment that has not begun."""
    with opened(config) as (store, directory):
        _show([_experiments(store, directory, tenant).drop(name, by, time.time_ns(), why)], as_json=as_json)


@experiment_app.command("list")
def list_command(tenant: TenantArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List experiments, the oldest first."""
    with opened(config) as (store, directory):
        _show(_experiments(store, directory, tenant).all(), as_json=as_json)


@experiment_app.command("preference")
def preference_command(
    name: NameArgument, tenant: TenantArgument, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Print which of the two arms of an interleaved experiment people take more from. Look as often as you like."""
    with opened(config) as (store, directory):
        from upeti.feed.impressions import ImpressionLog
        from upeti.feed.preferences import preferred
        from upeti.feed.worth_pages import interval_text, preference_values

        experiment = _experiments(store, directory, tenant).get(name)
        log = ImpressionLog(store.tenant_dir(tenant))
        found = preferred(experiment, log, store.feedback(tenant), time.time_ns())
        if as_json:
            typer.echo(json.dumps(preference_values(found), indent=2))
            return
        first, second = found.arms
        typer.echo(
            f"{found.advice}\npreference for {second} over {first}, from -1 to 1: "
            f"{interval_text(found.preference.interval)}; {found.events:,} events of {found.preference.users:,} users"
        )


@experiment_app.command("screen")
def screen_command(
    tenant: TenantArgument,
    probabilities: Annotated[
        Path,
        typer.Option(
            help="CSV with the columns impression_id and probability: with which the idea would have put that item there."
        ),
    ],
    kind: KindOption = None,
    within: WithinOption = 86_400,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Print what another way to rank would have earned per impression, from the log. A screen for ideas, no verdict."""
    with opened(config) as (store, directory):
        from upeti.feed.impressions import ImpressionLog
        from upeti.feed.preferences import screened
        from upeti.feed.worth_pages import interval_text, screen_values

        found = screened(
            _probabilities(probabilities),
            _experiments(store, directory, tenant).all(),
            ImpressionLog(store.tenant_dir(tenant)),
            store.feedback(tenant),
            kinds=kind or (),
            within_s=within,
        )
    if as_json:
        typer.echo(json.dumps([screen_values(one) for one in found], indent=2))
        return
    for one in found:
        doubt = "" if one.is_trusted else "; too little to be trusted"
        typer.echo(
            f"{one.method}: {interval_text(one.interval)} engaged events per impression, carried by {one.sample:,.0f} "
            f"impressions and {one.events:,.0f} events{doubt}"
        )


def _probabilities(path: Path) -> dict[str, float]:
    """Raises ``ConfigError``."""
    import csv

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return {row["impression_id"]: float(row["probability"]) for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); it must be CSV with the columns impression_id and probability"
        ) from None


@feed_app.command("worth")
def worth_command(
    name: NameArgument,
    tenant: TenantArgument,
    page: Annotated[
        Path | None, typer.Option(help="Write the verdict as a page with plots into this .html.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Print the verdict of an experiment: pay, replace by student, stop paying, or undecided and how many users it takes.

    It may be looked at as often as you like. Costs are those of the versions that were bought or shown, and are compared
    with the gateway's journal.
    """
    with opened(config) as (store, directory):
        from upeti.feed.enrichment_worker import FEATURE
        from upeti.feed.worth_data import report
        from upeti.feed.worth_pages import as_values
        from upeti.feed.worth_pages import page as page_of

        experiment = _experiments(store, directory, tenant).get(name)
        found = report(experiment, store, tenant, time.time_ns(), data_dir=directory, feature=FEATURE)
        if page is not None:
            _write(page, page_of(found, experiment, time.time_ns()))
        if as_json:
            typer.echo(json.dumps(as_values(found, experiment), indent=2))
            return
        _print(found)
        if page is not None:
            typer.echo(f"{page} is written.")


@feed_app.command("enrich")
def enrich_command(
    tenant: TenantArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is new and changed, until Ctrl-C.")] = False,
    url: Annotated[
        str, typer.Option(help="Base URL of the gateway, in place of the configuration's.", show_default=False)
    ] = "",
    route: Annotated[
        str, typer.Option(help="Model name to send, in place of the configuration's.", show_default=False)
    ] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Ask models about new and changed items, through the gateway: tags, quality, safety, with cost and provenance.

    What is known is not asked again. Without money or gateway it waits (`--follow`) or says so and ends with status 1.
    """
    import msgspec

    from upeti.control import config_file

    read = config_file.load(config or Path(CONFIG_FILE))
    with opened(config) as (store, directory):
        wanted = read.feed.enrichment
        wanted = msgspec.structs.replace(wanted, url=url or wanted.url, route=route or wanted.route)
        done = _enrich(read, wanted, store, directory, tenant, follow=follow, as_json=as_json)
    if done is not None and (done.pause_s or done.tried):
        raise typer.Exit(1)


def _enrich(
    read: Config, wanted: FeedEnrichment, store: FeedStore, directory: Path, tenant: str, *, follow: bool, as_json: bool
) -> Passed | None:
    from upeti.feed.enrichment_worker import EnrichmentWorker, Settings
    from upeti.feed.gateway_client import GatewayClient

    client = GatewayClient(wanted.url or _own_gateway(read), _key(read, directory))
    own = {channel.name for channel in read.channel if channel.kind == "embedded"}
    settings = Settings(
        wanted.route,
        tuple(own | set(wanted.student_channels)),
        wanted.items_per_call,
        calls_at_once=wanted.calls_at_once,
    )
    worker = EnrichmentWorker(store, tenant, client, _experiments(store, directory, tenant), settings)
    if not follow:
        done = worker.run_once()
        _tell(done, as_json=as_json)
        return done
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    worker.follow(stop.wait, lambda done: _tell(done, as_json=as_json))
    return None


def _tell(done: Passed, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(done._asdict()))
    else:
        typer.echo(
            f"{done.labelled:,} labelled in {done.calls:,} calls, {done.copied:,} copied from items with the same text, "
            f"{done.given_up:,} given up, {done.tried:,} to be tried again"
        )
        if done.pause_s:
            typer.echo(f"waiting {done.pause_s:.0f} s: {done.why}", err=True)
    sys.stdout.flush()


def _own_gateway(read: Config) -> str:
    if not read.gateway.port:
        raise ConfigError(
            "the gateway's port is chosen by the system; name its address with --url or in [feed.enrichment]"
        )
    host = "127.0.0.1" if read.gateway.host in ("0.0.0.0", "::", "") else read.gateway.host  # noqa: S104 - asked, not bound
    scheme = "https" if read.gateway.tls_certificate else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{read.gateway.port}/v1"


def _key(read: Config, directory: Path) -> str:
    """Return the worker's client key. Raises ``ConfigError``."""
    from upeti.control.store import Store
    from upeti.gateway.secrets import resolve
    from upeti.gateway.snapshot import SecretRef

    place = read.feed.enrichment.key
    if place is None:
        raise ConfigError(
            'the worker needs a key of the gateway: upeti keys create --tenant …, then key = "env:NAME" in [feed.enrichment]'
        )
    kind, _, name = place.partition(":")
    sealed = Store(directory).sealed_secrets().get(name, b"") if kind == "stored" else b""
    return resolve(SecretRef(kind, name, sealed), directory)


def _experiments(store: FeedStore, directory: Path, tenant: str) -> Experiments:
    from upeti.feed.experiments import Experiments

    return Experiments(store.tenant_dir(tenant), directory, tenant)


def _arm(text: str) -> Arm:
    from upeti.feed.experiment import FREE, GROUPS, Arm

    name, equals, rest = text.partition("=")
    groups, _, weight = rest.partition(":")
    if not name or not equals or not groups or (weight and not weight.isdecimal()):
        raise ConfigError(f"{text!r} is no arm; write it as paid=all, student=free+enrichment_student or free=free:2")
    mask: set[str] = set()
    for group in groups.split("+"):
        mask |= {"free": set(FREE), "all": set(GROUPS)}.get(group, {group})
    return Arm(name, frozenset(mask), int(weight or 1))


def _checked(experiment: Experiment) -> Experiment:
    """Return it as the API would take it. Raises ``ConfigError``."""
    import msgspec

    try:
        return msgspec.convert(msgspec.to_builtins(experiment), type(experiment))
    except msgspec.ValidationError as error:
        raise ConfigError(f"this is no experiment: {error}") from None


def _show(experiments: list[Experiment], *, as_json: bool) -> None:
    import msgspec

    from upeti.cli.output import cell, console, table

    if as_json:
        typer.echo(json.dumps([msgspec.to_builtins(one) for one in experiments], indent=2))
        return
    if not experiments:
        typer.echo("There are no experiments.")
        return
    columns = table([(name, False) for name in ("name", "state", "arms", "event value", "held out")])
    for one in experiments:
        arms = ", ".join(f"{arm.name} ({'+'.join(sorted(arm.mask)) or 'nothing'})" for arm in one.arms)
        values = (one.name, one.state.value, arms, f"{one.event_value} {one.currency}", f"{one.item_holdout_share:.0%}")
        columns.add_row(*map(cell, values))
    console().print(columns)


def _print(found: Report) -> None:
    from upeti.core.amount import decimal_text

    print_worth(found.worth)
    if found.journal_pico is not None:
        typer.echo(
            f"calls by the worker {decimal_text(found.calls_pico)}, by the journal {decimal_text(found.journal_pico)}; "
            f"{found.not_received:,} calls ({decimal_text(found.not_received_pico)}) were never received"
        )


def print_worth(worth: Worth) -> None:
    """Print a verdict, what it rests on and what a reader must know beside it."""
    from upeti.cli.output import cell, console, plain, table
    from upeti.core.amount import decimal_text
    from upeti.feed.worth_pages import interval_text

    typer.echo(f"{worth.outcome.value.upper()}\n{plain(worth.advice)}\n")
    for warning in worth.warnings:
        typer.echo(f"! {plain(warning)}")
    steps = table([("step", False), ("ΔE /1,000", True), ("ΔC /1,000", True), ("λ·ΔE − ΔC", True), ("ΔC/ΔE", True)])
    for one in worth.comparisons:
        values: list[Any] = [
            f"{one.arm} over {one.over}",
            interval_text(one.extra_events),
            decimal_text(one.extra_cost),
        ]
        steps.add_row(*map(cell, [*values, interval_text(one.net_benefit), interval_text(one.cost_per_event)]))
    console().print(steps)
    for source, spent in worth.spent.items():
        typer.echo(f"{source}: {decimal_text(spent.pico)} {worth.currency} for {spent.versions:,} versions")


def _write(path: Path, html: str) -> None:
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); name a file in a directory of yours") from None
