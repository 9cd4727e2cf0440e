"""Plots of a drill's report, as SVG that stands within its page.

Rules: colours that colour-blind people can tell apart, and a text beside each; axes name their unit; the same report gives
the same picture. Texts are drawn as text, so they can be found and read out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from upeti.control.invoice_pages import ReportsMissing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SURVIVED: Final = "#0072B2"  # Okabe and Ito, "Color Universal Design" (2008)
_LOST: Final = "#D55E00"
_GREY: Final = "#6B6B6B"
_BARS: Final = 12
_NAME_CHARACTERS: Final = 28
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def survival(report: Mapping[str, Any]) -> str:
    """Return how many calls of each feature survived; "" when there were none. Raises ``ReportsMissing``."""
    rows = report["by"]["feature"][:_BARS]
    if not rows:
        return ""

    def draw(axes: Axes) -> None:
        places = range(len(rows))
        survived, lost = [row["survived"] for row in rows], [row["lost"] for row in rows]
        axes.barh(places, survived, color=_SURVIVED, height=0.66, label="survived")
        axes.barh(places, lost, left=survived, color=_LOST, height=0.66, hatch="///", edgecolor="white", label="lost")
        widest = max(max(one + other for one, other in zip(survived, lost, strict=True)), 1)
        for place, row in enumerate(rows):
            share = "?" if row["survival_percent"] is None else f"{row['survival_percent']:g} %"
            at = (row["survived"] + row["lost"], place)
            axes.annotate(share, at, xytext=(5, 0), textcoords="offset points", va="center")
        axes.set_yticks(list(places), [_short(row["name"] or "(no feature)") for row in rows])
        axes.set_ylim(max(len(rows), 3) - 0.4, -0.6)
        axes.set_xlim(0, widest * 1.16)
        axes.set_xlabel("calls (beside each bar: share that survived)")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", integer=True)
        legend(axes)

    return svg(draw, 1.2 + 0.36 * max(len(rows), 3), "survival")


def cost(report: Mapping[str, Any]) -> str:
    """Return what the calls that can be compared cost before and after, in the currency of most; "" without any."""
    costs = report["cost"]
    currencies = sorted({*costs["before"], *costs["after"]}, key=lambda one: one != "USD")
    if not costs["compared"] or not currencies:
        return ""
    currency = currencies[0]
    rows = [row for row in report["by"]["feature"][:_BARS] if row.get("compared")] or [{"name": "all calls", **costs}]

    def amounts(side: str) -> list[float]:
        return [float(Decimal(row[side].get(currency, "0"))) for row in rows]

    def draw(axes: Axes) -> None:
        places = range(len(rows))
        before, after = amounts("before"), amounts("after")
        axes.barh([place - 0.19 for place in places], before, color=_GREY, height=0.36, label="before")
        axes.barh([place + 0.19 for place in places], after, color=_SURVIVED, height=0.36, label="after")
        axes.set_yticks(list(places), [_short(row["name"] or "(no feature)") for row in rows])
        axes.set_ylim(max(len(rows), 3) - 0.4, -0.6)
        axes.set_xlim(0, max(*before, *after, 1e-12) * 1.08)
        axes.set_xlabel(f"{currency}, the same calls here and elsewhere")
        axes.tick_params(axis="y", length=0)
        legend(axes)

    return svg(draw, 1.2 + 0.42 * max(len(rows), 3), "cost")


def time_line(report: Mapping[str, Any]) -> str:
    """Return a live drill by time: calls that survived and were lost, and how late the survivors were; "" without any."""
    bins = report.get("time_line") or []
    if not any(one["survived"] or one["lost"] for one in bins):
        return ""

    def draw(axes: Axes) -> None:
        starts = [one["from_s"] for one in bins]
        width = starts[1] - starts[0] if len(starts) > 1 else 1.0
        middles = [start + width / 2 for start in starts]
        survived, lost = [one["survived"] for one in bins], [one["lost"] for one in bins]
        axes.bar(middles, survived, width * 0.9, color=_SURVIVED, label="survived")
        axes.bar(middles, lost, width * 0.9, bottom=survived, color=_LOST, hatch="///", edgecolor="white", label="lost")
        axes.set_xlim(0, starts[-1] + width)
        axes.set_xlabel("seconds since the drill began")
        axes.set_ylabel(f"calls per {width:g} s")
        axes.locator_params(axis="y", integer=True)
        late = axes.twinx()
        late.spines["right"].set_visible(True)
        at = [(middle, one["added_ms_p50"]) for middle, one in zip(middles, bins, strict=True)]
        known = [(x, y) for x, y in at if y is not None]
        late.plot([x for x, _ in known], [y for _, y in known], color="black", marker="o", markersize=4, linewidth=1)
        late.set_ylim(0, max([y for _, y in known], default=1) * 1.3 or 1)
        late.set_ylabel("added ms, median (dots)")
        legend(axes)

    return svg(draw, 3.4, "time-line")


def legend(axes: Axes) -> None:
    """Write the legend above all that is drawn."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2)


def svg(draw: Callable[[Axes], None], height: float, name: str) -> str:
    """Return what ``draw`` draws, ``height`` inches high, for a page; ``name`` is no other picture's there.

    Raises ``ReportsMissing``.
    """
    try:
        import matplotlib
    except ImportError:
        raise ReportsMissing("matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Ids of two pictures on one page must differ.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": f"upeti-{name}"}):
        figure, axes = pyplot.subplots(figsize=(8.4, height), layout="constrained")
        try:
            draw(axes)
            made = io.StringIO()
            figure.savefig(made, format="svg", metadata={"Date": None, "Creator": None})
        finally:
            pyplot.close(figure)
    text = made.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"(id=\"|url\(#|href=\"#)", rf"\g<1>{name}-", text)
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)


def _short(name: str) -> str:
    # A dollar sign would begin a formula.
    name = name.replace("$", r"\$")
    return name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 2].rstrip()} …"
