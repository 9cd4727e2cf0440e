"""Azure's meter names → model, meter, tier, context and zone.

Rules: the naming rules and the list of meters are those of the package ``azure-genai-prices``, loaded when the first
meter is asked for; what it does not know about models is data, ``azure_meters.toml``. A name that neither knows is None.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec

from upeti.core import meters as m
from upeti.core.errors import ConfigError
from upeti.money.reconcile.lines import Nature

_TIERS: Final = {"standard": "", "batch": "batch", "priority": "priority"}
_METERS: Final = {
    ("input", "text"): m.INPUT,
    ("cache_read", "text"): m.INPUT_CACHED,
    ("cache_write", "text"): m.INPUT_CACHE_WRITE,
    ("output", "text"): m.OUTPUT,
    ("input", "audio"): m.INPUT_AUDIO,
    ("output", "audio"): m.OUTPUT_AUDIO,
    ("input", "image"): m.INPUT_IMAGE,
    ("output", "image"): m.OUTPUT_IMAGE,
}
# Pieces of a model's name that only meters of media and of fine-tuning have: such a name must stand in the data.
_UNSURE: Final = frozenset(
    {"aud", "audio", "txt", "text", "img", "image", "ft", "rft", "grader", "grdr", "rt", "rtime"}
)
_NO_MEDIA: Final = ("text-embedding",)


class AzureMeter(msgspec.Struct, frozen=True):
    """What a meter counts."""

    nature: Nature
    model: str = ""
    meter: str = ""
    tier: str = ""
    context: str = ""
    zone: str = ""
    listed: bool = True  # whether the package's list has a meter of this name


class Services(msgspec.Struct, frozen=True):
    """Under which names Azure bills models."""

    categories: frozenset[str]
    consumed: frozenset[str]
    products: tuple[str, ...]


@cache
def services() -> Services:
    data = _data()["services"]
    return Services(frozenset(data["categories"]), frozenset(data["consumed"]), tuple(data["products"]))


@cache
def meter_named(name: str, product: str = "") -> AzureMeter | None:
    """Return what a meter counts, None when the name says nothing that is known.

    Raises ``ConfigError`` when the package is not installed.
    """
    data = _data()
    lowered = name.lower()
    if any(word in lowered for word in data["capacity"]["words"]):
        return AzureMeter(Nature.CAPACITY, zone=_capacity_zone(lowered), listed=lowered in _listed())
    key = _package().parse_meter_name(name, product)
    if key is None:
        return None
    media = data["media"].get(key.model)
    if media is None and not key.model.startswith(_NO_MEDIA) and _UNSURE & set(key.model.split("-")):
        return None
    model, kind = media or (data["models"].get(key.model, key.model), "text")
    meter = _METERS.get((key.kind.value, kind))
    if meter is None:
        return None
    return AzureMeter(
        Nature.USAGE,
        model,
        meter,
        _TIERS[key.mode.value],
        key.context.value,
        key.deployment.value,
        lowered in _listed(),
    )


def _capacity_zone(name: str) -> str:
    for word, zone in (("data zone", "data_zone"), ("regional", "regional"), ("global", "global")):
        if word in name:
            return zone
    return ""


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads((files("upeti.money.reconcile") / "azure_meters.toml").read_text("utf-8"))


@cache
def _package() -> Any:
    try:
        import azure_genai_prices
    except ImportError as error:
        raise ConfigError(
            'Azure\'s meter names are read with the package azure-genai-prices: pip install "upeti[prices]"'
        ) from error
    return azure_genai_prices


@cache
def _listed() -> frozenset[str]:
    """Return the names of all meters in the list that the package ships, in small letters."""
    _package()
    text = (files("azure_genai_prices.data") / "snapshot.json").read_bytes()
    return frozenset(item["meterName"].lower() for item in msgspec.json.decode(text)["items"])
