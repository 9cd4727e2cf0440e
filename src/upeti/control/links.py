"""The keeper's side of the socket: one link per worker, words in both directions.

Rules: an instance has one link, its newest; what still comes on an older one is not heard, because the
newer one has already said how things stand. A peer that breaks the form is cut off. The pid is the kernel's
word where it gives one, not the peer's.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from upeti.control import ledger
from upeti.control.desk import Desk, Line
from upeti.control.metrics import Metrics
from upeti.control.processes import identity
from upeti.gateway import keeper_link as words
from upeti.gateway.log import Log

_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid (unix(7), SO_PEERCRED)


class Links:
    """The workers that are connected, by instance."""

    def __init__(self, metrics: Metrics, log: Log, version: Callable[[], int]) -> None:
        """``version`` is that of the snapshot that is to be read now."""
        self.metrics = metrics
        self.log = log
        self.version = version
        self.desk: Desk
        self.on_lost: Callable[[], None] = lambda: None
        self.on_cut_off: Callable[[str, words.CutOffNews], None] = lambda instance, word: None
        self._links: dict[str, _Link] = {}
        self._number = 0
        self._server: asyncio.Server | None = None

    def line(self) -> Line:
        """Return how a desk reaches the workers; other nodes it does not."""
        return Line(connected=self._links.keys, is_current=self._is_current, send=self.send, cut=self.cut)

    async def listen(self, path: Path) -> None:
        """Take connections at ``path``, in place of what a dead keeper left there."""
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o600)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Link(self), sock=listener)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in list(self._links.values()):
            link.cut()

    def connected(self) -> list[str]:
        return sorted(self._links)

    def send(self, instance: str, word: words.KeeperWord) -> None:
        """Send to a worker; nothing happens when it is not connected."""
        link = self._links.get(instance)
        if link is not None:
            link.send(word)

    def cut(self, instance: str) -> None:
        """End a worker's connection; it will connect again when it can."""
        link = self._links.get(instance)
        if link is not None:
            self.log.warning("link_cut", "the link to a worker was cut", worker=instance)
            link.cut()

    def broadcast(self, word: words.KeeperWord) -> None:
        for link in list(self._links.values()):
            link.send(word)

    def join(self, link: _Link) -> None:
        earlier = self._links.get(link.instance)
        self._links[link.instance] = link
        if earlier is not None:
            self.desk.lost(link.instance)
            earlier.cut()

    def leave(self, link: _Link) -> None:
        if self.is_current(link):
            del self._links[link.instance]
            self.desk.lost(link.instance)
            self.on_lost()

    def is_current(self, link: _Link) -> bool:
        return self._links.get(link.instance) is link

    def _is_current(self, instance: str, number: int) -> bool:
        link = self._links.get(instance)
        return link is not None and link.number == number

    def next_number(self) -> int:
        self._number += 1
        return self._number


class _Link(asyncio.Protocol):
    """One worker's connection."""

    def __init__(self, links: Links) -> None:
        self.instance = ""
        self.number = links.next_number()
        self._links = links
        self._frames = words.FrameReader()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._frames.feed(data):
                self._hear(words.decode_worker_word(payload))
        except (ValueError, msgspec.MsgspecError) as error:
            self._links.log.warning("bad_peer", f"a worker's link was cut: {error}", worker=self.instance)
            self.cut()

    def connection_lost(self, error: Exception | None) -> None:
        if self.instance:
            self._links.leave(self)

    def send(self, word: words.KeeperWord) -> None:
        if not self._transport.is_closing():
            self._transport.write(words.frame(word))

    def cut(self) -> None:
        self._transport.abort()

    def _hear(self, word: words.WorkerWord) -> None:
        if isinstance(word, words.Hello):
            self._greet(word)
            return
        if not self.instance:
            raise ValueError("the first word was no Hello")
        if not self._links.is_current(self):
            return
        match word:
            case words.LeaseAsk(budget, need, posted):
                self._links.desk.put(ledger.Ask(self.instance, budget, need, posted, final=False, link=self.number))
            case words.LeaseReturn(budget, amount, posted, recalled, overrun):
                self._links.desk.put(ledger.Return(self.instance, budget, amount, posted, recalled, overrun))
            case words.Metrics(values):
                self._links.metrics.report(self.instance, values)
            case words.MetricsAsk(request):
                self.send(words.MetricsText(request, self._links.metrics.text()))
            case _:
                self._links.on_cut_off(self.instance, word)

    def _greet(self, word: words.Hello) -> None:
        if self.instance:
            raise ValueError("a second Hello")
        self.instance = word.instance
        pid = self._peer_pid() or word.pid
        self._links.join(self)
        self._links.desk.put(ledger.Hello(word.instance, word.worker, pid, identity(pid), word.leases))
        version = self._links.version()
        if version:
            # There may have been a new one between the worker's look at the file and this word.
            self.send(words.SnapshotReady(version))

    def _peer_pid(self) -> int:
        peer: socket.socket = self._transport.get_extra_info("socket")
        data = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(data)[0])
