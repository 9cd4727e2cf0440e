"""Connections to a provider: kept, limited, aged, and given up without a trace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from support.gateway_side import Served, candidate, channel, chat, request, route, serving, snapshot, until
from upeti.sim.provider import SimProvider

CALL = request(chat(max_tokens=5))


@pytest.fixture
async def served(tmp_path: Path, provider: SimProvider) -> AsyncIterator[Served]:
    async with serving(tmp_path, snapshot([channel("up", provider)])) as running:
        yield running


async def test_connections_are_kept_and_the_last_used_goes_first(served: Served, provider: SimProvider) -> None:
    slow = request(chat("m-slow60", max_tokens=5))
    await asyncio.gather(*(served.ask(slow) for _ in range(5)))
    assert provider.connections_total == 5
    for _ in range(6):
        await served.ask(CALL)
    assert provider.connections_total == 5
    assert len({one.connection for one in provider.requests[5:]}) == 1
    pool = served.gateway.view.channels["up"].pool
    assert (pool.open_connections, len(pool._idle)) == (5, 5)


async def test_a_channels_connections_are_limited_and_the_next_candidate_helps_out(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    channels = [channel("up", provider, connections_max=1), channel("more", other)]
    routes = [
        route("m-slow80", candidate("up"), candidate("more", order=1)),
        route("alone", candidate("up"), attempts_max=1),
    ]
    async with serving(tmp_path, snapshot(channels, routes)) as served:
        answers = await asyncio.gather(*(served.ask(request(chat("m-slow80", max_tokens=5))) for _ in range(3)))
        assert sorted(one.headers["x-upeti-served-by"] for one in answers) == ["more/m-slow80"] * 2 + ["up/m-slow80"]
        assert served.books().outcomes().count(("not_sent", "voided")) == 2
        holding = asyncio.ensure_future(served.ask(request(chat("m-slow80", max_tokens=5))))
        await provider.wait_for(2)
        refused = await served.ask(request(chat("alone")))
        assert (refused.status, refused.code) == (502, "upstream_failed")
        assert "raise connections_max" in refused.json["error"]["message"]
        assert (await holding).status == 200


async def test_an_idle_connection_is_closed_before_the_provider_does(tmp_path: Path, provider: SimProvider) -> None:
    first = snapshot([channel("up", provider, keepalive_idle_ms=100)])
    async with serving(tmp_path, first) as served:
        assert (await served.ask(CALL)).status == 200
        pool = served.gateway.view.channels["up"].pool
        now_s = served.gateway.loop.time()
        pool.close_idle(now_s + 0.05)
        assert pool.open_connections == 1
        pool.close_idle(now_s + 0.2)
        await until(lambda: provider.connections_open == 0, what="the end of the connection")
        assert (pool.open_connections, pool._idle) == (0, [])
        assert (await served.ask(CALL)).status == 200


async def test_a_connection_that_is_still_being_made_when_its_call_ends_leaves_no_trace(tmp_path: Path) -> None:
    """The call's deadline passes during a TLS handshake that nobody answers."""
    open_ones: set[asyncio.StreamWriter] = set()

    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        await reader.read(100_000)
        await reader.read()
        open_ones.discard(writer)
        writer.close()

    server = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
    view = channel("up", server.sockets[0].getsockname()[1], tls=True, connect_timeout_ms=60_000)
    first = snapshot([view], [route("*", candidate("up"), attempts_max=1, deadline_ms=100)])
    async with serving(tmp_path, first) as served:
        answered = await served.ask(CALL)
        assert (answered.status, answered.code) == (504, "upstream_timeout")
        assert served.books().outcomes() == [("not_sent", "voided")]
        pool = served.gateway.view.channels["up"].pool
        await until(lambda: pool._opening == 0, what="the end of the attempt to connect")
        assert pool.open_connections == 0
        await until(lambda: not open_ones, what="the end of the connection")
    server.close()


async def test_a_provider_that_comes_back_on_its_port_is_found(tmp_path: Path) -> None:
    provider = SimProvider()
    await provider.start()
    first = snapshot([channel("up", provider)], [route("*", candidate("up"), attempts_max=1)])
    async with serving(tmp_path, first) as served:
        assert (await served.ask(CALL)).status == 200
        await provider.stop()
        await until(lambda: served.gateway.view.channels["up"].pool.open_connections == 0, what="the end")
        assert (await served.ask(CALL)).status == 502
        await provider.start()
        assert (await served.ask(CALL)).status == 200
    await provider.stop()


@pytest.mark.parametrize("host", ["a" * 70 + ".example.com", "a..b"])
async def test_a_host_that_cannot_be_is_no_connection(tmp_path: Path, host: str) -> None:
    view = msgspec.structs.replace(channel("up", 80), host=host)
    async with serving(
        tmp_path, snapshot([channel("up", 80)], [route("*", candidate("up"), attempts_max=1)])
    ) as served:
        served.gateway.view.channels["up"].pool.view = view
        answered = await served.ask(CALL)
        assert (answered.status, answered.code) == (502, "upstream_failed")
        assert served.books().outcomes() == [("not_sent", "voided")]


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\nx: y\n\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
        b"ICY 200 OK\r\n\r\n",
        b"\r\n\r\n\r\n",
    ],
)
async def test_a_head_that_is_none_is_garbage(tmp_path: Path, head: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}]")
        writer.write(head)
        await asyncio.sleep(0.05)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    view = channel("up", server.sockets[0].getsockname()[1])
    async with serving(tmp_path, snapshot([view], [route("*", candidate("up"), attempts_max=1)])) as served:
        answered = await served.ask(CALL)
        assert (answered.status, answered.code) == (502, "upstream_failed")
        ((ended, outcome),) = served.books().outcomes()
        assert (ended in ("garbage", "lost"), outcome) == (True, "estimated")
    server.close()


@pytest.mark.parametrize("early", [b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_interim_answers_are_not_the_answer(tmp_path: Path, early: bytes) -> None:
    body = b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"}]" in await reader.read(65_536):
            writer.write(early * 2)
            await asyncio.sleep(0.01)
            writer.write(early + head + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with serving(tmp_path, snapshot([channel("up", server.sockets[0].getsockname()[1])])) as served:
        for _ in range(2):
            answered = await served.ask(CALL)
            assert (answered.status, answered.body) == (200, body)
            assert "link" not in answered.headers
        assert served.gateway.view.channels["up"].pool.open_connections == 1
    server.close()


async def test_an_answer_before_the_request_was_read_is_taken(tmp_path: Path) -> None:
    """A provider may refuse a long body by its head and close."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"error":{"message":"too long","code":"too_long"}}'
        writer.write(
            b"HTTP/1.1 413 X\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    async with serving(tmp_path, snapshot([channel("up", server.sockets[0].getsockname()[1])])) as served:
        answered = await served.ask(request(chat(x="y" * 5_000_000)))
        assert (answered.status, answered.json["error"]["code"]) == (413, "too_long")
        assert served.books().outcomes() == [("refused", "posted")]
    server.close()
