"""What the feed gives: how well it ranks, and how fast.

    python -m benchmarks.feed [--only quality|speed|scale] [--quick] [--shared ../shared/data]

Quality is `benchmarks/feed_quality.py`. For speed the service runs as a user starts it, `upeti feed serve`, alone on one
core, with MovieTweetings (10,506 films, 100,000 events), nightly models and a ranker that passed the gate; what asks it
runs on the other core, over HTTP with connections that stay open. What a second of the service's CPU does is told beside:
it hardly depends on what else the machine does, where the times of the clock do. Scale is one process without HTTP: the
same engine with made-up items, so its figures are of time alone. Writes build/bench-feed.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import feed_quality, machine, report
from benchmarks.report import Figure, figure
from upeti.core.config import Feed
from upeti.feed.features import features_of
from upeti.feed.importing import import_data, movietweetings
from upeti.feed.items import Feedback, Item, checked_feedback, checked_item
from upeti.feed.loading import embed_missing, load_state
from upeti.feed.rank import ALL, TrainingSet, train_ranker
from upeti.feed.refit import refit
from upeti.feed.replay import EventLog, train_night
from upeti.feed.retrieval import retrieve
from upeti.feed.serve import FeedRequest, TenantFeed
from upeti.feed.state import FeedState
from upeti.feed.store import FeedStore

RESULT: Final = machine.BUILD.parent / "bench-feed.json"
CACHE: Final = machine.BUILD / "feed-vectors"
SHARED: Final = Path(os.environ.get("UPETI_SHARED", Path(__file__).parents[2] / "shared" / "data"))
TENANT: Final = "bench"
_KEY: Final = "upeti-key-of-the-benchmark"
_CONFIG: Final = """data_dir = "data"
[feed]
port = 0
refit_minutes = 0
[[key]]
id = "bench"
tenant = "{tenant}"
sha256 = "{digest}"
"""


class Client:
    """One connection that stays open."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=60)

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        self._connection.request(method, path, body, {"X-API-Key": _KEY})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path} was answered {answer.status}: {text[:200]!r}")
        return json.loads(text)


@contextmanager
def served(directory: Path) -> Iterator[tuple[str, int, float]]:
    """Run the service on the measured core; yield its address, its process and how long it took to be ready."""
    address = directory / "data" / "run" / "feed-address"
    address.unlink(missing_ok=True)
    program = ["taskset", "-c", str(machine.MEASURED_CORE), sys.executable, "-m", "upeti.cli.main", "feed", "serve"]
    began_s = time.monotonic()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*program, "--config", str(directory / "upeti.toml")], stderr=log)
    try:
        while not address.exists():
            if process.poll() is not None:
                raise machine.UnfitError((directory / "log").read_text())
            time.sleep(0.01)
        place = address.read_text().strip()
        while True:
            try:
                Client(place).call("GET", "/api/health/ready")
                break
            except (OSError, RuntimeError, http.client.HTTPException):
                time.sleep(0.01)
        yield place, process.pid, time.monotonic() - began_s
    finally:
        process.terminate()
        process.wait()


def speed(shared: Path, *, quick: bool) -> list[Figure]:
    """Measure the service over HTTP."""
    seconds = 3.0 if quick else 15.0
    with tempfile.TemporaryDirectory(dir=_build()) as name:
        directory = Path(name)
        digest = sha256(_KEY.encode()).hexdigest()
        (directory / "upeti.toml").write_text(_CONFIG.format(tenant=TENANT, digest=digest))
        print("speed: importing, embedding and training …", flush=True)
        store = FeedStore(directory / "data")
        import_data(store, TENANT, movietweetings(shared / "movietweetings-100k"), time.time_ns())
        _copy_vectors(store)
        done = refit(store, directory / "data", TENANT, now_ns=time.time_ns())
        if not done.is_live:
            raise machine.UnfitError(f"the gate refused the ranker: {done.reasons}")
        users = sorted({one.user for one in store.feedback(TENANT)})
        store.close()
        os.sched_setaffinity(0, {machine.OTHER_CORE})
        try:
            with served(directory) as (address, pid, start_s):
                cpu_s = machine.cpu_us(pid) / 1e6
                figures = [
                    figure("cold start at 100,000 events", "s", start_s, at_most=10),
                    figure("… of CPU", "s", cpu_s, at_most=10),
                ]
                figures += _feeds(address, pid, users, seconds)
                figures += _events(address, pid, seconds)
                figures.append(figure("memory after all of it", "MB", machine.rss_kb(pid) / 1024, at_most=600))
                figures.append(_visible(address))
        finally:
            os.sched_setaffinity(0, {machine.MEASURED_CORE, machine.OTHER_CORE})
    return figures


