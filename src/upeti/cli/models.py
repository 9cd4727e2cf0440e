"""`upeti models`: own models, what they rest on, their papers and their stage."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from upeti.cli.dataset import print_plain
from upeti.cli.options import ByOption, ConfigOption, JsonOption, WhyOption
from upeti.cli.state import opened_rights

if TYPE_CHECKING:
    from upeti.cli.state import Opened
    from upeti.control.models import Model
    from upeti.rights.model_papers import About, Source

models_app = typer.Typer(help="Own models: what each rests on, its papers, its stage.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="MODEL", help="NAME, or NAME@VERSION; without one the newest.")]


@models_app.command("register")
def register_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")],
    version: Annotated[str, typer.Option(help="Its version.")],
    purpose: Annotated[str, typer.Option(help="What it is for, such as classify_internal.")],
    dataset: Annotated[list[str], typer.Option("--dataset", help="Data set that it was trained on; give each.")],
    by: ByOption,
    why: WhyOption,
    file: Annotated[Path | None, typer.Option(help="Its weights; their hash is kept.", show_default=False)] = None,
    channel: Annotated[str, typer.Option(help="Channel at which it is served.", show_default=False)] = "",
    model: Annotated[str, typer.Option(help="Its name there.", show_default=False)] = "",
    base_model: Annotated[str, typer.Option(help="The model it was fine-tuned from.", show_default=False)] = "",
    distributed: Annotated[bool, typer.Option("--distributed", help="It is given to others.")] = False,
    notice: Annotated[list[str] | None, typer.Option(help="Text that it is shown with.", show_default=False)] = None,
    licence: Annotated[str, typer.Option(help="Licence under which it is given on.", show_default=False)] = "",
    users_monthly: Annotated[
        int | None, typer.Option(help="Monthly users of your products, where a licence asks.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Register a model. Refused, with clause and cure, while a row of its data sets has no right for the purpose or a duty is
    not kept.
    """
    from upeti.control.models import Wanted, register

    wanted = Wanted(
        name=name,
        version=version,
        purpose=purpose,
        datasets=tuple(dataset),
        distributed=distributed,
        base_model=base_model,
        channel=channel,
        model=model,
        notices=tuple(notice or ()),
        licence=licence,
        users_monthly=users_monthly,
    )
    with opened_rights(config) as opened:
        made = register(opened.store, opened.terms, wanted, file=file, by=by, why=why)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(made), indent=2))
    else:
        typer.echo(f"{made.id} is registered for {made.purpose}, on {', '.join(made.datasets)}.")


