"""Anthropic's cost report and its usage report of messages, as the Admin API answers them.

Rules: an amount is a decimal string in hundredths of the currency. Buckets are UTC and lie within one UTC day. A cost
that is not grouped by description says nothing of models. The usage report's input excludes what was read from or
written to the cache, as our meters do.

Shapes, read 2026-11-23: https://platform.claude.com/docs/en/api/admin/cost_report and
https://platform.claude.com/docs/en/api/admin/usage_report, with
https://platform.claude.com/docs/en/build-with-claude/usage-cost-api.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from upeti.core import meters as m
from upeti.money.reconcile.lines import Nature, Report, ReportError, ReportLine, known_fields

_TOKENS: Final[Mapping[str, str]] = {
    "uncached_input_tokens": m.INPUT,
    "cache_read_input_tokens": m.INPUT_CACHED,
    "cache_creation.ephemeral_5m_input_tokens": m.INPUT_CACHE_WRITE_5M,
    "cache_creation.ephemeral_1h_input_tokens": m.INPUT_CACHE_WRITE_1H,
    "output_tokens": m.OUTPUT,
}
_TIERS: Final = {
    "": "",
    "standard": "",
    "batch": "batch",
    "priority": "priority",
    "priority_on_demand": "priority",
    "flex": "flex",
    "flex_discount": "flex",
}
_CONTEXTS: Final = {"": "", "0-200k": "short", "200k-1M": "long"}
_COST_FIELDS: Final = known_fields("anthropic_cost")
_USAGE_FIELDS: Final = known_fields("anthropic_usage")
DEFAULT_WORKSPACE: Final = "default"  # the API names it null, also when it groups by workspace
_DAY: Final = datetime.timedelta(days=1)


def is_page(page: Any) -> bool:
    """Tell whether a JSON document is a page of Anthropic's Admin API."""
    if not isinstance(page, dict) or not isinstance(page.get("data"), list) or "object" in page:
        return False
    return all(isinstance(bucket, dict) and "starting_at" in bucket and "results" in bucket for bucket in page["data"])


def read(pages: Sequence[tuple[str, Any]]) -> Report:
    """Return one report of pages, each with the name of its file. Raises ``ReportError``."""
    results = [result for _, page in pages for bucket in page["data"] for result in bucket["results"]]
    has_costs = any("amount" in result for result in results)
    has_usage = any("uncached_input_tokens" in result for result in results)
    words = [name for name, there in (("cost report", has_costs), ("usage report", has_usage)) if there] or [
        "cost report"
    ]
    tells = {
        name
        for name, field in (("tier", "service_tier"), ("context", "context_window"))
        if any(result.get(field) is not None for result in results)
    }
    report = Report(
        provider="anthropic", format=f"Anthropic {' and '.join(words)} (JSON)", lines=iter(()), tells=frozenset(tells)
    )
    if pages and all(page.get("has_more") for _, page in pages):
        names = ", ".join(dict.fromkeys(file for file, _ in pages))
        raise ReportError(
            f"{names}: has_more is true on every page; fetch the others with page=next_page, and give all files"
        )
    report.by_account = any(result.get("workspace_id") for result in results)
    report.lines = _lines(pages, report)
    return report


def _lines(pages: Sequence[tuple[str, Any]], report: Report) -> Iterator[ReportLine]:
    for file, page in pages:
        for number_of_bucket, bucket in enumerate(page["data"], 1):
            place = f"{file}: bucket {number_of_bucket}"
            day = _day(bucket, place)
            report.cover(day)
            for number_of_result, result in enumerate(bucket["results"], 1):
                at = f"{place}, result {number_of_result}"
                if "amount" in result:
                    yield _cost(result, day, at, report)
                elif "uncached_input_tokens" in result:
                    yield from _usage(result, day, at, report)
                else:
                    raise ReportError(f"{at}: neither a cost (amount) nor usage of messages (uncached_input_tokens)")


def _day(bucket: Mapping[str, Any], place: str) -> datetime.date:
    try:
        start, end = (
            datetime.datetime.fromisoformat(str(bucket[name]).replace("Z", "+00:00")).astimezone(datetime.UTC)
            for name in ("starting_at", "ending_at")
        )
    except (KeyError, ValueError):
        raise ReportError(f"{place}: a bucket has starting_at and ending_at in RFC 3339") from None
    midnight = datetime.datetime.combine(start.date(), datetime.time(), datetime.UTC)
    if end > midnight + _DAY:
        raise ReportError(f"{place}: the bucket is not within one UTC day; ask for bucket_width=1d")
    return start.date()


def _common(result: Mapping[str, Any], day: datetime.date, place: str, report: Report) -> dict[str, Any]:
    tier, context = str(result.get("service_tier") or ""), str(result.get("context_window") or "")
    for what, value, known in (("service tier", tier, _TIERS), ("context window", context, _CONTEXTS)):
        if value not in known:
            report.note(f"{what} {value!r} is not one that is documented; it is compared under its own name")
    geo = str(result.get("inference_geo") or "")
    workspace = result.get("workspace_id") or (DEFAULT_WORKSPACE if report.by_account else None)
    accounts = (workspace, result.get("api_key_id"))
    return {
        "place": place,
        "day": day,
        "accounts": tuple(str(name).lower() for name in accounts if name),
        "tier": _TIERS.get(tier, tier),
        "context": _CONTEXTS.get(context, context),
        "zone": "" if geo in ("not_available", "global") else geo,
    }


def _cost(result: Mapping[str, Any], day: datetime.date, place: str, report: Report) -> ReportLine:
    for name in result.keys() - _COST_FIELDS:
        report.note(f"field {name} is not one that is documented; it is not read")
    # "Cost amount in lowest currency units (e.g. cents) as a decimal string"
    cost_pico, error_pico = report.amount(result["amount"], place, scale=-2)
    kind, description = result.get("cost_type"), str(result.get("description") or "")
    model, meter, nature = str(result.get("model") or ""), "", Nature.USAGE
    if kind == "tokens" or (kind is None and result.get("token_type")):
        meter = _TOKENS.get(str(result.get("token_type") or ""), "")
        nature = Nature.USAGE if meter and model else Nature.UNMAPPED
    elif kind is not None or description:
        nature = Nature.UNMAPPED  # web search, code execution, sessions: not metered by tokens
    return ReportLine(
        **_common(result, day, place, report),
        nature=nature,
        model=model,
        meter=meter,
        name=description or str(kind or ""),
        cost_pico=cost_pico,
        cost_error_pico=error_pico,
        currency=str(result.get("currency") or "USD").upper(),
    )


def _usage(result: Mapping[str, Any], day: datetime.date, place: str, report: Report) -> Iterator[ReportLine]:
    for name in result.keys() - _USAGE_FIELDS:
        report.note(f"field {name} is not one that is documented; it is not read")
    model = str(result.get("model") or "")
    written = result.get("cache_creation") or {}
    for field, meter in _TOKENS.items():
        parent, _, child = field.partition(".")
        value = (written.get(child) if child else result.get(parent)) or 0
        if not isinstance(value, int) or value < 0:
            raise ReportError(f"{place}: {field} is {value!r}, not a count")
        if value:
            yield ReportLine(
                **_common(result, day, place, report),
                model=model,
                meter=meter if model else "",
                name=field,
                quantity=Decimal(value),
            )
    searches = (result.get("server_tool_use") or {}).get("web_search_requests") or 0
    if searches:
        report.note("web searches are not metered by Upeti; they were not compared", searches)
