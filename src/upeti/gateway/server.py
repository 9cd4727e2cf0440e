"""One client connection: bytes in, calls out; answers in, bytes out.

llhttp parses. One call is served at a time; pipelined ones wait, and reading stops while they do. Limits, each with its
reason: head bytes and body bytes (memory), time to a whole request (slow senders), idle time (file descriptors),
connections and calls in flight (the worker's memory and latency).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import httptools

from upeti.core.errors import BadRequest, CallError, Overloaded, TooLarge
from upeti.gateway.answer_bytes import error_answer, error_event, status_line
from upeti.gateway.auth import identify
from upeti.gateway.call import Call
from upeti.gateway.exchange import exchange
from upeti.gateway.failure import ClientLeft
from upeti.gateway.fiber import NEVER_S, Fiber

if TYPE_CHECKING:
    from upeti.gateway.gateway import Gateway
    from upeti.gateway.upstream import UpstreamConnection

_METHODS: Final = frozenset({b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"})
_OFFERS: Final = frozenset({b"upgrade", b"connection", b"http2-settings"})

# A body longer than this is only read for a known key, so that strangers cannot fill the memory.
_STRANGERS_BODY_BYTES_MAX: Final = 64 * 1024
# A read longer than this is looked at for a head that is too long; the heads of client libraries are about 1 KB.
_PLAIN_HEAD_BYTES_MAX: Final = 8 * 1024
# Pipelined calls that may wait on one connection; clients of model APIs send none.
_WAITING_CALLS_MAX: Final = 64
# What a closing connection still reads and drops, so that the client gets the answer instead of a reset.
_LINGER_S: Final = 2.0


class ClientConnection(asyncio.Protocol):
    """A connection to a client, and the writing side of its current call."""

    __slots__ = (
        "_body",
        "_broken",
        "_call",
        "_chunked",
        "_closing",
        "_fiber",
        "_gateway",
        "_head",
        "_headers",
        "_in_head",
        "_offered",
        "_parser",
        "_paused_reading",
        "_received",
        "_reply",
        "_streaming",
        "_transport",
        "_url",
        "_waiting",
        "deadline_s",
        "gone",
        "on_body",
        "paused",
    )

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._transport: asyncio.Transport
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self.on_body = self._body.append  # llhttp calls it directly: no Python frame per body part
        self._in_head = True
        self._offered = False  # the head offers another protocol, and is read again without that
        self._received = 0  # bytes of a request that is not whole yet
        self._broken = False  # nothing more is parsed: an error was answered and the connection is to close
        self._closing = False
        self._paused_reading = False
        self._call: Call | None = None
        self._fiber = Fiber(gateway.ended, self)  # of one call after the other
        self._waiting: deque[Call | CallError] = deque()
        self._reply: UpstreamConnection | None = None
        self._streaming = False
        self._chunked = False
        self._head = b""
        self.gone = False
        self.paused = False
        self.deadline_s = 0.0
        self._parser = httptools.HttpRequestParser(self)

    # -- the transport's side ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        gateway = self._gateway
        gateway.connections.add(self)
        self.deadline_s = gateway.loop.time() + gateway.limits.header_timeout_ms / 1000
        if len(gateway.connections) > gateway.limits.connections_max:
            self.refuse(
                Overloaded("too_many_connections", "This worker has all its connections in use: try again shortly.")
            )

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self._gateway.connections.discard(self)
        self._waiting.clear()
        if self.paused:
            self.resume_writing()
        if self._call is not None and self._gateway.limits.client_left == "cancel":
            self._interrupt(self._call)

    def eof_received(self) -> bool:
        """A half-closed client still gets its answer; one that has asked nothing is done."""
        self._closing = True
        return self._call is not None

    def data_received(self, data: bytes) -> None:
        if self._broken:
            return  # lingering: dropped
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._offered:
                rest = self._head_again() + rest
            self._parser = httptools.HttpRequestParser(self)
            self._received = 0
            if rest:
                self.data_received(rest)
            return
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, CallError):
                raise
            self.refuse(cause)
            return
        except httptools.HttpParserError as error:
            self.refuse(BadRequest("invalid_http", f"The request is not HTTP/1.1 as RFC 9112 has it: {error}."))
            return
        if self._received:
            self._check_partial()

    def _head_again(self) -> bytes:
        """The head that has just been read, less its offer of another protocol.

        An offer may be ignored (RFC 9110, 7.8), and some clients make one with every first request; but llhttp takes
        what follows such a head for the other protocol, even where it is the request's body.
        """
        lines = [b"%b %b HTTP/1.1" % (self._parser.get_method(), self._url)]
        lines += [b"%b: %b" % header for header in self._headers.items() if header[0] not in _OFFERS]
        self._offered = False
        self._url = b""
        self._headers = {}
        self._in_head = True
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _check_partial(self) -> None:
        """A request is not whole yet: is it too large, too slow, or a stranger's?"""
        limits = self._gateway.limits
        received = self._received
        if self.deadline_s > self._gateway.loop.time() + limits.header_timeout_ms / 1000 and self._call is None:
            self.deadline_s = self._gateway.loop.time() + limits.header_timeout_ms / 1000
        if self._in_head:
            if received > limits.header_bytes_max:
                self.refuse(self._head_too_large())
        elif received > limits.header_bytes_max + limits.body_bytes_max:
            self.refuse(self._body_too_large())
        elif received > _STRANGERS_BODY_BYTES_MAX:
            try:
                self._check_caller()
            except CallError as error:
                self.refuse(error)

    def pause_writing(self) -> None:
        self.paused = True
        self.deadline_s = self._gateway.loop.time() + self._gateway.limits.idle_timeout_ms / 1000
        if self._call is not None and self._reply is not None:
            self._pause_reply(self._call, self._reply)

    def _pause_reply(self, call: Call, reply: UpstreamConnection) -> None:
        call.fiber.deadline = NEVER_S  # the provider is not silent, we do not listen
        if not reply.closed and not reply.complete:  # a complete one will serve another call
            reply.transport.pause_reading()

    def resume_writing(self) -> None:
        self.paused = False
        self.deadline_s = (
            NEVER_S if self._call is not None else self._gateway.loop.time() + self._gateway.idle_timeout_s
        )
        if self._call is not None and self._reply is not None and not self._reply.closed and not self._reply.complete:
            self._reply.transport.resume_reading()
            self._call.fiber.deadline = self._gateway.loop.time() + self._call.way.stream_idle_s
        elif self._call is None and self._waiting:
            self._follow()

    # -- llhttp's side -------------------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        headers = self._headers
        length = headers.get(b"content-length")
        if (
            self._received > _PLAIN_HEAD_BYTES_MAX
            or (length is not None and len(length) > 4)
            or b"transfer-encoding" in headers
            or b"expect" in headers
            or b"upgrade" in headers
        ):
            self._check_head(headers, length)

    def _check_head(self, headers: dict[bytes, bytes], length: bytes | None) -> None:
        """A head that is not of the plain kind: long, with a long body, chunked, or asking first."""
        if headers.get(b"upgrade", b"websocket").lower() != b"websocket" and self._parser.should_upgrade():
            self._offered = True
            return
        limits = self._gateway.limits
        head_bytes = sum([len(name) + len(value) + 4 for name, value in headers.items()]) + len(self._url)
        if head_bytes > limits.header_bytes_max:
            raise self._head_too_large()
        if b"transfer-encoding" in headers and length is not None:
            raise BadRequest("invalid_http", "The request has both Transfer-Encoding and Content-Length: send one.")
        if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise BadRequest("invalid_http", "The only Transfer-Encoding that is undone here is chunked.")
        body_bytes = int(length) if length is not None else 0
        if body_bytes > limits.body_bytes_max:
            raise self._body_too_large()
        if body_bytes > _STRANGERS_BODY_BYTES_MAX:
            self._check_caller()
        expect = headers.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise BadRequest("expectation_failed", "Only `Expect: 100-continue` can be met.", status=417)
            self._check_caller()
            if self._call is None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_message_complete(self) -> None:
        if self._broken or self._offered:
            return
        parser, body, headers = self._parser, self._body, self._headers
        keep_alive = parser.should_keep_alive()
        call = Call(
            parser.get_method(),
            self._url,
            headers,
            body[0] if len(body) == 1 else b"".join(body),
            keep_alive,
            # Only HTTP/1.0 ends the connection without saying so, or says that it does not.
            (not keep_alive or b"connection" in headers) and parser.get_http_version() == "1.0",
            self._gateway.loop.time(),
        )
        body.clear()
        self._url = b""
        self._headers = {}
        self._received = 0
        self._in_head = True
        if self._call is None and not self.paused:
            self._begin(call)
        elif len(self._waiting) < _WAITING_CALLS_MAX:
            self._waiting.append(call)
            if not self._paused_reading:
                self._paused_reading = True
                self._transport.pause_reading()
        else:
            raise BadRequest("too_many_pipelined", f"More than {_WAITING_CALLS_MAX} requests wait on this connection.")

    def _check_caller(self) -> None:
        identify(self._headers, self._gateway.view.keys, self._gateway.now_ns())

    def _head_too_large(self) -> TooLarge:
        limit = self._gateway.limits.header_bytes_max
        return TooLarge("headers_too_large", f"The request's head is longer than {limit} bytes.", status=431)

    def _body_too_large(self) -> TooLarge:
        limit = self._gateway.limits.body_bytes_max
        return TooLarge(
            "body_too_large",
            f"The request's body is longer than {limit} bytes: raise gateway.body_bytes_max.",
        )

    # -- calls ----------------------------------------------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
        gateway = self._gateway
        self._call = call
        self.deadline_s = NEVER_S
        call.client = self
        call.gateway = gateway
        call.number, call.id = gateway.next_call()
        if call.url in gateway.own_paths:
            gateway.answer_own(call)
            return
        if (error := _unserved(call)) is not None:
            self.send_error(error, call.id)
            return
        if len(gateway.fibers) >= gateway.limits.calls_max:
            full = "This worker has all its calls in flight: try again shortly."
            self.send_error(Overloaded("too_many_calls", full), call.id)
            return
        call.view = gateway.view
        call.fiber = fiber = self._fiber
        gateway.fibers.add(fiber)
        fiber.start(exchange(call))

    @property
    def from_this_machine(self) -> bool:
        peer = self._transport.get_extra_info("peername")
        return bool(peer) and (peer[0] == "::1" or peer[0].startswith("127."))

    def _interrupt(self, call: Call) -> None:
        fiber = getattr(call, "fiber", None)
        if fiber is not None:
            fiber.interrupt(ClientLeft())

    def _end_call(self, call: Call) -> None:
        """The answer is written: next call, or close."""
        self._call = None
        gateway = self._gateway
        if self._streaming:
            self._streaming = False
            self._reply = None
            self._head = b""
        if self.gone:
            return
        if not call.keep_alive or (self._closing and not self._waiting) or gateway.draining:
            self._broken = True
            self._transport.close()
        elif self._waiting:
            if not self.paused:
                self._follow()
        else:
            if self._paused_reading:
                self._paused_reading = False
                self._transport.resume_reading()
            self.deadline_s = gateway.loop.time() + gateway.idle_timeout_s

    def _follow(self) -> None:
        """Serve what waits, unless the client does not even read the answers that it has."""
        following = self._waiting.popleft()
        if isinstance(following, CallError):
            self._answer_and_close(following)
        else:
            self._gateway.loop.call_soon(self._begin_waiting, following)

    def _begin_waiting(self, call: Call) -> None:
        if not self.gone:
            self._begin(call)

    def refuse(self, error: CallError) -> None:
        """Answer an error that leaves the connection's framing unknown, behind the calls that came before it; then close."""
        self._broken = True
        if self._call is None:
            self._answer_and_close(error)
        else:
            self._waiting.append(error)

    def _answer_and_close(self, error: CallError) -> None:
        if self.gone:
            return
        self._call = call = Call(b"", self._url, {}, b"", False, False, 0.0)
        self._write_error(call, error, self._gateway.next_call()[1])
        self._call = None
        if self._paused_reading:
            self._paused_reading = False
            self._transport.resume_reading()
        # Closing at once while the client still sends would reset the connection and take our answer with it.
        self.deadline_s = self._gateway.loop.time() + _LINGER_S
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def overdue(self) -> None:
        """The deadline has passed: a request that does not end, a quiet connection, a client that does not read."""
        if self._call is None and not self._broken and self._received:
            self.refuse(BadRequest("request_timeout", "The request did not end in time.", status=408))
        else:
            self.abort()

    @property
    def unsent(self) -> bool:
        """Whether a part of an answer still waits for the client to read."""
        return self._transport.get_write_buffer_size() > 0

    def close_when_idle(self) -> None:
        """The worker drains: close now if no call is being served, else after it."""
        if self._call is None and not self._received:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def crashed(self) -> None:
        """A fault of ours ended the call: say so if nothing was said yet, and close."""
        call = self._call
        if call is not None and not self._streaming and not self.gone:
            call.keep_alive = False
            self.send_error(CallError("internal_error", "The gateway failed to serve this call."), call.id)
        else:
            self.abort()

    # -- answers ----------------------------------------------------------------------------------------------------------

    def send_answer(self, status: int, content_type: bytes, headers: bytes, body: bytes) -> None:
        """Send a whole answer and end the call."""
        call = self._call
        assert call is not None
        if not self.gone:
            line = status_line(call, status, content_type, self._gateway.draining)
            if status == 204:
                self._transport.write(b"%b%b\r\n" % (line, headers))
            else:
                self._transport.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (line, headers, len(body), body))
        answers = self._gateway.metrics.answers
        answers[status] = answers.get(status, 0) + 1
        self._end_call(call)

    def send_json(self, status: int, body: bytes, call_id: str) -> None:
        self.send_answer(status, b"application/json", b"x-request-id: %b\r\n" % call_id.encode(), body)

    def send_error(self, error: CallError, call_id: str) -> None:
        """Answer with an error of ours and end the call; within a stream, as its last event."""
        if self._streaming:
            self.break_stream(error, call_id, events=True)
            return
        call = self._call
        assert call is not None
        self._write_error(call, error, call_id)
        self._end_call(call)

    def _write_error(self, call: Call, error: CallError, call_id: str) -> None:
        if not self.gone:
            self._transport.write(error_answer(call, error, call_id, self._gateway.draining))
        answers = self._gateway.metrics.answers
        answers[error.status] = answers.get(error.status, 0) + 1

    def begin_stream(self, reply: UpstreamConnection, content_type: bytes, headers: bytes, length: int | None) -> None:
        """Begin an answer whose parts follow. Its head goes out with the first part."""
        call = self._call
        assert call is not None
        self._streaming = True
        self._reply = reply
        self._chunked = False
        if self.paused:
            self._pause_reply(call, reply)
        if length is not None:
            headers += b"content-length: %d\r\n" % length
        elif call.http_1_0:
            call.keep_alive = False  # the end of the connection is the end of the answer
        else:
            self._chunked = True
            headers += b"transfer-encoding: chunked\r\n"
        self._head = b"%b%b\r\n" % (status_line(call, reply.status, content_type, self._gateway.draining), headers)
        answers = self._gateway.metrics.answers
        answers[reply.status] = answers.get(reply.status, 0) + 1

    def send_part(self, data: bytes) -> None:
        if self.gone:
            return
        head = self._head
        if head:
            self._head = b""
        if self._chunked:
            self._transport.write(b"".join((head, b"%x\r\n" % len(data), data, b"\r\n")))
        else:
            self._transport.write(head + data)

    def end_stream(self, rest: bytes) -> None:
        """Send what was held back, and the end."""
        call = self._call
        assert call is not None
        if not self.gone:
            if not self._chunked:
                self._transport.write(self._head + rest)
            elif rest:
                self._transport.write(b"".join((self._head, b"%x\r\n" % len(rest), rest, b"\r\n0\r\n\r\n")))
            else:
                self._transport.write(self._head + b"0\r\n\r\n")
        self._end_call(call)

    def break_stream(self, error: CallError, call_id: str, *, events: bool) -> None:
        """End a stream that cannot be completed: with a typed error event where the client reads events."""
        call = self._call
        assert call is not None
        if not self.gone:
            if events and self._chunked:
                event = error_event(call, error, call_id)
                self._transport.write(b"%b%x\r\n%b\r\n0\r\n\r\n" % (self._head, len(event), event))
            else:
                # Framed by its length or by the end of the connection: only a reset says that it is not whole.
                self._transport.abort()
        self._end_call(call)


def _unserved(call: Call) -> CallError | None:
    """Why a request is refused before anything of it is read, or None."""
    if call.method not in _METHODS:
        call.keep_alive = False  # what follows a CONNECT is not HTTP
        return BadRequest(
            "method_not_allowed", "The method is not served: use GET, POST, PUT, PATCH or DELETE.", status=405
        )
    if call.headers.get(b"upgrade", b"").lower() == b"websocket":
        call.keep_alive = False
        return BadRequest("upgrade_unsupported", "WebSocket is not served here: use the plain and streamed HTTP APIs.")
    encoding = call.headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        return BadRequest("encoding_unsupported", "Send the body without Content-Encoding.", status=415)
    return None
