"""The live view of act two: who answers, whether the audits agree, what is spent. Plain lines where there is no terminal."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from own_model.control import ask_control
from own_model.traffic import Counts
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 3.0
LOOK_EVERY_S = 0.7
WIDTH = 104
ROWS = 3  # of the picture of the whole stream
EIGHTHS = "▁▂▃▄▅▆▇█"


class Audits(NamedTuple):
    """What is known of the student: stage, audits, and evidence against its promise."""

    stage: str = "none yet"
    audited: int = 0
    errors: int = 0
    evidence: float = 0.0
    alarm_at: float = 20.0

    @property
    def agreed(self) -> str:
        return f"{self.audited - self.errors} of {self.audited}" if self.audited else "not asked yet"

    @property
    def rang(self) -> bool:
        return self.stage == "rolled_back" or self.evidence >= self.alarm_at

    @property
    def shown(self) -> str:
        return "the alarm rang" if self.rang else f"{self.evidence:.2f}"


def audits_of(answer: Mapping[str, Any], before: Audits) -> Audits:
    """Read a student as the control API gives it; after an alarm its certificate is over, and the reason has its last figures."""
    certificate = answer["certificate"]
    if certificate is None:
        last_word = re.search(r"(\d+) of (\d+) audited answers broke", answer["stage_why"])
        errors, audited = map(int, last_word.groups()) if last_word else (before.errors, before.audited)
        return before._replace(stage=answer["stage"], errors=errors, audited=audited)
    found = certificate["audits"]
    (risk,) = found["risks"]
    return Audits(answer["stage"], risk["audits"], risk["errors"], found["evidence"], found["alarm_at"])


class View:
    """Shows the counts of a stream and what the control API says of the student, until it is closed."""

    def __init__(self, console: Console, data_dir: Path, counts: Callable[[], Counts]) -> None:
        self._console = console
        self._data_dir = data_dir
        self._counts = counts
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._said = ""
        self.act = "Starting"
        self.audits = Audits()
        self._live = self._new_live()
        self._is_live = console.is_terminal and "NO_COLOR" not in os.environ

    def __enter__(self) -> View:
        if self._is_live:
            self._live.start()
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watching.join()
        if self._is_live:
            self._live.transient = False  # the last picture stays
            self._live.stop()
        else:
            self._print_line()

    def begin(self, act: str) -> None:
        """Say what happens from now on."""
        self.act = act
        self._console.print(f"\n[bold]{act}[/]", highlight=False)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to a command that draws on it, too."""
        if self._is_live:
            self._live.stop()
        yield
        if self._is_live:
            self._live = self._new_live()  # one that is started again goes up over what was printed in between
            self._live.start()

    def _new_live(self) -> Live:
        return Live(get_renderable=self.rendered, console=self._console, refresh_per_second=4, transient=True)

    def look(self) -> Audits:
        """Ask the control API now."""
        try:
            for one in ask_control(self._data_dir, "/v1/students"):
                self.audits = audits_of(one, self.audits)
        except OSError:  # it starts, or it stops
            pass
        return self.audits

    def _watch(self) -> None:
        said_s = time.monotonic()
        while not self._ended.wait(LOOK_EVERY_S):
            self.look()
            if not self._is_live and time.monotonic() - said_s >= LINE_EVERY_S:
                said_s = time.monotonic()
                self._print_line()

    def _print_line(self) -> None:
        line = self.line()
        if line != self._said:
            self._said = line
            self._console.print(line, soft_wrap=True, highlight=False)

    def line(self) -> str:
        """Return what there is to see, in a line."""
        counts, audits = self._counts(), self.audits
        return (
            f"{counts.calls:,} calls | own {share(counts):.0%} of the last {len(last(counts))} | GPT-4 agrees, audited: "
            f"{audits.agreed} | evidence: {audits.shown} | {usd(spent(counts, audits))} instead of "
            f"{usd(counts.all_paid)} | {audits.stage}"
        )

    def rendered(self, width: int = 0) -> Panel:
        """Return what there is to see, in a width or that of the terminal."""
        width = min(WIDTH, width or self._console.width)
        counts, audits = self._counts(), self.audits
        stage = {"live": "bold green", "rolled_back": "bold red"}.get(audits.stage, "bold yellow")
        alarm = "bold red" if audits.rang else ""
        rows = (
            ("the own model", Text(audits.stage, stage), ""),
            ("calls", f"{counts.calls:,}", f"{counts.own:,} of them answered by the own model"),
            (f"owned, of the last {len(last(counts))}", bar(share(counts), "green"), "GPT-4 answers the rest"),
            ("GPT-4 agrees", audits.agreed, "audited: a random share of its answers"),
            ("evidence against it", Text(audits.shown, alarm), f"{audits.alarm_at:.0f} rings the alarm"),
            ("spent", usd(spent(counts, audits)), "audits too; a call of the own model is 0"),
            ("instead of", usd(counts.all_paid), "every call at the mean of GPT-4's"),
        )
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True, min_width=22)
        table.add_column(min_width=25, no_wrap=True)
        table.add_column(style="dim", no_wrap=True)
        for row in rows:
            table.add_row(*row[: 3 if width == WIDTH else 2])
        caption = Text("share owned, from the first call to the last", "dim")
        parts = Group(table, Text(), strip(counts, width - 14), caption)
        return Panel(parts, title=self.act, title_align="left", border_style="cyan", padding=(0, 1), width=width)


def spent(counts: Counts, audits: Audits) -> Decimal:
    """Return what the calls cost, and their audits at the mean cost of a call; the bill has these exactly."""
    return counts.spent + counts.each * audits.audited


def last(counts: Counts) -> tuple[bool, ...]:
    return counts.recent[-100:]


def share(counts: Counts) -> float:
    return sum(last(counts)) / max(1, len(last(counts)))


def usd(amount: Decimal) -> str:
    return f"{amount:,.2f} USD"


def bar(part: float, style: str) -> Text:
    filled = round(part * 18)
    return Text.assemble(("█" * filled, style), ("░" * (18 - filled), "dim"), f" {part:.0%}")


def strip(counts: Counts, bars: int) -> Text:
    """Return the whole stream as bars: each is an equal number of calls, its height the share owned."""
    each = max(10, -(-len(counts.recent) // bars))
    parts = [counts.recent[begin : begin + each] for begin in range(0, len(counts.recent), each)]
    heights = [round(sum(part) / len(part) * ROWS * len(EIGHTHS)) for part in parts]
    lines = []
    for row in reversed(range(ROWS)):
        eighths = (min(max(height - row * len(EIGHTHS), 0), len(EIGHTHS)) for height in heights)
        lines.append("".join(EIGHTHS[one - 1] if one else " " if row else "_" for one in eighths))
    return Text("\n".join(lines), "green", no_wrap=True)
