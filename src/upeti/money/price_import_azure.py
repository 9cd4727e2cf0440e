"""What the package azure-genai-prices says (``pip install azure-genai-prices``): Azure's own retail list, meter by meter.

Rules: a price belongs to a model, a tier (standard, batch, priority) and a zone. Global deployments have the zone "";
data zones are told apart by the regions that a meter is listed for, because the same meter costs more in Asia; a
regional deployment has its region's name. A meter that says two prices for one zone at once is named, not guessed, and so
is every meter that is not understood. A row holds from the day since which all its meters have had these prices.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any, Final

from upeti.core import meters as m
from upeti.core.amount import AmountError
from upeti.core.errors import ConfigError
from upeti.money.price import Cliff
from upeti.money.price_book import Cell
from upeti.money.price_import import Offer, Source, Unmapped, pico_of
from upeti.money.price_import_genai import FREE_CACHE_WRITES_REMARK, shares_cache_writes
from upeti.wire.tiers import BATCH, PRIORITY, STANDARD

PART: Final = "azure"

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
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
_SPLIT: Final[Mapping[tuple[str, str], tuple[str, str]]] = {
    ("gpt-5-codex-ccchd", "input"): ("gpt-5-codex", m.INPUT_CACHED),
    **{(f"{name}-txt", side): (name, side) for name in _NAMES for side in (m.INPUT, m.OUTPUT)},
    **{
        (f"{name}{infix}", side): (name, f"{side}_audio")
        for name in _NAMES
        for infix in ("", "-aud")
        for side in (m.INPUT, m.OUTPUT)
        if name.startswith("aud-") != bool(infix)
    },
    ("aud-mn-txt-1215", "input"): ("aud-mn-1215", m.INPUT),
    ("aud-mn-txt-1215", "output"): ("aud-mn-1215", m.OUTPUT),
}
_KINDS: Final[Mapping[str, str]] = {
    "input": m.INPUT,
    "output": m.OUTPUT,
    "cache_read": m.INPUT_CACHED,
    "cache_write": m.INPUT_CACHE_WRITE,
}
_TIERS: Final[Mapping[str, str]] = {"standard": STANDARD, "batch": BATCH, "priority": PRIORITY}
_PER_MILLION: Final[Mapping[str, int]] = {"1K": 1000, "1M": 1}

# Which data zone a region is in ("Data Zone deployments", Azure's documentation, read 2026-11-23; the regions outside of
# Europe and the US are those that the list prices apart from both).
_ZONES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("eastus", "eastus2", "westus", "westus2", "westus3", "centralus", "northcentralus", "southcentralus"),
        "data_zone_us",
    ),
    "westcentralus": "data_zone_us",
    **dict.fromkeys(
        ("westeurope", "northeurope", "swedencentral", "francecentral", "germanywestcentral", "polandcentral"),
        "data_zone_eu",
    ),
    **dict.fromkeys(("spaincentral", "italynorth"), "data_zone_eu"),
    **dict.fromkeys(
        ("southindia", "centralindia", "jioindiawest", "japaneast", "japanwest", "koreacentral", "southeastasia"),
        "data_zone_apac",
    ),
    **dict.fromkeys(("eastasia", "australiaeast", "malaysiawest", "indonesiacentral"), "data_zone_apac"),
}
_REMARKS: Final[Mapping[str, str]] = {
    "gpt-5.6": "OpenAI has lowered its own price since; whether Azure has followed is to be checked."
}

_Dated = dict[datetime.date, set[Decimal]]
_Place = tuple[str, str, str]  # Azure's model, tier, zone
_Price = tuple[str, bool]  # meter, long context


def of_azure(*, regional: bool = False) -> Source:
    """Return what the installed package says, regional deployments only when asked for. Raises ``ConfigError``."""
    try:
        parse = import_module("azure_genai_prices.meters").parse_meter_name
        cliff_tokens = import_module("azure_genai_prices.types").DEFAULT_LONG_CONTEXT_THRESHOLD
        text = (files("azure_genai_prices.data") / "snapshot.json").read_text()
        release = version("azure-genai-prices")
    except (ImportError, PackageNotFoundError):
        raise ConfigError("azure-genai-prices is not installed; `pip install 'upeti[prices]'`") from None
    snapshot = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    read = datetime.date.fromisoformat(snapshot["fetched_at"][:10])
    unmapped: list[Unmapped] = []
    dated: dict[_Place, dict[_Price, _Dated]] = {}
    for item in snapshot["items"]:
        name = f"{item['productName']}: {item['meterName']}"
        found, why = _understood(item, parse)
        if found is None:
            unmapped.append(Unmapped(why, name))
            continue
        model, tier, deployment, price = found
        per_million = item["retailPrice"] * _PER_MILLION[item["unitOfMeasure"]]
        day = datetime.date.fromisoformat(item["effectiveStartDate"][:10])
        if deployment == "regional" and not regional:
            unmapped.append(Unmapped("a regional deployment: --regional takes these in", name))
            continue
        for zone in _zones(deployment, item.get("regions") or ()):
            if not zone:
                unmapped.append(Unmapped("a data zone's price for a region that is in none", name))
                continue
            at = (model, tier, zone.removeprefix("global"))
            dated.setdefault(at, {}).setdefault(price, {}).setdefault(day, set()).add(per_million)
    source = f"Azure retail prices of {read}, as stated by azure-genai-prices {release}"
    offers = [
        offer
        for place, prices in sorted(dated.items())
        for offer in _offers(place, prices, read, source, int(cliff_tokens), unmapped)
    ]
    return Source(f"azure-genai-prices {release}", (PART,), offers, sorted(set(unmapped)))


def _understood(item: Mapping[str, Any], parse: Any) -> tuple[tuple[str, str, str, _Price] | None, str]:
    """Return (model, tier, deployment, price) of a meter, or None and why it is not one of the book's."""
    if not item["productName"].startswith("Azure OpenAI"):
        return None, "not a model of OpenAI's: write rows of your own"
    if item["unitOfMeasure"] not in _PER_MILLION:
        return None, f"billed by {item['unitOfMeasure']}, not by token"
    key = parse(item["meterName"], item["productName"])
    if key is None:
        return None, "the package does not understand the meter's name"
    kind = _KINDS.get(key.kind.value, "")
    model, meter = _SPLIT.get((key.model, kind), (key.model, kind))
    if model not in _NAMES:
        return None, "no name is known for its model"
    if not meter:
        return None, f"no meter here counts {key.kind.value}"
    return (model, _TIERS[key.mode.value], key.deployment.value, (meter, key.context.value == "long")), ""


