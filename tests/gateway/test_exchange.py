"""The plan of a call at work: order, weights, failover, retries, deadlines, breakers, refusals."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import openai
import pytest

from support.gateway_side import KEY, MICRO_USD, candidate, channel, chat, request, route, serving, snapshot, until
from upeti.gateway.snapshot import Caller, Snapshot
from upeti.sim.provider import SimProvider

CALL = request(chat(max_tokens=5))
STREAM = request(chat(max_tokens=5, stream=True))


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port on which nobody listens and which nobody else gets."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def two(first: SimProvider | int, second: SimProvider, words: str = "m", **changes: Any) -> Snapshot:
    """A route with two candidates, the first of which behaves as ``words`` say."""
    channels = [channel("first", first), channel("second", second)]
    candidates = (candidate("first", words), candidate("second", "m", order=1))
    return snapshot(channels, [route("m", *candidates, **changes)])


# -- order and weights ---------------------------------------------------------------------------------------------------


async def test_the_lowest_order_answers_while_it_can(tmp_path: Path, provider: SimProvider, other: SimProvider) -> None:
    async with serving(tmp_path, two(provider, other)) as served:
        line = await served.connect()
        for _ in range(5):
            line.send(CALL)
            assert (await line.answer()).headers["x-upeti-served-by"] == "first/m"
        line.close()
    assert (provider.seen, other.seen) == (5, 0)
    assert provider.connections_total == 1


async def test_equals_share_the_calls_by_weight(tmp_path: Path, provider: SimProvider, other: SimProvider) -> None:
    candidates = (candidate("first", weight=3), candidate("second", weight=1), candidate("third", weight=0))
    channels = [channel("first", provider), channel("second", other), channel("third", other)]
    async with serving(tmp_path, snapshot(channels, [route("m", *candidates)])) as served:
        served.gateway.draw = Random(3).random
        line = await served.connect()
        for _ in range(200):
            line.send(CALL)
            await line.answer()
        line.close()
        shares = Counter(opened.channel for opened in served.books().opened)
    assert shares["third"] == 0
    assert 130 < shares["first"] < 170


# -- failover ------------------------------------------------------------------------------------------------------------

FAILURES = {
    "err429": ("refused", "posted"),
    "quota": ("refused", "posted"),
    "err500": ("refused", "posted"),
    "err502": ("refused", "posted"),
    "err503": ("refused", "posted"),
    "err529": ("refused", "posted"),
    "err408": ("refused_unsure", "estimated"),
    "err504": ("refused_unsure", "estimated"),
    "reset": ("lost", "estimated"),
    "garbage": ("garbage", "estimated"),
    "never": ("timed_out", "estimated"),
    "cutbody": ("cut", "estimated"),
    "stall-cutbody": ("timed_out", "estimated"),
    "cut0": ("cut", "estimated"),
}


@pytest.mark.parametrize("words", FAILURES)
async def test_another_candidate_answers_when_the_first_cannot(
    tmp_path: Path, provider: SimProvider, other: SimProvider, words: str
) -> None:
    async with serving(tmp_path, two(provider, other, f"m-{words}", attempt_timeout_ms=200)) as served:
        answered = await served.ask(CALL)
        assert (answered.status, answered.headers["x-upeti-served-by"]) == (200, "second/m")
        assert served.books().outcomes() == [FAILURES[words], ("answered", "posted")]
        names = [(opened.call, opened.attempt) for opened in served.books().opened]
        assert names == [(1, 0), (1, 1)]
        ids = [one.requests[0].header("x-client-request-id") for one in (provider, other)]
        assert ids == [f"{answered.headers['x-request-id']}-{number}" for number in (0, 1)]


async def test_another_candidate_answers_when_nobody_listens(tmp_path: Path, other: SimProvider, nobody: int) -> None:
    async with serving(tmp_path, two(nobody, other)) as served:
        for sent in (CALL, STREAM):
            assert (await served.ask(sent)).headers["x-upeti-served-by"] == "second/m"
        assert served.books().outcomes() == [("not_sent", "voided"), ("answered", "posted")] * 2
        assert served.events()["attempt_failed"] == 2


async def test_a_streams_first_byte_is_waited_for_too(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, two(provider, other, "m-slow5000", attempt_timeout_ms=200)) as served:
        answered = await served.ask(STREAM)
        assert answered.headers["x-upeti-served-by"] == "second/m"
        assert answered.body.endswith(b"data: [DONE]\n\n")
        assert served.books().outcomes() == [("timed_out", "estimated"), ("answered", "posted")]


@pytest.mark.parametrize("status", [400, 403, 413, 422])
async def test_what_is_wrong_with_the_call_is_no_reason_to_ask_another(
    tmp_path: Path, provider: SimProvider, other: SimProvider, status: int
) -> None:
    """After 400 and 403 a request that is known to be good tells that it was the call."""
    provider.next(f"err{status}")
    async with serving(tmp_path, two(provider, other)) as served:
        answered = await served.ask(CALL)
        assert answered.status == status
        assert answered.json["error"]["message"] == f"This is error {status} of the fake provider."
        probed = [("answered", "posted")] * (status < 410)
        assert served.books().outcomes() == [("refused", "posted"), *probed]
        assert served.books().settled[0].cost_pico == 0
    assert other.seen == 0


# -- retries -------------------------------------------------------------------------------------------------------------


async def test_an_only_candidate_is_tried_again_after_a_pause(tmp_path: Path, provider: SimProvider) -> None:
    provider.next("err500", "reset", "err503")
    async with serving(tmp_path, snapshot([channel("up", provider)])) as served:
        assert (await served.ask(CALL)).status == 200
        outcomes = served.books().outcomes()
    assert outcomes == [("refused", "posted"), ("lost", "estimated"), ("refused", "posted"), ("answered", "posted")]
    times = [one.at_ns / 1e6 for one in provider.requests]
    pauses = [after - before for before, after in pairwise(times)]
    # 100, 200, 400 ms, less up to a half that is drawn.
    assert all(least <= pause < 10 * least for least, pause in zip((50, 100, 200), pauses, strict=True))


async def test_attempts_are_limited_over_all_candidates(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    provider.always = other.always = "err500"
    async with serving(tmp_path, two(provider, other, attempts_max=3)) as served:
        assert (await served.ask(CALL)).status == 500
        assert [one.channel for one in served.books().opened] == ["first", "second", "first"]


async def test_a_limit_of_the_provider_is_left_to_the_client_to_wait_for(tmp_path: Path, provider: SimProvider) -> None:
    """429 says how long: trying at once only makes it worse."""
    async with serving(tmp_path, snapshot([channel("up", provider)])) as served:
        answered = await served.ask(request(chat("m-err429")))
        assert (answered.status, answered.headers["retry-after"]) == (429, "1")
        assert "x-should-retry" not in answered.headers
    assert provider.seen == 1


async def test_the_last_error_of_a_provider_is_given_back_as_it_came(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    provider.always, other.always = "err500", "err503"
    async with serving(tmp_path, two(provider, other, attempts_max=2)) as served:
        for sent in (CALL, STREAM):
            answered = await served.ask(sent)
            assert answered.status == 503
            assert answered.json["error"]["message"] == "This is error 503 of the fake provider."
            assert answered.headers["retry-after"] == "1"
            assert answered.headers["x-upeti-served-by"] == "second/m"
            assert answered.headers["x-upeti-cost"] == "0"


async def test_a_providers_words_go_before_ours(tmp_path: Path, provider: SimProvider, nobody: int) -> None:
    channels = [channel("first", provider), channel("second", nobody)]
    candidates = (candidate("first", "m-err500"), candidate("second", "m", order=1))
    async with serving(tmp_path, snapshot(channels, [route("m", *candidates, attempts_max=2)])) as served:
        answered = await served.ask(CALL)
        assert answered.status == 500
        assert answered.headers["x-upeti-served-by"] == "first/m-err500"


async def test_when_nobody_can_be_reached_the_error_says_who_and_why(tmp_path: Path, nobody: int) -> None:
    async with serving(
        tmp_path, snapshot([channel("up", nobody)], [route("m", candidate("up"), attempts_max=2)])
    ) as served:
        answered = await served.ask(CALL)
        assert (answered.status, answered.code) == (502, "upstream_failed")
        assert "'up'" in answered.json["error"]["message"]
        assert "refused" in answered.json["error"]["message"].lower()
        assert served.books().outcomes() == [("not_sent", "voided")] * 2
        assert [one.code for one in served.books().refused] == ["upstream_failed"]


# -- time ----------------------------------------------------------------------------------------------------------------


async def test_an_attempt_that_does_not_begin_to_answer_is_given_up(tmp_path: Path, provider: SimProvider) -> None:
    routes = [route("m-never", candidate("up"), attempt_timeout_ms=150)]
    async with serving(tmp_path, snapshot([channel("up", provider)], routes)) as served:
        answered = await served.ask(request(chat("m-never")))
        assert (answered.status, answered.code) == (504, "upstream_timeout")
        opened, settled = served.books().attempt()
        assert (settled.ended, settled.outcome, settled.cost_pico) == ("timed_out", "estimated", opened.bound_pico)
        await until(lambda: provider.connections_open == 0, what="the end of the connection")


async def test_a_calls_deadline_holds_over_all_attempts(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    """When it is over nobody else is asked: that would be paid for and thrown away."""
    provider.always = other.always = "never"
    async with serving(tmp_path, two(provider, other, deadline_ms=250)) as served:
        started = asyncio.get_running_loop().time()
        answered = await served.ask(CALL)
        assert answered.status == 504
        assert asyncio.get_running_loop().time() - started < 0.6
        assert served.books().outcomes() == [("timed_out", "estimated")]
    assert other.seen == 0


async def test_a_deadline_ends_the_waiting_between_attempts(tmp_path: Path, provider: SimProvider) -> None:
    provider.always = "err500"
    routes = [route("m", candidate("up"), deadline_ms=120, attempts_max=16)]
    async with serving(tmp_path, snapshot([channel("up", provider)], routes)) as served:
        line = await served.connect()
        line.send(CALL)
        started = asyncio.get_running_loop().time()
        answered = await line.answer()
        assert asyncio.get_running_loop().time() - started < 1
        # Within a pause ours is all there is to say; right behind one, the provider's own words.
        assert (answered.status, answered.json["error"]["code"]) in ((504, "deadline_exceeded"), (500, "server_error"))
        assert provider.seen <= 3
        provider.always = ""  # the connection's next call has a deadline of its own
        line.send(CALL)
        assert (await line.answer()).status == 200
        line.close()


async def test_an_answer_that_has_begun_may_take_longer_than_the_deadline(
    tmp_path: Path, provider: SimProvider
) -> None:
    routes = [route("m-drip60", candidate("up"), deadline_ms=150, attempt_timeout_ms=150, stream_idle_ms=5000)]
    async with serving(tmp_path, snapshot([channel("up", provider)], routes)) as served:
        answered = await served.ask(request(chat("m-drip60", max_tokens=5, stream=True)))
        assert answered.body.endswith(b"data: [DONE]\n\n")
        assert served.books().outcomes() == [("answered", "posted")]


async def test_a_connection_that_is_not_made_in_time(tmp_path: Path, other: SimProvider) -> None:
    """A listener whose queue is full answers no handshake at all."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(full.getsockname())
            waiting.append(one)
        channels = [channel("first", full.getsockname()[1], connect_timeout_ms=100), channel("second", other)]
        routes = [route("m", candidate("first"), candidate("second", order=1))]
        async with serving(tmp_path, snapshot(channels, routes)) as served:
            assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "second/m"
            assert served.books().outcomes() == [("not_sent", "voided"), ("answered", "posted")]
            assert "within 100 ms" in str(served.log.lines)
        for one in waiting:
            one.close()


