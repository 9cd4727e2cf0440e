"""`upeti students`: own models that answer under a certificate: where each stands, letting them in, taking them out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upeti.cli.options import CONFIG_FILE, ByOption, ConfigOption, JsonOption, WhyOption
from upeti.cli.state import opened_rights

if TYPE_CHECKING:
    from upeti.control.store import Store
    from upeti.control.students import Student
    from upeti.core.config_learning import Learning

students_app = typer.Typer(
    help="Own models that answer under a certificate: stages, audits, roll-back.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(metavar="MODEL", help="NAME, or NAME@VERSION; without one the newest.")]


@students_app.command("list")
def list_command(
    task: Annotated[str, typer.Option(help="Only this task's.", show_default="all")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List students with their stage, what audits show, and why one does not answer."""
    from upeti.control.students import all_students
    from upeti.control.students_view import shown

    learning, now_ns = _learning(config), time.time_ns()
    with opened_rights(config, terms=False) as opened:
        rows = [shown(one, learning, now_ns) for one in all_students(opened.store) if task in ("", one.task)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from upeti.cli.output import cell, console, table

    names = ("student", "task", "stage", "served at", "promise", "audits", "evidence", "does not answer because")
    found = table([(name, name in ("audits", "evidence")) for name in names])
    for row in rows:
        held = row["certificate"]
        promise = f"{held['target']['kind']} {held['target']['alpha']:.2%}" if held else ""
        audits = held["audits"] if held else None
        found.add_row(
            *map(cell, (row["id"], row["task"], row["stage"], row["served_at"], promise)),
            cell(audits["audits"] if audits else ""),
            cell(f"{audits['evidence']:.3g} of {audits['alarm_at']:.3g}" if audits else ""),
            cell(row["why_not_answering"] or ""),
        )
    console().print(found if rows else "There are no students yet: a registered student is listed here.")


@students_app.command("show")
def show_command(
    name: NameArgument,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with plots of its audits into this file.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show a student: its stage, its certificate, what audits show, and why it does not answer."""
    from upeti.control.students import student
    from upeti.control.students_view import shown

    with opened_rights(config, terms=False) as opened:
        one = student(opened.store, name)
        row = shown(one, _learning(config), time.time_ns())
        if html is not None:
            _write_page(html, opened.store, one, _lines(row))
    if as_json:
        typer.echo(json.dumps(row, indent=2))
        return
    from upeti.cli.dataset import print_plain
    from upeti.cli.output import console

    screen = console()
    for what, value in _lines(row):
        print_plain(screen, f"{what:<18} {value}")


def _write_page(path: Path, store: Store, one: Student, lines: list[tuple[str, str]]) -> None:
    from upeti.control.student_history import history
    from upeti.control.student_pages import student_page
    from upeti.control.students import certificates_of
    from upeti.core.errors import ConfigError

    # After an alarm its certificate is over; what is looked at then is the last one.
    held = one.certificate or next(reversed(certificates_of(store, one.model.id)), None)
    past = history(store.data_dir, held) if held is not None else None
    page = student_page(lines, one.model.id, past, 1 / held.delta if held is not None else 0.0)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); name a file in a directory of yours") from None


def _lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is printed of a student."""
    lines = [(name.replace("_", " "), row[name]) for name in ("id", "task", "stage", "stage_since", "stage_why")]
    lines += [("answers", "no: " + row["why_not_answering"] if row["why_not_answering"] else "yes")]
    lines += [("served at", row["served_at"]), ("teacher", row["teacher"]), ("data sets", ", ".join(row["datasets"]))]
    held = row["certificate"]
    if held is None:
        return [*lines, ("certificate", "none")]
    audits = held["audits"]
    lines += [
        ("certificate", f"{held['id']}, of {held['made']} by {held['by']}"),
        (
            "promise",
            f"{held['target']['kind']} {held['target']['alpha']:.2%}, from confidence {held['threshold']:.4g} on",
        ),
        ("lapses", f"{held['lapses']} if nothing is audited until then"),
        ("audits", f"{audits['audits']:,}, of them {held['audited_in_stage']:,} in this stage"),
        (
            "calls",
            f"{audits['answered']:,} answered (in the shadow: would have), {audits['deferred']:,} left to the teacher",
        ),
        ("evidence", f"{audits['evidence']:.4g} against the promise; {audits['alarm_at']:.4g} is the alarm"),
    ]
    for risk in audits["risks"]:
        estimate = "not known yet" if risk["estimate"] is None else f"{risk['estimate']:.2%}"
        bound = (
            f"at most {risk['high']:.2%}, {risk['allowed']:.2%} allowed; {risk['errors']} of {risk['audits']} audits"
        )
        lines.append((f"risk {risk['limit']}", f"{estimate}, {bound}"))
    return lines


@students_app.command("promote")
def promote_command(name: NameArgument, by: ByOption, why: WhyOption, config: ConfigOption = None) -> None:
    """Let a student into the next stage: shadow, 1 %, 10 %, 50 %, all of the calls. To answer it needs a certificate."""
    from upeti.control.rollout import promote

    _move(promote, name, by, why, config)


@students_app.command("demote")
def demote_command(name: NameArgument, by: ByOption, why: WhyOption, config: ConfigOption = None) -> None:
    """Bring a student back by one stage."""
    from upeti.control.rollout import demote

    _move(demote, name, by, why, config)


@students_app.command("roll-back")
def roll_back_command(name: NameArgument, by: ByOption, why: WhyOption, config: ConfigOption = None) -> None:
    """Take a student out at once: the next candidate answers all calls. Its certificate stays."""
    from upeti.control.rollout import roll_back

    _move(roll_back, name, by, why, config)


@students_app.command("readmit")
def readmit_command(name: NameArgument, by: ByOption, why: WhyOption, config: ConfigOption = None) -> None:
    """Let a student that was rolled back begin again in the shadow; after an alarm it needs a new certificate first."""
    from upeti.control.rollout import readmit

    _move(readmit, name, by, why, config)


@students_app.command("retire")
def retire_command(name: NameArgument, by: ByOption, why: WhyOption, config: ConfigOption = None) -> None:
    """Take a student out of use for good."""
    from upeti.control import models
    from upeti.control.students import student

    def retire(store: Any, name: str, **who: str) -> Student:
        one = student(store, name)
        models.retire(store, one.model.id, **who)
        return student(store, one.model.id)

    _move(retire, name, by, why, config)


def _move(move: Callable[..., Student], name: str, by: str, why: str, config: Path | None) -> None:
    with opened_rights(config, terms=False) as opened:
        one = move(opened.store, name, by=by, why=why)
    typer.echo(f"{one.model.id} is {one.model.stage}.")


def _learning(config: Path | None) -> Learning:
    """Return `[learning]`, or how it is by itself while somebody edits the file."""
    from upeti.control import config_file
    from upeti.core.config_learning import Learning
    from upeti.core.errors import ConfigError

    try:
        return config_file.read(config or Path(CONFIG_FILE)).config.learning
    except ConfigError:
        return Learning()
