"""Streams as scripts of bytes: what passes on, what is held back, what is taken out, what is read.

Every stream is cut at every byte: however it arrives, the client gets the same bytes and the same is billed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core import meters as m
from upeti.sim.answers import answer
from upeti.sim.behaviours import behaviour_of
from upeti.sim.http import Request
from upeti.wire.sse import EVENT_BYTES_MAX, ChatStream, EventStream, MessageStream, OpaqueStream, ResponseStream
from upeti.wire.wires import WIRES

Meters = dict[str, int] | None


def event(data: object, name: str = "", end: bytes = b"\n") -> bytes:
    text = data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    return (b"event: %b%b" % (name.encode(), end) if name else b"") + b"data: " + text + end + end


def delta(text: str, **fields: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": text}}], **fields}


USAGE = {"prompt_tokens": 25, "completion_tokens": 7, "total_tokens": 32}
FINAL = {"id": "c", "choices": [], "usage": USAGE}
COUNTED: Meters = {m.INPUT: 25, m.OUTPUT: 7}
DONE = event(b"[DONE]")


def relayed(stream: EventStream, parts: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Return what passed on before the message was over, and what came with its end."""
    before = b"".join([stream.feed(part) for part in parts])
    return before, stream.finish()


def in_two(data: bytes) -> Iterable[list[bytes]]:
    for at in range(len(data) + 1):
        yield [data[:at], data[at:]]


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def check(make: Callable[[], EventStream], data: bytes, before: bytes, rest: bytes, counted: Meters) -> None:
    """However ``data`` is cut, the same passes on in time, the same is held back, the same is counted."""
    for parts in ([data], bytewise(data), *in_two(data)):
        stream = make()
        passed, held = relayed(stream, [part for part in parts if part])
        assert passed + held == before + rest
        # Held back at least from the end mark on; what was not whole yet may be held too.
        assert before.startswith(passed)
        assert stream.meters() == counted
    assert relayed(make(), [data]) == (before, rest)


# -- chat completions and completions --------------------------------------------------------------------------------

HELLO = event(delta("Halo ")) + event(delta("dunia 漢字 🙂"))

