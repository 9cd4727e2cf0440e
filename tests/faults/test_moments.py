"""A worker is killed with -9 at the exact moments of a call's life; what is left is posted once, however often it is
started again.

opened, not dispatched yet: the connection to the provider is never accepted. Dispatched, not settled: the provider is
silent, or falls silent within its answer. Settled, last byte not sent: the client does not read.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.chaos import DeafClient
from faults.judge import Verdict, open_attempts, quiet
from faults.scene import Key, Route, Scene
from upeti.sim.auditor import Attempt
from upeti.sim.client import Ask, Client, Got
from upeti.sim.world import BudgetState, World

WIDE = Key("wide", "50")
ROUTES = (
    Route("plain", "sim", ""),
    Route("hole", hole=True),
    Route("never", "sim-never", ""),
    Route("stall", "sim-stall3", ""),
    Route("big", "sim-biganswer12288", ""),
)


@contextmanager
def hole() -> Iterator[int]:
    """A port whose connections are never accepted: its queue is full."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    port = int(listener.getsockname()[1])
    waiting = []
    try:
        for _ in range(3):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            waiting.append(one)
        yield port
    finally:
        for one in (*waiting, listener):
            one.close()


def settlements(world: World) -> dict[str, list[tuple[str, str, int]]]:
    """Return attempt → how it was settled: outcome, by whom, cost; one each when nothing is done twice."""
    return {
        attempt.id: [(each["outcome"], each["by"], each["cost_pico"]) for each in attempt.settled]
        for attempt in world.journal().attempts.values()
    }


async def call(url: str, ask: Ask) -> Got:
    async with Client(url) as client:
        return await client.call(ask)


async def restart_every_way(world: World) -> list[tuple[dict[str, list[tuple[str, str, int]]], BudgetState]]:
    """Kill the keeper, kill everything, stop in order; return what the journal and the budget said after each."""
    seen = []

    async def look() -> None:
        await quiet(world)
        # The journal has the recovery before the ledger has: a keeper may be killed in between.
        await world.until(lambda: not world.budgets()[WIDE.budget].leased_pico, "the return of all leases")
        seen.append((settlements(world), world.budgets()[WIDE.budget]))

    keepers = world.keepers()
    world.kill(keepers[0])
    await world.until(lambda: world.keepers() not in ([], keepers), "another keeper")
    await look()
    await world.kill_all()
    await world.start()
    await look()
    assert await world.stop() == 0
    await look()
    return seen


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_killed_at_every_moment_of_a_call(tmp_path: Path, durability: str) -> None:
    with hole() as port:
        async with World(tmp_path) as world:
            scene = Scene((WIDE,), ROUTES, workers=1, durability=durability, hole_port=port)
            await world.start_provider("alpha")
            scene.write(world)
            await world.start()
            answered = await call(world.url, Ask("plain", WIDE.secret, tag="plain"))
            calls = [
                asyncio.create_task(call(world.url, Ask(route, WIDE.secret, tag=route, stream=route == "stall")))
                for route in ("hole", "never", "stall")
            ]
            deaf = DeafClient(world.url, Ask("big", WIDE.secret, tag="big"))
            await world.until(lambda: are_there(world), "all moments")
            still_open = {attempt.id: attempt for attempt in open_attempts(world)}
            world.kill(world.workers()[0])
            gots = [answered, *await asyncio.gather(*calls)]
            rest = await asyncio.to_thread(deaf.read_rest)
            await quiet(world)

            after = settlements(world)
            assert after.keys() > still_open.keys()
            for attempt_id, attempt in still_open.items():
                assert after[attempt_id] == [("estimated", "keeper", attempt.bound_pico)]
            assert all(len(each) == 1 for each in after.values())
            (big,) = [one for one in world.journal().attempts.values() if one.model == "sim-biganswer12288"]
            assert after[big.id] == [("posted", "worker", big.cost_pico)]
            assert len(rest) < 12_000_000, "the last byte was sent"
            assert [got.complete for got in gots] == [True, False, False, False]

            spent = sum(attempt.cost_pico for attempt in world.journal().attempts.values())
            for settled, budget in await restart_every_way(world):
                assert settled == after
                assert (budget.spent_pico, budget.leased_pico) == (spent, 0)
            await Verdict(world, scene, gots).reach()


