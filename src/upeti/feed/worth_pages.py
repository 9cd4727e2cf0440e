"""The verdict as values for a program and as a page for a person: HTML that needs nothing from elsewhere, plots inside.

Rules: money that was paid is shown exactly; what is estimated is shown with its interval and four digits. An interval that
says nothing yet is a word, not a number. Every curve has a name beside it and a colour that colour-blind people can tell.
Jinja2 and matplotlib are the extra ``reports``. The same report makes the same page.
"""

from __future__ import annotations

import datetime
import io
import math
from importlib.resources import files
from typing import Any, Final

from upeti.core.amount import decimal_text
from upeti.core.errors import ConfigError
from upeti.feed.experiment import Experiment
from upeti.feed.off_policy import Screened
from upeti.feed.preferences import Preferred
from upeti.feed.sequential import Interval
from upeti.feed.worth import Comparison, Outcome, Worth
from upeti.feed.worth_data import Point, Report

# Okabe and Ito, "Color Universal Design" (2008).
_PAYS: Final = "#0072B2"
_COSTS: Final = "#D55E00"
_OPEN: Final = "#6B6B6B"
_CLASS: Final = {
    Outcome.PAY: "pays",
    Outcome.REPLACE: "pays",
    Outcome.STOP: "costs",
    Outcome.UNDECIDED: "open",
}
_EPOCH: Final = datetime.date(1970, 1, 1)


def as_values(report: Report, experiment: Experiment) -> dict[str, Any]:
    """Return what JSON says: money as exact decimal text, intervals as [low, high], null where nothing is known."""
    found = worth_values(report.worth, experiment)
    for arm in found["arms"]:
        arm["creator_gini"] = _number(report.creator_gini[arm["arm"]])
        arm["p95_ms"] = _number(report.p95_ms[arm["arm"]])
    return found | {
        "books": {
            "versions_and_calls": decimal_text(report.calls_pico),
            "journal": None if report.journal_pico is None else decimal_text(report.journal_pico),
            "calls_not_received": report.not_received,
            "cost_not_received": decimal_text(report.not_received_pico),
        },
    }


def worth_values(worth: Worth, experiment: Experiment) -> dict[str, Any]:
    """Return what JSON says of a verdict."""
    return {
        "experiment": worth.experiment,
        "verdict": worth.outcome.value,
        "advice": worth.advice,
        "event_value": worth.event_value,
        "currency": worth.currency,
        "error_share": experiment.error_share,
        "users_needed": worth.users_needed,
        "arms": [
            {
                "arm": name,
                "users": worth.users[name],
                "impressions": worth.impressions[name],
                "events_per_1000": _number(worth.rates[name]),
            }
            for name in worth.users
        ],
        "comparisons": [_comparison(one) for one in worth.comparisons],
        "spent": {
            source: {"cost": decimal_text(one.pico), "versions": one.versions, "unknown": one.unknown}
            for source, one in worth.spent.items()
        },
        "warnings": list(worth.warnings),
    }


def _comparison(one: Comparison) -> dict[str, Any]:
    return {
        "arm": one.arm,
        "over": one.over,
        "extra_events_per_1000": _interval(one.extra_events),
        "extra_cost_per_1000": decimal_text(one.extra_cost),
        "net_benefit_per_1000": _interval(one.net_benefit),
        "cost_per_extra_event": None if one.cost_per_event is None else _interval(one.cost_per_event),
        "pays": one.pays,
        "users_needed": one.users_needed,
        "variance_removed": round(one.variance_removed, 4),
    }


def preference_values(found: Preferred) -> dict[str, Any]:
    """Return what JSON says of a preference: from −1, all for the first arm, to 1, all for the second."""
    return {
        "arms": list(found.arms),
        "preference": _interval(found.preference.interval),
        "users": found.preference.users,
        "users_for": dict(zip(found.arms, found.preference.wins, strict=True)),
        "impressions": found.impressions,
        "events": found.events,
        "advice": found.advice,
    }


def screen_values(one: Screened) -> dict[str, Any]:
    """Return what JSON says of a screen: engaged events per impression."""
    return {
        "method": one.method,
        "value": _interval(one.interval),
        "effective_impressions": _number(one.sample),
        "effective_events": _number(one.events),
        "is_trusted": one.is_trusted,
    }


def _number(value: float) -> float | None:
    return round(value, 9) if math.isfinite(value) else None


def _interval(one: Interval) -> dict[str, float | None]:
    return {"estimate": _number(one.estimate), "low": _number(one.low), "high": _number(one.high)}


def page(report: Report, experiment: Experiment, at_ns: int) -> str:
    """Return the page as HTML. Raises ``ConfigError`` when Jinja2 or matplotlib is not installed."""
    try:
        import jinja2
    except ImportError:
        raise ConfigError('the page needs Jinja2: pip install "upeti[reports]"') from None
    worth = report.worth
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"interval": interval_text, "money": decimal_text, "count": lambda value: f"{value:,}"}
    template = environment.from_string((files("upeti.feed") / "templates" / "worth.html.j2").read_text("utf-8"))
    return template.render(
        worth=worth,
        report=report,
        experiment=experiment,
        tone=_CLASS[worth.outcome],
        at=_moment(at_ns),
        began=_moment(experiment.started_ns),
        ended=_moment(experiment.stopped_ns) if experiment.stopped_ns else "",
        books_agree=report.journal_pico is None or report.journal_pico == report.calls_pico,
        has_times=any(math.isfinite(value) for value in report.p95_ms.values()),
        has_creators=any(math.isfinite(value) for value in report.creator_gini.values()),
        total_pico=sum(one.pico for one in worth.spent.values()),
        now_plot=_plot_now(worth) if _drawable(worth) else "",
        course_plot=_plot_course(report) if _drawable(worth) else "",
    )


