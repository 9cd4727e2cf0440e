"""Draft rows for the price book from published packages: a maintainer's tool, not part of Upeti.

    pip install genai-prices azure-genai-prices openai anthropic
    python tools/draft_prices.py openai            rows that say something new against the shipped book
    python tools/draft_prices.py azure --all       every row

It prints TOML. Read it against the provider's own price page, then add it to the end of
``src/upeti/providers/facts/prices/PART.toml``: rows are added, never edited. What it leaves out, and why,
goes to the standard error output.

Rules: only list prices of standard processing at the global endpoint. A model is left out when a part of what
it bills has no meter here (images made, characters, calls of tools), because a part of a cost is not a cost.
Names are exact: those in the provider's own client library and in the package's equality rules. The first day
is the day the package states; else the latest date within the model names, on which all of them existed; else
the day the list was read.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import typing
from collections.abc import Iterable, Iterator
from decimal import Decimal
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

import genai_prices.data
from genai_prices import types as genai

from upeti.core import meters as m
from upeti.core.errors import ConfigError
from upeti.money.price_book import PriceBook

METER_OF = {
    "input_mtok": m.INPUT,
    "cache_read_mtok": m.INPUT_CACHED,
    "input_audio_mtok": m.INPUT_AUDIO,
    "output_mtok": m.OUTPUT,
    "output_audio_mtok": m.OUTPUT_AUDIO,
}
# Anthropic's caller chooses between five minutes and an hour; OpenAI's default is 30 minutes.
CACHE_WRITE_METER_OF = {
    "anthropic": {"cache_write_mtok": m.INPUT_CACHE_WRITE_5M, "cache_write_1h_mtok": m.INPUT_CACHE_WRITE_1H},
    "openai": {"cache_write_mtok": m.INPUT_CACHE_WRITE},
}
# Charged per call of a tool that the request must ask for, beside the tokens; no meter counts them yet.
TOOL_KEYS = {"web_searches_kcount", "storage_searches_kcount"}
SECONDS_PER_HOUR = 3600

# "Cache writes have no additional fee on models before the GPT-5.6 family" (OpenAI, "Prompt caching", read
# 2026-11-23; the same in Azure's "Prompt caching"): written tokens are billed as the input they are.
FREE_CACHE_WRITES = re.compile(r"(gpt-4o|gpt-4\.1|gpt-5(?!\.[6-9])|o[134]|codex)")
FREE_CACHE_WRITES_REMARK = "Cache writes are billed as input: no fee of their own before GPT-5.6."

# Never drafted, whatever the package has.
LEFT_OUT = {
    "openai": {
        r"ft:|.*[.-]ft-": "fine-tuned models have the names of their owners: write rows of your own",
        r".*:|gpt-oss|gpt-5.*-image": "taken from another seller's list",
        r".*(realtime|live)": "not a call and an answer: billed by session",
        r".*tts": "speech endpoints answer without usage",
        r".*(-search|deep-research)": "billed by call of a tool beside the tokens",
        r"(gpt-4-|gpt-4$|gpt-4\.5|gpt-3\.5-turbo-(0[36]|16k|1106)|gpt-3\.5-0301)": "retired or superseded",
        r"(text-)?(ada|babbage|curie|davinci)": "retired or superseded",
        r"(o1-preview|o1-mini|chatgpt-4o|codex-mini|gpt-4o(-mini)?-audio)": "retired",
    },
    "anthropic": {r"claude-(v1|2|3|instant)": "retired"},
}
# Names that are in a client library or rule but are no models, or another seller's spelling.
NO_NAMES = re.compile(
    r"gpt-\d-\d(?!\d{3})|gpt-35|gpt-5\.1-mini$|gpt-5(\.\d)?-chat$|gpt-5\.3$|gpt-5\.5-(chat|codex)|gpt-chat-latest"
    r"|.*-high$|text-embedding-ada$|claude-(opus|sonnet)-4$|claude-opus-5-latest"
)
EXTRA_NAMES = {
    "openai": ("gpt-3.5-turbo-instruct",),
    "anthropic": (
        "claude-opus-4-0",
        "claude-opus-4-20250514",
        "claude-opus-4-1",
        "claude-opus-4-1-20250805",
        "claude-sonnet-4-0",
        "claude-sonnet-4-20250514",
    ),
}
# What packages and names do not say, from the providers' own pages.
FIRST_DAY = {
    "gpt-6-astra": datetime.date(2026, 9, 3),
    "gpt-6-luna": datetime.date(2026, 9, 22),
    "gpt-6-sol": datetime.date(2026, 9, 22),
    "gpt-6.1-sol": datetime.date(2026, 9, 29),
    "gpt-6.1-terra": datetime.date(2026, 10, 26),
    "claude-opus-4-6": datetime.date(2026, 2, 5),
    "claude-fable-5": datetime.date(2026, 6, 9),
    "claude-fable-5-1": datetime.date(2026, 9, 1),
    "claude-opus-5": datetime.date(2026, 7, 24),
}
# (names, context window, output cap): the providers' model pages; the caps also stand in litellm's table.
LIMITS: tuple[tuple[str, int | None, int | None], ...] = (
    (r"text-embedding|whisper|gpt-transcribe", None, None),  # many inputs in one call: a window bounds none
    (r"gpt-4o(-mini)?-transcribe", 16_000, 2_000),
    (r"gpt-4o-2024-05-13", 128_000, 4_096),
    (r"gpt-4o|gpt-audio", 128_000, 16_384),
    (r"gpt-4\.1", 1_047_576, 32_768),
    (r"gpt-(3\.5|35)-turbo", 16_385, 4_096),
    (r"gpt-5(\.\d)?-chat", 128_000, 16_384),
    (r"gpt-5-pro", 400_000, 272_000),
    (r"gpt-5(\.[123])?(-|$)|gpt-5\.4-(mini|nano)", 400_000, 128_000),
    (r"gpt-(5\.[456]|6|6\.1)(-(pro|luna|sol|terra|astra))?(-20|$)", 1_050_000, 128_000),
    (r"(o1|o3|o4-mini)", 200_000, 100_000),
    (r"computer-use", 8_192, 1_024),
    (r"claude-opus-4-[01]|claude-opus-4-2025", 200_000, 32_000),
    (r"claude-(sonnet-4-(0|5|2025)|opus-4-5|haiku-4-5)", 200_000, 64_000),
    (r"claude-", 1_000_000, 128_000),
)

# Azure's meters name models in their own way. A name without a date stands at the oldest snapshot still sold.
AZURE_NAMES: dict[str, tuple[str, ...]] = {
    "gpt-4o": ("gpt-4o", "gpt-4o-2024-08-06"),
    "gpt-4o-0513": ("gpt-4o-2024-05-13",),
    "gpt-4o-1120": ("gpt-4o-2024-11-20",),
    "gpt-4o-mini-0718": ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    "gpt-4.1": ("gpt-4.1", "gpt-4.1-2025-04-14"),
    "gpt-4.1-mini": ("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14"),
    "gpt-4.1-nano": ("gpt-4.1-nano", "gpt-4.1-nano-2025-04-14"),
    "gpt-35-turbo16k-0125": ("gpt-35-turbo", "gpt-35-turbo-0125", "gpt-3.5-turbo", "gpt-3.5-turbo-0125"),
    "o1-1217": ("o1", "o1-2024-12-17"),
    "o3-mini-0131": ("o3-mini", "o3-mini-2025-01-31"),
    "o3-0416": ("o3", "o3-2025-04-16"),
    "o3-pro": ("o3-pro", "o3-pro-2025-06-10"),
    "o4-mini-0416": ("o4-mini", "o4-mini-2025-04-16"),
    "gpt-5": ("gpt-5", "gpt-5-2025-08-07"),
    "gpt-5-mini": ("gpt-5-mini", "gpt-5-mini-2025-08-07"),
    "gpt-5-nano": ("gpt-5-nano", "gpt-5-nano-2025-08-07"),
    "gpt-5-chat": ("gpt-5-chat", "gpt-5-chat-latest"),
    "gpt-5-codex": ("gpt-5-codex",),
    "gpt-5-pro": ("gpt-5-pro", "gpt-5-pro-2025-10-06"),
    "gpt-5.1": ("gpt-5.1", "gpt-5.1-2025-11-13"),
    "gpt-5.1-chat": ("gpt-5.1-chat", "gpt-5.1-chat-latest"),
    "gpt-5.1-codex": ("gpt-5.1-codex",),
    "gpt-5.1-codex-max": ("gpt-5.1-codex-max",),
    "gpt-5.1-codex-mini": ("gpt-5.1-codex-mini",),
    "gpt-5.2": ("gpt-5.2", "gpt-5.2-2025-12-11"),
    "gpt-5.2-chat": ("gpt-5.2-chat", "gpt-5.2-chat-latest"),
    "gpt-5.2-codex": ("gpt-5.2-codex",),
    "gpt-5.2-pro": ("gpt-5.2-pro", "gpt-5.2-pro-2025-12-11"),
    "gpt-5.3-chat": ("gpt-5.3-chat", "gpt-5.3-chat-latest"),
    "gpt-5.3-codex": ("gpt-5.3-codex",),
    "gpt-5.4": ("gpt-5.4", "gpt-5.4-2026-03-05"),
    "gpt-5.4-mini": ("gpt-5.4-mini", "gpt-5.4-mini-2026-03-17"),
    "gpt-5.4-nano": ("gpt-5.4-nano", "gpt-5.4-nano-2026-03-17"),
    "gpt-5.4-pro": ("gpt-5.4-pro", "gpt-5.4-pro-2026-03-05"),
    "gpt-5.5": ("gpt-5.5", "gpt-5.5-2026-04-23", "gpt-5.5-2026-04-24"),
    "gpt-5.6-luna": ("gpt-5.6-luna",),
    "gpt-5.6-sol": ("gpt-5.6-sol", "gpt-5.6"),
    "gpt-5.6-terra": ("gpt-5.6-terra",),
    "aud-0828": ("gpt-audio", "gpt-audio-2025-08-28"),
    "aud-1.5": ("gpt-audio-1.5",),
    "aud-mini": ("gpt-audio-mini", "gpt-audio-mini-2025-10-06"),
    "aud-mn-1215": ("gpt-audio-mini-2025-12-15",),
    "gpt-4o-transcribe": ("gpt-4o-transcribe",),
    "gpt-4o-tcrb-d": ("gpt-4o-transcribe-diarize",),
    "gpt-4o-mini-transcribe": ("gpt-4o-mini-transcribe",),
    "computer-use": ("computer-use-preview",),
    "text-embedding-3-large": ("text-embedding-3-large",),
    "text-embedding-3-small": ("text-embedding-3-small",),
    "text-embedding-ada-002": ("text-embedding-ada-002",),
}
# Meters that Azure splits by what they count, or misspells, → the model they belong to and the meter here.
AZURE_SPLIT: dict[tuple[str, str], tuple[str, str]] = {
    ("gpt-5-codex-ccchd", "input"): ("gpt-5-codex", m.INPUT_CACHED),
    **{(f"{name}-txt", side): (name, side) for name in AZURE_NAMES for side in (m.INPUT, m.OUTPUT)},
    **{
        (f"{name}{infix}", side): (name, f"{side}_audio")
        for name in AZURE_NAMES
        for infix in ("", "-aud")
        for side in (m.INPUT, m.OUTPUT)
        if name.startswith("aud-") != bool(infix)
    },
    ("aud-mn-txt-1215", "input"): ("aud-mn-1215", m.INPUT),
    ("aud-mn-txt-1215", "output"): ("aud-mn-1215", m.OUTPUT),
}
AZURE_REMARKS = {
    r"gpt-5\.6": "OpenAI has lowered its own price since; whether Azure has followed is to be checked.",
}
AZURE_KINDS = {
    "input": m.INPUT,
    "output": m.OUTPUT,
    "cache_read": m.INPUT_CACHED,
    "cache_write": m.INPUT_CACHE_WRITE,
}

Cells = dict[str, Decimal]


class Draft(NamedTuple):
    """One row to be."""

    models: tuple[str, ...]
    first_day: datetime.date
    cells: Cells
    cliffs: dict[int, Cells]
    source: str
    source_date: datetime.date
    remark: str
    context_tokens: int | None
    output_tokens_max: int | None


def main() -> int:
    parser = argparse.ArgumentParser(description="Draft rows for the price book from published packages.")
    parser.add_argument("part", choices=("openai", "anthropic", "azure"))
    parser.add_argument("--all", action="store_true", help="every row, not only what the shipped book lacks")
    options = parser.parse_args()
    if options.part == "azure":
        drafts = list(azure_drafts())
    else:
        drafts = list(genai_drafts(options.part, datetime.datetime.now(datetime.UTC).date()))
    if not options.all:
        drafts = [draft for draft in drafts if says_something_new(options.part, draft)]
    for draft in drafts:
        print(as_toml(draft))
    print(f"{len(drafts)} rows", file=sys.stderr)
    return 0


# -- genai-prices: OpenAI and Anthropic ----------------------------------------------------------------------


def genai_drafts(part: str, read: datetime.date) -> Iterator[Draft]:
    provider = next(each for each in genai_prices.data.providers if each.id == part)
    named: dict[str, list[str]] = {}
    for name in candidate_names(part, provider):
        model = provider.find_model(name)
        if model is not None:
            named.setdefault(model.id, []).append(name)
    page = (provider.pricing_urls or ["https://developers.openai.com/api/docs/pricing"])[0]
    source = f"{page}, as stated by genai-prices {version('genai-prices')}"
    for model in provider.models:
        if model.id not in named:
            continue
        for limits, names in by_limits(named[model.id]).items():
            for first_day, prices in dated_prices(model, names, read):
                cells, cliffs, lack = cells_of(part, prices)
                if lack:
                    print(f"left out {model.id}: no meter for {lack}", file=sys.stderr)
                    continue
                remark = add_free_cache_writes(names[0], cells, cliffs)
                if model.id == "gpt-6.1-terra":  # the package's comment states it, its prices do not
                    cells[m.INPUT_CACHE_WRITE_12H] = Decimal("2.5")
                    for cliff in cliffs.values():
                        cliff[m.INPUT_CACHE_WRITE_12H] = Decimal("5")
                    remark = "The price of cache writes for 12 hours is from the package's comment on the model."
                yield Draft(tuple(names), first_day, cells, cliffs, source, read, remark, *limits)


def candidate_names(part: str, provider: genai.Provider) -> list[str]:
    names = dict.fromkeys(EXTRA_NAMES[part])
    names.update(dict.fromkeys(library_names(part)))
    for model in provider.models:
        names.update(dict.fromkeys(equal_names(model.match)))
    kept = []
    for name in names:
        reason = next((why for rule, why in LEFT_OUT[part].items() if re.match(rule, name)), "")
        if reason:
            print(f"left out {name}: {reason}", file=sys.stderr)
        elif not NO_NAMES.match(name):
            kept.append(name)
    return kept


def library_names(part: str) -> Iterator[str]:
    """Names that the provider's own client library knows."""
    if part == "openai":
        from openai.types import EmbeddingModel, audio_model
        from openai.types.shared import all_models

        yield from literals(all_models.AllModels)
        yield from literals(EmbeddingModel)
        yield from literals(audio_model.AudioModel)
    else:
        from anthropic.types import model

        yield from literals(model.Model)


