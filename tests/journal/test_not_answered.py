"""What was paid for attempts that answered nobody."""

from __future__ import annotations

import datetime
from pathlib import Path

from support.journal_files import DAY_NS, START_NS, JournalFiles, opened, settled
from upeti.core.events import CostCorrected, Outcome
from upeti.journal.events_store import connect
from upeti.journal.not_answered import NotAnswered, not_answered


def write(folder: Path) -> None:
    files = JournalFiles(folder)
    files.append(opened(1), settled(1, cost_pico=50))  # answered at once: nothing was lost
    files.append(opened(2), settled(2, ended="timed_out", outcome=Outcome.ESTIMATED, meters=None, cost_pico=900))
    files.append(opened(2, 1), settled(2, 1, cost_pico=60))
    files.append(opened(3), settled(3, ended="not_sent", outcome=Outcome.VOIDED, meters=None, cost_pico=0, status=0))
    files.append(opened(3, 1), settled(3, 1, ended="cut", cost_pico=7))
    files.append(opened(4), settled(4, ended="timed_out", outcome=Outcome.UNPRICED, meters=None, cost_pico=0))
    files.append(opened(5), settled(5, ended="answered", status=500, cost_pico=3), opened(5, 1), settled(5, 1))


def sums(folder: Path, *days: datetime.date) -> list[NotAnswered]:
    with connect(folder) as connection:
        return not_answered(connection, *(days or (None, None)))


def test_by_how_they_ended(tmp_path: Path) -> None:
    write(tmp_path)
    assert sums(tmp_path) == [
        NotAnswered("timed_out", "USD", 2, 1, 900, 900, 1),
        NotAnswered("cut", "USD", 1, 0, 7, 0, 0),
        NotAnswered("answered", "USD", 1, 1, 3, 0, 0),
    ]
    assert sums(tmp_path, datetime.date(2026, 11, 2), datetime.date(2026, 11, 3)) == []
    assert len(sums(tmp_path, datetime.date(2026, 11, 1), datetime.date(2026, 11, 1))) == 3


def test_a_correction_counts(tmp_path: Path) -> None:
    write(tmp_path)
    with connect(tmp_path) as connection:
        ((attempt_id,),) = connection.execute(
            "SELECT attempt_id FROM events WHERE call_id = 'call-0002' AND attempt = 0"
        ).fetchall()
    files = JournalFiles(tmp_path, "w1-corrections")
    first = opened(2)
    files.append(
        CostCorrected(
            correction_id="c1",
            at_ns=START_NS + DAY_NS,
            reason="reconciled",
            reference="r",
            attempt_id=attempt_id,
            settled_ns=START_NS,
            tenant=first.tenant,
            project=first.project,
            key=first.key,
            feature=first.feature,
            task=first.task,
            route=first.route,
            channel=first.channel,
            model=first.model,
            wire=first.wire,
            outcome=Outcome.ESTIMATED,
            currency="USD",
            was="0.0000000009",
            now="0.0000000002",
            meters=None,
        )
    )
    assert NotAnswered("timed_out", "USD", 2, 1, 200, 0, 1) in sums(tmp_path)
