"""A reconciliation for people: sums first, then each kind with its next step, then the lines to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import typer
from rich.console import Console
from rich.table import Table

from upeti.cli.output import aligned, cell, plain, table
from upeti.core.amount import decimal_text, parse_pico
from upeti.core.events import CostCorrected
from upeti.money.reconcile.report import kinds_text, to_look_at
from upeti.money.reconcile.run import Statement
from upeti.money.reconcile.statement import RULE_OF, Line

_LINES_MAX: Final = 20


def show(made: Statement, screen: Console) -> None:
    """Print the summary, what to do about each kind, and the lines to look at."""
    screen.print(f"{made.format}, {made.first_day} to {made.last_day} (UTC)", markup=False, highlight=False)
    screen.print(_sums(made))
    for currency, total in sorted(made.totals.items()):
        if not total.parts and not total.unexplained_lines:
            continue
        kinds = table([("kind", False), ("lines", True), (f"amount {currency}", True), ("next step", False)])
        amounts = iter(
            aligned([*(total.parts[kind] for kind in RULE_OF if kind in total.parts), total.unexplained_pico])
        )
        for kind, rule in RULE_OF.items():
            if kind in total.parts:
                kinds.add_row(cell(kind.value), cell(total.lines[kind]), cell(next(amounts)), cell(rule.next_step))
        if total.unexplained_lines:
            step = "Look at these lines with the provider's own figures."
            kinds.add_row(
                cell("unexplained"), cell(total.unexplained_lines), cell(next(amounts)), cell(step), style="bold red"
            )
        screen.print()
        screen.print(kinds)
    lines = to_look_at(made)
    if lines:
        screen.print()
        screen.print(_lines(lines[:_LINES_MAX]))
    if len(lines) > _LINES_MAX:
        screen.print(f"{len(lines) - _LINES_MAX:,} further lines: --csv, --json and --html have them.", highlight=False)
    for note in made.notes:
        screen.print(plain(note), markup=False, highlight=False)


def _sums(made: Statement) -> Table:
    shown = table(
        [
            ("", False),
            ("provider says", True),
            ("we say", True),
            ("difference", True),
            ("explained", True),
            ("unexplained", True),
        ]
    )
    for currency, total in sorted(made.totals.items()):
        amounts = (
            total.theirs_pico,
            total.ours_pico,
            total.difference_pico,
            total.explained_pico,
            total.unexplained_pico,
        )
        shown.add_row(cell(currency), *(cell(decimal_text(pico)) for pico in amounts))
    return shown


def _lines(lines: list[Line]) -> Table:
    shown = table(
        [
            ("day", False),
            ("channel", False),
            ("model", False),
            ("meter", False),
            ("provider says", True),
            ("we say", True),
            ("difference", True),
            ("kind", False),
            ("why", False),
        ]
    )
    theirs = aligned([line.theirs_pico for line in lines])
    ours = aligned([line.ours_pico for line in lines])
    differences = aligned([line.difference_pico for line in lines])
    for place, line in enumerate(lines):
        name = " ".join(part for part in (line.model, line.tier, line.call) if part)
        meter = f"{line.meter} (long)" if line.context == "long" else line.meter
        shown.add_row(
            cell(line.day.isoformat()),
            cell(line.channel or line.account or "?"),
            cell(name),
            cell(meter),
            cell(theirs[place]),
            cell(ours[place]),
            cell(differences[place]),
            cell(kinds_text(line)),
            cell("; ".join(line.why)),
        )
    return shown


def tell(records: Sequence[CostCorrected], written: int, *, dry_run: bool, to_error: bool) -> None:
    """Say what was corrected, in sums: JSON has every one."""
    if not records:
        typer.echo("Nothing to correct.", err=to_error)
        return
    for currency in sorted({one.currency for one in records}):
        ones = [one for one in records if one.currency == currency]
        was, now = (sum(parse_pico(text) for text in texts) for texts in ([o.was for o in ones], [o.now for o in ones]))
        what = f"{len(ones):,} corrections: {decimal_text(was)} estimated become {decimal_text(now)} {currency}"
        typer.echo(f"Would write {what}." if dry_run else f"{what}.", err=to_error)
    if not dry_run and written < len(records):
        typer.echo(f"{len(records) - written:,} of them were written before.", err=to_error)