def literals(hint: Any) -> Iterator[str]:
    for argument in typing.get_args(hint):
        if isinstance(argument, str):
            yield argument
        else:
            yield from literals(argument)


def equal_names(match: Any) -> Iterator[str]:
    if isinstance(match, genai.ClauseEquals):
        yield match.equals
    elif isinstance(match, genai.ClauseOr):
        for clause in match.or_:
            yield from equal_names(clause)


def by_limits(names: Iterable[str]) -> dict[tuple[int | None, int | None], list[str]]:
    groups: dict[tuple[int | None, int | None], list[str]] = {}
    for name in names:
        limits = next(((window, cap) for rule, window, cap in LIMITS if re.match(rule, name)), (None, None))
        groups.setdefault(limits, []).append(name)
    return groups


def dated_prices(
    model: genai.ModelInfo, names: list[str], read: datetime.date
) -> Iterator[tuple[datetime.date, genai.ModelPrice]]:
    conditional = model.prices
    if isinstance(conditional, genai.ModelPrice):
        yield first_day_of(names) or read, conditional
        return
    for condition in conditional:
        if condition.constraint is None:
            # Without a day on which it began, a price that no longer holds is of no use.
            first_day = first_day_of(names)
            # The package has o3's later discount on cached input in its first weeks' price.
            if first_day and model.id != "o3":
                yield first_day, condition.prices
        elif isinstance(condition.constraint, genai.StartDateConstraint):
            yield condition.constraint.start_date, condition.prices


