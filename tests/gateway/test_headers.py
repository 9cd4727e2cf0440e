"""What crosses the gateway in a head: only what is listed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from upeti.gateway import headers
from upeti.gateway.headers import answer_headers, kept_name, provider_request_id, request_headers

SECRETS = {
    b"authorization": b"Bearer x",
    b"api-key": b"x",
    b"x-api-key": b"x",
    b"cookie": b"session=1",
    b"x-forwarded-for": b"10.0.0.1",
    b"forwarded": b"for=10.0.0.1",
    b"host": b"gateway",
    b"user-agent": b"me",
    b"openai-organization": b"org-of-client",
    b"openai-project": b"proj-of-client",
    b"proxy-authorization": b"x",
    b"connection": b"upgrade",
    b"transfer-encoding": b"chunked",
    b"content-length": b"7",
    b"expect": b"100-continue",
    b"te": b"trailers",
    b"x-upeti-feature": b"search",
    b"x-stainless-os": b"Linux",
}
LISTED = {
    b"content-type": b"application/json",
    b"accept": b"text/event-stream",
    b"openai-beta": b"assistants=v2",
    b"anthropic-beta": b"tools-2026",
    b"anthropic-version": b"2023-06-01",
    b"idempotency-key": b"abc",
}


def lines(text: bytes) -> dict[bytes, bytes]:
    assert not text or text.endswith(b"\r\n")
    pairs = [line.partition(b": ") for line in text.split(b"\r\n")[:-1]]
    assert len({name for name, _, _ in pairs}) == len(pairs)
    return {name: value for name, _, value in pairs}


def test_to_the_provider_goes_what_is_listed() -> None:
    assert lines(request_headers(SECRETS | LISTED, ())) == LISTED
    assert request_headers(SECRETS, ()) == b""


def test_a_default_of_the_provider_is_sent_unless_the_client_sent_its_own() -> None:
    defaults = (("anthropic-version", "2023-06-01"),)
    assert lines(request_headers({}, defaults)) == {b"anthropic-version": b"2023-06-01"}
    assert lines(request_headers({b"anthropic-version": b"2026-10-21"}, defaults)) == {
        b"anthropic-version": b"2026-10-21"
    }


def test_to_the_client_goes_what_is_listed() -> None:
    theirs = {
        b"content-type": b"application/json",
        b"content-length": b"5",
        b"set-cookie": b"x=1",
        b"openai-organization": b"org-of-provider",
        b"x-ratelimit-remaining-tokens": b"9",
        b"server": b"x",
        b"x-request-id": b"req_1",
        b"transfer-encoding": b"chunked",
        b"connection": b"close",
        b"strict-transport-security": b"x",
        b"location": b"/x",
        b"retry-after": b"7",
        b"retry-after-ms": b"70",
        b"x-should-retry": b"true",
        b"openai-processing-ms": b"5",
        b"content-encoding": b"gzip",
        b"content-disposition": b"attachment",
    }
    kept = {name: value for name, value in theirs.items() if kept_name(name)}
    assert b"set-cookie" not in kept
    assert b"openai-organization" not in kept
    assert set(lines(answer_headers(kept))) == {
        b"location",
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
        b"openai-processing-ms",
        b"content-encoding",
        b"content-disposition",
    }


def test_names_are_known_in_any_case_and_their_number_is_bounded() -> None:
    assert kept_name(b"Content-TYPE") == b"content-type"
    assert kept_name(b"Set-Cookie") == b""
    for number in range(3_000):
        assert kept_name(b"X-%d" % number) == b""
    assert len(headers.known_names) <= 1_024


@given(st.dictionaries(st.sampled_from([b"x-request-id", b"request-id", b"apim-request-id", b"x"]), st.binary()))
def test_a_providers_id_is_short_text(got: dict[bytes, bytes]) -> None:
    found = provider_request_id(got)
    assert len(found) <= 128
    assert bool(found) <= bool(got.keys() - {b"x"})


def test_a_providers_id_by_the_first_of_its_names() -> None:
    assert provider_request_id({b"apim-request-id": b"c", b"request-id": b"b", b"x-request-id": b"a"}) == "a"
    assert provider_request_id({b"apim-request-id": b"c", b"request-id": b"b"}) == "b"
    assert provider_request_id({b"apim-request-id": b"\xff"}) == "�"
    assert provider_request_id({}) == ""
