"""Prices: the cost is a plain sum over disjoint meters, and never above the bound."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upeti.core import meters as m
from upeti.money.price import Ceiling, Cliff, Price, bound_of, cost_of, dearest, price_at

# gpt-4o at 2.50, 1.25 and 10.00 USD per million
PLAIN = Price("plain", "USD", 0, {m.INPUT: 2_500_000, m.INPUT_CACHED: 1_250_000, m.OUTPUT: 10_000_000})

# like a model with a long-context price: dearer past 100 input tokens, dearer still past 200
STEEP = Price(
    "steep",
    "USD",
    0,
    {m.INPUT: 2, m.INPUT_CACHED: 1, m.INPUT_CACHE_WRITE_5M: 3, m.OUTPUT: 10},
    (
        Cliff(100, {m.INPUT: 4, m.INPUT_CACHED: 2, m.INPUT_CACHE_WRITE_5M: 6, m.OUTPUT: 15}),
        Cliff(200, {m.INPUT: 8, m.INPUT_CACHED: 4, m.INPUT_CACHE_WRITE_5M: 12, m.OUTPUT: 12}),
    ),
)

CELLS = st.dictionaries(st.sampled_from(m.ALL_METERS), st.integers(0, 10**9), min_size=1)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    """A price of every meter: few sizes and prices, so that draws meet the cliffs."""
    every_meter = st.fixed_dictionaries({name: st.integers(0, 9) for name in m.ALL_METERS})
    steps = draw(st.lists(st.integers(1, 40), max_size=3, unique=True))
    cliffs = tuple(Cliff(step, draw(every_meter)) for step in sorted(steps))
    return Price("drawn", "USD", 0, draw(every_meter), cliffs, draw(st.integers(0, 9)))


@st.composite
def filled(draw: st.DrawFn, names: tuple[str, ...], total: int) -> dict[str, int]:
    """Disjoint meters that together count ``total``."""
    one, other = draw(st.permutations(names))[:2]
    first = draw(st.integers(0, total))
    return {one: first, other: total - first}


# -- cost -------------------------------------------------------------------------------------------------------


def test_a_call_costs_the_sum_of_its_meters() -> None:
    meters = {m.INPUT: 1_200, m.INPUT_CACHED: 800, m.OUTPUT: 300}
    assert cost_of(PLAIN, meters) == 1_200 * 2_500_000 + 800 * 1_250_000 + 300 * 10_000_000


def test_nothing_counted_costs_the_price_per_call() -> None:
    assert cost_of(PLAIN, {}) == 0
    assert cost_of(msgspec.structs.replace(PLAIN, per_call_pico=7), {}) == 7


@pytest.mark.parametrize(
    ("without", "instead"),
    [(m.OUTPUT_REASONING, m.OUTPUT), (m.INPUT_CACHED, m.INPUT), (m.INPUT_IMAGE, m.INPUT)],
)
def test_some_meters_are_billed_as_another(without: str, instead: str) -> None:
    price = Price("", "USD", 0, {m.INPUT: 3, m.OUTPUT: 5})
    assert cost_of(price, {without: 10}) == cost_of(price, {instead: 10})


def test_a_price_of_its_own_comes_before_that_of_another() -> None:
    price = Price("", "USD", 0, {m.INPUT: 3, m.INPUT_CACHED: 0, m.OUTPUT: 5})
    assert cost_of(price, {m.INPUT_CACHED: 10}) == 0


@pytest.mark.parametrize(
    "unpriced",
    [
        m.INPUT_AUDIO,
        m.OUTPUT_AUDIO,
        m.OUTPUT_IMAGE,
        m.INPUT_CACHE_WRITE,
        m.INPUT_CACHE_WRITE_12H,
        m.INPUT_CACHE_WRITE_5M,
        m.INPUT_CACHE_WRITE_1H,
        m.AUDIO_SECONDS,
        "a_meter_of_next_year",
    ],
)
def test_a_meter_without_a_price_makes_the_cost_unknown_and_never_zero(unpriced: str) -> None:
    assert cost_of(PLAIN, {m.INPUT: 5, unpriced: 1}) is None
    assert cost_of(PLAIN, {m.INPUT: 5, unpriced: 0}) == 5 * 2_500_000


@pytest.mark.parametrize(
    ("meters", "cost"),
    [
        ({m.INPUT: 100, m.OUTPUT: 1}, 100 * 2 + 10),
        ({m.INPUT: 101, m.OUTPUT: 1}, 101 * 4 + 15),
        ({m.INPUT: 50, m.INPUT_CACHED: 50, m.OUTPUT: 1}, 50 * 2 + 50 + 10),
        ({m.INPUT: 50, m.INPUT_CACHED: 50, m.INPUT_CACHE_WRITE_5M: 1}, 50 * 4 + 50 * 2 + 6),
        ({m.INPUT: 200, m.OUTPUT: 1_000}, 200 * 4 + 15_000),
        ({m.INPUT: 201, m.OUTPUT: 1_000}, 201 * 8 + 12_000),
    ],
)
def test_past_a_cliff_the_whole_call_costs_more(meters: dict[str, int], cost: int) -> None:
    assert cost_of(STEEP, meters) == cost


@given(CELLS, st.data())
def test_costs_of_disjoint_meters_add_up(cells: dict[str, int], data: st.DataObject) -> None:
    price = Price("", "USD", 0, cells, per_call_pico=11)
    counted = data.draw(st.dictionaries(st.sampled_from(sorted(cells)), st.integers(0, 10**7)))
    whole = cost_of(price, counted)
    each = [cost_of(price, {name: quantity}) for name, quantity in counted.items()]
    assert None not in each
    assert whole == sum(part - 11 for part in each if part is not None) + 11


# -- bound ------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.data())
def test_no_usage_within_the_bound_costs_more_than_the_bound(data: st.DataObject) -> None:
    price = data.draw(prices())
    input_max, output_max, choices = (data.draw(st.integers(low, high)) for low, high in ((0, 30), (0, 30), (1, 3)))
    meters = data.draw(filled(m.INPUT_METERS, data.draw(st.integers(0, input_max * choices))))
    meters |= data.draw(filled(m.OUTPUT_METERS, data.draw(st.integers(0, output_max * choices))))
    cost = cost_of(price, meters)
    assert cost is not None
    assert cost <= bound_of(price, input_tokens_max=input_max, output_tokens_max=output_max, choices=choices)


@given(prices(), st.integers(0, 50))
def test_seconds_of_audio_are_within_the_bound_too(price: Price, body_bytes: int) -> None:
    cost = cost_of(price, {m.AUDIO_SECONDS: body_bytes})
    assert cost is not None
    assert cost <= bound_of(price, input_tokens_max=body_bytes, output_tokens_max=0)


@given(prices(), st.integers(0, 50), st.integers(0, 50))
def test_the_bound_never_falls_when_more_is_allowed(price: Price, input_max: int, output_max: int) -> None:
    bound = bound_of(price, input_tokens_max=input_max, output_tokens_max=output_max)
    assert bound <= bound_of(price, input_tokens_max=input_max + 1, output_tokens_max=output_max)
    assert bound <= bound_of(price, input_tokens_max=input_max, output_tokens_max=output_max + 1)


@pytest.mark.parametrize(
    ("input_max", "choices", "bound"),
    [
        (100, 1, 100 * 3 + 10),  # the cliffs cannot be reached, and are not held
        (101, 1, 101 * 6 + 15),
        (201, 1, 201 * 12 + 15),  # output stays at the dearer price of the cliff below
        (60, 2, 120 * 6 + 2 * 15),  # input counted once per choice passes the cliff
    ],
)
def test_a_cliff_is_held_only_when_the_input_can_pass_it(input_max: int, choices: int, bound: int) -> None:
    assert bound_of(STEEP, input_tokens_max=input_max, output_tokens_max=1, choices=choices) == bound


def test_the_dearest_prices_are_over_all_cells_and_cliffs() -> None:
    assert dearest(STEEP) == (12, 15)
    assert dearest(PLAIN) == (2_500_000, 10_000_000)


def test_ceilings_follow_the_cells_wherever_a_price_comes_from() -> None:
    forged = Price("", "USD", 0, {m.INPUT: 9}, ceilings=(Ceiling(-1, 0, 0),))
    assert dearest(forged) == (9, 0)
    assert dearest(msgspec.structs.replace(forged, pico={m.OUTPUT: 4})) == (0, 4)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(STEEP), type=Price) == STEEP
    older = msgspec.msgpack.encode(["", "USD", 0, {m.INPUT: 9}])  # written before there were ceilings
    assert dearest(msgspec.msgpack.decode(older, type=Price)) == (9, 0)


# -- date -------------------------------------------------------------------------------------------------------


def test_the_price_is_the_newest_one_in_force() -> None:
    first, second = Price("first", "USD", 100, {}), Price("second", "USD", 200, {})
    rows = (first, second)
    assert price_at(rows, 99) is None
    assert price_at(rows, 100) is first
    assert price_at(rows, 199) is first
    assert price_at(rows, 200) is second
    assert price_at((), 200) is None


@given(st.lists(st.integers(0, 50), unique=True), st.integers(-1, 51))
def test_as_of_any_moment(dates: list[int], at: int) -> None:
    rows = tuple(Price(str(date), "USD", date, {}) for date in sorted(dates))
    begun = [date for date in dates if date <= at]
    price = price_at(rows, at)
    assert (price.effective_ns if price else None) == (max(begun) if begun else None)
