"""An invoice as people read it: the kept document → texts in the language and number format of its locale.

Rules: nothing is computed here but the form; every amount is one of the document's. HTML and PDF are made from the same
view, so they say the same. Names that others chose are passed on as plain text, and each template escapes them.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec
from babel import Locale
from babel.dates import format_date
from babel.numbers import NumberPattern, format_decimal, get_currency_symbol, parse_pattern

from upeti.core.amount import PICO_PER_UNIT, apportion_pico
from upeti.money.invoice import CREDIT_NOTE, NO_USAGE, Document, Line, Money, Party
from upeti.money.sale import LineKind
from upeti.money.usage import PER_CALL

_PRICED_DECIMALS: Final = 6
_PER_ONE: Final = (PER_CALL, "audio_seconds")  # priced each; tokens are priced by the million
_MILLION_DIGITS: Final = 6
_DIGITS: Final = 60  # Babel rounds in the current context, which has 28 by default
_EXACT_DECIMALS: Final = 18


class Proof(msgspec.Struct, frozen=True):
    """What ties a document to the ledger."""

    sha256: str
    batch: int
    batch_hash: str


@cache
def texts_of(locale: str) -> dict[str, Any]:
    source = files("upeti.control") / "templates" / "invoice_texts.toml"
    found: dict[str, Any] = tomllib.loads(source.read_text(encoding="utf-8"))[locale]
    return found


class Form:
    """Numbers and dates of one locale."""

    def __init__(self, locale: str) -> None:
        self.locale = Locale.parse(locale)

    def money(self, text: str, currency: str, decimals: int) -> str:
        """Return an amount with its currency: Rp8.935.500 in Indonesian."""
        form = self.locale.currency_formats["standard"].pattern
        if get_currency_symbol(currency, self.locale) == currency:
            form = form.replace("¤#", "¤\xa0#")  # a code is set off from the number, a sign is not
        pattern: NumberPattern = parse_pattern(form)
        pattern.frac_prec = (decimals, decimals)
        with localcontext() as context:
            context.prec = _DIGITS
            return str(pattern.apply(Decimal(text), self.locale, currency=currency, currency_digits=False))

    def fixed(self, value: str | Decimal, decimals: int) -> str:
        """Return an amount with so many decimals, to stand in a column whose head names the currency."""
        return self._number(Decimal(value), decimals, decimals)

    def exact(self, value: Decimal) -> str:
        """Return a price with all its decimals, at least two."""
        return self._number(value, 2, _EXACT_DECIMALS)

    def plain(self, value: Decimal | int) -> str:
        return self._number(Decimal(value), 0, _EXACT_DECIMALS)

    def _number(self, value: Decimal, decimals_min: int, decimals_max: int) -> str:
        places = "0" * decimals_min + "#" * (decimals_max - decimals_min)
        with localcontext() as context:
            context.prec = _DIGITS
            return format_decimal(value, f"#,##0.{places}" if places else "#,##0", self.locale)

    def date(self, text: str) -> str:
        return format_date(datetime.date.fromisoformat(text), "long", self.locale) if text else ""


def view_of(document: Document, proof: Proof | None) -> dict[str, Any]:
    """Return everything that a template prints, as texts in nested dictionaries and lists."""
    return _View(document, proof).made()


class _View:
    def __init__(self, document: Document, proof: Proof | None) -> None:
        self.document = document
        self.proof = proof
        self.form = Form(document.locale)
        self.texts = texts_of(document.locale)
        self.is_credit = document.kind == CREDIT_NOTE
        # Where a price is in another currency than the bill, its amount stands beside the bill's.
        self.foreign = [part.name for part in document.pricing if part.name != document.billing_currency]

    def made(self) -> dict[str, Any]:
        document, texts = self.document, self.texts
        day = document.issue_date or document.last_day
        title = "chargeback" if document.internal and not document.refers_to else document.kind
        return {
            "lang": document.locale.partition("_")[0],
            "title": texts[f"title_{title}"],
            "number": document.number,
            "draft": "" if document.number else texts["draft"],
            "day": dict(zip(("year", "month", "day"), map(int, day.split("-")), strict=True)),
            "issuer": self._party(document.issuer, texts["from"]),
            "customer": self._party(document.customer, texts["bill_to"]),
            "facts": [{"label": label, "value": value} for label, value in self._facts() if value],
            "head": self._head(),
            "groups": list(self._groups()),
            "totals": list(self._totals()),
            "due": self._due(),
            "payment": self._payment(),
            "payment_title": texts["payment"],
            "bank": list(document.issuer.bank) if self._is_payable() else [],
            "notes": list(self._notes()),
            "unbilled": self._unbilled(),
            "proof": list(self._proof()),
            "page": texts["page"],
        }

    def _party(self, party: Party, label: str) -> dict[str, Any]:
        lines = [*party.address, *party.contact]
        if party.tax_id:
            lines.append(f"{self.texts['tax_id']}: {party.tax_id}")
        return {"label": label, "name": party.legal_name, "lines": lines}

    def _facts(self) -> Iterator[tuple[str, str]]:
        document, texts = self.document, self.texts
        yield texts["number"], document.number
        yield texts["issue_date"], self.form.date(document.issue_date)
        yield texts["period"], f"{self.form.date(document.first_day)} – {self.form.date(document.last_day)}"
        yield texts["due_date"], self.form.date(document.due_date) if self._is_payable() else ""
        yield texts["tenant"], document.customer.id
        yield texts["purchase_order"], document.customer.purchase_order
        yield texts["refers_to"], document.refers_to
        yield texts["reason"], document.reason

    def _is_payable(self) -> bool:
        return not self.is_credit and not self.document.internal and Decimal(self.document.totals.due.billing) > 0

    def _head(self) -> dict[str, str]:
        texts = self.texts
        priced = texts["priced"].format(currency=" / ".join(self.foreign)) if self.foreign else ""
        amount = texts["amount"].format(currency=self.document.billing_currency)
        names = ("model", "meter", "quantity", "unit_price")
        return {**{name: texts[name] for name in names}, "priced": priced, "amount": amount}

    def _groups(self) -> Iterator[dict[str, Any]]:
        document, texts = self.document, self.texts
        shown = dict(zip(map(id, document.lines), self._priced(), strict=True))
        for feature in document.features:
            lines = [one for one in document.lines if one.feature == feature.name and one.kind not in NO_USAGE]
            yield {
                "name": feature.name or texts["no_feature"],
                "lines": [self._line(line, shown[id(line)]) for line in lines],
                "subtotal_label": texts["subtotal"].format(feature=feature.name or texts["no_feature"]),
                "subtotal": self._amount(feature.amount),
            }
        own = [line for line in document.lines if line.kind in NO_USAGE]
        if own:
            yield {
                "name": texts["commitment"],
                "lines": [self._line(line, shown[id(line)]) for line in own],
                "subtotal": "",
            }

    def _priced(self) -> list[str]:
        """Return the lines' amounts before conversion, rounded so that they sum to what their currency sums to."""
        shown = [""] * len(self.document.lines)
        for currency in self.foreign:
            places = [place for place, line in enumerate(self.document.lines) if line.pricing_currency == currency]
            exact = [_fraction_pico(self.document.lines[place].priced) for place in places]
            for place, amount in zip(places, apportion_pico(exact, _PRICED_DECIMALS), strict=True):
                text = self.form.fixed(amount, _PRICED_DECIMALS)
                shown[place] = f"{text} {currency}" if len(self.foreign) > 1 else text
        return shown

    def _line(self, line: Line, priced: str) -> dict[str, str]:
        texts = self.texts
        if line.kind in NO_USAGE:
            model, meter = texts[line.kind.value], ""
        else:
            model, meter = line.model, texts["meters"].get(line.meter, line.meter)
        unit = ""
        if line.unit_price is not None:
            each = line.meter in _PER_ONE
            price = Decimal(line.unit_price) if each else Decimal(line.unit_price).scaleb(_MILLION_DIGITS)
            unit = f"{self.form.exact(price)} {line.pricing_currency}"
            unit += "" if each else f" {texts['per_million']}"
        marked = line.kind in (LineKind.ESTIMATED, LineKind.CORRECTION)
        return {
            "kind": line.kind.value,
            "model": model,
            "meter": meter,
            "mark": texts[line.kind.value] if marked else "",
            "quantity": "" if line.kind in NO_USAGE else self.form.plain(line.quantity),
            "unit_price": unit,
            "priced": priced,
            "amount": self._amount(line.amount),
        }

    def _amount(self, money: Money) -> str:
        return self.form.fixed(money.billing, self.document.billing_decimals)

    def _money(self, money: Money) -> str:
        return self.form.money(money.billing, self.document.billing_currency, self.document.billing_decimals)

    def _totals(self) -> Iterator[dict[str, str]]:
        totals, tax, texts = self.document.totals, self.document.tax, self.texts
        yield {"label": texts["net"], "value": self._money(totals.net)}
        if tax is not None:
            share = tax.base_share
            label = texts["tax_base_all"] if share == "1" else texts["tax_base"].format(share=share)
            yield {"label": label, "value": self._money(tax.base)}
            name = tax.label_id if self.document.locale == "id_ID" else tax.label_en
            yield {"label": f"{name} {self.form.plain(Decimal(tax.rate))}%", "value": self._money(totals.tax)}
            yield {"label": texts["total"], "value": self._money(totals.total)}
        if Decimal(totals.credit.billing):
            yield {"label": texts["credit"], "value": self._money(totals.credit)}

    def _due(self) -> dict[str, str]:
        label = "credited" if self.is_credit else "due"
        return {"label": self.texts[label], "value": self._money(self.document.totals.due)}

    def _payment(self) -> dict[str, Any]:
        """What is paid in another currency, and until when."""
        document, texts = self.document, self.texts
        lines = []
        if self._is_payable():
            days = document.net_days
            lines.append(texts["net_days"].format(days=days) if days else texts["net_at_once"])
            if document.number:
                lines.append(texts["quote_number"].format(number=document.number))
        other = None
        if document.payment_currency != document.billing_currency:
            label = texts["credited_in" if self.is_credit else "pay_in"].format(currency=document.payment_currency)
            due, decimals = document.totals.due.payment, document.payment_decimals
            other = {"label": label, "value": self.form.money(due, document.payment_currency, decimals)}
        return {"lines": [*lines, *document.terms], "other": other}

    def _notes(self) -> Iterator[str]:
        document, texts = self.document, self.texts
        if not self.is_credit and any(line.kind is LineKind.ESTIMATED for line in document.lines):
            yield texts["estimated_note"]
        said = set()
        for conversion in document.conversions:
            for rate in conversion.rates:
                line = texts["rate_line"].format(
                    base=rate.base,
                    rate=self.form.plain(rate.rate),
                    currency=rate.currency,
                    date=self.form.date(rate.date.isoformat()),
                    source=rate.source,
                )
                said.add(f"{texts['rates']}: {line}; {texts['rate_set'].format(hash=rate.set_sha256[:16])}.")
        yield from sorted(said)
        if document.tax is not None:
            yield texts["tax_source"].format(source=document.tax.reference)
            if document.tax.status != "checked" and not document.number:
                yield texts["tax_unchecked"]
        if self.foreign:
            yield texts["priced_note"]

    def _unbilled(self) -> dict[str, Any] | None:
        document, texts = self.document, self.texts
        if not document.unbilled:
            return None
        rows = [
            {
                "feature": one.feature or texts["no_feature"],
                "model": one.model,
                "reason": texts[f"unbilled_{one.reason}"],
                "attempts": self.form.plain(one.attempts),
                "units": self.form.plain(sum(one.meters.values())) if one.meters else "?",
            }
            for one in document.unbilled
        ]
        return {"title": texts["unbilled"], "attempts": texts["attempts"], "units": texts["tokens"], "rows": rows}

    def _proof(self) -> Iterator[dict[str, str]]:
        texts, document = self.texts, self.document
        if self.proof is not None:
            yield {"label": texts["proof_document"], "value": self.proof.sha256}
            yield {"label": texts["proof_batch"].format(number=self.proof.batch), "value": self.proof.batch_hash}
        yield {"label": texts["proof_usage"].format(number=document.ledger_number), "value": document.usage_sha256}


def _fraction_pico(text: str) -> Fraction:
    return Fraction(text) * PICO_PER_UNIT
