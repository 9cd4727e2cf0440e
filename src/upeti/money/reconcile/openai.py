"""OpenAI's organization costs and usage, as the API answers them: pages of daily buckets, joined.

Rules: buckets are UTC, a bucket lies within one UTC day. A cost that is not split by ``line_item`` says nothing of models;
a line item whose words are not known is unmapped, with its amount. A usage bucket has quantities and no costs. Cached,
written, audio and image tokens are inside OpenAI's input and output; here they are taken out, as our meters are disjoint.

Shapes, read 2026-11-23 in OpenAI's published OpenAPI description (github.com/openai/openai-openapi, ``CostsResult`` and
``Usage…Result``) and in https://platform.openai.com/docs/api-reference/usage/costs. The wording of line items ("MODEL,
input", "MODEL, cached input", "MODEL, output") is documented nowhere; it is what the API answers.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from upeti.core import meters as m
from upeti.money.reconcile.lines import Nature, Report, ReportError, ReportLine, known_fields, number

COSTS: Final = "organization.costs.result"
USAGE: Final = "organization.usage."

_LINE_METERS: Final[Mapping[str, str]] = {
    "input": m.INPUT,
    "cached input": m.INPUT_CACHED,
    "cache write": m.INPUT_CACHE_WRITE,
    "cache write input": m.INPUT_CACHE_WRITE,
    "output": m.OUTPUT,
    "audio input": m.INPUT_AUDIO,
    "audio output": m.OUTPUT_AUDIO,
    "image input": m.INPUT_IMAGE,
    "image output": m.OUTPUT_IMAGE,
}
_EMBEDDINGS: Final = "text-embedding"
# quantity_unit → (single units of one, whether they are seconds of audio)
_UNITS: Final[Mapping[str, tuple[int, bool]]] = {
    "tokens": (1, False),
    "1000_tokens": (1_000, False),
    "duration_seconds": (1, True),
    "duration_minutes": (60, True),
    "duration_hours": (3_600, True),
}
_OTHER_UNITS: Final = frozenset({"gibibyte_hours", "images", "characters"})
_COST_FIELDS: Final = known_fields("openai_cost")
_USAGE_FIELDS: Final = known_fields("openai_usage")
_SECONDS_PER_DAY: Final = 86_400
_TIERS: Final = {"": "", "default": "", "auto": "", "standard": "", "priority": "priority", "flex": "flex"}


def is_page(page: Any) -> bool:
    """Tell whether a JSON document is a page of OpenAI's organization API."""
    return isinstance(page, dict) and page.get("object") == "page" and isinstance(page.get("data"), list)


def read(pages: Sequence[tuple[str, Any]]) -> Report:
    """Return one report of pages, each with the name of its file. Raises ``ReportError``."""
    objects = {
        str(result.get("object", ""))
        for _, page in pages
        for bucket in page["data"]
        for result in bucket.get("results", [])
    }
    has_costs = COSTS in objects
    has_usage = any(name.startswith(USAGE) for name in objects)
    tells = frozenset({"tier"}) if has_usage and not has_costs and _splits_tiers(pages) else frozenset[str]()
    words = [name for name, there in (("costs", has_costs), ("usage", has_usage)) if there] or ["costs"]
    report = Report(
        provider="openai", format=f"OpenAI organization {' and '.join(words)} (JSON)", lines=iter(()), tells=tells
    )
    for unknown in sorted(objects):
        if unknown != COSTS and not unknown.startswith(USAGE):
            raise ReportError(f"a result says it is {unknown!r}, which is neither costs nor usage of an organization")
    _check_pages(pages, report)
    report.lines = _lines(pages, report, by_tier="tier" in tells)
    return report


def _splits_tiers(pages: Sequence[tuple[str, Any]]) -> bool:
    return any(
        result.get("service_tier") is not None or result.get("batch") is not None
        for _, page in pages
        for bucket in page["data"]
        for result in bucket.get("results", [])
    )


def _check_pages(pages: Sequence[tuple[str, Any]], report: Report) -> None:
    """A page that was forgotten is a bill with a hole. Raises ``ReportError`` when none is the last one."""
    open_pages = [file for file, page in pages if page.get("has_more")]
    if len(open_pages) == len(pages):
        raise ReportError(
            f"{', '.join(dict.fromkeys(open_pages))}: has_more is true on every page, so there are further ones; fetch them "
            "with page=next_page, and give all files"
        )
    seen: dict[str, str] = {}
    for file, page in pages:
        text = repr(page["data"])
        if text in seen and page["data"]:
            raise ReportError(f"{file} has the same buckets as {seen[text]}; give each page once")
        seen[text] = file


def _lines(pages: Sequence[tuple[str, Any]], report: Report, *, by_tier: bool) -> Iterator[ReportLine]:
    for file, page in pages:
        for number_of_bucket, bucket in enumerate(page["data"], 1):
            place = f"{file}: bucket {number_of_bucket}"
            day = _day(bucket, place)
            report.cover(day)
            for number_of_result, result in enumerate(bucket.get("results", []), 1):
                at = f"{place}, result {number_of_result}"
                if result.get("object") == COSTS:
                    yield _cost(result, day, at, report)
                else:
                    yield from _usage(result, day, at, report, by_tier=by_tier)


