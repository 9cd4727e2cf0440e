"""`upeti students certify`: what is promised of a student, shown on rows that it never saw."""

from __future__ import annotations

import json
from typing import Annotated

import msgspec
import typer

from upeti.cli.options import AnswerableOption, ConfigOption, JsonOption, WhyOption
from upeti.cli.state import opened_rights
from upeti.cli.students import students_app
from upeti.learning.target import Kind


@students_app.command("certify")
def certify_command(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="NAME, or NAME@VERSION; without one the newest.")],
    by: AnswerableOption,
    why: WhyOption,
    dataset: Annotated[
        str, typer.Option(help="A data set of the task's pairs.", show_default="one is built of what is kept now")
    ] = "",
    target: Annotated[
        Kind | None,
        typer.Option(
            help="What alpha is a share of: all calls, the student's answers, each class.", show_default="the task's"
        ),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Most of that which may go wrong.", show_default="the task's")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Certify a student on the task's rows that are kept for it, and sign what they show; exit status 1 when they do not show it.

    Each look spends a part of the task's delta, one that comes to nothing, too. Calls from while a student answered, and from
    before the last alarm, do not count: they are no fair sample.
    """
    from upeti.cli.dataset import print_plain
    from upeti.cli.learn_parts import progress_bar, settings_of
    from upeti.cli.output import console
    from upeti.control import datasets, students, training
    from upeti.control.certifying import certify, needs_calls
    from upeti.learning.certificate import NotCertified, statement

    settings = settings_of(config)
    with opened_rights(config) as opened:
        store = opened.store
        student = students.student(store, name)
        task = training.task_of(store, student.task)
        if dataset:
            used = datasets.dataset(store, dataset)
        else:
            purpose = training.measured_for(store, student)
            used = training.build(store, opened.terms, opened.bodies, task, purpose, by=by)
        try:
            with progress_bar(quiet=as_json) as progress:
                found = certify(
                    store,
                    task,
                    student.model.id,
                    used,
                    by=by,
                    why=why,
                    target=target,
                    alpha=alpha,
                    lapses_after_days=settings.learning.lapse_days,
                    ray=settings.learning.ray,
                    progress=progress,
                )
        except NotCertified as error:
            needs = error.outcome.needs
            more = needs_calls(needs) if needs is not None else None
            if as_json:
                typer.echo(
                    json.dumps({"certified": False, "needs_calls": more, "reason": error.outcome.reason}, indent=2)
                )
            else:
                after = f"; needs about {more:,} more calls" if more is not None else ""
                typer.echo(f"upeti: {student.model.id} is not certified: {error.outcome.reason}{after}", err=True)
            raise typer.Exit(1) from None
    held = found.student.certificate
    assert held is not None
    values = {"certified": True, "certificate": held.id, "file": str(found.file), "rows": str(found.rows_file)}
    if as_json:
        more_values = {"coverage": msgspec.to_builtins(found.certificate.coverage), "n": found.certificate.n}
        more_values |= {"threshold": found.certificate.threshold, "look": found.certificate.look}
        typer.echo(json.dumps(values | more_values, indent=2))
        return
    screen, made = console(), found.certificate
    print_plain(screen, f"{student.model.id} is certified: {held.id}. {statement(made)}")
    print_plain(
        screen,
        f"It answers {made.coverage.estimate:.1%} of the calls ({made.coverage.low:.1%} to {made.coverage.high:.1%}), from "
        f"confidence {made.threshold:.4g} on; {made.n:,} rows, look {made.look}.",
    )
    print_plain(screen, f"Check it: upeti certificate verify {found.file} --rows {found.rows_file}")
    print_plain(screen, f"Next: upeti students promote {student.model.id}")