def first_day_of(names: list[str]) -> datetime.date | None:
    days = [FIRST_DAY[name] for name in names if name in FIRST_DAY]
    for name in names:
        found = re.search(r"-(20\d\d)-?(\d\d)-?(\d\d)$", name)
        if found:
            days.append(datetime.date(int(found[1]), int(found[2]), int(found[3])))
    return max(days, default=None)


def cells_of(part: str, prices: genai.ModelPrice) -> tuple[Cells, dict[int, Cells], str]:
    """Return prices per million units, those past each cliff, and the name of what has no meter."""
    meter_of = METER_OF | CACHE_WRITE_METER_OF[part]
    cells: Cells = {}
    cliffs: dict[int, Cells] = {}
    for key, price in vars(prices).items():
        if price is None or key in TOOL_KEYS or key == "input_audio_hours":
            continue
        if key == "audio_hours":
            cells[m.AUDIO_SECONDS] = price * 10**6 / SECONDS_PER_HOUR
        elif key not in meter_of:
            return {}, {}, key
        elif isinstance(price, genai.TieredPrices):
            cells[meter_of[key]] = price.base
            for tier in price.tiers:
                cliffs.setdefault(tier.start, {})[meter_of[key]] = tier.price
        else:
            cells[meter_of[key]] = price
    for cliff in cliffs.values():
        for meter, price in cells.items():
            cliff.setdefault(meter, price)
    return cells, cliffs, "" if cells else "anything"


