"""Service tiers by their names on each wire."""

from __future__ import annotations

import json

import pytest

from upeti.wire.sse import ChatStream, MessageStream, ResponseStream
from upeti.wire.tiers import asked_tier, reported_tier
from upeti.wire.usage import usage_of_answer


@pytest.mark.parametrize(
    ("said", "tier"),
    [
        ((None, None), None),
        (("auto", None), "auto"),
        (("default", None), ""),
        (("standard_only", "standard"), ""),
        (("priority", None), "priority"),
        (("fast", None), "priority"),  # OpenAI's new name of it
        (("flex", None), "flex"),
        (("anything", None), "anything"),
        (("auto", "fast"), "fast"),
        ((None, None, "us"), "us"),
        (("auto", None, "us"), "us"),
        ((None, "fast", "us"), "fast_us"),
        (("standard_only", None, "global"), ""),
    ],
)
def test_what_is_asked_for(said: tuple[str | None, ...], tier: str | None) -> None:
    assert asked_tier(*said) == tier


@pytest.mark.parametrize(
    ("said", "tier"),
    [
        ((None, None), None),
        (("auto", None), None),  # not served yet
        (("default", None), ""),
        (("standard", "standard", "not_available"), ""),
        (("standard", "fast", "global"), "fast"),
        (("batch", None), "batch"),
        (("standard", None, "us"), "us"),
        (("batch", None, "us"), "batch_us"),
    ],
)
def test_what_is_reported(said: tuple[str | None, ...], tier: str | None) -> None:
    assert reported_tier(*said) == tier


def test_plain_answers_say_it_beside_or_within_their_usage() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    for body, tier in (
        ({"usage": usage, "service_tier": "priority"}, "priority"),
        ({"service_tier": "default", "usage": usage}, ""),
        ({"usage": usage}, None),
        ({"usage": {"input_tokens": 3, "output_tokens": 4, "service_tier": "standard", "speed": "fast"}}, "fast"),
    ):
        found = usage_of_answer(json.dumps(body).encode())
        assert found is not None
        assert found.tier == tier


def chunk(**fields: object) -> bytes:
    return b"data: " + json.dumps({"choices": [], **fields}).encode() + b"\n\n"


USAGE = {"prompt_tokens": 3, "completion_tokens": 4}


@pytest.mark.parametrize("cut", [1, 7, 64, 4096])
def test_a_completions_stream_says_it_in_its_chunks(cut: int) -> None:
    """Also where the chunk with the usage does not, and wherever reads end."""
    data = b"".join((*(chunk(service_tier="flex") for _ in range(9)), chunk(usage=USAGE), b"data: [DONE]\n\n"))
    stream = ChatStream(strip_usage=False)
    stream.seek_tier = True
    for start in range(0, len(data), cut):
        stream.feed(data[start : start + cut])
    stream.finish()
    # A read shorter than the field cannot show it; providers write whole events.
    assert stream.tier() == ("flex" if cut >= 64 else None)


def test_beside_the_usage_it_is_read_without_being_sought() -> None:
    stream = ChatStream(strip_usage=True)
    stream.feed(chunk(service_tier="auto") + chunk(usage=USAGE, service_tier="priority") + b"data: [DONE]\n\n")
    assert stream.tier() == "priority"


def test_a_text_that_looks_like_it_is_not_it() -> None:
    stream = ChatStream(strip_usage=False)
    stream.seek_tier = True
    text = '"service_tier":"priority"'
    stream.feed(b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n")
    assert stream.tier() is None


def test_a_responses_stream_says_it_at_its_end() -> None:
    stream = ResponseStream()
    for kind, tier in (("response.created", "auto"), ("response.completed", "default")):
        body = {"service_tier": tier, "usage": {"input_tokens": 1, "output_tokens": 2} if tier != "auto" else None}
        event = json.dumps({"type": kind, "response": body}).encode()
        stream.feed(b"event: " + kind.encode() + b"\ndata: " + event + b"\n\n")
    stream.finish()
    assert stream.tier() == ""


def test_a_messages_stream_says_it_at_its_beginning() -> None:
    stream = MessageStream()
    begin = {"usage": {"input_tokens": 5, "output_tokens": 1, "service_tier": "standard", "inference_geo": "us"}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}
    for event in ({"type": "message_start", "message": begin}, end):
        stream.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert stream.tier() == "us"
