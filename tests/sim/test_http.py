from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.sim.http import NotHttp, Request, RequestReader

PLAIN = b'POST /v1/a?b=c HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two: 2\r\nContent-Length: 7\r\n\r\n{"a":1}'
CHUNKED = (
    b"POST /v1/b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'3;note=1\r\n{"a\r\n4\r\n":2}\r\n0\r\nTrailer: yes\r\n\r\n'
)
BODILESS = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"


def read_all(pieces: list[bytes]) -> list[Request]:
    reader = RequestReader()
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (request := reader.next()) is not None:
            found.append(request)
    return found


@given(st.lists(st.sampled_from([PLAIN, CHUNKED, BODILESS]), max_size=5), st.data())
def test_any_pipeline_in_any_pieces_gives_the_same_requests(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found = read_all(pieces)
    assert [request.head + request.raw_body for request in found] == messages


def test_a_request_is_kept_as_it_came() -> None:
    (request,) = read_all([PLAIN])
    assert (request.method, request.path, request.query) == ("POST", "/v1/a", "b=c")
    assert [value for name, value in request.headers if name == "x-two"] == ["1", "2"]
    assert request.header("x-two") == "1"
    assert request.json == {"a": 1}


def test_chunks_are_joined_and_their_framing_kept() -> None:
    (request,) = read_all([CHUNKED])
    assert request.body == b'{"a":2}'
    assert request.json == {"a": 2}
    assert request.raw_body.endswith(b"Trailer: yes\r\n\r\n")


def test_a_compressed_body_is_read() -> None:
    body = gzip.compress(b'{"model":"m"}')
    head = b"POST / HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    (request,) = read_all([head + body])
    assert request.body == body
    assert request.json == {"model": "m"}


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff", b""])
def test_what_is_not_an_object_is_an_empty_one(body: bytes) -> None:
    (request,) = read_all([b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)])
    assert request.json == {}


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01hello\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(junk: bytes) -> None:
    with pytest.raises(NotHttp):
        read_all([junk])


def test_it_knows_when_a_client_waits_for_100() -> None:
    reader = RequestReader()
    reader.feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert reader.next() is None
    assert reader.waits_for_continue
    reader.feed(b"{}")
    assert not reader.waits_for_continue
    assert reader.next() is not None
