"""A statement as JSON, CSV and an HTML page. Amounts are exact decimal text."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from decimal import Decimal
from importlib.resources import files
from typing import Any, Final

from upeti.core.amount import decimal_text
from upeti.core.errors import ConfigError
from upeti.core.events import CostCorrected
from upeti.money.reconcile.run import Statement
from upeti.money.reconcile.statement import RULE_OF, Kind, Line, Totals

_QUIET: Final = frozenset({Kind.DAY_BOUNDARY, Kind.ROUNDING})  # nothing is to be done about them
_PAGE_LINES: Final = 200


def document(made: Statement, corrections: Sequence[CostCorrected] | None = None) -> dict[str, Any]:
    """Return a statement as JSON values; ``corrections`` are those that it leads to, None when none were asked for."""
    found: dict[str, Any] = {
        "format": made.format,
        "sha256": made.sha256,
        "from": made.first_day.isoformat(),
        "to": made.last_day.isoformat(),
        "explained": made.explained,
        "totals": [_total(currency, total) for currency, total in sorted(made.totals.items())],
        "lines": [_line(line) for line in made.lines if differs(line)],
        "equal_lines": sum(not differs(line) for line in made.lines),
        "notes": made.notes,
    }
    if corrections is not None:
        found["corrections"] = [
            {
                "correction_id": one.correction_id,
                "day": _day_of(one),
                "attempt_id": one.attempt_id,
                "tenant": one.tenant,
                "feature": one.feature,
                "channel": one.channel,
                "model": one.model,
                "currency": one.currency,
                "was": one.was,
                "now": one.now,
                "meters": one.meters,
            }
            for one in corrections
        ]
    return found


def _day_of(one: CostCorrected) -> str:
    return datetime.datetime.fromtimestamp(one.settled_ns // 10**9, datetime.UTC).date().isoformat()


def differs(line: Line) -> bool:
    """Tell whether a line says anything but that both sides are equal."""
    return bool(line.difference_pico or line.parts or line.unexplained_pico or line.uncosted)


def to_look_at(made: Statement) -> list[Line]:
    """Return the lines that somebody has to act on: unexplained ones first, then by amount."""
    lines = [
        line
        for line in made.lines
        if line.unexplained_pico or line.uncosted or any(kind not in _QUIET for kind in line.parts)
    ]
    return sorted(
        lines,
        key=lambda line: (
            not (line.unexplained_pico or line.uncosted),
            -abs(line.unexplained_pico) or -abs(line.difference_pico),
            line.currency,
            line.day,
            line.channel,
            line.model,
            line.meter,
            line.call,
        ),
    )


def kinds_text(line: Line) -> str:
    names = [str(kind) for kind in line.parts]
    if line.unexplained_pico or line.uncosted:
        names.append("unexplained")
    return ", ".join(names)


CSV_HEADER: Final = (
    "day", "currency", "channel", "account", "model", "tier", "context", "meter", "call", "their_quantity", "our_quantity",
    "theirs", "ours", "difference", *(kind.value.replace(" ", "_") for kind in Kind), "unexplained", "why", "places",
)  # fmt: skip


def csv_rows(made: Statement) -> Iterator[list[Any]]:
    """Yield one row per line that differs."""
    for line in made.lines:
        if differs(line):
            yield [
                line.day.isoformat(),
                line.currency,
                line.channel,
                line.account,
                line.model,
                line.tier,
                line.context,
                line.meter,
                line.call,
                "" if line.their_quantity is None else sum(line.their_quantity.values()),
                sum(line.our_quantity.values()),
                Decimal(decimal_text(line.theirs_pico)),
                Decimal(decimal_text(line.ours_pico)),
                Decimal(decimal_text(line.difference_pico)),
                *(Decimal(decimal_text(line.parts.get(kind, 0))) for kind in Kind),
                Decimal(decimal_text(line.unexplained_pico)),
                "; ".join(line.why),
                "; ".join(line.places),
            ]


def html(made: Statement) -> str:
    """Return a page that says it all. Raises ``ConfigError`` when jinja2 is not installed."""
    try:
        import jinja2
    except ImportError as error:
        raise ConfigError('HTML is written with jinja2: pip install "upeti[reports]"') from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["money"] = _grouped
    template = environment.from_string((files("upeti.money.reconcile") / "report.html").read_text("utf-8"))
    lines = to_look_at(made)
    return template.render(
        made=made,
        rules=RULE_OF,
        lines=lines[:_PAGE_LINES],
        left_out=max(0, len(lines) - _PAGE_LINES),
        kinds_text=kinds_text,
    )


def _grouped(pico: int) -> str:
    """Return an exact amount with its thousands separated: ``12,345.6``."""
    whole, point, decimals = decimal_text(abs(pico)).partition(".")
    return f"{'-' if pico < 0 else ''}{int(whole):,}{point}{decimals}"


def _total(currency: str, total: Totals) -> dict[str, Any]:
    return {
        "currency": currency,
        "theirs": decimal_text(total.theirs_pico),
        "ours": decimal_text(total.ours_pico),
        "difference": decimal_text(total.difference_pico),
        "explained": decimal_text(total.explained_pico),
        "unexplained": decimal_text(total.unexplained_pico),
        "unexplained_lines": total.unexplained_lines,
        "kinds": [
            {
                "kind": kind.value,
                "amount": decimal_text(total.parts[kind]),
                "lines": total.lines[kind],
                "next_step": RULE_OF[kind].next_step,
            }
            for kind in Kind
            if kind in total.parts
        ],
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "day": line.day.isoformat(),
        "currency": line.currency,
        "channel": line.channel,
        "account": line.account,
        "model": line.model,
        "tier": line.tier,
        "context": line.context,
        "meter": line.meter,
        "call": line.call,
        "theirs": decimal_text(line.theirs_pico),
        "ours": decimal_text(line.ours_pico),
        "difference": decimal_text(line.difference_pico),
        "their_quantity": line.their_quantity,
        "our_quantity": line.our_quantity,
        "kinds": {kind.value: decimal_text(pico) for kind, pico in line.parts.items()},
        "unexplained": decimal_text(line.unexplained_pico),
        "no_amount": line.uncosted,
        "why": line.why,
        "names": line.names,
        "places": line.places,
    }
