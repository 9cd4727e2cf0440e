"""Errors of ours as the client's library expects them: OpenAI's shape, Anthropic's on its paths."""

from __future__ import annotations

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
