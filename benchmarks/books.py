"""What the books carry: journal to events and postings on one core, and a month's chargeback from roll-ups.

    python -m benchmarks.books [--quick] [--events 100000000] [--attempts 1000000]

A journal is written as workers write it, then the keeper's own job reads it, on one core, with nothing left out:
checksums, chain, Parquet, usage, postings, state on the disk. Its peer is reading and checking the same journal with
nothing made of it. For the chargeback, events are generated straight into Parquet (through journals it would take half
an hour), the roll-ups are summed from them file by file and appended to the books; then the command's own code makes the
chargeback, and its peer is DuckDB's GROUP BY over all events. Both must be equal to the last pico.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from benchmarks import machine, report
from benchmarks.report import Figure, figure
from upeti.control.books import Books
from upeti.control.posting import Prices
from upeti.control.store import Store
from upeti.core.amount import parse_pico, to_decimal
from upeti.core.events import (
    JOURNAL_VERSION,
    AttemptOpened,
    AttemptSettled,
    Outcome,
    Record,
    SegmentClosed,
    SegmentOpened,
)
from upeti.journal.blocks import GENESIS, encode_block, instance_dir, segment_path
from upeti.journal.events_store import connect
from upeti.journal.reader import SegmentScan, instances, segments
from upeti.money.chargeback import make_chargeback
from upeti.money.ledger import Batch, BatchKind
from upeti.money.usage import UsageRow

RESULT: Final = machine.BUILD.parent / "bench-books.json"

_BEGIN: Final = datetime.datetime(2026, 10, 1, tzinfo=datetime.UTC)
_BEGIN_NS: Final = int(_BEGIN.timestamp()) * 10**9
_DAYS: Final = 30
_SEGMENT_BYTES: Final = 64 * 1024 * 1024
_RECORDS_IN_BLOCK: Final = 28  # as at 32 connections
_FILES: Final = 2 * _DAYS
_SPLITS: Final = (("tenant", "feature"), ("model", "day"))
_MEMORY_MB: Final = 500
_ROUNDS: Final = 5


@dataclass(frozen=True)
class Plan:
    attempts: int = 1_000_000
    events: int = 100_000_000


QUICK: Final = Plan(attempts=100_000, events=2_000_000)


# -- from the journal to the books


def write_journal(data_dir: Path, attempts: int) -> None:
    """Write one instance's journal, seeded: 20 tenants, 5 features, 4 models, five budgets a call."""
    chosen = random.Random(7)
    directory = instance_dir(data_dir, f"w0-{chosen.getrandbits(64):016x}")
    directory.mkdir(parents=True)
    number, digest, records = 0, GENESIS, list[Record]()
    file = segment_path(directory, number).open("wb")

    def write(made: list[Record]) -> None:
        nonlocal digest
        block, digest = encode_block(digest, made)
        file.write(block)

    write([SegmentOpened(JOURNAL_VERSION, directory.name, number, _BEGIN_NS)])
    for call in range(attempts):
        records += _attempt(call, chosen)
        if len(records) >= _RECORDS_IN_BLOCK:
            write(records)
            records = []
            if file.tell() >= _SEGMENT_BYTES:
                write([SegmentClosed(_BEGIN_NS, False)])
                file.close()
                number += 1
                file = segment_path(directory, number).open("wb")
                write([SegmentOpened(JOURNAL_VERSION, directory.name, number, _BEGIN_NS)])
    write(records)
    write([SegmentClosed(_BEGIN_NS, True)])
    file.close()


