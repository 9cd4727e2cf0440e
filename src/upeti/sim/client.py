"""A client that makes calls and keeps what it received, for loads, drills and audits.

Rules: one ``Client`` is one keep-alive connection, opened when it is needed; it makes one call at a time and
never tries again, so that every ``Ask`` is one request at most. What came is read here anew, by the published
wire formats alone: the gateway's own reading of usage is not trusted. An answer is *complete* once its reader
could know that it has all of it: a plain one by its length, a stream by the event that ends it. Each call can
carry a tag, sent as its task, that finds it in the journal also when no answer came.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

# After a refused connection a client waits this long: a server that is being restarted is not to be hammered.
REFUSED_PAUSE_S: Final = 0.03

PATHS: Final = {
    "chat_completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
    "messages": "/v1/messages",
}
_CAP_FIELDS: Final = {"responses": "max_output_tokens", "embeddings": ""}
# The event after which nothing follows; an error event ends a stream too, but not a complete answer.
_LAST_EVENTS: Final = {
    "chat_completions": b"data: [DONE]",
    "completions": b"data: [DONE]",
    "responses": b"event: response.completed",
    "messages": b"event: message_stop",
}


@dataclass(frozen=True)
class Ask:
    """One call to be made."""

    model: str
    key: str
    tag: str = ""  # unique; sent as ``x-upeti-task``
    feature: str = ""
    wire: str = "chat_completions"
    stream: bool = False
    include_usage: bool = False  # of a stream, on the wires where usage comes only when it is asked for
    output_tokens_max: int | None = 16
    text: str = "Halo!"
    leave_after_bytes: int | None = None  # of the answer's body; 0: as soon as the request is sent
    wait_s: float = 30.0

    def body(self) -> bytes:
        """Return the request's body."""
        body: dict[str, Any] = {"model": self.model}
        if self.wire in ("chat_completions", "messages"):
            body["messages"] = [{"role": "user", "content": self.text}]
        else:
            body["prompt" if self.wire == "completions" else "input"] = self.text
        cap_field = _CAP_FIELDS.get(self.wire, "max_tokens")
        if cap_field and self.output_tokens_max is not None:
            body[cap_field] = self.output_tokens_max
        if self.stream:
            body["stream"] = True
            if self.include_usage:
                body["stream_options"] = {"include_usage": True}
        return json.dumps(body).encode()

    def request(self, host: str) -> bytes:
        """Return the request's bytes."""
        body = self.body()
        lines = [f"POST {PATHS[self.wire]} HTTP/1.1", f"host: {host}", f"authorization: Bearer {self.key}"]
        lines += [f"x-upeti-task: {self.tag}"] if self.tag else []
        lines += [f"x-upeti-feature: {self.feature}"] if self.feature else []
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@dataclass
class Got:
    """What came of a call. ``cut`` says why the answer is not whole; "" when it is, whatever it says."""

    ask: Ask
    began_ns: int = 0
    ended_ns: int = 0
    sent: bool = False  # the request was handed to a connection
    status: int = 0  # 0: no head of an answer came
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: str = "no connection"

    @property
    def call_id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def complete(self) -> bool:
        """Whether the client has the whole answer, though the connection may have died right after it."""
        if self.is_stream and 200 <= self.status < 300:
            mark = _LAST_EVENTS.get(self.ask.wire, b"")
            return self.body.startswith(mark) or b"\n" + mark in self.body
        return not self.cut

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def answered(self) -> bool:
        """A whole answer of success."""
        return 200 <= self.status < 300 and self.complete

    @property
    def error_code(self) -> str:
        """The code within an error body or a stream's error event; "" when there is none."""
        for value in self._objects():
            error = value.get("error")
            if isinstance(error, dict):
                return str(error.get("code") or error.get("type") or "")
        return ""

    @property
    def cost(self) -> str | None:
        """What the gateway says the call cost, as it stands in the header; None when it says nothing or unknown."""
        cost = self.headers.get("x-upeti-cost")
        return None if cost in (None, "unknown") else cost

    def usage(self) -> dict[str, int] | None:
        """What the provider says was used, in disjoint meters; None when it does not say."""
        reported: dict[str, Any] = {}
        for value in self._objects():
            for place in (value, value.get("message"), value.get("response")):
                if isinstance(place, dict) and isinstance(place.get("usage"), dict):
                    reported |= place["usage"]
        return _disjoint(reported, anthropic=self.ask.wire == "messages") if reported else None

    def received(self) -> dict[str, Any] | None:
        """Return the fields of the auditor's ``Received``; None when no answer says which call it is."""
        if not self.call_id:
            return None
        usage = self.usage() if self.answered else None
        found = {"call_id": self.call_id, "status": self.status, "complete": self.complete}
        return found | {"usage": usage, "cost": self.cost}

    def _objects(self) -> list[dict[str, Any]]:
        """Return the JSON objects of the body: one, or those of a stream's events."""
        texts = [self.body]
        if self.is_stream:
            texts = [line[5:] for line in self.body.splitlines() if line.startswith(b"data:")]
        found = []
        for text in texts:
            try:
                value = json.loads(text)
            except ValueError:
                continue  # [DONE], or what was cut off
            if isinstance(value, dict):
                found.append(value)
        return found


