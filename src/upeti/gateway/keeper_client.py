"""A worker's line to the keeper: asks for leases, reports, hears of new snapshots. Reconnects by itself.

The keeper may be down: the worker goes on with its snapshot and its leases, and refuses only what it has no lease for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from upeti.gateway.keeper_link import (
    CutOffNews,
    CutOffOrder,
    FrameReader,
    Hello,
    KeeperWord,
    LeaseAsk,
    LeaseGrant,
    LeaseRecall,
    LeaseReturn,
    Metrics,
    MetricsAsk,
    MetricsText,
    SnapshotReady,
    WorkerWord,
    decode_keeper_word,
    frame,
)

_RECONNECT_S = 0.25


class KeeperClient:
    """Implements ``holds.Treasury``."""

    def __init__(self, socket_path: Path, instance: str, worker: int, loop: asyncio.AbstractEventLoop) -> None:
        self._path = socket_path
        self._instance = instance
        self._worker = worker
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._requests: dict[int, Callable[[str | None], None]] = {}
        self._request = 0
        self.on_grant: Callable[[LeaseGrant], None]
        self.on_recall: Callable[[str], None]
        self.on_snapshot: Callable[[], None]
        self.on_connected: Callable[[], None]
        self.on_cut_off: Callable[[CutOffOrder], None]
        self.leases: Callable[[], dict[str, tuple[int, int]]]

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            lost = self._loop.create_future()
            try:
                await self._loop.create_unix_connection(lambda: _Line(self, lost), str(self._path))  # noqa: B023
            except OSError:
                await asyncio.sleep(_RECONNECT_S)
                continue
            await lost
            self._transport = None
            for answer in self._requests.values():
                answer(None)
            self._requests.clear()
            await asyncio.sleep(_RECONNECT_S)

    def ask(self, budget: str, need_pico: int, posted_pico: int) -> bool:
        return self._send(LeaseAsk(budget, need_pico, posted_pico))

    def give_back(
        self, budget: str, amount_pico: int, posted_pico: int, *, recalled: bool = False, overrun: str = ""
    ) -> bool:
        # Sent and lost is not lost: what is left is said again with the next Hello, and the keeper takes back the rest.
        return self._send(LeaseReturn(budget, amount_pico, posted_pico, recalled, overrun))

    def report(self, samples: dict[str, float]) -> None:
        self._send(Metrics(samples))

    def ask_metrics(self, answer: Callable[[str | None], None]) -> None:
        """Call ``answer`` with the metrics text of all workers, or None when the keeper cannot be reached."""
        self._request += 1
        if self._send(MetricsAsk(self._request)):
            self._requests[self._request] = answer
        else:
            answer(None)

    def say(self, word: CutOffNews) -> bool:
        """Tell of a cut-off; False when nobody hears."""
        return self._send(word)

    def _send(self, word: WorkerWord) -> bool:
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(frame(word))
        return True

    def connected(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._send(Hello(self._instance, self._worker, os.getpid(), self.leases()))
        self.on_connected()
        self.on_snapshot()  # there may be one that we were not told of

    def heard(self, word: KeeperWord) -> None:
        match word:
            case LeaseGrant():
                self.on_grant(word)
            case LeaseRecall():
                self.on_recall(word.budget)
            case SnapshotReady():
                self.on_snapshot()
            case MetricsText():
                answer = self._requests.pop(word.request, None)
                if answer is not None:
                    answer(word.text)
            case _:
                self.on_cut_off(word)


class _Line(asyncio.Protocol):
    def __init__(self, client: KeeperClient, lost: asyncio.Future[None]) -> None:
        self._client = client
        self._lost = lost
        self._frames = FrameReader()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._client.connected(self._transport)

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._frames.feed(data):
                self._client.heard(decode_keeper_word(payload))
        except (ValueError, msgspec.MsgspecError):
            self._transport.abort()  # not a keeper of this version; try again, it may be restarting

    def connection_lost(self, error: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(None)
