"""The real packages beside the shipped book: nothing is left out in silence, nothing is taken that is another's."""

from __future__ import annotations

import datetime

import pytest

from upeti.core.errors import ConfigError
from upeti.money import price_import_genai
from upeti.money.price_book import Cell, PriceBook
from upeti.money.price_import import Comparison, Source, chosen, compare, price_file
from upeti.money.price_import_azure import of_azure
from upeti.money.price_import_genai import of_genai

SHIPPED = PriceBook.shipped()
DAY = datetime.date(2026, 11, 24)


@pytest.fixture(scope="module")
def genai() -> Source:
    return of_genai(SHIPPED, DAY)


@pytest.fixture(scope="module")
def azure() -> Source:
    return of_azure()


@pytest.fixture(scope="module")
def compared_azure(azure: Source) -> Comparison:
    return compare(azure, SHIPPED, DAY)


def test_the_shipped_book_says_what_genai_prices_says(genai: Source) -> None:
    compared = compare(genai, SHIPPED, DAY)
    assert not compared.differences
    assert len(compared.agree) > 300
    ours = [offer.cell for offer in compared.only_source if offer.cell.part != "azure"]
    assert not ours, "every tier and model of OpenAI and Anthropic that can be mapped is in the book"
    assert {offer.cell.tier for offer in compared.agree} == {"", "batch", "flex", "priority", "fast"}


def test_azures_silent_fall_back_to_openais_list_is_named_and_not_taken(genai: Source) -> None:
    assert genai.fallbacks["gpt-4.1"] == "openai"
    assert len(genai.fallbacks) > 50
    taken = {offer.cell.model for offer in genai.offers if offer.cell.part == "azure"}
    assert not taken & genai.fallbacks.keys()
    assert "o3-mini" in taken, "what the package says of Azure itself is taken"
    misled = {
        (one.cell.model, one.meter, one.above_input_tokens): (one.book, one.source)
        for one in compare(genai, SHIPPED, DAY).fallbacks
    }
    assert misled["gpt-5.6-luna", "input", 0] == ("1", "0.2"), "OpenAI lowered its price, Azure's list does not say so"
    assert {one.cell.part for one in compare(genai, SHIPPED, DAY).fallbacks} == {"azure"}


def test_what_cannot_be_mapped_is_named_with_its_reason(genai: Source, azure: Source) -> None:
    why = {one.name: one.why for one in genai.unmapped}
    assert why["openai: gpt-image-1"] == "no meter here counts input_image_mtok"
    assert "session" in why["openai: gpt-realtime"]
    reasons = {one.why for one in azure.unmapped}
    assert "a regional deployment: --regional takes these in" in reasons
    assert any("Provisioned Throughput Units" in one.name for one in azure.unmapped)


def test_the_shipped_book_says_what_azures_own_list_says(compared_azure: Comparison) -> None:
    assert not compared_azure.differences
    assert not compared_azure.only_source
    kinds = {(offer.cell.tier, offer.cell.zone) for offer in compared_azure.agree}
    assert kinds >= {("", ""), ("batch", ""), ("priority", ""), ("", "data_zone_eu"), ("", "data_zone_apac")}
    only_book = {(at.model, at.tier) for at, _ in compared_azure.only_book}
    assert only_book == {("*", "provisioned")}


@pytest.mark.parametrize(
    ("tier", "zone", "per_input"),
    [
        ("", "", 2_500_000),
        ("", "data_zone_us", 2_750_000),
        ("", "data_zone_eu", 2_750_000),
        ("", "data_zone_apac", 3_000_000),
        ("priority", "", 5_000_000),
        ("priority", "data_zone_eu", 5_500_000),
        ("batch", "", 1_250_000),
    ],
)
def test_gpt_54_on_azure(tier: str, zone: str, per_input: int) -> None:
    row = SHIPPED.as_of(DAY, "azure", "gpt-5.4", tier, zone)
    assert row is not None
    assert row.price.pico["input"] == per_input


def test_regional_deployments_are_zones_by_region() -> None:
    zones = {offer.cell.zone for offer in of_azure(regional=True).offers}
    assert "regional_swedencentral" in zones
    assert "data_zone_eu" in zones


def test_a_changed_price_is_a_difference_and_can_be_written_and_read_back(
    azure: Source, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As if Azure had lowered a price since the book was written."""
    folder = tmp_path_factory.mktemp("prices")
    at = Cell("azure", "gpt-5.4", "priority", "data_zone_eu")
    dearer = folder / "dearer.toml"
    offer = next(offer for offer in azure.offers if offer.cell == at)
    raised = price_file("azure", [offer]).replace("33.00", "36.00")
    dearer.write_text(raised)
    compared = compare(azure, PriceBook.load([dearer]), DAY)
    (difference,) = compared.differences
    assert (difference.cell, difference.meter, difference.book, difference.source) == (at, "output", "36", "33")
    back = folder / "back.toml"
    back.write_text(price_file("azure", chosen(compared, ["gpt-5.4"], "source", None)))
    assert not compare(azure, PriceBook.load([dearer, back]), DAY).differences


def test_every_offer_survives_being_written(
    genai: Source, azure: Source, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("all")
    for source in (genai, azure):
        for part in source.parts:
            newest = {offer.cell: offer for offer in source.offers if offer.cell.part == part}
            path = folder / f"{part}-{source.name.split()[0]}.toml"
            path.write_text(price_file(part, list(newest.values())))
            book = PriceBook.of_file(path)
            for cell, offer in newest.items():
                row = book.as_of(offer.first_day, part, cell.model, cell.tier, cell.zone)
                assert row is not None
                assert (row.price.pico, row.price.cliffs, row.facts) == (offer.pico, offer.cliffs, offer.facts)


def test_any_provider_of_the_package_can_be_asked_for() -> None:
    deepseek = of_genai(SHIPPED, DAY, ["deepseek"])
    assert {offer.cell.part for offer in deepseek.offers} == {"deepseek"}
    why = {one.name: one.why for one in deepseek.unmapped}
    assert why["deepseek: deepseek-chat"] == "its price depends on the hour of the day", "one of them would be a guess"
    with pytest.raises(ConfigError, match="no provider nobody; it has"):
        of_genai(SHIPPED, DAY, ["nobody"])


def test_without_the_package_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(price_import_genai, "import_module", missing)
    with pytest.raises(ConfigError, match="pip install"):
        of_genai(SHIPPED, DAY)
