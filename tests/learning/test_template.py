"""Templates found in prompts match all of them, give back what was put in, and nothing else's."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upeti.learning.template import (
    Found,
    Prompt,
    Template,
    TemplateError,
    find_templates,
    match,
    pattern_text,
    prompt_of,
    read_prompt,
    template_of,
    text_in,
    text_of,
)

DATA = Path(__file__).parents[2] / "examples" / "data"


def texts(file: str, many: int) -> list[str]:
    with (DATA / file).open(newline="") as opened:
        return [row["text"] for row in csv.DictReader(opened)][:many]


BANKING = texts("banking77.csv", 400)
CLINC = texts("clinc150.csv", 400)


def prompt(*turns: tuple[str, str], form: str = "") -> Prompt:
    return Prompt(tuple(role for role, _ in turns), tuple(text for _, text in turns), form)


# -- generated prompts
# -------------------------------------------------------------------------------------------------------------

# Constant parts are of words that no slot has, as in real prompts they are sentences; slots are of any others.
_CONSTANT = st.lists(
    st.sampled_from(("Classify", "Answer", "Topic", "Rules", "Below", "Choose", "Label", "Only")),
    min_size=3,
    max_size=8,
)
_SIGNS = st.sampled_from(["", ":", "\n\n", ".\n", " –"])
_VALUE = st.text(st.characters(codec="utf-8", exclude_characters="["), max_size=30)


@st.composite
def _parts(draw: st.DrawFn) -> tuple[str, ...]:
    """Constant parts of a message with one slot or two, each part told from all others by a number."""
    count = draw(st.integers(2, 3))
    parts = [f"{' '.join(draw(_CONSTANT))} part-{number}{draw(_SIGNS)}" for number in range(count)]
    return (f"{parts[0]} ", *(f" {part} " for part in parts[1:-1]), f" {parts[-1]}")


@st.composite
def _filled(draw: st.DrawFn) -> tuple[tuple[tuple[str, ...], ...], list[tuple[str, ...]]]:
    """(parts of each message, what is put into all slots, prompt by prompt); no slot has the same first word twice."""
    messages = tuple(draw(st.lists(_parts(), min_size=1, max_size=3)))
    slots = sum(len(parts) - 1 for parts in messages)
    values = draw(st.lists(st.tuples(*[_VALUE] * slots), min_size=25, max_size=30, unique=True))
    return messages, [tuple(f"{n}a{s} {one} {s}z{n}" for s, one in enumerate(row)) for n, row in enumerate(values)]


def _fill(parts: tuple[str, ...], values: list[str]) -> str:
    return parts[0] + "".join(values.pop(0) + part for part in parts[1:])


def _prompts(messages: tuple[tuple[str, ...], ...], values: list[tuple[str, ...]]) -> list[Prompt]:
    made = []
    for row in values:
        left = list(row)
        made.append(prompt(("system", "Be brief."), *(("user", _fill(parts, left)) for parts in messages)))
    return made


@settings(max_examples=40, deadline=None)
@given(_filled(), st.randoms(use_true_random=False))
def test_a_template_found_matches_all_its_prompts_and_gives_back_the_slots(
    filled: tuple[tuple[tuple[str, ...], ...], list[tuple[str, ...]]], order: random.Random
) -> None:
    messages, values = filled
    prompts = _prompts(messages, values)
    (found,) = find_templates(prompts)
    assert found.prompts == len(prompts)
    assert [match(found.template, one) for one in prompts] == values
    assert found.template.parts == (("Be brief.",), *messages)
    shuffled = [*prompts]
    order.shuffle(shuffled)
    (again,) = find_templates(shuffled)
    assert again.template.digest == found.template.digest
    assert template_of(shuffled) == found.template
    foreign = [
        prompt(*zip(one.roles, [*one.texts[:-1], one.texts[-1].replace("part-0", "part-9")], strict=True))
        for one in prompts
    ]
    assert not any(match(found.template, one) for one in foreign)
    assert not any(match(found.template, Prompt(one.roles, one.texts, '{"n":2}')) for one in prompts)
    assert not any(match(found.template, Prompt((*one.roles, "user"), (*one.texts, "?"))) for one in prompts)


# -- real texts
# -------------------------------------------------------------------------------------------------------------

SHOTS = [("user", "I lost my card"), ("assistant", "lost_card"), ("user", "Top up failed"), ("assistant", "top_up")]


def by_words(found: list[Found], words: str) -> Found:
    return next(one for one in found if words in pattern_text(one.template))


def test_real_texts_in_several_templates_come_apart() -> None:
    system = ("system", "You are a helpful assistant.")
    instruction = "Which intent has the message below? Answer with the name of one intent and nothing else."
    streams = {
        "Which intent": [prompt(("user", f"{instruction}\n\n{one}\n\nIntent:")) for one in BANKING],
        "Translate the": [
            prompt(system, ("user", f"Translate the following sentence to Indonesian, keep names: {one}"))
            for one in CLINC
        ],
        "assistant: top_up": [prompt(system, *SHOTS, ("user", one)) for one in BANKING],
        "Is it spam?": [
            prompt(("user", f"Title: {one}\nBody: {other}\nIs it spam? Answer yes or no."))
            for one, other in zip(CLINC, BANKING, strict=True)
        ],
    }
    talk = [prompt(("user", one)) for one in CLINC]
    everything = [*talk, *(one for stream in streams.values() for one in stream)]
    found = find_templates(everything)
    assert len(found) == len(streams)
    for words, stream in streams.items():
        one = by_words(found, words)
        assert one.prompts == len(stream)
        assert [number for number, p in enumerate(stream) if match(one.template, p) is None] == []
    assert [
        text_of(match(by_words(found, "top_up").template, one) or ()) for one in streams["assistant: top_up"]
    ] == BANKING
    assert [text_of(match(by_words(found, "Which").template, one) or ()) for one in streams["Which intent"]] == BANKING
    assert by_words(found, "spam").template.slots == 2


def test_a_system_prompt_may_have_slots_of_its_own() -> None:
    prompts = [
        prompt(("system", f"Today is 2026-11-{day:02}. You answer with one topic of the list."), ("user", text))
        for day, text in zip([*range(1, 29)] * 10, BANKING, strict=False)
    ]
    (found,) = find_templates(prompts)
    assert pattern_text(found.template) == (
        "system: Today is 2026-11-{…}. You answer with one topic of the list.\nuser: {…}"
    )
    assert match(found.template, prompts[3]) == ("04", BANKING[3])
    assert text_of(("04", "x")) == "04\nx"


def test_placeholders_of_redaction_are_slots() -> None:
    prompts = [prompt(("system", "You write for [EMAIL_1] and answer with a label."), ("user", one)) for one in BANKING]
    (found,) = find_templates(prompts)
    live = prompt(("system", "You write for desk@example.com and answer with a label."), ("user", "Where is my card?"))
    assert match(found.template, live) == ("desk@example.com", "Where is my card?")


def test_free_conversation_has_no_template() -> None:
    assert find_templates([prompt(("user", one)) for one in [*BANKING, *CLINC]]) == []
    assert (
        find_templates([prompt(("system", "Be brief."), ("user", one)) for one in BANKING]) == []
    )  # too little is constant
    named = template_of([prompt(("system", "Be brief."), ("user", one)) for one in BANKING])
    assert named.parts == (("Be brief.",), ("", ""))


def test_one_template_for_what_is_known_to_be_one_task() -> None:
    mixed = [prompt(("user", f"Intent of this, please: {one}")) for one in BANKING]
    mixed += [prompt(("user", f"Something else entirely that is asked of it: {one}")) for one in CLINC[:20]]
    assert pattern_text(template_of(mixed)) == "user: Intent of this, please: {…}"
    with pytest.raises(TemplateError, match="nothing varies"):
        template_of([prompt(("user", "the same"))] * 30)
    with pytest.raises(TemplateError, match="no prompt of text"):
        template_of([])


# -- requests
# -------------------------------------------------------------------------------------------------------------


def request(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}


def test_the_form_is_what_shapes_the_answer_and_no_default() -> None:
    plain = prompt_of(request(temperature=0, n=1, response_format={"type": "text"}, tool_choice="auto", stream=True))
    assert plain == Prompt(("user",), ("hello",))
    shaped = prompt_of(request(response_format={"type": "json_object"}))
    assert shaped is not None
    assert shaped.form == '{"response_format":{"type":"json_object"}}'
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}}]
    turned = [{"function": {"parameters": {"a": 2, "b": 1}, "name": "f"}, "type": "function"}]
    assert prompt_of(request(tools=tools)) == prompt_of(request(tools=turned)) != plain


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "hello",
        [1],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}],
    ],
)
def test_what_is_not_text_alone_is_no_prompt(messages: object) -> None:
    assert prompt_of({"messages": messages}) is None


def test_bodies_are_read() -> None:
    template = Template(("user",), (("Intent of: ", ""),))
    body = request(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Intent of: a"}, {"type": "text", "text": "b"}]}
        ]
    )
    assert text_in(template, json.dumps(body).encode()) == "a\nb"
    assert text_in(template, json.dumps(request()).encode()) is None
    for wrong in (b"", b"[1]", b'{"messages"', b"\xff"):
        assert read_prompt(wrong) is None
        assert text_in(template, wrong) is None


def test_slots_may_be_empty_and_parts_may_not_overlap() -> None:
    template = Template(("user",), (("<a>", "</a>"),))
    assert match(template, prompt(("user", "<a></a>"))) == ("",)
    assert match(Template(("user",), (("aba", "aba"),)), prompt(("user", "aba"))) is None
    several = Template(("user",), (("", " and ", ""),))
    assert match(several, prompt(("user", "x and y and z"))) == ("x", "y and z")
    assert match(several, prompt(("user", "x or y"))) is None


def test_a_digest_is_of_what_the_template_says() -> None:
    one = Template(("user",), (("a", "b"),))
    assert one.digest == Template(("user",), (("a", "b"),)).digest
    assert (
        len({one.digest, Template(("user",), (("a", "c"),)).digest, Template(("user",), (("a", "b"),), "{}").digest})
        == 3
    )