def _disjoint(usage: dict[str, Any], *, anthropic: bool) -> dict[str, int]:
    """OpenAI's input includes what was cached and its output the reasoning; Anthropic's input excludes it."""
    if anthropic:
        parts = {
            "input": usage.get("input_tokens") or 0,
            "input_cached": usage.get("cache_read_input_tokens") or 0,
            "output": usage.get("output_tokens") or 0,
        }
        return {name: count for name, count in parts.items() if count}
    read = usage.get("prompt_tokens") or usage.get("input_tokens") or 0
    made = usage.get("completion_tokens") or usage.get("output_tokens") or 0
    read_details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    made_details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    cached = read_details.get("cached_tokens") or 0
    reasoning = made_details.get("reasoning_tokens") or 0
    parts = {"input": read - cached, "input_cached": cached, "output": made - reasoning, "output_reasoning": reasoning}
    return {name: count for name, count in parts.items() if count}


class _Connection(asyncio.Protocol):
    """The socket of a client: one answer at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.closed = False
        self._got: Got | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._parser = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[str] | None = None

    def begin(self, got: Got) -> asyncio.Future[str]:
        """Expect an answer; the future gives why it is not whole, "" when it is."""
        self._got, self._parts, self._size = got, [], 0
        self._done = asyncio.get_running_loop().create_future()
        return self._done

    def take_body(self) -> bytes:
        return b"".join(self._parts)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._end("reset" if error else "closed")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._got is not None:
            self._got.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._got is not None:
            self._got.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._size += len(body)
        limit = self._got.ask.leave_after_bytes if self._got is not None else None
        if limit is not None and self._size >= limit:
            self.transport.abort()
            self._end("left")

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.transport.close()
        self._end("")

    def _end(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(why)


class Client:
    """One user of the gateway: ``async with Client(url) as client: got = await client.call(ask)``."""

    def __init__(self, url: str) -> None:
        """``url`` is ``http://host:port``, without a path."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._connection: _Connection | None = None

    async def call(self, ask: Ask) -> Got:
        """Make one call and wait for its end, whatever that is; nothing is raised for it."""
        got = Got(ask, began_ns=time.time_ns())
        try:
            connection = await self._connected()
        except OSError:
            got.ended_ns = time.time_ns()
            return got
        done = connection.begin(got)
        got.sent, got.cut = True, "late"
        connection.transport.write(ask.request(f"{self._host}:{self._port}"))
        if ask.leave_after_bytes == 0:
            await asyncio.sleep(0)  # the request leaves with this turn of the loop
            connection.transport.close()
            got.cut = "left"
        else:
            try:
                got.cut = await asyncio.wait_for(done, ask.wait_s)
            except TimeoutError:
                connection.transport.abort()
        got.body = connection.take_body()
        got.ended_ns = time.time_ns()
        return got

    def close(self) -> None:
        if self._connection is not None:
            self._connection.transport.abort()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _connected(self) -> _Connection:
        connection = self._connection
        if connection is None or connection.closed or connection.transport.is_closing():
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, self._host, self._port)
            self._connection = connection
        return connection


async def load(url: str, asks: Iterable[Ask], *, clients: int) -> list[Got]:
    """Make all ``asks``, by so many clients at a time; return what came, in the order in which it ended."""
    waiting = iter(asks)
    gots: list[Got] = []

    async def user() -> None:
        async with Client(url) as client:
            for ask in waiting:
                got = await client.call(ask)
                gots.append(got)
                if not got.sent:
                    await asyncio.sleep(REFUSED_PAUSE_S)

    await asyncio.gather(*(user() for _ in range(clients)))
    return gots


def write_log(path: Path, gots: Sequence[Got]) -> None:
    """Append to a client log as ``upeti.sim.auditor`` reads it."""
    with path.open("a") as file:
        for got in gots:
            received = got.received()
            if received is not None:
                file.write(json.dumps(received) + "\n")
