from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.journal_files import START_NS, opened, refused, settled
from upeti.core.errors import JournalError
from upeti.core.events import AttemptRecovered, Record, SegmentClosed, SegmentOpened
from upeti.journal.blocks import GENESIS, HEADER, TailDamageError, decode_blocks, encode_block, ends_closed

BLOCKS: list[list[Record]] = [
    [SegmentOpened(1, "w0-0001", 0, START_NS, (opened(1),))],
    [opened(2, feature="carries UPJ1 in its tag"), opened(3), refused(4)],
    [settled(2, meters=None), settled(3, attempt=1)],
    [AttemptRecovered("w1-0001", opened(9), START_NS, 5_000_000)],
    [SegmentClosed(START_NS, True)],
]


def chain(blocks: list[list[Record]]) -> tuple[bytes, list[int]]:
    """Return the bytes of a segment and where its blocks end."""
    data, digest, ends = b"", GENESIS, []
    for records in blocks:
        block, digest = encode_block(digest, records)
        data += block
        ends.append(len(data))
    return data, ends


DATA, ENDS = chain(BLOCKS)


def test_every_kind_of_record_comes_back_with_its_place() -> None:
    decoded = list(decode_blocks(DATA, GENESIS))
    assert [records for *_, records in decoded] == BLOCKS
    assert [(start, end) for start, end, *_ in decoded] == list(pairwise([0, *ENDS]))


def test_reading_goes_on_from_a_known_end_and_digest() -> None:
    _, end, digest, _ = list(decode_blocks(DATA, GENESIS))[1]
    rest = list(decode_blocks(DATA, digest, offset=end))
    assert [records for *_, records in rest] == BLOCKS[2:]
    moved = list(decode_blocks(DATA[end:], digest, base=end))
    assert moved == rest


def test_a_truncation_at_any_byte_leaves_the_whole_blocks_before_it() -> None:
    for size in range(len(DATA)):
        decoded = list(decode_blocks(DATA[:size], GENESIS))
        assert len(decoded) == sum(end <= size for end in ENDS)


@given(st.integers(1, 255))
@settings(deadline=None)
def test_a_change_of_any_byte_is_damage(mask: int) -> None:
    for place in range(len(DATA)):
        changed = bytearray(DATA)
        changed[place] ^= mask
        with pytest.raises(JournalError):
            list(decode_blocks(bytes(changed), GENESIS))


def test_damage_of_the_last_block_is_told_from_damage_before_it() -> None:
    payload, checksum, magic = ENDS[-2] + HEADER.size, ENDS[-2] + 9, ENDS[-2]
    for place in (payload, checksum, magic):
        changed = bytearray(DATA)
        changed[place] ^= 1
        with pytest.raises(TailDamageError):
            list(decode_blocks(bytes(changed), GENESIS))
    changed = bytearray(DATA)
    changed[ENDS[1] + HEADER.size] ^= 1
    with pytest.raises(JournalError) as caught:
        list(decode_blocks(bytes(changed), GENESIS))
    assert not isinstance(caught.value, TailDamageError)
    assert f"byte {ENDS[1]}" in str(caught.value)


def test_a_block_left_out_or_moved_breaks_the_chain() -> None:
    first, second, third = DATA[: ENDS[0]], DATA[ENDS[0] : ENDS[1]], DATA[ENDS[1] : ENDS[2]]
    for data in (first + third, first + third + second, second):
        with pytest.raises(JournalError, match="chain"):
            list(decode_blocks(data, GENESIS))


def test_zeros_at_the_end_are_a_torn_tail() -> None:
    # What a file system shows that lost power after it had grown the file.
    for zeros in (1, HEADER.size - 1, HEADER.size, 4096):
        assert len(list(decode_blocks(DATA + bytes(zeros), GENESIS))) == len(BLOCKS)


def test_other_bytes_at_the_end_are_damage() -> None:
    for rest in (b"U!", b"x" * 100):
        with pytest.raises(JournalError):
            list(decode_blocks(DATA + rest, GENESIS))


def test_the_end_of_a_segment_is_seen_in_its_last_bytes() -> None:
    assert ends_closed(DATA)
    assert ends_closed(DATA[-200:])
    assert not ends_closed(DATA[:-1])
    assert not ends_closed(DATA[: ENDS[-2]])
    assert not ends_closed(b"")
