"""Plots of reports, drawn without a screen.

Rules: every series has a colour that colour-blind people can tell apart and a marker of its own, and its name stands
beside it; axes name their unit. The same report gives the same file.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from upeti.core.errors import ConfigError
from upeti.money.concentration import HHI_MAX, YARDSTICK, Ranking, decimal_places, percent_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from upeti.money.concentration_report import Report

# Okabe and Ito, "Color Universal Design" (2008), without the yellow, which is too pale on white.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
_GREY: Final = "#6B6B6B"
_BARS: Final = 15  # names in a plot of one month; the rest is one bar
_NAME_CHARACTERS: Final = 32
_TICKS: Final = 8  # months that have their name below the axis
_FORMATS: Final = (".svg", ".png")


def plot_concentration(report: Report, path: Path) -> None:
    """Draw the shares of parents by month and their index into ``path``, an .svg or .png.

    Raises ``ConfigError`` when matplotlib is not installed, there is nothing to draw, or the file cannot be written.
    """
    if path.suffix not in _FORMATS:
        raise ConfigError(f"{path}: a plot is an .svg or a .png; give it such a name")
    drawn = {month: one for month, one in report.trend.items() if one.hhi is not None}
    if not drawn:
        raise ConfigError("there are no shares to draw in this time; choose another one with --from and --to")
    try:
        import matplotlib
    except ImportError:
        raise ConfigError('plots need matplotlib: pip install "upeti[reports]"') from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "upeti",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        figure = _one_month(report, drawn) if len(drawn) == 1 else _by_month(report, drawn)
        try:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written ({error.strerror}); name a file in a directory of yours"
            ) from None
        finally:
            pyplot.close(figure)


def _title(report: Report) -> str:
    what = {"suppliers": "Spend by supplier", "customers": "Revenue by customer"}[report.side]
    return f"{what} (ultimate parent), share of the line"


def _one_month(report: Report, drawn: dict[str, Ranking]) -> Any:
    from matplotlib import pyplot

    ((month, ranking),) = drawn.items()
    bars = [(_short(share.name), share.share or Fraction(0)) for share in ranking.shares[:_BARS]]
    rest = sum((share.share or Fraction(0) for share in ranking.shares[_BARS:]), Fraction(0))
    if rest:
        bars.append((f"{len(ranking.shares) - _BARS} others", rest))
    figure, axes = pyplot.subplots(figsize=(8, 1.5 + 0.34 * max(len(bars), 3)), layout="constrained")
    places = range(len(bars))
    values = [float(part * 100) for _, part in bars]
    colours = [_COLOURS[1] if part >= YARDSTICK else _COLOURS[0] for _, part in bars]
    if rest:
        colours[-1] = _GREY  # many small ones are no large one
    axes.barh(places, values, color=colours, height=0.68)
    for place, (_, part) in enumerate(bars):
        axes.annotate(
            percent_text(part, 1),
            (values[place], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # the line at 10 % is behind it
        )
    axes.set_yticks(list(places), [name for name, _ in bars])
    axes.set_ylim(max(len(bars), 3) - 0.4, -0.6)
    axes.set_xlim(0, max(*values, 10) * 1.14)
    axes.axvline(10, color=_GREY, linestyle="--", linewidth=1, zorder=0)
    axes.set_xlabel(f"share of {ranking.measure} in %, {month} (dashed: 10 %)")
    axes.tick_params(axis="y", length=0)
    hhi = ranking.hhi or Fraction(0)
    axes.set_title(
        f"{_title(report)}\nHHI {decimal_places(hhi, 0)} of {HHI_MAX:,}: {report.band(hhi)}", loc="left", fontsize=11
    )
    return figure


def _by_month(report: Report, drawn: dict[str, Ranking]) -> Any:
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(
        2, 1, figsize=(9, 6.6), layout="constrained", sharex=True, height_ratios=(2.2, 1)
    )
    _draw_shares(upper, report, drawn)
    _draw_index(lower, report, drawn)
    return figure


def _draw_shares(axes: Axes, report: Report, drawn: dict[str, Ranking]) -> None:
    months = list(drawn)
    shares = {
        month: {share.name: float((share.share or Fraction(0)) * 100) for share in one.shares}
        for month, one in drawn.items()
    }
    totals: dict[str, float] = {}
    for of_month in shares.values():
        for name, value in of_month.items():
            totals[name] = totals.get(name, 0.0) + value
    names = sorted(totals, key=lambda name: (-totals[name], name))
    series = [(_short(name), [shares[month].get(name, 0.0) for month in months]) for name in names[: len(_COLOURS)]]
    if len(names) > len(_COLOURS):
        rest = names[len(_COLOURS) :]
        values = [sum(shares[month].get(name, 0.0) for name in rest) for month in months]
        series.append((f"{len(rest)} others together", values))
    for place, (name, values) in enumerate(series):
        own = place < len(_COLOURS)
        axes.plot(
            range(len(months)),
            values,
            color=_COLOURS[place] if own else _GREY,
            marker=_MARKERS[place] if own else ".",
            linestyle="-" if own else ":",
            markersize=5,
            label=name,
        )
    top = max(max(values) for _, values in series)
    axes.set_ylim(0, max(top * 1.08, 12))
    axes.axhline(10, color=_GREY, linestyle="--", linewidth=1, zorder=0)
    axes.set_ylabel(f"share of {report.measures[0]} in % (dashed: 10 %)")
    axes.set_title(_title(report), loc="left", fontsize=11)
    _label_ends(axes, series, len(months) - 1)


def _label_ends(axes: Axes, series: list[tuple[str, list[float]]], last: int) -> None:
    """Write each name at the right end of its line, moved apart where lines end close together."""
    low, high = axes.get_ylim()
    gap = (high - low) / 16
    ends = sorted(((values[-1], place, name) for place, (name, values) in enumerate(series)), reverse=True)
    heights: list[float] = []
    for value, _, _ in ends:
        heights.append(value if not heights else min(value, heights[-1] - gap))
    lift = max(0.0, low + gap / 2 - heights[-1])  # the lowest names would fall below the axis
    if lift:
        heights[-1] += lift
        for place in range(len(heights) - 2, -1, -1):
            heights[place] = max(heights[place], heights[place + 1] + gap)
    for (value, place, name), height in zip(ends, heights, strict=True):
        colour = _COLOURS[place] if place < len(_COLOURS) else _GREY
        axes.annotate(
            name,
            (last, value),
            xytext=(1.02, height),
            textcoords=("axes fraction", "data"),
            color=colour,
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
            annotation_clip=False,
        )


def _draw_index(axes: Axes, report: Report, drawn: dict[str, Ranking]) -> None:
    months = list(drawn)
    values = [float(one.hhi or 0) for one in drawn.values()]
    axes.plot(range(len(months)), values, color=_COLOURS[0], marker="o", markersize=5)
    axes.set_ylim(0, max(*values, 2000) * 1.1)
    for band in report.bands:
        edge = band.above if band.above is not None else band.at_least
        if edge:
            axes.axhline(edge, color=_GREY, linestyle="--", linewidth=1, zorder=0)
            axes.annotate(
                f"{band.name} {'above' if band.above is not None else 'from'} {edge:,}",
                (1.02, edge),
                xycoords=("axes fraction", "data"),
                va="center",
                color=_GREY,
                fontsize=9,
                annotation_clip=False,
            )
    axes.yaxis.set_major_formatter("{x:,.0f}")
    step = (len(months) + _TICKS - 1) // _TICKS
    axes.set_xticks(range(0, len(months), step), months[::step])
    axes.set_xlim(-0.35, len(months) - 0.65)
    axes.set_ylabel("HHI (0 to 10,000)")
    axes.set_xlabel("month (UTC)")


def _short(name: str) -> str:
    # A dollar sign would begin a formula.
    name = name.replace("$", r"\$")
    if len(name) <= _NAME_CHARACTERS:
        return name
    half = _NAME_CHARACTERS // 2
    return f"{name[: half - 1].rstrip()} … {name[-half + 2 :].lstrip()}"  # what tells two names apart is at either end
