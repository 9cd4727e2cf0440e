"""What the package genai-prices says (``pip install genai-prices``), in the words of the book.

Rules: a model is left out, and named, when a part of what it bills has no meter here (images made, characters, calls of
tools), because a part of a cost is not a cost. Names are exact: the package's equality rules, and names that the book
has. The first day is the day the package states; else the latest date within the model names, on which all of them
existed; else the day it was read. A price that the package takes from another provider's list is no price of this one:
for Azure it falls back to OpenAI's without saying so.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from upeti.core import meters as m
from upeti.core.amount import AmountError
from upeti.core.errors import ConfigError
from upeti.money.price import Cliff
from upeti.money.price_book import ANY_MODEL, Cell, ModelFacts, PriceBook
from upeti.money.price_import import Offer, PerMillion, Source, Unmapped, pico_of
from upeti.wire.tiers import BATCH, FAST, FLEX, PRIORITY

PARTS: Final = (
    "openai",
    "anthropic",
    "azure",
)  # of the shipped book; any other provider of the package can be asked for

_METER_OF: Final = {
    "input_mtok": m.INPUT,
    "cache_read_mtok": m.INPUT_CACHED,
    "input_audio_mtok": m.INPUT_AUDIO,
    "output_mtok": m.OUTPUT,
    "output_audio_mtok": m.OUTPUT_AUDIO,
}
# Anthropic's caller chooses between five minutes and an hour; OpenAI's default is 30 minutes.
_CACHE_WRITE_METER_OF: Final = {
    "anthropic": {"cache_write_mtok": m.INPUT_CACHE_WRITE_5M, "cache_write_1h_mtok": m.INPUT_CACHE_WRITE_1H},
    "openai": {"cache_write_mtok": m.INPUT_CACHE_WRITE},
    "azure": {"cache_write_mtok": m.INPUT_CACHE_WRITE},
}
# Charged per call of a tool that the request must ask for, beside the tokens; no meter counts them yet.
_TOOL_KEYS: Final = frozenset({"web_searches_kcount", "storage_searches_kcount", "input_audio_hours"})
_SECONDS_PER_HOUR: Final = 3600

# Which tier a variant is. "fast" of OpenAI is another name of "priority", at the same price.
_TIER_OF: Final[Mapping[tuple[str, str], str]] = {
    ("service_tier", "priority"): PRIORITY,
    ("service_tier", "flex"): FLEX,
    ("processing", "batch"): BATCH,
    ("speed", "fast"): FAST,
}
_SAME_AS_ANOTHER: Final = frozenset({("service_tier", "default"), ("service_tier", "fast")})

# "Cache writes have no additional fee on models before the GPT-5.6 family" (OpenAI, "Prompt caching", read
# 2026-11-23; the same in Azure's "Prompt caching"): written tokens are billed as the input they are.
_FREE_CACHE_WRITES: Final = re.compile(r"(gpt-4o|gpt-4\.1|gpt-5(?!\.[6-9])|o[134]|codex)")
FREE_CACHE_WRITES_REMARK: Final = "Cache writes are billed as input: no fee of their own before GPT-5.6."

# Not mapped, whatever the package has.
_LEFT_OUT: Final[Mapping[str, Mapping[str, str]]] = {
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
    "azure": {
        r"(ada|babbage|curie|davinci|o1-preview|o1-mini)": "retired or superseded",
        r".*:free": "another seller's list",
    },
}
# Names that are in a rule but are no models, or another seller's spelling.
_NO_NAMES: Final = re.compile(
    r"gpt-\d-\d(?!\d{3})|gpt-35|gpt-5\.1-mini$|gpt-5(\.\d)?-chat$|gpt-5\.3$|gpt-5\.5-(chat|codex)|gpt-chat-latest"
    r"|.*-high$|text-embedding-ada$|claude-(opus|sonnet)-4$|claude-opus-5-latest"
)
# What package and names do not say, from the providers' own pages.
_FIRST_DAY: Final = {
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
# A package's comment states what its prices do not: cache writes for twelve hours.
_CACHE_WRITE_12H: Final = {"gpt-6.1-terra": (Decimal("2.5"), Decimal(5))}
_CACHE_WRITE_12H_REMARK: Final = "The price of cache writes for 12 hours is from the package's comment on the model."


def of_genai(book: PriceBook, read: datetime.date, parts: Iterable[str] = PARTS) -> Source:
    """Return what the installed package says of ``parts``. Raises ``ConfigError`` when it is not installed."""
    try:
        providers = import_module("genai_prices.data").providers
        release = version("genai-prices")
    except (ImportError, PackageNotFoundError):
        raise ConfigError("genai-prices is not installed; `pip install 'upeti[prices]'`") from None
    reading = _Reading(providers, release, read)
    parts = tuple(parts)
    known = sorted(each.id for each in providers)
    for part in parts:
        if part not in known:
            raise ConfigError(f"genai-prices has no provider {part}; it has {', '.join(known)}")
        reading.read(part, book)
    offers, unmapped = reading.offers, sorted(set(reading.unmapped))
    name = f"genai-prices {release}"
    return Source(name, parts, offers, unmapped, reading.fallbacks, reading.fallback_offers)


class _Reading:
    def __init__(self, providers: list[Any], release: str, read: datetime.date) -> None:
        self.offers: list[Offer] = []
        self.unmapped: list[Unmapped] = []
        self.fallbacks: dict[str, str] = {}
        self.fallback_offers: list[Offer] = []
        self._providers = providers
        self._release = release
        self._read = read

    def read(self, part: str, book: PriceBook) -> None:
        provider = next(each for each in self._providers if each.id == part)
        named: dict[str, list[str]] = {}
        for name in self._names(part, provider, book):
            model = provider.find_model(name)
            if model is not None:
                named.setdefault(model.id, []).append(name)
            elif (other := self._other(provider, name)) is not None:
                self.fallbacks[name] = other[0]
                self._fall_back(part, name, *other)
        page = (
            provider.pricing_urls or ["https://developers.openai.com/api/docs/pricing" if part == "openai" else part]
        )[0]
        source = f"{page}, as stated by genai-prices {self._release}"
        for model in provider.models:
            names = named.get(model.id)
            if names is not None:
                self._model(part, model, names, source)
            elif not any(re.match(rule, model.id) for rule in _LEFT_OUT.get(part, {})):
                self.unmapped.append(
                    Unmapped("no exact name: the package matches it by a pattern", f"{part}: {model.id}")
                )

    def _names(self, part: str, provider: Any, book: PriceBook) -> Iterator[str]:
        names = dict.fromkeys(name for name in book.models(part) if name != ANY_MODEL)
        for model in provider.models:
            names.update(dict.fromkeys(_equal_names(model.match)))
        for name in names:
            reason = next((why for rule, why in _LEFT_OUT.get(part, {}).items() if re.match(rule, name)), "")
            if reason:
                self.unmapped.append(Unmapped(reason, f"{part}: {name}"))
            elif name in book.models(part) or not _NO_NAMES.match(name):
                yield name

    def _other(self, provider: Any, name: str) -> tuple[str, Any] | None:
        """Return the provider whose price the package would give for a model that it has none of here, and the model."""
        if not provider.fallback_model_providers:
            return None
        found = provider.find_model(name, all_providers=self._providers)
        whose = next((each.id for each in self._providers if found is not None and found in each.models), None)
        return None if whose is None else (whose, found)

    def _fall_back(self, part: str, name: str, whose: str, model: Any) -> None:
        """Keep what the package would give, apart from what it says."""
        offers, unmapped = self.offers, self.unmapped
        self.offers, self.unmapped = [], []
        for first_day, prices in _dated_prices(model, [name], self._read):
            self._offer(part, model, [name], "", first_day, prices, f"{whose}'s list, given in silence")
        self.fallback_offers += self.offers
        self.offers, self.unmapped = offers, unmapped

    def _model(self, part: str, model: Any, names: list[str], source: str) -> None:
        if any(hasattr(one.constraint, "start_time") for one in _conditions(model)):
            self.unmapped.append(Unmapped("its price depends on the hour of the day", f"{part}: {model.id}"))
            return
        standard = None
        for first_day, prices in _dated_prices(model, names, self._read):
            standard = self._offer(part, model, names, "", first_day, prices, source)
        for variant in model.price_variants or ():
            when = tuple(variant.when.items())
            if len(when) == 1 and when[0] in _SAME_AS_ANOTHER:
                continue
            tier = _TIER_OF.get(when[0], "") if len(when) == 1 else ""
            if not tier:
                self.unmapped.append(
                    Unmapped("a variant that is no tier of the book", f"{part}: {model.id} {variant.when}")
                )
                continue
            first_day = getattr(variant.constraint, "start_date", None) or standard or self._read
            self._offer(part, model, names, tier, first_day, variant.prices, source)

    def _offer(
        self, part: str, model: Any, names: list[str], tier: str, first_day: datetime.date, prices: Any, source: str
    ) -> datetime.date:
        label = f"{part}: {model.id}" + (f" {tier}" if tier else "")
        cells, cliffs, lack = _cells_of(part, prices)
        if lack:
            self.unmapped.append(Unmapped(f"no meter here counts {lack}", label))
            return first_day
        remark = ""
        if part in PARTS and shares_cache_writes(names[0], cells):
            remark = FREE_CACHE_WRITES_REMARK
            for each in (cells, *cliffs.values()):
                each[m.INPUT_CACHE_WRITE] = each[m.INPUT]
        if model.id in _CACHE_WRITE_12H and not tier:
            below, past = _CACHE_WRITE_12H[model.id]
            cells[m.INPUT_CACHE_WRITE_12H] = below
            for cliff in cliffs.values():
                cliff[m.INPUT_CACHE_WRITE_12H] = past
            remark = _CACHE_WRITE_12H_REMARK
        try:
            pico = pico_of(cells)
            steps = tuple(Cliff(above, pico_of(cliffs[above])) for above in sorted(cliffs))
        except AmountError as error:
            self.unmapped.append(Unmapped(str(error), label))
            return first_day
        self.offers += [
            Offer(
                cell=Cell(part, name, tier, ""),
                first_day=first_day,
                currency="USD",
                pico=pico,
                cliffs=steps,
                source=source,
                source_date=self._read,
                remark=remark,
                facts=ModelFacts() if tier else ModelFacts(model.context_window or None),
            )
            for name in names
        ]
        return first_day


def _equal_names(match: Any) -> Iterator[str]:
    if hasattr(match, "equals"):
        yield match.equals
    for clause in getattr(match, "or_", ()):
        yield from _equal_names(clause)


def _conditions(model: Any) -> list[Any]:
    prices = model.prices if isinstance(model.prices, list) else []
    return [*prices, *(model.price_variants or ())]


def _dated_prices(model: Any, names: list[str], read: datetime.date) -> Iterator[tuple[datetime.date, Any]]:
    conditional = model.prices
    if not isinstance(conditional, list):
        yield _first_day_of(names) or read, conditional
        return
    for condition in conditional:
        if condition.constraint is None:
            # Without a day on which it began, a price that no longer holds is of no use.
            first_day = _first_day_of(names)
            # The package has o3's later discount on cached input in its first weeks' price.
            if first_day and model.id != "o3":
                yield first_day, condition.prices
        elif hasattr(condition.constraint, "start_date"):
            yield condition.constraint.start_date, condition.prices


def _first_day_of(names: list[str]) -> datetime.date | None:
    days = [_FIRST_DAY[name] for name in names if name in _FIRST_DAY]
    for name in names:
        found = re.search(r"-(20\d\d)-?(\d\d)-?(\d\d)$", name)
        if found:
            days.append(datetime.date(int(found[1]), int(found[2]), int(found[3])))
    return max(days, default=None)


def _cells_of(part: str, prices: Any) -> tuple[dict[str, Decimal], dict[int, dict[str, Decimal]], str]:
    """Return prices per million units, those past each cliff, and the name of what has no meter."""
    meter_of = _METER_OF | _CACHE_WRITE_METER_OF.get(part, _CACHE_WRITE_METER_OF["openai"])
    cells: dict[str, Decimal] = {}
    cliffs: dict[int, dict[str, Decimal]] = {}
    for key, price in vars(prices).items():
        if price is None or key in _TOOL_KEYS:
            continue
        if key == "audio_hours":
            cells[m.AUDIO_SECONDS] = price * 10**6 / _SECONDS_PER_HOUR
        elif key not in meter_of:
            return {}, {}, key
        elif hasattr(price, "tiers"):
            cells[meter_of[key]] = price.base
            for tier in price.tiers:
                cliffs.setdefault(tier.start, {})[meter_of[key]] = tier.price
        else:
            cells[meter_of[key]] = price
    for cliff in cliffs.values():
        for meter, price in cells.items():
            cliff.setdefault(meter, price)
    return cells, cliffs, "" if cells else "anything"


def shares_cache_writes(name: str, cells: PerMillion) -> bool:
    """Tell whether what is written to a cache is billed as the input it is."""
    return m.INPUT_CACHED in cells and m.INPUT_CACHE_WRITE not in cells and bool(_FREE_CACHE_WRITES.match(name))
