"""`upeti students savings`: what own answers would have cost, what they cost, and what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upeti.cli import students_compare  # noqa: F401 - adds its command
from upeti.cli.options import ConfigOption, DataDirOption, FirstDayOption, JsonOption, LastDayOption, complaints
from upeti.cli.output import cell, console, table
from upeti.cli.state import open_books
from upeti.cli.students_train import students_app
from upeti.core.amount import decimal_text

if TYPE_CHECKING:
    import datetime

    from upeti.money.owned import Estimate, Owned

__all__ = ["students_app"]

_HEAD = ("task", "answered", "audits", "", "teacher would have cost", "audits cost", "own answers", "training", "net")


@students_app.command("savings")
def savings_command(
    first_day: FirstDayOption = None,
    last_day: LastDayOption = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with a plot into this file.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print by task what students answered, what the teacher would have cost (estimated from the audited calls, with its
    interval), what audits, own answers and training cost, and what is left.
    """
    with complaints():
        first, last = (day.date() if day else None for day in (first_day, last_day))
        rows = found(config, data_dir, first, last)
        if html is not None:
            _write(html, rows, first, last)
    if as_json:
        from upeti.money.owned import HOW

        typer.echo(json.dumps({"tasks": [as_values(one) for one in rows], "how": HOW}, indent=2))
        return
    screen = console()
    if not rows:
        screen.print("No student has answered anything in this time, and none was trained.")
        return
    shown = table([(name, place > 0 and name != "") for place, name in enumerate(_HEAD)])
    for one in rows:
        shown.add_row(*map(cell, cells(one)))
    screen.print(shown)
    from upeti.money.owned import HOW

    screen.print(f"How: {HOW}.", markup=False, highlight=False, soft_wrap=True)
    for one in rows:
        for remark in one.remarks:
            screen.print(f"{one.task}: {remark}.", markup=False, highlight=False, soft_wrap=True)


def found(
    config: Path | None, data_dir: Path | None, first: datetime.date | None, last: datetime.date | None
) -> list[Owned]:
    """Return what own models saved in some days."""
    from upeti.control.owned_savings import owned
    from upeti.journal.events_store import connect

    with open_books(config, data_dir) as store, connect(store.data_dir) as connection:
        return owned(store, connection, first, last)


def cells(one: Owned) -> list[str]:
    """Return a row of the table."""
    charged = [decimal_text(pico) for pico in (one.audits_pico, one.own_pico, one.training_pico)]
    return [
        one.task,
        f"{one.calls:,}",
        f"{one.audits:,}",
        one.currency,
        shown_estimate(one.teacher),
        *charged,
        shown_estimate(one.net),
    ]


def shown_estimate(amount: Estimate | None) -> str:
    """Return an estimate for people, with as many digits as its interval bears."""
    if amount is None:
        return "? (fewer than two audits)"
    from upeti.core.amount import round_pico

    width = max(amount.high_pico - amount.low_pico, 1)
    # Two digits of the interval's width: what stands behind them is chance.
    decimals = max(2, min(12, 12 - len(str(width)) + 2))
    about, low, high = (round_pico(pico, decimals) for pico in (amount.pico, amount.low_pico, amount.high_pico))
    return f"{about:f} ({low:f} to {high:f})"


def as_values(one: Owned) -> dict[str, Any]:
    """Return a task's savings as JSON shows them."""
    return {
        "task": one.task,
        "currency": one.currency,
        "answered": one.calls,
        "audits": one.audits,
        "teacher_would_have_cost": _values(one.teacher),
        "audits_cost": decimal_text(one.audits_pico),
        "own_answers_cost": decimal_text(one.own_pico),
        "training_cost": decimal_text(one.training_pico),
        "net": _values(one.net),
        "remarks": list(one.remarks),
    }


def _values(amount: Estimate | None) -> dict[str, str] | None:
    if amount is None:
        return None
    names = ("estimate", "low", "high")
    return dict(zip(names, map(decimal_text, (amount.pico, amount.low_pico, amount.high_pico)), strict=True))


def _write(path: Path, rows: list[Owned], first: datetime.date | None, last: datetime.date | None) -> None:
    from upeti.control.student_pages import savings_page
    from upeti.core.errors import ConfigError

    when = f"{first or 'since the beginning'} to {last or 'now'}"
    page = savings_page(rows, [cells(one) for one in rows], _HEAD, when)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); name a file in a directory of yours") from None
