"""Figures, each beside its peer's from the same run: a table for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import Description


@dataclass(frozen=True)
class Figure:
    """One figure. ``aim`` is what was promised, in words; ``met`` None where nothing was."""

    name: str
    unit: str
    figure: float
    peer: str = ""
    peer_figure: float | None = None
    ratio: float | None = None
    aim: str = ""
    met: bool | None = None


def figure(
    name: str,
    unit: str,
    value: float,
    peer: str = "",
    peer_value: float | None = None,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    ratio_at_least: float | None = None,
) -> Figure:
    """Make a figure; the ratio is ours to the peer's."""
    ratio = value / peer_value if peer_value else None
    aim, met = "", None
    if at_most is not None:
        aim, met = f"at most {at_most:g}", value <= at_most
    if at_least is not None:
        aim, met = f"at least {at_least:g}", value >= at_least
    if ratio_at_least is not None:
        aim, met = f"ratio at least {ratio_at_least:g}", ratio is not None and ratio >= ratio_at_least
    return Figure(name, unit, round(value, 2), peer, _rounded(peer_value, 2), _rounded(ratio, 3), aim, met)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def table(figures: Sequence[Figure], name: str) -> str:
    """Return the figures in columns; ``name`` is whose they are."""
    rows = [("what", "unit", name, "peer", "peer's", "ratio", "aim", "")]
    for each in figures:
        met = {None: "", True: "met", False: "MISSED"}[each.met]
        numbers = (_text(each.figure), each.peer, _text(each.peer_figure), _text(each.ratio))
        rows.append((each.name, each.unit, *numbers, each.aim, met))
    widths = [max(len(row[column]) for row in rows) for column in range(8)]
    right = {2, 4, 5}
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}"


def write(path: Path, figures: Sequence[Figure], machine: Description, how: dict[str, object]) -> None:
    """Write the list of figures to ``path``, and beside it (``-run``) the machine and how it was run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(each) for each in figures], indent=1) + "\n")
    told = {"machine": asdict(machine), "how": how}
    path.with_name(f"{path.stem}-run.json").write_text(json.dumps(told, indent=1) + "\n")
