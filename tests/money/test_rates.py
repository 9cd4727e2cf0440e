"""Exchange rates: dated, sourced, hashed, and none that is made up."""

from __future__ import annotations

import datetime
import hashlib
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from upeti.core.amount import convert_pico, decimal_text, parse_pico
from upeti.core.errors import ConfigError
from upeti.money.rates import Rates

DAY = datetime.date(2026, 11, 23)

OWN = """
base = "USD"

[[rate]]
currency = "EUR"
rate = "0.86"
date = 2026-10-01
source = "central bank, reference rates"

[[rate]]
currency = "EUR"
rate = "0.875"
date = 2026-07-01
source = "central bank, reference rates"
"""


def own_rates(folder: Path, text: str = OWN) -> Rates:
    path = folder / "rates.toml"
    path.write_text(text)
    return Rates.load(path)


def test_the_shipped_rupiah_is_the_one_of_the_story_and_says_so() -> None:
    rate = Rates.load().rate("IDR", DAY)
    assert (rate.base, rate.currency, rate.rate) == ("USD", "IDR", Decimal(16100))
    assert "not a market rate" in rate.source
    assert decimal_text(convert_pico(parse_pico("20000000"), rate.rate)) == "322000000000"


def test_the_base_is_worth_itself() -> None:
    assert Rates.load().rate("USD", DAY).rate == 1


def test_the_newest_rate_in_force_holds(tmp_path: Path) -> None:
    rates = own_rates(tmp_path)
    assert rates.rate("EUR", datetime.date(2026, 9, 30)).rate == Decimal("0.875")
    found = rates.rate("EUR", datetime.date(2026, 10, 1))
    assert (found.rate, found.date) == (Decimal("0.86"), datetime.date(2026, 10, 1))


def test_a_rate_names_the_file_it_came_from_by_hash(tmp_path: Path) -> None:
    rates = own_rates(tmp_path)
    sha256 = hashlib.sha256((tmp_path / "rates.toml").read_bytes()).hexdigest()
    assert rates.rate("EUR", DAY).set_sha256 == sha256
    assert rates.rate("USD", DAY).set_sha256 == sha256


def test_a_file_of_ones_own_stands_in_place_of_the_shipped_one(tmp_path: Path) -> None:
    rates = own_rates(tmp_path)
    assert rates.currencies() == ["EUR", "USD"]
    with pytest.raises(ConfigError, match=r"no rate for IDR, only for EUR, USD; write a \[\[rate\]\]"):
        rates.rate("IDR", DAY)


def test_no_rate_is_used_before_its_day(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rate for EUR on 2026-06-30, the first one is of 2026-07-01"):
        own_rates(tmp_path).rate("EUR", datetime.date(2026, 6, 30))


@pytest.mark.parametrize(
    ("was", "wrong", "message"),
    [
        ('"0.86"', "0.86", "write it in quotes"),
        ('"0.86"', '"0"', "EUR has a rate of zero"),
        ('"0.86"', '"-1"', "plain decimals"),
        ('"EUR"', '"USD"', "USD is the base"),
        ('"EUR"', '"Euro"', "three capitals"),
        ("source =", "sources =", "the fields are: currency, rate, date, source"),
    ],
)
def test_a_wrong_row_is_refused_with_file_line_and_cure(tmp_path: Path, was: str, wrong: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        own_rates(tmp_path, OWN.replace(was, wrong, 1))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'rates.toml'}:4: row 1: ")


def test_two_rates_for_a_day_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"toml:10: row 2: EUR has a rate from 2026-10-01 in line 4 already"):
        own_rates(tmp_path, OWN.replace("2026-07-01", "2026-10-01"))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="check the path and its permissions"):
        Rates.load(tmp_path / "none.toml")


def test_an_empty_path_is_no_path() -> None:
    assert Rates.load("").sha256 == Rates.load(None).sha256


def test_a_conversion_is_exact_and_names_the_rates_it_is_of(tmp_path: Path) -> None:
    row = '\n[[rate]]\ncurrency = "IDR"\nrate = "16100"\ndate = 2026-01-01\nsource = "test"\n'
    rates = own_rates(tmp_path, OWN + row)
    across = rates.conversion("EUR", "IDR", DAY)
    assert across.factor == Fraction(16100) / Fraction("0.86")
    assert [rate.currency for rate in across.rates] == ["EUR", "IDR"]
    assert rates.conversion("USD", "IDR", DAY).factor == 16100
    assert rates.conversion("IDR", "USD", DAY).factor == Fraction(1, 16100)
    assert rates.conversion("EUR", "EUR", DAY).rates == ()
    assert rates.conversion("EUR", "EUR", DAY).factor == 1
