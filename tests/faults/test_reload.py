"""The configuration changes, and it stops, under load: no call is dropped, and what was said holds within two seconds."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

from faults.chaos import DeafClient
from faults.judge import Verdict, pico, quiet
from faults.scene import PER_MILLION, Key, Route, Scene
from upeti.sim.client import Ask, Client, Got, load
from upeti.sim.world import World, is_there

TAKEN_S = 2.0  # a change holds within this
ROUTES = (
    Route("plain", "sim", "sim", weighted=True),
    Route("drip", "sim-drip3", ""),
    Route("slow", "sim-slow300-each", ""),
)
FREE, WIDE, DOOMED = Key("free"), Key("wide", "50"), Key("doomed")


class Load:
    """Calls that go on in the background; all of them must be answered."""

    def __init__(self, world: World, clients: int, prefix: str = "load-") -> None:
        self.gots: list[Got] = []
        self._going = True
        self._task = asyncio.create_task(load(world.url, self._asks(prefix), clients=clients))

    def _asks(self, prefix: str) -> Iterator[Ask]:
        random = Random(3)
        number = 0
        while self._going:
            number += 1
            stream = random.random() < 0.5
            route = random.choice(("plain", "plain", "plain", "drip", "slow"))
            key = random.choice((FREE, WIDE)).secret
            yield Ask(route, key, tag=f"{prefix}{number}", stream=stream, include_usage=stream)

    async def end(self) -> list[Got]:
        self._going = False
        self.gots = await self._task
        return self.gots


@asynccontextmanager
async def loaded(world: World, scene: Scene) -> AsyncIterator[Load]:
    """A world that serves, and calls that go on in it; when it is over, every one of them must have been answered."""
    for name in ("alpha", "beta"):
        await world.start_provider(name)
    scene.write(world)
    await world.start()
    running = Load(world, clients=12)
    await asyncio.sleep(0.3)
    yield running
    gots = await running.end()
    dropped = [(got.ask.tag, got.status, got.cut, got.error_code) for got in gots if not got.answered]
    assert not dropped
    assert len(gots) > 100


async def until_it_holds(url: str, ask: Ask, look: Callable[[Got], bool], seconds: float = TAKEN_S) -> list[Got]:
    """Call until ``look`` says so; a call a time on a connection of its own, so that every worker is met."""
    gots: list[Got] = []
    began = time.monotonic()
    while sum(map(look, gots[-8:])) < 8:  # eight in a row: both workers, surely
        assert time.monotonic() - began < seconds, [(got.status, got.error_code) for got in gots[-8:]]
        async with Client(url) as client:
            gots.append(await client.call(replace(ask, tag=f"{ask.tag}{len(gots)}")))
        await asyncio.sleep(0.01)
    return gots


async def test_prices_routes_and_channels_change_under_load(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        scene = Scene((FREE, WIDE), ROUTES)
        async with loaded(world, scene):
            # A route comes.
            scene.routes = (*ROUTES, Route("fresh", "sim", ""))
            scene.write(world)
            gots = await until_it_holds(world.url, Ask("fresh", FREE.secret, tag="fresh-"), lambda got: got.answered)

            # A price changes: the calls after it cost more, the calls before it what they did.
            old_cost = pico(gots[-1].cost or "")
            scene.per_million["alpha"] = {
                name: f"{2 * float(price):.4f}" for name, price in PER_MILLION["alpha"].items()
            }
            scene.write(world)
            gots += await until_it_holds(
                world.url, Ask("fresh", FREE.secret, tag="fresh-p"), lambda got: pico(got.cost or "") > old_cost
            )
            assert {pico(got.cost or "0") for got in gots} <= {0, old_cost, 2 * old_cost}

            # A channel changes: its connections are made anew while streams are on the old ones.
            text = world.config.read_text()
            world.config.write_text(text.replace('name = "alpha"', 'name = "alpha"\nconnect_timeout_ms = 4000'))
            world.send(signal.SIGHUP)
            await asyncio.sleep(1.0)

            # A route goes.
            scene.routes = ROUTES
            scene.write(world)
            gots += await until_it_holds(
                world.url, Ask("fresh", FREE.secret, tag="fresh-g"), lambda got: got.error_code == "model_not_found"
            )
        await quiet(world)
        assert await world.stop() == 0
        assert "snapshot_refused" not in {event["event"] for event in world.events()}


async def test_keys_come_and_go_under_load(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        scene = Scene((FREE, WIDE, DOOMED), ROUTES)
        async with loaded(world, scene) as running:
            made = json.loads(await world.command("keys", "create", "--tenant", "acme", "--limit", "5", "--json"))
            ask = Ask("plain", made["key"], tag="made-")
            gots = await until_it_holds(world.url, ask, lambda got: got.answered)

            # A call that is under way when its key is revoked ends as it would have.
            async with Client(world.url) as client:
                slow = asyncio.create_task(client.call(Ask("slow", made["key"], tag="slow-", stream=True)))
                await asyncio.sleep(0.1)
                await world.command("keys", "revoke", made["id"])
                gots += await until_it_holds(world.url, replace(ask, tag="revoked-"), lambda got: got.status == 401)
                gots.append(await slow)
                assert gots[-1].answered

            # A key leaves the file, which is looked at on SIGHUP.
            scene.keys = (FREE, WIDE)
            scene.write(world)
            world.send(signal.SIGHUP)
            gots += await until_it_holds(
                world.url, Ask("plain", DOOMED.secret, tag="doomed-"), lambda got: got.status == 401
            )
        await quiet(world)
        assert await world.stop() == 0
        await Verdict(world, scene, [*gots, *running.gots]).reach()


async def test_a_broken_file_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    """Also over a restart of the keeper; and keys can be made meanwhile."""
    async with World(tmp_path) as world:
        scene = Scene((FREE, WIDE), ROUTES)
        async with loaded(world, scene) as running:
            for number, broken in enumerate(('[[route]\nname = "x"', "no_such_setting = 1\n", "\x00")):
                scene.write(world)
                world.config.write_text(broken + world.config.read_text())
                if number:
                    world.send(signal.SIGHUP)
                await world.until(lambda n=number: refusals(world) > n, "the refusal of the file", TAKEN_S)
            assert "upeti.toml:1" in next(e["message"] for e in world.events() if e["event"] == "config_refused")

            keepers = world.keepers()
            world.kill(keepers[0])
            await world.until(lambda: world.keepers() not in ([], keepers), "another keeper")

            scene.write(world)
            made = json.loads(await world.command("keys", "create", "--tenant", "acme", "--json"))
            gots = await until_it_holds(world.url, Ask("plain", made["key"], tag="made-"), lambda got: got.answered)
        await quiet(world)
        assert await world.stop() == 0
        await Verdict(world, scene, [*gots, *running.gots], expected_in_log=["config_refused"]).reach()


async def test_hang_ups_are_taken_also_by_who_is_starting(tmp_path: Path) -> None:
    """A signal that nobody handles yet would end a process, or be lost."""
    async with World(tmp_path) as world:
        scene = Scene((FREE, WIDE), ROUTES)
        async with loaded(world, scene):
            for _ in range(2):
                keepers = world.keepers()
                world.kill(keepers[0])
                scene.write(world)
                world.config.write_text("no_such_setting = 1\n" + world.config.read_text())
                before = refusals(world)
                for _ in range(60):
                    world.send(signal.SIGHUP)
                    await asyncio.sleep(0.02)
                await world.until(lambda n=before: refusals(world) > n, "a look at the file")
                await world.until(lambda old=keepers: world.keepers() not in ([], old), "another keeper")
            scene.write(world)
        restarts = [event["message"] for event in world.events() if event["event"] == "restart"]
        assert len(restarts) == 2
        assert all("SIGKILL" in message for message in restarts)
        assert await world.stop() == 0


def refusals(world: World) -> int:
    return sum(event["event"] == "config_refused" for event in world.events())


async def test_stopping_under_load_answers_what_is_under_way(tmp_path: Path) -> None:
    """Every call that a worker took is answered whole; the rest was never dispatched. Then all is closed."""
    async with World(tmp_path) as world:
        scene = Scene((FREE, WIDE), ROUTES)
        for name in ("alpha", "beta"):
            await world.start_provider(name)
        scene.write(world)
        await world.start()
        running = Load(world, clients=40)
        await asyncio.sleep(1.5)
        stopping = asyncio.create_task(world.stop())
        await world.until(stopping.done, "the end")
        assert stopping.result() == 0
        gots = await running.end()

        verdict = Verdict(world, scene, gots)
        await verdict.reach()
        tags = {row["task"] for row in verdict.calls}
        assert not [got for got in gots if got.ask.tag in tags and not got.answered]
        assert sum(got.answered for got in gots) > 100
        verification = json.loads(await world.command("journal", "verify", "--json"))
        assert all(one["ended"] for one in verification["instances"])
        assert not [row for row in verdict.calls if row["outcome"] != "posted"]

        await world.start()
        async with Client(world.url) as client:
            assert (await client.call(Ask("plain", FREE.secret))).answered
        assert await world.stop() == 0
        assert "recovered" not in {event["event"] for event in world.events()}


async def test_stopping_waits_for_a_client_that_reads_slowly(tmp_path: Path) -> None:
    """Its call is settled and its answer is written, but not all of that has left the worker yet."""
    async with World(tmp_path) as world:
        scene = Scene((FREE,), (*ROUTES, Route("big", "sim-biganswer12288", "")), workers=1)
        await world.start_provider("alpha")
        scene.write(world)
        await world.start()
        deaf = DeafClient(world.url, Ask("big", FREE.secret))
        await world.until(lambda: [a for a in world.journal().attempts.values() if a.settled], "the settlement")
        stopping = asyncio.create_task(world.stop())
        await asyncio.sleep(1)
        assert not stopping.done()
        head, _, body = (await asyncio.to_thread(deaf.read_rest)).partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}\r\n".encode() in head + b"\r\n"
        assert len(body) > 12_000_000
        assert await stopping == 0


async def test_a_killed_supervisor_leaves_nothing_undone(tmp_path: Path) -> None:
    """Its processes stop by themselves, answering what is under way; the next start comes at once and serves."""
    async with World(tmp_path) as world:
        scene = Scene((FREE, WIDE), ROUTES)
        for name in ("alpha", "beta"):
            await world.start_provider(name)
        scene.write(world)
        await world.start()
        async with Client(world.url) as client:
            slow = asyncio.create_task(client.call(Ask("slow", WIDE.secret, tag="slow-", stream=True)))
            await asyncio.sleep(0.2)
            left = await world.kill_supervisor()
            await world.start()
            gots = [await slow]
        assert gots[0].answered
        running = Load(world, clients=8)
        await world.until(lambda: not any(map(is_there, left)), "the end of the old processes")
        gots += await running.end()
        assert all(got.answered for got in gots)
        await quiet(world)
        assert await world.stop() == 0
        await Verdict(world, scene, gots).reach()