def _feeds(address: str, pid: int, users: list[str], seconds: float) -> list[Figure]:
    draw = random.Random(1)
    client = Client(address)
    for _ in range(50):
        client.call("GET", f"/v1/feed?user={draw.choice(users)}&n=20")
    spent = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        began = time.perf_counter()
        client.call("GET", f"/v1/feed?user={draw.choice(users)}&n=20")
        spent.append((time.perf_counter() - began) * 1000)
    before_us = machine.cpu_us(pid)
    number = _together(address, 4, seconds, lambda one, _n: one.call("GET", f"/v1/feed?user={draw.choice(users)}&n=20"))
    cpu_s = (machine.cpu_us(pid) - before_us) / 1e6
    return [
        figure("a feed of 20 over HTTP, 10,506 items, p50", "ms", float(np.median(spent)), at_most=5),
        figure("a feed of 20 over HTTP, 10,506 items, p99", "ms", float(np.quantile(spent, 0.99)), at_most=15),
        figure("feeds a second on one core, 4 connections", "1/s", number / seconds, at_least=250),
        figure("feeds for a second of the service's CPU", "1/s", number / cpu_s, at_least=250),
    ]


def _events(address: str, pid: int, seconds: float) -> list[Figure]:
    figures = []
    for size, connections, aim in ((100, 4, 5_000), (1, 16, None)):
        token = f"{size}-{time.time_ns()}"

        def send(one: Client, number: int, size: int = size, token: str = token) -> None:
            name = f"{threading.get_ident()}-{number}-{token}"
            rows = [
                {"FeedbackType": "read", "UserId": f"bench-{number % 50}", "ItemId": f"{name}-{n}"} for n in range(size)
            ]
            one.call("POST", "/api/feedback", json.dumps(rows).encode())

        before_us = machine.cpu_us(pid)
        number = _together(address, connections, min(seconds, 5.0), send)
        cpu_s = (machine.cpu_us(pid) - before_us) / 1e6
        what = f"events a second, committed before they are acknowledged, {size} a request, {connections} connections"
        figures.append(figure(what, "1/s", size * number / min(seconds, 5.0), at_least=aim))
        figures.append(figure("… for a second of the service's CPU", "1/s", size * number / cpu_s, at_least=aim))
    return figures


def _visible(address: str) -> Figure:
    """Return the share of events that the very next feed knew of."""
    client = Client(address)
    known = 0
    for n in range(50):
        user = f"visible-{n}"
        first = client.call("GET", f"/v1/feed?user={user}&n=1")["items"][0]["item"]
        body = json.dumps([{"FeedbackType": "like", "UserId": user, "ItemId": first}]).encode()
        client.call("POST", "/api/feedback", body)
        known += first not in [one["item"] for one in client.call("GET", f"/v1/feed?user={user}&n=50")["items"]]
    return figure("events that the next feed knew of", "share", known / 50, at_least=1)


def _together(address: str, connections: int, seconds: float, work: Any) -> int:
    """Return how often ``work`` was done by so many connections in the time."""
    counts = [0] * connections
    end_s = time.monotonic() + seconds

    def run(number: int) -> None:
        client = Client(address)
        while time.monotonic() < end_s:
            work(client, counts[number])
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def scale(*, quick: bool) -> list[Figure]:
    """Measure one feed, without HTTP, with ever more items."""
    figures = []
    for size in (10_000, 100_000) if quick else (10_000, 30_000, 100_000, 300_000, 1_000_000):
        feed, now_ns = _made_up(size)
        spent, cpu = [], []
        for n in range(60 if quick else 200):
            began, began_cpu = time.perf_counter(), time.process_time()
            feed.feed(FeedRequest(f"u{n % 500}", 20), now_ns + n * 10**7)
            spent.append((time.perf_counter() - began) * 1000)
            cpu.append((time.process_time() - began_cpu) * 1000)
        aim = {10_000: 5.0, 100_000: 10.0}.get(size)
        figures.append(
            figure(
                f"a feed of 20 without HTTP, {size:,} made-up items, p50", "ms", float(np.median(spent)), at_most=aim
            )
        )
        figures.append(figure("… of CPU", "ms", float(np.median(cpu)), at_most=aim))
    return figures


