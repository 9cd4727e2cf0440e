"""What is read off a request, on every wire, and what of it is kept."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.rights.conduct.reading import Mark, Shape, Templates, digest_of, read_call, shape_of

SALT = b"salt"
_FIELDS = st.sampled_from(["messages", "role", "content", "user", "system", "input", "n", "text", "metadata"])
JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(_FIELDS, inner)
)


def chat(said: str = "hi", system: str = "", **fields: Any) -> bytes:
    messages = [{"role": "system", "content": system}] if system else []
    return json.dumps({"model": "m", "messages": [*messages, {"role": "user", "content": said}], **fields}).encode()


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (
            "chat_completions",
            {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}]},
        ),
        (
            "chat_completions",
            {
                "messages": [
                    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                    {"role": "user", "content": "earlier"},
                    {"role": "assistant", "content": "yes"},
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {}}],
                    },
                ]
            },
        ),
        ("responses", {"instructions": "Be brief.", "input": "hi"}),
        (
            "responses",
            {
                "instructions": "Be brief.",
                "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
            },
        ),
        ("messages", {"system": "Be brief.", "messages": [{"role": "user", "content": "hi"}]}),
        (
            "messages",
            {"system": [{"type": "text", "text": "Be brief."}], "messages": [{"role": "user", "content": "hi"}]},
        ),
    ],
)
def test_every_wire_says_the_same(wire: str, body: dict[str, Any]) -> None:
    reading = read_call(json.dumps(body).encode(), wire)
    assert reading is not None
    assert (reading.system, reading.user, reading.marks) == ("Be brief.", "hi", Mark(0))


@pytest.mark.parametrize(
    ("fields", "mark"),
    [
        ({"user": "u1"}, Mark.END_USER),
        ({"safety_identifier": "u1"}, Mark.END_USER),
        ({"metadata": {"user_id": "u1"}}, Mark.END_USER),
        ({"max_tokens": 4096}, Mark.LONG_OUTPUT),
        ({"max_completion_tokens": 4095}, Mark(0)),
        ({"n": 2}, Mark.CHOICES),
        ({"logprobs": True}, Mark.CHOICES),
        ({"top_logprobs": 5}, Mark.CHOICES),
        ({"n": 1, "logprobs": False}, Mark(0)),
        ({"reasoning": {"effort": "high", "summary": "detailed"}}, Mark.REASONING),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, Mark.REASONING),
        ({"max_tokens": "many", "n": None, "metadata": []}, Mark(0)),
    ],
)
def test_marks_of_fields(fields: dict[str, Any], mark: Mark) -> None:
    reading = read_call(chat(**fields), "chat_completions")
    assert reading is not None
    assert reading.marks == mark


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("Solve 2+2. Think step by step.", Mark.REASONING),
        ("Show your work.", Mark.REASONING),
        ("Come up with a series of tasks:\nTask 1: name a fruit\nTask 2:", Mark.GENERATION),
        ("Generate 20 diverse questions about banking", Mark.GENERATION),
        ("### Instruction:\nTranslate", Mark.GENERATION),
        ("Write 5 instruction-response pairs, and explain your reasoning", Mark.GENERATION | Mark.REASONING),
        ("My card has not arrived. What is the next step?", Mark(0)),
        ("Write me a poem about trains", Mark(0)),
        ("Which task should I do first?", Mark(0)),
    ],
)
def test_marks_of_texts(text: str, mark: Mark) -> None:
    reading = read_call(chat(text), "chat_completions")
    assert reading is not None
    assert reading.marks == mark


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_read_or_passed_over(request: bytes) -> None:
    for wire in ("chat_completions", "responses", "messages", "completions", "embeddings", "other"):
        reading = read_call(request, wire)
        assert reading is None or reading.user.strip()


@given(st.text())
def test_a_shape_is_seven_small_numbers_and_the_same_for_the_same_text(text: str) -> None:
    shape = shape_of(text, SALT)
    assert shape == shape_of(text, SALT)
    assert all(0 <= value < 4096 for value in msgspec.structs.astuple(shape))


def test_digests_are_keyed_and_blind_to_case_and_blanks() -> None:
    assert digest_of("My  CARD\n", SALT) == digest_of("my card", SALT)
    assert digest_of("my card", SALT) != digest_of("my card", b"other")
    assert shape_of("Hello there", SALT).opening != shape_of("Hello there", b"other").opening


def varying(templates: Templates, texts: list[str]) -> list[str]:
    return [split[0] for text in texts if (split := templates.varying("g", text)) is not None]


def test_what_is_constant_is_taken_off_and_an_edited_template_learnt_again() -> None:
    templates = Templates()
    slots = [f"{blake2b(bytes([number])).hexdigest()[: 5 + number % 30]} is lost" for number in range(80)]
    first = [f"Classify the customer's message.\n\n{slot}\n\nAnswer with one word." for slot in slots]
    edited = [f"You are a careful agent; classify.\n\n{slot}\n\nAnswer with two words!" for slot in slots]
    bare = [slot.removesuffix(" is lost") for slot in slots]
    assert varying(templates, first)[8:] == bare[8:]
    for _ in range(Templates.UNSETTLED_PER // len(first) + 1):  # in the middle of its life
        varying(templates, first)
    after = varying(templates, edited)  # those before it is learnt are passed over
    assert after == bare[-len(after) :]
    assert 80 - Templates.UNSETTLED_MAX <= len(after) < 80
    split = templates.varying("g", edited[0])
    assert split == (bare[0], "You are a careful agent; classify.\n\n")


def test_nobody_hides_by_changing_templates() -> None:
    templates = Templates()
    texts = [f"Template number {place // 12}, the text is {place}" for place in range(1200)]
    passed = sum(templates.varying("g", text) is None for text in texts)
    assert passed <= 3 * Templates.UNSETTLED_MAX


def test_chance_and_repetition_are_no_template() -> None:
    templates = Templates()
    texts = ["Where is my card?", "Where is my money?", "Top up failed", "hello", "Why was I charged?"] * 20
    assert varying(templates, texts) == texts
    assert varying(templates, ["the very same prompt each time"] * 40)[-1] == "the very same prompt each time"


def test_groups_are_forgotten_when_there_are_too_many() -> None:
    templates = Templates()
    for number in range(Templates.GROUPS_MAX + 10):
        templates.varying(f"g{number}", "text")
    assert len(templates._groups) == Templates.GROUPS_MAX


def test_shapes_are_small_on_the_disk() -> None:
    assert len(msgspec.msgpack.encode(shape_of("What is the status of my card's delivery?", SALT))) < 16
    assert isinstance(msgspec.msgpack.decode(msgspec.msgpack.encode(shape_of("a", SALT)), type=Shape), Shape)
