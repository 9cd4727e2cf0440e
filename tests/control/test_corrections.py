from __future__ import annotations

import threading
from pathlib import Path

import pytest

from support.journal_files import JournalFiles, corrected, opened, settled
from upeti.control.corrections import CORRECTIONS_PREFIX, write_corrections
from upeti.core.errors import JournalError
from upeti.journal.reader import corrections, instances
from upeti.journal.verify import verify


def test_what_is_written_is_a_whole_journal_of_its_own(tmp_path: Path) -> None:
    JournalFiles(tmp_path).append(opened(1), settled(1))
    record = corrected(1)
    assert write_corrections(tmp_path, [record]) == 1
    assert list(corrections(tmp_path)) == [record]
    (instance,) = [path.name for path in instances(tmp_path) if path.name.startswith(CORRECTIONS_PREFIX)]
    result = verify(tmp_path)
    assert result.findings == []
    (one,) = [one for one in result.instances if one.instance == instance]
    assert (one.corrected, one.ended) == (1, True)


def test_the_same_correction_is_written_once(tmp_path: Path) -> None:
    first, again = corrected(1), corrected(1, at_ns=7)
    assert write_corrections(tmp_path, [first, again]) == 1
    assert write_corrections(tmp_path, [again, corrected(2)]) == 1
    assert write_corrections(tmp_path, [first, corrected(2)]) == 0
    assert {one.correction_id for one in corrections(tmp_path)} == {"correction-1-0", "correction-2-0"}
    assert len(instances(tmp_path)) == 2  # nothing to write makes no journal


def test_an_id_that_says_something_else_is_refused_with_nothing_written(tmp_path: Path) -> None:
    write_corrections(tmp_path, [corrected(1)])
    with pytest.raises(JournalError, match=r"correction-1-0 .* a new id"):
        write_corrections(tmp_path, [corrected(2), corrected(1, now="7")])
    assert len(list(corrections(tmp_path))) == 1


def test_two_at_the_same_time_write_each_once(tmp_path: Path) -> None:
    records = [corrected(call) for call in range(2_500)]
    written: list[int] = []
    threads = [threading.Thread(target=lambda: written.append(write_corrections(tmp_path, records))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == [0, 0, 2_500]
    assert len(list(corrections(tmp_path))) == 2_500
