"""The simulated month: every call is counted, every sampled call is priced exactly, the seed decides all."""

from __future__ import annotations

import datetime
from importlib.resources import files

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.errors import ConfigError
from upeti.money.price import Cliff, Price
from upeti.money.usage import UNMETERED, meter_costs
from upeti.sim.month import Feature, Lane, TenantMix, Tokens, hours_of, rate_of, read_mix, split, usage_of

PRICE = Price("p1", "USD", 0, {"input": 2_000_000, "input_cached": 500_000, "output": 8_000_000})
CLIFF = Price("p2", "USD", 0, {"input": 3_000_000, "output": 9_000_000}, (Cliff(1500, {"input": 6, "output": 7}),))
LANES = {"r": [Lane("x", "m", "chat_completions", 3, (PRICE,)), Lane("y", "n", "messages", 1, (CLIFF,))]}


def feature(name: str, permille: int) -> Feature:
    return Feature(
        name=name,
        permille=permille,
        route="r",
        input=Tokens(1000, 0.6),
        output=Tokens(100, 0.4),
        cached_permille=400,
        reasoning_permille=200,
    )


MIX = TenantMix(
    name="app",
    calls=7_000_003,
    peak_per_second=10,
    peak_hour=20,
    weekend_permille=1100,
    not_sent_per_million=2_000,
    lost_per_million=300,
    feature=(feature("a", 333), feature("b", 667)),
)


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**6), min_size=1, max_size=40).filter(any))
def test_a_split_adds_up(total: int, weights: list[int]) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    assert all(abs(part - total * weight / sum(weights)) <= 1 for part, weight in zip(parts, weights, strict=True))


def test_every_call_is_counted_once() -> None:
    rows = list(usage_of(MIX, "2026-02", LANES, 1, 2_000))
    assert sum(row.calls for row in rows) == MIX.calls
    by_outcome = {
        outcome: sum(row.attempts for row in rows if row.outcome == outcome) for outcome in ("voided", "estimated")
    }
    assert sum(row.attempts for row in rows) == MIX.calls + sum(by_outcome.values())
    assert all(by_outcome.values())
    assert {row.day.month for row in rows} == {2}
    assert len({row.day for row in rows}) == 28


def test_costs_split_by_meter_to_the_last_pico() -> None:
    rows = list(usage_of(MIX, "2026-02", LANES, 1, 2_000))
    prices = {"p1": PRICE, "p2": CLIFF}
    assert {row.cliff for row in rows if row.channel == "y"} == {0, 1}
    for row in rows:
        parts = meter_costs(row, prices.get(row.price_id))
        assert sum(part.cost_pico for part in parts) == row.cost_pico
        assert {part.meter for part in parts if part.meter == UNMETERED} == ({UNMETERED} if row.unmetered else set())


def test_the_seed_decides() -> None:
    one, same, other = (list(usage_of(MIX, "2026-02", LANES, seed, 500)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert sum(row.calls for row in other) == MIX.calls


def test_the_rhythm_reaches_its_peak() -> None:
    hours = hours_of(MIX, "2026-02")
    assert sum(hours) == MIX.calls
    assert rate_of(hours).peak == MIX.peak_per_second
    assert (hours.index(max(hours)) + MIX.hours_from_utc) % 24 == MIX.peak_hour
    weekend = [
        sum(hours[24 * day : 24 * day + 24]) for day in range(28) if datetime.date(2026, 2, day + 1).weekday() == 5
    ]
    monday = sum(hours[24:48])
    assert min(weekend) > monday


def test_a_peak_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="a peak of 1 calls/s does not go with 2 on average"):
        hours_of(msgspec.structs.replace(MIX, peak_per_second=1), "2026-02")


def test_the_shipped_mix_is_that_of_the_story() -> None:
    tenants = {one.name: one for one in read_mix("mix", (files("upeti.sim") / "story" / "mix.toml").read_bytes())}
    app = tenants["short-video"]
    assert app.calls == 8_300_000_000
    rate = rate_of(hours_of(app, "2026-10"))
    assert (rate.peak, rate.average) == (12_660, 3_098)
    assert len(tenants) > 5


def test_a_mix_that_does_not_add_up_is_refused() -> None:
    text = (files("upeti.sim") / "story" / "mix.toml").read_text().replace("permille = 420", "permille = 421")
    with pytest.raises(ConfigError, match="have 1001 ‰ of its calls; make it 1000"):
        read_mix("mix", text.encode())
