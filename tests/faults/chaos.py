"""Trouble: which calls are made, who is killed when, and a client that does not read; what is drawn is seeded."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random

from faults.scene import Key
from upeti.sim.client import Ask
from upeti.sim.world import World

# How often each route is called. Most calls are plain, so that there are thousands; the rest is what goes wrong.
MIX = {
    "plain": 50,
    "drip": 10,
    "slow": 6,
    "cached": 6,
    "failover": 6,
    "busy": 4,
    "refused": 3,
    "unsure": 2,
    "down": 1,
    "lost": 3,
    "cut": 3,
    "nousage": 2,
    "silent": 1,
    "stall": 1,
    "gone": 2,
}
WIRES = ("chat_completions",) * 6 + ("responses", "responses", "completions", "embeddings")


def asks(random: Random, keys: Sequence[Key], goes_on: Callable[[], bool], prefix: str = "t") -> Iterator[Ask]:
    """Yield calls with tags of their own for as long as ``goes_on``."""
    routes = random.choices(list(MIX), list(MIX.values()), k=4096)
    number = 0
    while goes_on():
        number += 1
        wire = random.choice(WIRES)
        stream = wire != "embeddings" and random.random() < 0.4
        leaves = random.random() < 0.04
        yield Ask(
            routes[number % len(routes)],
            random.choice(keys).secret,
            tag=f"{prefix}{number}",
            feature=random.choice(("", "captions", "search")),
            wire=wire,
            stream=stream,
            include_usage=stream and random.random() < 0.5,
            output_tokens_max=random.choice((1, 5, 16, 40)),
            text="Apa topik dari keterangan ini? " * random.randint(1, 6),
            leave_after_bytes=random.choice((0, 1, 300)) if leaves else None,
        )


class Killer:
    """Kills workers and the keeper at random moments; with ``freezes`` it also stops them for a while, as a machine does
    that has too much to do.
    """

    def __init__(self, world: World, random: Random, *, freezes: bool = False) -> None:
        self.kills: Counter[str] = Counter()
        self._freezes = freezes
        self._world = world
        self._random = random

    async def kill_for(self, seconds: float, *, pause_s: tuple[float, float]) -> None:
        """Go on for so long, with pauses between the kills drawn from ``pause_s``."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(self._random.uniform(*pause_s))
            self.kill_one()

    def kill_one(self) -> None:
        world, random = self._world, self._random
        if self._freezes and random.random() < 0.15:
            self._freeze([*world.workers(), *world.keepers()])
            return
        drawn = random.random()
        if drawn < 0.60:
            self._kill("worker", world.workers()[:1] if random.random() < 0.5 else world.workers()[-1:])
        elif drawn < 0.80:
            self._kill("keeper", world.keepers())
        elif drawn < 0.95:
            self._kill(
                "worker and keeper", [*random.sample(world.workers(), k=min(1, len(world.workers()))), *world.keepers()]
            )
        else:
            self._kill("all workers", world.workers())

    def _freeze(self, pids: Sequence[int]) -> None:
        if pids:
            pid = self._random.choice(pids)
            self._world.kill(pid, signal.SIGSTOP)
            seconds = self._random.uniform(0.1, 1.5)
            asyncio.get_running_loop().call_later(seconds, self._world.kill, pid, signal.SIGCONT)
            self.kills["freeze"] += 1

    def _kill(self, name: str, pids: Sequence[int]) -> None:
        for pid in pids:
            self._world.kill(pid)
        if pids:
            self.kills[name] += 1


class DeafClient:
    """Asks and does not read."""

    def __init__(self, url: str, ask: Ask) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self._socket.connect((host, int(port)))
        self._socket.sendall(ask.request(f"{host}:{port}"))

    def read_rest(self) -> bytes:
        """Read what there is to the end of the connection."""
        self._socket.settimeout(10)
        data = b""
        try:
            while part := self._socket.recv(1 << 20):
                data += part
        except ConnectionResetError:
            pass
        self._socket.close()
        return data
