"""`upeti learn`: the learning cycle of a task, by hand and by schedule."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from upeti.cli.options import AnswerableOption, ConfigOption, JsonOption, WhyOption
from upeti.cli.state import opened_rights
from upeti.core.errors import ConfigError

learn_app = typer.Typer(
    help="The learning cycle of a task: data set, student, certificate, shadow.", no_args_is_help=True
)

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A declared task: `upeti tasks declare`.")]
_UNITS: Final = {"h": 3_600, "d": 86_400, "w": 604_800}


@learn_app.command("run")
def run_command(
    task: TaskArgument,
    by: AnswerableOption,
    why: WhyOption,
    level: Annotated[
        str, typer.Option(help="l1, l2, or auto: the one that could answer more, cross-validated.")
    ] = "auto",
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Train on labels of your own (CSV: text, label); it is certified against the teacher all the same.",
            show_default=False,
        ),
    ] = None,
    labels_owner: Annotated[str, typer.Option(help="Who says that these labels are yours.", show_default="--by")] = "",
    again_after: Annotated[
        str, typer.Option(help="How old a student has to be before the next is trained: 12h, 7d, 0h.")
    ] = "7d",
    served_as: Annotated[
        str,
        typer.Option(help="The student's name in routes.", show_default="TASK, or TASK-next while that is in use"),
    ] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Go through the cycle as far as it goes: build a data set, train, certify, let into the shadow; say why it stopped.

    Nothing is done twice: when nothing is new it says so. It lets no student answer; that is up to audits or to
    `upeti students promote`.
    """
    from upeti.cli.learn_parts import progress_bar, settings_of, student_channel
    from upeti.control.learn_cycle import run
    from upeti.control.learn_runs import Ended
    from upeti.control.training import Wanted

    settings = settings_of(config)
    channel = student_channel(settings)
    if level not in ("auto", "l1", "l2"):
        raise ConfigError(f"--level {level}: there are auto, l1, l2")
    wanted = Wanted(
        task=task,
        channel=channel,
        served_as=served_as,
        level=level,  # type: ignore[arg-type]
        labels=str(labels.resolve()) if labels is not None else "",
        labels_owner=labels_owner,
    )
    with opened_rights(config) as opened, progress_bar(quiet=as_json) as progress:
        ran = run(
            opened.store,
            opened.terms,
            opened.bodies,
            wanted,
            by=by,
            why=why,
            capturing=settings.capture.enabled,
            again_after_hours=_seconds(again_after) / 3600,
            lapses_after_days=settings.learning.lapse_days,
            ray=settings.learning.ray,
            progress=progress,
        )
        hint = _hint(opened.store, ran.model, settings) if ran.outcome is Ended.SHADOW else ""
    if as_json:
        typer.echo(json.dumps({**msgspec.to_builtins(ran), "missing": hint}, indent=2, ensure_ascii=False))
        return
    from upeti.cli.dataset import print_plain
    from upeti.cli.output import console

    screen = console()
    for number, step in enumerate(ran.steps, 1):
        print_plain(screen, f"{number}. {step}")
    stopped = "" if ran.outcome is Ended.SHADOW else "Stopped: "
    print_plain(screen, f"{stopped}{ran.why}.")
    if hint:
        print_plain(screen, f"Missing: {hint}.")
    if ran.outcome is Ended.SHADOW:
        print_plain(screen, f"Next: upeti students show {ran.model}")


def _hint(store: Any, model: str, settings: Any) -> str:
    from upeti.cli.learn_parts import candidate_hint
    from upeti.control.students import student

    return candidate_hint(settings, *student(store, model).place)


@learn_app.command("schedule")
def schedule_command(
    task: TaskArgument,
    by: AnswerableOption,
    why: WhyOption,
    every: Annotated[str, typer.Option(help="How often: 12h, 7d, 2w.")] = "7d",
    off: Annotated[bool, typer.Option("--off", help="End the schedule.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Have the keeper run a task's cycle by itself: so often, and soon after its student was taken back.

    It runs in your name, in a process of its own.
    """
    from upeti.control.learn_runs import schedule, unschedule

    with opened_rights(config, terms=False) as opened:
        if off:
            unschedule(opened.store, task, by=by, why=why)
            made = None
        else:
            made = schedule(opened.store, task, _seconds(every), by=by, why=why)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(made), indent=2))
    elif made is None:
        typer.echo(f"The cycle of {task} has no schedule any more.")
    else:
        typer.echo(f"The cycle of {task} runs every {_span(made.every_s)}, and after its student was taken back.")


@learn_app.command("status")
def status_command(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Only this task.", show_default=False)] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show for each declared task: calls kept, the last runs and why they ended, looks spent, when it runs next."""
    from upeti.control.certifying import next_look
    from upeti.control.learn_runs import all_runs, all_schedules
    from upeti.control.students import all_students
    from upeti.control.tasks import declared
    from upeti.control.training import pairs_of, task_of
    from upeti.money.window import iso_time

    with opened_rights(config, terms=False) as opened:
        store = opened.store
        known = [task_of(store, task)] if task else declared(store)
        scheduled = {one.task: one for one in all_schedules(store)}
        students = all_students(store)
        rows: list[dict[str, Any]] = []
        for one in known:
            plan = scheduled.get(one.name)
            rows.append(
                {
                    "task": one.name,
                    "pairs": pairs_of(store, one),
                    "looks": next_look(store, one.name) - 1,
                    "students": {each.model.id: each.model.stage for each in students if each.task == one.name},
                    "schedule": {"every_s": plan.every_s, "by": plan.by} if plan is not None else None,
                    "runs": [
                        {**msgspec.to_builtins(ran), "at": iso_time(ran.at_ns, "UTC")}
                        for ran in all_runs(store, one.name, 10)
                    ],
                }
            )
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from upeti.cli.output import cell, console, table

    names = ("task", "calls kept", "looks", "students", "runs every", "last run", "ended")
    shown = table([(name, name in ("calls kept", "looks")) for name in names])
    for row in rows:
        ran = row["runs"][0] if row["runs"] else None
        stages = ", ".join(f"{name} {stage}" for name, stage in row["students"].items())
        shown.add_row(
            cell(row["task"]),
            cell(row["pairs"]),
            cell(row["looks"]),
            cell(stages or "none"),
            cell(_span(row["schedule"]["every_s"]) if row["schedule"] else "by hand"),
            cell(ran["at"] if ran else "never"),
            cell(ran["why"] if ran else ""),
        )
    console().print(shown if rows else "No task is declared: `upeti tasks list` shows what is asked.")


def _seconds(text: str) -> int:
    """Return the seconds of 12h, 7d or 2w. Raises ``ConfigError``."""
    found = re.fullmatch(r"(\d{1,4})([hdw])", text.strip())
    if found is None:
        raise ConfigError(f"`{text}` is no span of time: write 12h, 7d or 2w")
    return int(found[1]) * _UNITS[found[2]]


def _span(seconds: int) -> str:
    return f"{seconds // 86_400}d" if seconds % 86_400 == 0 else f"{seconds // 3_600}h"
