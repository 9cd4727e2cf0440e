"""The bytes of an answer's head, and of errors of ours. No sockets."""

from __future__ import annotations

from typing import Final

from upeti.core.errors import CallError
from upeti.gateway.call import Call
from upeti.wire.error_body import anthropic_error, anthropic_event, openai_error, openai_event

_REASONS: Final = {
    200: b"OK",
    201: b"Created",
    202: b"Accepted",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    402: b"Payment Required",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}

_status_lines: dict[tuple[int, bytes, bool], bytes] = {}
_STATUS_LINES_MAX: Final = 1024  # content types come from providers
_RETRY_WAIT_MAX_S: Final = 60  # longer, and those libraries do not heed `retry-after`


def status_line(call: Call, status: int, content_type: bytes, draining: bool) -> bytes:
    """Return the head up to the headers that differ from call to call. ``draining``: the worker stops."""
    closing = not call.keep_alive or draining
    line = _status_lines.get((status, content_type, closing))
    if line is None:
        line = b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"Status"))
        if content_type:
            line += b"content-type: %b\r\n" % content_type
        if closing:
            line += b"connection: close\r\n"
        if len(_status_lines) < _STATUS_LINES_MAX:
            _status_lines[status, content_type, closing] = line
    if call.http_1_0 and not closing:
        line += b"connection: keep-alive\r\n"
    return line


def error_answer(call: Call, error: CallError, call_id: str, draining: bool) -> bytes:
    """Return a whole answer that says what is wrong, in the shape that the client's library expects."""
    body = (anthropic_error if _speaks_anthropic(call) else openai_error)(error, call_id)
    if call.method == b"HEAD":
        body = b""  # it would be taken for the next answer
    headers = b"x-request-id: %b\r\n" % call_id.encode()
    wait_s = error.retry_after_s
    if error.status == 429 and (wait_s is None or wait_s > _RETRY_WAIT_MAX_S):
        # OpenAI's and Anthropic's libraries try 429 again by themselves; a spent budget does not come back by that.
        headers += b"x-should-retry: false\r\n"
    if wait_s is not None:
        headers += b"retry-after: %d\r\n" % wait_s
    elif error.status == 503:
        headers += b"retry-after: 1\r\n"
    line = status_line(call, error.status, b"application/json", draining)
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (line, headers, len(body), body)


def error_event(call: Call, error: CallError, call_id: str) -> bytes:
    """Return the event that ends a stream which cannot be completed."""
    return (anthropic_event if _speaks_anthropic(call) else openai_event)(error, call_id)


def _speaks_anthropic(call: Call) -> bool:
    return call.url.startswith(b"/v1/messages")
