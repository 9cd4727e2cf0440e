"""Frames between worker and keeper: whole words out of any pieces, amounts of any size."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.gateway import keeper_link as link

names = st.text(max_size=20)
amounts = st.integers(-(10**31), 10**31)  # 10 quintillion units: no 64-bit integer holds it
worker_words = st.one_of(
    st.builds(link.Hello, names, st.integers(0, 255), st.integers(1, 2**22)),
    st.builds(
        link.Hello, names, st.just(0), st.just(1), st.dictionaries(names, st.tuples(amounts, amounts), max_size=3)
    ),
    st.builds(link.LeaseAsk, names, amounts, amounts),
    st.builds(link.LeaseReturn, names, amounts, amounts, st.booleans()),
    st.builds(link.Metrics, st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=4)),
    st.builds(link.MetricsAsk, st.integers(0, 2**40)),
)
keeper_words = st.one_of(
    st.builds(link.LeaseGrant, names, amounts, amounts, amounts),
    st.builds(link.LeaseRecall, names),
    st.builds(link.SnapshotReady, st.integers(0, 2**40)),
    st.builds(link.MetricsText, st.integers(0, 2**40), names),
)


@given(st.lists(worker_words, max_size=5), st.integers(1, 64))
def test_words_of_workers_arrive_whole(sent: list[link.WorkerWord], piece: int) -> None:
    stream = b"".join(map(link.frame, sent))
    reader = link.FrameReader()
    pieces = [stream[at : at + piece] for at in range(0, len(stream), piece)]
    payloads = [payload for part in pieces for payload in reader.feed(part)]
    assert list(map(link.decode_worker_word, payloads)) == sent


@given(keeper_words)
def test_words_of_the_keeper_arrive_whole(word: link.KeeperWord) -> None:
    (payload,) = link.FrameReader().feed(link.frame(word))
    assert link.decode_keeper_word(payload) == word


def test_a_worker_may_leave_out_what_was_added_later() -> None:
    assert link.decode_worker_word(b'["hello","w0-1",0,7]') == link.Hello("w0-1", 0, 7)


def test_what_is_no_word_is_refused() -> None:
    for payload in (b"", b"{}", b'["nothing",1]', b'["ask","b","1",2]'):
        with pytest.raises(msgspec.MsgspecError):
            link.decode_worker_word(payload)


def test_an_endless_frame_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="frame of"):
        link.FrameReader().feed(link.FRAME_HEAD.pack(link.FRAME_BYTES_MAX + 1))
