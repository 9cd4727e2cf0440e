"""`upeti students train`: a student out of a task's kept answers, or out of labels of one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from upeti.cli import students_certify  # noqa: F401 - adds its command
from upeti.cli.options import AnswerableOption, ConfigOption, JsonOption, WhyOption
from upeti.cli.state import opened_rights
from upeti.cli.students import students_app
from upeti.core.errors import ConfigError

__all__ = ["students_app"]

_LEVELS = ("auto", "l1", "l2", "l3")


@students_app.command("train")
def train_command(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A declared task: `upeti tasks declare`.")],
    by: AnswerableOption,
    why: WhyOption,
    level: Annotated[
        str,
        typer.Option(
            help="l1: n-grams, fastest. l2: with a packaged encoder. l3: that encoder tuned, which takes minutes and PyTorch. "
            "auto: l1 or l2, the one that could answer more."
        ),
    ] = "auto",
    dataset: Annotated[
        str,
        typer.Option(help="A data set, NAME or NAME@VERSION.", show_default="one is built of the task's kept pairs"),
    ] = "",
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV of your own, with the columns text and label; no teacher's answer is learned from.",
            show_default=False,
        ),
    ] = None,
    labels_owner: Annotated[str, typer.Option(help="Who says that these labels are yours.", show_default="--by")] = "",
    purpose: Annotated[
        str, typer.Option(help="What it is for; every row must be permitted for it.")
    ] = "classify_internal",
    distributed: Annotated[bool, typer.Option("--distributed", help="It will be given to others.")] = False,
    notice: Annotated[list[str] | None, typer.Option(help="A text that it is shown with.", show_default=False)] = None,
    licence: Annotated[str, typer.Option(help="Under which it is given to others.", show_default=False)] = "",
    users_monthly: Annotated[int | None, typer.Option(help="People who use it in a month.", show_default=False)] = None,
    channel: Annotated[str, typer.Option(help="Where it is served.", show_default="the channel of kind student")] = "",
    served_as: Annotated[
        str,
        typer.Option(help="Its name there, as routes have it.", show_default="TASK, or TASK-next while that is in use"),
    ] = "",
    sticky: Annotated[bool, typer.Option("--sticky", help="An end user stays on one side while it is let in.")] = False,
    cost: Annotated[str, typer.Option(help="What training cost, in USD; savings are net of it.")] = "0",
    seed: Annotated[int, typer.Option(help="The same rows, level and seed give the same student.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Copy its folder here, too: card, plots, weights.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Train a student and register it: a data set by permission, rows for calibration left out first, a process of its own.

    It answers nothing yet: that takes a certificate and a person who lets it in.
    """
    from upeti.cli.dataset import print_plain
    from upeti.cli.learn_parts import (
        candidate_hint,
        made_values,
        made_words,
        progress_bar,
        settings_of,
        student_channel,
    )
    from upeti.cli.output import console
    from upeti.control.training import Wanted, task_of, train

    if level not in _LEVELS:
        raise ConfigError(f"--level {level}: there are {', '.join(_LEVELS)}")
    if out is not None and out.exists():
        raise ConfigError(f"{out} is there already: choose another --out")
    settings = settings_of(config)
    wanted = Wanted(
        task=task,
        channel=student_channel(settings, channel),
        served_as=served_as,
        level=level,  # type: ignore[arg-type]
        purpose=purpose,
        dataset=dataset,
        labels=str(labels.resolve()) if labels is not None else "",
        labels_owner=labels_owner,
        distributed=distributed,
        notices=tuple(notice or ()),
        licence=licence,
        users_monthly=users_monthly,
        cost=cost,
        sticky=sticky,
        seed=seed,
    )
    with opened_rights(config) as opened:
        alpha = task_of(opened.store, task).alpha
        with progress_bar(quiet=as_json) as progress:
            student, made, used = train(
                opened.store,
                opened.terms,
                opened.bodies,
                wanted,
                by=by,
                why=why,
                ray=settings.learning.ray,
                progress=progress,
            )
        folder = opened.store.data_dir / student.folder
    if out is not None:
        shutil.copytree(folder, out)
    hint = candidate_hint(settings, *student.place)
    after = f"upeti students certify {student.model.id}"
    if as_json:
        values = {"student": student.model.id, "served_at": "/".join(student.place), "dataset": used.id}
        values |= {"folder": str(out or folder), "missing": hint, "next": after}
        typer.echo(json.dumps(values | made_values(made), indent=2, ensure_ascii=False))
        return
    screen = console()
    print_plain(screen, f"{student.model.id} is registered; it will be served as {'/'.join(student.place)}.")
    for line in made_words(made, alpha):
        print_plain(screen, line)
    print_plain(screen, f"Its rows: {used.id}. Its card: {(out or folder) / 'card.md'}")
    if hint:
        print_plain(screen, f"Missing: {hint}.")
    print_plain(screen, f"Next: {after}")