def add_free_cache_writes(name: str, cells: Cells, cliffs: dict[int, Cells]) -> str:
    if m.INPUT_CACHED not in cells or m.INPUT_CACHE_WRITE in cells or not FREE_CACHE_WRITES.match(name):
        return ""
    for each in (cells, *cliffs.values()):
        each[m.INPUT_CACHE_WRITE] = each[m.INPUT]
    return FREE_CACHE_WRITES_REMARK


# -- azure-genai-prices: Azure's own retail list -------------------------------------------------------------


def azure_drafts() -> Iterator[Draft]:
    from azure_genai_prices.meters import parse_meter_name
    from azure_genai_prices.types import DEFAULT_LONG_CONTEXT_THRESHOLD

    text = (files("azure_genai_prices.data") / "snapshot.json").read_text()
    snapshot = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    # (model, meter, long context) → first day → price per million
    dated: dict[tuple[str, str, bool], dict[datetime.date, set[Decimal]]] = {}
    for item in snapshot["items"]:
        key = parse_meter_name(item["meterName"], item["productName"])
        if (
            not item["productName"].startswith("Azure OpenAI")
            or key is None
            or key.deployment != "global"
            or key.mode != "standard"
        ):
            continue
        kind = AZURE_KINDS.get(key.kind.value, "")
        model, meter = AZURE_SPLIT.get((key.model, kind), (key.model, kind))
        if model not in AZURE_NAMES or not meter:
            continue
        per_million = item["retailPrice"] * {"1K": 1000, "1M": 1}[item["unitOfMeasure"]]
        day = datetime.date.fromisoformat(item["effectiveStartDate"][:10])
        days = dated.setdefault((model, meter, key.context == "long"), {})
        days.setdefault(day, set()).add(per_million)
    fetched = datetime.date.fromisoformat(snapshot["fetched_at"][:10])
    source = (
        f"Azure retail prices of {fetched}, global standard meters, "
        f"as stated by azure-genai-prices {version('azure-genai-prices')}"
    )
    for model, names in AZURE_NAMES.items():
        cells: Cells = {}
        cliff: Cells = {}
        first_days = []
        for (of, meter, long_context), days in dated.items():
            if of == model:
                price = one_price(model, meter, days)
                (cliff if long_context else cells)[meter] = price
                first_days.append(min(days))
        cliffs = {DEFAULT_LONG_CONTEXT_THRESHOLD: cliff} if cliff else {}
        remark = add_free_cache_writes(names[0], cells, cliffs)
        remark = next((text for rule, text in AZURE_REMARKS.items() if re.match(rule, model)), remark)
        limits = next(iter(by_limits(names)))
        yield Draft(names, max(first_days), cells, cliffs, source, fetched, remark, *limits)