def are_there(world: World) -> bool:
    """Three attempts are open, of which the provider has seen two; the one whose client does not read is settled."""
    attempts = list(world.journal().attempts.values())
    seen = world.provider_log("alpha").read_text().count('"event":"seen"')
    still_open = [attempt for attempt in attempts if not attempt.settled]
    return len(attempts) == 5 and len(still_open) == 3 and seen == 4


async def test_a_keeper_killed_between_journal_and_state(tmp_path: Path) -> None:
    """It has written what it recovered, and not yet what that means for the budget."""
    async with World(tmp_path) as world:
        scene = Scene((WIDE,), ROUTES, workers=1)
        await world.start_provider("alpha")
        scene.write(world)
        await world.start()
        calls = [asyncio.create_task(call(world.url, Ask("never", WIDE.secret, tag=f"n{n}"))) for n in range(3)]
        await world.until(lambda: len(open_attempts(world)) == 3, "the calls")
        before = world.budgets()[WIDE.budget]
        with sqlite3.connect(world.data_dir / "state.sqlite3", isolation_level=None) as state:
            state.execute("BEGIN IMMEDIATE")
            world.kill(world.workers()[0])
            await quiet(world)
            recovered = settlements(world)
            keepers = world.keepers()
            world.kill(keepers[0])
            state.execute("ROLLBACK")
        assert world.budgets()[WIDE.budget] == before
        assert before.spent_pico == 0
        await world.until(lambda: world.keepers() not in ([], keepers), "another keeper")
        await world.until(lambda: world.budgets()[WIDE.budget].spent_pico, "the recovery")
        gots = await asyncio.gather(*calls)
        for settled, budget in await restart_every_way(world):
            assert settled == recovered
            assert budget.spent_pico == sum(cost for ((_, _, cost),) in recovered.values())
        await Verdict(world, scene, gots).reach()


@pytest.mark.slow
async def test_keepers_that_die_while_they_recover(tmp_path: Path) -> None:
    """Each is killed a little later in its life than the one before."""
    async with World(tmp_path) as world:
        scene = Scene((WIDE,), ROUTES, workers=1)
        await world.start_provider("alpha")
        scene.write(world)
        await world.start()
        calls = [asyncio.create_task(call(world.url, Ask("never", WIDE.secret, tag=f"n{n}"))) for n in range(40)]
        await world.until(lambda: len(open_attempts(world)) == 40, "the calls")
        world.kill(world.keepers()[0])
        world.kill(world.workers()[0])
        for number in range(12):
            await world.until(world.keepers, "another keeper")
            await asyncio.sleep(0.25 + number * 0.05)
            for keeper in world.keepers():
                world.kill(keeper)
            await world.until(lambda: not world.keepers(), "its death")
        await quiet(world)
        gots = await asyncio.gather(*calls)
        while not gots[-1].answered:  # until there is a keeper again, which grants leases
            gots.append(await call(world.url, Ask("plain", WIDE.secret, tag=f"again{len(gots)}")))
        assert await world.stop() == 0
        assert all(len(each) == 1 for each in settlements(world).values())
        await Verdict(world, scene, gots).reach()


async def test_a_segment_that_ends_with_calls_under_way(tmp_path: Path) -> None:
    """What is open is carried over; it is recovered once, from whichever segment."""
    async with World(tmp_path) as world:
        scene = Scene((WIDE, Key("free")), ROUTES, workers=1, segment_bytes=65_536)
        await world.start_provider("alpha")
        scene.write(world)
        await world.start()
        hanging = asyncio.create_task(call(world.url, Ask("never", WIDE.secret, tag="hanging")))
        await world.until(lambda: open_attempts(world), "the call")
        gots: list[Got] = []
        async with Client(world.url) as client:
            for number in range(300):
                gots.append(await client.call(Ask("plain", "upeti-free-of-the-fault-tests", tag=f"t{number}")))
        segments = sorted((world.data_dir / "journal").glob("w0-*/*.upj"))
        assert len(segments) >= 2
        world.kill(world.workers()[0])
        gots.append(await hanging)
        await quiet(world)
        (left,) = [attempt for attempt in world.journal().attempts.values() if _by_keeper(attempt)]
        assert left.model == "sim-never"
        assert await world.stop() == 0
        await Verdict(world, scene, gots).reach()
        rows = json.loads(await world.command("calls", "--outcome", "estimated", "--json"))
        assert [(row["task"], row["ended"]) for row in rows] == [("hanging", "worker_died")]


def _by_keeper(attempt: Attempt) -> bool:
    return any(each["by"] == "keeper" for each in attempt.settled)
