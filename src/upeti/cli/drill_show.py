"""Drills in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from upeti.cli.output import cell, console, plain, table

if TYPE_CHECKING:
    from upeti.control.drills import DrillRow


def show_list(rows: Sequence[DrillRow]) -> None:
    from upeti.outlook.drill_report import time_text

    screen = console()
    if not rows:
        screen.print(
            "There was no drill yet: `upeti drill cut CHANNEL --by NAME` replays the journal without a channel.",
            markup=False,
        )
        return
    columns = [("drill", False), ("mode", False), ("channel", False), ("state", False), ("from (UTC)", False)]
    shown = table([*columns, ("calls", True), ("lost", True), ("survived", True), ("by", False)])
    for row in rows:
        summary = row.summary
        shown.add_row(
            *map(cell, (row.id, row.mode, row.channel, row.state, time_text(row.from_ns))),
            cell(summary.get("calls")),
            cell(summary.get("lost")),
            cell(percent_text(summary.get("survival_percent"))),
            cell(row.by),
        )
    screen.print(shown)


def show_progress(seen: Mapping[str, Any]) -> None:
    """Write how a live drill stands over the line before, on stderr."""
    at = seen["progress"]
    added = "" if at["added_us_p50"] is None else f", added {at['added_us_p50'] / 1000:g} ms (median)"
    text = (
        f"{at['calls']} calls in it: {at['survived']} survived, {at['lost']} lost, {at['open']} open"
        f" ({percent_text(at['survival_percent'])}){added}"
    )
    typer.echo(f"\r{text:<100}", nl=False, err=True)


def show_report(report: Mapping[str, Any]) -> None:
    screen = console()
    drill, result, recovery = report["drill"], report["result"], report["recovery"]
    head = f"Drill {drill['id']} of {drill['channel']}, {drill['mode']}, {drill['from']} to {drill['until']}, by {drill['by']}"
    for text in (head, "", *report["findings"], ""):
        screen.print(plain(text), markup=False, highlight=False, soft_wrap=True)
    live = drill["mode"] == "live"
    numbers = ["calls", "survived", "lost", *(["left", "open"] if live else [])]
    for name in ("feature", "route"):
        rows = report["by"][name]
        if not rows:
            continue
        money = [] if live else [("spend", True), ("before", True), ("after", True)]
        shown = table([(name, False), *((one, True) for one in numbers), ("share", True), *money])
        for row in rows:
            cells = [cell(row["name"] or "(none)"), *(cell(row[one]) for one in numbers)]
            cells.append(cell(percent_text(row["survival_percent"])))
            cells += [cell(amounts(row[one])) for one, _ in money]
            shown.add_row(*cells)
        screen.print(shown)
        screen.print()
    _lines(screen, "Time to recover", _recovery(recovery))
    if result["calls"] and report.get("told"):
        _lines(screen, "Lost calls were told", [f"{code}: {count}" for code, count in report["told"].items()])
    _lines(
        screen,
        "No alternative",
        [
            f"{one['route'] or '(no model)'}{' ' + one['model'] if one.get('model') else ''}: {one['means']}; {one['cure']}"
            for one in report["no_alternative"]
        ],
    )
    changed = [one for one in report["rights"] if one["changed"]]
    _lines(
        screen,
        "Rights that change",
        [
            f"{one['purpose']} at {one['replacement']}: {one['now']['decision']} → {one['after']['decision']}"
            for one in changed
        ],
    )
    unfilled = [
        name.replace("_", " ") for name, one in report["dora"].items() if isinstance(one, dict) and one["to_be_filled"]
    ]
    _lines(screen, "To be filled in by people (DORA)", [", ".join(unfilled)])


def _recovery(recovery: Mapping[str, Any]) -> list[str]:
    if recovery["added_ms_p50"] is None:
        return [f"unknown: {recovery['why']}"]
    p50, p99 = recovery["added_ms_p50"], recovery["added_ms_p99"]
    first = recovery.get("first_answer_ms")
    text = f"added {p50:g} ms (median), {p99:g} ms (p99), of {recovery['measured']}"
    return [text if first is None else f"first answer after {first:g} ms; {text}"]


def _lines(screen: Any, title: str, lines: Sequence[str]) -> None:
    if lines:
        screen.print(f"{title}:", markup=False, highlight=False)
        for line in lines:
            screen.print(f"  {plain(line)}", markup=False, highlight=False, soft_wrap=True)


def amounts(sums: Mapping[str, str]) -> str:
    return ", ".join(f"{amount} {currency}" for currency, amount in sums.items()) or "–"


def percent_text(value: float | None) -> str | None:
    return None if value is None else f"{value:g} %"
