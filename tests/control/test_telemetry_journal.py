"""Settled attempts are told once, in order, whatever is read when and wherever reading began."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from support.journal_files import START_NS, JournalFiles, opened, settled
from upeti.control.telemetry_journal import InstanceReader, JournalsReader, Position
from upeti.core.events import AttemptRecovered, Outcome


def calls(reader: InstanceReader | JournalsReader) -> list[int]:
    return [attempt.opened.call for found in reader.read() for attempt in found]


def test_attempts_are_told_when_they_are_settled(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), opened(2))
    reader = InstanceReader(files.directory, None)
    assert calls(reader) == []
    files.append(settled(2))
    assert calls(reader) == [2]
    assert calls(reader) == []
    files.rotate()
    files.append(settled(1), opened(3), settled(3))
    assert calls(reader) == [1, 3]
    files.close()
    assert calls(reader) == []
    assert reader.ended


def test_an_attempt_that_was_open_at_the_position_is_told_after_a_restart(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), opened(2), settled(2))
    files.append(opened(3))
    first = InstanceReader(files.directory, None)
    assert calls(first) == [2]
    files.append(settled(3), settled(1))
    assert calls(InstanceReader(files.directory, first.position)) == [3, 1]


@given(st.lists(st.sampled_from(["open", "settle", "rotate", "block", "restart", "read"]), max_size=40))
def test_each_is_told_once_over_any_restarts(steps: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        files = JournalFiles(Path(folder))
        reader = InstanceReader(files.directory, None)
        pending, told, done, call = [], [], [], 0
        waiting: list[int] = []
        for step in [*steps, "block", "read"]:
            if step == "open":
                call += 1
                pending.append(opened(call))
                waiting.append(call)
            elif step == "settle" and waiting:
                done.append(waiting[0])
                pending.append(settled(waiting.pop(0)))
            elif step == "block" and pending:
                files.append(*pending)
                pending = []
            elif step == "rotate" and not pending:
                files.rotate()
            elif step == "restart":
                reader = InstanceReader(files.directory, reader.position)
            elif step == "read":
                told += calls(reader)
        assert told == done


def test_without_positions_what_is_there_is_skipped_and_what_is_open_is_not(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1), opened(2))
    reader = JournalsReader(tmp_path, None)
    assert calls(reader) == []
    files.append(settled(2))
    JournalFiles(tmp_path, "w1-new").append(opened(7), settled(7))
    assert calls(reader) == [2, 7]
    assert reader.positions()["w0-0001"].offset == files.path.stat().st_size


def test_what_a_keeper_settled_for_a_dead_worker_is_told_as_estimated(tmp_path: Path) -> None:
    keeper = JournalFiles(tmp_path, "keeper-1")
    keeper.append(AttemptRecovered("w0-dead", opened(9), START_NS, 77))
    (found,) = [one for found in JournalsReader(tmp_path, {}).read() for one in found]
    assert (found.instance, found.settled.outcome, found.settled.cost_pico) == ("w0-dead", Outcome.ESTIMATED, 77)
    assert found.settled.ended == "worker_died"


def test_a_damaged_journal_is_left_and_the_others_go_on(tmp_path: Path) -> None:
    damaged, sound = JournalFiles(tmp_path, "a"), JournalFiles(tmp_path, "b")
    damaged.append(opened(1), settled(1))
    damaged.append(opened(2), settled(2))
    sound.append(opened(3), settled(3))
    data = bytearray(damaged.path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.path.write_bytes(data)
    reader = JournalsReader(tmp_path, {})
    assert 3 in calls(reader)
    assert list(reader.damaged) == ["a"]


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    for call in (1, 2, 3):
        files.append(opened(call), settled(call))
        files.rotate()
    sorted(files.directory.iterdir())[1].unlink()
    reader = JournalsReader(tmp_path, {})
    assert calls(reader) == []
    assert "segment 1 is missing" in reader.damaged["w0-0001"]


def test_a_torn_tail_is_waited_for(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    whole = files.path.read_bytes()
    reader = InstanceReader(files.directory, None)
    files.path.write_bytes(whole[:-3])
    assert calls(reader) == []
    files.path.write_bytes(whole)
    assert calls(reader) == [1]
    assert reader.position == Position(0, len(whole))
