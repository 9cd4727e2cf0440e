from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from upeti.core.errors import JournalError
from upeti.core.events import ActDone
from upeti.journal.acts import act, acts_dir, read_acts, record_acts
from upeti.journal.verify import verify


def one(subject: str = "g1", **detail: object) -> ActDone:
    return act(1_000, "legal@example.com", "rights.granted", subject, "signed order form", **detail)


def test_acts_come_back_in_order(tmp_path: Path) -> None:
    first, second, third = one("a", until="2027-01-01"), one("b"), one("c")
    record_acts(tmp_path, first)
    record_acts(tmp_path, second, third)
    assert list(read_acts(tmp_path)) == [first, second, third]
    assert first.detail == '{"until":"2027-01-01"}'


def test_nothing_was_decided_yet(tmp_path: Path) -> None:
    assert list(read_acts(tmp_path)) == []


def test_what_a_killed_writer_left_is_cut_off(tmp_path: Path) -> None:
    record_acts(tmp_path, one("a"))
    (file,) = acts_dir(tmp_path).glob("*.upj")
    whole = file.read_bytes()
    record_acts(tmp_path, one("lost"))
    file.write_bytes(file.read_bytes()[: len(whole) + 50])
    record_acts(tmp_path, one("b"))
    assert [each.subject for each in read_acts(tmp_path)] == ["a", "b"]


def test_an_act_that_was_changed_is_seen_and_nothing_is_added_behind_it(tmp_path: Path) -> None:
    record_acts(tmp_path, one("a"))
    record_acts(tmp_path, one("b"))
    (file,) = acts_dir(tmp_path).glob("*.upj")
    file.write_bytes(file.read_bytes().replace(b"legal@example.com", b"eevee@example.com", 1))
    with pytest.raises(JournalError):
        list(read_acts(tmp_path))
    with pytest.raises(JournalError):
        record_acts(tmp_path, one("c"))


def _many(data_dir: Path, name: str) -> None:
    for number in range(20):
        record_acts(data_dir, one(f"{name}{number}"))


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    processes = [multiprocessing.Process(target=_many, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    subjects = [each.subject for each in read_acts(tmp_path)]
    assert sorted(subjects) == sorted(f"{name}{number}" for name in "ab" for number in range(20))
    assert [subject for subject in subjects if subject[0] == "a"] == [f"a{number}" for number in range(20)]


def test_a_disk_that_refuses_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "acts").write_text("in the way")
    with pytest.raises(JournalError, match="nothing was changed"):
        record_acts(tmp_path, one())


def test_the_check_of_the_journal_reads_acts_too(tmp_path: Path) -> None:
    record_acts(tmp_path, one("a"), one("b"))
    result = verify(tmp_path)
    assert result.sound
    assert [(each.instance, each.acts) for each in result.instances] == [("acts", 2)]
    (file,) = acts_dir(tmp_path).glob("*.upj")
    file.write_bytes(file.read_bytes().replace(b"legal@example.com", b"eevee@example.com", 1))
    assert not verify(tmp_path).sound