@models_app.command("list")
def list_command(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List all models with their stage."""
    from upeti.control.models import all_models

    with opened_rights(config, terms=False) as opened:
        found = all_models(opened.store)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    from upeti.cli.output import cell, console, table

    shown = table([(name, False) for name in ("model", "purpose", "stage", "served at", "data sets", "why")])
    for one in found:
        place = f"{one.channel}/{one.model}" if one.channel else ""
        shown.add_row(*map(cell, (one.id, one.purpose, one.stage, place, ", ".join(one.datasets), one.stage_why)))
    console().print(shown if found else "There are no models yet: `upeti models register NAME …` adds one.")


@models_app.command("show")
def show_command(name: NameArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show a model, what it rests on, and what stands against it now."""
    from upeti.control.models import model, standing_against

    with opened_rights(config) as opened:
        one = model(opened.store, name)
        against = standing_against(opened.store, opened.terms, one, time.time_ns())
    shown: dict[str, Any] = {**msgspec.to_builtins(one), "against": msgspec.to_builtins(against)}
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    from upeti.cli.output import console

    screen = console()
    for field in (
        "id",
        "purpose",
        "stage",
        "stage_why",
        "datasets",
        "channel",
        "model",
        "base_model",
        "file_sha256",
        "duties",
    ):
        value = shown[field]
        if value:
            print_plain(screen, f"{field:<12} {', '.join(value) if isinstance(value, list) else value}")
    for each in against:
        print_plain(screen, f"against      {each.rows:,} rows of {each.dataset} hang on {each.what}: {each.why}")


@models_app.command("bom")
def bom_command(name: NameArgument, config: ConfigOption = None) -> None:
    """Print a model's CycloneDX 1.7 bill of materials: its data sets by their manifests, contracts, clauses, duties."""
    from upeti import __version__
    from upeti.rights.model_papers import bill_of_materials

    with opened_rights(config, terms=False) as opened:
        about, sources = _papers(opened, name)
    typer.echo(bill_of_materials(about, sources, __version__).decode(), nl=False)


@models_app.command("summary")
def summary_command(name: NameArgument, config: ConfigOption = None) -> None:
    """Draft the public summary of training content that the EU's AI Act asks for, from lineage; a person finishes it."""
    from upeti.rights.model_papers import training_summary

    with opened_rights(config) as opened:
        about, sources = _papers(opened, name)
        quotes = {clause.id: clause.quote for clause in opened.terms.clauses}
    typer.echo(training_summary(about, sources, quotes), nl=False)


@models_app.command("export")
def export_command(
    name: NameArgument,
    out: Annotated[Path, typer.Option(help="Directory to make.")],
    file: Annotated[
        Path | None, typer.Option(help="Its weights, to be copied; their hash must fit.", show_default=False)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Write what goes with a model: its weights, bill of materials, training summary, notices and signed statements. Refused
    while a right is missing.
    """
    from upeti import __version__
    from upeti.control.exports import export
    from upeti.control.models import model, standing_against
    from upeti.core.errors import ConfigError
    from upeti.rights.model_papers import bill_of_materials, training_summary

    with opened_rights(config) as opened:
        one = model(opened.store, name)
        against = standing_against(opened.store, opened.terms, one, time.time_ns())
        if against or one.stage in ("quarantined", "retired"):
            why = against[0].why if against else f"it is {one.stage}"
            raise ConfigError(f"`{one.id}` may not be given out: {why}; `upeti models show {one.id}` says all")
        about, sources = _papers(opened, name)
        quotes = {clause.id: clause.quote for clause in opened.terms.clauses}
        papers = {
            "bom.cdx.json": bill_of_materials(about, sources, __version__),
            "training-summary.md": training_summary(about, sources, quotes).encode(),
        }
        written = export(opened.store, one, papers, out, file)
    typer.echo("\n".join(str(path) for path in written))


@models_app.command("release")
def release_command(name: NameArgument, by: ByOption, why: WhyOption, config: ConfigOption = None) -> None:
    """Let a quarantined model serve again, once every right that it rests on is there."""
    from upeti.control.models import release

    with opened_rights(config) as opened:
        one = release(opened.store, opened.terms, name, by=by, why=why)
    typer.echo(f"{one.id} is {one.stage} again.")


@models_app.command("retire")
def retire_command(name: NameArgument, by: ByOption, why: WhyOption, config: ConfigOption = None) -> None:
    """Take a model out of use for good; routes go on without it."""
    from upeti.control.models import retire

    with opened_rights(config, terms=False) as opened:
        one = retire(opened.store, name, by=by, why=why)
    typer.echo(f"{one.id} is {one.stage}.")


def lineage(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A model, data set, clause, grant, consent, contract, call or pair."),
    ],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what hangs together: what a model rests on, and what a clause, a grant, a consent or a call touches."""
    from upeti.control.lineage import trace

    with opened_rights(config) as opened:
        found = trace(opened.store, opened.terms, name)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    from rich.tree import Tree

    from upeti.cli.output import cell, console

    tree = Tree(cell(f"{found.kind} {found.id}"))
    for one in found.models:
        tree.add(cell(f"model {one['id']}: {one['purpose']}, {one['stage']}"))
    for one in found.datasets:
        tree.add(cell(f"data set {one['id']}: {one['purpose']}, {one['touched']:,} of {one['rows']:,} rows touched"))
    for kind in ("clauses", "contracts", "grants", "consents", "channels"):
        rows = getattr(found, kind)
        if rows:
            branch = tree.add(cell(kind))
            for value, count in rows.items():
                branch.add(cell(f"{value}: {count:,} rows"))
    erased = f"{found.erased_rows:,} rows erased since, {found.own_rows:,} rows of one's own"
    captured = tree.add(cell(f"{found.pairs:,} captured pairs; {erased}"))
    for call in found.calls[:5]:
        captured.add(cell(call))
    console().print(tree)


def _papers(opened: Opened, name: str) -> tuple[About, list[Source]]:
    from upeti.control.datasets import datasets_of_names, manifest_of
    from upeti.control.models import model
    from upeti.rights.model_papers import About, Source

    one: Model = model(opened.store, name)
    fields = {field: getattr(one, field) for field in About.__struct_fields__}
    sources = [
        Source(manifest_of(each), each.manifest_sha256) for each in datasets_of_names(opened.store, one.datasets)
    ]
    return About(**fields), sources
