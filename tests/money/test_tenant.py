"""Tenants as data: dated rows, the most particular terms, mistakes with line and cure."""

from __future__ import annotations

import datetime
from fractions import Fraction
from pathlib import Path

import pytest

from upeti.core.errors import ConfigError
from upeti.money.tenant import Tenants

EXAMPLE = Path(__file__).parents[2] / "examples" / "tenants.toml"
DAY = datetime.date(2026, 10, 31)


def load(folder: Path, text: str) -> Tenants:
    path = folder / "tenants.toml"
    path.write_text(text)
    return Tenants.load(path)


def test_the_example_is_sound() -> None:
    tenants = Tenants.load(EXAMPLE)
    assert tenants.names() == ["feed", "orchard", "warung"]
    warung = tenants.tenant("warung", DAY)
    assert (warung.billing_currency, warung.bills_to_decimals, warung.pays_in) == ("IDR", 0, "IDR")
    orchard = tenants.tenant("orchard", DAY)
    assert (orchard.bills_to_decimals, orchard.pays_in, orchard.pays_to_decimals) == (2, "JPY", 0)
    assert tenants.parent("orchard", DAY) == "Example Orchard Holdings"
    assert tenants.parent("warung", DAY) == "warung"
    assert tenants.parent("nobody", DAY) == "nobody"


@pytest.mark.parametrize(
    ("model", "feature", "factor"),
    [("gpt-4.1", "search", "1.08"), ("o3", "search", "1.125"), ("gpt-4.1", "caption", "1.08")],
)
def test_the_most_particular_margin_decides(model: str, feature: str, factor: str) -> None:
    terms = Tenants.load(EXAMPLE).terms("warung", DAY)
    assert terms.of(DAY, "azure", model, feature) == (None, Fraction(factor))


def test_own_prices_stand_before_a_margin_of_less_particular_scope() -> None:
    price, factor = Tenants.load(EXAMPLE).terms("warung", DAY).of(DAY, "azure", "gpt-4.1-mini", "caption")
    assert factor is None
    assert price is not None
    assert price.unit("input") == 8_000 * 10**6  # pico of a rupiah for one token
    assert price.unit("output_audio") is None


def test_terms_for_every_tenant_hold_where_one_has_none() -> None:
    assert Tenants.load(EXAMPLE).terms("orchard", DAY).of(DAY, "azure", "m", "f") == (None, Fraction("1.15"))


def test_an_internal_tenant_pays_cost() -> None:
    assert Tenants.load(EXAMPLE).terms("feed", DAY).of(DAY, "azure", "m", "f") == (None, 1)


def test_a_newer_row_holds_from_its_day(tmp_path: Path) -> None:
    newer = '\n[[margin]]\ntenant = "*"\nfrom = 2026-10-16\npercent = "20"\n'
    terms = load(tmp_path, EXAMPLE.read_text() + newer).terms("orchard", DAY)
    assert terms.of(datetime.date(2026, 10, 15), "azure", "m", "f") == (None, Fraction("1.15"))
    assert terms.of(datetime.date(2026, 10, 16), "azure", "m", "f") == (None, Fraction("1.2"))


def test_no_terms_is_an_error_that_says_what_to_add(tmp_path: Path) -> None:
    text = EXAMPLE.read_text().partition("# For every tenant without")[0]
    with pytest.raises(
        ConfigError, match=r"orchard has no terms for channel azure, model m, feature \(none\) on .*\[\[margin\]\]"
    ):
        load(tmp_path, text).terms("orchard", DAY).of(DAY, "azure", "m", "")


def test_a_tenant_that_is_not_there_yet_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tenant `warung` on 2025-12-31, the first row is from 2026-01-01"):
        Tenants.load(EXAMPLE).tenant("warung", datetime.date(2025, 12, 31))
    with pytest.raises(ConfigError, match=r"there is no tenant `kios`; add a \[\[tenant\]\]"):
        Tenants.load(EXAMPLE).tenant("kios", DAY)


def test_a_commitment_counts_from_the_month_that_begins_on_it() -> None:
    tenants = Tenants.load(EXAMPLE)
    assert tenants.commitment("warung", datetime.date(2025, 12, 1)) is None
    found = tenants.commitment("warung", datetime.date(2026, 10, 1))
    assert found is not None
    assert found.minimum == "500"
    assert tenants.commitment("orchard", datetime.date(2026, 10, 1)) is None


@pytest.mark.parametrize(
    ("was", "wrong", "message"),
    [
        ('billing_currency = "IDR"', 'billing_currency = "XXQ"', "there is no currency XXQ; write its ISO 4217 code"),
        ("billing_decimals = 0", "billing_decimals = 3", "IDR has 2 decimals; fewer can be chosen, not 3"),
        ('tax = "id-ppn"', 'tax = "id-vat"', r"there is no tax id-vat; choose from id-ppn, none, or add a \[\[tax\]\]"),
        ('tax = "id-ppn"', "", "`tax` is missing; choose from id-ppn, none"),
        ("internal = true", 'internal = true\ntax = "id-ppn"', "an internal tenant has no tax"),
        ('issuer = "contoh-awan"', 'issuer = "contoh"', r"there is no issuer contoh; add an \[\[issuer\]\]"),
        ('time_zone = "Asia/Jakarta"', 'time_zone = "WIB"', "there is no time zone WIB; write one like Asia/Jakarta"),
        ('percent = "12.5"', 'percent = "-100.5"', "a margin of -100.5 % is a price below zero"),
        ('percent = "12.5"', "percent = 12.5", "write it in quotes"),
        ("input_cached =", "input_cold =", "input_cold is not a meter; the meters are: input"),
        ('tenant = "*"', 'tenant = "kios"', "there is no tenant kios; the tenants are: feed, orchard, warung"),
        ('model = "gpt-4.1"\npercent', "percent", r"a second \[\[margin\]\] for the same from 2026-01-01, after line"),
        ('name = "warung"', 'name = "*"', r"stands for every tenant; give the tenant a name"),
        (
            "[[commitment]]",
            "[[comitment]]",
            r"`comitment` is not known here; there are: \[\[issuer\]\], \[\[tenant\]\]",
        ),
    ],
)
def test_mistakes_are_named_with_place_and_cure(tmp_path: Path, was: str, wrong: str, message: str) -> None:
    text = EXAMPLE.read_text()
    assert was in text
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text.replace(was, wrong, 1))
    assert "tenants.toml" in str(caught.value)


def test_two_issuers_have_two_series(tmp_path: Path) -> None:
    head = EXAMPLE.read_text().partition("# A customer in")[0]
    other = head[head.index("[[issuer]]") :].replace('name = "contoh-awan"', 'name = "other"', 1)
    with pytest.raises(ConfigError, match="series UPT is other's too; numbers of two issuers must differ"):
        load(tmp_path, EXAMPLE.read_text() + other)
