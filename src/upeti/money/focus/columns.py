"""The columns of FOCUS 1.4, as one table: the export writes them, the checker holds files against them, and the
reference in docs/ is made from them.

Source: the FinOps Open Cost and Usage Specification, datasets CostAndUsage and InvoiceDetail as of version 1.4
(https://focus.finops.org, read 2026-11-23). What Upeti adds begins with ``x_``, as the specification asks.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

FOCUS_VERSION: Final = "1.4"


class Dataset(StrEnum):
    COST_AND_USAGE = "cost-and-usage"
    INVOICE_DETAIL = "invoice-detail"


class Kind(StrEnum):
    """How a value is written."""

    STRING = "string"
    DECIMAL = "decimal"
    DATETIME = "date/time"
    CURRENCY = "currency"  # a national one, as ISO 4217 has it
    UNIT = "unit"
    KEY_VALUE = "key-value"  # a JSON object of plain values
    JSON = "json"  # a JSON object, nested as it likes


class Level(StrEnum):
    MANDATORY = "mandatory"
    CONDITIONAL = "conditional"  # there when the provider has what it is about
    RECOMMENDED = "recommended"
    CUSTOM = "custom"  # Upeti's own


class Column(msgspec.Struct, frozen=True):
    name: str
    kind: Kind
    level: Level
    nullable: bool
    since: str  # the version of FOCUS, or of Upeti, that brought it
    what: str  # it holds in Upeti's export
    allowed: tuple[str, ...] = ()


CHARGE_CATEGORIES: Final = ("Usage", "Purchase", "Tax", "Credit", "Adjustment")

# The second level of each service category. A name in brackets stands for "Other (name of the category)".
SUBCATEGORIES: Final[dict[str, tuple[str, ...]]] = {
    "AI and Machine Learning": (
        "AI Platforms",
        "Bots",
        "Generative AI",
        "Machine Learning",
        "Natural Language Processing",
    ),
    "Analytics": ("Analytics Platforms", "Business Intelligence", "Data Processing", "Search", "Streaming Analytics"),
    "Business Applications": ("Productivity and Collaboration",),
    "Compute": ("Containers", "End User Computing", "Quantum Compute", "Serverless Compute", "Virtual Machines"),
    "Databases": (
        "Caching",
        "Data Warehouses",
        "Ledger Databases",
        "NoSQL Databases",
        "Relational Databases",
        "Time Series Databases",
    ),
    "Developer Tools": (
        "Developer Platforms",
        "Continuous Integration and Deployment",
        "Development Environments",
        "Source Code Management",
        "Quality Assurance",
    ),
    "Identity": ("Identity and Access Management",),
    "Integration": ("API Management", "Messaging", "Workflow Orchestration"),
    "Internet of Things": ("IoT Analytics", "IoT Platforms"),
    "Management and Governance": (
        "Architecture",
        "Compliance",
        "Cost Management",
        "Data Governance",
        "Disaster Recovery",
        "Endpoint Management",
        "Observability",
        "Support",
    ),
    "Media": ("Content Creation", "Gaming", "Media Streaming", "Mixed Reality"),
    "Migration": ("Data Migration", "Resource Migration"),
    "Mobile": (),
    "Multicloud": ("Multicloud Integration",),
    "Networking": (
        "Application Networking",
        "Content Delivery",
        "Network Connectivity",
        "Network Infrastructure",
        "Network Routing",
        "Network Security",
    ),
    "Security": ("Secret Management", "Security Posture Management", "Threat Detection and Response"),
    "Storage": ("Backup Storage", "Block Storage", "File Storage", "Object Storage", "Storage Platforms"),
    "Web": ("Application Platforms",),
    "Other": (),
}


def subcategories(category: str) -> tuple[str, ...]:
    """Return the service subcategories that a service category has."""
    return (*SUBCATEGORIES.get(category, ()), f"Other ({category})")


_S, _D, _T, _C, _U = Kind.STRING, Kind.DECIMAL, Kind.DATETIME, Kind.CURRENCY, Kind.UNIT
_M, _O, _R = Level.MANDATORY, Level.CONDITIONAL, Level.RECOMMENDED
_NEVER: Final = "null: Upeti has no such thing"


def _own(name: str, what: str, *, nullable: bool = True, allowed: tuple[str, ...] = ()) -> Column:
    return Column(name, Kind.STRING, Level.CUSTOM, nullable, "Upeti 0.1", what, allowed)


COST_AND_USAGE: Final = (
    Column("AllocatedMethodDetails", Kind.JSON, _R, True, "1.3", _NEVER),
    Column("AllocatedMethodId", _S, _O, True, "1.3", _NEVER),
    Column("AllocatedResourceId", _S, _O, True, "1.3", _NEVER),
    Column("AllocatedResourceName", _S, _O, True, "1.3", _NEVER),
    Column("AllocatedTags", Kind.KEY_VALUE, _O, True, "1.3", _NEVER),
    Column("AvailabilityZone", _S, _R, True, "0.5", _NEVER),
    Column("BilledCost", _D, _M, False, "0.5", "the cost, exact to the twelfth decimal"),
    Column(
        "BillingAccountId",
        _S,
        _M,
        False,
        "0.5",
        "the channel's `account`, as the provider's bill names it; without one the channel",
    ),
    Column("BillingAccountName", _S, _M, True, "0.5", "the channel"),
    Column("BillingAccountType", _S, _O, False, "1.2", "`Channel`"),
    Column("BillingCurrency", _C, _M, False, "0.5", "the currency of the price; nothing is converted"),
    Column("BillingPeriodEnd", _T, _M, False, "0.5", "the first moment of the month after"),
    Column(
        "BillingPeriodStart", _T, _M, False, "0.5", "the month; of a correction to a closed month the first open one"
    ),
    Column("CapacityReservationId", _S, _O, True, "1.1", _NEVER),
    Column("CapacityReservationStatus", _S, _O, True, "1.1", _NEVER, ("Used", "Unused")),
    Column(
        "ChargeCategory",
        _S,
        _M,
        False,
        "0.5",
        "`Usage`; `Purchase` for hours of capacity; `Adjustment` for a cost that no quantity and price explain",
        CHARGE_CATEGORIES,
    ),
    Column(
        "ChargeClass",
        _S,
        _M,
        True,
        "1.0",
        "`Correction` for a correction to a closed month, else null",
        ("Correction",),
    ),
    Column("ChargeDescription", _S, _M, True, "1.0-preview", "model, meter and channel, and whether it is estimated"),
    Column(
        "ChargeFrequency",
        _S,
        _R,
        False,
        "1.0-preview",
        "`Usage-Based`; `Recurring` for capacity",
        ("One-Time", "Recurring", "Usage-Based"),
    ),
    Column("ChargePeriodEnd", _T, _M, False, "0.5", "the first moment of the day after"),
    Column("ChargePeriodStart", _T, _M, False, "0.5", "the UTC day on which the attempts were settled"),
    Column("CommitmentDiscountCategory", _S, _O, True, "1.0-preview", _NEVER, ("Spend", "Usage")),
    Column("CommitmentDiscountId", _S, _O, True, "1.0-preview", _NEVER),
    Column("CommitmentDiscountName", _S, _O, True, "1.0-preview", _NEVER),
    Column("CommitmentDiscountQuantity", _D, _O, True, "1.1", _NEVER),
    Column("CommitmentDiscountStatus", _S, _O, True, "1.0", _NEVER, ("Used", "Unused")),
    Column("CommitmentDiscountType", _S, _O, True, "1.0-preview", _NEVER),
    Column("CommitmentDiscountUnit", _U, _O, True, "1.1", _NEVER),
    Column("CommitmentProgramEligibilityDetails", Kind.JSON, _O, True, "1.4", _NEVER),
    Column("ConsumedQuantity", _D, _O, True, "1.0", "tokens, seconds or calls"),
    Column("ConsumedUnit", _U, _O, True, "1.0", "`Tokens`, `Seconds` or `Requests`"),
    Column("ContractApplied", Kind.JSON, _O, True, "1.3", _NEVER),
    Column("ContractedCost", _D, _M, False, "1.0", "as BilledCost: a price file holds the prices that you pay"),
    Column("ContractedUnitPrice", _D, _O, True, "1.0", "the price per PricingUnit"),
    Column("EffectiveCost", _D, _M, False, "0.5", "as BilledCost: nothing is spread over time"),
    Column(
        "HostProviderName", _S, _M, False, "1.3", "who runs the machines: Microsoft for Azure, else as the service's"
    ),
    Column("InvoiceDetailId", _S, _O, True, "1.4", "null: the provider's invoice is not known to Upeti"),
    Column("InvoiceId", _S, _O, True, "1.2", "null: the provider's invoice is not known to Upeti"),
    Column("InvoiceIssuerName", _S, _M, False, "0.5", "whom the channel is paid to"),
    Column("ListCost", _D, _M, False, "1.0-preview", "ListUnitPrice × PricingQuantity"),
    Column("ListUnitPrice", _D, _O, True, "1.0-preview", "the price per PricingUnit"),
    Column(
        "PricingCategory",
        _S,
        _O,
        True,
        "1.0-preview",
        "`Standard` where there is a price",
        ("Standard", "Dynamic", "Committed", "Other"),
    ),
    Column("PricingCurrency", _S, _O, False, "1.2", "as BillingCurrency"),
    Column("PricingCurrencyContractedUnitPrice", _D, _O, True, "1.2", "as ContractedUnitPrice"),
    Column("PricingCurrencyEffectiveCost", _D, _O, False, "1.2", "as EffectiveCost"),
    Column("PricingCurrencyListUnitPrice", _D, _O, True, "1.2", "as ListUnitPrice"),
    Column("PricingQuantity", _D, _M, True, "1.0-preview", "how many PricingUnits"),
    Column(
        "PricingUnit", _U, _M, True, "1.0-preview", "`1000000 Tokens`, as providers list prices; `Requests`, `Seconds`"
    ),
    Column("RegionId", _S, _O, True, "1.0", "the channel's `zone`; null without one"),
    Column("RegionName", _S, _O, True, "1.0", "as RegionId"),
    Column("ResourceId", _S, _O, True, "0.5", "channel and model"),
    Column("ResourceName", _S, _O, True, "0.5", "the model"),
    Column("ResourceType", _S, _O, True, "1.0-preview", "`Model`, or `Capacity`"),
    Column("ServiceCategory", _S, _M, False, "0.5", "`AI and Machine Learning`", tuple(SUBCATEGORIES)),
    Column("ServiceName", _S, _M, False, "0.5", "the provider's name for it, such as `OpenAI API`"),
    Column("ServiceProviderName", _S, _M, False, "1.3", "whose service it is"),
    Column(
        "ServiceSubcategory",
        _S,
        _R,
        False,
        "1.1",
        "`Generative AI`",
        tuple(dict.fromkeys(name for category in SUBCATEGORIES for name in subcategories(category))),
    ),
    Column("SkuId", _S, _O, True, "1.0-preview", "channel, model and meter"),
    Column("SkuMeter", _S, _O, True, "1.1", "the meter"),
    Column("SkuPriceDetails", Kind.KEY_VALUE, _O, True, "1.1", "model, meter, service tier and cliff"),
    Column(
        "SkuPriceId",
        _S,
        _O,
        True,
        "1.0-preview",
        "SkuId with service tier and cliff; the row of the price book, which is dated, is in `x_PriceId`",
    ),
    Column("SubAccountId", _S, _O, True, "0.5", "the tenant"),
    Column("SubAccountName", _S, _O, True, "0.5", "the tenant"),
    Column("SubAccountType", _S, _O, True, "1.2", "`Tenant`"),
    Column("Tags", Kind.KEY_VALUE, _O, True, "1.0-preview", "tenant, project, key, feature and task, where given"),
    _own("x_Channel", "the channel", nullable=False),
    _own(
        "x_Estimated",
        "`true` when posted at a bound until the provider reports",
        nullable=False,
        allowed=("true", "false"),
    ),
    _own("x_Meter", "the meter; `per_call`, `unmetered` or `capacity`", nullable=False),
    _own("x_Model", "the model name sent to the provider"),
    _own("x_Node", "the node that served"),
    _own("x_Outcome", "how the attempts were settled: `posted`, `estimated`, `corrected`", nullable=False),
    _own("x_PriceId", "the row of the price book; `upeti prices explain` shows it"),
    _own("x_Route", "the model name that clients asked for"),
    _own("x_ServiceTier", "the service tier, null for the standard one"),
    _own("x_Wire", "the API that was called"),
)

INVOICE_DETAIL: Final = (
    Column("BilledCost", _D, _M, False, "1.4", "the line's amount, rounded as on the invoice"),
    Column("BillingAccountId", _S, _M, False, "1.4", "the tenant"),
    Column("BillingCurrency", _C, _M, False, "1.4", "the invoice's currency"),
    Column("BillingPeriodEnd", _T, _M, False, "1.4", "the first moment of the month after"),
    Column("BillingPeriodStart", _T, _M, False, "1.4", "the month"),
    Column(
        "ChargeCategory",
        _S,
        _M,
        False,
        "1.4",
        "`Usage`; `Tax`; `Credit` for prepaid credit used; `Adjustment` for a commitment's shortfall or discount",
        CHARGE_CATEGORIES,
    ),
    Column("InvoiceDetailCreated", _T, _M, False, "1.4", "when the invoice was issued"),
    Column("InvoiceDetailDescription", _S, _M, True, "1.4", "the line's text"),
    Column("InvoiceDetailGrain", Kind.KEY_VALUE, _M, True, "1.4", "what the line is split by: feature, model, meter"),
    Column("InvoiceDetailId", _S, _M, False, "1.4", "invoice number and line"),
    Column("InvoiceDetailLastUpdated", _T, _M, False, "1.4", "when the invoice was issued: it is not changed after"),
    Column("InvoiceId", _S, _M, False, "1.4", "the invoice's or the credit note's number"),
    Column("InvoiceIssueDate", _T, _M, True, "1.4", "when the invoice was issued"),
    Column("InvoiceIssueStatus", _S, _M, False, "1.4", "`Issued`", ("Open", "Issued", "Voided")),
    Column("InvoiceIssuerName", _S, _M, False, "1.4", "the seller on the invoice"),
    Column("PaymentCurrency", _C, _O, False, "1.4", "the currency to pay in"),
    Column("PaymentCurrencyBilledCost", _D, _O, False, "1.4", "BilledCost in it"),
    Column(
        "PaymentCurrencyInvoiceDetailId", _S, _O, False, "1.4", "as InvoiceDetailId: each line is converted by itself"
    ),
    Column("PaymentDueDate", _T, _M, True, "1.4", "when it is due"),
    Column("PaymentTerms", _S, _M, False, "1.4", "such as `Net 30`"),
    Column("PurchaseOrderNumber", _S, _O, True, "1.4", "the customer's reference, where there is one"),
    Column("ReferenceInvoiceId", _S, _M, False, "1.4", "of a credit note the invoice it corrects, else as InvoiceId"),
    _own("x_PricingCurrency", "the currency of x_UnitPrice; null for tax and used credit"),
    Column("x_Quantity", _D, Level.CUSTOM, True, "Upeti 0.1", "as on the line: tokens, seconds or calls"),
    Column("x_UnitPrice", _D, Level.CUSTOM, True, "Upeti 0.1", "as on the line, exact; null where there is none"),
)

COLUMNS: Final[dict[Dataset, tuple[Column, ...]]] = {
    Dataset.COST_AND_USAGE: COST_AND_USAGE,
    Dataset.INVOICE_DETAIL: INVOICE_DETAIL,
}

# Columns of earlier versions that are none any more, and what to write in their place.
REMOVED: Final = {
    "ProviderName": "ServiceProviderName",
    "PublisherName": "ServiceProviderName or HostProviderName",
    "Provider": "ServiceProviderName",
    "Publisher": "ServiceProviderName or HostProviderName",
    "InvoiceIssuer": "InvoiceIssuerName",
    "Region": "RegionId",
    "AmortizedCost": "EffectiveCost",
    "ChargeType": "ChargeCategory",
    "ChargeSubcategory": "ChargeCategory and ChargeClass",
    "UsageQuantity": "ConsumedQuantity",
    "UsageUnit": "ConsumedUnit",
}

# Keys of SkuPriceDetails and of InvoiceDetailGrain that FOCUS defines; all others begin with x_.
SKU_PRICE_KEYS: Final = frozenset(
    {
        "CoreCount",
        "DiskMaxIops",
        "DiskSpace",
        "DiskType",
        "GpuCount",
        "InstanceType",
        "InstanceSeries",
        "MemorySize",
        "NetworkMaxIops",
        "NetworkMaxThroughput",
        "OperatingSystem",
        "Redundancy",
        "StorageClass",
    }
)
INVOICE_GRAIN_KEYS: Final = frozenset(
    {
        "ContractId",
        "RegionId",
        "ResourceId",
        "ResourceType",
        "ServiceName",
        "SkuId",
        "SkuMeter",
        "SkuPriceId",
        "SubAccountId",
    }
)
