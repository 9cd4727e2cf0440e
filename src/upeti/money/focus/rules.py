"""What FOCUS 1.4 asks of a file, as a table of rules: each has an id, what it asks, and the cure.

Three kinds: rules of the file's columns, rules of one value by its column's kind, and rules of one row, which say when
a column must or must not be null and how columns hang together. The checker applies them; the docs list them. A value
that is broken by itself is no longer held against other columns. Source: as in ``columns``; the rule that a charge lies
within its billing period is ours, for usage that is no correction.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Final

import msgspec

from upeti.money.focus.columns import Dataset, subcategories

ERROR: Final = "error"
WARNING: Final = "warning"  # FOCUS says "should", or it is only most likely wrong

Values = Mapping[str, str | None]  # a row: column → text, None is null


class Rule(msgspec.Struct, frozen=True):
    id: str
    asks: str
    cure: str
    severity: str = ERROR


class RowRule(msgspec.Struct, frozen=True):
    """``broken`` is asked only when the file has all of ``needs``; the first of them is named in the finding.

    ``of_shape``: it looks at which columns are null and at the columns of ``SHAPE``, and at nothing else.
    """

    rule: Rule
    needs: tuple[str, ...]
    broken: Callable[[Values], bool]
    of_shape: bool = False


SHAPE: Final = ("ChargeCategory", "ChargeClass", "CommitmentDiscountStatus")


FILE_RULES: Final = {
    rule.id: rule
    for rule in (
        Rule("columns.mandatory", "Every mandatory column is there.", "add the column"),
        Rule("columns.recommended", "Recommended columns are there.", "add the column", WARNING),
        Rule(
            "columns.unknown",
            "A column is one of FOCUS 1.4, or begins with `x_`.",
            "prefix a column of your own with x_",
        ),
        Rule("columns.removed", "No column of an earlier version is left.", "rename the column"),
        Rule("columns.twice", "No column is there twice.", "keep one of them"),
        Rule("columns.order", "Columns of one's own come last.", "move x_ columns to the end", WARNING),
        Rule(
            "columns.type",
            "A column's type in a Parquet file fits its kind; numbers are not floats.",
            "write it as decimal",
        ),
        Rule(
            "row.length",
            "A row has as many values as the file has columns.",
            "quote values that hold commas or line breaks",
        ),
        Rule("sku.one_parent", "A SkuPriceId has one SkuId.", "give each price of a SKU its own SkuPriceId"),
        Rule(
            "invoice_detail.unique", "An InvoiceDetailId is there once per invoice.", "number the lines of an invoice"
        ),
    )
}

VALUE_RULES: Final = {
    rule.id: rule
    for rule in (
        Rule("null.forbidden", "A column that allows no nulls has a value.", "give the value"),
        Rule("null.placeholder", "Null is null: no empty text, no word for it.", "leave the value out"),
        Rule("format.decimal", "A number is digits, a point, a minus sign or an exponent.", "write it like -1234.5"),
        Rule("format.datetime", "A time is UTC, like 2026-11-01T00:00:00Z.", "convert to UTC, end with Z"),
        Rule("format.currency", "A national currency is its ISO 4217 code.", "write its three capital letters"),
        Rule(
            "format.unit",
            "A unit is like `Tokens`, `1000000 Tokens`, `GB-Hours`, `Requests/Hour`.",
            "rewrite it",
            WARNING,
        ),
        Rule("format.json", "A JSON column holds one object.", "write a JSON object"),
        Rule("format.key_value", "Keys are there once, values are no objects or lists.", "flatten the object"),
        Rule("format.text", "A text is more than blanks around nothing.", "remove the blanks", WARNING),
        Rule("value.allowed", "A value is one of those that FOCUS allows.", "use an allowed value, spelled as there"),
    )
}

_DECIMAL: Final = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([Ee]-?\d+)?")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_UNIT_NAME: Final = r"[A-Z][A-Za-z]*( [A-Z][A-Za-z]*)*"
UNIT: Final = re.compile(rf"(\d+ )?{_UNIT_NAME}(-{_UNIT_NAME})?(/(\d+ )?{_UNIT_NAME})?")


def number_of(text: str | None) -> Decimal | None:
    """Return a number as FOCUS writes it, or None when it is none."""
    return Decimal(text) if text is not None and _DECIMAL.fullmatch(text) else None


@lru_cache(maxsize=4096)  # a file has few days
def moment_of(text: str | None) -> datetime.datetime | None:
    """Return a time as FOCUS writes it, or None when it is none."""
    if text is None or not _MOMENT.fullmatch(text):
        return None
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return None


# -- when a column is null, and when it is not
# ----------------------------------------------------------------------------

When = Callable[[Values], bool]


def _is(column: str, *values: str) -> When:
    return lambda row: row.get(column) in values


def _null(column: str) -> When:
    return lambda row: row.get(column) is None


def _there(column: str) -> When:
    return lambda row: row.get(column) is not None


def _all(*conditions: When) -> When:
    return lambda row: all(condition(row) for condition in conditions)


def _not(condition: When) -> When:
    return lambda row: not condition(row)


_TAX: Final = _is("ChargeCategory", "Tax")
_USAGE: Final = _is("ChargeCategory", "Usage")
_CORRECTION: Final = _is("ChargeClass", "Correction")
_SOLD: Final = _all(_is("ChargeCategory", "Usage", "Purchase"), _not(_CORRECTION))
_UNUSED: Final = _is("CommitmentDiscountStatus", "Unused")
_SOLD_TEXT: Final = "ChargeCategory is Usage or Purchase and ChargeClass is not Correction"


def _must_be_null(column: str, name: str, text: str, needs: tuple[str, ...], when: When) -> RowRule:
    rule = Rule(
        f"{column}.null_when_{name}", f"{column} is null when {text}.", f"leave {column} out, or correct the other"
    )
    return RowRule(rule, (column, *needs), _all(when, _there(column)), of_shape=True)


def _must_be_there(column: str, name: str, text: str, needs: tuple[str, ...], when: When) -> RowRule:
    rule = Rule(
        f"{column}.there_when_{name}", f"{column} has a value when {text}.", f"give {column}, or correct the other"
    )
    return RowRule(rule, (column, *needs), _all(when, _null(column)), of_shape=True)


def _follows(column: str, of: str) -> list[RowRule]:
    """``column`` is null exactly when ``of`` is."""
    return [
        _must_be_null(column, f"no_{of}", f"{of} is null", (of,), _null(of)),
        _must_be_there(column, of, f"{of} is not", (of,), _there(of)),
    ]


def _only_with(column: str, of: str) -> RowRule:
    return _must_be_null(column, f"no_{of}", f"{of} is null", (of,), _null(of))


def _of_price(column: str) -> list[RowRule]:
    """What holds for everything that a price list says of a charge."""
    return [
        _must_be_null(column, "tax", "ChargeCategory is Tax", ("ChargeCategory",), _TAX),
        _must_be_there(column, "sold", _SOLD_TEXT, ("ChargeCategory", "ChargeClass"), _SOLD),
    ]


_WITH_PRICE: Final = ("ListUnitPrice", "ContractedUnitPrice", "PricingQuantity", "PricingCategory", "ConsumedQuantity")
_UNIT_PRICES: Final = (
    "ListUnitPrice",
    "ContractedUnitPrice",
    "PricingCurrencyListUnitPrice",
    "PricingCurrencyContractedUnitPrice",
)

_NULL_RULES: Final = [
    *(rule for column in ("SkuId", "SkuPriceId", "PricingQuantity", "PricingCategory") for rule in _of_price(column)),
    *(rule for column in _UNIT_PRICES for rule in _of_price(column)),
    *(_only_with(column, "SkuPriceId") for column in (*_WITH_PRICE, "SkuPriceDetails")),
    _only_with("SkuMeter", "SkuId"),
    _only_with("SkuPriceId", "SkuId"),
    *_follows("PricingUnit", "PricingQuantity"),
    *_follows("ConsumedUnit", "ConsumedQuantity"),
    _must_be_null("ConsumedQuantity", "not_usage", "ChargeCategory is not Usage", ("ChargeCategory",), _not(_USAGE)),
    _must_be_null(
        "ConsumedQuantity", "unused", "CommitmentDiscountStatus is Unused", ("CommitmentDiscountStatus",), _UNUSED
    ),
    _must_be_there(
        "ConsumedQuantity",
        "used",
        "ChargeCategory is Usage, ChargeClass is not Correction and no commitment is unused",
        ("ChargeCategory", "ChargeClass"),
        _all(_USAGE, _not(_CORRECTION), _not(_UNUSED)),
    ),
    *(
        rule
        for column in ("Category", "Type")
        for rule in _follows(f"CommitmentDiscount{column}", "CommitmentDiscountId")
    ),
    *(_only_with(f"CommitmentDiscount{column}", "CommitmentDiscountId") for column in ("Name", "Status", "Quantity")),
    *_follows("CommitmentDiscountUnit", "CommitmentDiscountQuantity"),
    _must_be_there(
        "CommitmentDiscountStatus",
        "usage",
        "CommitmentDiscountId is not null and ChargeCategory is Usage",
        ("CommitmentDiscountId", "ChargeCategory"),
        _all(_there("CommitmentDiscountId"), _USAGE),
    ),
    _must_be_there(
        "CommitmentDiscountQuantity",
        "sold",
        f"CommitmentDiscountId is not null, {_SOLD_TEXT}",
        ("CommitmentDiscountId", "ChargeCategory", "ChargeClass"),
        _all(_there("CommitmentDiscountId"), _SOLD),
    ),
    _must_be_null(
        "CommitmentDiscountQuantity",
        "not_sold",
        "ChargeCategory is neither Usage nor Purchase",
        ("ChargeCategory",),
        _not(_is("ChargeCategory", "Usage", "Purchase")),
    ),
    _only_with("CapacityReservationStatus", "CapacityReservationId"),
    _must_be_there(
        "CapacityReservationStatus",
        "usage",
        "CapacityReservationId is not null and ChargeCategory is Usage",
        ("CapacityReservationId", "ChargeCategory"),
        _all(_there("CapacityReservationId"), _USAGE),
    ),
    _only_with("ResourceName", "ResourceId"),
    *_follows("ResourceType", "ResourceId"),
    *_follows("RegionName", "RegionId"),
    _only_with("SubAccountName", "SubAccountId"),
    *_follows("SubAccountType", "SubAccountId"),
    *(
        _only_with(column, "AllocatedMethodId")
        for column in ("AllocatedMethodDetails", "AllocatedResourceId", "AllocatedResourceName", "AllocatedTags")
    ),
    _only_with("InvoiceDetailId", "InvoiceId"),
]


# -- how columns hang together
# ---------------------------------------------------------------------------------------------


def _product_differs(cost: str, unit_price: str) -> When:
    def broken(row: Values) -> bool:
        found = [number_of(row.get(name)) for name in (cost, unit_price, "PricingQuantity")]
        if None in found or _CORRECTION(row):  # a correction may mend one of the three
            return False
        amount, price, quantity = (value for value in found if value is not None)
        with localcontext() as context:
            context.prec = 60
            return amount != price * quantity

    return broken


def _differ(one: str, other: str, when: When) -> When:
    def broken(row: Values) -> bool:
        left, right = number_of(row.get(one)), number_of(row.get(other))
        return left is not None and right is not None and left != right and when(row)

    return broken


def _negative(column: str) -> When:
    return lambda row: (number_of(row.get(column)) or 0) < 0


def _not_before(start: str, end: str, *, same: bool = False) -> When:
    """Broken when ``start`` is not before ``end``, or with ``same`` when it is after it."""

    def broken(row: Values) -> bool:
        first, second = moment_of(row.get(start)), moment_of(row.get(end))
        if first is None or second is None:
            return False
        return first > second if same else first >= second

    return broken


def _outside_billing_period(row: Values) -> bool:
    if not _USAGE(row) or _CORRECTION(row):
        return False
    return _not_before("BillingPeriodStart", "ChargePeriodStart", same=True)(row) or _not_before(
        "ChargePeriodEnd", "BillingPeriodEnd", same=True
    )(row)


def _wrong_subcategory(row: Values) -> bool:
    category, sub = row.get("ServiceCategory"), row.get("ServiceSubcategory")
    return category is not None and sub is not None and sub not in subcategories(category)


def _rule(name: str, asks: str, cure: str, needs: tuple[str, ...], broken: When, *, severity: str = ERROR) -> RowRule:
    return RowRule(Rule(name, asks, cure, severity), needs, broken)


_PERIODS: Final = ("BillingPeriodStart", "BillingPeriodEnd")
_CHARGE_PERIODS: Final = ("ChargePeriodStart", "ChargePeriodEnd")
_BILLING_ORDER: Final = _rule(
    "billing_period.order",
    "A billing period ends after it began.",
    "correct the period",
    _PERIODS,
    _not_before(*_PERIODS),
)

_COST_RULES: Final = [
    _BILLING_ORDER,
    _rule(
        "charge_period.order",
        "A charge period ends after it began.",
        "correct the period",
        _CHARGE_PERIODS,
        _not_before(*_CHARGE_PERIODS),
    ),
    _rule(
        "charge_period.within_billing_period",
        "A usage charge that is no correction lies within its billing period.",
        "bill it in its own period, or mark it with ChargeClass Correction",
        ("ChargePeriodStart", "ChargePeriodEnd", *_PERIODS, "ChargeCategory", "ChargeClass"),
        _outside_billing_period,
    ),
    _rule(
        "correction.in_later_period",
        "A correction is billed in a period after that of the charge.",
        "bill it in an open period, or leave ChargeClass null",
        ("BillingPeriodStart", "ChargePeriodEnd", "ChargeClass"),
        _all(_CORRECTION, _not_before("ChargePeriodEnd", "BillingPeriodStart", same=True)),
    ),
    _rule(
        "purchase.frequency",
        "A purchase is not Usage-Based.",
        "say One-Time or Recurring",
        ("ChargeFrequency", "ChargeCategory"),
        _all(_is("ChargeCategory", "Purchase"), _is("ChargeFrequency", "Usage-Based")),
    ),
    _rule(
        "list_cost.product",
        "ListCost is ListUnitPrice × PricingQuantity.",
        "multiply without rounding",
        ("ListCost", "ListUnitPrice", "PricingQuantity", "ChargeClass"),
        _product_differs("ListCost", "ListUnitPrice"),
    ),
    _rule(
        "contracted_cost.product",
        "ContractedCost is ContractedUnitPrice × PricingQuantity.",
        "multiply without rounding",
        ("ContractedCost", "ContractedUnitPrice", "PricingQuantity", "ChargeClass"),
        _product_differs("ContractedCost", "ContractedUnitPrice"),
    ),
    _rule(
        "list_cost.credit",
        "ListCost of a credit without a unit price is its BilledCost.",
        "write BilledCost in ListCost",
        ("ListCost", "BilledCost", "ChargeCategory"),
        _differ("ListCost", "BilledCost", _all(_is("ChargeCategory", "Credit"), _null("ListUnitPrice"))),
    ),
    _rule(
        "contracted_cost.credit",
        "ContractedCost of a credit is its BilledCost.",
        "write BilledCost in ContractedCost",
        ("ContractedCost", "BilledCost", "ChargeCategory"),
        _differ("ContractedCost", "BilledCost", _is("ChargeCategory", "Credit")),
    ),
    *(
        _rule(
            f"{column}.not_negative",
            f"{column} is not negative.",
            "put the sign on the quantity",
            (column,),
            _negative(column),
        )
        for column in _UNIT_PRICES
    ),
    _rule(
        "service.subcategory",
        "ServiceSubcategory is one of its ServiceCategory.",
        "choose a subcategory of that category",
        ("ServiceSubcategory", "ServiceCategory"),
        _wrong_subcategory,
    ),
]

_SAME_CURRENCY: Final = _all(
    lambda row: row.get("PaymentCurrency") == row.get("BillingCurrency"),
    lambda row: row.get("PaymentCurrencyInvoiceDetailId") in (None, row.get("InvoiceDetailId")),
)

_INVOICE_RULES: Final = [
    _BILLING_ORDER,
    _rule(
        "invoice_detail.updated",
        "InvoiceDetailLastUpdated is not before InvoiceDetailCreated.",
        "correct the times",
        ("InvoiceDetailLastUpdated", "InvoiceDetailCreated"),
        _not_before("InvoiceDetailCreated", "InvoiceDetailLastUpdated", same=True),
    ),
    _rule(
        "invoice.issue_date",
        "An issued invoice has an InvoiceIssueDate.",
        "give the date",
        ("InvoiceIssueDate", "InvoiceIssueStatus"),
        _all(_is("InvoiceIssueStatus", "Issued"), _null("InvoiceIssueDate")),
        severity=WARNING,
    ),
    _rule(
        "invoice.due_date",
        "PaymentDueDate is not before InvoiceIssueDate.",
        "correct the dates",
        ("PaymentDueDate", "InvoiceIssueDate"),
        _not_before("InvoiceIssueDate", "PaymentDueDate", same=True),
        severity=WARNING,
    ),
    _rule(
        "payment.same_currency",
        "In the same currency PaymentCurrencyBilledCost is BilledCost.",
        "write BilledCost in it",
        ("PaymentCurrencyBilledCost", "BilledCost", "PaymentCurrency", "BillingCurrency"),
        _differ("PaymentCurrencyBilledCost", "BilledCost", _SAME_CURRENCY),
    ),
]

ROW_RULES: Final[dict[Dataset, tuple[RowRule, ...]]] = {
    Dataset.COST_AND_USAGE: (*_NULL_RULES, *_COST_RULES),
    Dataset.INVOICE_DETAIL: tuple(_INVOICE_RULES),
}
