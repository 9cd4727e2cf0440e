from __future__ import annotations

import datetime
import shutil
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.journal_files import DAY_NS, START_NS, JournalFiles, corrected, opened, settled
from upeti.control.books import Books
from upeti.control.places import STATE_FILE
from upeti.control.posting import Poster, note_posted, posted_segments, waiting
from upeti.control.store import Store
from upeti.core.amount import decimal_text, to_decimal
from upeti.core.events import AttemptRecovered, Outcome
from upeti.journal.events_store import connect, project_closed_segments
from upeti.money.ledger import Account, balances, totals
from upeti.money.price import Cliff, Price, cost_of
from upeti.money.usage import meter_costs

STEEP = Price("steep", "USD", 0, {"input": 3, "output": 5}, (Cliff(150, {"input": 7, "output": 11}),), per_call_pico=2)


@pytest.fixture
def store(tmp_path: Path, state_url: str) -> Iterator[Store]:
    made = Store(tmp_path, url=state_url)
    yield made
    made.close()


@pytest.fixture(scope="module")
def empty_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a state, because making one takes longer than an example."""
    directory = tmp_path_factory.mktemp("state")
    Store(directory).close()
    return directory / STATE_FILE


def post(store: Store, **options: Any) -> int:
    return project_closed_segments(store.data_dir, sink=Poster(store, "here"), **options)


def lines(store: Store) -> list[tuple[str, str, str]]:
    return [
        (posting.account, decimal_text(posting.amount_pico), posting.tenant)
        for batch in Books(store).batches()
        for posting in batch.postings
    ]


def test_a_segment_is_a_batch_that_names_it(tmp_path: Path, store: Store) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1, cost_pico=10))
    files.append(opened(2, tenant="globex"), settled(2, cost_pico=5, outcome=Outcome.ESTIMATED, meters=None))
    files.append(opened(3), settled(3, outcome=Outcome.UNPRICED, cost_pico=0))
    files.close()
    assert post(store) == 1
    (batch,) = Books(store).batches()
    assert (batch.instance, batch.segment, batch.node, batch.period) == ("w0-0001", 0, "here", "2026-11")
    assert (batch.segment_bytes, batch.segment_digest) == (files.path.stat().st_size, files.digest.hex())
    assert lines(store) == [
        (Account.MODEL_COST, "0.00000000001", "acme"),
        (Account.PROVIDER_PAYABLE, "-0.00000000001", "acme"),
        (Account.MODEL_COST, "0.000000000005", "globex"),
        (Account.PROVIDER_ESTIMATED, "-0.000000000005", "globex"),
    ]
    assert {(row.outcome, row.attempts, row.unmetered, row.cost_pico) for row in Books(store).usage()} == {
        ("posted", 1, 0, 10),
        ("estimated", 1, 1, 5),
        ("unpriced", 1, 0, 0),
    }


def test_what_is_posted_is_posted_once(tmp_path: Path, store: Store, state_url: str) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    files.rotate()
    files.append(opened(2), settled(2))
    files.close()
    posters = [threading.Thread(target=post, args=(Store(tmp_path, url=state_url),)) for _ in range(2)]
    first, second = Poster(store, "here"), Poster(store, "here")  # neither knows of the other
    project_closed_segments(tmp_path, sink=first)
    project_closed_segments(tmp_path, sink=second)
    assert (first.batches, second.batches) == (2, 0)
    for thread in posters:
        thread.start()
    for thread in posters:
        thread.join()
    assert [batch.number for batch in Books(store).batches()] == [1, 2]
    shutil.rmtree(tmp_path / "events")
    assert post(store) == 2  # files again, batches not
    assert len(Books(store).batches()) == 2


def test_a_segment_that_has_its_file_is_still_posted(tmp_path: Path, store: Store) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1))
    files.close()
    project_closed_segments(tmp_path)  # and killed before the batch
    assert post(store) == 1
    assert posted_segments(store) == {("w0-0001", 0)}


def test_the_correction_of_an_estimate_takes_it_back(tmp_path: Path, store: Store) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1, cost_pico=100, outcome=Outcome.ESTIMATED, meters=None))
    files.append(opened(2), settled(2, cost_pico=50))
    files.close()
    keeper = JournalFiles(tmp_path, "keeper-corrections-1")
    keeper.append(corrected(1, outcome=Outcome.ESTIMATED, was=decimal_text(100), now=decimal_text(70)))
    keeper.append(corrected(2, was=decimal_text(50), now=decimal_text(55), meters={"output": 1}))
    keeper.append(corrected(3, outcome=Outcome.UNPRICED, was="0", now=decimal_text(9)))
    keeper.close()
    assert post(store) == 2
    postings = [posting for batch in Books(store).batches() for posting in batch.postings]
    assert balances(postings) == {
        (Account.MODEL_COST, "USD"): 134,
        (Account.PROVIDER_ESTIMATED, "USD"): 0,
        (Account.PROVIDER_PAYABLE, "USD"): -134,
    }
    usage = Books(store).usage()
    assert sum(row.cost_pico for row in usage if row.outcome == "estimated") == 0
    assert sum(row.cost_pico for row in usage) == 134
    assert sum(row.attempts for row in usage) == 2


def test_usage_splits_by_meter_to_the_last_pico_over_a_cliff(tmp_path: Path, store: Store) -> None:
    Books(store).keep_prices([STEEP], START_NS)
    files = JournalFiles(tmp_path)
    for call, tokens in enumerate((100, 150, 151, 400)):
        meters = {"input": tokens, "output": 3}
        cost = cost_of(STEEP, meters)
        assert cost is not None
        files.append(opened(call), settled(call, meters=meters, cost_pico=cost, price_id="steep"))
    files.close()
    post(store)
    rows = Books(store).usage()
    assert [(row.cliff, row.attempts, row.meters["input"]) for row in rows] == [(0, 2, 250), (1, 2, 551)]
    for row in rows:
        parts = meter_costs(row, STEEP)
        assert "unmetered" not in {part.meter for part in parts}
        assert sum(part.cost_pico for part in parts) == row.cost_pico


def test_what_waits_is_named(tmp_path: Path, store: Store) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1), opened(2))
    found = waiting(store, tmp_path)
    assert (found.segments, found.open) == (["w0-0001/00000000.upj"], 1)
    assert (found.settled_ns, found.opened_ns) == (settled(1).at_ns, opened(2).at_ns)
    files.append(settled(2))
    files.rotate()
    post(store)
    found = waiting(store, tmp_path)
    assert (found.segments, found.settled_ns, found.open, found.damaged) == ([], None, 0, [])


def test_other_nodes_learn_up_to_when_all_is_posted(tmp_path: Path, store: Store) -> None:
    from sqlalchemy import insert, select

    from upeti.control import tables

    row = {"node": "here", "token": "t", "seen_ns": 0, "address": "", "posted_ns": 0}
    with store.writing() as connection:
        connection.execute(insert(tables.nodes).values(row))

    def told() -> int:
        note_posted(store, tmp_path, "here", lambda: START_NS + DAY_NS)
        with store.engine.connect() as connection:
            return int(connection.execute(select(tables.nodes.c.posted_ns)).scalar_one())

    files = JournalFiles(tmp_path)
    assert told() == START_NS + DAY_NS
    files.append(opened(1), settled(1), opened(2))
    assert told() == START_NS
    files.rotate()
    post(store)
    assert told() == opened(2).at_ns
    files.append(settled(2))
    files.rotate()
    post(store)
    assert told() == START_NS + DAY_NS


CALL = st.tuples(
    st.integers(0, 2**62),
    st.sampled_from([*Outcome, None]),
    st.sampled_from(["acme", "globex"]),
    st.sampled_from(["openai", "azure"]),
    st.sampled_from(["USD", "IDR"]),
    st.integers(0, 3),
    st.one_of(st.none(), st.dictionaries(st.sampled_from(["input", "output", "pages"]), st.integers(0, 300))),
)
STEP = st.one_of(CALL, st.sampled_from(["rotate", "post", "project"]), st.integers(0, 2**70))  # a number: a correction


@given(st.lists(STEP, max_size=30), st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_sum_of_events_is_the_sum_of_postings_and_of_usage(
    tmp_path_factory: pytest.TempPathFactory, empty_state: Path, steps: list[Any], dies: bool
) -> None:
    data_dir = tmp_path_factory.mktemp("books")
    shutil.copy(empty_state, data_dir)
    store = Store(data_dir)
    Books(store).keep_prices([STEEP], START_NS)
    files, keeper = JournalFiles(data_dir), JournalFiles(data_dir, "keeper-0001")
    owed: dict[int, tuple[Outcome, int]] = {}
    for call, step in enumerate(steps):
        if isinstance(step, tuple):
            cost, outcome, tenant, channel, currency, day, meters = step
            at_ns = START_NS + day * DAY_NS
            made = opened(call, bound_pico=cost, tenant=tenant, channel=channel, currency=currency, at_ns=at_ns)
            files.append(made)
            if outcome is not None:
                cost = 0 if outcome in (Outcome.VOIDED, Outcome.UNPRICED) else cost
                one = settled(call, outcome=outcome, cost_pico=cost, meters=meters, price_id="steep", at_ns=at_ns)
                files.append(one)
                owed[call] = (outcome, cost)
        elif step == "rotate":
            files.rotate()
            keeper.rotate()
        elif isinstance(step, int):
            if not owed:
                continue
            number = list(owed)[step % len(owed)]
            outcome, was = owed[number]
            now = step
            keeper.append(
                corrected(
                    number,
                    correction_id=str(call),
                    outcome=outcome,
                    was=decimal_text(was),
                    now=decimal_text(now),
                    meters={"output": -1},
                )
            )
            owed[number] = (Outcome.POSTED, now)
        elif step == "post":
            post(store)
        elif step == "project":
            project_closed_segments(data_dir)
    if dies:
        left = [AttemptRecovered("w0-0001", one, START_NS, one.bound_pico) for one in files.open.values()]
        keeper.append(*left)
        project_closed_segments(data_dir, dead=["w0-0001", "keeper-0001"], sink=Poster(store, "here"))
    else:
        files.rotate()
        keeper.rotate()
        post(store)
    query = """SELECT tenant, channel, currency, strftime(settled_at, '%Y-%m-%d'), sum(coalesce(cost, 0)),
                      sum(CASE WHEN outcome = 'estimated' THEN cost WHEN corrects = 'estimated' THEN -was ELSE 0 END),
                      count(*) FILTER (outcome <> 'corrected')
               FROM events GROUP BY ALL"""
    with connect(data_dir) as connection:
        events = {row[:4]: (Decimal(row[4]), Decimal(row[5]), row[6]) for row in connection.execute(query).fetchall()}
    books = Books(store)
    postings = [posting for batch in books.batches() for posting in batch.postings]
    assert set(totals(postings).values()) <= {0}
    cost, estimated = dict.fromkeys(events, 0), dict.fromkeys(events, 0)
    for posting in postings:
        key = (posting.tenant, posting.channel, posting.currency, posting.day.isoformat())
        cost[key] += posting.amount_pico if posting.account is Account.MODEL_COST else 0
        estimated[key] -= posting.amount_pico if posting.account is Account.PROVIDER_ESTIMATED else 0
    usage = {key: [0, 0, 0] for key in events}
    for row in books.usage():
        sums = usage[row.tenant, row.channel, row.currency, row.day.isoformat()]
        sums[0] += row.cost_pico
        sums[1] += row.cost_pico if row.outcome == "estimated" else 0
        sums[2] += row.attempts
        assert row.node == "here"
    for key, (event_cost, event_estimated, attempts) in events.items():
        assert to_decimal(cost[key]) == event_cost
        assert to_decimal(estimated[key]) == event_estimated
        assert usage[key] == [cost[key], estimated[key], attempts]
    store.close()


def test_days_are_those_of_the_settlement(tmp_path: Path, store: Store) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1, at_ns=START_NS + DAY_NS - 1), opened(2), settled(2, at_ns=START_NS + DAY_NS))
    files.close()
    post(store)
    assert [row.day for row in Books(store).usage()] == [datetime.date(2026, 11, 1), datetime.date(2026, 11, 2)]