def one_price(model: str, meter: str, days: dict[datetime.date, set[Decimal]]) -> Decimal:
    """Azure lists a meter once per region and change. All say the same up to now; else a person looks."""
    prices = {price.normalize() for each in days.values() for price in each}
    if len(prices) != 1:
        raise SystemExit(f"{model}, {meter}: several prices {days}; write these rows by hand")
    return prices.pop()


# -- rows ----------------------------------------------------------------------------------------------------


def says_something_new(part: str, draft: Draft) -> bool:
    """Whether the shipped book has another price, or none, for a model of the row on the row's first day."""
    book = PriceBook.shipped()
    for model in draft.models:
        held = [row for row in book.rows if row.part == part and model in row.models]
        held = [row for row in held if row.effective <= max(draft.first_day, draft.source_date)]
        newest = max(held, key=lambda row: row.effective, default=None)
        if newest is None:
            return True
        if newest.effective > draft.first_day:
            continue
        cliffs = {at.above_input_tokens: at.pico for at in newest.price.cliffs}
        drafted_cliffs = {above: pico_of(cells) for above, cells in draft.cliffs.items()}
        if (newest.price.pico, cliffs) != (pico_of(draft.cells), drafted_cliffs):
            return True
    return False


def pico_of(cells: Cells) -> dict[str, int]:
    return {meter: int(price * 10**6) for meter, price in cells.items()}


