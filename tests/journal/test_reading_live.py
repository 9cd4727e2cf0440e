"""Reading while another process writes, and after it was killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from support.journal_files import START_NS, JournalFiles
from upeti.core.amount import to_decimal
from upeti.journal.events_store import connect, project_closed_segments
from upeti.journal.reader import InstanceFold
from upeti.journal.recovery import recover
from upeti.journal.verify import verify

TESTS = Path(__file__).parents[1]

# Opens three attempts and settles two in each round, and rotates now and then. The pause keeps the journal small.
WRITER = """
import sys, time
from pathlib import Path
from support.journal_files import JournalFiles, opened, settled
files = JournalFiles(Path(sys.argv[1]))
call = 0
while True:
    files.append(opened(call), opened(call + 1), opened(call + 2))
    files.append(settled(call, cost_pico=call), settled(call + 2, cost_pico=1))
    call += 3
    time.sleep(0.0005)
    if call % 600 == 0:
        for left in sorted(files.open):
            files.append(settled(*left, cost_pico=2))
        files.rotate()
"""


def test_a_journal_is_read_while_it_is_written_and_after_its_writer_was_killed(tmp_path: Path) -> None:
    directory = tmp_path / "journal" / "w0-0001"
    fold = InstanceFold(directory)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], cwd=TESTS) as writer:
        try:
            deadline = time.monotonic() + 20
            seen = [0]
            while len(seen) < 15 and time.monotonic() < deadline:
                result = verify(tmp_path)
                assert result.sound, result.findings
                fold.advance()
                project_closed_segments(tmp_path)
                with connect(tmp_path) as connection:
                    ((count, distinct),) = connection.execute(
                        "SELECT count(*), count(DISTINCT call) FROM events"
                    ).fetchall()
                assert count == distinct >= seen[-1]
                if count > seen[-1]:
                    seen.append(count)
        finally:
            writer.kill()
    assert len(seen) == 15
    fold.advance()
    result = verify(tmp_path)
    assert result.sound, result.findings
    assert result.instances[0].open == len(fold.open)
    recovered = recover(directory, START_NS)
    assert {(one.opened.call, one.opened.attempt) for one in recovered} == set(fold.open)
    JournalFiles(tmp_path, "keeper-0001").append(*recovered)
    project_closed_segments(tmp_path)
    with connect(tmp_path) as connection:
        ((total, count, calls, last),) = connection.execute(
            "SELECT sum(cost), count(*), count(DISTINCT call), max(call) FROM events"
        ).fetchall()
    posted = fold.posted_pico["key:k1"] + sum(one.cost_pico for one in recovered)
    assert total == to_decimal(posted)
    assert count == calls == last + 1
    assert verify(tmp_path).instances[1].open == 0