def _zones(deployment: str, regions: Iterable[str]) -> Iterator[str]:
    """Yield the zones of a meter; "" for a region that a data zone's price is listed for and that is in none."""
    if deployment == "global":
        yield "global"
    elif deployment == "regional":
        yield from (f"regional_{region}" for region in regions if region)
    else:
        yield from sorted({_ZONES.get(region, "") for region in regions})


def _offers(
    place: _Place,
    prices: Mapping[_Price, _Dated],
    read: datetime.date,
    source: str,
    cliff_tokens: int,
    unmapped: list[Unmapped],
) -> Iterator[Offer]:
    model, tier, zone = place
    label = " ".join(filter(None, (f"{PART}: {model}", tier, zone)))
    cells: dict[str, Decimal] = {}
    cliff: dict[str, Decimal] = {}
    first_day = datetime.date.min
    for (meter, long_context), dated in sorted(prices.items()):
        price, since = _in_force(dated, read)
        if price is None:
            unmapped.append(Unmapped("several prices for one zone at the same time", f"{label} {meter}"))
            return
        (cliff if long_context else cells)[meter] = price
        first_day = max(first_day, since)
    remark = next((text for start, text in _REMARKS.items() if model.startswith(start)), "")
    if shares_cache_writes(_NAMES[model][0], cells):
        remark = remark or FREE_CACHE_WRITES_REMARK
        for each in (cells, cliff):
            if m.INPUT in each:
                each[m.INPUT_CACHE_WRITE] = each[m.INPUT]
    if cliff and cliff.keys() != cells.keys():
        lacking = ", ".join(sorted(cliff.keys() ^ cells.keys()))
        unmapped.append(Unmapped(f"long and short context do not price the same meters ({lacking})", label))
        return
    if not cells.keys() & {m.INPUT, m.INPUT_AUDIO}:
        unmapped.append(Unmapped("no price of its input", label))
        return
    try:
        pico, past = pico_of(cells), pico_of(cliff)
    except AmountError as error:
        unmapped.append(Unmapped(str(error), label))
        return
    for name in _NAMES[model]:
        yield Offer(
            cell=Cell(PART, name, tier, zone),
            first_day=first_day,
            currency="USD",
            pico=pico,
            cliffs=(Cliff(cliff_tokens, past),) if past else (),
            source=source,
            source_date=read,
            remark=remark,
        )


def _in_force(dated: _Dated, read: datetime.date) -> tuple[Decimal | None, datetime.date]:
    """Return the price on the day the list was read and the day since which it has been that; None: there are two."""
    price: Decimal | None = None
    since = datetime.date.max
    for day in sorted(dated, reverse=True):
        if day > read:
            continue
        here = {each.normalize() for each in dated[day]}
        if price is None:
            if len(here) != 1:
                return None, day
            price, since = here.pop(), day
        elif here == {price}:
            since = day
        else:
            break
    return price, since
