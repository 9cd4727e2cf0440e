"""A stream of every wire, put together, is the answer that the same call has without a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from upeti.sim import answers
from upeti.sim.behaviours import behaviour_of
from upeti.sim.http import Request
from upeti.wire.assemble import whole_answer

PATHS = {
    "chat_completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}


def answer(wire: str, **body: object) -> answers.Answer:
    data = json.dumps({"model": "m", "max_tokens": 9, "max_output_tokens": 9, **body}).encode()
    return answers.answer(Request(b"", data, data, "POST", PATHS[wire], []), behaviour_of(""))


def streamed(wire: str, **body: object) -> bytes:
    events = answer(wire, stream=True, stream_options={"include_usage": True}, **body).events
    assert events
    return b"".join(event.data for event in events)


def said(wire: str, body: dict[str, Any]) -> list[str]:
    if wire == "responses":
        return [part["text"] for item in body["output"] for part in item["content"]]
    if wire == "messages":
        return [part["text"] for part in body["content"]]
    return [choice["text"] if wire == "completions" else choice["message"]["content"] for choice in body["choices"]]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("wire", PATHS)
def test_a_stream_spells_the_whole_answer(wire: str, newline: bytes) -> None:
    whole = whole_answer(wire, streamed(wire).replace(b"\n", newline))
    plain = json.loads(answer(wire).body)
    assert whole is not None
    assert said(wire, whole) == said(wire, plain)
    assert whole["usage"].keys() == plain["usage"].keys()
    assert whole["object" if wire != "messages" else "role"] == plain["object" if wire != "messages" else "role"]


def test_choices_that_come_mixed_are_taken_apart() -> None:
    whole = whole_answer("chat_completions", streamed("chat_completions", n=3))
    assert whole is not None
    assert said("chat_completions", whole) == said("chat_completions", json.loads(answer("chat_completions", n=3).body))


def event(**data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def chunk(**delta: object) -> bytes:
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": None}])


def test_arguments_of_tools_are_put_together() -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "tag", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": part}} for part in ('{"to', 'pic":"x"}')]
    whole = whole_answer(
        "chat_completions",
        chunk(role="assistant", content=None, tool_calls=[call]) + b"".join(chunk(tool_calls=[one]) for one in more),
    )
    assert whole is not None
    message = whole["choices"][0]["message"]
    assert message["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "tag", "arguments": '{"topic":"x"}'}}
    ]
    assert message["content"] is None


def test_input_of_anthropics_tools_is_put_together() -> None:
    block = {"type": "tool_use", "id": "t", "name": "tag", "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": part} for part in ('{"to', 'pic":1}')]
    whole = whole_answer(
        "messages",
        event(type="message_start", message={"id": "m", "content": [], "usage": {"input_tokens": 3}})
        + event(type="content_block_start", index=0, content_block=block)
        + b"".join(event(type="content_block_delta", index=0, delta=delta) for delta in deltas)
        + event(type="message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 5}),
    )
    assert whole is not None
    assert whole["content"] == [{"type": "tool_use", "id": "t", "name": "tag", "input": {"topic": 1}}]
    assert whole["usage"] == {"input_tokens": 3, "output_tokens": 5}
    assert whole["stop_reason"] == "tool_use"


@pytest.mark.parametrize("wire", [*PATHS, "embeddings", "other"])
@pytest.mark.parametrize("body", [b"", b"data: [DONE]\n\n", b"data: {\n\n", b"\xff\x00", b'data: {"choices":[1]}\n\n'])
def test_what_spells_nothing_is_nothing(wire: str, body: bytes) -> None:
    assert whole_answer(wire, body) is None
