from __future__ import annotations

from pathlib import Path

from support.journal_files import START_NS, JournalFiles, opened, settled
from upeti.journal.recovery import recover, recovered_names
from upeti.journal.verify import verify


def test_what_was_open_is_posted_at_its_bound(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(2, 1, bound_pico=7), opened(1, bound_pico=5), opened(2))
    files.rotate()
    files.append(settled(2))
    records = recover(files.directory, START_NS)
    assert [(one.opened.call, one.opened.attempt, one.cost_pico) for one in records] == [(1, 0, 5), (2, 1, 7)]
    assert {one.instance for one in records} == {"w0-0001"}
    assert {one.at_ns for one in records} == {START_NS}


def test_asked_again_it_recovers_only_what_no_keeper_has_recovered(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), opened(2), opened(3))
    first, second, third = recover(files.directory, START_NS)
    JournalFiles(tmp_path, "keeper-0001").append(first)
    JournalFiles(tmp_path, "keeper-0002").append(third)
    assert recover(files.directory, START_NS) == [second]
    assert recover(files.directory, START_NS, already=()) == [first, second, third]
    JournalFiles(tmp_path, "keeper-0003").append(second)
    assert recover(files.directory, START_NS) == []
    assert recovered_names(tmp_path) == {("w0-0001", call, 0) for call in (1, 2, 3)}
    assert verify(tmp_path).sound


def test_a_torn_opening_was_never_sent_and_is_not_recovered(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1))
    files.append(opened(2))
    files.path.write_bytes(files.path.read_bytes()[:-1])
    assert [one.opened.call for one in recover(files.directory, START_NS)] == [1]
