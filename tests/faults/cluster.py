"""Two or more gateway nodes, each with a folder and processes of its own, on one PostgreSQL; and what can happen to them."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

from faults.chaos import Killer
from faults.scene import Scene
from support.postgres import Postgres
from upeti.control.ports import free_port
from upeti.sim.client import Ask, Got, load
from upeti.sim.world import World, WorldError

# After the last blow to something, all of it works again: processes are started, links are made, the dead are closed.
RECOVERED_S = 9.0
# What is said while the database is away, or within a transaction that it ended.
EXPECTED_IN_LOG = (
    "cannot be reached",
    "ledger_failed",
    "snapshot_failed",
    "recovery_failed",
    "alerts_failed",
    "projection_failed",
    "AdminShutdown",
    "ended while starting",
)


class Cluster:
    """``async with Cluster(folder, server, names)``; the first node has the providers."""

    def __init__(self, folder: Path, server: Postgres, names: Iterable[str] = ("north", "south")) -> None:
        self.server = server
        self.state_url = server.new_database()
        self.nodes: list[World] = []
        for name in names:
            (folder / name).mkdir()
            beside = self.nodes[0] if self.nodes else None
            node = World(folder / name, state_url=self.state_url, beside=beside)
            node.gateway_port = free_port()  # the same after a restart: its clients come back
            self.nodes.append(node)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Cluster:
        for node in self.nodes:
            await self._stack.enter_async_context(node)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def first(self) -> World:
        return self.nodes[0]

    async def start(self, scene: Scene, *providers: str) -> None:
        for name in providers:
            await self.first.start_provider(name)
        for node in self.nodes:
            scene.write(node)
        await asyncio.gather(*(node.start() for node in self.nodes))
        await self.whole()

    async def whole(self, seconds: float = 40.0) -> None:
        """Wait until every node runs with all its workers and sees the others."""
        deadline = time.monotonic() + seconds
        while not all(await asyncio.gather(*map(self._is_whole, self.nodes))):
            if time.monotonic() > deadline:
                raise WorldError("\n".join(str(node.error(f"{node.folder.name} is not whole")) for node in self.nodes))
            await asyncio.sleep(0.1)

    async def _is_whole(self, node: World) -> bool:
        try:
            status = await asyncio.to_thread(_status, node)
        except OSError:
            return False
        everyone = set(node.workers())
        return (
            len(status["nodes_seen"]) == len(self.nodes) - 1
            and len(status["workers"]) == len(everyone)
            and len(node.keepers()) == 1
        )

    async def load(self, asks: Iterable[Ask], *, clients: int) -> list[Got]:
        """Make ``asks``, by so many clients at a time, who are shared out to the nodes."""
        source = iter(asks)
        share = -(-clients // len(self.nodes))
        urls = [f"http://127.0.0.1:{node.gateway_port}" for node in self.nodes]
        gots = await asyncio.gather(*(load(url, source, clients=share) for url in urls))
        return [got for each in gots for got in each]

    async def stop(self) -> None:
        codes = await asyncio.gather(*(node.stop() for node in self.nodes))
        assert set(codes) == {0}, codes


class Blows:
    """Kills workers, keepers, whole nodes and the database's connections, stops the database; what is drawn is seeded."""

    def __init__(self, cluster: Cluster, random: Random, *, restarts_database: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.troubled_ns: list[tuple[int, int]] = []
        self._cluster = cluster
        self._random = random
        self._kinds = ["process"] * 5 + ["connections"] * 2 + ["node"] + ["database"] * restarts_database
        # Each kind comes once before any comes again.
        self._first = random.sample(sorted(set(self._kinds)), k=len(set(self._kinds)))

    async def strike_for(self, seconds: float, *, pause_s: tuple[float, float]) -> None:
        """Strike for ``seconds``, on a busy machine until each kind has come once."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end or self._first:
            await asyncio.sleep(self._random.uniform(*pause_s))
            began_ns = time.time_ns()
            await self.strike()
            self.troubled_ns.append((began_ns, time.time_ns() + int(RECOVERED_S * 1e9)))

    async def strike(self) -> None:
        """One blow. What takes a while is waited for: a node cannot start while there is no database."""
        random, cluster = self._random, self._cluster
        node = random.choice(cluster.nodes)
        kind = self._first.pop() if self._first else random.choice(self._kinds)
        if kind == "process":
            killer = Killer(node, random, freezes=True)
            killer.kill_one()
            self.counts += killer.kills
        elif kind == "connections":
            cut = cluster.server.cut_connections(cluster.state_url, share=random.choice((0.3, 1.0)))
            self.counts["database connections"] += cut
        elif kind == "node":
            await node.kill_all()
            self.counts["node"] += 1
            await asyncio.sleep(random.uniform(0.1, 1.0))
            await node.start()
        else:
            await asyncio.to_thread(cluster.server.stop, random.choice((signal.SIGINT, signal.SIGQUIT)))
            self.counts["database"] += 1
            await asyncio.sleep(random.uniform(0.1, 2.0))
            await asyncio.to_thread(cluster.server.start)


def _status(node: World) -> dict[str, Any]:
    token = (node.data_dir / "run" / "admin-token").read_text().strip()
    request = urllib.request.Request(f"{node.control}/v1/status", headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
