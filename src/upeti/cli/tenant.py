"""`upeti tenant`: who is billed, on which terms, and what they have prepaid."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from upeti.cli.invoice import DayOption, ReferenceOption, TenantArgument, open_invoicing
from upeti.cli.options import ConfigOption, JsonOption, tenants_file_of
from upeti.cli.output import cell, console, plain, table
from upeti.core.amount import decimal_text
from upeti.core.errors import ConfigError
from upeti.money.tenant import EVERY_TENANT, Tenants

tenant_app = typer.Typer(help="Tenants and their terms; prepaid credit.", no_args_is_help=True)


@tenant_app.command("list")
def list_command(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the tenants of the tenants file as they are today, with their prepaid credit."""
    tenants, today = _tenants(config), _today()
    credits_pico = open_invoicing(config).credits()
    rows: list[dict[str, Any]] = []
    for name in tenants.names():
        row = max(
            (one for one in tenants.tenants if one.name == name),
            key=lambda one: (one.effective <= today, one.effective),
        )
        credit_pico = credits_pico.get(name, {}).get(row.billing_currency, 0)
        rows.append(
            {
                "tenant": name,
                "legal_name": row.legal_name,
                "parent": row.parent,
                "issuer": row.issuer,
                "currency": row.billing_currency,
                "pays_in": row.pays_in,
                "tax": row.tax,
                "internal": row.internal,
                "credit": decimal_text(credit_pico),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    shown = table([(name.replace("_", " "), name == "credit") for name in rows[0]] if rows else [])
    for one in rows:
        shown.add_row(*(cell("yes" if value is True else value or "") for value in one.values()))
    console().print(shown if rows else "The tenants file has no tenant.")


@tenant_app.command("show")
def show_command(tenant: TenantArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show every row of the tenants file that is for a tenant, and its prepaid credit."""
    tenants = _tenants(config)
    if tenant not in tenants.names():
        raise ConfigError(f"there is no tenant {tenant}; the tenants are: {', '.join(tenants.names())}")
    found: dict[str, Any] = {"tenant": [msgspec.to_builtins(one) for one in tenants.tenants if one.name == tenant]}
    mine = (tenant, EVERY_TENANT)
    found["margin"] = [msgspec.to_builtins(one) for one in tenants.margins if one.tenant in mine]
    found["sale_price"] = [msgspec.to_builtins(one) for one in tenants.sale_prices if one.tenant in mine]
    found["commitment"] = [msgspec.to_builtins(one) for one in tenants.commitments if one.tenant == tenant]
    credit = open_invoicing(config).credits().get(tenant, {})
    found["credit"] = {currency: decimal_text(amount) for currency, amount in sorted(credit.items()) if amount}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    screen = console()
    for name, rows in found.items():
        for row in rows if isinstance(rows, list) else [rows] * bool(rows):
            screen.print(name, style="bold", markup=False)
            for field, value in row.items():
                if value not in ("", None, False, ()):
                    text = "; ".join(value) if isinstance(value, tuple) else value
                    screen.print(plain(f"  {field:<18} {text}"), markup=False, highlight=False)


@tenant_app.command("credit")
def credit_command(
    tenant: TenantArgument,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="In the billing currency, such as 1000.00.")],
    currency: Annotated[str, typer.Option(help="The tenant's billing currency, said again to be sure.")],
    reference: ReferenceOption,
    day: DayOption = None,
    config: ConfigOption = None,
) -> None:
    """Book a top-up: prepaid credit, which the next invoices use. Tax on a prepayment is not handled here."""
    invoicing = open_invoicing(config)
    invoicing.top_up(tenant, amount, currency.upper(), reference, day.date() if day else None)
    credit = invoicing.credits()[tenant][currency.upper()]
    typer.echo(f"{tenant} has {decimal_text(credit)} {currency.upper()} of prepaid credit.")


def _tenants(config: Path | None) -> Tenants:
    file = tenants_file_of(config)
    if file is None:
        raise ConfigError("there is no tenants file; name one as tenants_file in [money]")
    return Tenants.load(file)


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()