def _attempt(call: int, chosen: random.Random) -> tuple[AttemptOpened, AttemptSettled]:
    tenant, feature = f"tenant-{chosen.randrange(20)}", f"feature-{chosen.randrange(5)}"
    model, key = chosen.randrange(4), f"{tenant}-{chosen.randrange(3)}"
    opened = AttemptOpened(
        call=call,
        attempt=0,
        at_ns=_BEGIN_NS + call * 50_000,
        call_id=f"{chosen.getrandbits(128):032x}",
        tenant=tenant,
        project="app",
        key=key,
        feature=feature,
        task="",
        route="chat",
        channel="azure-east",
        model=f"model-{model}",
        wire="chat_completions",
        stream=bool(call % 2),
        budgets=("organisation", f"tenant:{tenant}", f"project:{tenant}/app", f"key:{key}", f"feature:{feature}"),
        bound_pico=5_000_000_000,
    )
    meters = {"input": 50 + chosen.randrange(4_000), "input_cached": chosen.randrange(2_000)}
    meters["output"] = 1 + chosen.randrange(800)
    settled = AttemptSettled(
        call=call,
        attempt=0,
        at_ns=opened.at_ns + 800_000_000,
        outcome=Outcome.POSTED,
        ended="answered",
        status=200,
        meters=meters,
        cost_pico=sum(meters.values()) * (model + 1) * 1_000,
        price_id=f"{model:016x}",
        first_byte_us=400_000,
        total_us=800_000,
        provider_request_id=f"chatcmpl-{chosen.getrandbits(96):024x}",
    )
    return opened, settled


def read_alone(data_dir: Path) -> float:
    """Read and check every journal; return the CPU time in seconds."""
    begin_s = time.process_time()
    for directory in instances(data_dir):
        digest = GENESIS
        for path in segments(directory):
            scan = SegmentScan(path, digest)
            for _ in scan:
                pass
            digest = scan.digest
    return time.process_time() - begin_s


def ingestion(plan: Plan) -> list[Figure]:
    with _directory() as data_dir:
        progress(f"writing a journal of {plan.attempts:,} attempts")
        write_journal(data_dir, plan.attempts)
        os.sched_setaffinity(0, {machine.MEASURED_CORE})
        reading_s = min(read_alone(data_dir) for _ in range(2))
        progress("the keeper's job")
        begin_s = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "upeti.control.jobs", "project", "--data-dir", str(data_dir)])
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - begin_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise machine.UnfitError("the projection failed")
        _check_sums(data_dir, plan.attempts)
        cpu_s = used.ru_utime + used.ru_stime
        return [
            figure(
                "journal to events and postings, one core (CPU time)",
                "attempts/s",
                plan.attempts / cpu_s,
                "reading alone",
                plan.attempts / reading_s,
                at_least=50_000,
            ),
            figure("the same by the clock", "attempts/s", plan.attempts / wall_s),
            figure("memory of the job while doing so", "MB", used.ru_maxrss / 1024, at_most=_MEMORY_MB),
        ]


def _check_sums(data_dir: Path, attempts: int) -> None:
    """Sum of events = sum of postings = sum of usage."""
    store = Store(data_dir)
    usage = Books(store).usage()
    posted = sum(
        posting.amount_pico
        for batch in Books(store).batches()
        for posting in batch.postings
        if posting.account == "model_cost"
    )
    store.close()
    with connect(data_dir) as connection:
        row = connection.execute("SELECT sum(cost), count(*) FROM events").fetchone()
    used = sum(each.cost_pico for each in usage)
    if row != (to_decimal(posted), attempts) or posted != used:
        raise AssertionError(f"events {row}, postings {posted}, usage {used}, attempts {attempts}")


# -- a month's chargeback

