"""Connections to providers: a pool per channel, one answer at a time per connection.

Rules: llhttp follows the answer's framing; body parts are collected by a C call (``list.append``) and handed on once per
read. A connection whose answer was not read to its end, or on which anything unexpected came, is never used again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Generator
from typing import Any

import httptools

from upeti.core.errors import UpetiError
from upeti.gateway.fiber import Fiber, Gate, Parking, parked
from upeti.gateway.headers import kept_name, known_names
from upeti.gateway.snapshot import ChannelView


class UpstreamError(UpetiError):
    """An attempt got no answer, or not all of it.

    ``sent``: whether the provider may have seen the request. Kinds: ``connect`` (no connection), ``lost`` (closed before
    the answer began), ``cut`` (closed within it), ``garbage`` (not HTTP), ``busy`` (our own limit of connections).
    """

    def __init__(self, kind: str, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.kind = kind
        self.sent = sent


class UpstreamConnection(asyncio.Protocol):
    """One connection; also the answer being read on it."""

    __slots__ = (
        "_bytes",
        "_error",
        "_fiber",
        "_has_length",
        "_idle_s",
        "_loop",
        "_parser",
        "_parts",
        "_pool",
        "_reading",
        "_ticket",
        "_until_s",
        "_whole_max",
        "busy",
        "closed",
        "complete",
        "first_byte_s",
        "head_done",
        "headers",
        "idle_since_s",
        "keep_alive",
        "on_body",
        "status",
        "transport",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = pool.loop
        self._parts: list[bytes] = []
        self.on_body = self._parts.append  # llhttp calls it directly: no Python frame per body part
        self._fiber: Fiber | None = None
        self._ticket = 0
        self.transport: asyncio.Transport
        self.closed = False
        self.busy = False
        self.idle_since_s = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._error: UpstreamError | None = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self.keep_alive = False

    # -- the exchange's side ------------------------------------------------------------------------------------

    def begin(self, request: bytes, whole_max: int, until_s: float, idle_s: float) -> None:
        """Send a request. Its answer is collected up to ``whole_max`` bytes before it counts as a stream; one that is
        collected must be whole until ``until_s``, and may, once begun, be silent for ``idle_s``.
        """
        self.status = 0
        self.headers = {}
        self.head_done = False
        self.complete = False
        self.keep_alive = False
        self.first_byte_s = 0.0
        self._has_length = False
        self._bytes = 0
        self._whole_max = whole_max
        self._until_s = until_s
        self._idle_s = idle_s
        self._reading = False  # False: waiting for the answer, True: reading its body part by part
        self._parts.clear()
        self.busy = True
        self.transport.write(request)

    def __await__(self) -> Generator[Parking, Any, None]:
        """Wait for the answer: whole (``complete``) when it is JSON, with its head when it is a stream.

        Raises ``UpstreamError``.
        """
        while not self._ready():
            yield self
        if self._error is not None:
            raise self._error

    def _ready(self) -> bool:
        if self.complete or self._error is not None:
            return True
        if not self.head_done:
            return False
        if self._bytes > self._whole_max:
            return True
        return not self.is_json

    @property
    def is_json(self) -> bool:
        return self.headers.get(b"content-type", b"").startswith(b"application/json")

    async def read(self) -> bytes:
        """Return what of the body has come since, waiting for some; empty at the end. Raises ``UpstreamError``."""
        self._reading = True
        parts = self._parts
        while not parts:
            if self._error is not None:
                raise self._error
            if self.complete:
                return b""
            await parked(self)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    def whole_body(self) -> bytes:
        parts = self._parts
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def release(self) -> None:
        """The attempt is over: keep the connection for the next one, or close it."""
        self.busy = False
        self._fiber = None
        self._pool.take_back(self)

    def park(self, fiber: Fiber, ticket: int) -> None:
        self._fiber = fiber
        self._ticket = ticket

    def _wake(self) -> None:
        fiber = self._fiber
        if fiber is not None:
            self._fiber = None
            fiber.resume(self._ticket)

    # -- the transport's side ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if not self.busy or self.complete:
            self.keep_alive = False  # bytes that nobody asked for
            self.close()
            return
        if not self.first_byte_s:
            self.first_byte_s = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._error = UpstreamError("garbage", "the provider switched protocols", sent=True)
        except httptools.HttpParserError as error:
            self._not_http(error)
        self._bytes += len(data)
        if self._fiber is not None:
            if self._reading or self._ready():
                self._wake()
            elif self.head_done:
                self._fiber.deadline = min(self._until_s, self._loop.time() + self._idle_s)

    def _not_http(self, error: httptools.HttpParserError) -> None:
        if self.complete:
            self.keep_alive = False  # the answer is whole; what came behind it is nobody's
            return
        kind = "cut" if self.head_done else "garbage"
        self._error = UpstreamError(kind, f"the provider's answer is not HTTP: {error}", sent=True)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._pool.forget(self)
        if not self.busy or self.complete or self._error is not None:
            return
        if self.head_done and not self._has_length and error is None:
            self.complete = True  # an answer framed by the end of the connection
        elif self.head_done:
            self._error = UpstreamError("cut", "the provider closed the connection within its answer", sent=True)
        else:
            self._error = UpstreamError("lost", "the provider closed the connection before it answered", sent=True)
        self._wake()

    def close(self) -> None:
        self.closed = True
        self.transport.abort()

    # -- llhttp's side ---------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        kept = known_names.get(name)
        if kept is None:
            kept = kept_name(name)
        if kept:
            self.headers[kept] = value

    def on_headers_complete(self) -> None:
        if self.complete:  # its headers are mixed with those of the first
            self._error = UpstreamError("garbage", "the provider sent a second answer behind the first", sent=True)
            return
        self.status = status = self._parser.get_status_code()
        if status >= 200:
            self.head_done = True
            headers = self.headers
            self._has_length = (
                b"content-length" in headers
                or status in (204, 304)
                or headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
            )

    def on_message_complete(self) -> None:
        if self.status < 200:  # 100 Continue, 103 Early Hints: the answer is still to come
            self.headers = {}
            return
        self.keep_alive = self._has_length and self._error is None and self._parser.should_keep_alive()
        self.complete = True


class Pool:
    """The connections of one channel in one worker."""

    def __init__(self, view: ChannelView, loop: asyncio.AbstractEventLoop) -> None:
        self.view = view
        self.loop = loop
        self._idle: list[UpstreamConnection] = []  # the last used first: the others can grow old and go
        self._all: set[UpstreamConnection] = set()
        self._opening = 0
        self._closed = False
        self._tls = ssl.create_default_context(cafile=view.ca_file or None) if view.tls else None

    @property
    def open_connections(self) -> int:
        return len(self._all)

    def idle(self) -> UpstreamConnection | None:
        """Return an idle connection, the one used last, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and not connection.transport.is_closing():
                return connection
        return None

    async def connect(self) -> UpstreamConnection:
        """Return a new connection. Raises ``UpstreamError`` (nothing was sent)."""
        if len(self._all) + self._opening >= self.view.connections_max:
            message = f"channel {self.view.name} has all its {self.view.connections_max} connections in use"
            raise UpstreamError("busy", message + ": raise connections_max", sent=False)
        gate = Gate()
        self._opening += 1
        task = self.loop.create_task(self._connect(gate))
        try:
            connection = await gate
        except BaseException:
            task.cancel()
            raise
        return connection  # type: ignore[no-any-return]

    async def _connect(self, gate: Gate) -> None:
        view = self.view
        try:
            async with asyncio.timeout(view.connect_timeout_ms / 1000):
                _, connection = await self.loop.create_connection(
                    lambda: UpstreamConnection(self),
                    view.host,
                    view.port,
                    ssl=self._tls,
                    server_hostname=view.host if self._tls else None,
                )
        except asyncio.CancelledError:
            return
        except TimeoutError:
            message = f"no connection to {view.host}:{view.port} within {view.connect_timeout_ms} ms"
            gate.fail(UpstreamError("connect", message, sent=False))
            return
        except (OSError, UnicodeError) as error:  # a host's name that cannot be one is not encoded
            reason = getattr(error, "strerror", None) or error
            message = f"no connection to {view.host}:{view.port}: {reason}"
            gate.fail(UpstreamError("connect", message, sent=False))
            return
        finally:
            self._opening -= 1
        self._all.add(connection)
        gate.open(connection)

    def take_back(self, connection: UpstreamConnection) -> None:
        if connection.complete and connection.keep_alive and not connection.closed and not self._closed:
            connection.idle_since_s = self.loop.time()
            self._idle.append(connection)
        elif not connection.closed:
            connection.close()

    def forget(self, connection: UpstreamConnection) -> None:
        self._all.discard(connection)
        if not connection.busy and connection in self._idle:
            self._idle.remove(connection)

    def close_idle(self, now_s: float) -> None:
        """Close what has been idle for too long; called every second."""
        oldest = now_s - self.view.keepalive_idle_ms / 1000
        kept = []
        for connection in self._idle:
            if connection.idle_since_s < oldest:
                connection.close()
            else:
                kept.append(connection)
        self._idle[:] = kept

    def close(self) -> None:
        """Close idle connections now and the busy ones as they come back."""
        self._closed = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()
