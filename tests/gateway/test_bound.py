"""The bound of a call holds: whatever a provider reports within what the call allows, it never costs more.

Over the shipped book: every row, tier and cliff; choices, reasoning, cached input, images with a context window. That
bytes bound tokens is shown with a real byte-level tokenizer in tests/providers/test_bytes_bound_tokens.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.gateway_side import KEY, candidate, channel, route, snapshot
from upeti.core import meters as m
from upeti.gateway.call import Call
from upeti.gateway.live import Lane, LiveView, build
from upeti.gateway.paths import target_of
from upeti.money.price import Price, cost_of
from upeti.money.price_book import ANY_MODEL, Cell, PriceBook

BOOK = PriceBook.shipped()
NOW_NS = 1_796_000_000 * 10**9  # after the newest row
MODELS = sorted({(at.part, at.model, at.zone) for at in BOOK.cells() if at.tier == "" and at.model != ANY_MODEL})
KINDS = {"openai": "openai_compatible", "azure": "azure", "anthropic": "anthropic"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a maker of ready views, remembered by model."""
    loop = asyncio.new_event_loop()
    folder = tmp_path_factory.mktemp("views")
    made: dict[Any, LiveView] = {}

    def view(at: tuple[str, str, str], tier: str) -> LiveView:
        part, model, zone = at
        if (at, tier) not in made:
            context = BOOK.facts(part, model).context_tokens
            prices = {model: BOOK.all_tiers(part, model, zone)}
            routes = [route("*", candidate("up", model, prices=prices, context_tokens=context))]
            first = snapshot([channel("up", 80, KINDS[part], tier=tier)], routes)
            made[at, tier] = build(first, None, loop, folder, lambda *_: pytest.fail("no token is needed"))
        return made[at, tier]

    yield view
    loop.close()


def call_of(view: LiveView, path: str, body: dict[str, Any]) -> tuple[Call, Lane]:
    data = json.dumps(body, ensure_ascii=False).encode()
    headers = {b"authorization": b"Bearer " + KEY.encode(), b"content-type": b"application/json"}
    call = Call(b"POST", path.encode(), headers, data, True, False, 0.0)
    call.view = view
    call.understand(target_of(b"POST", path.encode()), NOW_NS)
    (lane,) = call.way.lanes
    lane.look_up_prices(NOW_NS)
    return call, lane


def split(draw: st.DataObject, names: list[str], total: int) -> dict[str, int]:
    """Share ``total`` out over some of ``names``."""
    chosen = draw.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)) if names else []
    meters, left = {}, total
    for name in chosen:
        meters[name] = draw.draw(st.integers(0, left))
        left -= meters[name]
    return meters


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_report_within_what_a_call_allows_costs_more_than_its_hold(views: Any, data: st.DataObject) -> None:
    at = data.draw(st.sampled_from([one for one in MODELS if one[0] in KINDS]))
    part, model, zone = at
    usual = data.draw(st.sampled_from(["", "priority", "provisioned"] if part == "azure" else [""]))
    body: dict[str, Any] = {"model": model}
    image = data.draw(st.booleans())
    # Long enough to pass a cliff now and then, without drawing a megabyte.
    text = data.draw(st.sampled_from(["Halo 漢字 🙂 ", "x"])) * data.draw(st.sampled_from([1, 1_000, 120_000]))
    body["messages"] = [{"role": "user", "content": [{"type": "text", "text": text}, *([IMAGE] if image else [])]}]
    choices = 1
    if part != "anthropic":
        choices = data.draw(st.integers(1, 4))
        body["n"] = choices
    cap = data.draw(st.none() | st.integers(0, 200_000))
    if cap is not None or part == "anthropic":
        body["max_tokens"] = cap = cap or 7
    tier = data.draw(st.sampled_from([None, "auto", "default", "priority", "fast", "flex", "scale"]))
    if tier is not None:
        body["service_tier"] = tier
    if part == "anthropic" and data.draw(st.booleans()):
        body["speed"] = "fast"
    path = "/v1/messages" if part == "anthropic" else "/v1/chat/completions"
    call, lane = call_of(views(at, usual), path, body)
    tariff = lane.tariff(call.tier)
    if tariff is None:
        asked = {"priority": "priority", "fast": "priority"}.get(tier or "", tier)
        unpriced = {asked, usual, "fast" if "speed" in body else None} - lane.prices_by_tier.keys() - {None, "auto"}
        assert unpriced, "a call is refused only for a tier without a price"
        return
    bound = call.bound_pico(lane, tariff)
    context = lane.context_tokens
    if bound is None:
        assert image
        assert context is None
        return
    # What the provider can count: no more tokens than bytes, or than the window where images come from elsewhere.
    input_max = context if image and context is not None else min(len(call.body), context or len(call.body))
    output_max = (lane.cap if cap is None else cap) * choices
    served = data.draw(st.sampled_from(tariff.reach))
    meters = split(data, [name for name in m.INPUT_METERS if priced(served, name)], input_max * choices)
    meters |= split(data, [name for name in m.OUTPUT_METERS if priced(served, name)], output_max)
    cost = cost_of(served, meters)
    assert cost is not None
    assert cost <= bound, (Cell(part, model, served.tier, zone), meters)


def priced(price: Price, meter: str) -> bool:
    return cost_of(price, {meter: 1}) is not None


@pytest.mark.parametrize("part", sorted(KINDS))
def test_every_model_has_a_hold_for_every_way_to_ask_that_has_a_price(views: Any, part: str) -> None:
    """Every row of the book is reached by one call or another, and the dearest reachable one is held."""
    for at in MODELS:
        if at[0] == part:
            check_every_tier(views, at)


def check_every_tier(views: Any, at: tuple[str, str, str]) -> None:
    part, model, _ = at
    path = "/v1/messages" if part == "anthropic" else "/v1/chat/completions"
    for tier in ("", "priority", "flex", "fast", "auto"):
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": "x" * 1000}],
            "max_tokens": 100,
        }
        if tier == "fast":
            body["speed"] = "fast"
        elif tier:
            body["service_tier"] = tier
        else:
            body["service_tier"] = "standard_only" if part == "anthropic" else "default"
        call, lane = call_of(views(at, ""), path, body)
        tariff = lane.tariff(call.tier)
        if tier not in lane.prices_by_tier and tier != "auto":
            assert tariff is None
            continue
        assert tariff is not None
        bound = call.bound_pico(lane, tariff)
        assert bound is not None
        counted = (*m.INPUT_METERS, m.AUDIO_SECONDS)
        for served in tariff.reach:
            longest = min(len(call.body), lane.context_tokens or len(call.body))
            dearest = max(cost_of(served, {name: longest}) or 0 for name in counted if priced(served, name))
            assert dearest <= bound
