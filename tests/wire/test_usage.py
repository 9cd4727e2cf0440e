"""Usage reports of every wire and what they count, as a table."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core import meters as m
from upeti.wire.usage import Usage, anthropic_meters, merge, openai_meters, usage_of_answer
from upeti.wire.wires import WIRES


def read(usage: Any) -> Usage:
    return msgspec.convert(usage, Usage)


CHAT = {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140}
RESPONSES = {"input_tokens": 100, "output_tokens": 40, "total_tokens": 140}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # chat completions
        (CHAT, {m.INPUT: 100, m.OUTPUT: 40}),
        (CHAT | {"prompt_tokens_details": None, "completion_tokens_details": {}}, {m.INPUT: 100, m.OUTPUT: 40}),
        (
            CHAT | {"prompt_tokens_details": {"cached_tokens": 60}},
            {m.INPUT: 40, m.INPUT_CACHED: 60, m.OUTPUT: 40},
        ),
        (
            CHAT | {"prompt_tokens_details": {"cached_tokens": 100}},
            {m.INPUT: 0, m.INPUT_CACHED: 100, m.OUTPUT: 40},
        ),
        (
            CHAT | {"prompt_tokens_details": {"cached_tokens": 10, "audio_tokens": 30}},
            {m.INPUT: 60, m.INPUT_CACHED: 10, m.INPUT_AUDIO: 30, m.OUTPUT: 40},
        ),
        (
            CHAT | {"completion_tokens_details": {"reasoning_tokens": 25, "audio_tokens": 5}},
            {m.INPUT: 100, m.OUTPUT: 10, m.OUTPUT_REASONING: 25, m.OUTPUT_AUDIO: 5},
        ),
        # predictions that were not taken are billed as output and are part of it
        (
            CHAT | {"completion_tokens_details": {"accepted_prediction_tokens": 5, "rejected_prediction_tokens": 9}},
            {m.INPUT: 100, m.OUTPUT: 40},
        ),
        (
            CHAT | {"prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 30}},
            {m.INPUT: 70, m.INPUT_CACHE_WRITE: 30, m.OUTPUT: 40},
        ),
        (
            CHAT
            | {
                "prompt_tokens_details": {
                    "cached_tokens": 20,
                    "cache_write_tokens": 30,
                    "cache_write_tokens_details": {"ttl_12h_tokens": 10},
                }
            },
            {m.INPUT: 50, m.INPUT_CACHED: 20, m.INPUT_CACHE_WRITE: 20, m.INPUT_CACHE_WRITE_12H: 10, m.OUTPUT: 40},
        ),
        (
            CHAT
            | {
                "prompt_tokens_details": {
                    "cache_write_tokens": 30,
                    "cache_write_tokens_details": {"ttl_12h_tokens": 30},
                }
            },
            {m.INPUT: 70, m.INPUT_CACHE_WRITE_12H: 30, m.OUTPUT: 40},
        ),
        # responses
        (RESPONSES, {m.INPUT: 100, m.OUTPUT: 40}),
        (
            RESPONSES
            | {
                "input_tokens_details": {"cached_tokens": 64},
                "output_tokens_details": {"reasoning_tokens": 32},
            },
            {m.INPUT: 36, m.INPUT_CACHED: 64, m.OUTPUT: 8, m.OUTPUT_REASONING: 32},
        ),
        # images: what was drawn is told apart, what was read is input
        (
            RESPONSES | {"input_tokens_details": {"text_tokens": 60, "image_tokens": 40}},
            {m.INPUT: 100, m.OUTPUT: 40},
        ),
        (
            RESPONSES | {"output_tokens_details": {"image_tokens": 40}},
            {m.INPUT: 100, m.OUTPUT: 0, m.OUTPUT_IMAGE: 40},
        ),
        # embeddings, and what reports no output: absent, not zero
        ({"prompt_tokens": 8, "total_tokens": 8}, {m.INPUT: 8}),
        ({"prompt_tokens": 0, "completion_tokens": 0}, {m.INPUT: 0, m.OUTPUT: 0}),
        # transcription billed by time, in whole seconds
        ({"type": "duration", "seconds": 3}, {m.AUDIO_SECONDS: 3}),
        ({"type": "duration", "seconds": 3.0}, {m.AUDIO_SECONDS: 3}),
        ({"type": "duration", "seconds": 3.2}, {m.AUDIO_SECONDS: 4}),
        ({"type": "duration", "seconds": 0}, {m.AUDIO_SECONDS: 0}),
        # nothing that counts
        ({}, None),
        ({"total_tokens": 140}, None),
        ({"completion_tokens": 40}, None),
        # reports that contradict themselves are unknown as a whole
        (CHAT | {"prompt_tokens_details": {"cached_tokens": 101}}, None),
        (CHAT | {"prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 60}}, None),
        (CHAT | {"prompt_tokens_details": {"cached_tokens": -1}}, None),
        (CHAT | {"completion_tokens_details": {"reasoning_tokens": 41}}, None),
        (CHAT | {"prompt_tokens_details": {"cache_write_tokens": 101}}, None),
        (
            CHAT
            | {
                "prompt_tokens_details": {
                    "cache_write_tokens": 10,
                    "cache_write_tokens_details": {"ttl_12h_tokens": 11},
                }
            },
            None,
        ),
        ({"prompt_tokens": -1, "completion_tokens": 4}, None),
        ({"prompt_tokens": 4, "completion_tokens": -1}, None),
        # what nobody generates cannot be recorded either
        ({"prompt_tokens": 10**30, "completion_tokens": 4}, None),
        ({"prompt_tokens": 4, "completion_tokens": (1 << 32) + 1}, None),
        ({"prompt_tokens": 1 << 32}, {m.INPUT: 1 << 32}),
        ({"seconds": -1}, None),
        ({"seconds": 1e300}, None),
    ],
)
def test_openai(usage: dict[str, Any], expected: dict[str, int] | None) -> None:
    assert openai_meters(read(usage)) == expected


MESSAGE = {"input_tokens": 100, "output_tokens": 40}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (MESSAGE, {m.INPUT: 100, m.OUTPUT: 40}),
        ({"input_tokens": 100}, {m.INPUT: 100}),
        (MESSAGE | {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}, {m.INPUT: 100, m.OUTPUT: 40}),
        # input excludes what was read from the cache or written to it
        (MESSAGE | {"cache_read_input_tokens": 900}, {m.INPUT: 100, m.INPUT_CACHED: 900, m.OUTPUT: 40}),
        # without a word about their life, writes are the five-minute ones
        (
            MESSAGE | {"cache_creation_input_tokens": 500},
            {m.INPUT: 100, m.INPUT_CACHE_WRITE_5M: 500, m.OUTPUT: 40},
        ),
        (
            MESSAGE
            | {
                "cache_creation_input_tokens": 500,
                "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 200},
            },
            {m.INPUT: 100, m.INPUT_CACHE_WRITE_5M: 300, m.INPUT_CACHE_WRITE_1H: 200, m.OUTPUT: 40},
        ),
        (
            MESSAGE | {"cache_creation_input_tokens": 200, "cache_creation": {"ephemeral_1h_input_tokens": 200}},
            {m.INPUT: 100, m.INPUT_CACHE_WRITE_1H: 200, m.OUTPUT: 40},
        ),
        ({}, None),
        ({"output_tokens": 40}, None),
        ({"input_tokens": -1}, None),
        (MESSAGE | {"cache_read_input_tokens": -5}, None),
        (
            MESSAGE | {"cache_creation_input_tokens": 100, "cache_creation": {"ephemeral_1h_input_tokens": 200}},
            None,
        ),
        (MESSAGE | {"output_tokens": 10**20}, None),
    ],
)
def test_anthropic(usage: dict[str, Any], expected: dict[str, int] | None) -> None:
    assert anthropic_meters(read(usage)) == expected


tokens = st.none() | st.integers(-3, 1 << 33)
details = st.none() | st.dictionaries(
    st.sampled_from(["cached_tokens", "audio_tokens", "cache_write_tokens", "reasoning_tokens", "image_tokens"]), tokens
)
usages = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"), tokens),
        **dict.fromkeys(("cache_read_input_tokens", "cache_creation_input_tokens"), tokens),
        **dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"), details),
        "cache_creation": st.none() | st.dictionaries(st.just("ephemeral_1h_input_tokens"), tokens),
        "seconds": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    },
)


@given(usages)
def test_meters_are_known_names_of_sound_quantities_or_nothing(usage: dict[str, Any]) -> None:
    for wire in WIRES:
        found = wire.meters(read(usage))
        if found is not None:
            assert found.keys() <= set(m.ALL_METERS)
            assert all(type(count) is int and 0 <= count <= 1 << 32 for count in found.values())


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_openai_counts_twice_is_counted_once(plain: int, cached: int, written: int, reasoning: int) -> None:
    usage = {
        "prompt_tokens": plain + cached,
        "completion_tokens": written + reasoning,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    found = openai_meters(read(usage))
    assert found is not None
    assert sum(found.values()) == plain + cached + written + reasoning


@pytest.mark.parametrize(
    ("body", "prompt_tokens"),
    [
        (b'{"id":"x","usage":{"prompt_tokens":5,"new_field":[1]},"more":{"usage":7}}', 5),
        (b'{"choices":[{"usage":{"prompt_tokens":9}}],"usage":{"prompt_tokens":5}}', 5),
        (b'{"text":"\xff","usage":{"prompt_tokens":5}}', 5),
    ],
)
def test_usage_of_an_answer(body: bytes, prompt_tokens: int) -> None:
    usage = usage_of_answer(body)
    assert usage is not None
    assert usage.prompt_tokens == prompt_tokens


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"usage":null}',
        b'{"usage":5}',
        b'{"usage":"5"}',
        b'{"usage":{"prompt_tokens":"5"}}',
        b'{"usage":{"prompt_tokens":true}}',
        b'{"usage":{"prompt_tokens":5.0}}',
        b'{"usage":{"seconds":1e400}}',
        b'{"usage":{"prompt_tokens":5}',
        b"<html>",
        b'{"usage":' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_an_answer_whose_usage_cannot_be_read_has_none(body: bytes) -> None:
    assert usage_of_answer(body) is None


def test_a_later_report_replaces_what_it_names_and_keeps_the_rest() -> None:
    start = read({"input_tokens": 100, "cache_read_input_tokens": 50, "output_tokens": 1})
    merged = merge(merge(None, start), read({"output_tokens": 17}))
    assert anthropic_meters(merged) == {m.INPUT: 100, m.INPUT_CACHED: 50, m.OUTPUT: 17}
    merged = merge(
        merged, read(json.loads('{"output_tokens": 40, "input_tokens": 90, "cache_read_input_tokens": null}'))
    )
    assert anthropic_meters(merged) == {m.INPUT: 90, m.INPUT_CACHED: 50, m.OUTPUT: 40}
