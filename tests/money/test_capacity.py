"""Capacity by the hour: what a day costs follows from the row alone."""

from __future__ import annotations

import datetime
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.errors import ConfigError
from upeti.money.capacity import Capacity, capacity_costs
from upeti.money.price_book import PriceBook

UNIT = 10**12
DAY = datetime.date(2026, 3, 10)

ROW = """
part = "azure"

[[capacity]]
deployment = "chat-ptu"
units = 100
per_unit_hour = "1.00"
currency = "USD"
from = 2026-03-10
source = "reservation 4"
source_date = 2026-03-01
"""


def load(folder: Path, text: str) -> tuple[Capacity, ...]:
    path = folder / "capacity.toml"
    path.write_text(text)
    return PriceBook.load([path]).capacity


def cost(rows: tuple[Capacity, ...], day: datetime.date) -> list[int]:
    return [one.cost_pico for one in capacity_costs(rows, day)]


def test_a_whole_day_costs_units_times_24_hours(tmp_path: Path) -> None:
    rows = load(tmp_path, ROW)
    assert cost(rows, DAY) == [2_400 * UNIT]
    assert cost(rows, DAY + datetime.timedelta(days=400)) == [2_400 * UNIT]
    assert cost(rows, DAY - datetime.timedelta(days=1)) == []


def test_a_part_of_a_day_costs_its_part(tmp_path: Path) -> None:
    text = ROW.replace("from = 2026-03-10", "from = 2026-03-10T18:30:00+07:00\nuntil = 2026-03-12T06:00:00Z")
    rows = load(tmp_path, text)
    days = [DAY + datetime.timedelta(days=number) for number in range(4)]
    assert [cost(rows, day) for day in days] == [[1_250 * UNIT], [2_400 * UNIT], [600 * UNIT], []]


def test_who_ends_a_row_or_changes_its_price_does_not_make_it_another(tmp_path: Path) -> None:
    (row,) = load(tmp_path, ROW)
    (ended,) = load(tmp_path, ROW + "until = 2026-04-01\n")
    (dearer,) = load(tmp_path, ROW.replace("1.00", "2.00"))
    (other,) = load(tmp_path, ROW.replace("2026-03-10", "2026-03-11"))
    assert row.id == ended.id == dearer.id != other.id


@given(
    st.integers(1, 1000),
    st.integers(0, 10**13),
    st.integers(0, 86_400),
    st.integers(1, 200_000),
)
def test_days_add_up_to_the_whole_time_within_a_pico_each(units: int, pico: int, begin_s: int, length_s: int) -> None:
    begins = datetime.datetime(2026, 3, 10, tzinfo=datetime.UTC) + datetime.timedelta(seconds=begin_s)
    until = begins + datetime.timedelta(seconds=length_s)
    row = Capacity("i", "p", "n", "c", units, pico, "USD", begins, until, "", "s", DAY, "", "f", 1)
    days = [capacity_costs([row], DAY + datetime.timedelta(days=number)) for number in range(5)]
    costs = [one for each in days for one in each]
    assert sum(one.seconds for one in costs) == length_s
    exact = Fraction(units * pico * length_s, 3600)
    assert abs(sum(one.cost_pico for one in costs) - exact) <= Fraction(len(costs), 2)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('deployment = "chat-ptu"', "", "`model` or `deployment`"),
        ("from = 2026-03-10", "from = 2026-03-10\nuntil = 2026-03-10", "later than `from`"),
        ("from = 2026-03-10", "from = 2026-03-10T10:00:00", "offset"),
        ("from = 2026-03-10", 'from = "soon"', "no date"),
        ("units = 100", "units = 0", "units"),
        ('"1.00"', '"0.0000000000001"', "per_unit_hour"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"capacity.toml:4: row 1") as caught:
        load(tmp_path, ROW.replace(old, new))
    assert says in str(caught.value)
