from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.journal_files import START_NS, JournalFiles, corrected, opened, refused, settled
from upeti.core.amount import PICO_PER_UNIT, to_decimal
from upeti.core.errors import JournalError
from upeti.core.events import AttemptRecovered, Outcome
from upeti.core.meters import ALL_METERS
from upeti.journal.events_store import connect, events_path, project_closed_segments, refusals_path
from upeti.journal.reader import posted_by_budget
from upeti.journal.recovery import recover


def rows(data_dir: Path, query: str, **options: bool) -> list[tuple[Any, ...]]:
    with connect(data_dir, **options) as connection:
        return connection.execute(query).fetchall()


CALLS = "SELECT instance, call, attempt, cost FROM events ORDER BY ALL"


def test_no_journal_gives_empty_views(tmp_path: Path) -> None:
    assert project_closed_segments(tmp_path) == 0
    for view in ("events", "refusals", "pending", "damage"):
        assert rows(tmp_path, f"SELECT * FROM {view}") == []


def test_an_event_says_all_that_is_known(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    meters = {"input": 100, "output": 0, "pages": 3, "searches": 2}
    files.append(opened(7, 1, task="topic", stream=True), settled(7, 1, meters=meters, tier="flex"))
    for projected in (False, True):
        with connect(tmp_path) as connection:
            event = connection.sql("SELECT * FROM events").to_arrow_table().to_pylist()
        assert event == [
            {
                "instance": "w0-0001",
                "call": 7,
                "attempt": 1,
                "call_id": "call-0007",
                "attempt_id": "call-0007-1",
                "opened_at": datetime.datetime(2026, 11, 1, 0, 0, 7),
                "settled_at": datetime.datetime(2026, 11, 1, 0, 0, 7, 100_000),
                "tenant": "acme",
                "project": "shop",
                "key": "k1",
                "feature": "search",
                "task": "topic",
                "route": "fast",
                "channel": "openai",
                "model": "gpt-4.1-mini",
                "wire": "chat_completions",
                "stream": True,
                "outcome": "posted",
                "ended": "answered",
                "status": 200,
                **dict.fromkeys(ALL_METERS),
                "input": 100,
                "output": 0,
                "meters_other": json.dumps({"pages": 3, "searches": 2}),
                "cost": Decimal("0.000001234567"),
                "bound": Decimal("0.000005000000"),
                "currency": "USD",
                "price_id": "0123456789abcdef",
                "first_byte_us": 40_000,
                "total_us": 90_000,
                "provider_request_id": "chatcmpl-7",
                "tier": "flex",
                "correction_id": None,
                "corrects": None,
                "was": None,
            }
        ]
        if not projected:
            files.close()
            assert project_closed_segments(tmp_path) == 1


def test_what_is_not_known_is_not_zero(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1, priced=False, bound_pico=0))
    files.append(settled(1, meters=None, outcome=Outcome.UNPRICED, cost_pico=0, first_byte_us=-1, total_us=-1))
    query = "SELECT cost, bound, input, meters_other, first_byte_us, total_us FROM events"
    assert rows(tmp_path, query) == [(None,) * 6]


def test_an_attempt_settled_in_a_later_segment_is_one_event(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1, feature="early"), opened(2))
    files.rotate()
    files.append(settled(2))
    files.rotate()
    files.append(settled(1))
    live = rows(tmp_path, "SELECT call, feature FROM events ORDER BY call")
    assert live == [(1, "early"), (2, "search")]
    assert project_closed_segments(tmp_path) == 2
    assert rows(tmp_path, "SELECT call, feature FROM events ORDER BY call") == live
    files.close()
    assert project_closed_segments(tmp_path) == 1
    assert rows(tmp_path, "SELECT call, feature FROM events ORDER BY call") == live


