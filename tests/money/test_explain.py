"""An explanation is the cost taken apart: its parts are what was added up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from upeti.core import meters as m
from upeti.money.explain import parts_of, sum_of
from upeti.money.price import Cliff, Price, cost_of

CELLS = st.dictionaries(st.sampled_from(m.ALL_METERS), st.integers(0, 10**9))


@st.composite
def prices(draw: st.DrawFn) -> Price:
    cells = draw(CELLS)
    steps = sorted(draw(st.sets(st.integers(1, 50), max_size=2)))
    cliffs = tuple(Cliff(step, {name: draw(st.integers(0, 10**9)) for name in cells}) for step in steps)
    return Price("p", "USD", 0, cells, cliffs, draw(st.integers(0, 99)))


@given(prices(), st.dictionaries(st.sampled_from((*m.ALL_METERS, "a_meter_of_next_year")), st.integers(0, 60)))
def test_the_parts_sum_to_the_cost_and_are_unknown_where_it_is(price: Price, meters: dict[str, int]) -> None:
    _, parts = parts_of(price, meters)
    assert sum_of(parts) == cost_of(price, meters)
    counted = {part.meter: part.quantity for part in parts if part.meter != "per_call"}
    assert counted == meters


def test_what_is_billed_as_another_meter_says_so() -> None:
    price = Price("p", "USD", 0, {m.INPUT: 3, m.OUTPUT: 5}, (Cliff(10, {m.INPUT: 6, m.OUTPUT: 10}),))
    cliff, parts = parts_of(price, {m.INPUT: 8, m.INPUT_CACHED: 4, m.OUTPUT_REASONING: 2, m.INPUT_AUDIO: 1})
    assert cliff == 1
    assert [(part.meter, part.billed_as, part.unit_pico, part.cost_pico) for part in parts] == [
        (m.INPUT, m.INPUT, 6, 48),
        (m.INPUT_CACHED, m.INPUT, 6, 24),
        (m.OUTPUT_REASONING, m.OUTPUT, 10, 20),
        (m.INPUT_AUDIO, "", None, None),
    ]
    assert sum_of(parts) is None
