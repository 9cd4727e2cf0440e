"""Errors of ours, read by the clients that people use, and the codes in errors of providers."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from upeti.core import errors
from upeti.core.errors import CallError
from upeti.wire.error_body import anthropic_error, anthropic_event, error_code, openai_error, openai_event

ERRORS: list[tuple[CallError, type[Exception], type[Exception], str]] = [
    (
        errors.BadRequest("invalid_json", "bad", param="model"),
        openai.BadRequestError,
        anthropic.BadRequestError,
        "invalid_request_error",
    ),
    (
        errors.Unauthenticated("invalid_api_key", "who?"),
        openai.AuthenticationError,
        anthropic.AuthenticationError,
        "authentication_error",
    ),
    (
        errors.Forbidden("route_not_allowed", "no"),
        openai.PermissionDeniedError,
        anthropic.PermissionDeniedError,
        "permission_error",
    ),
    (
        errors.NotFound("model_not_found", "none"),
        openai.NotFoundError,
        anthropic.NotFoundError,
        "not_found_error",
    ),
    (
        errors.TooLarge("body_too_large", "big"),
        openai.APIStatusError,
        anthropic.RequestTooLargeError,
        "request_too_large",
    ),
    (
        errors.BudgetExceeded("budget_exceeded", "spent"),
        openai.RateLimitError,
        anthropic.RateLimitError,
        "rate_limit_error",
    ),
    (
        errors.Overloaded("too_many_calls", "full"),
        openai.InternalServerError,
        anthropic.InternalServerError,
        "overloaded_error",
    ),
    (
        errors.UpstreamFailed("upstream_failed", "down"),
        openai.InternalServerError,
        anthropic.InternalServerError,
        "api_error",
    ),
    (
        errors.DeadlineExceeded("upstream_timeout", "late"),
        openai.InternalServerError,
        anthropic.InternalServerError,
        "timeout_error",
    ),
]
CLASSES = [row[0] for row in ERRORS]


def openai_client(status: int, body: bytes, content_type: str = "application/json") -> openai.OpenAI:
    answer = httpx2.Response(status, content=body, headers={"content-type": content_type})
    transport = httpx2.MockTransport(lambda request: answer)
    return openai.OpenAI(api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))


def anthropic_client(status: int, body: bytes, content_type: str = "application/json") -> anthropic.Anthropic:
    answer = httpx2.Response(status, content=body, headers={"content-type": content_type})
    transport = httpx2.MockTransport(lambda request: answer)
    return anthropic.Anthropic(api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))


def test_every_error_has_a_row_here() -> None:
    assert {type(error) for error in CLASSES} == set(CallError.__subclasses__())


@pytest.mark.parametrize(("error", "expected"), [(row[0], row[1]) for row in ERRORS])
def test_the_openai_client_raises_its_own_error_with_all_of_ours(error: CallError, expected: type[Exception]) -> None:
    client = openai_client(error.status, openai_error(error, "req_1"))
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="m", messages=[])
    assert isinstance(caught.value, expected)
    assert (caught.value.code, caught.value.type, caught.value.param) == (error.code, error.kind, error.param)
    assert error.message in caught.value.message
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["request_id"] == "req_1"


@pytest.mark.parametrize(("error", "expected", "kind"), [(row[0], row[2], row[3]) for row in ERRORS])
def test_the_anthropic_client_raises_its_own_error_with_all_of_ours(
    error: CallError, expected: type[Exception], kind: str
) -> None:
    client = anthropic_client(error.status, anthropic_error(error, "req_1"))
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model="m", max_tokens=1, messages=[])
    assert isinstance(caught.value, expected)
    body: Any = caught.value.body
    assert body == {
        "type": "error",
        "error": {"type": kind, "message": error.message, "code": error.code},
        "request_id": "req_1",
    }


CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n'


@pytest.mark.parametrize("error", CLASSES)
def test_the_openai_client_raises_on_an_error_within_a_stream(error: CallError) -> None:
    client = openai_client(200, CHUNK + openai_event(error, "req_1"), "text/event-stream")
    stream = client.chat.completions.create(model="m", messages=[], stream=True)
    with pytest.raises(openai.APIError, match=error.message) as caught:
        list(stream)
    assert caught.value.code == error.code


@pytest.mark.parametrize("error", CLASSES)
def test_the_anthropic_client_raises_on_an_error_within_a_stream(error: CallError) -> None:
    client = anthropic_client(200, anthropic_event(error, "req_1"), "text/event-stream")
    stream = client.messages.create(model="m", max_tokens=1, messages=[], stream=True)
    with pytest.raises(anthropic.APIStatusError, match=error.message):
        list(stream)


def test_a_message_with_quotes_lines_and_any_letters_stays_one_event() -> None:
    error = errors.BadRequest("code", 'say "hi"\n\ndata: [DONE]\n\n漢字 \x00')
    for event in (openai_event(error, "r"), anthropic_event(error, "r")):
        assert event.count(b"\n\n") == 1
        assert event.endswith(b"\n\n")
        assert json.loads(event[event.index(b"{") :])["error"]["message"] == error.message


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error":{"code":"content_filter","message":"x"}}', "content_filter"),
        (b'{"error":{"code":429,"message":"x"}}', "429"),
        (b'{"error":{"code":null}}', ""),
        (b'{"error":{}}', ""),
        (b'{"error":null}', ""),
        (b'{"error":"text"}', ""),
        (b'{"error":{"code":{}}}', ""),
        (b"{}", ""),
        (b"[]", ""),
        (b"", ""),
        (b"<html>502 Bad Gateway</html>", ""),
        (b'{"error":{"code":"\xff"}}', ""),
        (b'{"x":' + b"[" * 100_000, ""),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
def test_the_code_in_an_error_of_a_provider(body: bytes, code: str) -> None:
    assert error_code(body) == code
