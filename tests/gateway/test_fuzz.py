"""Bytes and bodies that nobody thought of: always an answer below 500 or an end, never a crash.

The gateway runs in a thread of its own, so that Hypothesis can send from plain tests. Every example ends the sending side
of its connection; the gateway must then answer what it can and close.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.gateway_side import KEY, PRICED, Served, candidate, channel, chat, request, route, serving, snapshot
from upeti.gateway.snapshot import Caller
from upeti.sim.provider import SimProvider

BUDGET = "key:k1"


class Fuzzed:
    """A gateway in a thread, and what a test asks of it."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._health = self._connect()

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._served.port), timeout=10)

    def send(self, *parts: bytes) -> bytes:
        """Send on a connection of its own; return what comes until the gateway closes it. Then ask how it fares."""
        with self._connect() as line:
            heard = b""
            try:
                for part in parts:
                    line.sendall(part)
                line.shutdown(socket.SHUT_WR)
                while data := line.recv(1 << 20):
                    heard += data
            except OSError:
                pass  # it may have closed while we were still sending
        self.check()
        return heard

    def check(self) -> None:
        self._health.sendall(b"GET /healthz HTTP/1.1\r\nhost: u\r\n\r\n")
        assert b" 200 OK\r\n" in self._health.recv(65_536)
        crashes = [line for line in self._served.log.lines if line["event"] == "crashed"]
        assert not crashes, crashes
        answers = self._served.gateway.metrics.answers
        assert not [status for status in answers if status >= 500], answers


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    folder = tmp_path_factory.mktemp("fuzzed")
    ready, done = threading.Event(), threading.Event()
    found: list[Served] = []
    failed: list[BaseException] = []

    async def serve(folder: Path) -> None:
        callers = {KEY: Caller("k1", "acme", "shop"), "limited": Caller("k2", "acme", "shop", budgets=(BUDGET,))}
        limits = {"header_bytes_max": 16_384, "body_bytes_max": 200_000}
        async with SimProvider(keep_requests=False) as provider:
            channels = [channel("up", provider), channel("anthropic", provider, "anthropic")]
            routes = [
                route("m", candidate("up"), candidate("anthropic", order=1)),
                route("renamed", candidate("up", "other", context_tokens=1000)),
                route("unpriced", candidate("up", prices={})),
                route("*", candidate("up", prices=PRICED)),
            ]
            first = snapshot(channels, routes, callers=callers, limits=limits)
            async with serving(folder, first, limits_pico={BUDGET: 10**15}) as served:
                found.append(served)
                ready.set()
                while not done.is_set():
                    await asyncio.sleep(0.01)

    def run() -> None:
        try:
            uvloop.run(serve(folder))
        except BaseException as error:
            failed.append(error)
        ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    assert not failed, failed
    yield Fuzzed(found[0])
    done.set()
    thread.join(10)
    assert not failed, failed  # the books are checked at the end


FUZZ = settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

# -- HTTP --------------------------------------------------------------------------------------------------------------

BODY = json.dumps(chat(max_tokens=5)).encode()
SEEDS = [
    request(chat(max_tokens=5)),
    request(chat(max_tokens=5, stream=True)),
    request(chat(max_tokens=5), "/v1/messages"),
    request(chat(max_tokens=5), "/openai/deployments/m/chat/completions?api-version=2024-10-21"),
    request({"model": "m", "input": "Halo"}, "/v1/responses", headers="Expect: 100-continue\r\n"),
    request(path="/v1/models", method="GET"),
    request(path="/healthz", method="GET", key=None),
    request(path="/v1/files/f?a=b", method="DELETE"),
    request(b"--b--\r\n", "/v1/files", headers="Content-Type: multipart/form-data; boundary=b\r\n"),
    request(headers="Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n")
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    request(chat(), headers="Connection: Upgrade\r\nUpgrade: h2c\r\n"),
    request(chat(max_tokens=5)).replace(b"HTTP/1.1", b"HTTP/1.0"),
]
INSERTED = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b"\xff",
    b" ",
    b":",
    b"%2e%2e/",
    b"//",
    b"0\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Type: multipart/form-data\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sound request with some wounds."""
    data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 30)))
        kind = draw(st.sampled_from(["insert", "delete", "replace", "repeat", "cut"]))
        if kind == "insert":
            data = data[:at] + draw(st.sampled_from(INSERTED) | st.binary(max_size=8)) + data[at:]
        elif kind == "delete":
            data = data[:at] + data[end:]
        elif kind == "replace":
            data = data[:at] + draw(st.binary(min_size=end - at, max_size=end - at)) + data[end:]
        elif kind == "repeat":
            data = data[:end] + data[at:end] * draw(st.integers(1, 3)) + data[end:]
        else:
            data = data[:at]
    return data


