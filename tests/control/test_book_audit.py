"""A change of anything between a call's record and the invoice is found and named."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.journal_files import DAY_NS, START_NS, JournalFiles, corrected, opened, settled
from upeti.control import book_audit
from upeti.control.book_audit import BookAudit, audit_books
from upeti.control.books import Books
from upeti.control.closing import close_period
from upeti.control.places import STATE_FILE
from upeti.control.posting import Poster
from upeti.control.store import Store
from upeti.core.events import Outcome
from upeti.journal.events_store import events_path, project_closed_segments
from upeti.money.ledger import Account, Batch, BatchKind, Posting

DOCUMENT = '{"number":"UPT-1"}'


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books of two segments, a correction, a closed month and an invoice."""
    data_dir = tmp_path_factory.mktemp("sound")
    files = JournalFiles(data_dir)
    files.append(opened(1), settled(1, cost_pico=10))
    files.append(opened(2, tenant="globex"), settled(2, cost_pico=5, outcome=Outcome.ESTIMATED, meters=None))
    files.rotate()
    files.append(opened(3), settled(3, cost_pico=7))
    files.close()
    keeper = JournalFiles(data_dir, "keeper-corrections-1")
    was = {"tenant": "globex", "outcome": Outcome.ESTIMATED, "was": "0.000000000005"}
    keeper.append(corrected(2, **was, now="0.000000000004"))
    keeper.close()
    store = Store(data_dir)
    project_closed_segments(data_dir, sink=Poster(store, "here"))
    close_period(store, "here", "2026-11", lambda: START_NS + 30 * DAY_NS)
    sha256 = hashlib.sha256(DOCUMENT.encode()).hexdigest()
    day = Books(store).usage()[0].day
    postings = tuple(
        Posting(account=account, amount_pico=pico, currency="USD", day=day, tenant="acme")
        for account, pico in ((Account.RECEIVABLE, 20), (Account.REVENUE, -20))
    )
    kind = BatchKind.INVOICE
    batch = Batch(
        number=0, kind=kind, at_ns=1, period="2026-12", reference="UPT-1", document_sha256=sha256, postings=postings
    )
    made = Books(store).append(batch)
    assert made is not None
    store.close()
    with sqlite3.connect(data_dir / STATE_FILE) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(invoices)")]
        known = {"number": "UPT-1", "kind": "invoice", "tenant": "acme", "period": "2026-11", "issued_ns": 1}
        known |= {"document": DOCUMENT, "sha256": sha256, "batch": made.number}
        values = [known.get(column, "") for column in columns]
        connection.execute(f"INSERT INTO invoices VALUES ({', '.join('?' * len(values))})", values)
    return data_dir


def audit(data_dir: Path, node: str = "here") -> BookAudit:
    store = Store(data_dir)
    try:
        return audit_books(store, node)
    finally:
        store.close()


def test_sound_books_are_sound(sound: Path) -> None:
    result = audit(sound)
    assert result.findings == []
    assert (result.batches, result.segments, result.invoices, result.unchecked) == (5, 3, 1, {})


def test_segments_of_other_nodes_are_said_to_be_unchecked(sound: Path) -> None:
    result = audit(sound, "there")
    assert result.findings == []
    assert (result.segments, result.unchecked) == (0, {"here": 3})


def sql(statement: str) -> Callable[[Path], None]:
    def change(data_dir: Path) -> None:
        with sqlite3.connect(data_dir / STATE_FILE) as connection:
            assert connection.execute(statement).rowcount, statement

    return change


def flip(data_dir: Path) -> None:
    path = data_dir / "journal" / "w0-0001" / "00000000.upj"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rewrite(data_dir: Path) -> None:
    """A journal that is sound in itself, with another cost."""
    shutil.rmtree(data_dir / "journal" / "w0-0001")
    files = JournalFiles(data_dir)
    files.append(opened(1), settled(1, cost_pico=9))
    files.append(opened(2, tenant="globex"), settled(2, cost_pico=5, outcome=Outcome.ESTIMATED, meters=None))
    files.rotate()
    files.append(opened(3), settled(3, cost_pico=7))
    files.close()