CHATS: list[tuple[str, bool, bytes, bytes, bytes, Meters]] = [
    ("plain", False, HELLO + DONE, HELLO, DONE, None),
    ("usage asked for by the client", False, HELLO + event(FINAL) + DONE, HELLO + event(FINAL), DONE, COUNTED),
    ("usage asked for by us", True, HELLO + event(FINAL) + DONE, HELLO, DONE, COUNTED),
    ("the provider did not give it", True, HELLO + DONE, HELLO, DONE, None),
    (
        "null in every chunk, as OpenAI does when asked",
        True,
        event(delta("a", usage=None)) + event(delta("b", usage=None)) + event(FINAL) + DONE,
        event(delta("a", usage=None)) + event(delta("b", usage=None)),
        DONE,
        COUNTED,
    ),
    (
        "figures so far in every chunk: the last counts, and chunks with choices stay",
        True,
        event(delta("a", usage={"prompt_tokens": 25, "completion_tokens": 1}))
        + event(delta("b", usage={"prompt_tokens": 25, "completion_tokens": 2}))
        + event(FINAL)
        + DONE,
        event(delta("a", usage={"prompt_tokens": 25, "completion_tokens": 1}))
        + event(delta("b", usage={"prompt_tokens": 25, "completion_tokens": 2})),
        DONE,
        COUNTED,
    ),
    (
        "usage with the last choice",
        True,
        HELLO + event(delta("", usage=USAGE)) + DONE,
        HELLO + event(delta("", usage=USAGE)),
        DONE,
        COUNTED,
    ),
    (
        "Azure: a first chunk without choices is no usage",
        True,
        event({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}) + HELLO + event(FINAL) + DONE,
        event({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}) + HELLO,
        DONE,
        COUNTED,
    ),
    (
        "blanks in the JSON",
        True,
        HELLO + b'data: { "choices" : [ ] , "usage" : { "prompt_tokens" : 25, "completion_tokens" : 7 } }\n\n' + DONE,
        HELLO,
        DONE,
        COUNTED,
    ),
    ("no blank behind the colon", True, HELLO + event(FINAL).replace(b"data: ", b"data:") + DONE, HELLO, DONE, COUNTED),
    (
        "comments",
        True,
        b": ping\n\n" + HELLO + b": ping\n\n" + event(FINAL) + b": ping\n\n" + DONE,
        b": ping\n\n" + HELLO + b": ping\n\n: ping\n\n",
        DONE,
        COUNTED,
    ),
    (
        "CR LF",
        True,
        event(delta("a"), end=b"\r\n") + event(FINAL, end=b"\r\n") + event(b"[DONE]", end=b"\r\n"),
        event(delta("a"), end=b"\r\n"),
        event(b"[DONE]", end=b"\r\n"),
        COUNTED,
    ),
    ("no blank line at the end", True, HELLO + event(FINAL) + b"data: [DONE]", HELLO, b"data: [DONE]", COUNTED),
    ("no end mark", True, HELLO + event(FINAL), HELLO, b"", COUNTED),
    ("the end comes within the usage", True, HELLO + event(FINAL)[:-2], HELLO, b"", COUNTED),
    ("nothing", True, b"", b"", b"", None),
    ("what is no event", True, b"<html>oops</html>", b"", b"<html>oops</html>", None),
    (
        "an error event within the stream",
        True,
        HELLO + event({"error": {"message": "overloaded"}}),
        HELLO + event({"error": {"message": "overloaded"}}),
        b"",
        None,
    ),
    (
        "usage that cannot be read passes on",
        True,
        HELLO + event({"choices": [], "usage": {"prompt_tokens": "25"}}) + DONE,
        HELLO + event({"choices": [], "usage": {"prompt_tokens": "25"}}),
        DONE,
        None,
    ),
]


@pytest.mark.parametrize(
    ("strip", "data", "before", "rest", "counted"), [row[1:] for row in CHATS], ids=[row[0] for row in CHATS]
)
def test_chat(strip: bool, data: bytes, before: bytes, rest: bytes, counted: Meters) -> None:
    check(lambda: ChatStream(strip_usage=strip), data, before, rest, counted)


TRAPS = [
    '{"usage":{"prompt_tokens":999,"completion_tokens":999}}',
    'data: {"choices":[],"usage":{"prompt_tokens":999}}\n\n',
    "\n\ndata: [DONE]\n\n",
    "data: [DONE]",
    "data: [DONE]\n\n" * 30,
    'a text that ends in "usage',
    'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    'event: response.completed\ndata: {"usage":{"input_tokens":9}}',
]


@pytest.mark.parametrize("text", TRAPS)
@pytest.mark.parametrize("padding", [0, 300])
def test_text_of_the_model_is_neither_usage_nor_the_end(text: str, padding: int) -> None:
    chunks = event(delta(text)) + event(delta("x" * padding + text))
    check(lambda: ChatStream(strip_usage=True), chunks + event(FINAL) + DONE, chunks, DONE, COUNTED)


def test_a_cut_stream_says_whether_its_usage_was_the_final_one() -> None:
    so_far = event(delta("a", usage={"prompt_tokens": 25, "completion_tokens": 1}))
    for data, exact in ((HELLO, False), (so_far, False), (so_far + event(FINAL), True)):
        stream = ChatStream(strip_usage=True)
        stream.feed(data)
        stream.finish()
        assert stream.exact is exact, data


# -- responses --------------------------------------------------------------------------------------------------------

READ = {"input_tokens": 25, "output_tokens": 7, "total_tokens": 32}


