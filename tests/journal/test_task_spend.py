"""What tasks cost: exact sums over events, by tag and by known calls."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from support.journal_files import DAY_NS, START_NS, JournalFiles, corrected, opened, settled
from upeti.core.events import Outcome
from upeti.journal.events_store import connect
from upeti.journal.task_spend import TaskSpend, spend_of_tasks

FAST = {"route": "fast", "channel": "openai", "model": "gpt-4.1-mini", "currency": "USD"}


def spent(data_dir: Path, known: dict[str, str], *days: date) -> list[TaskSpend]:
    with connect(data_dir) as connection:
        return spend_of_tasks(connection, known, *days)


def test_calls_are_summed_by_tag_and_by_what_is_known(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1, task="topic"), settled(1, cost_pico=5))
    files.append(opened(2, task="topic"), settled(2, outcome=Outcome.UNPRICED, cost_pico=0))
    files.append(opened(2, 1, task="topic"), settled(2, 1, cost_pico=7))  # the same call, tried again
    files.append(opened(3), settled(3, cost_pico=11))
    files.append(opened(4), settled(4, cost_pico=13))  # of no task
    files.append(opened(5, task="other"), settled(5, at_ns=START_NS + 3 * DAY_NS, cost_pico=17))
    files.append(corrected(3, was="0.000000000011", now="0.00000000001"))
    known = {"call-0003": "found-1", "call-0005": "found-1"}  # a tag says more than a template
    assert spent(tmp_path, known) == [
        TaskSpend("other", "other", **FAST, calls=1, cost_pico=17, dearest_pico=17, unpriced=0),
        TaskSpend("topic", "topic", **FAST, calls=2, cost_pico=12, dearest_pico=7, unpriced=1),
        TaskSpend("found-1", "", **FAST, calls=1, cost_pico=10, dearest_pico=11, unpriced=0),
    ]
    assert [one.task for one in spent(tmp_path, known, date(2026, 11, 4))] == ["other"]
    assert [one.task for one in spent(tmp_path, {}, date(2026, 11, 1), date(2026, 11, 1))] == ["topic"]


def test_nothing_is_spent_where_nothing_was_asked(tmp_path: Path) -> None:
    JournalFiles(tmp_path)
    assert spent(tmp_path, {"call-0001": "x"}) == []
