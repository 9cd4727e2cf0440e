from __future__ import annotations

from pathlib import Path

import pytest

from upeti.control.audit_journal import AuditJournal, AuditJournalError, Drawn, Entry, Lost, Opened, Seen, path_of, read
from upeti.learning.audit import Audited, Deferred, Observation


def seen(number: int) -> Seen:
    audited = Audited(("card_lost",), ("other",))
    return Seen(number, Observation("n", number, 0.1, (Deferred((), 3),), audited), 5, 3, f"aud_{number}", "req_1")


ENTRIES: list[Entry] = [Opened(1, "5eed"), Drawn(2, "aud_1", 1), seen(1), Lost(3, "aud_2", "nobody answered"), seen(2)]


def written(folder: Path) -> Path:
    path = path_of(folder, "crt_1")
    journal = AuditJournal(path)
    for number, entry in enumerate(ENTRIES):
        journal.add(entry, durable=bool(number % 2))
    journal.close()
    return path


def test_what_was_added_is_read_again_and_from_any_entry_on(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert read(path) == (ENTRIES, path.stat().st_size)
    _, middle = read(path)
    journal = AuditJournal(path)
    assert (journal.entries, journal.number) == (ENTRIES, 2)
    journal.add(seen(3), durable=True)
    journal.close()
    assert read(path, middle)[0] == [seen(3)]


def test_what_a_kill_left_of_a_line_is_cut_off_at_every_byte(tmp_path: Path) -> None:
    data = written(tmp_path).read_bytes()
    before = data.rfind(b"\n", 0, -1) + 1
    for length in range(before, len(data)):
        path = tmp_path / "torn" / f"{length}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data[:length])
        assert read(path) == (ENTRIES[:-1], before)
        journal = AuditJournal(path)
        assert journal.number == 1
        journal.add(seen(2), durable=False)
        journal.close()
        assert path.read_bytes() == data


def test_a_changed_byte_anywhere_before_the_end_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    for place in range(0, len(data) - 1, 7):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        if place > data.rfind(b"\n", 0, -1):
            with pytest.raises(AuditJournalError):
                read(path)
            continue
        with pytest.raises(AuditJournalError, match=r"damaged at byte .* restore it from a copy"):
            AuditJournal(path)
