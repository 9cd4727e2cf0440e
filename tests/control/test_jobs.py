"""The projection, as the process that the keeper starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.journal_files import JournalFiles, opened, settled
from upeti.control.ledger import Instance, Ledger
from upeti.control.places import Places
from upeti.control.store import Store


def project(data_dir: Path, keeper: str = "keeper-now") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "upeti.control.jobs", "project", "--data-dir", str(data_dir)]
    return subprocess.run([*command, "--keeper", keeper], capture_output=True, text=True, check=False)


def projected(data_dir: Path) -> list[str]:
    return sorted(file.name for file in (data_dir / "events").glob("*.parquet"))


def test_what_is_closed_is_projected_and_what_is_written_to_is_not(tmp_path: Path) -> None:
    """Closed: a segment with a successor, all of a closed instance, an earlier keeper's. Not: a live one's last."""
    live, dead = JournalFiles(tmp_path, "w0-live"), JournalFiles(tmp_path, "w1-dead")
    for journal in (live, dead):
        journal.append(opened(1), settled(1))
        journal.rotate()
        journal.append(opened(2), settled(2))
    JournalFiles(tmp_path, "keeper-before")
    JournalFiles(tmp_path, "keeper-now")
    ledger = Ledger(Store(tmp_path))
    ledger.close(Instance("w1-dead", 1, 0, ""), {})
    done = project(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert projected(tmp_path) == [
        "keeper-before-00000000.parquet",
        "w0-live-00000000.parquet",
        "w1-dead-00000000.parquet",
        "w1-dead-00000001.parquet",
    ]


def test_a_damaged_segment_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    for name in ("w0-bad", "w1-good"):
        journal = JournalFiles(tmp_path, name)
        journal.append(opened(1), settled(1))
        journal.rotate()
    data = bytearray((tmp_path / "journal" / "w0-bad" / "00000000.upj").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "journal" / "w0-bad" / "00000000.upj").write_bytes(data)
    done = project(tmp_path)
    assert done.returncode == 1
    assert "w0-bad/00000000.upj" in done.stderr
    assert projected(tmp_path) == ["w1-good-00000000.parquet"]


def test_only_one_at_a_time(tmp_path: Path) -> None:
    journal = JournalFiles(tmp_path, "w0-live")
    journal.rotate()
    places = Places(tmp_path)
    places.make()
    places.lock("projection")
    assert project(tmp_path).returncode == 0
    assert projected(tmp_path) == []
