"""Amounts: exact in, exact out, rounded once."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.amount import (
    PICO_PER_UNIT,
    AmountError,
    convert_pico,
    decimal_text,
    parse_pico,
    round_pico,
    to_decimal,
)

# Rp322 billion a month for a century is 4 × 10¹⁴; DECIMAL(38,12) holds 26 digits before the point.
PICOS = st.integers(min_value=-(10**38) + 1, max_value=10**38 - 1)


@pytest.mark.parametrize(
    ("text", "pico"),
    [
        ("0", 0),
        ("2.5", 2_500_000_000_000),
        ("2.50", 2_500_000_000_000),
        ("-0.000000000001", -1),
        ("322000000000", 322_000_000_000 * PICO_PER_UNIT),
        (7, 7 * PICO_PER_UNIT),
        (Decimal("0.15"), 150_000_000_000),
        ("1e-12", 1),
    ],
)
def test_a_decimal_becomes_its_pico_units(text: str | int | Decimal, pico: int) -> None:
    assert parse_pico(text) == pico


@pytest.mark.parametrize(
    "text", ["0.0000000000001", "1.1e-12", "NaN", "Infinity", "-Infinity", "", "one", "1,5", "0x10"]
)
def test_what_is_not_exact_is_refused(text: str) -> None:
    with pytest.raises(AmountError):
        parse_pico(text)


@pytest.mark.parametrize("value", [0.1, 2.0, True])
def test_a_float_never_becomes_an_amount(value: float) -> None:
    with pytest.raises(AmountError, match="write the amount as a string"):
        parse_pico(value)  # type: ignore[arg-type]


@given(PICOS)
def test_text_and_back_is_the_same_amount(pico: int) -> None:
    text = decimal_text(pico)
    assert parse_pico(text) == pico
    assert "e" not in text.lower()
    assert not ("." in text and text.endswith(("0", ".")))


@given(PICOS)
def test_the_stored_form_is_the_same_amount(pico: int) -> None:
    stored = to_decimal(pico)
    assert stored.as_tuple().exponent == -12
    assert Fraction(stored) == Fraction(pico, PICO_PER_UNIT)
    assert parse_pico(stored) == pico


@pytest.mark.parametrize(
    ("pico_text", "decimals", "rounded"),
    [
        ("0.125", 2, "0.12"),
        ("0.135", 2, "0.14"),
        ("-0.125", 2, "-0.12"),
        ("0.125000000001", 2, "0.13"),
        ("2.5", 0, "2"),
        ("3.5", 0, "4"),
        ("1.0005", 3, "1.000"),
    ],
)
def test_a_tie_goes_to_the_even_neighbour(pico_text: str, decimals: int, rounded: str) -> None:
    assert str(round_pico(parse_pico(pico_text), decimals)) == rounded


@given(PICOS, st.integers(min_value=0, max_value=12))
def test_rounding_moves_by_half_a_unit_at_most_and_ties_to_even(pico: int, decimals: int) -> None:
    unit = Fraction(1, 10**decimals)
    exact = Fraction(pico, PICO_PER_UNIT)
    rounded = Fraction(round_pico(pico, decimals))
    off = abs(rounded - exact)
    assert off <= unit / 2
    if off == unit / 2:
        assert (rounded / unit) % 2 == 0


@given(st.integers(min_value=-(10**26), max_value=10**26), st.decimals("0.000001", "99999", places=6))
def test_a_conversion_rounds_only_the_twelfth_decimal(pico: int, rate: Decimal) -> None:
    exact = Fraction(pico) * Fraction(rate)
    assert abs(convert_pico(pico, rate) - exact) <= Fraction(1, 2)


def test_the_month_of_the_story_in_rupiah() -> None:
    assert decimal_text(convert_pico(parse_pico("20000000"), Decimal("16100"))) == "322000000000"
