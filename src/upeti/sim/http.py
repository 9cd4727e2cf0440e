"""HTTP of the fake provider: bytes in, requests out. No sockets.

Rules: a request is kept exactly as it arrived, head and body, so that a test can compare bytes. httptools
reads the head; the body is cut out here, because its raw bytes (chunk framing included) are wanted too.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import Any, Final

import httptools

HEAD_END: Final = b"\r\n\r\n"
HEAD_BYTES_MAX: Final = 1 << 20  # a gateway never sends a tenth of this; more is not HTTP

REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    529: "Site Overloaded",
}


class NotHttp(Exception):
    """What arrived is not a request."""


@dataclass(frozen=True)
class Served:
    """What became of a request. ``billed`` is what the provider would charge for, in disjoint meters."""

    status: int
    complete: bool
    billed: dict[str, int] | None


@dataclass
class Request:
    """One request as it arrived. ``raw_body`` has the chunk framing, ``body`` has not."""

    head: bytes
    raw_body: bytes
    body: bytes
    method: str
    target: str
    headers: list[tuple[str, str]]  # names in lower case, in the order of arrival
    number: int = 0  # of the provider, from 1
    connection: int = 0
    at_ns: int = 0
    served: Served | None = None
    _json: Any = field(default=None, repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """Return the value of the first header of that name, which is given in lower case."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; empty when it is none."""
        if self._json is None:
            body = self.body
            try:
                if self.header("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                found = json.loads(body)
            except (ValueError, OSError, EOFError, zlib.error, RecursionError):
                found = {}
            self._json = found if isinstance(found, dict) else {}
        return dict(self._json)


class _Head:
    """Callbacks of httptools for one head."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[str, str]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))


class RequestReader:
    """Feed what a socket gives, take requests out; one request may come in any number of pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: Request | None = None  # its body is still to come
        self._length: int | None = None  # None: chunked
        self._position = 0  # of what is not read yet, within the buffer
        self._parts: list[bytes] = []
        self._scanned = 0

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def waits_for_continue(self) -> bool:
        """A head with ``Expect: 100-continue`` is here and nothing of its body."""
        head = self._head
        return head is not None and head.header("expect") is not None and len(self._buffer) == len(head.head)

    def next(self) -> Request | None:
        """Return the next whole request, or None when more bytes are needed. Raises ``NotHttp``."""
        if self._head is None and not self._read_head():
            return None
        request = self._head
        assert request is not None
        end = self._body_end(request)
        if end is None:
            return None
        start = len(request.head)
        request.raw_body = bytes(self._buffer[start:end])
        request.body = request.raw_body if self._length is not None else b"".join(self._parts)
        del self._buffer[:end]
        self._head, self._length, self._position, self._scanned = None, None, 0, 0
        self._parts = []
        return request

    def _read_head(self) -> bool:
        end = self._buffer.find(HEAD_END, max(0, self._scanned - 3))
        if end < 0:
            self._scanned = len(self._buffer)
            if self._scanned > HEAD_BYTES_MAX:
                raise NotHttp("a head without an end")
            return False
        raw = bytes(self._buffer[: end + len(HEAD_END)])
        head = _Head()
        parser = httptools.HttpRequestParser(head)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass  # an upgrade is offered, never taken
        except httptools.HttpParserError as error:
            raise NotHttp(str(error)) from error
        self._head = Request(
            head=raw,
            raw_body=b"",
            body=b"",
            method=parser.get_method().decode("ascii"),
            target=head.target.decode("latin-1"),
            headers=head.headers,
        )
        self._position = len(raw)
        coding = self._head.header("transfer-encoding")
        self._length = None if coding is not None else int(self._head.header("content-length") or 0)
        return True

    def _body_end(self, request: Request) -> int | None:
        if self._length is not None:
            end = len(request.head) + self._length
            return end if len(self._buffer) >= end else None
        return self._chunks_end()

    def _chunks_end(self) -> int | None:
        """Take whole chunks off; the position stays before the first that is not whole."""
        while True:
            line_end = self._buffer.find(b"\r\n", self._position)
            if line_end < 0:
                return None
            try:
                size = int(bytes(self._buffer[self._position : line_end]).split(b";")[0], 16)
            except ValueError as error:
                raise NotHttp("a chunk without a size") from error
            if size == 0:
                end = self._buffer.find(HEAD_END, line_end)  # behind the trailers, if there are any
                return None if end < 0 else end + len(HEAD_END)
            start = line_end + 2
            if len(self._buffer) < start + size + 2:
                return None
            self._parts.append(bytes(self._buffer[start : start + size]))
            self._position = start + size + 2


def head_bytes(status: int, headers: list[tuple[str, str]], *, version: str = "1.1") -> bytes:
    lines = [f"HTTP/{version} {status} {REASONS.get(status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK: Final = b"0\r\n\r\n"
