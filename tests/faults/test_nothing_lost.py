"""Nothing is lost: real processes under load, killed with -9 again and again, and then everything must add up.

Clients and providers write down what they saw. Afterwards the auditor, which shares no code with the gateway, compares
that with the journal, the bill and the state: every answered call is billed once, none twice, every attempt that a
provider saw is in the journal, nothing is left open, no limit is overspent, and every cost is the provider's own usage
at its price. ``UPETI_FAULT_SEEDS=7,8`` runs other seeds.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import urllib.request
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from faults.chaos import Killer, asks
from faults.judge import Verdict, quiet
from faults.scene import Key, Scene
from upeti.sim.client import Got, load
from upeti.sim.world import World

KEYS = (Key("free"), Key("wide", "50"), Key("tight", "0.06", tenant="warung"))
PROVIDERS = ("alpha", "beta")
SEGMENT_BYTES = 131_072  # so that segments end, and carry what is open, in the middle of it all


def seeds(default: str) -> list[int]:
    return [int(seed) for seed in os.environ.get("UPETI_FAULT_SEEDS", default).split(",")]


class Run:
    """One world, its load and its trouble."""

    def __init__(self, world: World, scene: Scene, seed: int, *, clients: int, freezes: bool = False) -> None:
        self.world = world
        self.scene = scene
        self.random = Random(seed)
        self.gots: list[Got] = []
        self.kills: Counter[str] = Counter()
        self.samples = 0  # of the state
        self._clients = clients
        self._freezes = freezes

    async def start(self) -> None:
        for name in PROVIDERS:
            await self.world.start_provider(name)
        self.scene.write(self.world)
        await self.world.start()

    async def trouble(self, seconds: float, *, pause_s: tuple[float, float], prefix: str) -> None:
        """Load and kill for so long; a last kill comes with the last calls."""
        going = True
        source = asks(Random(self.random.random()), self.scene.keys, lambda: going, prefix)
        loading = asyncio.create_task(load(self.world.url, source, clients=self._clients))
        watching = asyncio.create_task(self._watch_limits())
        killer = Killer(self.world, self.random, freezes=self._freezes)
        await killer.kill_for(seconds, pause_s=pause_s)
        going = False
        killer.kill_one()
        self.gots += await loading
        self.kills += killer.kills
        if watching.done():
            watching.result()
        watching.cancel()

    async def _watch_limits(self) -> None:
        """At no moment is more spent and leased than the limit allows."""
        while True:
            try:
                budgets = self.world.budgets()
            except sqlite3.OperationalError:
                budgets = {}  # nobody has the file open just now
            for name, state in budgets.items():
                assert state.spent_pico + state.leased_pico <= state.limit_pico, (name, state)
                self.samples += 1
            await asyncio.sleep(0.1)

    def _has_keeper(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.world.control}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    async def judge(self, *, project: bool = False) -> None:
        await quiet(self.world)
        await self.world.until(
            self._has_keeper, "a keeper"
        )  # the last blow may have been its; who stops without closes later
        assert await self.world.stop() == 0
        verdict = Verdict(self.world, self.scene, self.gots)
        await verdict.reach()
        if project:  # the bill is the same from the files of closed segments
            await self.world.run("upeti.control.jobs", "project", "--data-dir", str(self.world.data_dir))
            await Verdict(self.world, self.scene, self.gots).reach()
        print(f"kills {dict(self.kills)}; state looked at {self.samples} times; {verdict.summary()}")
        assert self.samples


@pytest.mark.parametrize("seed", seeds("1"))
async def test_killed_again_and_again(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    async with World(tmp_path) as world:
        run = Run(world, Scene(KEYS, segment_bytes=SEGMENT_BYTES), seed, clients=24)
        await run.start()
        await run.trouble(4, pause_s=(0.2, 0.9), prefix="a")
        await world.kill_all()
        run.kills["everything"] += 1
        await world.start()
        await run.trouble(3, pause_s=(0.2, 0.9), prefix="b")
        await run.judge()
        assert sum(got.answered for got in run.gots) > 300


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds("11,12,13,14"))
async def test_killed_for_minutes(tmp_path: Path, seed: int) -> None:
    """More of it: three workers, either durability, processes that freeze, providers that die, every way to end."""
    print(f"seed {seed}")
    durability = "power" if seed % 2 else "process"
    keys = (Key("free"), Key("wide", "500"), Key("tight", "0.3", tenant="warung"))
    async with World(tmp_path) as world:
        scene = Scene(keys, workers=3, durability=durability, segment_bytes=SEGMENT_BYTES)
        run = Run(world, scene, seed, clients=32, freezes=True)
        await run.start()
        for number in range(6):
            dying = asyncio.create_task(_provider_dies(run, at_s=run.random.uniform(1, 6)))
            await run.trouble(9, pause_s=(0.05, 1.5), prefix=f"{number}-")
            await dying
            end = run.random.choice(("everything", "supervisor", "stop", "nothing"))
            if end == "everything":
                await world.kill_all()
            elif end == "supervisor":
                await world.kill_supervisor()
            elif end == "stop":
                assert await world.stop() == 0
            if end != "nothing":
                run.kills[end] += 1
                await world.start()
        await run.judge(project=True)
        assert sum(got.answered for got in run.gots) > 1000


async def _provider_dies(run: Run, at_s: float) -> None:
    name = run.random.choice(PROVIDERS)
    await asyncio.sleep(at_s)
    await run.world.kill_provider(name)
    run.kills[f"provider {name}"] += 1
    await asyncio.sleep(0.3)
    await run.world.start_provider(name)


async def test_durable_against_loss_of_power(tmp_path: Path) -> None:
    """The same with an fsync before every dispatch and every last byte."""
    async with World(tmp_path) as world:
        run = Run(world, Scene(KEYS, durability="power"), 2, clients=16)
        await run.start()
        await run.trouble(2.5, pause_s=(0.3, 0.8), prefix="p")
        await run.judge()
        assert sum(got.answered for got in run.gots) > 50