def _day(bucket: Any, place: str) -> datetime.date:
    start, end = bucket.get("start_time"), bucket.get("end_time")
    if not isinstance(start, int) or not isinstance(end, int):
        raise ReportError(f"{place}: a bucket has start_time and end_time in Unix seconds")
    if start // _SECONDS_PER_DAY != (end - 1) // _SECONDS_PER_DAY:
        raise ReportError(f"{place}: the bucket is not within one UTC day; ask for bucket_width=1d")
    return datetime.datetime.fromtimestamp(start, datetime.UTC).date()


def _accounts(result: Mapping[str, Any]) -> tuple[str, ...]:
    names = (result.get("project_id"), result.get("api_key_id"))
    return tuple(str(name).lower() for name in names if name)


def _unknown_fields(result: Mapping[str, Any], known: frozenset[str], report: Report) -> None:
    for name in result.keys() - known:
        report.note(f"field {name} is not one that is documented; it is not read")


def _cost(result: Mapping[str, Any], day: datetime.date, place: str, report: Report) -> ReportLine:
    _unknown_fields(result, _COST_FIELDS, report)
    amount = result.get("amount")
    if not isinstance(amount, dict) or "value" not in amount or not amount.get("currency"):
        raise ReportError(f"{place}: a cost has an amount with value and currency")
    cost_pico, error_pico = report.amount(amount["value"], place)
    item = result.get("line_item") or ""
    model, meter, nature = _line_item(item)
    quantity, seconds = _quantity(result, place, report)
    if seconds:
        meter = m.AUDIO_SECONDS
    return ReportLine(
        place=place,
        day=day,
        accounts=_accounts(result),
        nature=nature,
        model=model,
        meter=meter,
        name=item,
        quantity=quantity,
        cost_pico=cost_pico,
        cost_error_pico=error_pico,
        currency=str(amount["currency"]).upper(),
    )


def _line_item(item: str) -> tuple[str, str, Nature]:
    if not item:
        return "", "", Nature.USAGE  # not split
    model, comma, word = item.rpartition(", ")
    meter = _LINE_METERS.get(word.strip().lower())
    if comma and meter is not None and "|" not in model:
        return model.strip(), meter, Nature.USAGE
    if item.startswith(_EMBEDDINGS) and "," not in item:
        return item.strip(), m.INPUT, Nature.USAGE
    return "", "", Nature.UNMAPPED


def _quantity(result: Mapping[str, Any], place: str, report: Report) -> tuple[Decimal | None, bool]:
    value, unit = result.get("quantity"), result.get("quantity_unit")
    if value is None:
        return None, False
    if unit not in _UNITS:
        if unit not in _OTHER_UNITS:
            report.note(
                f"quantity_unit {unit!r} is not a unit that can be counted; its quantities are taken as unknown"
            )
        return None, False
    factor, seconds = _UNITS[str(unit)]
    return number(value, place) * factor, seconds


def _usage(
    result: Mapping[str, Any], day: datetime.date, place: str, report: Report, *, by_tier: bool
) -> Iterator[ReportLine]:
    _unknown_fields(result, _USAGE_FIELDS, report)
    kind = str(result["object"]).removeprefix(USAGE).removesuffix(".result")
    if kind == "audio_transcriptions":
        counts = {m.AUDIO_SECONDS: _count(result, "seconds", place)}
    elif "input_tokens" in result:
        counts = _tokens(result, place)
    else:
        report.note(f"usage of {kind} is not metered by Upeti and was not compared")
        return
    tier = str(result.get("service_tier") or "")
    if by_tier and tier not in _TIERS:
        report.note(f"service tier {tier!r} is not one that is known; it is compared under its own name")
    for meter, count in counts.items():
        yield ReportLine(
            place=place,
            day=day,
            accounts=_accounts(result),
            model=str(result.get("model") or ""),
            meter=meter if result.get("model") else "",
            tier=("batch" if result.get("batch") else _TIERS.get(tier, tier)) if by_tier else "",
            name=f"{kind}: {meter}",
            quantity=Decimal(count),
        )


def _tokens(result: Mapping[str, Any], place: str) -> dict[str, int]:
    inside_input = {
        m.INPUT_CACHED: _count(result, "input_cached_tokens", place),
        m.INPUT_CACHE_WRITE: _count(result, "input_cache_write_tokens", place),
        m.INPUT_AUDIO: _count(result, "input_audio_tokens", place),
    }
    inside_output = {
        m.OUTPUT_AUDIO: _count(result, "output_audio_tokens", place),
        m.OUTPUT_IMAGE: _count(result, "output_image_tokens", place),
    }
    counts = {
        # Image tokens that a model reads stay inside: they cost what text does.
        m.INPUT: _count(result, "input_tokens", place) - sum(inside_input.values()),
        **inside_input,
        m.OUTPUT: _count(result, "output_tokens", place) - sum(inside_output.values()),
        **inside_output,
    }
    for meter, count in counts.items():
        if count < 0:
            raise ReportError(f"{place}: parts of the tokens sum to more than the whole ({meter} would be {count})")
    return {meter: count for meter, count in counts.items() if count}


def _count(result: Mapping[str, Any], name: str, place: str) -> int:
    value = result.get(name) or 0
    if not isinstance(value, int) or value < 0:
        raise ReportError(f"{place}: {name} is {value!r}, not a count")
    return value
