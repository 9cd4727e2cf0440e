"""What crosses the gateway, byte for byte, both ways; and what does not cross it."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.gateway_side import KEY, Served, candidate, channel, chat, request, route, serving, snapshot
from upeti.gateway.snapshot import SecretRef
from upeti.sim.answers import answer
from upeti.sim.behaviours import behaviour_of
from upeti.sim.provider import SimProvider

ODD = (
    b'{ "messages" : [ {"role":"user","content":"\\u00e9 \\/ \xf0\x9f\x99\x82"} ],\r\n\t'
    b'"temperature":1.0E-1,"model":"m","max_tokens" : 5,"x":[1.50,null ] }\n'
)


@pytest.fixture
async def served(tmp_path: Path, provider: SimProvider) -> AsyncIterator[Served]:
    routes = [
        route("m", candidate("up")),
        route("renamed", candidate("up", "m-other")),
        route("capped", candidate("up", "m", output_tokens_max=7)),
        route("*", candidate("up")),
    ]
    async with serving(tmp_path, snapshot([channel("up", provider)], routes)) as running:
        yield running


def provided(sent: Any) -> Any:
    """What the fake provider answers to a request that arrived: body, or events joined."""
    found = answer(sent, behaviour_of(sent.json.get("model", "")))
    return found.body if found.events is None else b"".join(event.data for event in found.events)


@pytest.mark.parametrize(
    ("sent", "arrived"),
    [
        (ODD, ODD),
        (ODD.replace(b'"m"', b'"renamed"'), ODD.replace(b'"m"', b'"m-other"')),
        (b'{"model":"m"}', b'{"model":"m","max_tokens":4096}'),
        (b'{"model":"capped"}', b'{"model":"m","max_tokens":7}'),
        (b'{"model":"capped","max_tokens":null}', b'{"model":"m","max_tokens":7}'),
        (b'{"model":"capped","max_completion_tokens":9}', b'{"model":"m","max_completion_tokens":9}'),
        (
            b'{"model":"m","max_tokens":5,"stream":true}',
            b'{"model":"m","max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"model":"m","max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}',
            b'{"model":"m","max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"model":"m","max_tokens":5,"stream":true,"stream_options":{"include_usage":false,"y":1.0}}',
            b'{"model":"m","max_tokens":5,"stream":true,"stream_options":{"include_usage":true,"y":1.0}}',
        ),
        (b'{"model":"m","max_tokens":5,"stream":false}', b'{"model":"m","max_tokens":5,"stream":false}'),
    ],
)
async def test_a_body_arrives_as_it_was_sent_but_for_model_cap_and_stream_usage(
    served: Served, provider: SimProvider, sent: bytes, arrived: bytes
) -> None:
    answered = await served.ask(request(sent))
    assert answered.status == 200
    assert provider.requests[0].body == arrived


@pytest.mark.parametrize(
    ("path", "sent", "arrived"),
    [
        ("/v1/responses", b'{"model":"m"}', b'{"model":"m","max_output_tokens":4096}'),
        ("/v1/responses", b'{"model":"m","stream":true}', b'{"model":"m","stream":true,"max_output_tokens":4096}'),
        # The API's own cap of 16 is what is priced; it is written down all the same.
        ("/v1/completions", b'{"model":"m"}', b'{"model":"m","max_tokens":16}'),
        ("/v1/embeddings", b'{"model":"m","input":"x"}', b'{"model":"m","input":"x"}'),
        ("/v1/embeddings", b'{"model":"renamed","input":"x"}', b'{"model":"m-other","input":"x"}'),
        ("/v1/moderations", b'{"model":"renamed","input":"x"}', b'{"model":"m-other","input":"x"}'),
        ("/v1/moderations", b'{"input": "x"}', b'{"input": "x"}'),
        # An Azure deployment's name is the model of a body that has none.
        ("/openai/deployments/renamed/embeddings", b'{"input":"x"}', b'{"input":"x","model":"m-other"}'),
        (
            "/openai/deployments/renamed/chat/completions?api-version=1",
            b'{"metadata":{"model":"mine"},"max_tokens":5}',
            b'{"metadata":{"model":"mine"},"max_tokens":5,"model":"m-other"}',
        ),
    ],
)
async def test_on_other_paths_too(
    served: Served, provider: SimProvider, path: str, sent: bytes, arrived: bytes
) -> None:
    assert (await served.ask(request(sent, path))).status == 200
    assert provider.requests[0].body == arrived


@pytest.mark.parametrize(
    "words", ["", "chunked", "split9", "close", "http10", "interim", "trap", "biganswer300", "drop"]
)
async def test_a_plain_answer_comes_back_as_it_was_given(served: Served, provider: SimProvider, words: str) -> None:
    answered = await served.ask(request(chat(f"m-{words}", max_tokens=5)))
    assert answered.status == 200
    assert answered.body == provided(provider.requests[0])
    assert answered.headers["content-length"] == str(len(answered.body))
    assert served.books().outcomes() == [("answered", "posted")]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "each",
        "split9",
        "crlf-each",
        "ping",
        "close",
        "http10",
        "interim",
        "trap-each",
        "biganswer300",
        "drip1",
        "drop",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_a_stream_comes_back_as_it_was_given(
    served: Served, provider: SimProvider, path: str, words: str
) -> None:
    body = chat(f"m-{words}", stream=True, stream_options={"include_usage": True})
    cap = "max_tokens" if "chat" in path else "max_output_tokens"
    answered = await served.ask(request(body | {cap: 5}, path))
    assert answered.status == 200
    assert answered.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answered.body == provided(provider.requests[0])
    assert served.books().outcomes() == [("answered", "posted")]


async def test_a_stream_without_the_usage_that_only_we_asked_for(served: Served, provider: SimProvider) -> None:
    for words in ("", "each", "split9", "crlf", "drip1"):
        answered = await served.ask(request(chat(f"m-{words}", stream=True, max_tokens=5)))
        given = provided(provider.requests[-1]).replace(b"\r\n", b"\n").split(b"\n\n")
        kept = [event for event in given if b'"choices":[],' not in event]
        assert len(given) == len(kept) + 1
        assert answered.body.replace(b"\r\n", b"\n") == b"\n\n".join(kept)


async def test_a_compressed_answer_passes_and_is_counted_all_the_same(served: Served, provider: SimProvider) -> None:
    answered = await served.ask(request(chat("m-gzip", max_tokens=5)))
    assert answered.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answered.body) == provided(provider.requests[0])
    assert provider.requests[0].header("accept-encoding") == "identity"
    assert served.books().outcomes() == [("answered", "posted")]


async def test_an_answer_that_is_no_text_passes(served: Served) -> None:
    answered = await served.ask(request({"model": "m", "input": "Halo"}, "/v1/audio/speech"))
    assert answered.body == bytes(range(256)) * 64
    assert answered.headers["content-type"] == "audio/mpeg"


async def test_an_answer_without_a_body(tmp_path: Path) -> None:
    """204, 304 and a redirect: statuses that no model answers with, but files and proxies do."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            status = head.split(b" ")[1].rpartition(b"/")[2]
            location = b"location: /elsewhere\r\n" if status.startswith(b"3") else b""
            length = b"" if status in (b"204", b"304") else b"content-length: 0\r\n"
            writer.write(b"HTTP/1.1 %b X\r\n%b%b\r\n" % (status, location, length))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with serving(tmp_path, snapshot([channel("up", server.sockets[0].getsockname()[1])])) as served:
        line = await served.connect()
        for status in (204, 304, 307, 200, 204):
            line.send(request(path=f"/v1/status/{status}", method="GET"))
            answered = await line.answer()
            assert (answered.status, answered.body) == (status, b"")
            assert answered.headers.get("location") == ("/elsewhere" if status in (304, 307) else None)
            assert ("content-length" in answered.headers) is (status != 204)
        line.close()
    server.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_old_client_gets_an_old_answer(served: Served, provider: SimProvider, stream: bool) -> None:
    """HTTP/1.0 knows no chunks: the end of the connection is the end of a stream."""
    sent = request(chat(max_tokens=5, stream=stream)).replace(b"HTTP/1.1", b"HTTP/1.0")
    answered = await served.talk(sent)
    head, _, body = answered.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body.endswith(b"data: [DONE]\n\n") if stream else json.loads(body)
    # … and may ask that the connection stays.
    line = await served.connect()
    for _ in range(2):
        line.send(request(chat(max_tokens=5), headers="Connection: keep-alive\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"))
        kept = await line.answer()
        assert (kept.status, kept.headers["connection"]) == (200, "keep-alive")
    line.close()


