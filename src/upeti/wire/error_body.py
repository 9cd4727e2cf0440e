"""Errors of ours as the client's library expects them, and what errors of providers say.

Ours have OpenAI's shape, Anthropic's on its paths. Theirs are read leniently: whatever cannot be read is text.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from upeti.core.errors import CallError

# Anthropic's own names for our kinds, from its list of error types; what has none is an api_error.
_ANTHROPIC_TYPES = {
    "invalid_request_error": "invalid_request_error",
    "authentication_error": "authentication_error",
    "permission_error": "permission_error",
    "not_found_error": "not_found_error",
    "request_too_large": "request_too_large",
    "budget_error": "rate_limit_error",
    "rate_limit_error": "rate_limit_error",
    "overloaded_error": "overloaded_error",
    "timeout_error": "timeout_error",
}


class _Error(msgspec.Struct):
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error | None = None


_error_body = msgspec.json.Decoder(_ErrorBody)


def error_code(body: bytes) -> str:
    """Return the code in a provider's error body, "" when there is none that can be read."""
    try:
        found = _error_body.decode(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return str(found.code) if found is not None and found.code is not None else ""


ERROR_BYTES_MAX: Final = 64 * 1024  # what is read of an error; the longest seen, pages of proxies, have about 10 KB


class Said(msgspec.Struct, frozen=True):
    """What a provider's error says, whatever its shape. A part that is not there is ""."""

    type: str = ""
    code: str = ""
    message: str = ""


def read_error(body: bytes, amazon_type: bytes = b"") -> Said:
    """Return what ``body`` says; total. ``amazon_type`` is the value of Amazon's header ``x-amzn-errortype``.

    Shapes: OpenAI's and Azure's ``{"error": {type, code, message}}``, Anthropic's ``{"type": "error", "error": …}``,
    Google's with ``status`` and a reason in its details, alone or in a list, xAI's ``{"code", "error": text}``, Amazon's
    ``{"message"}``, and plain text.
    """
    named = amazon_type.decode("ascii", "replace").partition(":")[0]
    try:
        found: Any = msgspec.json.decode(body[:ERROR_BYTES_MAX])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Said(named, "", body[:ERROR_BYTES_MAX].decode("utf-8", "replace").strip())
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, dict):
        return Said(named, "", str(found))
    error = found.get("error", found)
    if not isinstance(error, dict):
        return Said(named, _text(found.get("code")), _text(error))
    kind = _text(error.get("status")) or _text(error.get("type")) or _text(error.get("__type")) or named
    code = _detail(error.get("details")) or _text(error.get("code"))
    return Said(kind.rpartition("#")[2], code, _text(error.get("message")) or _text(error.get("detail")))


def _detail(details: object) -> str:
    """Return what names the error more closely than its code: Google's reason, Anthropic's error_code; "" for none."""
    for one in details if isinstance(details, list) else [details]:
        if isinstance(one, dict):
            name = _text(one.get("reason")) or _text(one.get("error_code"))
            if name:
                return name
    return ""


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def openai_error(error: CallError, request_id: str) -> bytes:
    return msgspec.json.encode(
        {
            "error": {
                "message": error.message,
                "type": error.kind,
                "param": error.param,
                "code": error.code,
                "request_id": request_id,
            }
        }
    )


def anthropic_error(error: CallError, request_id: str) -> bytes:
    kind = _ANTHROPIC_TYPES.get(error.kind, "api_error")
    return msgspec.json.encode(
        {
            "type": "error",
            "error": {"type": kind, "message": error.message, "code": error.code},
            "request_id": request_id,
        }
    )


def openai_event(error: CallError, request_id: str) -> bytes:
    """An error within a stream that has begun: OpenAI's clients raise on a data line with an `error`."""
    return b"data: %b\n\n" % openai_error(error, request_id)


def anthropic_event(error: CallError, request_id: str) -> bytes:
    return b"event: error\ndata: %b\n\n" % anthropic_error(error, request_id)
