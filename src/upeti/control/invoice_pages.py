"""An invoice as files: HTML, PDF, CSV and Parquet, each from the kept document alone.

Jinja2 and typst are the extra ``reports``. Nothing is fetched: the fonts are those that typst carries and those of
matplotlib, which is in the same extra; a name in a script that they lack is set in what the machine has. The same
document makes the same bytes.
"""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from importlib.resources import as_file, files
from typing import Any, Final

from upeti.control.invoice_view import Proof, view_of
from upeti.core.errors import UpetiError
from upeti.money.invoice import Document

COLUMNS: Final = (
    *("number", "document", "tenant", "period", "kind", "feature", "model", "meter", "quantity", "unit_price"),
    *("pricing_currency", "priced", "billing_currency", "amount", "payment_currency", "payment_amount"),
)


class ReportsMissing(UpetiError):
    """A library of the extra ``reports`` is not installed."""

    def __init__(self, name: str) -> None:
        super().__init__(f'{name} is not installed: pip install "upeti[reports]"')


def html(document: Document, proof: Proof | None) -> str:
    """Return the page. Raises ``ReportsMissing``."""
    try:
        import jinja2
    except ImportError:
        raise ReportsMissing("jinja2") from None
    view = view_of(document, proof)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_template("invoice.html.j2").decode())
    return template.render(view, columns=6 if view["head"]["priced"] else 5)


def pdf(document: Document, proof: Proof | None) -> bytes:
    """Return the pages as PDF/A, fonts embedded. Raises ``ReportsMissing``."""
    try:
        import typst
    except ImportError:
        raise ReportsMissing("typst") from None
    view = json.dumps(view_of(document, proof))
    issued = document.issued_at or f"{document.last_day}T00:00:00Z"
    compile_: Any = typst.compile  # its types want all paths of one kind
    made: bytes = compile_(
        _template("invoice.typ"),
        sys_inputs={"view": view},
        font_paths=_fonts(),
        format="pdf",
        pdf_standards=["a-2b"],
        timestamp=datetime.datetime.fromisoformat(issued),
    )
    return made


def rows(document: Document) -> Iterator[dict[str, Any]]:
    """Yield the lines as flat rows; amounts are exact decimal texts. Tax and credit are no lines."""
    for line in document.lines:
        values = (
            *(document.number, document.kind, document.customer.id, document.period),
            *(line.kind.value, line.feature, line.model, line.meter, line.quantity, line.unit_price),
            *(line.pricing_currency, line.priced),
            *(document.billing_currency, line.amount.billing, document.payment_currency, line.amount.payment),
        )
        yield dict(zip(COLUMNS, values, strict=True))


def parquet(document: Document) -> bytes:
    """Return the lines as Parquet; amounts are decimals with twelve places, prices before rounding with twenty-four."""
    import pyarrow
    import pyarrow.parquet

    exact, money = pyarrow.decimal256(60, 24), pyarrow.decimal128(38, 12)
    kinds = {
        "quantity": pyarrow.int64(),
        "unit_price": exact,
        "priced": exact,
        "amount": money,
        "payment_amount": money,
    }
    lines = list(rows(document))
    arrays = {}
    for name in COLUMNS:
        kind = kinds.get(name, pyarrow.string())
        is_decimal = pyarrow.types.is_decimal(kind)
        values = [row[name] for row in lines]
        arrays[name] = pyarrow.array([Decimal(one) if is_decimal and one is not None else one for one in values], kind)
    made = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), made)
    return made.getvalue()


def _template(name: str) -> bytes:
    return (files("upeti.control") / "templates" / name).read_bytes()


def _fonts() -> list[str]:
    """Return where matplotlib keeps DejaVu, for letters that typst's own fonts lack."""
    try:
        folder = files("matplotlib") / "mpl-data" / "fonts" / "ttf"
    except ModuleNotFoundError:
        return []
    with as_file(folder) as path:
        return [str(path)]
