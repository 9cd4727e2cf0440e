"""Exchanges handed to the process that keeps them: from memory to memory, without waiting, dropped when it cannot follow.

Rules: nothing here touches a disk, because nothing is redacted yet. A call never waits for this: what the other side does
not read in time is dropped and counted. With nobody to be kept or watched, none of this runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from upeti.gateway.keeper_link import FRAME_HEAD
from upeti.gateway.live import Lane
from upeti.gateway.snapshot import CaptureView, hidden

if TYPE_CHECKING:
    from upeti.gateway.call import Call

FRAME_BYTES_MAX: Final = 256 * 1024 * 1024  # two bodies of the largest size a gateway takes, and more
# What may wait for the other side to read: a second of busy traffic. Beyond it the newest is dropped.
_WAITING_BYTES_MAX: Final = 16 * 1024 * 1024
_RECONNECT_S: Final = 0.25
_KEPT_WIRES: Final = frozenset({"chat_completions", "completions", "responses", "messages", "embeddings"})


class Exchange(msgspec.Struct, frozen=True, array_like=True):
    """A question and the whole of its answer, as the client sent and got them."""

    call_id: str
    attempt: int
    at_ns: int
    tenant: str
    project: str
    key: str
    feature: str
    task: str
    user: str  # of the header x-upeti-user; bodies name users in fields of their own
    route: str
    channel: str
    model: str
    wire: str
    stream: bool
    status: int
    request: bytes
    answer: bytes
    keep: bool  # its tenant has consented
    watch: bool  # the conduct monitor looks at it


_encode = msgspec.msgpack.Encoder().encode
decode_exchange: Final = msgspec.msgpack.Decoder(Exchange).decode


class Recorder:
    """Collects a streamed answer for one call, up to what may be kept."""

    __slots__ = ("_bytes", "_bytes_max", "parts")

    def __init__(self, bytes_max: int) -> None:
        self.parts: list[bytes] = []
        self._bytes = 0
        self._bytes_max = bytes_max

    def add(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes <= self._bytes_max:
            self.parts.append(data)
        else:
            self.parts.clear()

    def whole(self) -> bytes | None:
        """Return what was collected; None when it was too much."""
        return b"".join(self.parts) if self._bytes <= self._bytes_max else None


# Events of a stream repeat everything but a word each: a stream has up to so many times the bytes of its text.
_STREAM_FACTOR: Final = 64


class Capture:
    """The worker's line to the process that keeps exchanges."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, now_ns: Callable[[], int]) -> None:
        self._path = path
        self._loop = loop
        self._now_ns = now_ns
        self._transport: asyncio.Transport | None = None
        self._line: asyncio.Task[None] | None = None
        self.sent = 0
        self.dropped: dict[str, int] = {}  # by reason

    def follow(self, view: CaptureView | None) -> None:
        """Take what the newest snapshot says: be connected when somebody is to be kept or watched."""
        if view is not None and self._line is None:
            self._line = self._loop.create_task(self._stay_connected())
        elif view is None and self._line is not None:
            self._line.cancel()
            self._line = None
            if self._transport is not None:
                self._transport.close()
                self._transport = None

    def recorder(self, call: Call) -> Recorder | None:
        """Return what collects the stream that answers ``call``; None when nobody wants it."""
        view = call.view.snapshot.capture
        if view is None or not self._wanted(call, view):
            return None
        return Recorder(min(view.body_bytes_max * _STREAM_FACTOR, _WAITING_BYTES_MAX))

    def take(self, call: Call, lane: Lane, answer: bytes | None, status: int) -> None:
        """Hand on what ``call`` asked and was answered. ``answer`` None: it was too long."""
        view = call.view.snapshot.capture
        if view is None:
            return
        wanted = self._wanted(call, view)
        if not wanted:
            return
        keep, watch = wanted
        if answer is None or len(call.body) > view.body_bytes_max:
            self._drop("too_long")
            return
        transport = self._transport
        if transport is None or transport.is_closing():
            self._drop("not_connected")
            return
        if transport.get_write_buffer_size() > _WAITING_BYTES_MAX:
            self._drop("too_slow")
            return
        caller = call.caller
        assert caller is not None
        frame = _encode(
            Exchange(
                call.id,
                call.attempts - 1,
                self._now_ns(),
                caller.tenant,
                caller.project,
                caller.key,
                call.feature,
                call.task,
                call.headers.get(b"x-upeti-user", b"").decode("utf-8", "replace"),
                call.way.route.name,
                lane.channel.name,
                lane.model,
                call.target.wire.name,
                call.stream,
                status,
                call.body,
                answer,
                keep,
                watch,
            )
        )
        transport.write(FRAME_HEAD.pack(len(frame)) + frame)
        self.sent += 1

    def _wanted(self, call: Call, view: CaptureView) -> tuple[bool, bool] | None:
        """Return (keep, watch) for a call; None for neither."""
        caller = call.caller
        if caller is None or call.target.wire.name not in _KEPT_WIRES:
            return None
        features = view.keep.get(caller.tenant)
        keep = features is not None and (not features or call.feature in features)
        # An audit is asked by Upeti itself: it is nobody's conduct.
        watch = view.watch and not hidden(call.way.route.name)
        return (keep, watch) if keep or watch else None

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    async def _stay_connected(self) -> None:
        while True:
            lost = self._loop.create_future()
            try:
                transport, _ = await self._loop.create_unix_connection(lambda: _Line(lost), str(self._path))  # noqa: B023
            except OSError:
                await asyncio.sleep(_RECONNECT_S)
                continue
            self._transport = transport
            await lost
            self._transport = None
            await asyncio.sleep(_RECONNECT_S)


class _Line(asyncio.Protocol):
    """Nothing comes back on it; only its end matters."""

    def __init__(self, lost: asyncio.Future[None]) -> None:
        self._lost = lost

    def connection_lost(self, error: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(None)
