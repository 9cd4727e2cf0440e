"""`upeti invoice`: what tenants owe, drafted, issued, corrected, credited, paid."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upeti.cli.options import ConfigOption, JsonOption, TenantOption, rates_file_of, tenants_file_of
from upeti.cli.output import cell, console, plain, table, write_csv
from upeti.cli.state import open_state
from upeti.core.amount import decimal_text
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.control.invoice_view import Proof
    from upeti.control.invoicing import Invoicing, Kept
    from upeti.money.invoice import Document

invoice_app = typer.Typer(
    help="What tenants owe: draft, issue, correct, credit, pay, export invoices.", no_args_is_help=True
)

TenantArgument = Annotated[str, typer.Argument(help="Who is billed, as in the tenants file.")]
MonthArgument = Annotated[str, typer.Argument(metavar="MONTH", help="Such as 2026-10; UTC.")]
NumberArgument = Annotated[str, typer.Argument(metavar="NUMBER", help="Such as UPT-2026-000123.")]
ReasonOption = Annotated[str, typer.Option(help="Why; printed on the document.")]
ReferenceOption = Annotated[
    str, typer.Option(help="The bank's reference; each is booked once per tenant, so a payment cannot be told twice.")
]
DayOption = Annotated[
    datetime.datetime | None,
    typer.Option("--day", formats=["%Y-%m-%d"], help="Day the money came in.", show_default="today, UTC"),
]
_REASONS = {
    "unpriced": "no price in the book",
    "bound": "posted at a bound, its meters are not known yet",
    "no_sale_price": "a meter without a sale price",
}
_FORMATS = ".json, .html, .pdf, .csv or .parquet"


def open_invoicing(config: Path | None) -> Invoicing:
    """Return the invoices of the configured state. Raises ``ConfigError``."""
    from upeti.control.invoicing import Invoicing
    from upeti.money.rates import Rates
    from upeti.money.tenant import Tenants

    file = tenants_file_of(config)
    return Invoicing(
        open_state(config), None if file is None else Tenants.load(file), Rates.load(rates_file_of(config))
    )


@invoice_app.command("draft")
def draft_command(
    tenant: TenantArgument,
    month: MonthArgument,
    output: Annotated[
        Path | None, typer.Option(help=f"Write it to a file; its ending says how: {_FORMATS}.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show a month's invoice as it would be issued now; of an open month what there is so far.

    An internal tenant's is its chargeback by feature, at cost. Nothing is kept.
    """
    document = open_invoicing(config).draft(tenant, _month(month))
    if output is not None:
        _write(document, None, None, output)
    elif as_json:
        _print_json(document)
    else:
        _show(document, None)


@invoice_app.command("issue")
def issue_command(
    tenant: TenantArgument, month: MonthArgument, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Issue the invoice of a closed month: number it, keep it, post it. Each month once per tenant."""
    _done(open_invoicing(config).issue(tenant, _month(month)), as_json)


@invoice_app.command("correct")
def correct_command(
    number: NumberArgument, reason: ReasonOption, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Bill what came after a month's first invoice, at that invoice's exchange rates.

    What is owed to you becomes a supplementary invoice, what you owe a credit note; both name the first.
    """
    kept = open_invoicing(config).correct(number, reason)
    if kept is None:
        typer.echo("null" if as_json else f"Nothing came after {number}.")
        return
    _done(kept, as_json)


@invoice_app.command("credit")
def credit_command(
    number: NumberArgument, reason: ReasonOption, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Take an invoice back in full, with a credit note. What was paid on it becomes prepaid credit."""
    _done(open_invoicing(config).credit(number, reason), as_json)


@invoice_app.command("pay")
def pay_command(
    number: NumberArgument,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="In the payment currency, such as 1250.00.")],
    reference: ReferenceOption,
    day: DayOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Book a payment, in part or in full."""
    kept = open_invoicing(config).pay(number, amount, reference, day.date() if day else None)
    _done(kept, as_json)


@invoice_app.command("list")
def list_command(
    tenant: TenantOption = None,
    month: Annotated[str | None, typer.Option(help="Only this month, such as 2026-10.", show_default=False)] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List what was issued, oldest first: number, total, state, what is open."""
    issued = open_invoicing(config).all(tenant, month and _month(month))
    rows = [_summary(kept) for kept in issued]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    numbers = ("total", "open")
    columns = ("number", "kind", "tenant", "month", "issued", "due", "total", "currency", "state", "open", "pays in")
    shown = table([(name, name in numbers) for name in columns])
    for one, kept in zip(rows, issued, strict=True):
        one |= _shown(kept)
        shown.add_row(*(cell(one[name.replace(" ", "_")] or "") for name in columns))
    console().print(shown if rows else "Nothing was issued yet: `upeti invoice issue TENANT MONTH` does.")


@invoice_app.command("show")
def show_command(number: NumberArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show an issued document from its kept text; --json prints that text, byte for byte."""
    kept = open_invoicing(config).show(number)
    if as_json:
        typer.echo(kept.text.decode(), nl=False)
    else:
        _show(kept.document, kept)


@invoice_app.command("export")
def export_command(
    number: NumberArgument,
    output: Annotated[Path, typer.Argument(metavar="FILE", help=f"Its ending says how: {_FORMATS}.")],
    config: ConfigOption = None,
) -> None:
    """Write an issued document to a file, from its kept text."""
    from upeti.control.invoice_view import Proof

    kept = open_invoicing(config).show(number)
    _write(kept.document, kept.text, Proof(kept.sha256, kept.batch, kept.batch_hash), output)


def _write(document: Document, text: bytes | None, proof: Proof | None, output: Path) -> None:
    from upeti.control import invoice_pages
    from upeti.money.invoice import encode

    forms: dict[str, Callable[[], bytes]] = {
        ".json": lambda: text or encode(document),
        ".html": lambda: invoice_pages.html(document, proof).encode(),
        ".pdf": lambda: invoice_pages.pdf(document, proof),
        ".csv": lambda: _csv(document).encode(),
        ".parquet": lambda: invoice_pages.parquet(document),
    }
    form = forms.get(output.suffix.lower())
    if form is None:
        raise ConfigError(f"{output}: the ending says no format; name a file with {_FORMATS}")
    try:
        output.write_bytes(form())
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror}); choose another place") from None
    typer.echo(f"Written: {output}")


def _csv(document: Document) -> str:
    from upeti.control.invoice_pages import COLUMNS, rows

    made = io.StringIO()
    write_csv(COLUMNS, (list(row.values()) for row in rows(document)), made)
    return made.getvalue()


def _month(text: str) -> str:
    from upeti.money.invoice import days_of

    try:
        days_of(text)
    except ValueError:
        raise ConfigError(f"{text} is no month; write it like 2026-10") from None
    return text


def _print_json(document: Document) -> None:
    from upeti.money.invoice import encode

    typer.echo(encode(document).decode(), nl=False)


def _done(kept: Kept, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_summary(kept), indent=2))
        return
    one = _summary(kept) | _shown(kept)
    still = f", {one['open']} {one['pays_in']} open" if kept.open_pico else ""
    whose = f"{one['tenant']} {one['month']}"
    typer.echo(f"{one['number']}  {one['kind']}  {whose}  {one['total']} {one['currency']}  {one['state']}{still}")