def _made_up(size: int) -> tuple[TenantFeed, int]:
    draw = np.random.default_rng(1)
    now_ns = time.time_ns()
    state = FeedState()
    state.put_items(
        checked_item(Item(f"i{n}", labels={"title": f"T{n}", "genre": [f"g{n % 20}"]}, at_ns=now_ns - 10**15), now_ns)
        for n in range(size)
    )
    for start in range(0, size, 10_000):
        rows = draw.normal(size=(min(10_000, size - start), 384)).astype(np.float32)
        state.catalogue.set_vectors(
            np.arange(start, start + len(rows)), rows / np.linalg.norm(rows, axis=1, keepdims=True)
        )
    places = np.minimum((draw.pareto(0.8, 100_000) * 5).astype(int), size - 1)
    events = [
        checked_feedback(
            Feedback("click", f"u{n % 5_000}", f"i{place}", 1.0, now_ns - int(draw.integers(10**15))), now_ns
        )
        for n, place in enumerate(places.tolist())
    ]
    state.apply(events)
    log = EventLog()
    log.add(state, events)
    train_night(state, log, now_ns / 1e9)
    feed = TenantFeed(state, Feed())
    data = TrainingSet()
    feed.state.index_vectors()
    for n in range(100):
        profile = state.profiles.get(f"u{n}")
        found = retrieve(state, profile, now_ns / 1e9, np.ones(size, np.bool_), ALL)
        rows = features_of(state, profile, found.places, now_ns / 1e9, found.scores)
        data.add(rows, draw.random(len(rows)) < 0.05)
    feed.ranker = train_ranker(data, (ALL,))
    return feed, now_ns


def quality(shared: Path, *, quick: bool) -> list[Figure]:
    """Print the table of rankings; return what was promised of them."""
    films, lenses = shared / "movietweetings-100k", shared / "ranklens"
    rows: list[feed_quality.Row] = []
    print("quality: MovieTweetings, films nobody rated yet …", flush=True)
    rows += feed_quality.cold(films, CACHE / "movietweetings")
    print("quality: RankLens …", flush=True)
    rows += feed_quality.lists(lenses, CACHE / "ranklens")
    print("quality: MovieTweetings day by day …", flush=True)
    rows += feed_quality.warm(films, CACHE / "movietweetings", test_days=6 if quick else 30, nights=3 if quick else 1)
    print(feed_quality.table(rows))
    of = {(row.data, row.what): row for row in rows}
    lift = of["MovieTweetings, warm users", "LambdaRank, + MiniLM over 3-day popularity"]
    fresh = of["MovieTweetings, films nobody rated yet", "LambdaRank, genre + year + MiniLM"]
    warm = max(row.ndcg for row in rows if row.data == "RankLens, warm lists" and " over " not in row.what)
    gain = of["RankLens, cold films", "+ MiniLM of the description over nothing but place and clicks"]
    return [
        figure("MovieTweetings, warm: LambdaRank to 3-day popularity", "ratio", 1 + lift.ndcg, at_least=1.10),
        figure("MovieTweetings, films nobody rated yet: NDCG@10 × 1000", "", 1000 * fresh.ndcg, at_least=45),
        figure("RankLens, warm lists: NDCG@10 × 1000", "", 1000 * warm, at_least=610),
        figure("RankLens, cold films: + MiniLM over nothing", "%", 100 * gain.ndcg, at_least=6),
    ]


def _copy_vectors(store: FeedStore) -> None:
    """Put the vectors of the last run where the service looks for them."""
    kept = CACHE / "movietweetings" / "vectors.npz"
    if kept.exists():
        (store.tenant_dir(TENANT) / "vectors.npz").write_bytes(kept.read_bytes())
        return
    state, cache = load_state(store, TENANT, with_feedback=False)
    embed_missing(state, cache)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes((store.tenant_dir(TENANT) / "vectors.npz").read_bytes())


def _build() -> Path:
    machine.BUILD.mkdir(parents=True, exist_ok=True)
    return machine.BUILD


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("quality", "speed", "scale"))
    parser.add_argument("--quick", action="store_true", help="Shorter; figures are less certain.")
    parser.add_argument("--shared", type=Path, default=SHARED, help="The folder of all data sets.")
    given = parser.parse_args()
    figures: list[Figure] = []
    threadpool_limits(1)  # one core is measured
    try:
        if given.only in (None, "speed"):
            figures += speed(given.shared, quick=given.quick)
        if given.only in (None, "scale"):
            figures += scale(quick=given.quick)
        if given.only in (None, "quality"):
            figures += quality(given.shared, quick=given.quick)
    except machine.UnfitError as error:
        print(f"benchmarks.feed: {error}", file=sys.stderr)
        return 2
    print(report.table(figures, "upeti"))
    report.write(RESULT, figures, machine.Description.of_this(), {"quick": given.quick, "only": given.only})
    return int(any(each.met is False for each in figures))


if __name__ == "__main__":
    sys.exit(main())
