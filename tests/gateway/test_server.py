"""Limits of a connection and of a worker, and clients that do not read."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from support.gateway_side import Line, Served, candidate, channel, chat, request, route, serving, snapshot, until
from upeti.sim.provider import SimProvider

CALL = request(chat(max_tokens=5))


def limited(tmp_path: Path, provider: SimProvider, **limits: Any) -> AbstractAsyncContextManager[Served]:
    return serving(tmp_path, snapshot([channel("up", provider)], limits=limits), send_buffer_bytes=16_384)


async def test_connections_are_limited(tmp_path: Path, provider: SimProvider) -> None:
    async with limited(tmp_path, provider, connections_max=3) as served:
        lines = [await served.connect() for _ in range(3)]
        for line in lines:
            line.send(CALL)
            assert (await line.answer()).status == 200
        refused = await served.connect()
        answered = await refused.answer()  # before it has said a word
        assert (answered.status, answered.code) == (503, "too_many_connections")
        assert answered.headers["retry-after"] == "1"
        assert await refused.rest() == b""
        refused.close()
        lines.pop().close()
        await until(lambda: len(served.gateway.connections) == 2, what="the end of a connection")
        assert (await served.ask(CALL)).status == 200
        for line in lines:
            line.close()


async def test_calls_in_flight_are_limited(tmp_path: Path, provider: SimProvider) -> None:
    async with limited(tmp_path, provider, calls_max=2) as served:
        lines = [await served.connect() for _ in range(3)]
        for line in lines[:2]:
            line.send(request(chat("m-slow150", max_tokens=5)))
        await provider.wait_for(2)
        lines[2].send(CALL)
        answered = await lines[2].answer()
        assert (answered.status, answered.code) == (503, "too_many_calls")
        assert answered.headers["retry-after"] == "1"
        lines[2].send(request(path="/healthz", method="GET"))  # that is no call
        assert (await lines[2].answer()).status == 200
        assert [(await line.answer()).status for line in lines[:2]] == [200, 200]
        lines[2].send(CALL)
        assert (await lines[2].answer()).status == 200
        for line in lines:
            line.close()
    assert provider.seen == 3


async def test_a_quiet_connection_is_closed(tmp_path: Path, provider: SimProvider) -> None:
    async with limited(tmp_path, provider, idle_timeout_ms=150) as served:
        line = await served.connect()
        line.send(CALL)
        assert (await line.answer()).status == 200
        started = asyncio.get_running_loop().time()
        assert await line.rest() == b""
        assert 0.1 < asyncio.get_running_loop().time() - started < 1
        line.close()


async def test_a_call_may_take_longer_than_a_connection_may_be_quiet(tmp_path: Path, provider: SimProvider) -> None:
    async with limited(tmp_path, provider, idle_timeout_ms=50, header_timeout_ms=50) as served:
        assert (await served.ask(request(chat("m-slow250", max_tokens=5)))).status == 200


async def test_a_connection_serves_call_after_call(tmp_path: Path, provider: SimProvider) -> None:
    async with limited(tmp_path, provider) as served:
        line = await served.connect()
        ids = set()
        for number in range(50):
            line.send(request(chat(max_tokens=5, stream=number % 2 == 1)))
            ids.add((await line.answer()).headers["x-request-id"])
        line.close()
        assert len(ids) == 50
        assert served.gateway.metrics.answers == {200: 50}
    assert provider.connections_total == 1


# -- clients that do not read ------------------------------------------------------------------------------------------

KB = 400  # of text in each of some events
TEXT = b"x" * (KB << 10)


async def deaf(served: Served) -> Line:
    """A client with small buffers that reads only when it is asked to."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", served.port))
    return Line(*await asyncio.open_connection(sock=peer, limit=4_096))


async def unread(served: Served) -> int:
    """Return how many bytes the gateway holds for its only client, once they do not grow any more."""
    before = 0
    while True:
        (connection,) = served.gateway.connections
        held = connection._transport.get_write_buffer_size()
        if 0 < held == before:
            return held
        before = held
        await asyncio.sleep(0.03)


@pytest.fixture
async def served(tmp_path: Path, provider: SimProvider) -> AsyncIterator[Served]:
    async with limited(tmp_path, provider) as running:
        yield running


def long_stream() -> bytes:
    """A stream whose long text comes in four of its events."""
    body = {"model": f"m-biganswer{KB}-each", "input": "x", "max_output_tokens": 5, "stream": True}
    return request(body, "/v1/responses")


