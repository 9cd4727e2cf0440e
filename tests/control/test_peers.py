"""Two nodes on one PostgreSQL: leases are recalled across them, each closes its own dead, and the database may go away."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.keeper_side import Connect, KeeperProcess, running_keeper, until
from support.postgres import Postgres, running_postgres
from upeti.gateway import keeper_link as link

LIMIT = 1000
Pair = tuple[KeeperProcess, KeeperProcess]


def see_each_other(*keepers: KeeperProcess) -> None:
    for keeper in keepers:
        until(lambda one=keeper: len(one.get("/v1/status")["nodes_seen"]) == len(keepers) - 1)


@pytest.fixture
def pair(tmp_path: Path, postgres: Postgres) -> Iterator[Pair]:
    """Two keepers, north and south."""
    url = postgres.new_database()
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
    with (
        running_keeper(tmp_path / "north", state_url=url, node="north") as north,
        running_keeper(tmp_path / "south", state_url=url, node="south") as south,
    ):
        see_each_other(north, south)
        yield north, south


async def test_what_a_worker_of_another_node_does_not_hold_is_recalled(pair: Pair, connect: Connect) -> None:
    north, south = pair
    holder, other = await connect(north, "key:k1"), await connect(south, "key:k1")
    assert await holder.ask(900) == link.LeaseGrant("key:k1", 900, 100, LIMIT)
    began = time.monotonic()
    other.say(link.LeaseAsk("key:k1", 500, 0))
    assert await holder.hear() == link.LeaseRecall("key:k1")
    holder.give_back(700, posted_pico=50)
    assert await other.hear() == link.LeaseGrant("key:k1", 500, 300, LIMIT)
    took = time.monotonic() - began
    assert took < 0.5
    # The other way round, until nothing is left anywhere.
    holder.say(link.LeaseAsk("key:k1", 700, 50))
    assert await other.hear() == link.LeaseRecall("key:k1")
    other.give_back(0, posted_pico=450)
    assert await holder.hear() == link.LeaseGrant("key:k1", 300, 0, LIMIT)
    print(f"a recall across nodes took {took * 1000:.1f} ms")


async def test_a_stuck_worker_of_another_node_delays_an_ask_only_a_little(pair: Pair, connect: Connect) -> None:
    north, south = pair
    stuck, other = await connect(north, "key:k1"), await connect(south, "key:k1")
    await stuck.ask(900)
    began = time.monotonic()
    assert (await other.ask(500)).amount_pico == 100
    assert 1.0 < time.monotonic() - began < 2.5


async def test_slices_count_the_workers_of_all_nodes(pair: Pair, connect: Connect) -> None:
    north, south = pair
    workers = [await connect(keeper, "key:k1") for keeper in (north, north, south, south)]
    await workers[3].ask(1)
    await asyncio.sleep(2.2)  # two beats
    budget = north.new_budget()
    assert (await workers[0].ask(1, budget=budget)).amount_pico == LIMIT // 8


async def test_a_key_made_on_one_node_works_on_the_other(pair: Pair) -> None:
    north, south = pair
    status, body = north.request("POST", "/v1/keys", body={"tenant": "acme"})
    assert status == 201
    digest = hashlib.sha256(json.loads(body)["key"].encode()).digest()
    until(lambda: digest in south.snapshot().keys, seconds=1.5)


async def test_a_node_that_is_away_keeps_its_leases(pair: Pair, connect: Connect) -> None:
    """Its journal is on its own disk: nobody else can say what it spent."""
    north, south = pair
    holder, other = await connect(north, "key:k1", instance="w0-north"), await connect(south, "key:k1")
    await holder.ask(600)
    north.kill()
    await holder.close()
    assert (await other.ask(500)).amount_pico == 400
    until(lambda: south.get("/v1/status")["nodes_seen"] == [])
    began = time.monotonic()
    assert (await other.ask(500)).amount_pico == 0  # it is not waited for any more
    assert time.monotonic() - began < 0.3
    assert south.budget() == south.budget() | {"leased": "0.000000001", "left": "0"}


async def test_cut_connections_are_made_again(pair: Pair, connect: Connect, postgres: Postgres) -> None:
    """Who asks meanwhile is cut off, not refused; afterwards recalls are heard as before."""
    north, south = pair
    holder = await connect(north, "key:k1", instance="w0-north")
    await holder.ask(900)
    assert postgres.cut_connections(north.state_url) >= 4
    other = await connect(south, "key:k1")
    other.say(link.LeaseAsk("key:k1", 500, 0))
    assert await holder.hear() == link.LeaseRecall("key:k1")
    holder.give_back(900)
    assert (await other.hear()).amount_pico >= 500  # type: ignore[union-attr]
    assert "crashed" not in north.events() + south.events()


async def test_a_database_that_is_away_is_no_lack_of_money(tmp_path: Path, connect: Connect) -> None:
    """Asks are not answered, links are cut so that workers say so; all goes on when it is back, and a keeper that starts
    meanwhile says what is missing."""
    with running_postgres() as server, running_keeper(tmp_path, state_url=server.new_database()) as keeper:
        worker = await connect(keeper, "key:k1", instance="w0-a")
        first = await worker.ask(10)
        server.stop(signal.SIGQUIT)
        worker.say(link.LeaseAsk("key:k1", LIMIT, 0))
        with pytest.raises((EOFError, ConnectionError)):
            await worker.hear()
        status, told = keeper.request("GET", "/v1/budgets")
        assert (status, "The state cannot be reached" in told) == (503, True)
        assert keeper.get("/v1/status")["workers"] == []
        server.start()
        again = await connect(keeper, "key:k1", instance="w0-a", leases={"key:k1": (first.amount_pico, 0)})
        assert await again.ask(LIMIT) == link.LeaseGrant("key:k1", LIMIT - first.amount_pico, 0, LIMIT)
        assert {"crashed", "restart"}.isdisjoint(keeper.events())
        keeper.kill()
        server.stop()
        keeper.start(ready=False)
        assert keeper.process is not None
        assert keeper.process.wait(timeout=20) == 2
        assert "cannot be reached" in keeper.log_text()
        assert "start PostgreSQL, or correct [state]" in keeper.log_text()


def test_a_second_node_of_the_same_name_is_refused(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.new_database()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with running_keeper(tmp_path / "one", state_url=url, node="same"):
        second = KeeperProcess(tmp_path / "two", state_url=url, node="same")
        second.start(ready=False)
        assert second.process is not None
        assert second.process.wait(timeout=20) == 2
        assert "another data directory is the node `same`: choose another [node] name" in second.log_text()
