"""What Azure's meter names mean; every name of the list that comes along is either read or said to be unknown."""

from __future__ import annotations

from importlib.resources import files

import msgspec
import pytest

from upeti.core.meters import ALL_METERS
from upeti.money.price_book import PriceBook
from upeti.money.reconcile.azure_meters import meter_named
from upeti.money.reconcile.lines import Nature
from upeti.money.reconcile.models import same_models


@pytest.mark.parametrize(
    ("name", "product", "means"),
    [
        (
            "gpt 4o 0806 cached Inp Data Zone Tokens",
            "Azure OpenAI",
            ("gpt-4o-2024-08-06", "input_cached", "", "data_zone"),
        ),
        ("gpt 4o 1120 Batch Inp glbl Tokens", "Azure OpenAI", ("gpt-4o-2024-11-20", "input", "batch", "global")),
        (
            "5.6 terra ShortCo Cd Wr Std Gl 1M Tokens",
            "Azure OpenAI GPT5",
            ("gpt-5.6-terra", "input_cache_write", "", "global"),
        ),
        ("5.4 pp opt Gl 1M Tokens", "Azure OpenAI GPT5", ("gpt-5.4", "output", "priority", "global")),
        (
            "gpt-4o-transcribe-aud-inp-dz Tokens",
            "Azure OpenAI Media",
            ("gpt-4o-transcribe", "input_audio", "", "data_zone"),
        ),
        ("gpt img 1.5 out img DZ 1M Tokens", "Azure OpenAI Media", ("gpt-image-1.5", "output_image", "", "data_zone")),
        ("V4 Flash Inp DZ Tokens", "Azure Deepseek Models", ("deepseek-v4-flash", "input", "", "data_zone")),
    ],
)
def test_names(name: str, product: str, means: tuple[str, ...]) -> None:
    found = meter_named(name, product)
    assert found is not None
    assert (found.model, found.meter, found.tier, found.zone) == means


@pytest.mark.parametrize("name", ["Sora 720p 6-10s glbl Video", "gpt-4o-0806-FT-inp-glbl Tokens", "Standard Unit", "?"])
def test_names_that_are_not_guessed(name: str) -> None:
    assert meter_named(name, "Azure OpenAI") is None


def test_hours_are_capacity() -> None:
    found = meter_named("Provisioned Managed Data Zone Unit", "Azure OpenAI")
    assert found is not None
    assert (found.nature, found.zone) == (Nature.CAPACITY, "data_zone")


def test_every_listed_meter_is_read_or_refused() -> None:
    items = msgspec.json.decode((files("azure_genai_prices.data") / "snapshot.json").read_bytes())["items"]
    read = [found for item in items if (found := meter_named(item["meterName"], item["productName"])) is not None]
    assert len(read) > 0.6 * len(items), "the rest is fine-tuning, realtime, video, hosting by the hour"
    assert {found.meter for found in read if found.nature is Nature.USAGE} <= set(ALL_METERS)
    assert all(found.listed for found in read)


def test_meters_name_the_models_that_are_priced() -> None:
    """A model of the shipped Azure prices is billed under a meter that leads back to it."""
    items = msgspec.json.decode((files("azure_genai_prices.data") / "snapshot.json").read_bytes())["items"]
    named = {
        found.model for item in items if (found := meter_named(item["meterName"], item["productName"])) is not None
    }
    lost = []
    for row in PriceBook.shipped().rows:
        if row.part == "azure" and row.models != ("*",):
            names = same_models(named, set(row.models))
            if not any(
                (names[model] == names[one] and model != one) or model in named for model in row.models for one in named
            ):
                lost.append(row.models)
    assert lost == []