async def test_a_client_that_does_not_read_pauses_the_provider(served: Served, provider: SimProvider) -> None:
    line = await deaf(served)
    line.send(long_stream())
    held = await unread(served)
    assert held < 2 * len(TEXT)
    assert served.gateway.fibers
    answered = await line.answer()
    assert answered.body.count(TEXT) == 5
    assert b"response.completed" in answered.body
    assert served.books().outcomes() == [("answered", "posted")]
    # Both connections serve on.
    line.send(CALL)
    assert (await line.answer()).status == 200
    line.close()
    assert provider.connections_total == 1


@pytest.mark.parametrize(
    ("client_left", "ended"), [("drain", ("answered", "posted")), ("cancel", ("client_left", "estimated"))]
)
async def test_a_client_that_never_reads_is_cut_off(
    tmp_path: Path, provider: SimProvider, client_left: str, ended: tuple[str, str]
) -> None:
    async with limited(tmp_path, provider, idle_timeout_ms=200, client_left=client_left) as served:
        line = await deaf(served)
        line.send(long_stream())
        await provider.wait_for(1)
        await until(lambda: not served.gateway.connections, what="the end of the connection")
        await until(lambda: served.books().settled, what="the settlement")
        assert served.books().outcomes() == [ended]
        line.close()


async def test_a_silence_that_is_the_clients_is_not_the_providers(tmp_path: Path, provider: SimProvider) -> None:
    first = snapshot([channel("up", provider)], [route("*", candidate("up"), stream_idle_ms=100)])
    async with serving(tmp_path, first, send_buffer_bytes=16_384) as served:
        line = await deaf(served)
        line.send(long_stream())
        await unread(served)
        await asyncio.sleep(0.3)
        assert b"response.completed" in (await line.answer()).body
        assert served.books().outcomes() == [("answered", "posted")]
        line.close()


async def test_a_connection_to_the_provider_is_not_left_paused(tmp_path: Path) -> None:
    """The client is slow at the end of a stream: what is still to be written to it is no reason to stop reading from the
    provider, whose connection serves the next call.
    """
    text = b"data: " + b"x" * 200_000 + b"\n\n"
    stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(text)
    plain = b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"}]" in (asked := await reader.read(65_536)):
            if b"stream" in asked:
                writer.write(stream + text)
            else:
                head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(plain)
                writer.write(head + plain)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    first = snapshot([channel("up", server.sockets[0].getsockname()[1])])
    async with serving(tmp_path, first, send_buffer_bytes=16_384) as served:
        line = await deaf(served)
        line.send(request(chat(stream=True)))
        assert await unread(served) > 100_000
        pool = served.gateway.view.channels["up"].pool
        assert len(pool._idle) == 1
        assert (await asyncio.wait_for(served.ask(CALL), 2)).status == 200
        assert pool.open_connections == 1
        assert (await line.answer()).body == text
        line.close()
    server.close()


async def test_answers_to_a_client_that_does_not_read_do_not_pile_up(served: Served, provider: SimProvider) -> None:
    line = await deaf(served)
    for _ in range(12):
        line.send(request(chat(f"m-biganswer{KB}", max_tokens=5)))
        await asyncio.sleep(0.01)
    assert await unread(served) < 2 * len(TEXT)
    assert provider.seen == 1
    answers = [await line.answer() for _ in range(12)]
    assert all(json.loads(answered.body)["usage"] for answered in answers)
    assert provider.seen == 12
    line.close()


async def test_a_stream_to_a_client_that_has_not_read_its_last_answer_waits_too(
    served: Served, provider: SimProvider
) -> None:
    line = await deaf(served)
    line.send(request(chat(f"m-biganswer{KB}", max_tokens=5)) + long_stream())
    assert await unread(served) < 2 * len(TEXT)
    assert json.loads((await line.answer()).body)["usage"]
    assert b"response.completed" in (await line.answer()).body
    line.close()


async def test_a_client_that_leaves_behind_what_it_has_not_read(served: Served, provider: SimProvider) -> None:
    line = await deaf(served)
    line.send(long_stream() + CALL)
    await unread(served)
    line.reset()
    await until(lambda: served.books().settled, what="the settlement")
    assert served.books().outcomes() == [("answered", "posted")]
    assert provider.seen == 1
