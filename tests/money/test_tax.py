"""Taxes: dated, sourced, and each figure follows from the printed one above it."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.amount import decimal_text, parse_pico, to_decimal
from upeti.core.errors import ConfigError
from upeti.money.tax import NO_TAX, Taxes

DAY = datetime.date(2026, 10, 31)


def test_indonesian_vat_is_twelve_percent_of_eleven_twelfths_and_names_its_law() -> None:
    tax = Taxes().tax("id-ppn", DAY)
    assert tax is not None
    assert (tax.rate, tax.base, tax.status) == ("12", "11/12", "to be checked")
    assert "PMK 131/2024" in tax.reference
    base, amount = tax.of(parse_pico("1200000"), 0)
    assert (decimal_text(base), decimal_text(amount)) == ("1100000", "132000")


def test_a_tax_holds_from_its_day() -> None:
    before = Taxes().tax("id-ppn", datetime.date(2024, 12, 31))
    assert before is not None
    assert (before.rate, before.base) == ("11", "1")
    with pytest.raises(
        ConfigError, match=r"there is no tax `id-ppn` on 2022-03-31, only id-ppn, none; add a \[\[tax\]\]"
    ):
        Taxes().tax("id-ppn", datetime.date(2022, 3, 31))


def test_no_tax_is_a_choice() -> None:
    assert Taxes().tax(NO_TAX, DAY) is None


@given(net=st.integers(-(10**26), 10**26), decimals=st.integers(0, 3))
def test_the_tax_is_that_of_the_printed_base(net: int, decimals: int) -> None:
    tax = Taxes().tax("id-ppn", DAY)
    assert tax is not None
    unit = 10 ** (12 - decimals)
    net = net // unit * unit
    base, amount = tax.of(net, decimals)
    assert base % unit == amount % unit == 0
    assert abs(12 * base - 11 * net) <= 6 * unit
    assert abs(to_decimal(amount) - to_decimal(base) * Decimal("0.12")) <= to_decimal(unit) / 2
    assert tax.of(-net, decimals) == (-base, -amount)