def test_projecting_again_does_nothing_and_a_deleted_file_comes_back(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    files.close()
    assert project_closed_segments(tmp_path) == 1
    target = events_path(tmp_path, "w0-0001", 0)
    before = target.stat().st_mtime_ns
    assert project_closed_segments(tmp_path) == 0
    assert target.stat().st_mtime_ns == before
    assert list(target.parent.iterdir()) == [target]
    target.unlink()
    assert project_closed_segments(tmp_path) == 1
    assert pq.read_table(target).num_rows == 1


def test_a_file_left_half_written_is_not_read(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    files.close()
    target = events_path(tmp_path, "w0-0001", 0)
    target.parent.mkdir()
    target.with_suffix(".partial").write_bytes(b"PAR1 half")
    assert len(rows(tmp_path, CALLS)) == 1
    assert project_closed_segments(tmp_path) == 1
    assert not target.with_suffix(".partial").exists()
    assert len(rows(tmp_path, CALLS)) == 1


def test_refusals_are_a_table_of_their_own(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(refused(1), opened(2), refused(3, code="route_forbidden"), settled(2))
    expected = [(1, "budget_exceeded"), (3, "route_forbidden")]
    assert rows(tmp_path, "SELECT call, code FROM refusals ORDER BY call") == expected
    files.rotate()
    files.append(refused(4))
    expected.append((4, "budget_exceeded"))
    assert project_closed_segments(tmp_path) == 1
    assert refusals_path(tmp_path, "w0-0001", 0).exists()
    assert rows(tmp_path, "SELECT call, code FROM refusals ORDER BY call") == expected
    assert len(rows(tmp_path, CALLS)) == 1


def test_a_recovered_attempt_is_an_event_of_the_worker_that_died(tmp_path: Path) -> None:
    dead = JournalFiles(tmp_path)
    dead.append(opened(1), opened(2, priced=False, bound_pico=0))
    assert rows(tmp_path, "SELECT call, bound FROM pending ORDER BY call") == [
        (1, Decimal("0.000005")),
        (2, None),
    ]
    keeper = JournalFiles(tmp_path, "keeper-0001")
    keeper.append(*recover(dead.directory, START_NS + 10**9))
    query = "SELECT instance, call, outcome, ended, cost, settled_at FROM events ORDER BY call"
    at = datetime.datetime(2026, 11, 1, 0, 0, 1)
    expected = [
        ("w0-0001", 1, "estimated", "worker_died", Decimal("0.000005"), at),
        ("w0-0001", 2, "unpriced", "worker_died", None, at),
    ]
    assert rows(tmp_path, query) == expected
    assert rows(tmp_path, "SELECT * FROM pending") == []
    keeper.close()
    assert project_closed_segments(tmp_path) == 2  # the keeper's, and the dead worker's
    assert events_path(tmp_path, "w0-0001", 0).exists()
    assert rows(tmp_path, query) == expected


def test_a_dead_instance_is_done_once_nothing_is_open(tmp_path: Path) -> None:
    dead = JournalFiles(tmp_path)
    dead.append(opened(1), settled(1), opened(2))
    assert project_closed_segments(tmp_path) == 0
    assert project_closed_segments(tmp_path, dead={"w0-0001"}) == 0
    dead.append(settled(2))
    assert project_closed_segments(tmp_path) == 0
    assert project_closed_segments(tmp_path, dead={"w0-0001"}) == 1


def test_an_instance_declared_dead_too_early_loses_nothing(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    assert project_closed_segments(tmp_path, dead={"w0-0001"}) == 1
    files.append(opened(2), settled(2))
    assert [row[1] for row in rows(tmp_path, CALLS)] == [1, 2]
    files.close()
    assert project_closed_segments(tmp_path) == 1
    assert [row[1] for row in rows(tmp_path, CALLS)] == [1, 2]


def test_a_torn_tail_is_left_out(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), opened(2))
    files.append(settled(1))
    files.append(settled(2))
    files.path.write_bytes(files.path.read_bytes()[:-1])
    assert [row[1] for row in rows(tmp_path, CALLS)] == [1]
    assert rows(tmp_path, "SELECT call FROM pending") == [(2,)]


def test_damage_stops_a_query_unless_it_is_skipped(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    files.append(opened(2), settled(2))
    files.append(opened(3), settled(3))
    files.rotate()
    files.append(opened(4), settled(4))
    JournalFiles(tmp_path, "w1-0001").append(opened(5), settled(5))
    path = files.directory / "00000000.upj"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match=r"w0-0001/00000000\.upj"):
        connect(tmp_path)
    calls = {row[1] for row in rows(tmp_path, CALLS, skip_damaged=True)}
    assert {4, 5} <= calls
    assert not {1, 2, 3} <= calls
    ((segment, error),) = rows(tmp_path, "SELECT * FROM damage", skip_damaged=True)
    assert segment == "w0-0001/00000000.upj"
    assert "byte" in error


def test_an_unreadable_last_block_is_left_out_and_named(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    files.append(opened(2), settled(2))
    data = bytearray(files.path.read_bytes())
    data[-1] ^= 1
    files.path.write_bytes(data)
    assert [row[1] for row in rows(tmp_path, CALLS)] == [1]
    ((segment, _),) = rows(tmp_path, "SELECT * FROM damage")
    assert segment == "w0-0001/00000000.upj"


def test_a_damaged_segment_does_not_keep_others_from_being_projected(tmp_path: Path) -> None:
    for instance in ("w0-0001", "w1-0001", "w2-0001"):
        files = JournalFiles(tmp_path, instance)
        files.append(opened(1), settled(1))
        files.close()
    path = tmp_path / "journal" / "w1-0001" / "00000000.upj"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match="w1-0001"):
        project_closed_segments(tmp_path)
    assert sorted(one.name[:7] for one in (tmp_path / "events").iterdir()) == ["w0-0001", "w2-0001"]


def test_a_file_with_fewer_columns_is_read_as_unknown(tmp_path: Path) -> None:
    # As written by a version that did not know the column yet.
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    files.rotate()
    files.append(opened(2), settled(2))
    project_closed_segments(tmp_path)
    target = events_path(tmp_path, "w0-0001", 0)
    pq.write_table(
        pq.read_table(target).drop_columns(["input", "bound", "tier", "correction_id", "corrects", "was"]), target
    )
    query = "SELECT call, input, bound, cost FROM events ORDER BY call"
    cost, bound = Decimal("0.000001234567"), Decimal("0.000005")
    assert rows(tmp_path, query) == [(1, None, None, cost), (2, 100, bound, cost)]


def test_a_correction_is_an_event_with_the_difference(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    keeper = JournalFiles(tmp_path, "keeper-corrections-1")
    huge = "99999999999999999999999999.000000000001"
    keeper.append(corrected(1, meters={"input": -7}, tier="batch"), corrected(2, was="0", now=huge, attempt_id=""))
    keeper.append(corrected(3, was=huge, now="0", attempt_id="", outcome=Outcome.ESTIMATED))
    query = """SELECT call_id, attempt_id, outcome, ended, input, cost, was, corrects, tier, correction_id, settled_at
               FROM events ORDER BY instance DESC, call"""
    at = [datetime.datetime(2026, 11, 1, 0, 0, second, 100_000) for second in (1, 1, 2, 3)]
    first, more = ("call-0001", "call-0001-0"), ("", "", "corrected", "reconciled", None)
    named = ("correction-1-0", at[1])
    expected = [
        (*first, "posted", "answered", 100, Decimal("0.000001234567"), None, None, "", None, at[0]),
        (*first, *more[2:4], -7, Decimal("-0.000000234567"), Decimal("0.000001234567"), "posted", "batch", *named),
        (*more, Decimal(huge), Decimal(0), "posted", "", "correction-2-0", at[2]),
        (*more, Decimal(f"-{huge}"), Decimal(huge), "estimated", "", "correction-3-0", at[3]),
    ]
    assert rows(tmp_path, query) == expected
    files.close()
    keeper.close()
    assert project_closed_segments(tmp_path) == 2
    assert rows(tmp_path, query) == expected


def test_a_path_with_quotes_is_only_a_path(tmp_path: Path) -> None:
    data_dir = tmp_path / "it's [a] *path?"
    files = JournalFiles(data_dir)
    files.append(opened(1), settled(1))
    files.close()
    assert project_closed_segments(data_dir) == 1
    assert len(rows(data_dir, CALLS)) == 1


def test_amounts_of_every_size_are_exact(tmp_path: Path) -> None:
    amounts = [0, 1, 999_999_999_999, PICO_PER_UNIT, 2**63 - 1, 2**63, 2**64 - 1]
    files = JournalFiles(tmp_path)
    for call, amount in enumerate(amounts):
        files.append(opened(call, bound_pico=amount), settled(call, cost_pico=amount))
    files.close()
    live = rows(tmp_path, "SELECT cost, bound FROM events ORDER BY call")
    assert live == [(to_decimal(amount), to_decimal(amount)) for amount in amounts]
    project_closed_segments(tmp_path)
    assert rows(tmp_path, "SELECT cost, bound FROM events ORDER BY call") == live


STEP = st.one_of(
    st.tuples(st.just("call"), st.integers(0, 2**62), st.sampled_from([*Outcome, None])),
    st.tuples(st.sampled_from(["rotate", "project", "settle"])),
)


@given(st.lists(STEP, max_size=25), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_journals_fold_equals_the_sum_in_the_store(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]], dies: bool
) -> None:
    data_dir = tmp_path_factory.mktemp("fold")
    files = JournalFiles(data_dir)
    keeper = JournalFiles(data_dir, "keeper-0001")
    for call, (step, *values) in enumerate(steps):
        if step == "call":
            cost, outcome = values
            files.append(opened(call, bound_pico=cost, budgets=("all",)))
            if outcome is not None:
                nothing = outcome in (Outcome.VOIDED, Outcome.UNPRICED)
                files.append(settled(call, outcome=outcome, cost_pico=0 if nothing else cost))
        elif step == "rotate":
            files.rotate()
        elif step == "project":
            project_closed_segments(data_dir)
        elif files.open:
            (late, _) = next(iter(files.open))
            files.append(settled(late, cost_pico=files.open[late, 0].bound_pico))
    expected = posted_by_budget(files.directory).get("all", 0)
    if dies:
        recovered: list[AttemptRecovered] = recover(files.directory, START_NS)
        keeper.append(*recovered)
        expected += sum(one.cost_pico for one in recovered)
        project_closed_segments(data_dir)
    with connect(data_dir) as connection:
        total, attempts = _sum(connection)
    assert total == to_decimal(expected)
    assert attempts == 0


def _sum(connection: duckdb.DuckDBPyConnection) -> tuple[Decimal, int]:
    """Return the sum of all costs, and how many events stand there more than once."""
    query = """
        SELECT coalesce(sum(cost), 0)::DECIMAL(38, 12), count(*) - count(DISTINCT (instance, call, attempt))
        FROM events
    """
    (row,) = connection.execute(query).fetchall()
    return row
