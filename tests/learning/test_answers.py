"""What is written is read back; what a teacher writes is told from samples; what cannot be learned is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from upeti.learning.answers import AnswerForm, AnswerFormError, Field, Values, form_of, read_answer, write_answer
from upeti.wire.assemble import whole_answer

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)
plain = words.map(str.strip).filter(bool)
json_values = st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), words, st.lists(words, max_size=3))
styles = st.fixed_dictionaries(
    {
        "indent": st.sampled_from([None, "  ", "\t"]),
        "item_separator": st.sampled_from([",", ", "]),
        "key_separator": st.sampled_from([":", ": "]),
        "ascii": st.booleans(),
    }
)


def body(content: str | None, **message: Any) -> bytes:
    reason = message.pop("finish_reason", "stop")
    said = {"role": "assistant", "content": content, **message}
    return json.dumps({"choices": [{"index": 0, "message": said, "finish_reason": reason}]}).encode()


def called(name: str, arguments: str, reason: str = "tool_calls") -> bytes:
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return body(None, tool_calls=[call], finish_reason=reason)


@st.composite
def forms_and_values(draw: st.DrawFn) -> tuple[AnswerForm, Values]:
    kind = draw(st.sampled_from(["label", "number", "tags", "fields", "tool"]))
    match kind:
        case "label":
            label = draw(plain.filter(lambda text: not text.startswith("```")))
            return AnswerForm(kind="label", fields=(Field("label"),), prefix=draw(st.sampled_from(["", "Class: "]))), (
                label,
            )
        case "number":
            number = draw(st.decimals(-(10**6), 10**6, places=draw(st.integers(0, 4))))
            places = draw(st.integers(0, 3))
            form = AnswerForm(kind="number", fields=(Field("number"),), decimals=places)
            written = read_answer(form, body(f"{number:f}"))
            assert written is not None
            return form, written
        case "tags":
            separator = draw(st.sampled_from(["", ", ", "\n"]))
            tag = plain.filter(lambda text: separator == "" or not set(text) & set(",\n`"))
            tags = tuple(sorted(draw(st.sets(tag, max_size=4))))
            style = draw(styles) if not separator else {}
            return AnswerForm(kind="tags", fields=(Field("tags"),), separator=separator, **style), tags
    names = draw(st.lists(words, min_size=1, max_size=4, unique=True))
    fields = tuple(Field(name, draw(st.booleans())) for name in names)
    values = tuple(draw(words) if field.text else json.dumps(draw(json_values), ensure_ascii=False) for field in fields)
    tool = "classify" if kind == "tool" else ""
    fence = draw(st.sampled_from([("", ""), ("```json\n", "\n```")])) if kind == "fields" else ("", "")
    form = AnswerForm(kind=kind, fields=fields, tool=tool, prefix=fence[0], suffix=fence[1], **draw(styles))
    return form, values


@given(forms_and_values())
def test_what_is_written_is_read_back_whole_and_streamed(given_: tuple[AnswerForm, Values]) -> None:
    form, values = given_
    about = {"model": "own", "id": "chatcmpl-1", "created": 1, "prompt_tokens": 7}
    whole = write_answer(form, values, **about)
    assert read_answer(form, whole) == values
    answer = ChatCompletion.model_validate_json(whole, strict=True)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7 + answer.usage.completion_tokens

    for include_usage in (False, True):
        stream = write_answer(form, values, **about, stream=True, include_usage=include_usage)
        assembled = whole_answer("chat_completions", stream)
        assert read_answer(form, json.dumps(assembled).encode()) == values
        *events, done, rest = stream.split(b"\n\n")
        assert (done, rest) == (b"data: [DONE]", b"")
        chunks = [ChatCompletionChunk.model_validate_json(event[6:], strict=True) for event in events]
        finish = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
        assert finish == [None, None, form.finish_reason]
        assert [chunk.usage for chunk in chunks if chunk.usage] == ([answer.usage] if include_usage else [])


@given(st.data())
def test_a_form_survives_being_kept(data: st.DataObject) -> None:
    import msgspec

    form, _ = data.draw(forms_and_values())
    assert msgspec.json.decode(msgspec.json.encode(form), type=AnswerForm) == form


@pytest.mark.parametrize(
    "written",
    [
        '{"topic": "card", "urgent": true}',
        '{"topic":"card","urgent":true}',
        '{\n  "topic": "card",\n  "urgent": true\n}',
        '```json\n{"topic": "card", "urgent": true}\n```',
    ],
)
def test_json_is_written_as_the_teacher_writes_it(written: str) -> None:
    samples = [body(written), body(written), body('{"urgent": false, "topic": "loan"}'), body(written), body(written)]
    form = form_of(samples)
    assert form.fields == (Field("topic"), Field("urgent", text=False))
    values = read_answer(form, samples[0])
    assert values == ("card", "true")
    assert read_answer(form, samples[2]) == ("loan", "false"), "order of keys is no difference"
    answer = ChatCompletion.model_validate_json(
        write_answer(form, values, model="own", id="x", created=1, prompt_tokens=1)
    )
    assert answer.choices[0].message.content == written


def test_the_arguments_of_a_tool_call_are_read_and_written() -> None:
    samples = [called("route", f'{{"queue":"{name}","level":{level}}}', "stop") for name in "abc" for level in (1, 2)]
    form = form_of(samples)
    assert (form.kind, form.tool, form.finish_reason) == ("tool", "route", "stop")
    assert read_answer(form, samples[0]) == ("a", "1")
    assert read_answer(form, called("other", '{"queue":"a","level":1}')) is None
    answer = ChatCompletion.model_validate_json(
        write_answer(form, ("a", "1"), model="own", id="chatcmpl-9", created=1, prompt_tokens=1)
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("route", '{"queue":"a","level":1}')


def test_labels_are_one_whatever_their_case_and_full_stop() -> None:
    form = form_of([body("Positive")] * 5 + [body("positive.")] + [body("Negative")] * 4)
    assert form.kind == "label"
    assert read_answer(form, body(" positive.\n")) == ("Positive",)
    assert read_answer(form, body("neutral")) == ("neutral",), "a label that the samples have not is itself"


@pytest.mark.parametrize(
    ("texts", "kind", "first"),
    [
        (["Category: card", "Category: loan", "Category: other things"], "label", ("card",)),
        (["7", "12", "3"], "number", ("7",)),
        (["0.50", "0.25", "1.00"], "number", ("0.5",)),
        (["Score: 4", "Score: 5"], "number", ("4",)),
        (["b, a", "a", "b", "c, a", "b, c", "a, b, c"], "tags", ("a", "b")),
        (['["b", "a"]', "[]", '["c"]'], "tags", ("a", "b")),
        (["Banking, finance and trade", "Defence, peace"] * 5, "label", ("Banking, finance and trade",)),
        (["1", "2", "unclear", "3", "none"], "label", ("1",)),
    ],
)
def test_the_kind_is_told_from_samples(texts: list[str], kind: str, first: Values) -> None:
    form = form_of(map(body, texts))
    assert form.kind == kind
    assert read_answer(form, body(texts[0])) == first
    answer = ChatCompletion.model_validate_json(
        write_answer(form, first, model="own", id="x", created=1, prompt_tokens=1)
    )
    if kind != "tags":
        assert answer.choices[0].message.content == texts[0]


def test_a_field_may_be_absent_and_is_then_not_written() -> None:
    form = form_of([body('{"a":"x","b":"y"}'), body('{"a":"x"}'), body('{"a":"z","b":"y"}')])
    assert read_answer(form, body('{"a":"x"}')) == ("x", "")
    answer = ChatCompletion.model_validate_json(
        write_answer(form, ("x", ""), model="own", id="x", created=1, prompt_tokens=1)
    )
    assert answer.choices[0].message.content == '{"a":"x"}'


@pytest.mark.parametrize(
    "unreadable",
    [
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"choices":[]}',
        body(None, refusal="No."),
        body("x", finish_reason="length"),
        body("[" * 100_000),
        body('{"a": NaN}'),
        body('{"a": "\\ud800"}'),
        body('{"a": "x", "more": 1}'),
        body('{"a": ' + "9" * 5_000 + "}"),
        body("prose"),
    ],
)
def test_an_answer_that_is_not_of_the_form_has_no_values(unreadable: bytes) -> None:
    form = AnswerForm(kind="fields", fields=(Field("a"),))
    assert read_answer(form, unreadable) is None


def test_free_text_is_refused_with_its_field_and_the_cure() -> None:
    prose = [body(f"The {number}th customer wants something else and says so.") for number in range(60)]
    with pytest.raises(AnswerFormError, match=r"`label` is free text.*choose from a list"):
        form_of(prose)
    with pytest.raises(AnswerFormError, match="`why` is free text"):
        form_of([body(json.dumps({"topic": "a", "why": f"because {number}"})) for number in range(60)])


def test_answers_of_several_forms_are_refused() -> None:
    with pytest.raises(AnswerFormError, match=r"only 3 of 6.*split the task"):
        form_of([body('{"a": 1}')] * 3 + [body('["a"]')] * 3)
    with pytest.raises(AnswerFormError, match="none of 1 answers"):
        form_of([b"{}"])
