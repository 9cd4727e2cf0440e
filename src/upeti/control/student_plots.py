"""Plots of students, as SVG that stands within their page: what audits show over time, and what own answers save.

Rules as in ``drill_plots``: colours that colour-blind people can tell apart, a text beside each, axes that name their unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from upeti.control.drill_plots import legend, svg
from upeti.core.amount import to_decimal
from upeti.money.owned import Owned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from upeti.control.student_history import Point

_BLUE: Final = "#0072B2"  # Okabe and Ito, "Color Universal Design" (2008)
_RED: Final = "#D55E00"
_GREEN: Final = "#009E73"
_GREY: Final = "#6B6B6B"


def evidence(points: Sequence[Point], alarm_at: float) -> str:
    """Return the evidence against the promise over the audits; "" without any. Raises ``ReportsMissing``."""
    if not points:
        return ""

    def draw(axes: Axes) -> None:
        axes.plot(
            [one.audits for one in points], [one.evidence for one in points], color=_BLUE, label="evidence (e-value)"
        )
        axes.axhline(alarm_at, color=_RED, linestyle="--", label=f"alarm at {alarm_at:g}")
        rang = next((one for one in points if one.evidence >= alarm_at), None)
        if rang is not None:
            axes.plot([rang.audits], [rang.evidence], color=_RED, marker="o", linestyle="none")
            axes.annotate("alarm", (rang.audits, rang.evidence), xytext=(-8, 6), textcoords="offset points", ha="right")
        axes.set_yscale("log")
        axes.set_xlim(0, max(points[-1].audits * 1.02, 10))
        low = min(min(one.evidence for one in points), 0.1)
        axes.set_ylim(low / 2, max(alarm_at, max(one.evidence for one in points)) * 3)
        axes.set_xlabel(_audits_of(points))
        axes.set_ylabel("evidence against the promise")
        legend(axes)

    return svg(draw, 3.4, "evidence")


def risk(points: Sequence[Point], limit: str, allowed: float) -> str:
    """Return the risk of one limit with its upper bound over the audits; "" without any. Raises ``ReportsMissing``."""
    known = [one for one in points if one.estimate is not None]
    if not known:
        return ""

    def draw(axes: Axes) -> None:
        at = [one.audits for one in known]
        high = [100 * one.high for one in known]
        estimates = [100 * (one.estimate or 0.0) for one in known]
        axes.fill_between(at, estimates, high, color=_BLUE, alpha=0.15, linewidth=0)
        axes.plot(at, high, color=_BLUE, linewidth=1, label="upper bound, 95 %, at every look")
        axes.plot(at, estimates, color="black", linewidth=1.6, label="broken, of the last 250 to 500 audits")
        axes.axhline(100 * allowed, color=_RED, linestyle="--", label=f"promised: at most {allowed:.2%}")
        axes.set_xlim(0, max(at[-1] * 1.02, 10))
        axes.set_ylim(0, min(100.0, max(4 * 100 * allowed, 1.15 * max(estimates))))
        axes.set_xlabel(_audits_of(points))
        axes.set_ylabel(f"risk of `{limit}` in %")
        axes.legend(loc="upper right", frameon=False)

    return svg(draw, 3.4, "risk")


def savings(rows: Sequence[Owned]) -> str:
    """Return what tasks' own answers would have cost, what they cost and what is left; "" without an estimate."""
    shown = [one for one in rows if one.teacher is not None]
    if not shown:
        return ""
    currency = shown[0].currency
    shown = [one for one in shown if one.currency == currency]

    def amount(pico: int) -> float:
        return float(to_decimal(pico))

    def draw(axes: Axes) -> None:
        for place, one in enumerate(shown):
            assert one.teacher is not None
            net = one.net
            assert net is not None
            bars: list[tuple[float, int, str, str]] = [
                (-0.27, one.teacher.pico, _GREY, "the teacher would have cost (95 %)"),
                (0.0, one.charged_pico, _RED, "audits, own answers, training"),
                (0.27, net.pico, _GREEN, "saved, net (95 %)"),
            ]
            for shift, pico, colour, name in bars:
                axes.barh(place + shift, amount(pico), color=colour, height=0.24, label=name if not place else None)
            for shift, interval in ((-0.27, one.teacher), (0.27, net)):
                ends: Any = [[amount(interval.pico - interval.low_pico)], [amount(interval.high_pico - interval.pico)]]
                axes.errorbar(amount(interval.pico), place + shift, xerr=ends, color="black", capsize=3, linewidth=1)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(shown)), [f"{one.task} ({one.calls:,} calls)".replace("$", r"\$") for one in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(currency)
        axes.tick_params(axis="y", length=0)
        legend(axes)

    return svg(draw, 1.3 + 0.9 * len(shown), "savings")


def _audits_of(points: Sequence[Point]) -> str:
    first, last = (datetime.fromtimestamp(one.at_ns / 1e9, UTC) for one in (points[0], points[-1]))
    return f"audited answers, {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
