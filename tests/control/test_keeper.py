"""The keeper as a process: leases over its socket, restarts, broken files, dead workers, the control port."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.keeper_side import CONFIG, KEY, FakeWorker, KeeperProcess, running_keeper, until
from upeti.core.events import AttemptRecovered
from upeti.gateway import keeper_link as link
from upeti.journal.reader import recovered_attempts

LIMIT = 1000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeeperProcess]:
    """One keeper for the tests that leave it as it was; each has a budget of its own."""
    with running_keeper(tmp_path_factory.mktemp("shared")) as running:
        yield running


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[KeeperProcess]:
    with running_keeper(tmp_path) as running:
        yield running


Connect = Callable[..., Awaitable[FakeWorker]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect workers that leave at the end of the test."""
    workers: list[FakeWorker] = []

    async def one(keeper: KeeperProcess, budget: str, *, instance: str = "", **options: Any) -> FakeWorker:
        name = instance or f"w{len(workers)}-{os.urandom(4).hex()}"
        workers.append(await FakeWorker.connect(keeper.socket, name, budget=budget, **options))
        return workers[-1]

    yield one
    for worker in workers:
        try:
            await worker.close()
        except ConnectionError:
            pass


def test_files_of_a_run_are_the_owners_alone(shared: KeeperProcess) -> None:
    run = shared.data_dir / "run"
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in run.iterdir()}
    assert modes.keys() >= {"snapshot.msgpack", "keeper.sock", "admin-token", "control-address"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(run.stat().st_mode) == 0o700


def test_the_snapshot_says_what_the_configuration_says(keeper: KeeperProcess) -> None:
    snapshot = keeper.snapshot()
    caller = snapshot.keys[hashlib.sha256(KEY.encode()).digest()]
    assert (caller.key, caller.tenant, caller.budgets) == ("k1", "acme", ("key:k1",))
    assert (snapshot.version, snapshot.default_channel) == (1, "up")
    assert KEY.encode() not in (keeper.data_dir / "run" / "snapshot.msgpack").read_bytes()


async def test_leases_of_two_workers(shared: KeeperProcess, connect: Connect) -> None:
    """Slices at first; near the limit what one does not need is recalled for the other; then nothing is left."""
    budget = shared.new_budget()
    one, two = await connect(shared, budget), await connect(shared, budget)
    assert await one.ask(10) == link.LeaseGrant(budget, 250, 750, LIMIT)
    assert await two.ask(10) == link.LeaseGrant(budget, 187, 563, LIMIT)
    two.say(link.LeaseAsk(budget, 600, 100))
    assert await one.hear() == link.LeaseRecall(budget)
    one.give_back(200, posted_pico=20)
    assert await two.hear() == link.LeaseGrant(budget, 600, 163, LIMIT)
    assert shared.budget(budget) == {
        "id": budget,
        "limit": "0.000000001",
        "spent": "0.00000000012",
        "leased": "0.000000000717",
        "left": "0.000000000163",
    }
    one.say(link.LeaseAsk(budget, 900, 20))
    assert await two.hear() == link.LeaseRecall(budget)
    two.give_back(0, posted_pico=787)
    assert await one.hear() == link.LeaseGrant(budget, 163, 0, LIMIT)
    assert await one.ask(1, posted_pico=213) == link.LeaseGrant(budget, 0, 0, LIMIT)


async def test_a_stuck_worker_delays_an_ask_only_a_little(shared: KeeperProcess, connect: Connect) -> None:
    budget = shared.new_budget()
    stuck, other = await connect(shared, budget), await connect(shared, budget)
    await stuck.ask(900)
    began = time.monotonic()
    assert (await other.ask(500)).amount_pico == 100
    assert 0.15 < time.monotonic() - began < 2.0


async def test_a_worker_that_leaves_is_not_waited_for(shared: KeeperProcess, connect: Connect) -> None:
    budget = shared.new_budget()
    leaving, other = await connect(shared, budget), await connect(shared, budget)
    await leaving.ask(900)
    other.say(link.LeaseAsk(budget, 500, 0))
    assert await leaving.hear() == link.LeaseRecall(budget)
    began = time.monotonic()
    await leaving.close()
    assert await other.hear() == link.LeaseGrant(budget, 100, 0, LIMIT)
    assert time.monotonic() - began < 0.15


async def test_asks_that_come_together_are_each_answered(shared: KeeperProcess, connect: Connect) -> None:
    budget = shared.new_budget()
    workers = [await connect(shared, budget) for _ in range(4)]

    async def serve(worker: FakeWorker) -> int:
        granted = 0
        worker.say(*[link.LeaseAsk(budget, 10, 0)] * 50)
        answers = 0
        while answers < 50:
            word = await worker.hear()
            if isinstance(word, link.LeaseRecall):
                worker.give_back(0)
            elif isinstance(word, link.LeaseGrant):
                answers += 1
                granted += word.amount_pico
        return granted

    assert sum(await asyncio.gather(*map(serve, workers))) == LIMIT
    assert shared.budget(budget)["leased"] == "0.000000001"


async def test_a_grant_outlives_the_keeper_and_the_worker_goes_on(keeper: KeeperProcess, connect: Connect) -> None:
    worker = await connect(keeper, "key:k1", instance="w0-1")
    first = await worker.ask(10)
    keeper.kill()
    keeper.start()
    again = await connect(keeper, "key:k1", instance="w0-1")
    second = await again.ask(LIMIT, posted_pico=30)
    assert first.amount_pico + second.amount_pico == LIMIT
    assert keeper.budget()["spent"] == "0.00000000003"
    third = await connect(keeper, "key:k1", instance="w0-1", leases={"key:k1": (70, 30)})
    assert await third.ask(LIMIT, posted_pico=30) == link.LeaseGrant("key:k1", 900, 0, LIMIT)


async def test_only_the_newest_link_of_an_instance_is_heard(shared: KeeperProcess, connect: Connect) -> None:
    budget = shared.new_budget()
    old = await connect(shared, budget, instance="w0-twice")
    await old.ask(10)
    new = await connect(shared, budget, instance="w0-twice")
    with pytest.raises((EOFError, ConnectionError)):
        await old.hear()
    assert (await new.ask(1)).amount_pico > 0


async def test_a_peer_that_breaks_the_form_is_cut(shared: KeeperProcess, connect: Connect) -> None:
    for words in ([link.LeaseAsk("key:k1", 1, 0)], [link.Hello("w0-bad", 0, 1), link.Hello("w0-bad", 0, 1)]):
        reader, writer = await asyncio.open_unix_connection(str(shared.socket))
        writer.write(b"".join(map(link.frame, words)))
        try:
            while await asyncio.wait_for(reader.read(4096), 5):
                pass
        except ConnectionError:
            pass
    assert shared.events().count("bad_peer") == 2
    assert (await (await connect(shared, "key:k1")).ask(1)).amount_pico > 0


async def test_a_changed_file_reaches_workers(keeper: KeeperProcess, connect: Connect) -> None:
    worker = await connect(keeper, "key:k1")
    keeper.config.write_text(CONFIG.replace('limit = "0.000000001"', 'limit = "2"'))
    version = await worker.hear_of_snapshot()
    assert keeper.snapshot().version == version > 1
    assert (await worker.ask(1)).limit_pico == 2 * 10**12


async def test_a_broken_file_is_refused(keeper: KeeperProcess, connect: Connect) -> None:
    worker = await connect(keeper, "key:k1")
    keeper.config.write_text(CONFIG.replace('channel = "up"', 'channel = "pu"'))
    until(lambda: "config_refused" in keeper.events())
    assert keeper.snapshot().version == 1
    status = keeper.get("/v1/status")
    assert status["config_error"].endswith("route `m`: there is no channel `pu`; choose from up, or add a [[channel]]")
    assert (await worker.ask(1)).amount_pico > 0
    # A key must work all the same, and so must a keeper that starts now.
    code, body = keeper.request("POST", "/v1/keys", body={"tenant": "late"})
    assert code == 201
    assert await worker.hear_of_snapshot() > 1
    keeper.kill()
    keeper.start("--resume", str(keeper.data_dir))
    digest = hashlib.sha256(json.loads(body)["key"].encode()).digest()
    assert keeper.snapshot().keys[digest].tenant == "late"
    assert keeper.get("/v1/status")["config_error"] != ""
    keeper.config.write_text(CONFIG)
    until(lambda: keeper.get("/v1/status")["config_error"] == "")


def test_a_broken_file_at_the_start_is_refused(tmp_path: Path) -> None:
    keeper = KeeperProcess(tmp_path, CONFIG.replace("local", "local\x00"))
    keeper.start(ready=False)
    assert keeper.process is not None
    assert keeper.process.wait(timeout=20) == 2
    assert f"{keeper.config}:10: this is not TOML" in keeper.log_text()


async def test_hanging_up_makes_a_new_snapshot(keeper: KeeperProcess, connect: Connect) -> None:
    worker = await connect(keeper, "key:k1")
    keeper.hang_up()
    assert await worker.hear_of_snapshot() == keeper.snapshot().version == 2


def test_a_key_of_the_api_is_in_the_snapshot_within_two_seconds(shared: KeeperProcess) -> None:
    body = {"tenant": "acme", "feature": "search", "limit": "12.5", "routes": ["m"], "expires": "30d"}
    code, answer = shared.request("POST", "/v1/keys", body=body)
    assert code == 201
    made = json.loads(answer)
    digest = hashlib.sha256(made["key"].encode()).digest()
    caller = until(lambda: shared.snapshot().keys.get(digest), seconds=2, what="the key")
    assert (caller.key, caller.feature, caller.routes) == (made["id"], "search", frozenset({"m"}))
    assert caller.budgets == (f"key:{made['id']}",)
    assert caller.expires_ns > time.time_ns() + 29 * 86_400 * 10**9
    assert shared.budget(f"key:{made['id']}")["limit"] == "12.5"
    shown = shared.request("GET", "/v1/keys")[1]
    assert made["id"] in shown
    assert made["key"] not in shown
    assert shared.request("DELETE", f"/v1/keys/{made['id']}")[0] == 204
    until(lambda: digest not in shared.snapshot().keys, seconds=2)
    assert shared.request("DELETE", f"/v1/keys/{made['id']}")[0] == 404


def test_the_api_says_what_is_wrong(shared: KeeperProcess) -> None:
    for body, what in (
        ({"tenant": "a b"}, "tenant: 'a b' does not have the right form"),
        ({"tenant": "a", "limit": "1e-13"}, "more than 12 decimals"),
        ({"tenant": "a", "expires": "2001-01-01"}, "has passed"),
        ({"tenant": "a", "limits": "1"}, "limits"),
        ({}, "tenant"),
    ):
        code, answer = shared.request("POST", "/v1/keys", body=body)
        assert code == 422
        assert what in answer


def test_everything_under_v1_asks_for_the_token(shared: KeeperProcess) -> None:
    paths = shared.get("/openapi.json")["paths"]
    guarded = [(path, method) for path, methods in paths.items() for method in methods if path.startswith("/v1/")]
    assert len(guarded) >= 5
    for path, method in guarded:
        for token in ("", "wrong"):
            body = {"tenant": "t"} if method == "post" else None
            code, answer = shared.request(method.upper(), path.format(key_id="x"), token=token, body=body)
            assert code == 401, (path, method)
            assert "admin-token" in answer
    assert shared.request("DELETE", "/v1/keys/x")[0] == 404


async def test_readiness_counts_workers(keeper: KeeperProcess, connect: Connect) -> None:
    assert keeper.request("GET", "/readyz")[0] == 503
    worker = await connect(keeper, "key:k1")
    assert keeper.get("/readyz", token="") == {"ready": True, "workers": 1, "snapshot": 1}
    await worker.close()
    until(lambda: keeper.request("GET", "/readyz")[0] == 503)


async def test_metrics_are_summed_over_workers(keeper: KeeperProcess, connect: Connect) -> None:
    workers = [await connect(keeper, "key:k1") for _ in range(2)]
    for worker in workers:
        worker.say(link.Metrics({'upeti_calls_total{status="2xx"}': 20.0, "upeti_calls_in_flight": 3.0}))
    until(lambda: 'upeti_calls_total{status="2xx"} 40' in keeper.request("GET", "/metrics")[1])
    workers[0].say(link.MetricsAsk(7))
    word = await workers[0].hear()
    assert isinstance(word, link.MetricsText)
    assert word.request == 7
    assert "upeti_calls_in_flight 6\n" in word.text
    assert "upeti_keeper_workers 2\n" in word.text


WORKER = """
import socket, sys, time
from pathlib import Path
from upeti.core.events import AttemptOpened, AttemptSettled, Outcome
from upeti.gateway import keeper_link as link
from upeti.journal.writer import SyncJournal

data_dir, instance = Path(sys.argv[1]), sys.argv[2]
journal = SyncJournal(data_dir, instance, time.time_ns)
if "silent" not in sys.argv:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(data_dir / "run" / "keeper.sock"))
    connection.sendall(link.frame(link.Hello(instance, 0, 1)) + link.frame(link.LeaseAsk("key:k1", 400, 0)))
def opened(call, bound):
    return AttemptOpened(call, 0, time.time_ns(), f"r{call}", "acme", "", "k1", "", "", "m", "up", "m",
                         "chat_completions", False, ("key:k1",), bound)
def settled(call, cost):
    return AttemptSettled(call, 0, time.time_ns(), Outcome.POSTED, "answered", 200, {"input": 1}, cost)
journal.append([opened(1, 100), opened(2, 150)])
journal.append([settled(1, 60), opened(3, 70)])
print("written", flush=True)
time.sleep(60)
"""


def start_worker(keeper: KeeperProcess, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(keeper.data_dir), *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    return process


def recovered(keeper: KeeperProcess) -> list[tuple[str, int, int]]:
    records: list[AttemptRecovered] = list(recovered_attempts(keeper.data_dir))
    return [(record.instance, record.opened.call, record.cost_pico) for record in records]


OPEN = [("w0-a", 2, 150), ("w0-a", 3, 70)]
POSTED = {"spent": "0.00000000028", "leased": "0"}  # 60 settled, 150 and 70 open


def test_a_killed_worker_is_posted_at_its_bound_and_its_lease_comes_back(keeper: KeeperProcess) -> None:
    process = start_worker(keeper, "w0-a")
    until(lambda: keeper.budget()["leased"] == "0.0000000005")
    process.kill()
    process.wait()
    until(lambda: keeper.budget()["leased"] == "0", seconds=5)
    assert keeper.budget().items() >= POSTED.items()
    assert recovered(keeper) == OPEN
    assert keeper.stop() == 0
    assert recovered(keeper) == OPEN


def test_a_worker_that_died_while_there_was_no_keeper(keeper: KeeperProcess) -> None:
    process = start_worker(keeper, "w0-a")
    until(lambda: keeper.budget()["leased"] == "0.0000000005")
    keeper.kill()
    process.kill()
    process.wait()
    keeper.start()
    assert keeper.budget().items() >= POSTED.items()
    assert recovered(keeper) == OPEN


def test_a_lost_link_alone_is_no_death(keeper: KeeperProcess) -> None:
    process = start_worker(keeper, "w0-a")
    until(lambda: keeper.budget()["leased"] == "0.0000000005")
    keeper.kill()
    keeper.start()
    time.sleep(1.2)
    assert keeper.budget()["leased"] == "0.0000000005"
    assert recovered(keeper) == []
    process.kill()
    process.wait()
    until(lambda: recovered(keeper) == OPEN, seconds=5)


def test_a_recovery_that_broke_off_is_finished_once(keeper: KeeperProcess) -> None:
    """The records were written, the state was not: as after a kill between the two."""
    process = start_worker(keeper, "w0-a")
    until(lambda: keeper.budget()["leased"] == "0.0000000005")
    keeper.kill()
    process.kill()
    process.wait()
    before = {file: file.read_bytes() for file in keeper.data_dir.glob("state.sqlite3*")}
    keeper.start()
    assert recovered(keeper) == OPEN
    keeper.kill()
    for file in keeper.data_dir.glob("state.sqlite3*"):
        file.unlink()
    for file, data in before.items():
        file.write_bytes(data)
    keeper.start()
    assert keeper.budget().items() >= POSTED.items()
    assert recovered(keeper) == OPEN


def test_a_worker_that_never_said_hello(keeper: KeeperProcess) -> None:
    """Its process is gone and its journal is old: what it left open is posted, on a budget it had no lease of."""
    process = start_worker(keeper, "w0-a", "silent")
    process.kill()
    process.wait()
    keeper.kill()
    past = time.time() - 60
    os.utime(keeper.data_dir / "journal" / "w0-a", (past, past))
    keeper.start()
    until(lambda: recovered(keeper) == OPEN, seconds=5)
    until(lambda: keeper.budget().items() >= POSTED.items())


def test_a_damaged_journal_keeps_its_lease_and_is_named(keeper: KeeperProcess) -> None:
    process = start_worker(keeper, "w0-a")
    until(lambda: keeper.budget()["leased"] == "0.0000000005")
    file = keeper.data_dir / "journal" / "w0-a" / "00000000.upj"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    process.kill()
    process.wait()
    until(lambda: "w0-a" in keeper.get("/v1/status")["damaged_journals"])
    assert keeper.budget()["leased"] == "0.0000000005"
    assert recovered(keeper) == []


def test_a_second_keeper_is_refused(keeper: KeeperProcess) -> None:
    from upeti.control.places import Places, TakenError

    with pytest.raises(TakenError, match=r"another keeper \(process \d+\) runs on .*; stop it"):
        Places(keeper.data_dir).lock("keeper")
