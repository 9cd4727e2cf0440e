from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from upeti.core.amount import apportion_pico, parse_pico, round_fraction, round_pico, to_decimal


def test_the_missing_unit_goes_to_the_largest_remainder() -> None:
    lines = [parse_pico(text) for text in ("0.334", "0.333", "0.333")]
    assert apportion_pico(lines, 2) == [Decimal("0.34"), Decimal("0.33"), Decimal("0.33")]
    assert apportion_pico([parse_pico("1.5"), parse_pico("2.4")], 0) == [Decimal(2), Decimal(2)]
    assert apportion_pico([], 2) == []


@given(st.lists(st.integers(-(10**30), 10**30), max_size=20), st.sampled_from([0, 2, 3, 12]))
def test_lines_sum_to_their_rounded_total_and_none_is_off_by_a_unit(lines: list[int], decimals: int) -> None:
    rounded = apportion_pico(lines, decimals)
    with localcontext() as context:
        context.prec = 60
        assert sum(rounded, Decimal(0)) == round_pico(sum(lines), decimals)
        for line, shown in zip(lines, rounded, strict=True):
            assert abs(to_decimal(line) - shown) < Decimal(1).scaleb(-decimals)


@given(st.lists(st.fractions(-(10**24), 10**24), max_size=20), st.integers(0, 3))
def test_parts_of_a_pico_are_apportioned_too(lines: list[Fraction], decimals: int) -> None:
    unit = 10 ** (12 - decimals)
    rounded = [parse_pico(amount) for amount in apportion_pico(lines, decimals)]
    assert sum(rounded) == round_fraction(Fraction(sum(lines)), decimals)
    assert all(abs(one - line) < unit for one, line in zip(rounded, lines, strict=True))
    assert abs(sum(rounded) - sum(lines)) <= Fraction(unit, 2)
