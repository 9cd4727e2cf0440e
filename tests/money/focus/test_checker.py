"""The checker finds a planted violation of every rule, and nothing in a file that keeps to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.focus_rows import exported, invoice_line
from upeti.money.focus.checker import FINDINGS_KEPT, Checker, check
from upeti.money.focus.columns import COLUMNS, COST_AND_USAGE, Dataset
from upeti.money.focus.export import Row
from upeti.money.focus.rules import FILE_RULES, ROW_RULES, VALUE_RULES

HEADER = [column.name for column in COST_AND_USAGE]
USAGE = exported()[0]
COST, INVOICE = Dataset.COST_AND_USAGE, Dataset.INVOICE_DETAIL
COMMITTED = {
    "CommitmentDiscountId": "c1",
    "CommitmentDiscountCategory": "Spend",
    "CommitmentDiscountType": "Plan",
    "CommitmentDiscountStatus": "Used",
    "CommitmentDiscountQuantity": "1",
    "CommitmentDiscountUnit": "Hours",
}
NO_PRICE = dict.fromkeys(
    (
        "SkuId",
        "SkuMeter",
        "SkuPriceId",
        "SkuPriceDetails",
        "ListUnitPrice",
        "ContractedUnitPrice",
        "PricingCurrencyListUnitPrice",
        "PricingCurrencyContractedUnitPrice",
        "PricingQuantity",
        "PricingUnit",
        "PricingCategory",
        "ConsumedQuantity",
        "ConsumedUnit",
    )
)
CREDIT = {"ChargeCategory": "Credit", **NO_PRICE}

# rule → what to change in a sound row so that the rule is broken
PLANTED: dict[str, dict[str, str | None]] = {
    "null.forbidden": {"BilledCost": None},
    "null.placeholder": {"ResourceName": "NULL"},
    "format.decimal": {"BilledCost": "1,234.5"},
    "format.datetime": {"ChargePeriodStart": "2026-11-03 00:00:00"},
    "format.currency": {"BillingCurrency": "usd"},
    "format.unit": {"PricingUnit": "tokens per million"},
    "format.json": {"Tags": "tenant=acme"},
    "format.key_value": {"Tags": '{"a": 1, "a": 2}'},
    "format.text": {"SubAccountName": " acme"},
    "value.allowed": {"ChargeCategory": "usage"},
    "billing_period.order": {"BillingPeriodEnd": "2026-11-01T00:00:00Z", "ChargeCategory": "Credit"},
    "charge_period.order": {"ChargePeriodEnd": "2026-11-03T00:00:00Z"},
    "charge_period.within_billing_period": {"ChargePeriodEnd": "2026-12-02T00:00:00Z"},
    "correction.in_later_period": {"ChargeClass": "Correction"},
    "purchase.frequency": {"ChargeCategory": "Purchase"},
    "list_cost.product": {"ListCost": "0.4000005"},
    "contracted_cost.product": {"ContractedCost": "0.4"},
    "list_cost.credit": {**CREDIT, "ListCost": "2"},
    "contracted_cost.credit": {**CREDIT, "ContractedCost": "2"},
    "ListUnitPrice.not_negative": {"ListUnitPrice": "-0.4"},
    "ContractedUnitPrice.not_negative": {"ContractedUnitPrice": "-0.4"},
    "PricingCurrencyListUnitPrice.not_negative": {"PricingCurrencyListUnitPrice": "-0.4"},
    "PricingCurrencyContractedUnitPrice.not_negative": {"PricingCurrencyContractedUnitPrice": "-0.4"},
    "service.subcategory": {"ServiceSubcategory": "Containers"},
    "CommitmentDiscountStatus.there_when_usage": {**COMMITTED, "CommitmentDiscountStatus": None},
    "CommitmentDiscountQuantity.there_when_sold": {**COMMITTED, "CommitmentDiscountQuantity": None},
    "CommitmentDiscountQuantity.null_when_not_sold": {**COMMITTED, "ChargeCategory": "Credit"},
    "ConsumedQuantity.null_when_unused": {**COMMITTED, "CommitmentDiscountStatus": "Unused"},
    "ConsumedQuantity.null_when_not_usage": {"ChargeCategory": "Purchase"},
    "ConsumedQuantity.there_when_used": {"ConsumedQuantity": None},
    "CapacityReservationStatus.there_when_usage": {"CapacityReservationId": "r1"},
}
INVOICE_PLANTED: dict[str, dict[str, str | None]] = {
    "billing_period.order": {"BillingPeriodEnd": "2026-10-01T00:00:00Z"},
    "invoice_detail.updated": {"InvoiceDetailLastUpdated": "2026-12-01T08:00:00Z"},
    "invoice.issue_date": {"InvoiceIssueDate": None},
    "invoice.due_date": {"PaymentDueDate": "2026-12-01T00:00:00Z"},
    "payment.same_currency": {"PaymentCurrencyBilledCost": "1234.49"},
}


def planted(rule: str) -> dict[str, str | None]:
    """Return the violation of a rule about nulls; its name says which."""
    if rule in PLANTED:
        return PLANTED[rule]
    column, _, name = rule.partition(".")
    value = "x" if not USAGE[column] else USAGE[column]
    if name == "null_when_tax":
        return {"ChargeCategory": "Tax"}
    if name == "there_when_sold":
        return {column: None}
    if name.startswith("null_when_no_"):
        sample = (
            {"AllocatedTags": "{}", "AllocatedMethodDetails": "{}"} | COMMITTED | {"CapacityReservationStatus": "Used"}
        )
        return {name.removeprefix("null_when_no_"): None, column: sample.get(column, value)}
    if name.startswith("there_when_"):
        other = name.removeprefix("there_when_")
        return {column: None, other: COMMITTED.get(other) or USAGE[other] or "x"}
    raise AssertionError(f"plant a violation of {rule}")


def found(dataset: Dataset, row: Row) -> list[str]:
    return list(check(dataset, list(row), [row]).counts)


COST_RULES = [one.rule.id for one in ROW_RULES[COST]] + list(VALUE_RULES)


@pytest.mark.parametrize("rule", COST_RULES)
def test_a_violation_of_each_rule_of_a_row_is_found(rule: str) -> None:
    assert found(COST, USAGE) == []
    bad = USAGE | planted(rule)
    assert rule in found(COST, bad)
    # What is remembered of sound rows and of broken ones hides nothing.
    assert check(COST, HEADER, [USAGE, bad, USAGE, bad]).counts[rule] == 2 * check(COST, HEADER, [bad]).counts[rule]


@pytest.mark.parametrize("rule", [one.rule.id for one in ROW_RULES[INVOICE]])
def test_a_violation_of_each_rule_of_an_invoice_is_found(rule: str) -> None:
    assert found(INVOICE, invoice_line()) == []
    assert rule in found(INVOICE, invoice_line() | INVOICE_PLANTED[rule])


def without(*names: str) -> Callable[[list[str]], list[str]]:
    return lambda header: [name for name in header if name not in names]


@pytest.mark.parametrize(
    ("rule", "change", "column"),
    [
        ("columns.mandatory", without("BilledCost"), "BilledCost"),
        ("columns.recommended", without("ChargeFrequency"), "ChargeFrequency"),
        ("columns.unknown", lambda header: [*header, "Margin"], "Margin"),
        ("columns.removed", lambda header: [*header, "ProviderName"], "ProviderName"),
        ("columns.twice", lambda header: [*header, "x_Node"], "x_Node"),
        ("columns.order", lambda header: ["x_Mine", *header], "AllocatedMethodDetails"),
    ],
)
def test_a_violation_of_each_rule_of_columns_is_found(
    rule: str, change: Callable[[list[str]], list[str]], column: str
) -> None:
    findings = [one for one in Checker(COST, change(HEADER)).verdict.findings if one.rule == rule]
    assert findings[0].column == column
    assert findings[0].row == 0


def test_types_of_a_parquet_file_are_held_against_the_kinds() -> None:
    types = {"BilledCost": "double", "BillingAccountId": "int64", "ListCost": "decimal128(38, 12)", "Tags": "string"}
    findings = Checker(COST, HEADER, types).verdict.findings
    assert [(one.rule, one.column) for one in findings] == [
        ("columns.type", "BilledCost"),
        ("columns.type", "BillingAccountId"),
    ]


def test_a_sku_price_has_one_sku() -> None:
    verdict = check(COST, HEADER, [USAGE, USAGE | {"SkuId": "another"}, USAGE])
    assert verdict.counts == {"sku.one_parent": 1}
    assert verdict.findings[0].row == 2


def test_an_invoice_has_each_line_once() -> None:
    other = invoice_line(InvoiceId="INV-2")
    verdict = check(INVOICE, list(other), [invoice_line(), other, invoice_line()])
    assert verdict.counts == {"invoice_detail.unique": 1}


def test_a_row_of_another_length_is_found() -> None:
    checker = Checker(COST, HEADER)
    checker.take(USAGE, extra=True)
    assert checker.verdict.counts == {"row.length": 1}


def test_every_rule_of_a_file_has_a_test_here() -> None:
    assert set(FILE_RULES) == {
        "columns.mandatory",
        "columns.recommended",
        "columns.unknown",
        "columns.removed",
        "columns.twice",
        "columns.order",
        "columns.type",
        "row.length",
        "sku.one_parent",
        "invoice_detail.unique",
    }
    ids = [one.rule.id for rules in ROW_RULES.values() for one in rules if one.rule.id != "billing_period.order"]
    assert len(ids) == len(set(ids))
    for dataset, rules in ROW_RULES.items():
        names = {column.name for column in COLUMNS[dataset]}
        assert all(name in names for one in rules for name in one.needs)


def test_what_is_broken_by_itself_is_told_once() -> None:
    assert found(COST, USAGE | {"ListUnitPrice": "cheap"}) == ["format.decimal"]


def test_rules_about_columns_that_are_not_there_are_not_asked() -> None:
    header = without("ListUnitPrice", "SkuPriceId", "SkuId")(HEADER)
    assert check(COST, header, [{name: USAGE[name] for name in header}]).findings == []


def test_findings_name_row_column_rule_and_cure_and_are_counted_when_many() -> None:
    bad = USAGE | {"BillingCurrency": "rupiah"}
    verdict = check(COST, HEADER, [USAGE, *[bad] * 50])
    assert verdict.counts["format.currency"] == verdict.errors == 50
    assert len(verdict.findings) == FINDINGS_KEPT
    first = verdict.findings[0]
    assert (first.row, first.column, first.rule, first.value) == (2, "BillingCurrency", "format.currency", "rupiah")
    assert "capital letters" in first.cure
    assert not verdict.sound


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("-100.2", True),
        ("35.2E-7", True),
        ("4", True),
        ("1E3", True),
        ("1 1/2", False),
        ("35.2E+7", False),
        ("+1", False),
    ],
)
def test_numbers_as_focus_writes_them(text: str, sound: bool) -> None:
    assert ("format.decimal" not in found(COST, USAGE | {"EffectiveCost": text})) is sound


@pytest.mark.parametrize(
    "unit", ["Tokens", "1000000 Tokens", "GB-Hours", "Requests/Hour", "Units/3 Months", "Storage Units"]
)
def test_units_as_focus_writes_them(unit: str) -> None:
    assert found(COST, USAGE | {"ConsumedUnit": unit}) == []


@pytest.mark.parametrize(
    ("code", "sound"), [("IDR", True), ("KWD", True), ("QQQ", False), ("Rp", False), ("usd", False)]
)
def test_national_currencies_are_codes_and_a_virtual_one_may_price(code: str, sound: bool) -> None:
    assert ("format.currency" not in found(COST, USAGE | {"BillingCurrency": code})) is sound
    assert found(COST, USAGE | {"PricingCurrency": "Provider Credits"}) == []


def test_keys_of_price_details_are_defined_or_prefixed() -> None:
    assert found(COST, USAGE | {"SkuPriceDetails": '{"GpuCount": 8, "x_Model": "m"}'}) == []
    assert found(COST, USAGE | {"SkuPriceDetails": '{"Model": "m"}'}) == ["format.key_value"]
    assert found(COST, USAGE | {"Tags": '{"team": {"name": "a"}}'}) == ["format.key_value"]
    assert found(COST, USAGE | {"Tags": "[1]"}) == ["format.json"]


def test_a_correction_may_mend_price_or_quantity_alone() -> None:
    later = {"BillingPeriodStart": "2026-12-01T00:00:00Z", "BillingPeriodEnd": "2027-01-01T00:00:00Z"}
    correction = USAGE | later | {"ChargeClass": "Correction", "ListCost": "9"}
    assert found(COST, correction) == []
