"""Golden pairs of bodies: what changes, and that nothing else does."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.errors import BadRequest
from upeti.wire.body import (
    BodyFields,
    choices_of,
    decode_fields,
    edit,
    has_hosted_tools,
    has_input_elsewhere,
    metadata_tags,
)

RENAME = {"model": "new"}
CAP = {"cap_field": "max_tokens", "cap": 64}
USAGE = {"include_usage": True}
ALL = RENAME | CAP | USAGE

GOLDEN: list[tuple[dict[str, Any], bytes, bytes]] = [
    # nothing asked, nothing changed: not even what is odd
    ({}, b' {"model" : "old" ,\n"x":1e2} ', b' {"model" : "old" ,\n"x":1e2} '),
    # the model's name, in place
    (RENAME, b'{"model":"old","n":1}', b'{"model":"new","n":1}'),
    (RENAME, b'{"t":1.50,"model":"old"}', b'{"t":1.50,"model":"new"}'),
    (RENAME, b'{ "model"\t:\r\n "old" , "x" : 1E5 }', b'{ "model"\t:\r\n "new" , "x" : 1E5 }'),
    (RENAME, b'{"model":""}', b'{"model":"new"}'),
    (RENAME, '{"model":"旧","text":"漢字🙂"}'.encode(), '{"model":"new","text":"漢字🙂"}'.encode()),
    ({"model": 'say "hi" \\ é'}, b'{"model":"old"}', '{"model":"say \\"hi\\" \\\\ é"}'.encode()),
    (RENAME, rb'{"model":"a\"b\\"}', b'{"model":"new"}'),
    (RENAME, rb'{"model":"a\\","x":"b"}', b'{"model":"new","x":"b"}'),
    # a value, a nested key or a text that looks like the key
    (RENAME, b'{"x":"model","model":"old"}', b'{"x":"model","model":"new"}'),
    (RENAME, b'{"x":{"model":"in"},"model":"old"}', b'{"x":{"model":"in"},"model":"new"}'),
    (RENAME, b'{"model":"old","x":[{"model":"in"}]}', b'{"model":"new","x":[{"model":"in"}]}'),
    (RENAME, rb'{"x":"say \"model\":\"in\"","model":"old"}', rb'{"x":"say \"model\":\"in\"","model":"new"}'),
    (RENAME, rb'{"x":"say \"model","model":"old"}', rb'{"x":"say \"model","model":"new"}'),
    (RENAME, b'{"model":"model"}', b'{"model":"new"}'),
    # no key of that name at the first level: the name came from an Azure path
    (RENAME, b'{"n":1}', b'{"n":1,"model":"new"}'),
    (RENAME, b"{}", b'{"model":"new"}'),
    (RENAME, b'{"x":{"model":"in"}}', b'{"x":{"model":"in"},"model":"new"}'),
    (RENAME, b'{"x":["model"]}', b'{"x":["model"],"model":"new"}'),
    (RENAME, b'{"model":null,"n":1}', b'{"model":"new","n":1}'),
    # written with escapes, or twice: one is left
    (RENAME, rb'{"mod\u0065l":"old","n":1}', b'{"model":"new","n":1}'),
    (RENAME, b'{"model":"a","n":1,"model":"b"}', b'{"model":"new","n":1}'),
    (RENAME, rb'{"model":"a","mod\u0065l":"b"}', b'{"model":"new"}'),
    (RENAME, rb'{"model":"old","x":"\u00e9"}', rb'{"model":"new","x":"\u00e9"}'),
    # the cap, at the end
    (CAP, b'{"model":"m"}', b'{"model":"m","max_tokens":64}'),
    (CAP, b"{}", b'{"max_tokens":64}'),
    (CAP, b" { \r\n\t } \n", b' { \r\n\t "max_tokens":64} \n'),
    (CAP, b'{"max_tokens":null}', b'{"max_tokens":64}'),
    (CAP, b'{"x":{"max_tokens":5}}', b'{"x":{"max_tokens":5},"max_tokens":64}'),
    (CAP, rb'{"max_token\u0073":null,"n":1}', b'{"max_tokens":64,"n":1}'),
    (CAP, b'{"a":1}\n', b'{"a":1,"max_tokens":64}\n'),
    # stream usage: asked for where it was not, every other option kept
    (USAGE, b'{"stream":true}', b'{"stream":true,"stream_options":{"include_usage":true}}'),
    (USAGE, b'{"stream_options":null}', b'{"stream_options":{"include_usage":true}}'),
    (USAGE, b'{"stream_options":{}}', b'{"stream_options":{"include_usage":true}}'),
    (
        USAGE,
        b'{"stream_options":{"include_usage":false,"x":[1, 2.50]}}',
        b'{"stream_options":{"include_usage":true,"x":[1, 2.50]}}',
    ),
    (
        USAGE,
        b'{"x":{"stream_options":1}}',
        b'{"x":{"stream_options":1},"stream_options":{"include_usage":true}}',
    ),
    # all of it
    (
        ALL,
        b'{"model":"old","stream":true}',
        b'{"model":"new","stream":true,"max_tokens":64,"stream_options":{"include_usage":true}}',
    ),
    (ALL, b" {} ", b'{"model":"new","max_tokens":64,"stream_options":{"include_usage":true}}'),
]


@pytest.mark.parametrize(("wanted", "body", "expected"), GOLDEN)
def test_edit(wanted: dict[str, Any], body: bytes, expected: bytes) -> None:
    named = decode_fields(body).model is not None
    assert edit(body, named=named, **wanted) == expected


def test_a_value_that_nobody_asked_to_change_keeps_its_very_bytes() -> None:
    odd = b'[ 1.0, 1E+2 ,-0.0, "\\/\\u00e9\\ud83d\\ude42", {"a" :null } , 12345678901234567890123.4500 ]'
    for body in (
        b'{"x":%b,"model":"old"}' % odd,  # spliced
        b'{"x":%b,"model":"old","model":"older","stream_options":{"y":%b}}' % (odd, odd),  # taken apart
    ):
        edited = edit(body, named=True, **ALL)
        assert edited.count(odd) == body.count(odd)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["model", '"model":"x"', "\\", '"', 'end"model', "stream_options", "data: [DONE]"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "stream_options", "max_tokens", "a", 'b"']), inner, max_size=3)
    ),
    max_leaves=8,
)
options = st.none() | st.dictionaries(st.sampled_from(["include_usage", "x"]), st.booleans(), max_size=2)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "messages": json_values,
        "model": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
        "stream_options": options,
        "metadata": json_values,
        "é": json_values,
    },
)


@given(
    body=bodies,
    model=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    cap=st.none() | st.integers(0, 10**9),
    include_usage=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    before=st.sampled_from(["", " ", "\r\n\t"]),
)
def test_edit_means_what_it_says_for_any_object(
    body: dict[str, Any],
    model: str | None,
    cap: int | None,
    include_usage: bool,
    indent: int | None,
    ascii_only: bool,
    before: str,
) -> None:
    text = before + json.dumps(body, ensure_ascii=ascii_only, indent=indent) + before
    expected = dict(body)
    if model is not None:
        expected["model"] = model
    if cap is not None:
        expected["max_tokens"] = cap
    if include_usage:
        expected["stream_options"] = (body.get("stream_options") or {}) | {"include_usage": True}
    edited = edit(
        text.encode(),
        model=model,
        named=body.get("model") is not None,
        cap_field="max_tokens" if cap is not None else "",
        cap=cap or 0,
        include_usage=include_usage,
    )
    assert json.loads(edited) == expected
    for name in body.keys() - {"model", "max_tokens", "stream_options"}:
        as_sent = json.dumps({name: body[name]}, ensure_ascii=ascii_only, indent=indent)[1:-1].strip()
        assert as_sent.partition(": ")[2].encode() in edited


# -- what is read ------------------------------------------------------------------------------------------------------


def deep(levels: int) -> bytes:
    return b'{"x":' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"null", "invalid_type"),
        (b"[]", "invalid_type"),
        (b'"text"', "invalid_type"),
        (b"7", "invalid_type"),
        (b'{"model":"m"', "invalid_json"),
        (b'{"model":"m"}}', "invalid_json"),
        (b'{"model":"m",}', "invalid_json"),
        (b'{"model":7}', "invalid_type"),
        (b'{"model":["m"]}', "invalid_type"),
        (b'{"stream":"true"}', "invalid_type"),
        (b'{"stream":1}', "invalid_type"),
        (b'{"n":1.5}', "invalid_type"),
        (b'{"max_tokens":"12"}', "invalid_type"),
        (b'{"max_tokens":true}', "invalid_type"),
        (b'{"max_tokens":1e400}', "invalid_type"),
        (b'{"max_tokens":' + b"9" * 5000 + b"}", "invalid_type"),
        (b'{"stream_options":[]}', "invalid_type"),
        (b'{"stream_options":{"include_usage":"yes"}}', "invalid_type"),
        (b'{"service_tier":{}}', "invalid_type"),
        (b'{"previous_response_id":7}', "invalid_type"),
        (b'{"max_tokens":NaN}', "invalid_json"),
        (b'{"x":NaN}', "invalid_json"),
        (b'{"x":Infinity}', "invalid_json"),
        (b'{"x":01}', "invalid_json"),
        (b'{"x":"a\nb"}', "invalid_json"),
        (b'{"x":\x00}', "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b"{'model':'m'}", "invalid_json"),
        (b'{"model":"\xff"}', "invalid_utf8"),
        (b'{"x":"\xc3"}', "invalid_utf8"),
        (b'{"x":"\xed\xa0\x80"}', "invalid_utf8"),  # half a surrogate pair
        (deep(100_000), "invalid_json"),
        (b'{"metadata":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "invalid_json"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
def test_what_is_no_request_is_a_bad_request(body: bytes, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_fields(body)
    assert (caught.value.code, caught.value.status) == (code, 400)
    assert len(caught.value.message) < 300


def test_the_place_of_a_wrong_type_is_named() -> None:
    with pytest.raises(BadRequest, match=r"\$\.stream_options\.include_usage"):
        decode_fields(b'{"stream_options":{"include_usage":1}}')


def test_fields_are_read_and_the_last_of_two_counts() -> None:
    fields = decode_fields(
        b'{"model":"a","n":2,"stream":true,"max_tokens":5,"unknown":{"n":9},"model":"b",'
        b'"stream_options":{"include_usage":true,"other":1},"service_tier":"flex","x":' + b"9" * 5000 + b"}"
    )
    assert fields.stream_options is not None
    assert fields.stream_options.include_usage is True
    assert (fields.model, fields.n, fields.stream, fields.max_tokens, fields.service_tier) == ("b", 2, True, 5, "flex")


def test_null_is_as_if_it_were_not_there() -> None:
    names = ("model", "stream", "n", "max_tokens", "stream_options", "metadata", "prompt", "speed")
    body = json.dumps(dict.fromkeys(names)).encode()
    assert decode_fields(body) == decode_fields(b"{}") == BodyFields()


def test_a_body_that_could_just_be_read_is_edited_or_refused_from_deeper_in_the_program() -> None:
    """How much nesting can be read depends on how much of the stack is left."""

    def readable(levels: int) -> bool:
        try:
            decode_fields(deep(levels))
        except BadRequest:
            return False
        return True

    def deeper(frames: int, body: bytes) -> bytes:
        return deeper(frames - 1, body) if frames else edit(body, model="new")

    low, high = 1, sys.getrecursionlimit() * 100
    assert readable(low)
    assert not readable(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if readable(middle) else (low, middle)
    with suppress(BadRequest):
        assert deeper(50, deep(low)) == deep(low)[:-1] + b',"model":"new"}'


@pytest.mark.parametrize(
    ("metadata", "tags"),
    [
        (None, ("", "")),
        ({}, ("", "")),
        ([], ("", "")),
        ("search", ("", "")),
        ({"feature": "search"}, ("search", "")),
        ({"task": "rank", "other": 1}, ("", "rank")),
        ({"upeti_feature": "a", "feature": "b", "upeti_task": "c", "task": "d"}, ("a", "c")),
        ({"feature": 7, "task": ["x"]}, ("", "")),
        ({"upeti_feature": 7, "feature": "b"}, ("", "")),
        ({"feature": "", "task": "é"}, ("", "é")),
    ],
)
def test_tags_in_metadata(metadata: Any, tags: tuple[str, str]) -> None:
    fields = decode_fields(json.dumps({"metadata": metadata}).encode())
    assert metadata_tags(fields.metadata) == tags


@pytest.mark.parametrize(
    ("body", "choices"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"n": 0}, 1),
        ({"n": -4}, 1),
        ({"best_of": 5}, 5),
        ({"n": 2, "best_of": 5}, 5),
        ({"prompt": "text"}, 1),
        ({"prompt": []}, 1),
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": [["a"], ["b"]]}, 2),
        ({"prompt": [[1, 2], [3]], "n": 2}, 4),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": {"id": "p"}}, 1),
        ({"prompt": ["a"] * 2048, "n": 3}, 6144),
    ],
)
def test_choices_that_will_be_billed(body: dict[str, Any], choices: int) -> None:
    assert choices_of(decode_fields(json.dumps(body).encode())) == choices


@pytest.mark.parametrize(
    ("body", "elsewhere"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, False),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}]}, True),
        ({"messages": [{"content": [{"type": "input_audio"}]}]}, True),
        ({"messages": [{"content": [{"type": "file", "file": {"file_id": "f"}}]}]}, True),
        ({"messages": [{"content": [{"type": "image", "source": {"type": "url"}}]}]}, True),
        ({"input": [{"type": "input_image", "file_id": "f"}]}, True),
        ({"input": [{"type": "input_file"}]}, True),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, True),
        ({"input": "hi", "previous_response_id": "resp_1"}, True),
        ({"input": "hi", "conversation": "conv_1"}, True),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, True),
        ({"input": "hi", "prompt": {"id": "pmpt_1"}}, True),
        ({"prompt": "hi"}, False),
        ({"input": "hi", "conversation": {"id": "conv_1"}}, True),
        ({"input": "hi", "conversation": None, "previous_response_id": None}, False),
        ({"messages": [{"content": 'I said "image_url" aloud'}]}, False),
    ],
)
def test_input_that_is_not_in_the_body(body: dict[str, Any], elsewhere: bool) -> None:
    text = json.dumps(body).encode()
    assert has_input_elsewhere(text, decode_fields(text)) is elsewhere


@pytest.mark.parametrize(
    ("body", "hosted"),
    [
        ({"tools": [{"type": "web_search"}]}, True),
        ({"tools": [{"type": "function", "name": "f"}, {"type": "web_search_preview_2025_03_11"}]}, True),
        ({"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}, True),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}, True),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, True),
        ({"tools": [{"type": "mcp", "server_url": "https://x"}]}, True),
        ({"web_search_options": {}}, True),
        ({"mcp_servers": [{"type": "url", "url": "https://x"}], "tools": [{"type": "mcp_toolset"}]}, True),
        ({"tools": [{"type": "function", "function": {"name": "web_search"}}]}, False),
        ({"tools": [{"name": "web_search", "input_schema": {}}]}, False),
        ({"messages": [{"content": 'I said "web_search" aloud'}], "tools": None}, False),
        ({"messages": [{"content": "hi"}], "web_search_options": None}, False),
        ({"tools": "web_search"}, True),
    ],
)
def test_tools_that_the_provider_runs(body: dict[str, Any], hosted: bool) -> None:
    text = json.dumps(body).encode()
    assert has_hosted_tools(decode_fields(text)) is hosted
    assert has_hosted_tools(decode_fields(text.replace(b"search", b"\\u0073earch"))) is hosted