def _fixed(text: str, decimals: int) -> str:
    return f"{Decimal(text):,.{decimals}f}"


def _shown(kept: Kept) -> dict[str, str]:
    """Return the amounts as people read them."""
    document = kept.document
    return {
        "total": _fixed(document.totals.total.billing, document.billing_decimals),
        "open": _fixed(decimal_text(kept.open_pico), document.payment_decimals),
    }


def _summary(kept: Kept) -> dict[str, Any]:
    document = kept.document
    return {
        "number": kept.number,
        "kind": kept.kind,
        "tenant": kept.tenant,
        "month": kept.period,
        "issued": document.issue_date,
        "due": document.due_date,
        "refers_to": document.refers_to,
        "total": document.totals.total.billing,
        "currency": document.billing_currency,
        "state": kept.standing.state.value,
        "open": decimal_text(kept.open_pico),
        "pays_in": document.payment_currency,
        "sha256": kept.sha256,
        "ledger_batch": kept.batch,
        "ledger_hash": kept.batch_hash,
    }


def _show(document: Document, kept: Kept | None) -> None:
    screen = console()
    customer = document.customer
    title = f"{document.kind} {document.number}".rstrip() if kept is not None else "draft, not issued"
    screen.print(
        plain(f"{title}: {customer.legal_name} ({customer.id}), {document.period}"), markup=False, style="bold"
    )
    if document.refers_to:
        screen.print(plain(f"refers to {document.refers_to}: {document.reason}"), markup=False, highlight=False)
    names = (
        "feature",
        "model",
        "meter",
        "",
        "quantity",
        "unit price",
        "price in",
        f"amount {document.billing_currency}",
    )
    shown = table([(name, name in ("quantity", "unit price") or name.startswith("amount")) for name in names])
    for line in document.lines:
        mark = "" if line.kind == "usage" else line.kind.value
        cells = (
            line.feature,
            line.model,
            line.meter,
            mark,
            line.quantity,
            line.unit_price or "",
            line.pricing_currency,
        )
        shown.add_row(*(cell(one) for one in cells), cell(_fixed(line.amount.billing, document.billing_decimals)))
    shown.add_section()
    for label, amount in _sums(document):
        shown.add_row(cell(label), *[""] * 6, cell(amount), style="bold")
    screen.print(shown)
    for note in _notes(document, kept):
        screen.print(plain(note), markup=False, highlight=False)


def _sums(document: Document) -> Iterator[tuple[str, str]]:
    totals, tax, decimals = document.totals, document.tax, document.billing_decimals
    yield "net", _fixed(totals.net.billing, decimals)
    if tax is not None:
        base = _fixed(tax.base.billing, decimals)
        yield f"{tax.label_en} {tax.rate} % of {base}", _fixed(totals.tax.billing, decimals)
    if totals.credit.billing != "0":
        yield "prepaid credit", _fixed(totals.credit.billing, decimals)
    yield "due", _fixed(totals.due.billing, decimals)


def _notes(document: Document, kept: Kept | None) -> Iterator[str]:
    """Yield what a reader of the figures must know beside them."""
    if document.payment_currency != document.billing_currency:
        due = _fixed(document.totals.due.payment, document.payment_decimals)
        yield f"to be paid: {due} {document.payment_currency}"
    for rate in {rate for conversion in document.conversions for rate in conversion.rates}:
        yield f"1 {rate.base} = {rate.rate:f} {rate.currency}, {rate.date}: {rate.source} (rates {rate.set_sha256[:16]})"
    for one in document.unbilled:
        yield f"not billed: {one.attempts:,} attempts, {one.feature or 'no feature'}, {one.model}: {_REASONS[one.reason]}"
    if document.tax is not None and document.tax.status != "checked":
        yield f"tax {document.tax.name}: {document.tax.status}. {document.tax.source}"
    if kept is not None:
        open_text = f"{_shown(kept)['open']} {document.payment_currency} open"
        yield f"{kept.standing.state}, {open_text}; issued {document.issue_date}, due {document.due_date}"
        yield f"document {kept.sha256}, ledger batch {kept.batch} {kept.batch_hash}"
