"""The exit plan as one page that needs nothing else: Jinja2, the extra ``reports``."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from upeti.control.invoice_pages import ReportsMissing


def html(plan: dict[str, Any]) -> str:
    """Return the page. Raises ``ReportsMissing``."""
    try:
        import jinja2
    except ImportError:
        raise ReportsMissing("jinja2") from None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("upeti.control") / "templates" / "exit_plan.html.j2").read_text("utf-8"))
    return template.render(plan=plan)
