"""What must not leave an error of a provider."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.wire.scrub import EXCERPT_LETTERS_MAX, HIDDEN, excerpt, without

SECRETS = (
    "sk-proj-abcdefghijklmnop",
    "sk-ant-api03-AbCd_efgh-ijkl",
    "sk-proj-********************abcd",
    "gsk_abcdefghijklmnop",
    "xai-abcdefghijklmnop",
    "AIzaSyMadeUpMadeUpMadeUpMadeUpMadeUp00",
    "AKIAABCDEFGHIJKLMNOP",
    "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl",
    "org-AbCdEfGhIjKl",
    "proj_AbCdEfGhIjKl",
    "projects/895908428397",
    "6f8c1247-b44f-478b-b12b-ad61437594f0",
    "0123456789abcdef0123456789abcdef",
    "somebody.else@mail.example.com",
)


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_key_an_address_or_an_account_is_taken_out(secret: str) -> None:
    for text in (f"Incorrect API key provided: {secret}.", f'{{"key":"{secret}"}}', f"Consumer 'api_key:{secret}' has"):
        shown = excerpt(text.encode())
        assert secret not in shown
        assert HIDDEN in shown


def test_the_channels_own_secret_is_taken_out_whatever_it_looks_like() -> None:
    assert excerpt(b"you sent hunter2!", ["hunter2", ""]) == f"you sent {HIDDEN}!"


def test_an_excerpt_is_one_short_line() -> None:
    assert excerpt(b"a\r\n\x1b[31mb\x00 c") == "a [31mb c"
    assert len(excerpt(b"word " * 1000)) == EXCERPT_LETTERS_MAX
    # A key across the cut does not show its beginning.
    assert "sk-" not in excerpt(b"x" * (EXCERPT_LETTERS_MAX - 5) + b" sk-proj-abcdefghijklmnop")


ASKED = {
    "model": "gpt-4o",
    "user": "siti",
    "messages": [{"role": "user", "content": 'Is "Rina Wijaya" ill?\nSay why: é'}],
}


@pytest.mark.parametrize("ascii", [False, True])
def test_what_an_error_repeats_of_the_request_is_taken_out(ascii: bool) -> None:
    asked = json.dumps(ASKED, ensure_ascii=ascii).encode()
    words = ASKED["messages"][0]["content"]
    for message, shown in (
        ("Invalid user 'siti' of gpt-4o: a user may not", "Invalid user '[hidden]' of gpt-4o: a user may not"),
        (f"Refused: {words}", "Refused: [hidden]"),
        (f"Refused: {words[4:20]}… is not", "Refused: [hidden]… is not"),
        ("The situation is odd", "The situation is odd"),
    ):
        body = json.dumps({"message": message}, ensure_ascii=ascii)
        wanted = json.dumps({"message": shown}, ensure_ascii=ascii)
        assert excerpt(body.encode(), (), asked) == wanted
        assert excerpt(message.encode(), (), asked) == " ".join(shown.split())


def test_a_request_that_is_no_json_or_too_long_is_not_repeated_either() -> None:
    assert excerpt(b"you said: tell me all of it", (), b"tell me all of it") == f"you said: {HIDDEN}"
    assert excerpt(b"you said: tell", (), b'"' + b"x" * (1 << 20) + b'"') == HIDDEN


@given(st.text(alphabet="ab c", min_size=1, max_size=60), st.text(alphabet="ab c", max_size=40), st.data())
def test_no_long_piece_of_a_request_is_left(words: str, around: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(words)))
    said = f"{around}{words[start : start + 30]}{around}"
    left = excerpt(said.encode(), (), json.dumps({"input": words}).encode())
    pieces = {words[at : at + 12] for at in range(len(words) - 11)}
    assert not [one for one in pieces if " ".join(one.split()) == one and one in left.replace(HIDDEN, "|")]


def test_a_secret_with_a_slash_is_taken_out_of_an_excerpt_when_it_is_escaped() -> None:
    assert excerpt(rb'{"m":"key ab\/cd"}', ["ab/cd"]) == '{"m":"key [hidden]"}'


@given(st.binary(max_size=300))
def test_a_body_without_the_secret_stays_byte_for_byte(body: bytes) -> None:
    assert without(body, "") is body
    if b"s3cret" not in body:
        assert without(body, "s3cret") == body
    assert b"s3cret" not in without(body + b"s3cret" + body, "s3cret")


def test_a_secret_with_a_slash_may_be_escaped() -> None:
    assert without(rb'{"m":"key ab\/cd"}', "ab/cd") == b'{"m":"key [hidden]"}'
