"""Answers of the fake provider, read as a client would."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.sim.answers import OUTPUT_TOKENS_DEFAULT, OUTPUT_TOKENS_MAX, answer, model_of, wire_of
from upeti.sim.behaviours import behaviour_of
from upeti.sim.http import Request
from upeti.sim.values import Answer

PATHS = {
    "chat_completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
    "messages": "/v1/messages",
}
STREAMING = [wire for wire in PATHS if wire != "embeddings"]


def request_of(wire: str, method: str = "POST", path: str = "", **body: Any) -> Request:
    raw = json.dumps({"model": "m", **body}).encode()
    return Request(b"", raw, raw, method, path or PATHS[wire], [])


def said(wire: str, words: str = "", **body: Any) -> Answer:
    return answer(request_of(wire, **body), behaviour_of(words))


def data_of(reply: Answer) -> list[Any]:
    assert reply.events is not None
    found = []
    for event in reply.events:
        for line in event.data.decode().splitlines():
            if line.startswith("data: ") and line != "data: [DONE]":
                found.append(json.loads(line[6:]))
    return found


def text_of(wire: str, data: list[Any]) -> str:
    if wire == "chat_completions":
        return "".join(choice["delta"].get("content", "") for chunk in data for choice in chunk["choices"])
    if wire == "completions":
        return "".join(choice["text"] for chunk in data for choice in chunk["choices"])
    if wire == "responses":
        return "".join(event["delta"] for event in data if event["type"] == "response.output_text.delta")
    return "".join(event["delta"]["text"] for event in data if event["type"] == "content_block_delta")


def plain_text(wire: str, body: Any) -> str:
    text: str
    if wire == "chat_completions":
        text = body["choices"][0]["message"]["content"]
    elif wire == "completions":
        text = body["choices"][0]["text"]
    elif wire == "responses":
        text = body["output"][0]["content"][0]["text"]
    else:
        text = body["content"][0]["text"]
    return text


@pytest.mark.parametrize("wire", STREAMING)
@given(cap=st.none() | st.integers(1, 300))
def test_a_stream_and_a_plain_answer_say_and_bill_the_same(wire: str, cap: int | None) -> None:
    body = {} if cap is None else {"max_output_tokens" if wire == "responses" else "max_tokens": cap}
    plain = said(wire, **body)
    streamed = said(wire, **body, stream=True)
    assert text_of(wire, data_of(streamed)) == plain_text(wire, json.loads(plain.body))
    expected = OUTPUT_TOKENS_DEFAULT if cap is None else min(cap, OUTPUT_TOKENS_MAX)
    assert plain.billed is not None
    assert streamed.billed is not None
    assert plain.billed["output"] == streamed.billed["output"] == expected


def test_input_is_a_quarter_of_the_body() -> None:
    request = request_of("chat_completions", messages=["x" * 997])
    reply = answer(request, behaviour_of(""))
    assert json.loads(reply.body)["usage"]["prompt_tokens"] == len(request.body) // 4


def test_cached_and_reasoning_are_parts_and_the_meters_are_disjoint() -> None:
    reply = said("chat_completions", "in1000-out40-cached-reason")
    usage = json.loads(reply.body)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (1000, 40, 1040)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 500
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 20
    assert reply.billed == {"input": 500, "input_cached": 500, "output": 20, "output_reasoning": 20}


def test_anthropic_leaves_what_was_cached_out_of_the_input() -> None:
    reply = said("messages", "in1000-out40-cached-reason")
    usage = json.loads(reply.body)["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (500, 500, 40)
    assert reply.billed == {"input": 500, "input_cached": 500, "output": 40}


def test_chat_gives_usage_of_a_stream_only_when_asked() -> None:
    unasked = data_of(said("chat_completions", stream=True))
    assert all("usage" not in chunk for chunk in unasked)
    asked = data_of(said("chat_completions", stream=True, stream_options={"include_usage": True}))
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["completion_tokens"] == OUTPUT_TOKENS_DEFAULT
    assert all(chunk["usage"] is None for chunk in asked[:-1])


@pytest.mark.parametrize("wire", ["chat_completions", "completions", "messages"])
def test_usage_in_each_event_is_cumulative(wire: str) -> None:
    found = []
    for event in data_of(said(wire, "usageeach", stream=True)):
        usage = event.get("usage")
        if usage and event.get("delta", {}).get("stop_reason") is None:
            found.append(usage.get("completion_tokens", usage.get("output_tokens")))
    counts = found[:OUTPUT_TOKENS_DEFAULT]
    assert counts == list(range(1, OUTPUT_TOKENS_DEFAULT + 1))


def test_responses_ends_with_its_usage_and_numbers_its_events() -> None:
    data = data_of(said("responses", stream=True))
    assert [event["sequence_number"] for event in data] == list(range(len(data)))
    assert data[0]["type"] == "response.created"
    assert data[-1]["type"] == "response.completed"
    assert data[-1]["response"]["usage"]["output_tokens"] == OUTPUT_TOKENS_DEFAULT


@pytest.mark.parametrize("wire", STREAMING)
def test_no_usage_means_none_anywhere_and_is_billed_all_the_same(wire: str) -> None:
    plain = said(wire, "nousage")
    streamed = said(wire, "nousage", stream=True, stream_options={"include_usage": True})
    assert plain.events is None
    assert streamed.events is not None
    for text in (plain.body, *(event.data for event in streamed.events)):
        assert b'"usage":{' not in text
    assert plain.billed is not None
    assert plain.billed["output"] == OUTPUT_TOKENS_DEFAULT


def test_what_is_billed_grows_with_the_stream() -> None:
    reply = said("chat_completions", stream=True)
    assert reply.events is not None
    assert [event.billed["output"] for event in reply.events][:3] == [1, 2, 3]
    assert reply.events[-1].billed == reply.billed


def test_choices_multiply() -> None:
    reply = said("chat_completions", n=3, max_tokens=2)
    body = json.loads(reply.body)
    assert len(body["choices"]) == 3
    assert body["usage"]["completion_tokens"] == 6
    chunks = data_of(said("chat_completions", n=3, max_tokens=2, stream=True))
    assert [chunk["choices"][0]["index"] for chunk in chunks[:6]] == [0, 1, 2, 0, 1, 2]


def test_embeddings() -> None:
    body = json.loads(said("embeddings", input=["a", "b"]).body)
    assert [entry["index"] for entry in body["data"]] == [0, 1]
    assert body["data"][0]["embedding"] == [0.5, -0.25, 0.125, 0.0625]
    reply = said("embeddings", input="a", encoding_format="base64")
    assert isinstance(json.loads(reply.body)["data"][0]["embedding"], str)
    assert reply.billed is not None
    assert set(reply.billed) == {"input"}


@pytest.mark.parametrize(
    ("status", "kind"), [(401, "authentication_error"), (429, "rate_limit_error"), (500, "api_error")]
)
def test_errors_have_the_shape_of_their_wire(status: int, kind: str) -> None:
    openai = said("chat_completions", f"err{status}")
    assert openai.status == status
    assert json.loads(openai.body)["error"]["type"] == kind
    anthropic = said("messages", f"err{status}")
    assert json.loads(anthropic.body)["type"] == "error"
    assert openai.billed is None
    assert (("retry-after", "1") in openai.headers) == (status == 429)


def test_quota_is_not_a_rate_limit() -> None:
    assert json.loads(said("chat_completions", "quota").body)["error"]["code"] == "insufficient_quota"


def test_trap_and_size() -> None:
    trap = json.loads(said("chat_completions", "trap").body)
    assert "data: [DONE]" in trap["choices"][0]["message"]["content"]
    assert trap["usage"]["completion_tokens"] == OUTPUT_TOKENS_DEFAULT
    assert len(said("chat_completions", "biganswer64").body) > 64 * 1024


def test_crlf_and_pings() -> None:
    reply = said("messages", "crlf-ping", stream=True)
    assert reply.events is not None
    data = b"".join(event.data for event in reply.events)
    assert data.count(b"\n") == data.count(b"\r\n")
    assert b": keep-alive\r\n\r\nevent: " in data


def test_paths_and_models() -> None:
    assert wire_of("/openai/deployments/d/chat/completions") == "chat_completions"
    assert wire_of("/v1/files") == "other"
    assert model_of(request_of("", path="/openai/deployments/my%20gpt/chat/completions")) == "my gpt"
    assert model_of(request_of("", path="/v1/chat/completions")) == "m"


def test_other_paths() -> None:
    models = answer(request_of("", method="GET", path="/v1/models"), behaviour_of(""))
    assert json.loads(models.body)["data"][0]["id"] == "sim"
    heard = answer(request_of("", path="/v1/audio/transcriptions"), behaviour_of(""))
    assert heard.billed == {"audio_seconds": 3}
    assert answer(request_of("", path="/v1/audio/speech"), behaviour_of("")).content_type == "audio/mpeg"
    shown = answer(request_of("", path="/v1/images/generations"), behaviour_of(""))
    assert json.loads(shown.body)["usage"]["output_tokens"] == OUTPUT_TOKENS_DEFAULT
    counted = answer(request_of("", path="/v1/messages/count_tokens"), behaviour_of(""))
    assert counted.billed is None
    assert json.loads(counted.body)["input_tokens"] > 0
    deleted = answer(request_of("", method="DELETE", path="/v1/files/f?x=1"), behaviour_of(""))
    assert json.loads(deleted.body)["method"] == "DELETE"


def test_a_body_that_is_no_object_is_refused() -> None:
    assert answer(Request(b"", b"[", b"[", "POST", "/v1/chat/completions", []), behaviour_of("")).status == 400
