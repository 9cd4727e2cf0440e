"""Printing for people and for programs: tables, CSV, JSON.

What callers chose freely (tags, names) is never let through to a terminal as control characters, nor to a
spreadsheet as a formula. Money is printed as exact decimal text. Colour is Rich's to decide: none when the
output is not a terminal or NO_COLOR is set.
"""

from __future__ import annotations

import csv
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from upeti.core.amount import decimal_text

if TYPE_CHECKING:
    from upeti.money.rates import Rate

UNKNOWN = "?"
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_PIPE_COLUMNS = 250  # a table that goes to a file is not folded at the 80 columns of a terminal that is not there


def console() -> Console:
    screen = Console()
    return screen if screen.is_terminal else Console(width=_PIPE_COLUMNS)


def plain(text: str) -> str:
    """Return a text without characters that act on a terminal or turn its reading direction."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    if unicodedata.category(one) == "Zs":
        return " "  # isprintable() is true only for the ASCII space
    return one.encode("unicode_escape").decode()


def cell(value: str | int | None) -> Text:
    """Return a table cell: no markup, thousands separated, unknown as ``?``."""
    if value is None:
        return Text(UNKNOWN)
    return Text(f"{value:,}" if isinstance(value, int) else plain(value))


def aligned(picos: Sequence[int | None]) -> list[str | None]:
    """Return exact amounts with the same number of decimals, so that their points stand below each other."""
    texts = [None if pico is None else decimal_text(pico) for pico in picos]
    decimals = max((len(text.partition(".")[2]) for text in texts if text is not None), default=0)
    if not decimals:
        return texts
    parts = [None if text is None else text.partition(".") for text in texts]
    return [None if part is None else f"{part[0]}.{part[2]:0<{decimals}}" for part in parts]


def table(columns: Sequence[tuple[str, bool]]) -> Table:
    """Return a table; ``columns`` are headers and whether they hold numbers."""
    made = Table(header_style="bold", show_edge=False, pad_edge=False)
    for header, number in columns:
        made.add_column(header, justify="right" if number else "left", no_wrap=number)
    return made


def shown_rates(rates: Iterable[Rate]) -> list[dict[str, str]]:
    """Return exchange rates as a report in JSON names them."""
    return [
        {
            "base": rate.base,
            "currency": rate.currency,
            "rate": f"{rate.rate:f}",
            "date": rate.date.isoformat(),
            "source": rate.source,
            "set_sha256": rate.set_sha256,
        }
        for rate in rates
    ]


def write_csv(header: Sequence[str], rows: Iterable[Sequence[object]], to: TextIO | None = None) -> None:
    """Write CSV, to standard output unless told otherwise; a text that a spreadsheet would take for a formula gets a
    leading ``'``.
    """
    writer = csv.writer(to or sys.stdout, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(_harmless(value) if isinstance(value, str) else value for value in row)


def _harmless(text: str) -> str:
    # https://owasp.org/www-community/attacks/CSV_Injection
    risky = text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBER.fullmatch(text)
    return f"'{plain(text)}" if risky else plain(text)


def only_one(**flags: bool) -> None:
    """Refuse options that contradict each other."""
    given = [f"--{name}" for name, flag in flags.items() if flag]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} cannot be used together; choose one.")
