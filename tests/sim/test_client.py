"""The load client against the fake provider itself: what it records is what was sent, and what was not is not."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from upeti.sim.auditor import Received, read_client_logs
from upeti.sim.client import Ask, Client, Got, load, write_log
from upeti.sim.provider import SimProvider

WIRES = ["chat_completions", "completions", "responses", "messages"]


async def call(provider: SimProvider, ask: Ask) -> Got:
    async with Client(provider.url) as client:
        return await client.call(ask)


async def billed(provider: SimProvider, number: int = -1) -> dict[str, int] | None:
    """Return what the provider bills for a request, once it is done with it."""
    for _ in range(100):
        if provider.requests[number].served is not None:
            break
        await asyncio.sleep(0.01)
    served = provider.requests[number].served
    assert served is not None
    return {name: count for name, count in (served.billed or {}).items() if count}


@pytest.mark.parametrize("wire", [*WIRES, "embeddings"])
@pytest.mark.parametrize("stream", [False, True])
async def test_usage_is_what_the_provider_bills(wire: str, stream: bool) -> None:
    async with SimProvider() as provider:
        ask = Ask("m-cached-reason-ping", "k", wire=wire, stream=stream, include_usage=True, output_tokens_max=9)
        got = await call(provider, ask)
        assert (got.status, got.cut, got.complete, got.answered, got.error_code) == (200, "", True, True, "")
        assert got.is_stream is (stream and wire != "embeddings")
        assert got.usage() == await billed(provider)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stream_is_whole_with_its_last_event_and_not_before(wire: str) -> None:
    async with SimProvider() as provider:
        whole = await call(provider, Ask("m", "k", wire=wire, stream=True))
        assert whole.answered
        cut = await call(provider, Ask("m-cut4", "k", wire=wire, stream=True))
        assert (cut.status, cut.cut, cut.complete) == (200, "closed", False)
        last = whole.body[: whole.body.rindex(b"\n\n", 0, -2) + 2]
        assert not replace(whole, body=last).complete


async def test_what_stands_in_a_text_is_no_end_and_no_usage() -> None:
    async with SimProvider() as provider:
        got = await call(provider, Ask("m-trap-cut3", "k", stream=True))
        assert b"[DONE]" in got.body
        assert (got.complete, got.usage()) == (False, None)


async def test_plain_answers_that_are_not_whole() -> None:
    async with SimProvider() as provider:
        for model, cut, status in (("m-cutbody", "closed", 200), ("m-reset", "reset", 0), ("m-garbage", "not HTTP", 0)):
            got = await call(provider, Ask(model, "k"))
            assert (got.status, got.complete, got.answered) == (status, False, False)
            assert got.cut.startswith(cut)
        late = await call(provider, Ask("m-never", "k", wait_s=0.1))
        assert (late.cut, late.status) == ("late", 0)
        refused = await call(provider, Ask("m-err429", "k"))
        assert (refused.status, refused.complete, refused.answered) == (429, True, False)
        assert refused.error_code == "rate_limit_exceeded"


async def test_it_leaves_when_it_is_told_to() -> None:
    async with SimProvider() as provider:
        early = await call(provider, Ask("m-slow100", "k", leave_after_bytes=0))
        assert (early.cut, early.sent, early.status) == ("left", True, 0)
        midway = await call(provider, Ask("m-drip5", "k", stream=True, leave_after_bytes=200))
        assert (midway.cut, midway.status, midway.complete) == ("left", 200, False)
        await provider.wait_for(2)


async def test_one_connection_for_many_calls_and_a_new_one_when_it_is_closed() -> None:
    async with SimProvider() as provider, Client(provider.url) as client:
        for model in ("m", "m", "m-close", "m", "m-cutbody", "m"):
            await client.call(Ask(model, "k"))
        assert provider.connections_total == 3
        assert provider.seen == 6


async def test_nobody_there() -> None:
    async with SimProvider() as provider:
        url = provider.url
    async with Client(url) as client:
        got = await client.call(Ask("m", "k"))
    assert (got.sent, got.cut, got.status, got.received()) == (False, "no connection", 0, None)


async def test_a_load_makes_every_call_once_with_its_tag() -> None:
    async with SimProvider() as provider:
        gots = await load(provider.url, (Ask("m", "secret", tag=f"t{n}", feature="f") for n in range(50)), clients=7)
        assert sorted(got.ask.tag for got in gots) == sorted(f"t{n}" for n in range(50))
        assert all(got.answered and got.began_ns < got.ended_ns for got in gots)
        assert {request.header("x-upeti-task") for request in provider.requests} == {got.ask.tag for got in gots}
        assert {request.header("authorization") for request in provider.requests} == {"Bearer secret"}
        assert provider.connections_total == 7


async def test_its_log_is_what_the_auditor_reads(tmp_path: Path) -> None:
    ask = Ask("m", "k")
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    body = json.dumps({"usage": usage}).encode()
    headers = {"x-request-id": "req_1", "x-upeti-cost": "0.5"}
    whole = Got(ask, status=200, headers=headers, body=body, cut="")
    unpriced = replace(whole, headers=headers | {"x-upeti-cost": "unknown"}, cut="closed")
    write_log(tmp_path / "log", [whole, Got(ask)])
    write_log(tmp_path / "log", [unpriced])
    assert read_client_logs([tmp_path / "log"]) == [
        Received("req_1", 200, True, {"input": 5, "output": 2}, "0.5"),
        Received("req_1", 200, False, None, None),
    ]
