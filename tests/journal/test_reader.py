from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.journal_files import START_NS, JournalFiles, opened, settled
from upeti.core.errors import JournalError
from upeti.core.events import AttemptRecovered, Outcome
from upeti.journal.blocks import GENESIS, segment_path
from upeti.journal.reader import (
    InstanceFold,
    SegmentScan,
    digest_before,
    instances,
    is_closed,
    open_attempts,
    posted_by_budget,
    read_segment,
    recovered_attempts,
    segments,
)


def test_instances_and_segments_are_listed_in_order(tmp_path: Path) -> None:
    assert instances(tmp_path) == []
    second = JournalFiles(tmp_path, "w1-b")
    first = JournalFiles(tmp_path, "w0-a")
    first.rotate()
    assert [path.name for path in instances(tmp_path)] == ["w0-a", "w1-b"]
    assert [path.name for path in segments(first.directory)] == ["00000000.upj", "00000001.upj"]
    assert len(segments(second.directory)) == 1


def test_an_empty_file_at_the_end_does_not_count(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    segment_path(files.directory, 1).touch()
    assert segments(files.directory) == [files.path]


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    (files.directory / "copy of 1.upj").touch()
    with pytest.raises(JournalError, match="copy of 1"):
        segments(files.directory)


def test_a_segment_is_read_whole(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), opened(2))
    files.append(settled(1))
    files.close()
    reading = read_segment(files.path, GENESIS)
    assert reading.opened is not None
    assert reading.opened.instance == "w0-0001"
    assert reading.closed is not None
    assert reading.closed.final
    assert reading.records[1:4] == [opened(1), opened(2), settled(1)]
    assert (reading.end, reading.torn_bytes) == (files.path.stat().st_size, 0)
    assert reading.digest == files.digest
    assert is_closed(files.path)


def test_the_next_segment_is_chained_to_the_one_before(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1))
    files.rotate()
    paths = segments(files.directory)
    assert is_closed(paths[0])
    assert not is_closed(paths[1])
    reading = read_segment(paths[1], digest_before(paths, 1))
    assert reading.opened is not None
    assert reading.opened.carried == (opened(1),)
    with pytest.raises(JournalError, match="chain"):
        list(SegmentScan(paths[1], GENESIS))
    paths[0].write_bytes(paths[0].read_bytes()[:-3])
    with pytest.raises(JournalError, match="whole block"):
        digest_before(paths, 1)


@given(st.lists(st.integers(1, 400), max_size=30))
@settings(max_examples=30, deadline=None)
def test_following_a_file_that_grows_by_any_steps_reads_it_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    data_dir = tmp_path_factory.mktemp("journal")
    files = JournalFiles(data_dir)
    for call in range(6):
        files.append(opened(call), settled(call))
    whole = files.path.read_bytes()
    expected = read_segment(files.path, GENESIS).records
    seen, size, end, digest = [], 0, 0, GENESIS
    for step in [*steps, len(whole)]:
        size = min(size + step, len(whole))
        files.path.write_bytes(whole[:size])
        reading = read_segment(files.path, digest, offset=end)
        assert reading.end + reading.torn_bytes == size
        seen += reading.records
        end, digest = reading.end, reading.digest
    assert seen == expected


def test_what_is_open_is_carried_over_segments(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), opened(2), opened(2, 1))
    files.rotate()
    files.append(settled(2), opened(3))
    files.rotate()
    files.append(settled(3))
    assert open_attempts(files.directory) == {(1, 0): opened(1), (2, 1): opened(2, 1)}


def test_posted_money_counts_on_every_budget_of_the_attempt(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1, budgets=("a", "b")), opened(2, budgets=("b",)), opened(3, budgets=("a",)))
    files.append(opened(4, budgets=("a",)), opened(5, budgets=()))
    files.append(settled(1, cost_pico=10), settled(2, cost_pico=7, outcome=Outcome.ESTIMATED))
    files.rotate()
    files.append(settled(3, cost_pico=0, outcome=Outcome.VOIDED), settled(5, cost_pico=99))
    assert posted_by_budget(files.directory) == {"a": 10, "b": 17}


def test_a_fold_goes_on_where_it_was(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    fold = InstanceFold(files.directory)
    fold.advance()
    files.append(opened(1), opened(2))
    fold.advance()
    assert set(fold.open) == {(1, 0), (2, 0)}
    files.append(settled(1, cost_pico=5))
    files.rotate()
    files.append(opened(3))
    half = files.path.read_bytes()
    files.append(settled(2, cost_pico=6))
    whole = files.path.read_bytes()
    files.path.write_bytes(whole[: len(half) + 60])
    fold.advance()
    assert set(fold.open) == {(2, 0), (3, 0)}
    assert fold.posted_pico == {"key:k1": 5, "tenant:acme": 5}
    files.path.write_bytes(whole)
    files.close()
    assert not fold.ended
    fold.advance()
    assert set(fold.open) == {(3, 0)}
    assert fold.posted_pico == {"key:k1": 11, "tenant:acme": 11}
    assert fold.ended


def test_a_fold_refuses_a_journal_with_a_hole(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1))
    first = files.path
    files.rotate()
    files.append(settled(1))
    whole = first.read_bytes()
    first.write_bytes(whole[:-5])
    with pytest.raises(JournalError, match="a later segment follows"):
        open_attempts(files.directory)
    first.unlink()
    with pytest.raises(JournalError, match="segment 0 is missing"):
        open_attempts(files.directory)


def test_an_unreadable_last_block_of_the_last_segment_counts_as_torn(tmp_path: Path) -> None:
    # After a power loss the file may be long enough and yet hold other bytes.
    files = JournalFiles(tmp_path)
    files.append(opened(1))
    end = files.path.stat().st_size
    files.append(settled(1))
    data = bytearray(files.path.read_bytes())
    data[-40:] = bytes(40)
    files.path.write_bytes(data)
    scan = SegmentScan(files.path, GENESIS)
    assert len(list(scan)) == 2
    assert scan.end == end
    assert "checksum" in scan.tail_damage
    assert set(open_attempts(files.directory)) == {(1, 0)}


def test_an_attempt_that_was_never_opened_may_only_be_voided(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(settled(1, outcome=Outcome.VOIDED, cost_pico=0))
    assert open_attempts(files.directory) == {}
    files.append(settled(2))
    with pytest.raises(JournalError, match="attempt 2-0"):
        open_attempts(files.directory)


def test_only_keepers_recover(tmp_path: Path) -> None:
    record = AttemptRecovered("w0-0001", opened(1), START_NS, 5)
    keeper = JournalFiles(tmp_path, "keeper-1")
    keeper.append(record)
    keeper.rotate()
    keeper.append(AttemptRecovered("w0-0001", opened(2), START_NS, 5))
    JournalFiles(tmp_path, "w0-0001").append(AttemptRecovered("w0-0001", opened(3), START_NS, 5))
    assert [one.opened.call for one in recovered_attempts(tmp_path)] == [1, 2]


def test_readers_of_a_worker_import_no_analysis_library() -> None:
    modules = ("blocks", "reader", "recovery", "verify", "event_columns")
    imports = "; ".join(f"import upeti.journal.{name}" for name in modules)
    check = "assert not {'duckdb', 'pyarrow', 'rich', 'typer'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys; {imports}; {check}"], check=True)
