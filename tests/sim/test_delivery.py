from __future__ import annotations

import gzip
import zlib
from random import Random

import pytest

from upeti.sim.behaviours import behaviour_of
from upeti.sim.delivery import GARBAGE, Delivery, Hold, Pause, Reset, Write, delivery_of
from upeti.sim.values import Answer, Event

PLAIN = Answer(200, body=b'{"a":"' + b"x" * 100 + b'"}', billed={"input": 3, "output": 2})
STREAM = Answer(
    200,
    events=tuple(Event(b"data: %d\n\n" % index, {"output": index + 1}) for index in range(6)),
    billed={"output": 6},
    content_type="text/event-stream",
)


def delivered(answer: Answer, words: str, seed: int = 1) -> Delivery:
    return delivery_of(answer, behaviour_of(words), Random(seed))


def data(delivery: Delivery) -> bytes:
    return b"".join(step.data for step in delivery.steps if isinstance(step, Write))


def body(delivery: Delivery) -> bytes:
    return data(delivery).partition(b"\r\n\r\n")[2]


def test_a_plain_answer_is_one_write() -> None:
    delivery = delivered(PLAIN, "")
    assert len(delivery.steps) == 1
    assert body(delivery) == PLAIN.body
    assert b"content-length: 108\r\n" in data(delivery)
    assert delivery.whole
    assert delivery.keeps_open


def test_a_stream_is_one_write_or_one_for_each_event() -> None:
    whole, each = delivered(STREAM, ""), delivered(STREAM, "each")
    assert len(whole.steps) == 1
    assert len(each.steps) == 8  # head, six events, last chunk
    assert data(whole) == data(each)
    assert data(whole).endswith(b"9\r\ndata: 5\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("answer", [PLAIN, STREAM])
def test_split_cuts_anywhere_but_loses_nothing(answer: Answer) -> None:
    split = delivered(answer, "split20")
    assert data(split) == data(delivered(answer, ""))
    writes = [step for step in split.steps if isinstance(step, Write)]
    assert len(writes) == 20
    assert split.steps == delivered(answer, "split20").steps
    assert split.steps != delivered(answer, "split20", seed=2).steps


def test_slow_waits_first_and_drip_between() -> None:
    assert delivered(PLAIN, "slow300").steps[0] == Pause(0.3)
    pauses = [step for step in delivered(STREAM, "slow300").steps if isinstance(step, Pause)]
    assert pauses == [Pause(0.3)] + [Pause(0.03)] * 6
    assert [step for step in delivered(STREAM, "drip5").steps if isinstance(step, Pause)] == [Pause(0.005)] * 6


def test_a_cut_stream_ends_early_and_bills_what_was_made() -> None:
    cut = delivered(STREAM, "cut2-each")
    assert body(cut) == b"9\r\ndata: 0\n\n\r\n9\r\ndata: 1\n\n\r\n"
    assert not cut.whole
    last = cut.steps[-1]
    assert isinstance(last, Write)
    assert last.billed == {"output": 2}
    assert delivered(STREAM, "cut-reset").steps[-1] == Reset()


def test_a_cut_body_is_shorter_than_it_says() -> None:
    cut = delivered(PLAIN, "cutbody")
    assert body(cut) == PLAIN.body[:54]
    assert b"content-length: 108" in data(cut)
    assert not cut.whole


def test_what_never_comes() -> None:
    assert delivered(PLAIN, "never").steps == [Hold()]
    assert delivered(PLAIN, "reset").steps == [Reset()]
    assert delivered(PLAIN, "garbage").steps == [Write(GARBAGE)]
    assert delivered(STREAM, "stall1").steps[-1] == Hold()
    for words in ("never", "reset", "garbage"):
        assert delivered(PLAIN, words).status == 0
        assert not delivered(PLAIN, words).whole


def test_framings() -> None:
    chunked = delivered(PLAIN, "chunked")
    assert b"content-length" not in data(chunked)
    assert body(chunked).startswith(b"36\r\n")
    closed = delivered(PLAIN, "close")
    assert (body(closed), closed.keeps_open) == (PLAIN.body, False)
    assert b"connection: close" in data(closed)
    old = delivered(STREAM, "http10")
    assert data(old).startswith(b"HTTP/1.0 200")
    assert body(old) == b"".join(event.data for event in STREAM.events or ())
    assert not delivered(PLAIN, "drop").keeps_open
    assert data(delivered(PLAIN, "interim")).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


def test_gzip() -> None:
    assert gzip.decompress(body(delivered(PLAIN, "gzip"))) == PLAIN.body
    coder = zlib.decompressobj(wbits=31)
    steps = [step.data for step in delivered(STREAM, "gzip-close-each").steps if isinstance(step, Write)]
    assert len(steps) == 7
    assert [coder.decompress(step) for step in steps[1:]] == [event.data for event in STREAM.events or ()]
    assert coder.eof