# -- breaker -------------------------------------------------------------------------------------------------------------


async def test_a_channel_that_keeps_failing_is_left_out_and_tried_again_by_one_call(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    channels = [
        channel("first", provider, breaker_failures=2, breaker_pause_ms=300),
        channel("second", other),
    ]
    routes = [route("m", candidate("first"), candidate("second", order=1))]
    async with serving(tmp_path, snapshot(channels, routes)) as served:
        breaker = served.gateway.view.channels["first"].breaker
        provider.always = "err503"
        for seen in (1, 2, 2, 2):
            assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "second/m"
            assert provider.seen == seen
        assert breaker.is_open
        await asyncio.sleep(0.32)
        # Half open: of calls at the same time one tries it, the others do not wait for it.
        provider.always = "slow150"
        answers = await asyncio.gather(*(served.ask(CALL) for _ in range(4)))
        by = Counter(answered.headers["x-upeti-served-by"] for answered in answers)
        assert by == {"first/m": 1, "second/m": 3}
        provider.always = ""
        assert not breaker.is_open
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "first/m"


async def test_when_every_channel_is_left_out_they_are_tried_all_the_same(
    tmp_path: Path, provider: SimProvider
) -> None:
    first = snapshot([channel("up", provider, breaker_failures=1, breaker_pause_ms=60_000)])
    async with serving(tmp_path, first) as served:
        provider.next("err429")
        assert (await served.ask(CALL)).status == 429
        assert served.gateway.view.channels["up"].breaker.is_open
        assert (await served.ask(CALL)).status == 200
        assert not served.gateway.view.channels["up"].breaker.is_open


# -- after the first byte ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["cut3-each", "cut3-each-reset"])
async def test_within_a_stream_there_is_no_other_candidate(
    tmp_path: Path, provider: SimProvider, other: SimProvider, words: str
) -> None:
    async with serving(tmp_path, two(provider, other, f"m-{words}")) as served:
        async with served.openai() as client:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Halo"}], max_tokens=5, stream=True
            )
            got = [await anext(stream)]

            async def read_on() -> None:
                got.extend([chunk async for chunk in stream])

            with pytest.raises(openai.APIError, match="not all of it") as caught:
                await read_on()
        assert caught.value.code == "stream_cut"
        assert 0 < len(got) <= 3
        opened, settled = served.books().attempt()
        assert (settled.ended, settled.outcome, settled.cost_pico) == ("cut", "estimated", opened.bound_pico)
    assert other.seen == 0


