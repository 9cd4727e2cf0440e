from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.errors import ConfigError
from upeti.rights.redaction import NotRedactableError, Redactor, own_rule

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FOUND = [
    ("write to ana.b+c@example.co.id today", "write to [EMAIL_1] today"),
    ("call +62 812-3456-7890 or 0812 3456 7890", "call [PHONE_1] or [PHONE_2]"),
    ("(021) 555-1234 in Jakarta", "[PHONE_1] in Jakarta"),
    ("card 4111 1111 1111 1111.", "card [CARD_1]."),
    ("NIK 3174056708900003", "NIK [NIK_1]"),
    ("IBAN DE89 3704 0044 0532 0130 00 PLEASE", "IBAN [IBAN_1] PLEASE"),
    ("from 192.168.10.4 and 2001:db8::ff00:42:8329", "from [IPV4_1] and [IPV6_1]"),
    ("key sk-proj-abcdefghijkl and AKIAIOSFODNN7EXAMPLE", "key [SECRET_1] and [SECRET_2]"),
    ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: Bearer [SECRET_1]"),
    ("postgres://user:pass@host/db", "postgres://[SECRET_1]@host/db"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "[JWT_1]"),
    ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- end", "[PRIVATE_KEY_1] end"),
    ("data:image/png;base64,iVBORw0KGgo= shown", "[DATA_1] shown"),
]
LEFT = [
    "version 1.2.3 of 2026-11-27, 12:30:45",
    "it costs 1,234,567.89 rupiah",
    "order 9900000000000001",  # no card's checksum, no resident's province
    "ratio 16:9, f(x) = 3:4",
    "the answer is 42",
]


@pytest.mark.parametrize(("text", "redacted"), FOUND)
def test_what_has_a_form_is_found(text: str, redacted: str) -> None:
    assert Redactor().pair().text(text) == redacted


@pytest.mark.parametrize("text", LEFT)
def test_what_has_another_form_is_left(text: str) -> None:
    assert Redactor().pair().text(text) == text


def test_equal_values_are_equal_in_question_and_answer() -> None:
    one = Redactor().pair()
    asked = one.body(json.dumps({"messages": [{"content": "mail a@x.io and b@x.io"}], "n": 6281234567890}).encode())
    answered = one.body(b'{"content":"I mailed b@x.io","arguments":"{\\"to\\": \\"a@x.io\\"}"}')
    assert json.loads(asked)["messages"][0]["content"] == "mail [EMAIL_1] and [EMAIL_2]"
    assert json.loads(answered) == {"content": "I mailed [EMAIL_2]", "arguments": '{"to": "[EMAIL_1]"}'}
    assert one.counts == {"EMAIL": 2}


def test_a_long_number_is_looked_at_too_and_so_are_names_of_fields() -> None:
    redacted = json.loads(Redactor().pair().body(b'{"a@x.io": 4111111111111111, "n": 12345678}'))
    assert redacted == {"[EMAIL_1]": "[CARD_1]", "n": 12345678}


@given(JSON)
def test_json_stays_json_and_redacting_again_changes_nothing(value: object) -> None:
    once = Redactor().pair().value(value)
    assert Redactor().pair().body(once) == once
    assert type(json.loads(once)) in (type(value), str)


@given(st.text(), st.emails(), st.text())
def test_no_address_survives(before: str, address: str, after: str) -> None:
    local, _, domain = address.partition("@")
    if local.isascii() and domain.isascii() and '"' not in local:
        redacted = Redactor().pair().text(f"{before} {address} {after}")
        assert address not in redacted


@pytest.mark.parametrize("body", [b"no json", b"\xff\xfe", b'{"a":' * 300 + b"1" + b"}" * 300])
def test_what_cannot_be_redacted_is_not_kept(body: bytes) -> None:
    with pytest.raises(NotRedactableError):
        Redactor().pair().body(body)


def test_rules_of_ones_own_come_first() -> None:
    rule = own_rule("member", r"\bM-[0-9]{6}\b")
    assert Redactor([rule]).pair().text("M-123456 wrote a@x.io") == "[MEMBER_1] wrote [EMAIL_1]"


@pytest.mark.parametrize("pattern", ["(", "x*"])
def test_a_pattern_that_is_none_is_said(pattern: str) -> None:
    with pytest.raises(ConfigError, match="member"):
        own_rule("member", pattern)


def test_a_finder_finds_what_has_no_form() -> None:
    def names(text: str) -> list[tuple[int, int, str]]:
        at = text.find("Siti")
        return [(at, at + 4, "PERSON")] if at >= 0 else []

    one = Redactor(finders=[names]).pair()
    assert one.text("Siti, siti@x.io") == "[PERSON_1], [EMAIL_1]"
