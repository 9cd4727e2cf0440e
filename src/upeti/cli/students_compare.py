"""`upeti students compare`: students side by side, without a look at calibration rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from upeti.cli.options import ConfigOption, JsonOption
from upeti.cli.state import opened_rights
from upeti.cli.students import students_app

if TYPE_CHECKING:
    from upeti.control.students_compare import Known

_NOTE = (
    "Trained figures are cross-validated on training rows and no promise. Calibration rows are not looked at: who chooses by "
    "them makes the chosen one look better than it is."
)


@students_app.command("compare")
def compare_command(
    names: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Two or more: NAME, or NAME@VERSION.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show students side by side: how they were trained, what was certified, what audits show."""
    from upeti.control.students import student
    from upeti.control.students_compare import known

    with opened_rights(config, terms=False) as opened:
        found = [known(opened.store.data_dir, student(opened.store, name)) for name in names]
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    from upeti.cli.output import cell, console, table

    shown = table([("", False), *((one.id, True) for one in found)])
    for lines in zip(*map(_lines, found), strict=True):
        shown.add_row(cell(lines[0][0]), *(cell(value) for _, value in lines))
    screen = console()
    screen.print(shown)
    screen.print(_NOTE, markup=False, highlight=False, soft_wrap=True)


def _lines(one: Known) -> list[tuple[str, str]]:
    answers = "?" if one.answers is None else "{:.1%} ({:.1%} to {:.1%})".format(*one.answers)
    return [
        ("task", one.task),
        ("stage", one.stage),
        ("level", one.level or "?"),
        ("size", f"{one.kilobytes:,} kB"),
        ("rows trained on", f"{one.rows:,}" if one.rows is not None else "?"),
        ("agrees with the teacher", _share(one.agreement)),
        ("could answer, trained", f"{_share(one.could_answer)} at {one.allowed:.2%}"),
        ("promise", one.promise or "none"),
        ("answers, certified", answers if one.promise else "nothing"),
        ("audits", f"{one.errors:,} of {one.audits:,} broke it" if one.audits else "none"),
        ("risk now at most", _share(one.risk_high)),
        ("evidence against it", f"{one.evidence:.3g}" if one.evidence is not None else "?"),
    ]


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value:.1%}"