async def test_a_stream_that_falls_silent_is_ended_with_an_error(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, two(provider, other, "m-stall3-each", stream_idle_ms=150)) as served:
        answered = await served.ask(STREAM)
        last = answered.body.split(b"\n\n")[-2]
        error = json.loads(last.removeprefix(b"data: "))["error"]
        assert (error["code"], error["request_id"]) == ("stream_idle", answered.headers["x-request-id"])
        assert served.books().outcomes() == [("timed_out", "estimated")]
        await until(lambda: provider.connections_open == 0, what="the end of the connection")


async def test_a_plain_answer_that_falls_silent_goes_to_the_next_candidate(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    """Nothing of it has reached the client; the time to the first byte is over, so only the silence can end it."""
    async with serving(tmp_path, two(provider, other, "m-stall3", stream_idle_ms=150)) as served:
        began = asyncio.get_running_loop().time()
        answered = await served.ask(CALL)
        assert asyncio.get_running_loop().time() - began < 2
        assert (answered.status, answered.headers["x-upeti-served-by"]) == (200, "second/m")
        assert served.books().outcomes() == [("timed_out", "estimated"), ("answered", "posted")]


async def test_a_message_that_is_cut_ends_with_an_error_of_its_own_shape(tmp_path: Path, provider: SimProvider) -> None:
    async with serving(tmp_path, snapshot([channel("up", provider, "anthropic")])) as served:
        sent = request({"model": "m-cut4-each", "max_tokens": 5, "messages": [], "stream": True}, "/v1/messages")
        answered = await served.ask(sent)
    event, data = answered.body.rstrip().split(b"\n\n")[-1].split(b"\n")
    assert event == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["type"] == "error"


async def test_a_cut_answer_that_is_no_stream_of_events_is_cut_for_the_client_too(tmp_path: Path) -> None:
    """Framed by its length, an answer cannot say any other way that it is not whole."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 100000\r\n\r\n" + b"x" * 50_000)
        await asyncio.sleep(0.05)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with serving(tmp_path, snapshot([channel("up", server.sockets[0].getsockname()[1])])) as served:
        line = await served.connect()
        line.send(request({"model": "m"}, "/v1/audio/speech"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await line.answer()
        assert served.books().outcomes() == [("cut", "unpriced")]
    server.close()


# -- money ---------------------------------------------------------------------------------------------------------------


async def test_without_a_price_a_call_is_refused_or_recorded(tmp_path: Path, provider: SimProvider) -> None:
    routes = [route("m", candidate("up", "unheard-of", prices={}))]
    first = snapshot([channel("up", provider)], routes)
    async with serving(tmp_path, first) as served:
        refused = await served.ask(CALL)
        assert (refused.status, refused.code) == (400, "price_unknown")
        assert "'unheard-of'" in refused.json["error"]["message"]
        assert "money.price_files" in refused.json["error"]["message"]
        assert provider.seen == 0
        served.swap(unpriced="record")
        answered = await served.ask(CALL)
        assert (answered.status, answered.headers["x-upeti-cost"]) == (200, "unknown")
        stream = await served.ask(STREAM)
        assert stream.headers["x-upeti-cost-max"] == "unknown"
        books = served.books()
    assert [one.code for one in books.refused] == ["price_unknown"]
    assert books.outcomes() == [("answered", "unpriced")] * 2
    assert [one.priced for one in books.opened] == [False] * 2
    assert all(one.meters and not one.cost_pico for one in books.settled)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"service_tier": "auto"}, 200),
        ({"service_tier": "default"}, 200),
        ({"service_tier": None}, 200),
        ({"service_tier": "flex"}, 400),
        ({"service_tier": "priority"}, 400),
        ({"service_tier": "anything"}, 400),
        ({"speed": "fast"}, 400),
    ],
)
async def test_a_tier_whose_prices_are_not_in_the_book_has_no_price(
    tmp_path: Path, provider: SimProvider, fields: dict[str, Any], status: int
) -> None:
    async with serving(tmp_path, snapshot([channel("up", provider)])) as served:
        answered = await served.ask(request(chat(max_tokens=5, **fields)))
        assert answered.status == status
        if status == 400:
            assert answered.code == "price_unknown"
            assert "tier" in answered.json["error"]["message"]


async def test_a_candidate_without_a_price_is_passed_over(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    channels = [channel("first", provider), channel("second", other)]
    routes = [route("m", candidate("first", prices={}), candidate("second", order=1))]
    async with serving(tmp_path, snapshot(channels, routes)) as served:
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "second/m"
        assert not served.books().refused
    assert provider.seen == 0


async def test_what_costs_more_than_is_left_goes_to_the_cheaper_candidate(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    channels = [channel("first", provider), channel("second", other)]
    routes = [route("m", candidate("first", output_tokens_max=1000), candidate("second", order=1, output_tokens_max=5))]
    callers = {KEY: Caller("k1", "acme", "shop", budgets=("key:k1",))}
    first = snapshot(channels, routes, callers=callers)
    async with serving(tmp_path, first, limits_pico={"key:k1": 2_000 * MICRO_USD}) as served:
        answered = await served.ask(request(chat()))
        assert answered.headers["x-upeti-served-by"] == "second/m"
    assert provider.seen == 0


# -- who may -------------------------------------------------------------------------------------------------------------


async def test_a_channel_that_may_not_serve_is_never_asked(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    channels = [channel("first", provider, purposes={"store": 1 << 63}), channel("second", other)]
    routes = [route("m", candidate("first"), candidate("second", order=1)), route("only", candidate("first"))]
    async with serving(tmp_path, snapshot(channels, routes)) as served:
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "second/m"
        refused = await served.ask(request(chat("only")))
        assert (refused.status, refused.code) == (403, "channel_not_permitted")
        await served.ask(request(path="/v1/files", method="GET"))
    assert provider.seen == 0
    assert other.seen == 2


async def test_a_right_that_ends_by_date_ends_without_anybody_telling_the_worker(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    """The next candidate answers from that moment on; where there is none, the caller is told."""
    ends_ns = time.time_ns() + 1_500_000_000
    channels = [channel("first", provider, purposes={"serve": ends_ns}), channel("second", other)]
    routes = [route("m", candidate("first"), candidate("second", order=1)), route("only", candidate("first"))]
    async with serving(tmp_path, snapshot(channels, routes)) as served:
        if time.time_ns() < ends_ns - 10**9:  # a machine may be slow to start; that it ends is what is asked
            assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "first/m"
        await asyncio.sleep(max(0, (ends_ns - time.time_ns()) / 10**9) + 0.02)
        seen = provider.seen
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "second/m"
        refused = await served.ask(request(chat("only")))
        assert (refused.status, refused.code) == (403, "channel_not_permitted")
        assert b"upeti rights explain first serve" in refused.body
    assert provider.seen == seen