def interval_text(one: Interval | None, digits: int = 4) -> str:
    """Return an estimate with its limits, in ``digits`` significant digits."""
    if one is None:
        return "not told while ΔE may be zero"
    if math.isnan(one.estimate):
        return "nothing yet"
    if not math.isfinite(one.low):
        return f"{_digits(one.estimate, digits)} (too few users for an interval)"
    return f"{_digits(one.estimate, digits)} ({_digits(one.low, digits)} to {_digits(one.high, digits)})"


def _digits(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}".replace("-", "−")


def _moment(at_ns: int) -> str:
    return f"{datetime.datetime.fromtimestamp(at_ns / 1e9, datetime.UTC):%Y-%m-%d %H:%M} UTC"


def _drawable(worth: Worth) -> bool:
    return any(math.isfinite(one.net_benefit.low) for one in worth.comparisons)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ConfigError('plots need matplotlib: pip install "upeti[reports]"') from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "upeti",
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _plot_now(worth: Worth) -> str:
    """Net benefit of each comparison with its interval, and the line at zero that decides."""
    pyplot = _pyplot()
    shown = [one for one in worth.comparisons if math.isfinite(one.net_benefit.low)]
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(figsize=(8.4, 1.1 + 0.62 * len(shown)), layout="constrained")
        for place, one in enumerate(shown):
            low, high = one.net_benefit.low, one.net_benefit.high
            colour = _colour(one.pays)
            axes.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot([one.net_benefit.estimate], [place], "o", color=colour, markersize=8)
            word = {True: "pays", False: "costs more than it brings", None: "open"}[one.pays]
            above = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "fontsize": 9}
            axes.annotate(word, (one.net_benefit.estimate, place), color=colour, **above)
        axes.axvline(0, color="#1b1f24", linewidth=1)
        axes.set_yticks(range(len(shown)), [f"{one.arm} over {one.over}" for one in shown])
        axes.set_ylim(len(shown) - 0.6, -0.7)
        axes.margins(x=0.12)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"net benefit per 1,000 impressions in {worth.currency}")
        return _svg(pyplot, figure)


def _plot_course(report: Report) -> str:
    """How each comparison came about, day by day: the band is valid at every day at once."""
    pyplot = _pyplot()
    course = {
        pair: [one for one in points if math.isfinite(one.net_benefit.low)] for pair, points in report.course.items()
    }
    course = {pair: points for pair, points in course.items() if points}
    if not course:
        return ""
    pays = {(one.arm, one.over): one.pays for one in report.worth.comparisons}
    with pyplot.rc_context(_STYLE):
        figure, rows = pyplot.subplots(
            len(course), 1, figsize=(8.4, 0.6 + 1.75 * len(course)), layout="constrained", sharex=True, squeeze=False
        )
        for axes, (pair, points) in zip(rows[:, 0], course.items(), strict=True):
            _draw_course(axes, f"{pair[0]} over {pair[1]}", points, _colour(pays.get(pair)))
        days = [one.day for one in max(course.values(), key=len)]
        step = max(1, math.ceil(len(days) / 8))
        rows[-1, 0].set_xticks(days[::step], [f"{_EPOCH + datetime.timedelta(day):%d %b}" for day in days[::step]])
        rows[-1, 0].set_xlabel("to the end of the day (UTC)")
        figure.supylabel(f"net benefit per 1,000 impressions in {report.worth.currency}", fontsize=9)
        return _svg(pyplot, figure)


def _draw_course(axes: Any, name: str, points: list[Point], colour: str) -> None:
    days = [one.day for one in points]
    axes.fill_between(
        days,
        [one.net_benefit.low for one in points],
        [one.net_benefit.high for one in points],
        color=colour,
        alpha=0.22,
        linewidth=0,
    )
    axes.plot(days, [one.net_benefit.estimate for one in points], color=colour, marker="o", markersize=4)
    axes.axhline(0, color="#1b1f24", linewidth=1)
    axes.set_title(name, loc="left", fontsize=10)
    # The first days are wide and would press the rest flat: the frame is what the second half needs.
    later = points[len(points) // 2 :]
    low, high = min(one.net_benefit.low for one in later), max(one.net_benefit.high for one in later)
    room = max(high, 0) - min(low, 0)
    axes.set_ylim(min(low, 0) - 0.3 * room, max(high, 0) + 0.3 * room)


def _colour(pays: bool | None) -> str:
    return {True: _PAYS, False: _COSTS, None: _OPEN}[pays]


def _svg(pyplot: Any, figure: Any) -> str:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = drawn.getvalue()
    return text[text.index("<svg") :]
