"""Service tiers on the way of a call: bounded at the dearest it can reach, priced by the one the answer reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.gateway_side import KEY, MICRO_USD, Heard, Served, candidate, channel, route, serving, snapshot
from upeti.core.events import Outcome
from upeti.gateway.snapshot import Caller
from upeti.money.price import Price, bound_of, cost_of
from upeti.sim.provider import SimProvider


def price(tier: str, times: int, **changes: Any) -> Price:
    cells = {"input": 2 * MICRO_USD * times, "output": 8 * MICRO_USD * times}
    return Price(f"row-{tier or 'standard'}", "USD", 0, cells, tier=tier, **changes)


STANDARD, PRIORITY, FLEX, FAST = (
    price(tier, times) for tier, times in (("", 2), ("priority", 4), ("flex", 1), ("fast", 6))
)
US_ONLY = price("us", 3)
PROVISIONED = price("provisioned", 0)
BOOK = {"*": (STANDARD, FAST, FLEX, PRIORITY, US_ONLY)}


def asked(model: str = "m", path: str = "/v1/chat/completions", **fields: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "Halo"}], "max_tokens": 5, **fields}
    if path.endswith("responses"):
        body = {"model": model, "input": "Halo", "max_output_tokens": 5, **fields}
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: u\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(data) + data


async def settled(served: Served, request: bytes) -> tuple[Heard, Any, Any]:
    answer = await served.ask(request)
    books = served.books()
    return answer, books.opened[-1], books.settled[-1]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "fields", "billed", "held"),
    [
        ("m", {}, STANDARD, STANDARD),
        ("m", {"service_tier": "default"}, STANDARD, STANDARD),
        ("m", {"service_tier": "priority"}, PRIORITY, PRIORITY),
        ("m", {"service_tier": "fast"}, PRIORITY, PRIORITY),
        ("m-asstandard", {"service_tier": "priority"}, STANDARD, PRIORITY),
        ("m-notier", {"service_tier": "priority"}, PRIORITY, PRIORITY),
        ("m", {"service_tier": "flex"}, FLEX, STANDARD),
        ("m", {"service_tier": "auto"}, STANDARD, PRIORITY),
        ("m-asflex", {"service_tier": "auto"}, FLEX, PRIORITY),
    ],
)
async def test_a_call_is_held_at_the_dearest_tier_and_billed_at_the_reported_one(
    tmp_path: Path,
    provider: SimProvider,
    path: str,
    stream: bool,
    model: str,
    fields: dict[str, Any],
    billed: Price,
    held: Price,
) -> None:
    first = snapshot([channel("up", provider)], [route("*", candidate("up", prices=BOOK))])
    async with serving(tmp_path, first) as served:
        request = asked(model, path, stream=stream, **fields)
        answer, opened, record = await settled(served, request)
    assert answer.status == 200
    assert (record.tier, record.price_id) == (billed.tier, billed.id)
    assert record.outcome is Outcome.POSTED
    assert record.cost_pico == cost_of(billed, record.meters)
    body_bytes = int(request.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert opened.bound_pico == bound_of(held, input_tokens_max=body_bytes, output_tokens_max=5)
    assert record.cost_pico <= opened.bound_pico


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "billed", "held"),
    [
        ({}, STANDARD, PRIORITY),  # Anthropic's own default is auto
        ({"service_tier": "standard_only"}, STANDARD, STANDARD),
        ({"speed": "fast"}, FAST, FAST),
        ({"inference_geo": "us"}, US_ONLY, US_ONLY),
        ({"inference_geo": "us", "service_tier": "auto"}, US_ONLY, US_ONLY),
        ({"inference_geo": "global"}, STANDARD, PRIORITY),
        ({"speed": "fast", "service_tier": "standard_only"}, FAST, FAST),
    ],
)
async def test_anthropics_speed_is_a_tier(
    tmp_path: Path, provider: SimProvider, stream: bool, fields: dict[str, Any], billed: Price, held: Price
) -> None:
    first = snapshot([channel("up", provider, "anthropic")], [route("*", candidate("up", prices=BOOK))])
    async with serving(tmp_path, first) as served:
        request = asked(path="/v1/messages", stream=stream, **fields)
        answer, opened, record = await settled(served, request)
    assert answer.status == 200
    assert (record.tier, record.price_id, record.cost_pico) == (billed.tier, billed.id, cost_of(billed, record.meters))
    body_bytes = int(request.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert opened.bound_pico == bound_of(held, input_tokens_max=body_bytes, output_tokens_max=5)


async def test_a_geography_without_a_price_is_refused_and_not_billed_as_any_other(
    tmp_path: Path, provider: SimProvider
) -> None:
    first = snapshot([channel("up", provider, "anthropic")], [route("*", candidate("up", prices=BOOK))])
    async with serving(tmp_path, first) as served:
        for fields in ({"inference_geo": "eu"}, {"inference_geo": "us", "speed": "fast"}):
            answer = await served.ask(asked(path="/v1/messages", **fields))
            assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert provider.seen == 0


async def test_a_tier_without_a_price_that_an_answer_reports_is_unpriced_and_never_free(
    tmp_path: Path, provider: SimProvider
) -> None:
    first = snapshot([channel("up", provider)], [route("*", candidate("up", prices={"*": (STANDARD,)}))])
    async with serving(tmp_path, first) as served:
        answer, _, record = await settled(served, asked("m-aspriority"))
        assert answer.headers["x-upeti-cost"] == "unknown"
    assert (record.outcome, record.tier, record.price_id) == (Outcome.UNPRICED, "priority", "")
    assert record.meters


async def test_with_a_limit_such_an_answer_takes_its_whole_hold(tmp_path: Path, provider: SimProvider) -> None:
    callers = {KEY: Caller("k1", "acme", "shop", budgets=("key:k1",))}
    routes = [route("*", candidate("up", prices={"*": (STANDARD,)}))]
    first = snapshot([channel("up", provider)], routes, callers=callers)
    async with serving(tmp_path, first, limits_pico={"key:k1": 10**12}) as served:
        _, opened, record = await settled(served, asked("m-aspriority"))
    assert (record.outcome, record.tier, record.price_id) == (Outcome.ESTIMATED, "priority", "")
    assert record.cost_pico == opened.bound_pico > 0


async def test_with_a_limit_a_counted_meter_without_a_price_takes_the_whole_hold(
    tmp_path: Path, provider: SimProvider
) -> None:
    """At nothing, such calls would go on for ever."""
    callers = {KEY: Caller("k1", "acme", "shop", budgets=("key:k1",))}
    no_output = Price("row", "USD", 0, {"input": 2 * MICRO_USD})
    routes = [route("*", candidate("up", prices={"*": (no_output,)}))]
    first = snapshot([channel("up", provider)], routes, callers=callers)
    async with serving(tmp_path, first, limits_pico={"key:k1": 10**12}) as served:
        _, opened, record = await settled(served, asked())
        assert served.purse("key:k1").posted == opened.bound_pico > 0
    assert (record.outcome, record.cost_pico, record.price_id) == (Outcome.ESTIMATED, opened.bound_pico, "")
    assert record.meters


async def test_what_is_asked_for_without_a_price_is_billed_where_the_answer_says_a_priced_tier(
    tmp_path: Path, provider: SimProvider
) -> None:
    routes = [route("*", candidate("up", prices={"*": (STANDARD,)}))]
    first = snapshot([channel("up", provider)], routes, unpriced="record")
    async with serving(tmp_path, first) as served:
        _, opened, record = await settled(served, asked("m-asstandard", service_tier="flex"))
        assert (opened.priced, record.outcome, record.price_id) == (False, Outcome.POSTED, STANDARD.id)
        _, opened, record = await settled(served, asked("m-notier", service_tier="flex"))
        assert (opened.priced, record.outcome, record.tier) == (False, Outcome.UNPRICED, "flex")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "billed"), [("m", PROVISIONED), ("m-spillover", STANDARD)])
async def test_provisioned_throughput_costs_nothing_a_token_and_spillover_the_standard_price(
    tmp_path: Path, provider: SimProvider, stream: bool, model: str, billed: Price
) -> None:
    prices = {"*": (STANDARD, PROVISIONED)}
    up = channel("ptu", provider, "azure", tier="provisioned")
    async with serving(tmp_path, snapshot([up], [route("*", candidate("ptu", prices=prices))])) as served:
        # Azure names a standard tier in the answers of provisioned deployments too.
        answer, opened, record = await settled(served, asked(model, stream=stream, service_tier="default"))
    assert answer.status == 200
    assert (record.tier, record.price_id, record.outcome) == (billed.tier, billed.id, Outcome.POSTED)
    assert record.cost_pico == cost_of(billed, record.meters)
    assert opened.bound_pico > 0, "it may spill over"
    assert "x-ms-spillover-from-deployment" not in answer.headers


async def test_a_channel_can_say_at_which_tier_its_calls_are_served(tmp_path: Path, provider: SimProvider) -> None:
    up = channel("up", provider, tier="priority")
    async with serving(tmp_path, snapshot([up], [route("*", candidate("up", prices=BOOK))])) as served:
        _, _, record = await settled(served, asked())
        assert (record.tier, record.price_id) == ("priority", PRIORITY.id)
        _, _, record = await settled(served, asked(service_tier="default"))
        assert (record.tier, record.price_id) == ("", STANDARD.id)


async def test_a_dearer_tier_that_nobody_asked_for_is_billed_in_full(tmp_path: Path, provider: SimProvider) -> None:
    """A project set to priority at the provider, and a channel that does not say so: the bound was too low."""
    callers = {KEY: Caller("k1", "acme", "shop", budgets=("key:k1",))}
    first = snapshot([channel("up", provider)], [route("*", candidate("up", prices=BOOK))], callers=callers)
    async with serving(tmp_path, first, limits_pico={"key:k1": 10**12}) as served:
        served.notices_allowed = {"above bound"}
        _, opened, record = await settled(served, asked("m-aspriority-in500"))
        assert served.purse("key:k1").posted == record.cost_pico
    assert (record.tier, record.outcome) == ("priority", Outcome.POSTED)
    assert record.cost_pico == cost_of(PRIORITY, record.meters) > opened.bound_pico
