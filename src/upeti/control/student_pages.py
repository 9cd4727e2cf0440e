"""Pages of students that need nothing else: Jinja2 and matplotlib, the extra ``reports``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from upeti.control import student_plots
from upeti.control.drill_pages import Markup
from upeti.control.invoice_pages import ReportsMissing
from upeti.control.student_history import History
from upeti.money.owned import HOW, Owned


def student_page(lines: Sequence[tuple[str, str]], name: str, history: History | None, alarm_at: float) -> str:
    """Return the page of a student: what is known of it, and its audits over time. Raises ``ReportsMissing``."""
    plots = []
    if history is not None and history.points:
        plots = [
            ("Evidence against the promise", student_plots.evidence(history.points, alarm_at)),
            ("Risk and its upper bound", student_plots.risk(history.points, history.limit, history.allowed)),
        ]
    remark = "" if plots else "Nothing was audited yet under the certificate in force, or not on this machine."
    return _page(f"Student {name}", plots, rows=[("", *line) for line in lines], head=("", "", ""), remark=remark)


def savings_page(rows: Sequence[Owned], table: Sequence[Sequence[str]], head: Sequence[str], when: str) -> str:
    """Return the page of what own models save. Raises ``ReportsMissing``."""
    plots = [("Saved, by task", student_plots.savings(rows))]
    return _page(f"What own models save, {when}", plots, rows=table, head=head, remark=HOW)


def _page(title: str, plots: Sequence[tuple[str, str]], **fields: Any) -> str:
    try:
        import jinja2
    except ImportError:
        raise ReportsMissing("jinja2") from None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("upeti.control") / "templates" / "student.html.j2").read_text("utf-8"))
    return template.render(title=title, plots=[(name, Markup(svg)) for name, svg in plots if svg], **fields)