_EVENTS: Final = """
    SELECT 'w0' AS instance, i AS call, 0 AS attempt,
           TIMESTAMP '2026-10-01' + to_microseconds((i * {step_us})::BIGINT) AS settled_at,
           'tenant-' || (h % 20) AS tenant, 'app' AS project, 'tenant-' || (h % 20) || '-key' AS key,
           'feature-' || (h // 20 % 10) AS feature, '' AS task, 'chat' AS route, 'azure' AS channel,
           'model-' || (h // 200 % 4) AS model, 'chat_completions' AS wire, '' AS tier,
           CASE h // 800 % 500 WHEN 0 THEN 'unpriced' WHEN 1 THEN 'estimated' ELSE 'posted' END AS outcome,
           'USD' AS currency, 'price-' || (h // 200 % 4) AS price_id,
           CASE WHEN h // 800 % 500 <> 1 THEN 50 + h // 1000 % 4000 END AS input,
           CASE WHEN h // 800 % 500 <> 1 THEN 1 + h // 7777 % 800 END AS output,
           CASE WHEN h // 800 % 500 <> 0 THEN
               (50 + h // 1000 % 4000)::DECIMAL(18, 0) * 0.000000150000::DECIMAL(18, 12)
               + (1 + h // 7777 % 800)::DECIMAL(18, 0) * 0.000000600001::DECIMAL(18, 12)
           END::DECIMAL(38, 12) AS cost
    FROM (SELECT range AS i, (hash(range) >> 2)::BIGINT AS h FROM range({first}, {last}))
"""
_ROLL_UP: Final = """
    SELECT strftime(settled_at, '%Y-%m-%d'), tenant, project, key, feature, route, channel, model, wire, price_id, outcome,
           currency, count(*), count(*) FILTER (input IS NULL), sum(input), sum(output), coalesce(sum(cost), 0)
    FROM read_parquet(?) GROUP BY ALL
"""


