"""Does a file keep to FOCUS 1.4? Every rule, on every row, with what is wrong and the cure.

Rules: a value is judged by itself first; rules between columns are asked only of values that are sound, and only when
the file has the columns. Memory does not grow with the file but for the distinct SKUs and invoice lines; of each rule
the first findings are kept, all are counted. Pure: rows come in as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from upeti.money.currency import is_currency
from upeti.money.focus.columns import (
    COLUMNS,
    FOCUS_VERSION,
    INVOICE_GRAIN_KEYS,
    REMOVED,
    SKU_PRICE_KEYS,
    Column,
    Dataset,
    Kind,
    Level,
)
from upeti.money.focus.rules import (
    ERROR,
    FILE_RULES,
    ROW_RULES,
    SHAPE,
    UNIT,
    VALUE_RULES,
    RowRule,
    Rule,
    Values,
    moment_of,
    number_of,
)

FINDINGS_KEPT: Final = 20  # of each rule and column
_PLACEHOLDERS: Final = frozenset({"", "NULL", "Null", "null", "None", "N/A", "n/a", "NaN", "nan"})
_OWN_KEYS: Final = {"SkuPriceDetails": SKU_PRICE_KEYS, "InvoiceDetailGrain": INVOICE_GRAIN_KEYS}
_KNOWN_MAX: Final = 4096  # sound values of a column, and shapes of rows, that are remembered
_SHOWN: Final = 80  # characters of a wrong value


class Finding(msgspec.Struct, frozen=True):
    rule: str
    severity: str  # "error" | "warning"
    row: int  # of the data, from 1; 0: the file's columns
    column: str
    value: str | None
    message: str
    cure: str


class Verdict(msgspec.Struct):
    """What came of a check. ``counts`` has all findings by rule, ``findings`` the first of each rule and column."""

    dataset: str
    focus_version: str
    rows: int = 0
    errors: int = 0
    warnings: int = 0
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    findings: list[Finding] = msgspec.field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.errors


class Checker:
    """Checks one file: first its columns, then row after row."""

    def __init__(self, dataset: Dataset, header: Sequence[str], types: dict[str, str] | None = None) -> None:
        """``types`` are a Parquet file's column types, such as "double"; None where all is text."""
        self.verdict = Verdict(dataset.value, FOCUS_VERSION)
        self._dataset = dataset
        self._kept: dict[tuple[str, str], int] = {}
        self._columns = {column.name: column for column in COLUMNS[dataset] if column.name in header}
        rules = [one for one in ROW_RULES[dataset] if all(name in header for name in one.needs)]
        self._shape_rules = [one for one in rules if one.of_shape]
        self._rules = [one for one in rules if not one.of_shape]
        self._shapes: dict[tuple[object, ...], list[RowRule]] = {}  # shape → rules that it breaks
        self._sound: dict[str, set[str]] = {name: set() for name in self._columns}  # values that were found sound
        self._parents: dict[str, str] = {}
        self._lines: set[tuple[str, str]] = set()
        self._check_columns(header)
        for name, kind in (types or {}).items():
            self._check_type(name, kind)

    def take(self, row: Values, *, extra: bool = False) -> None:
        """Check one row. ``extra``: it had more or fewer values than the file has columns."""
        self.verdict.rows += 1
        if extra:
            self._find(FILE_RULES["row.length"], "", None, "has another number of values than there are columns")
        sound = row
        for name, column in self._columns.items():
            text = row.get(name)
            if text is None and column.nullable:
                continue
            known = self._sound[name]
            if text in known:
                continue
            warned = self.verdict.warnings
            if not self._value(column, text):
                sound = {other: value for other, value in sound.items() if other != name}
            elif text is not None and len(known) < _KNOWN_MAX and self.verdict.warnings == warned:
                known.add(text)
        for one in self._broken(row, sound):
            self._find(one.rule, one.needs[0], row.get(one.needs[0]), _against(one.needs, row))
        self._check_across(sound)

    def _broken(self, row: Values, sound: Values) -> list[RowRule]:
        """Return the rules between columns that a row breaks. What is broken by itself was told already."""
        if sound is not row:
            rules = (*self._shape_rules, *self._rules)
            return [one for one in rules if all(name in sound for name in one.needs) and one.broken(sound)]
        shape = (*(row.get(name) for name in SHAPE), *[row.get(name) is None for name in self._columns])
        found = self._shapes.get(shape)
        if found is None:
            found = [one for one in self._shape_rules if one.broken(row)]
            if len(self._shapes) < _KNOWN_MAX:
                self._shapes[shape] = found
        return found + [one for one in self._rules if one.broken(row)]

    # -- the file
    # -----------------------------------------------------------------------------------------------

    def _check_columns(self, header: Sequence[str]) -> None:
        known = {column.name for column in COLUMNS[self._dataset]}
        for column in COLUMNS[self._dataset]:
            if column.name not in header:
                if column.level is Level.MANDATORY:
                    self._find(FILE_RULES["columns.mandatory"], column.name, None, "is missing")
                elif column.level is Level.RECOMMENDED:
                    self._find(FILE_RULES["columns.recommended"], column.name, None, "is missing")
        seen: set[str] = set()
        custom = ""
        for name in header:
            if name in seen:
                self._find(FILE_RULES["columns.twice"], name, None, "is there twice")
            seen.add(name)
            if name.startswith("x_"):
                custom = custom or name
            elif name in known and custom:
                self._find(FILE_RULES["columns.order"], name, None, f"comes after {custom}")
            elif name in REMOVED:
                cure = f"rename it to {REMOVED[name]}"
                self._find(FILE_RULES["columns.removed"], name, None, "is no column of FOCUS 1.4", cure)
            elif name not in known:
                self._find(FILE_RULES["columns.unknown"], name, None, "is no column of FOCUS 1.4")

    def _check_type(self, name: str, kind: str) -> None:
        column = self._columns.get(name)
        if column is None:
            return
        floating = kind in ("float", "double", "halffloat")
        if column.kind is Kind.DECIMAL and not kind.startswith(("decimal", "int", "uint")):
            self._find(FILE_RULES["columns.type"], name, kind, f"is of type {kind}")
        elif column.kind is not Kind.DECIMAL and (floating or kind.startswith(("decimal", "int", "uint", "bool"))):
            self._find(
                FILE_RULES["columns.type"], name, kind, f"is of type {kind}, not {column.kind}", "write it as text"
            )

    def _check_across(self, row: Values) -> None:
        price, sku = row.get("SkuPriceId"), row.get("SkuId")
        if price is not None and sku is not None and self._parents.setdefault(price, sku) != sku:
            message = f"has the SkuId {self._parents[price]} in another row"
            self._find(FILE_RULES["sku.one_parent"], "SkuPriceId", price, message)
        if self._dataset is not Dataset.INVOICE_DETAIL:
            return
        invoice, line = row.get("InvoiceId"), row.get("InvoiceDetailId")
        if invoice is not None and line is not None:
            if (invoice, line) in self._lines:
                message = f"is there twice in invoice {invoice}"
                self._find(FILE_RULES["invoice_detail.unique"], "InvoiceDetailId", line, message)
            self._lines.add((invoice, line))

    # -- a value
    # ------------------------------------------------------------------------------------------------

    def _value(self, column: Column, text: str | None) -> bool:
        """Return whether a value is sound by itself, null included."""
        if text is None:
            if column.nullable:
                return True
            self._find(VALUE_RULES["null.forbidden"], column.name, None, "is null")
            return False
        if text.strip() in _PLACEHOLDERS:
            self._find(VALUE_RULES["null.placeholder"], column.name, text, "stands for null")
            return False
        if text != text.strip():
            self._find(VALUE_RULES["format.text"], column.name, text, "has blanks around it")
        if column.allowed and text not in column.allowed:
            allowed = ", ".join(column.allowed[:8]) + (", …" if len(column.allowed) > 8 else "")
            self._find(VALUE_RULES["value.allowed"], column.name, text, "is not allowed", f"use one of: {allowed}")
            return False
        return self._format(column, text)

    def _format(self, column: Column, text: str) -> bool:
        wrong = ""
        if column.kind is Kind.DECIMAL and number_of(text) is None:
            wrong = "format.decimal"
        elif column.kind is Kind.DATETIME and moment_of(text) is None:
            wrong = "format.datetime"
        elif column.kind is Kind.CURRENCY and not is_currency(text):
            wrong = "format.currency"
        elif column.kind is Kind.UNIT and not UNIT.fullmatch(text):
            self._find(VALUE_RULES["format.unit"], column.name, text, "is no unit as FOCUS writes them")
        elif column.kind in (Kind.JSON, Kind.KEY_VALUE):
            return self._object(column, text)
        if wrong:
            self._find(VALUE_RULES[wrong], column.name, text, "is written otherwise")
        return not wrong

    def _object(self, column: Column, text: str) -> bool:
        pairs: list[list[tuple[str, Any]]] = []

        def remember(found: list[tuple[str, Any]]) -> dict[str, Any]:
            pairs.append(found)
            return dict(found)

        try:
            value = json.loads(text, object_pairs_hook=remember)
        except ValueError as error:
            self._find(VALUE_RULES["format.json"], column.name, text, f"is no JSON: {error}")
            return False
        if not isinstance(value, dict):
            self._find(VALUE_RULES["format.json"], column.name, text, "is no JSON object")
            return False
        if column.kind is Kind.JSON:
            return True
        rule = VALUE_RULES["format.key_value"]
        if len(pairs[-1]) != len(value):
            self._find(rule, column.name, text, "has a key twice")
            return False
        for key, one in value.items():
            if isinstance(one, dict | list):
                self._find(rule, column.name, text, f"has an object or a list in {key}")
                return False
            if column.name in _OWN_KEYS and not key.startswith("x_") and key not in _OWN_KEYS[column.name]:
                self._find(
                    rule, column.name, text, f"has the key {key}, which FOCUS does not define", "prefix it with x_"
                )
                return False
        return True

    def _find(self, rule: Rule, column: str, value: str | None, message: str, cure: str = "") -> None:
        verdict = self.verdict
        verdict.counts[rule.id] = verdict.counts.get(rule.id, 0) + 1
        if rule.severity == ERROR:
            verdict.errors += 1
        else:
            verdict.warnings += 1
        kept = self._kept.get((rule.id, column), 0)
        if kept >= FINDINGS_KEPT:
            return
        self._kept[rule.id, column] = kept + 1
        shown = value if value is None or len(value) <= _SHOWN else value[:_SHOWN] + "…"
        verdict.findings.append(
            Finding(rule.id, rule.severity, verdict.rows, column, shown, message, cure or rule.cure)
        )


def _against(needs: tuple[str, ...], row: Values) -> str:
    others = ", ".join(f"{name} {row.get(name) or 'null'}" for name in needs[1:])
    return f"does not fit {others}" if others else "is out of range"


def check(dataset: Dataset, header: Sequence[str], rows: Iterable[Values]) -> Verdict:
    """Check rows that are at hand."""
    checker = Checker(dataset, header)
    for row in rows:
        checker.take(row)
    return checker.verdict
