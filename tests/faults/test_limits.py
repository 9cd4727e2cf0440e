"""A limit shared out to several workers: never overspent, spent to its end, whoever dies in between."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from faults.judge import Verdict, pico, quiet
from faults.scene import Key, Route, Scene
from upeti.sim.client import Ask, Client, Got, load
from upeti.sim.world import World

ROUTES = (
    Route("plain", "sim", ""),
    Route("slow", "sim-slow150", "sim-slow60", weighted=True),
    Route("never", "sim-never", ""),
)
FREE = Key("free")


def same_asks(key: Key, count: int, *, route: str = "plain", prefix: str = "t") -> Iterator[Ask]:
    """Yield calls that have one bound and one cost, so that what is left can be compared with them."""
    return (Ask(route, key.secret, tag=f"{prefix}{number:05}") for number in range(count))


async def each_alone(url: str, asks: Iterator[Ask]) -> list[Got]:
    """Make calls one after the other, each on a connection of its own, so that all workers get some."""
    gots = []
    for ask in asks:
        async with Client(url) as client:
            gots.append(await client.call(ask))
    return gots


async def spend_to_the_end(url: str, key: Key, prefix: str) -> list[Got]:
    """Call until a call is refused."""
    gots: list[Got] = []
    while not gots or gots[-1].status == 200:
        gots += await each_alone(url, same_asks(key, 1, prefix=f"{prefix}{len(gots)}-"))
        assert len(gots) < 5000
    return gots


async def start(world: World, scene: Scene) -> None:
    for name in ("alpha", "beta"):
        await world.start_provider(name)
    scene.write(world)
    await world.start()


def leases(world: World) -> dict[int, int]:
    """Return pid → what the worker may still spend without asking, over all budgets."""
    with sqlite3.connect(f"file:{world.data_dir / 'state.sqlite3'}?mode=ro", uri=True) as state:
        rows = state.execute("SELECT pid, granted_pico, posted_pico FROM leases JOIN instances USING (instance)")
        left: Counter[int] = Counter()
        for pid, granted, posted in rows:
            left[pid] += int(granted) - int(posted)
    return dict(left)


def bound_pico(rows: Sequence[dict[str, Any]]) -> int:
    return max(pico(row["bound"]) for row in rows)


async def listed(world: World, *options: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(await world.command("calls", "--json", "--limit", "0", *options))
    return rows


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def least_left_pico(rows: Sequence[dict[str, Any]], limit_pico: int, moment: float, window_s: float) -> int:
    """Return the least that was neither spent nor held, at any time of the window that ends at ``moment``."""
    changes: list[tuple[float, int]] = []
    for row in rows:
        changes.append((at(row["opened_at"]), -pico(row["bound"])))
        changes.append((at(row["settled_at"]), pico(row["bound"]) - pico(row["cost"])))
    left = limit_pico
    least = limit_pico
    for when, change in sorted(changes):
        if when > moment:
            break
        if when >= moment - window_s:
            least = min(least, left)
        left += change
    return min(least, left)


async def test_hundreds_of_calls_at_a_time_on_four_workers(tmp_path: Path) -> None:
    """Never overspent; refused only when hardly anything is left; then spent to the end."""
    key = Key("tight", "0.025")
    async with World(tmp_path) as world:
        scene = Scene((key,), ROUTES, workers=4)
        await start(world, scene)
        gots = await load(world.url, same_asks(key, 900, route="slow", prefix="burst-"), clients=300)
        gots += await spend_to_the_end(world.url, key, "end-")
        assert await world.stop() == 0
        rows, refused = await listed(world), await listed(world, "--outcome", "refused")
        await Verdict(world, scene, gots).reach()
        (budget,) = world.budgets().values()
        bound = bound_pico(rows)
        print(f"bound {bound}, spent {budget.spent_pico} of {budget.limit_pico}, {len(refused)} refused")
        assert 0 <= budget.limit_pico - budget.spent_pico < bound
        assert {row["code"] for row in refused} == {"budget_exceeded"}
        burst = [row for row in refused if row["task"].startswith("burst-")]
        assert len(burst) > 20
        # Each worker may be left with less than one call's bound that no other gets to know of in time.
        for row in burst:
            left = least_left_pico(rows, key.limit_pico, at(row["refused_at"]), window_s=0.5)
            assert left < bound * scene.workers, f"{row['call_id']} was refused with {left} left; a call holds {bound}"


async def test_the_lease_of_a_killed_worker_comes_back(tmp_path: Path) -> None:
    """Each death costs at most what was under way; the rest can be spent to the end."""
    key = Key("tight", "0.02")
    async with World(tmp_path) as world:
        scene = Scene((key,), ROUTES, workers=2)
        await start(world, scene)
        gots: list[Got] = []
        for number in range(3):
            gots += await each_alone(world.url, same_asks(key, 12, prefix=f"round{number}-"))
            await world.until(lambda: max(leases(world).values(), default=0) > key.limit_pico // 8, "a lease", 5)
            holder, lease = max(leases(world).items(), key=lambda one: one[1])
            world.kill(holder)
            await world.until(lambda gone=holder: gone not in leases(world), f"the end of a lease of {lease}")
            await world.until(lambda: len(world.live_instances()) == 2, "another worker")
        gots += await spend_to_the_end(world.url, key, "end-")
        await quiet(world)
        assert await world.stop() == 0
        (budget,) = world.budgets().values()
        assert 0 <= budget.limit_pico - budget.spent_pico < bound_pico(await listed(world))
        assert all(got.answered for got in gots[:-1])
        await Verdict(world, scene, gots).reach()


async def test_without_a_keeper_leases_are_spent_and_the_rest_waits(tmp_path: Path) -> None:
    """Unlimited keys do not notice. Within its lease a limited one goes on; beyond it, it is told to come back."""
    key, fresh = Key("tight", "0.02"), Key("fresh", "1")
    async with World(tmp_path) as world:
        scene = Scene((FREE, key, fresh), ROUTES, workers=1)
        await start(world, scene)
        gots = await each_alone(world.url, same_asks(key, 3, prefix="before-"))
        (lease,) = leases(world).values()
        world.send(signal.SIGSTOP)  # so that the keeper is not started again
        world.kill(world.keepers()[0])

        await asyncio.sleep(2.5)  # an idle lease is not given back to nobody
        within = await load(world.url, same_asks(key, 20, prefix="within-"), clients=4)
        assert [got.status for got in within] == [200] * 20
        free = await load(world.url, same_asks(FREE, 20, prefix="free-"), clients=4)
        assert [got.status for got in free] == [200] * 20
        began = time.monotonic()
        beyond = await load(world.url, same_asks(fresh, 5, prefix="beyond-"), clients=5)
        assert 1 < time.monotonic() - began < 8
        assert [(got.status, got.error_code) for got in beyond] == [(503, "budget_unavailable")] * 5
        # The lease is spent to its end, and not beyond; who waits is served as the holds of others end.
        rest = await load(world.url, same_asks(key, 300, prefix="rest-"), clients=300)
        assert {(got.status, got.error_code) for got in rest} == {(200, ""), (503, "budget_unavailable")}
        spent = sum(pico(got.cost or "0") for got in (*within, *rest))
        assert lease - 10**9 < spent <= lease

        waiting = asyncio.create_task(load(world.url, same_asks(fresh, 5, prefix="waiting-"), clients=5))
        await asyncio.sleep(0.3)
        world.send(signal.SIGCONT)
        waited = await waiting
        assert [got.status for got in waited] == [200] * 5
        after = await spend_to_the_end(world.url, key, "after-")
        assert len(after) > 20
        assert after[-1].error_code == "budget_exceeded"
        assert await world.stop() == 0
        gots += [*within, *free, *beyond, *rest, *waited, *after]
        await Verdict(world, scene, gots).reach()


async def test_a_keeper_that_hangs(tmp_path: Path) -> None:
    """It does not answer, and its socket is open: as above, and it goes on as if nothing had been."""
    key = Key("wide", "1")
    async with World(tmp_path) as world:
        scene = Scene((FREE, key), ROUTES, workers=2)
        await start(world, scene)
        (keeper,) = world.keepers()
        world.kill(keeper, signal.SIGSTOP)
        gots = await load(world.url, same_asks(FREE, 50, prefix="free-"), clients=5)
        assert [got.status for got in gots] == [200] * 50
        stuck = await load(world.url, same_asks(key, 10, prefix="stuck-"), clients=10)
        assert [(got.status, got.error_code) for got in stuck] == [(503, "budget_unavailable")] * 10
        world.kill(keeper, signal.SIGCONT)
        after = await load(world.url, same_asks(key, 100, prefix="after-"), clients=10)
        assert [got.status for got in after] == [200] * 100
        assert world.keepers() == [keeper]
        assert await world.stop() == 0
        await Verdict(world, scene, [*gots, *stuck, *after]).reach()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [21, 22, 23])
async def test_many_tight_limits_and_many_deaths(tmp_path: Path, seed: int) -> None:
    """Each of twelve limits is spent to its end although workers and keeper die all the time; none is overspent."""
    random = Random(seed)
    keys = tuple(Key(f"k{number}", f"0.0{random.randint(10, 40)}") for number in range(12))
    async with World(tmp_path) as world:
        scene = Scene(keys, ROUTES, workers=4)
        await start(world, scene)

        async def kill() -> None:
            while True:
                await asyncio.sleep(random.uniform(0.3, 1.2))
                pids = world.keepers() if random.random() < 0.3 else world.workers()
                if pids:
                    world.kill(random.choice(pids))

        killing = asyncio.create_task(kill())
        asks = (
            Ask(random.choice(("plain", "slow")), random.choice(keys).secret, tag=f"t{number}")
            for number in range(15_000)
        )
        gots = await load(world.url, asks, clients=60)
        killing.cancel()
        await quiet(world)
        await world.until(lambda: len(world.live_instances()) == 4, "all workers")
        for key in keys:
            gots += await spend_to_the_end(world.url, key, f"end-{key.id}-")
        assert await world.stop() == 0
        await Verdict(world, scene, gots).reach()
        bound = bound_pico(await listed(world))
        for name, budget in world.budgets().items():
            assert 0 <= budget.limit_pico - budget.spent_pico < bound, (name, budget)
