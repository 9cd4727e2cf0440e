"""What must not leave an error of a provider."""

from __future__ import annotations

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


@given(st.binary(max_size=300))
def test_a_body_without_the_secret_stays_byte_for_byte(body: bytes) -> None:
    assert without(body, "") is body
    if b"s3cret" not in body:
        assert without(body, "s3cret") == body
    assert b"s3cret" not in without(body + b"s3cret" + body, "s3cret")


def test_a_secret_with_a_slash_may_be_escaped() -> None:
    assert without(rb'{"m":"key ab\/cd"}', "ab/cd") == b'{"m":"key [hidden]"}'
