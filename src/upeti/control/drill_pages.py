"""A drill's signed report as one page that needs nothing else: Jinja2 and matplotlib, the extra ``reports``."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from upeti.control import drill_plots
from upeti.control.drill_reports import Checked
from upeti.control.invoice_pages import ReportsMissing


def html(checked: Checked) -> str:
    """Return the page of a report whose signature was checked. Raises ``ReportsMissing``."""
    try:
        import jinja2
    except ImportError:
        raise ReportsMissing("jinja2") from None
    report = checked.report
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["amounts"] = _amounts
    template = environment.from_string((files("upeti.control") / "templates" / "drill.html.j2").read_text("utf-8"))
    plots = [
        ("Survived, by feature", drill_plots.survival(report)),
        ("Time to recover", drill_plots.time_line(report)),
        ("Cost of the same calls, before and after", drill_plots.cost(report)),
    ]
    fields = report["dora"]
    return template.render(
        report=report,
        checked=checked,
        plots=[(title, Markup(svg)) for title, svg in plots if svg],
        fields=[(name.replace("_", " "), fields[name]) for name in fields if name != "articles"],
        changed=[one for one in report["rights"] if one["changed"]],
    )


class Markup(str):
    """SVG of our own, which stands in the page as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def _amounts(sums: dict[str, Any]) -> str:
    return ", ".join(f"{amount} {currency}" for currency, amount in sums.items()) or "–"
