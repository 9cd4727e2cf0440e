from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from support.journal_files import DAY_NS, START_NS, JournalFiles, corrected, opened, settled
from upeti.control import tables
from upeti.control.books import Books
from upeti.control.closing import ClosingError, PeriodRow, close_period, periods
from upeti.control.posting import Poster
from upeti.control.store import Store
from upeti.journal.events_store import project_closed_segments
from upeti.money.ledger import BatchKind

DECEMBER_NS = START_NS + 30 * DAY_NS
LATER_NS = DECEMBER_NS + DAY_NS


@pytest.fixture
def store(tmp_path: Path, state_url: str) -> Iterator[Store]:
    made = Store(tmp_path, url=state_url)
    yield made
    made.close()


def close(store: Store, period: str = "2026-11", now_ns: int = LATER_NS) -> None:
    close_period(store, "here", period, lambda: now_ns)


def post(store: Store) -> None:
    project_closed_segments(store.data_dir, sink=Poster(store, "here", lambda: LATER_NS))


def test_a_month_is_closed_once_and_in_order(store: Store) -> None:
    close(store, "2026-10")
    close(store)
    assert Books(store).closed_periods() == ["2026-10", "2026-11"]
    assert [batch.kind for batch in Books(store).batches()] == [BatchKind.CLOSE] * 2
    for period in ("2026-10", "2026-11"):
        with pytest.raises(ClosingError, match="closed already"):
            close(store, period)


@pytest.mark.parametrize("period", ["2026-13", "november", "2026-1", ""])
def test_what_is_no_month_is_refused(store: Store, period: str) -> None:
    with pytest.raises(ClosingError, match="write a month, such as 2026-10"):
        close(store, period)


def test_a_month_that_is_not_over_stays_open(store: Store) -> None:
    with pytest.raises(ClosingError, match="can be closed from 2026-12-01 00:00:00 UTC on"):
        close(store, now_ns=DECEMBER_NS - 1)
    close(store, now_ns=DECEMBER_NS)


def test_it_waits_for_what_is_not_posted(tmp_path: Path, store: Store) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    with pytest.raises(ClosingError, match=r"not posted yet: w0-0001/00000000\.upj\. .*`upeti ledger post`"):
        close(store)
    files.rotate()
    with pytest.raises(ClosingError, match="not posted yet"):
        close(store)
    post(store)
    files.append(opened(2, at_ns=LATER_NS), settled(2, at_ns=LATER_NS))  # of December
    close(store)


def test_it_waits_for_attempts_that_are_open(tmp_path: Path, store: Store) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1))
    files.rotate()
    post(store)
    with pytest.raises(ClosingError, match="1 attempts are open, the oldest since 2026-11-01 00:00:01 UTC"):
        close(store)
    files.append(settled(1, at_ns=LATER_NS))
    close(store)


def test_a_damaged_journal_keeps_it_open(tmp_path: Path, store: Store) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    files.append(opened(2), settled(2))
    data = bytearray(files.path.read_bytes())
    data[60] ^= 1
    files.path.write_bytes(data)
    with pytest.raises(ClosingError, match="restore this file"):
        close(store)


def test_it_waits_for_other_nodes(store: Store) -> None:
    row = {"node": "there", "token": "t", "seen_ns": 0, "address": "", "posted_ns": 0}
    with store.writing() as connection:
        connection.execute(insert(tables.nodes), [row | {"node": "here"}, row])
    with pytest.raises(ClosingError, match="node `there` has posted nothing"):
        close(store)
    with store.writing() as connection:
        connection.execute(update(tables.nodes).where(tables.nodes.c.node == "there").values(posted_ns=DECEMBER_NS - 1))
    with pytest.raises(ClosingError, match="only up to 2026-11-30 23:59:59 UTC"):
        close(store)
    with store.writing() as connection:
        connection.execute(update(tables.nodes).where(tables.nodes.c.node == "there").values(posted_ns=DECEMBER_NS))
    close(store)


def test_what_comes_late_is_posted_in_the_next_open_month(tmp_path: Path, store: Store) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    files.close()
    post(store)
    close(store)
    keeper = JournalFiles(tmp_path, "keeper-corrections-1")
    keeper.append(corrected(1))
    keeper.close()
    post(store)
    *_, batch = Books(store).batches()
    assert batch.period == "2026-12"
    assert {f"{posting.day:%Y-%m}" for posting in batch.postings} == {"2026-11"}
    assert periods(store) == [PeriodRow("2026-11", 2, LATER_NS), PeriodRow("2026-12", 1, 0)]