def cheaper_events(data_dir: Path) -> None:
    path = events_path(data_dir, "w0-0001", 0)
    events = pq.read_table(path)
    place = events.schema.get_field_index("cost")
    none = pa.array([0] * events.num_rows, pa.decimal128(38, 12))
    pq.write_table(events.set_column(place, "cost", none), path)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("changed batch", sql("UPDATE postings SET amount_pico = '11' WHERE amount_pico = '10'")),
        ("unbalanced batch", sql("UPDATE postings SET amount_pico = '11' WHERE amount_pico = '10'")),
        ("trial balance", sql("UPDATE postings SET amount_pico = '11' WHERE amount_pico = '10'")),
        ("changed batch", sql("UPDATE postings SET tenant = 'globex' WHERE batch = 2")),
        ("changed batch", sql("DELETE FROM postings WHERE batch = 2 AND line = 0")),
        ("changed batch", sql("UPDATE batches SET segment_digest = 'ff' WHERE number = 2")),
        ("changed batch", sql("UPDATE batches SET at_ns = 7 WHERE number = 5")),
        ("broken chain", sql("UPDATE batches SET hash = 'ff' WHERE number = 1")),
        ("missing batch", sql("DELETE FROM batches WHERE number = 2")),
        ("stray postings", sql("DELETE FROM batches WHERE number = 5")),
        ("usage differs", sql("UPDATE usage_days SET calls = calls + 1 WHERE id = 1")),
        ("usage differs", sql("UPDATE usage_days SET meters = '{\"input\":1}' WHERE id = 1")),
        ("usage differs", sql("UPDATE usage_days SET tenant = 'globex' WHERE tenant = 'acme'")),
        ("usage is not posted", sql("UPDATE usage_days SET cost_pico = '0' WHERE cost_pico = '17'")),
        ("usage is not posted", sql("DELETE FROM usage_days WHERE tenant = 'globex'")),
        ("damaged segment", flip),
        ("damaged segment", lambda data_dir: shutil.rmtree(data_dir / "journal" / "w0-0001")),
        ("other digest", rewrite),
        ("postings differ", rewrite),
        ("events differ", cheaper_events),
        ("damaged events", lambda data_dir: events_path(data_dir, "w0-0001", 0).write_bytes(b"PAR1")),
        ("changed invoice", sql("UPDATE invoices SET document = '{}'")),
        ("invoice is not posted", sql("UPDATE invoices SET batch = 1")),
        ("missing invoice", sql("DELETE FROM invoices")),
        ("period", sql("DELETE FROM periods")),
    ],
)
def test_a_change_is_found(sound: Path, tmp_path: Path, kind: str, change: Callable[[Path], None]) -> None:
    data_dir = tmp_path / "changed"
    shutil.copytree(sound, data_dir)
    change(data_dir)
    result = audit(data_dir)
    assert not result.sound
    found = [finding for finding in result.findings if finding.kind == kind]
    assert found, result.findings
    assert any(cure in found[0].message for cure in ("restore", "delete it", "is made again")), found[0]


def test_a_parquet_file_that_is_gone_is_no_damage(sound: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "changed"
    shutil.copytree(sound, data_dir)
    shutil.rmtree(data_dir / "events")
    assert audit(data_dir).sound


def test_what_is_posted_while_the_books_are_checked_is_no_damage(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "changed"
    shutil.copytree(sound, data_dir)
    store = Store(data_dir)
    posted: list[int] = []

    class KeeperPosts(book_audit.SegmentRows):
        """A segment that is read while the keeper posts another one."""

        def __init__(self, path: Path, previous_digest: bytes) -> None:
            super().__init__(path, previous_digest)
            if not posted:
                files = JournalFiles(data_dir, "w1-0001")
                files.append(opened(1), settled(1, cost_pico=11))
                files.close()
                posted.append(project_closed_segments(data_dir, sink=Poster(store, "here")))

    monkeypatch.setattr(book_audit, "SegmentRows", KeeperPosts)
    result = audit_books(store, "here")
    assert (result.findings, result.batches, posted) == ([], 5, [1])
    assert audit_books(store, "here").batches == 6
    store.close()