def response(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


CREATED = response("response.created", response={"id": "r", "status": "in_progress", "usage": None})
TEXT = response("response.output_text.delta", delta="Halo") + response("response.output_text.delta", delta="漢字")
COMPLETED = response("response.completed", response={"id": "r", "output": [], "usage": READ, "user": None})

RESPONSES: list[tuple[str, bytes, bytes, bytes, Meters]] = [
    ("completed", CREATED + TEXT + COMPLETED, CREATED + TEXT, COMPLETED, COUNTED),
    *(
        (
            f"{status}, with usage",
            CREATED + TEXT + (end := response(f"response.{status}", response={"usage": READ})),
            CREATED + TEXT,
            end,
            COUNTED,
        )
        for status in ("incomplete", "failed", "cancelled")
    ),
    *(
        (
            f"{status}, without usage",
            CREATED + TEXT + (end := response(f"response.{status}", response={"usage": None})),
            CREATED + TEXT,
            end,
            None,
        )
        for status in ("completed", "incomplete", "failed")
    ),
    (
        "figures so far in the first event are not the end",
        response("response.created", response={"usage": READ | {"output_tokens": 0}}) + TEXT + COMPLETED,
        response("response.created", response={"usage": READ | {"output_tokens": 0}}) + TEXT,
        COMPLETED,
        COUNTED,
    ),
    (
        "a tool that is called usage, echoed in every response object",
        response("response.created", response={"usage": None, "tools": [{"properties": {"usage": {"type": "x"}}}]})
        + TEXT
        + (
            end := response(
                "response.completed", response={"usage": READ, "tools": [{"properties": {"usage": {"type": "x"}}}]}
            )
        ),
        response("response.created", response={"usage": None, "tools": [{"properties": {"usage": {"type": "x"}}}]})
        + TEXT,
        end,
        COUNTED,
    ),
    (
        "without event lines",
        TEXT + (end := event({"type": "response.completed", "response": {"usage": READ}})),
        TEXT,
        end,
        COUNTED,
    ),
    (
        "CR LF",
        event({"type": "response.created"}, "response.created", end=b"\r\n")
        + (
            end := event({"type": "response.completed", "response": {"usage": READ}}, "response.completed", end=b"\r\n")
        ),
        event({"type": "response.created"}, "response.created", end=b"\r\n"),
        end,
        COUNTED,
    ),
    ("cut before its end", CREATED + TEXT, CREATED + TEXT, b"", None),
]


@pytest.mark.parametrize(
    ("data", "before", "rest", "counted"), [row[1:] for row in RESPONSES], ids=[row[0] for row in RESPONSES]
)
def test_responses(data: bytes, before: bytes, rest: bytes, counted: Meters) -> None:
    check(ResponseStream, data, before, rest, counted)


@pytest.mark.parametrize("text", TRAPS)
def test_text_of_a_response_is_neither_usage_nor_the_end(text: str) -> None:
    chunks = response("response.output_text.delta", delta=text) * 2
    end = response("response.completed", response={"output": [text], "usage": READ, "instructions": text})
    check(ResponseStream, CREATED + chunks + end, CREATED + chunks, end, COUNTED)


# -- messages ---------------------------------------------------------------------------------------------------------


def message(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


START = message("message_start", message={"id": "m", "usage": {"input_tokens": 25, "output_tokens": 1}})
BLOCK = message("content_block_delta", index=0, delta={"type": "text_delta", "text": "Halo 漢字"})
PING = message("ping")
DELTA = message("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7})
STOP = message("message_stop")

MESSAGES: list[tuple[str, bytes, bytes, bytes, Meters]] = [
    ("whole", START + PING + BLOCK + DELTA + STOP, START + PING + BLOCK + DELTA, STOP, COUNTED),
    (
        "figures so far are cumulative, and replace the ones before",
        START
        + BLOCK
        + message("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 3})
        + BLOCK
        + DELTA
        + STOP,
        START
        + BLOCK
        + message("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 3})
        + BLOCK
        + DELTA,
        STOP,
        COUNTED,
    ),
    (
        "the cache, reported at the start and again at the end",
        message("message_start", message={"usage": {"input_tokens": 25, "cache_read_input_tokens": 10}})
        + message("message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 20, "output_tokens": 7})
        + STOP,
        message("message_start", message={"usage": {"input_tokens": 25, "cache_read_input_tokens": 10}})
        + message("message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 20, "output_tokens": 7}),
        STOP,
        {m.INPUT: 20, m.INPUT_CACHED: 10, m.OUTPUT: 7},
    ),
    ("no usage at the end", START + BLOCK + STOP, START + BLOCK, STOP, {m.INPUT: 25, m.OUTPUT: 1}),
    (
        "no usage at all",
        message("message_start", message={"id": "m"}) + STOP,
        message("message_start", message={"id": "m"}),
        STOP,
        None,
    ),
    (
        "CR LF",
        START.replace(b"\n", b"\r\n") + DELTA.replace(b"\n", b"\r\n") + STOP.replace(b"\n", b"\r\n"),
        START.replace(b"\n", b"\r\n") + DELTA.replace(b"\n", b"\r\n"),
        STOP.replace(b"\n", b"\r\n"),
        COUNTED,
    ),
]


@pytest.mark.parametrize(
    ("data", "before", "rest", "counted"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES]
)
def test_messages(data: bytes, before: bytes, rest: bytes, counted: Meters) -> None:
    check(MessageStream, data, before, rest, counted)


@pytest.mark.parametrize("text", TRAPS)
def test_text_of_a_message_is_neither_usage_nor_the_end(text: str) -> None:
    block = message("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
    check(MessageStream, START + block + DELTA + STOP, START + block + DELTA, STOP, COUNTED)


def test_a_cut_message_is_exact_only_after_its_last_report() -> None:
    so_far = message("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 3})
    for data, exact in (
        (START + BLOCK, False),
        (START + BLOCK + so_far, False),
        (START + BLOCK + so_far + BLOCK + DELTA, True),
    ):
        stream = MessageStream()
        stream.feed(data)
        stream.finish()
        assert stream.exact is exact, data


# -- every wire, as the fake provider speaks it ------------------------------------------------------------------------

STREAMED = [wire for wire in WIRES if wire.name != "embeddings"]
WORDS = ["", "crlf", "ping", "usageeach", "trap", "cached-reason", "nousage", "crlf-ping-usageeach-trap", "biganswer1"]


def provided(wire: str, words: str, *, include_usage: bool) -> tuple[bytes, bytes, Meters]:
    """Return a stream of the fake provider, its last event, and what it bills for it."""
    asked: dict[str, Any] = {"model": "m", "stream": True, "max_tokens": 5, "max_output_tokens": 5}
    if include_usage:
        asked["stream_options"] = {"include_usage": True}
    path = {"chat_completions": "/v1/chat/completions"}.get(wire, f"/v1/{wire}")
    request = Request(b"", b"", json.dumps(asked).encode(), "POST", path, [])
    found = answer(request, behaviour_of(words))
    assert found.events is not None
    last = found.events[-1].data.removeprefix(b": keep-alive\n\n").removeprefix(b": keep-alive\r\n\r\n")
    return b"".join(one.data for one in found.events), last, found.billed


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("wire", STREAMED, ids=lambda wire: wire.name)
def test_a_stream_of_the_fake_provider_is_billed_as_it_bills(wire: Any, words: str) -> None:
    data, last, billed = provided(wire.name, words, include_usage=wire.asks_usage)
    counted = None if "nousage" in words else billed
    check(lambda: wire.stream(False), data, data.removesuffix(last), last, counted)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("wire", [wire for wire in WIRES if wire.asks_usage], ids=lambda wire: wire.name)
def test_the_extra_usage_event_is_taken_out_and_nothing_else(wire: Any, words: str) -> None:
    asked, last, billed = provided(wire.name, words, include_usage=True)
    # The same stream without the one event, comments kept: what the client sees had it not been for us.
    kept = [part for part in asked.replace(b"\r\n", b"\n").split(b"\n\n") if b'"choices":[],' not in part]
    expected = b"\n\n".join(kept)
    for parts in ([asked], bytewise(asked)):
        stream = wire.stream(True)
        passed, held = relayed(stream, parts)
        assert (passed + held).replace(b"\r\n", b"\n") == expected
        assert held.endswith(last)
        assert stream.meters() == (None if "nousage" in words else billed)


@given(st.data())
def test_any_cuts_of_any_stream(data: st.DataObject) -> None:
    wire = data.draw(st.sampled_from(STREAMED))
    words = data.draw(st.lists(st.sampled_from(["crlf", "ping", "usageeach", "trap", "cached", "reason"]), max_size=4))
    stream_bytes, last, billed = provided(wire.name, "-".join(words), include_usage=wire.asks_usage)
    cuts = data.draw(st.lists(st.integers(0, len(stream_bytes)), max_size=12).map(sorted))
    parts = [stream_bytes[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream_bytes)], strict=True)]
    stream = wire.stream(False)
    passed, held = relayed(stream, [part for part in parts if part])
    assert passed + held == stream_bytes
    assert stream_bytes.removesuffix(last).startswith(passed)
    assert stream.meters() == billed


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\n\n", b"\r\n\r\n", DONE, event(FINAL), START, COMPLETED])))
def test_whatever_a_provider_sends_passes_on_whole(parts: list[bytes]) -> None:
    for stream in (ChatStream(strip_usage=False), ResponseStream(), MessageStream(), OpaqueStream()):
        assert b"".join(relayed(stream, parts)) == b"".join(parts)


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_an_event_that_is_too_long_passes_on_unread_and_what_follows_is_read() -> None:
    long = event(delta("x" * (EVENT_BYTES_MAX + 1_000_000)))
    stream = ChatStream(strip_usage=True)
    reads = [long[at : at + 262_144] for at in range(0, len(long), 262_144)]
    passed = [stream.feed(read) for read in reads]
    assert any(passed[:-1])
    assert b"".join(passed) + stream.feed(event(FINAL)) + stream.feed(DONE) == long
    assert stream.finish() == DONE
    assert stream.meters() == COUNTED


def test_a_long_event_in_many_reads_is_put_together_once() -> None:
    """An image of some megabytes in one event arrives in hundreds of reads: no read may cost what all before it did."""

    def seconds(megabytes: int) -> float:
        image = event({"b64": "A" * megabytes * 1_000_000})
        stream = ResponseStream()
        started = time.process_time()
        passed = b"".join([stream.feed(image[at : at + 4096]) for at in range(0, len(image), 4096)])
        spent = time.process_time() - started
        assert passed == image
        return spent

    # Twice the size takes about twice the time; put together at every read it takes four times, and seconds.
    assert min(seconds(4) for _ in range(3)) < 0.25


def test_an_unmetered_stream_passes_at_once() -> None:
    stream = OpaqueStream()
    assert stream.feed(b'data: {"usage":{"prompt_tok') == b'data: {"usage":{"prompt_tok'
    assert stream.feed(DONE) == DONE
    assert stream.finish() == b""
    assert stream.meters() is None


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (ChatStream(strip_usage=True), b'data: {"choices":[],"usage":{"prompt_tokens":1},"x":"\xff"}\n\n'),
        (ResponseStream(), b'data: {"type":"\xff","response":{"usage":{"input_tokens":1}}}\n\n'),
        (MessageStream(), b'data: {"delta":{"stop_reason":"\xff"},"usage":{"output_tokens":1}}\n\n'),
        (ChatStream(strip_usage=True), b'data: {"usage":{"a":' + b"[" * 100_000 + b"\n\n"),
    ],
    ids=["chat", "response", "message", "deep"],
)
def test_what_cannot_be_read_passes_on_or_is_read_as_far_as_it_matters(stream: EventStream, data: bytes) -> None:
    passed, held = relayed(stream, [data])
    assert passed + held in (data, b"")