@FUZZ
@given(st.lists(mutated(), min_size=1, max_size=4), st.integers(1, 400))
def test_wounded_requests(fuzzed: Fuzzed, requests: list[bytes], piece: int) -> None:
    data = b"".join(requests)
    heard = fuzzed.send(*[data[at : at + piece] for at in range(0, len(data), piece)][:50])
    assert not heard or heard.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))


@FUZZ
@given(st.binary(max_size=300))
@example(b"\x00" * 70_000)
@example(b"A" * 70_000)
@example(b"GET " + b"/" * 70_000)
@example(b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 10_000)
def test_any_bytes(fuzzed: Fuzzed, data: bytes) -> None:
    heard = fuzzed.send(data)
    assert not heard or re.match(rb"HTTP/1\.1 4\d\d ", heard)


# -- JSON --------------------------------------------------------------------------------------------------------------

PATHS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/moderations",
]
FIELDS = [
    "model",
    "stream",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "stream_options",
    "service_tier",
    "speed",
    "metadata",
    "previous_response_id",
    "conversation",
    "prompt",
    "messages",
    "input",
    "encoding_format",
    "user",
]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()  # NaN and infinity too, which are not JSON
    | texts
    | st.sampled_from(["m", "renamed", "unpriced", "flex", "\x00", "\ud800", '"usage":{', "x" * 300]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=10,
)
plausible = {
    "model": st.sampled_from(["m", "renamed", "unpriced", "anything"]) | anything,
    "stream": st.booleans() | anything,
    "n": st.integers(-2, 3) | anything,
    "max_tokens": st.integers(-1, 9) | anything,
    "stream_options": st.dictionaries(st.just("include_usage"), st.booleans()) | anything,
    "metadata": st.dictionaries(st.sampled_from(["feature", "task", "upeti_feature"]), texts) | anything,
    "prompt": texts | st.lists(texts, max_size=3) | anything,
}


@FUZZ
@given(
    st.fixed_dictionaries(
        {"model": plausible["model"]},
        optional={name: plausible.get(name, anything) for name in FIELDS if name != "model"},
    )
    | anything,
    st.sampled_from(PATHS),
    st.sampled_from([KEY, "limited"]),
    st.booleans(),
)
def test_any_value_in_any_field(fuzzed: Fuzzed, body: Any, path: str, key: str, ascii_only: bool) -> None:
    sent = json.dumps(body, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    heard = fuzzed.send(request(sent, path, key=key))
    status = int(heard.split(b" ", 2)[1])
    assert status == 200 or 400 <= status < 500
    if status >= 400 and b"x-upeti-served-by" not in heard.partition(b"\r\n\r\n")[0]:
        answer = json.loads(heard.partition(b"\r\n\r\n")[2])
        assert answer["error"]["message"]
        assert answer["error"]["code"]
        assert (answer.get("type") == "error") is (path == "/v1/messages")


@FUZZ
@given(st.sampled_from(SEEDS[:2]), st.data())
def test_a_body_with_any_byte_changed(fuzzed: Fuzzed, seed: bytes, data: st.DataObject) -> None:
    start = seed.index(b"\r\n\r\n") + 4
    at = data.draw(st.integers(start, len(seed) - 1))
    byte = data.draw(st.binary(min_size=1, max_size=1))
    heard = fuzzed.send(seed[:at] + byte + seed[at + 1 :])
    assert re.match(rb"HTTP/1\.1 (200|4\d\d) ", heard)


@FUZZ
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["Authorization", "Content-Type", "Accept", "X-Upeti-Feature", "X-Upeti-Task", "Host", "Via"]
            )
            | st.text("abcXYZ-_0189!#$%&'*+.^`|~", min_size=1, max_size=9),
            st.binary(max_size=30).filter(lambda value: not set(value) & {0, 10, 13}),
        ),
        max_size=6,
    )
)
def test_any_headers(fuzzed: Fuzzed, headers: list[tuple[str, bytes]]) -> None:
    lines = b"".join(b"%b: %b\r\n" % (name.encode(), value) for name, value in headers)
    head, _, body = request(chat(max_tokens=5)).partition(b"\r\n\r\n")
    heard = fuzzed.send(head + b"\r\n" + lines + b"\r\n" + body)
    assert not heard or re.match(rb"HTTP/1\.1 (100|200|4\d\d) ", heard)