# -- what does not cross -------------------------------------------------------------------------------------------------


async def test_nothing_of_the_client_reaches_the_provider_but_its_request(
    tmp_path: Path, provider: SimProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_KEY_OF_TESTS", "provider-secret")
    view = channel(
        "up",
        provider,
        api_key=SecretRef("env", "PROVIDER_KEY_OF_TESTS"),
        organization="org-ours",
        project="proj-ours",
    )
    headers = (
        f"Api-Key: {KEY}\r\nX-Api-Key: {KEY}\r\nCookie: session=client\r\nX-Forwarded-For: 10.1.1.1\r\n"
        "User-Agent: client/1\r\nOpenAI-Organization: org-client\r\nOpenAI-Project: proj-client\r\nX-Sim: err500\r\n"
        "X-Upeti-Feature: search\r\nX-Upeti-Task: rank\r\nX-Request-Id: client-1\r\nAccept: application/json\r\n"
        "OpenAI-Beta: assistants=v2\r\nIdempotency-Key: once\r\nAccept-Encoding: br\r\nTE: trailers\r\n"
    )
    async with serving(tmp_path, snapshot([view])) as served:
        assert (await served.ask(request(chat(max_tokens=5), headers=headers))).status == 200
        opened, _ = served.books().attempt()
    (arrived,) = provider.requests
    assert KEY.encode() not in arrived.head + arrived.body
    assert b"client" not in arrived.head.replace(b"x-client-request-id", b"")
    names = [name for name, _ in arrived.headers]
    assert sorted(names) == sorted(
        {
            "host",
            "user-agent",
            "accept-encoding",
            "authorization",
            "openai-organization",
            "openai-project",
            "content-type",
            "accept",
            "openai-beta",
            "idempotency-key",
            "x-client-request-id",
            "content-length",
        }
    )
    assert arrived.header("authorization") == "Bearer provider-secret"
    assert arrived.header("openai-organization") == "org-ours"
    assert arrived.header("host") == f"127.0.0.1:{provider.port}"
    assert (opened.feature, opened.task) == ("search", "rank")
    journal = b"".join(path.read_bytes() for path in tmp_path.rglob("*.upj"))
    assert KEY.encode() not in journal
    assert b"provider-secret" not in journal


async def test_nothing_of_the_providers_account_reaches_the_client(tmp_path: Path) -> None:
    body = b'{"id":"x","usage":{"prompt_tokens":1,"completion_tokens":1}}'
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: session=provider\r\nOpenAI-Organization: org-x\r\n"
        b"X-RateLimit-Remaining-Tokens: 7\r\nServer: provider\r\nCF-Ray: x\r\nOpenAI-Processing-MS: 12\r\n"
        b"X-Request-ID: req_theirs\r\nX-Upeti-Cost: 0\r\nStrict-Transport-Security: x\r\nContent-Length: %d\r\n\r\n"
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(head % len(body) + body)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with serving(tmp_path, snapshot([channel("up", server.sockets[0].getsockname()[1])])) as served:
        answered = await served.ask(request(chat(max_tokens=5)))
    server.close()
    assert answered.body == body
    assert answered.headers.keys() == {
        "content-type",
        "content-length",
        "openai-processing-ms",
        "x-request-id",
        "x-upeti-served-by",
        "x-upeti-cost",
        "x-upeti-currency",
        "x-upeti-provider-request-id",
    }
    assert answered.headers["x-upeti-provider-request-id"] == "req_theirs"
    assert answered.headers["x-request-id"] != "req_theirs"
    assert answered.headers["x-upeti-cost"] != "0"


async def test_a_models_name_cannot_write_headers(served: Served, provider: SimProvider) -> None:
    name = "m\r\nset-cookie: x=1\r\n\r\n漢字"
    answered = await served.ask(request(chat(name, max_tokens=5)))
    assert answered.status == 200
    assert "set-cookie" not in answered.headers
    assert answered.headers["x-upeti-served-by"] == "up/m??set-cookie: x=1??????"
    assert provider.requests[0].json["model"] == name