def generate(directory: Path, events: int, store: Store) -> None:
    """Write a month of events, and append their roll-ups to the books, file by file."""
    books = Books(store)
    step_us = _DAYS * 86_400 * 10**6 // events
    with duckdb.connect(":memory:") as connection:
        for number in range(_FILES):
            first, last = events * number // _FILES, events * (number + 1) // _FILES
            path = directory / f"{number:03d}.parquet"
            made = _EVENTS.format(step_us=step_us, first=first, last=last)
            connection.execute(f"COPY ({made}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
            rows = [_usage(row) for row in connection.execute(_ROLL_UP, [str(path)]).fetchall()]
            books.append(
                Batch(number=0, kind=BatchKind.USAGE, at_ns=0, period="2026-10", instance="w0", segment=number), rows
            )


def _usage(row: tuple[Any, ...]) -> UsageRow:
    names = (
        "tenant",
        "project",
        "key",
        "feature",
        "route",
        "channel",
        "model",
        "wire",
        "price_id",
        "outcome",
        "currency",
    )
    day, *dimensions = row[:12]
    attempts, unmetered, input_tokens, output_tokens, cost = row[12:]
    meters = {"input": input_tokens, "output": output_tokens}
    return UsageRow(
        day=datetime.date.fromisoformat(day),
        **dict(zip(names, dimensions, strict=True)),
        node="here",
        calls=attempts,
        attempts=attempts,
        unmetered=unmetered,
        meters={name: int(count) for name, count in meters.items() if count is not None},
        cost_pico=parse_pico(cost),
    )


def month(plan: Plan) -> list[Figure]:
    with _directory() as directory:
        progress(f"generating {plan.events:,} events and their roll-ups")
        os.sched_setaffinity(0, {machine.MEASURED_CORE, machine.OTHER_CORE})
        store = Store(directory / "state")
        generate(directory, plan.events, store)
        size_mb = sum(path.stat().st_size for path in directory.glob("*.parquet")) / 10**6
        os.sched_setaffinity(0, {machine.MEASURED_CORE})
        begin_s, begin_cpu_s = time.monotonic(), time.process_time()
        scanned = {by: full_scan(directory, by) for by in _SPLITS}
        scan_s = (time.monotonic() - begin_s) / len(_SPLITS)
        scan_cpu_s = (time.process_time() - begin_cpu_s) / len(_SPLITS)
        taken_s, cpu_s = [], []
        for _ in range(_ROUNDS):
            for by, expected in scanned.items():
                begin_s, begin_cpu_s = time.monotonic(), time.process_time()
                found, rows = roll_up(store, by)
                taken_s.append(time.monotonic() - begin_s)
                cpu_s.append(time.process_time() - begin_cpu_s)
                if found != expected:
                    raise AssertionError(f"chargeback by {by} differs from the full scan")
        begin_s = time.monotonic()
        sql_rows = usage_by_sql(directory / "state")
        sql_s = time.monotonic() - begin_s
        store.close()
        return [
            figure(
                f"month's chargeback, {plan.events:,} events, {rows:,} roll-ups (CPU time)",
                "s",
                sorted(cpu_s)[len(cpu_s) // 2],
                f"full scan, {size_mb:,.0f} MB",
                scan_cpu_s,
                at_most=1,
            ),
            figure("the same by the clock", "s", sorted(taken_s)[len(taken_s) // 2], "full scan", scan_s),
            figure(f"the same by plain SQL, {sql_rows} rows, doubles: not exact", "s", sql_s),
        ]


def full_scan(directory: Path, by: tuple[str, ...]) -> dict[tuple[str, ...], tuple[Any, ...]]:
    columns = ", ".join("strftime(settled_at, '%Y-%m-%d')" if name == "day" else name for name in by)
    query = f"""
        SELECT {columns}, count(*), coalesce(sum(input), 0), coalesce(sum(output), 0), coalesce(sum(cost), 0),
               coalesce(sum(cost) FILTER (outcome = 'estimated'), 0), count(*) FILTER (outcome = 'unpriced')
        FROM read_parquet(?) GROUP BY ALL
    """
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        rows = connection.execute(query, [str(directory / "*.parquet")]).fetchall()
    return {
        row[: len(by)]: (*map(int, row[len(by) : len(by) + 3]), *map(parse_pico, row[-3:-1]), int(row[-1]))
        for row in rows
    }


def roll_up(store: Store, by: tuple[str, ...]) -> tuple[dict[tuple[str, ...], tuple[Any, ...]], int]:
    """Make the chargeback as the command does; return it in the form of ``full_scan``, and how many rows it read."""
    books = Books(store)
    rows = books.usage(_BEGIN.date(), _BEGIN.date() + datetime.timedelta(_DAYS))
    made = make_chargeback(rows, by, Prices(books))
    return {
        line.group: (
            line.attempts,
            line.input_tokens,
            line.output_tokens,
            line.cost_pico,
            line.estimated_pico,
            line.unpriced,
        )
        for line in made.lines
    }, len(rows)


def usage_by_sql(data_dir: Path) -> int:
    """What a plain GROUP BY over the roll-ups takes, in SQLite, whose sums of such amounts are doubles."""
    import sqlite3

    query = """
        SELECT tenant, dimensions ->> 'feature', sum(attempts), sum(meters ->> 'input'), sum(CAST(cost_pico AS REAL))
        FROM usage_days WHERE day BETWEEN '2026-10-01' AND '2026-10-31' GROUP BY 1, 2
    """
    with sqlite3.connect(data_dir / "state.sqlite3") as connection:
        return len(connection.execute(query).fetchall())


# -- both


@contextmanager
def _directory() -> Iterator[Path]:
    machine.BUILD.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="books-", dir=machine.BUILD))
    cores = os.sched_getaffinity(0)
    try:
        yield path
    finally:
        os.sched_setaffinity(0, cores)
        shutil.rmtree(path)


def progress(text: str) -> None:
    print(f"  {text} …", file=sys.stderr, flush=True)


def run(plan: Plan) -> list[Figure]:
    return [*ingestion(plan), *month(plan)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure ingestion and chargeback beside a full scan.")
    parser.add_argument("--quick", action="store_true", help="small: to see that it runs, not for figures")
    parser.add_argument("--events", type=int, help="events of the month (100,000,000)")
    parser.add_argument("--attempts", type=int, help="attempts in the journal (1,000,000)")
    found = parser.parse_args()
    plan = QUICK if found.quick else Plan()
    plan = Plan(found.attempts or plan.attempts, found.events or plan.events)
    description = machine.Description.of_this()
    figures = run(plan)
    print(report.table(figures, "Upeti"))
    report.write(RESULT, figures, description, {"attempts": plan.attempts, "events": plan.events})
    print(f"written to {RESULT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