def as_toml(draft: Draft) -> str:
    lines = [
        "[[price]]",
        f"models = {json.dumps(list(draft.models))}",
        f"from = {draft.first_day}",
        'currency = "USD"',
        f"per_million = {cells_text(draft.cells)}",
    ]
    if draft.cliffs:
        lines.append("cliffs = [")
        for above, cells in sorted(draft.cliffs.items()):
            lines.append(f"    {{ above_input_tokens = {above}, per_million = {cells_text(cells)} }},")
        lines.append("]")
    if draft.context_tokens:
        lines.append(f"context_tokens = {draft.context_tokens}")
    if draft.output_tokens_max:
        lines.append(f"output_tokens_max = {draft.output_tokens_max}")
    lines.append(f"source = {json.dumps(draft.source, ensure_ascii=False)}")
    lines.append(f"source_date = {draft.source_date}")
    if draft.remark:
        lines.append(f"remark = {json.dumps(draft.remark, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def cells_text(cells: Cells) -> str:
    ordered = [meter for meter in m.ALL_METERS if meter in cells]
    return "{ " + ", ".join(f'{meter} = "{price_text(cells[meter])}"' for meter in ordered) + " }"


def price_text(price: Decimal) -> str:
    """At least two decimals, as price lists are written: 2.5 → 2.50."""
    text = format(price.normalize(), "f")
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals:0<2}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigError as error:
        sys.exit(str(error))
