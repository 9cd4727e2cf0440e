"""What is not a sound request, on raw sockets: a clear 4xx in the client's own shape, never a crash, never a 5xx."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.gateway_side import (
    KEY,
    Heard,
    Served,
    candidate,
    channel,
    chat,
    request,
    route,
    serving,
    snapshot,
    until,
)
from upeti.gateway.snapshot import Caller
from upeti.sim.provider import SimProvider

CALL = request(chat(max_tokens=5))


@pytest.fixture
async def served(tmp_path: Path, provider: SimProvider) -> AsyncIterator[Served]:
    callers = {
        KEY: Caller("k1", "acme", "shop"),
        "old": Caller("k2", "acme", "shop", expires_ns=1),
        "limited": Caller("k3", "acme", "shop", routes=frozenset({"other"})),
    }
    routes = [route("m", candidate("up")), route("other", candidate("up"))]
    limits = {"header_bytes_max": 16_384, "body_bytes_max": 1_000_000}
    async with serving(
        tmp_path, snapshot([channel("up", provider)], routes, callers=callers, limits=limits)
    ) as running:
        yield running
        assert await running.healthy()
        answers = running.gateway.metrics.answers
        assert not [status for status in answers if status >= 500], answers


async def refused(served: Served, data: bytes, status: int, code: str, *, closes: bool = True) -> Heard:
    """Send ``data``; the answer must be an error of ours that names its code, and end the connection or not."""
    line = await served.connect()
    line.send(data)
    answered = await line.answer()
    assert (answered.status, answered.code) == (status, code), answered.body
    assert answered.headers["content-type"] == "application/json"
    assert (answered.headers.get("connection") == "close") is closes
    if closes:
        assert await line.rest() == b""
    else:
        line.send(CALL)
        assert (await line.answer()).status == 200
    line.close()
    return answered


# -- HTTP that is none -------------------------------------------------------------------------------------------------

NOT_HTTP = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
    "a bad method": b"FOO /v1/models HTTP/1.1\r\nHost: u\r\n\r\n",
    "a method in small letters": b"post /v1/models HTTP/1.1\r\nHost: u\r\n\r\n",
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a bare LF": CALL.replace(b"\r\n", b"\n"),
    "a bare LF behind one line": CALL.replace(b"upeti\r\n", b"upeti\n"),
    "a bare CR": CALL.replace(b"upeti\r\n", b"upeti\r"),
    "obs-fold": CALL.replace(b"Host: upeti\r\n", b"Host: upeti\r\n folded: x\r\n"),
    "NUL in a header": CALL.replace(b"upeti", b"up\x00eti"),
    "CR in a header": CALL.replace(b"upeti", b"up\reti"),
    "a blank before the colon": CALL.replace(b"Host:", b"Host :"),
    "a name with a blank": CALL.replace(b"Host:", b"Ho st:"),
    "a header without a name": CALL.replace(b"Host:", b":"),
    "a header without a colon": CALL.replace(b"Host: upeti", b"Host upeti"),
    "a NUL in the path": CALL.replace(b"/v1/", b"/v1\x00/"),
    "bytes beyond ASCII in the path": CALL.replace(b"/v1/", b"/v1/\xff\xfe"),
    "a blank in the path": CALL.replace(b"/v1/", b"/v1 /"),
    "a version that is none": CALL.replace(b"HTTP/1.1", b"HTTP/9.9"),
    "content-length twice": CALL.replace(b"Host: upeti\r\n", b"Content-Length: 5\r\n"),
    "content-length that contradicts itself": CALL.replace(b"Content-Length: ", b"Content-Length: 5, "),
    "a negative content-length": CALL.replace(b"Content-Length: ", b"Content-Length: -"),
    "a content-length with a sign": CALL.replace(b"Content-Length: ", b"Content-Length: +"),
    "a content-length in hex": CALL.replace(b"Content-Length: ", b"Content-Length: 0x"),
    "an endless content-length": CALL.replace(b"Content-Length: ", b"Content-Length: " + b"9" * 30),
    "an empty content-length": CALL.replace(b"Content-Length: ", b"Content-Length: \r\nX: "),
    "TE and CL": CALL.replace(b"Host: upeti\r\n", b"Transfer-Encoding: chunked\r\n"),
    "CL and TE": CALL.replace(b"Content-Type: application/json\r\n", b"Transfer-Encoding: chunked\r\n"),
    "TE that is not chunked": CALL.replace(b"Content-Length", b"X").replace(
        b"Host:", b"Transfer-Encoding: gzip\r\nHost:"
    ),
    "TE with chunked in the middle": CALL.replace(b"Content-Length", b"X").replace(
        b"Host:", b"Transfer-Encoding: chunked, gzip\r\nHost:"
    ),
    "TE that is hardly chunked": CALL.replace(b"Content-Length", b"X").replace(
        b"Host:", b"Transfer-Encoding: xchunked\r\nHost:"
    ),
}
CHUNKED = CALL.partition(b"Content-Length")[0] + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
NOT_CHUNKS = {
    "a size that is no number": b"xyz\r\n",
    "a negative size": b"-5\r\nabcde\r\n",
    "an endless size": b"f" * 20 + b"\r\n",
    "a size that is wrong": b"5\r\nabcdefgh\r\n0\r\n\r\n",
    "a bare LF behind the size": b"5\nabcde\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("data", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_what_is_not_http(served: Served, provider: SimProvider, data: bytes) -> None:
    await refused(served, data, 400, "invalid_http")
    assert provider.seen == 0


@pytest.mark.parametrize("data", NOT_CHUNKS.values(), ids=NOT_CHUNKS)
async def test_chunks_that_are_none(served: Served, provider: SimProvider, data: bytes) -> None:
    await refused(served, CHUNKED + data, 400, "invalid_http")
    assert provider.seen == 0


async def test_a_body_in_a_coding_that_nobody_undoes(served: Served) -> None:
    data = CHUNKED.replace(b"Encoding: chunked", b"Encoding: gzip, chunked") + b"3\r\nabc\r\n0\r\n\r\n"
    await refused(served, data, 400, "invalid_http")


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_a_bad_request_is_found_in_any_pieces(served: Served, piece: int) -> None:
    line = await served.connect()
    data = NOT_HTTP["NUL in a header"]
    for at in range(0, len(data), piece):
        line.send(data[at : at + piece])
        await asyncio.sleep(0)
    assert (await line.answer()).code == "invalid_http"
    line.close()


async def test_chunks_are_put_together_and_trailers_left(served: Served, provider: SimProvider) -> None:
    body = json.dumps(chat(max_tokens=5)).encode()
    parts = b"".join(b"%x;ext=1\r\n%b\r\n" % (1, body[at : at + 1]) for at in range(len(body)))
    answered = await served.ask(CHUNKED + parts + b"0\r\nX-Trailer: 1\r\n\r\n")
    assert answered.status == 200
    (arrived,) = provider.requests
    assert arrived.body == body
    assert arrived.header("transfer-encoding") is None
    assert arrived.header("x-trailer") is None


# -- methods, upgrades, forms of the path --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["CONNECT", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH"])
async def test_a_method_that_is_not_served(served: Served, method: str) -> None:
    path = "u:443" if method == "CONNECT" else "/v1/models"
    await refused(served, request(path=path, method=method), 405, "method_not_allowed")


async def test_head_is_answered_without_a_body(served: Served) -> None:
    """A body would be taken for the next answer."""
    line = await served.connect()
    line.send(request(path="/healthz", method="HEAD") + request(path="/healthz", method="GET"))
    head = await line.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert (await line.answer()).body == b'{"status":"ok"}'
    line.close()
    answered = await served.talk(request(path="/v1/models", method="HEAD"))
    assert answered.startswith(b"HTTP/1.1 405 ")
    assert answered.endswith(b"\r\n\r\n")


async def test_a_websocket_is_refused(served: Served) -> None:
    headers = "Connection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: x\r\n"
    await refused(
        served, request(path="/v1/realtime?model=m", method="GET", headers=headers), 400, "upgrade_unsupported"
    )


@pytest.mark.parametrize("behind", [b"", CALL, CALL + CALL])
async def test_an_offer_of_http_2_is_ignored(served: Served, provider: SimProvider, behind: bytes) -> None:
    headers = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    line = await served.connect()
    line.send(request(chat(max_tokens=5), headers=headers) + behind)
    for _ in range(1 + len(behind) // len(CALL)):
        answered = await line.answer()
        assert answered.status == 200
    assert "upgrade" not in answered.headers
    line.close()
    assert provider.seen == 1 + len(behind) // len(CALL)


async def test_the_absolute_form_is_taken(served: Served, provider: SimProvider) -> None:
    answered = await served.ask(request(chat(max_tokens=5), "http://api.example.com/v1/chat/completions"))
    assert answered.status == 200
    assert provider.requests[0].target == "/v1/chat/completions"


@pytest.mark.parametrize(
    "path", ["/v1/../x", "/v1/%2e%2e/x", "/v1//x", "/v1/..%2fx", "/v1/x%00", "/openai/deployments/../../x"]
)
async def test_a_path_that_leaves_its_place(served: Served, provider: SimProvider, path: str) -> None:
    if "%00" in path:
        assert (await served.ask(request({}, path))).status == 200  # odd, but it stays where it is
        return
    await refused(served, request({}, path), 400, "invalid_path", closes=False)
    assert provider.seen == 1


@pytest.mark.parametrize("path", ["/", "/admin", "/v2/chat/completions", "*"])
async def test_a_path_that_is_not_here(served: Served, path: str) -> None:
    code, status = ("invalid_path", 400) if path == "*" else ("unknown_path", 404)
    await refused(served, request({}, path), status, code, closes=False)


# -- who -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        (None, 401, "missing_api_key"),
        ("", 401, "missing_api_key"),
        ("wrong", 401, "invalid_api_key"),
        ("x" * 12_000, 401, "invalid_api_key"),
        ("old", 401, "expired_api_key"),
        ("limited", 403, "route_not_allowed"),
    ],
)
async def test_a_key_that_may_not(
    served: Served, provider: SimProvider, key: str | None, status: int, code: str
) -> None:
    await refused(served, request(chat(), key=key), status, code, closes=False)
    assert provider.seen == 1  # the one that is sent to see whether the connection lives
    refusals = served.books().refused
    # A stranger's refusal is nobody's, and not written down.
    assert [(one.key, one.code) for one in refusals] == ([("k3", code)] if status == 403 else [])


async def test_another_scheme_is_no_key_even_where_it_stood_beside_one(served: Served) -> None:
    """A client that sends a key in two places must not let in whoever repeats the wrong one."""
    both = CALL.replace(b"Bearer " + KEY.encode(), b"Basic Zm9vOmJhcg==\r\nApi-Key: " + KEY.encode())
    assert (await served.ask(both)).status == 200
    alone = CALL.replace(b"Bearer " + KEY.encode(), b"Basic Zm9vOmJhcg==")
    await refused(served, alone, 401, "missing_api_key", closes=False)


async def test_on_anthropics_paths_an_error_has_its_shape(served: Served) -> None:
    for sent, status, kind in (
        (request(chat(), "/v1/messages", key=None), 401, "authentication_error"),
        (request(chat("unknown"), "/v1/messages"), 404, "not_found_error"),
        (request(b"{", "/v1/messages"), 400, "invalid_request_error"),
        (request(b"{}", "/v1/messages", headers="Content-Encoding: gzip\r\n"), 415, "invalid_request_error"),
        (request(b"x", "/v1/messages").replace(b"Length: 1", b"Length: 9999999"), 413, "request_too_large"),
        (request(b"{}", "/v1/messages").replace(b"Length: ", b"Length: +"), 400, "invalid_request_error"),
    ):
        answered = await served.ask(sent)
        assert (answered.status, answered.json["type"], answered.json["error"]["type"]) == (status, "error", kind)
        assert answered.json["request_id"] == answered.headers["x-request-id"]


# -- bodies ----------------------------------------------------------------------------------------------------------

BODIES: dict[str, tuple[object, str]] = {
    "nothing": (b"", "invalid_json"),
    "no body at all": (None, "invalid_json"),
    "an array": ([], "invalid_type"),
    "null": (b"null", "invalid_type"),
    "a text": ("m", "invalid_type"),
    "cut": (b'{"model":"m"', "invalid_json"),
    "two": (b"{}{}", "invalid_json"),
    "invalid UTF-8": (b'{"model":"m","x":"\xff\xfe"}', "invalid_utf8"),
    "UTF-16": ('{"model":"m"}'.encode("utf-16"), "invalid_utf8"),
    "nested without an end": (b"[" * 100_000, "invalid_type"),
    "nested": (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
    "no model": ({"messages": []}, "missing_model"),
    "an empty model": (chat(""), "missing_model"),
    "a model that is a number": ({"model": 7}, "invalid_type"),
    "a model of a megabyte": (chat("x" * 900_000), "invalid_model"),
    "stream is a text": (chat(stream="yes"), "invalid_type"),
    "n is a fraction": (chat(n=1.5), "invalid_type"),
    "n is too much": (chat(n=1 << 70), "invalid_value"),
    "a cap below zero": (chat(max_tokens=-1), "invalid_value"),
    "a cap without an end": (chat(max_tokens=1 << 70), "invalid_value"),
    "a feature that is no name": (chat(metadata={"upeti_feature": "a\nb"}), "invalid_tag"),
}


@pytest.mark.parametrize(("body", "code"), BODIES.values(), ids=BODIES)
async def test_a_body_that_is_no_request(served: Served, provider: SimProvider, body: object, code: str) -> None:
    await refused(served, request(body), 400, code, closes=False)
    assert provider.seen == 1
    assert [one.code for one in served.books().refused] == [code]


async def test_an_unknown_model_is_named_beside_those_that_are_known(served: Served) -> None:
    answered = await refused(served, request(chat("gpt-9")), 404, "model_not_found", closes=False)
    assert "'gpt-9'" in answered.json["error"]["message"]
    assert "Known here: m, other." in answered.json["error"]["message"]
    assert answered.json["error"]["param"] == "model"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"])
async def test_a_body_that_says_it_is_no_json(served: Served, content_type: str) -> None:
    sent = request(chat(), headers=f"Content-Type: {content_type}\r\n")
    await refused(served, sent, 400, "invalid_content_type", closes=False)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"]
)
async def test_a_body_that_says_it_is_json(served: Served, content_type: str) -> None:
    sent = request(chat(max_tokens=5), headers=f"Content-Type: {content_type}\r\n")
    assert (await served.ask(sent)).status == 200


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "x"])
async def test_a_compressed_body(served: Served, coding: str) -> None:
    sent = request(b"\x1f\x8b\x08\x00", headers=f"Content-Encoding: {coding}\r\n")
    await refused(served, sent, 415, "encoding_unsupported", closes=False)


@pytest.mark.parametrize(
    "headers", ["X-Upeti-Feature: a,b\r\n", f"X-Upeti-Task: {'x' * 129}\r\n", "X-Upeti-Feature: \xe9\r\n"]
)
async def test_a_tag_that_is_no_name(served: Served, headers: str) -> None:
    await refused(served, request(chat(), headers=headers), 400, "invalid_tag", closes=False)


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_head_without_measure(served: Served, end: bytes, at_once: bool) -> None:
    data = CALL.partition(b"\r\n\r\n")[0] + b"\r\nX: " + b"x" * 20_000 + end
    if at_once or not end:
        await refused(served, data, 431, "headers_too_large")
        return
    line = await served.connect()
    for at in range(0, len(data), 1000):
        line.send(data[at : at + 1000])
        await asyncio.sleep(0.001)
    answered = await line.answer()
    assert (answered.status, answered.code) == (431, "headers_too_large")
    line.close()


async def test_many_small_headers_are_a_head_without_measure_too(served: Served) -> None:
    headers = "".join(f"X-{number}: y\r\n" for number in range(3_000))
    await refused(served, request(chat(), headers=headers), 431, "headers_too_large")


async def test_a_path_without_measure(served: Served) -> None:
    await refused(served, request(chat(), "/v1/" + "x" * 20_000), 431, "headers_too_large")


@pytest.mark.parametrize("key", [KEY, None])
async def test_a_body_that_announces_too_much(served: Served, key: str | None) -> None:
    """Refused by its head, before a byte of it is read."""
    sent = request(b"", key=key).replace(b"Content-Length: 0", b"Content-Length: 1000001")
    answered = await refused(served, sent, 413, "body_too_large")
    assert "gateway.body_bytes_max" in answered.json["error"]["message"]


async def test_a_stranger_may_not_send_much(served: Served) -> None:
    sent = request(b"", key="wrong").replace(b"Content-Length: 0", b"Content-Length: 70000")
    await refused(served, sent, 401, "invalid_api_key")
    chunks = CHUNKED.replace(KEY.encode(), b"wrong") + b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    await refused(served, chunks, 401, "invalid_api_key")


async def test_chunks_without_measure(served: Served) -> None:
    line = await served.connect()
    line.send(CHUNKED)
    for _ in range(40):
        line.send(b"8000\r\n" + b"x" * 32_768 + b"\r\n")
        await asyncio.sleep(0)
    answered = await line.answer()
    assert (answered.status, answered.code) == (413, "body_too_large")
    line.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_fifty_megabytes_are_relayed(tmp_path: Path, provider: SimProvider, chunked: bool) -> None:
    body = json.dumps(chat(max_tokens=5, x="y" * 50_000_000)).encode()
    async with serving(tmp_path, snapshot([channel("up", provider)])) as served:
        line = await served.connect()
        line.send(CHUNKED if chunked else request(body).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        for at in range(0, len(body), 1_000_000):
            part = body[at : at + 1_000_000]
            line.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            await line.writer.drain()
        if chunked:
            line.send(b"0\r\n\r\n")
        assert (await line.answer(20)).status == 200
        line.close()
        assert provider.requests[0].body == body
        provider.requests.clear()


# -- 100-continue ----------------------------------------------------------------------------------------------------

EXPECTING = request(b"", headers="Expect: 100-continue\r\n").replace(b"Content-Length: 0", b"Content-Length: %d")


async def test_a_known_client_may_go_on(served: Served) -> None:
    body = json.dumps(chat(max_tokens=5)).encode()
    line = await served.connect()
    for _ in range(2):
        line.send(EXPECTING % len(body))
        assert (await line.answer()).head == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.send(body)
        assert (await line.answer()).status == 200
    line.close()


async def test_an_unknown_client_is_refused_before_it_sends_its_body(served: Served) -> None:
    await refused(served, EXPECTING.replace(KEY.encode(), b"wrong") % 500_000, 401, "invalid_api_key")


async def test_too_large_a_body_is_refused_before_it_is_sent(served: Served) -> None:
    await refused(served, EXPECTING % 2_000_000, 413, "body_too_large")


async def test_another_expectation_is_not_met(served: Served) -> None:
    await refused(served, (EXPECTING % 5).replace(b"100-continue", b"200-ok"), 417, "expectation_failed")


async def test_a_client_that_expects_behind_another_call_is_answered_in_order(served: Served) -> None:
    served.swap(routes={"*": route("*", candidate("up"))})
    body = json.dumps(chat(max_tokens=5)).encode()
    line = await served.connect()
    line.send(request(chat("m-slow20", max_tokens=5)) + EXPECTING % len(body))
    await asyncio.sleep(0.05)
    line.send(body)
    answers = [await line.answer() for _ in range(2)]
    if answers[1].status == 100:
        answers.append(await line.answer())
    assert [one.status for one in answers if one.status != 100] == [200, 200]
    line.close()


# -- pipelines -------------------------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_order(served: Served, provider: SimProvider) -> None:
    served.swap(routes={"*": route("*", candidate("up"))})
    line = await served.connect()
    models = ["m-slow80", "m-1", "m-slow20"]
    line.send(b"".join(request(chat(model, max_tokens=5)) for model in models))
    assert [(await line.answer()).json["model"] for _ in models] == models
    assert provider.seen == 3
    assert len({one.call for one in served.books().opened}) == 3
    # The connection lives on.
    line.send(CALL)
    assert (await line.answer()).status == 200
    line.close()


async def test_a_pipeline_with_a_stream_a_refusal_and_what_is_not_http(served: Served, provider: SimProvider) -> None:
    line = await served.connect()
    line.send(
        request(chat(max_tokens=5, stream=True))
        + request(chat("unknown"))
        + request(path="/healthz", method="GET")
        + CALL
        + b"\x00garbage"
        + CALL
    )
    assert (await line.answer()).body.endswith(b"data: [DONE]\n\n")
    assert (await line.answer()).code == "model_not_found"
    assert (await line.answer()).json == {"status": "ok"}
    assert (await line.answer()).status == 200
    assert (await line.answer()).code == "invalid_http"
    assert await line.rest() == b""
    line.close()
    assert provider.seen == 2


async def test_a_pipeline_without_measure(served: Served, provider: SimProvider) -> None:
    """What waits is bounded; what is beyond is refused behind the answers that are due."""
    line = await served.connect()
    line.send(CALL * 70)
    statuses = []
    while (answered := await line.answer()).status == 200:
        statuses.append(answered.status)
    assert answered.code == "too_many_pipelined"
    assert len(statuses) == 65
    assert await line.rest() == b""
    line.close()
    assert provider.seen == 65


async def test_a_request_behind_one_that_closes_is_not_served(served: Served, provider: SimProvider) -> None:
    line = await served.connect()
    line.send(request(chat(max_tokens=5), headers="Connection: close\r\n") + CALL)
    answered = await line.answer()
    assert (answered.status, answered.headers["connection"]) == (200, "close")
    assert await line.rest() == b""
    line.close()
    assert provider.seen == 1


# -- clients that are slow, half gone, or gone -----------------------------------------------------------------------


async def test_a_client_that_does_not_end_its_request(tmp_path: Path, provider: SimProvider) -> None:
    limits = {"header_timeout_ms": 250, "idle_timeout_ms": 60_000}
    async with serving(tmp_path, snapshot([channel("up", provider)], limits=limits)) as served:
        lines = []
        for data in (CALL[:20], CALL[:-3], CHUNKED + b"5\r\nab"):
            line = await served.connect()
            line.send(data)
            lines.append(line)
        used = await served.connect()
        used.send(CALL)
        assert (await used.answer()).status == 200
        started = asyncio.get_running_loop().time()
        used.send(CALL[:-1])
        lines.append(used)
        for line in lines:
            answered = await line.answer(3)
            assert (answered.status, answered.code) == (408, "request_timeout")
            assert await line.rest() == b""
            line.close()
        assert asyncio.get_running_loop().time() - started < 2
        assert provider.seen == 1


async def test_a_client_that_drips_gets_no_more_time(tmp_path: Path, provider: SimProvider) -> None:
    limits = {"header_timeout_ms": 300}
    async with serving(tmp_path, snapshot([channel("up", provider)], limits=limits)) as served:
        line = await served.connect()
        started = asyncio.get_running_loop().time()

        async def drip() -> None:
            for at in range(len(CALL)):
                line.send(CALL[at : at + 1])
                await asyncio.sleep(0.03)

        task = asyncio.ensure_future(drip())
        assert (await line.answer()).code == "request_timeout"
        assert asyncio.get_running_loop().time() - started < 1
        task.cancel()
        line.close()


async def test_a_client_that_says_nothing_is_let_go(tmp_path: Path, provider: SimProvider) -> None:
    async with serving(tmp_path, snapshot([channel("up", provider)], limits={"header_timeout_ms": 100})) as served:
        assert await served.talk(b"") == b""


async def test_a_half_closed_client_still_gets_its_answers(served: Served, provider: SimProvider) -> None:
    served.swap(routes={"*": route("*", candidate("up"))})
    for sent, count in (
        (request(chat("m-slow50", max_tokens=5)), 1),
        (request(chat("m-drip5", max_tokens=5, stream=True)), 1),
        (CALL * 3, 3),
    ):
        line = await served.connect()
        line.send(sent)
        line.writer.write_eof()
        for _ in range(count):
            assert (await line.answer()).status == 200
        assert await line.rest() == b""
        line.close()


@pytest.mark.parametrize("data", [b"", CALL[:30], CALL[:-1]])
async def test_a_half_closed_client_that_asked_nothing_is_let_go(served: Served, data: bytes) -> None:
    line = await served.connect()
    line.send(data)
    line.writer.write_eof()
    assert await line.rest() == b""
    line.close()


async def test_a_thousand_connections_that_are_opened_and_dropped(served: Served) -> None:
    def drop() -> None:
        for number in range(1_000):
            with socket.create_connection(("127.0.0.1", served.port)) as client:
                client.send(CALL[: number % len(CALL)])
                if number % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    await asyncio.to_thread(drop)
    await until(lambda: not served.gateway.connections, what="the end of the connections")
    assert await served.healthy()
