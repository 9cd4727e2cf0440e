"""A real gateway in the test's own event loop: its snapshot is built in code, its journal is read back.

Whatever a test does, when it is over the books must be in order: nothing crashed, every attempt that was opened
is settled once, nothing is held any more, and the journal is sound.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import anthropic
import msgspec
import openai

from upeti.core import config
from upeti.core.events import AttemptOpened, AttemptSettled, CallRefused, Outcome, Record, SegmentOpened
from upeti.gateway import keeper_link as link
from upeti.gateway import snapshot as s
from upeti.gateway.gateway import Gateway
from upeti.gateway.holds import Purse
from upeti.gateway.log import Log
from upeti.gateway.server import ClientConnection
from upeti.journal.blocks import GENESIS
from upeti.journal.reader import instances, read_segment, segments
from upeti.journal.verify import verify
from upeti.money.budget import Budget
from upeti.money.price import Price
from upeti.sim.provider import SimProvider

KEY = "upeti-key-of-the-tests"
MICRO_USD = 10**6  # pico
PRICE = Price(
    "price-of-the-tests",
    "USD",
    0,
    {"input": 2 * MICRO_USD, "input_cached": MICRO_USD // 2, "output": 8 * MICRO_USD},
)
PRICED = {"*": (PRICE,)}
_CLIENT: dict[str, Any] = {"api_key": KEY, "max_retries": 0, "timeout": 10}

T = TypeVar("T", bound=Record)


async def until(look: Callable[[], Any], *, seconds: float = 5.0, what: str = "what was waited for") -> Any:
    """Return the first true value of ``look``."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (found := look()):
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not come within {seconds} s"
        await asyncio.sleep(0.005)
    return found


def channel(name: str, at: SimProvider | int, kind: str = "openai_compatible", **changes: Any) -> s.ChannelView:
    """A channel to a fake provider, or to a port of this machine. Azure's and Anthropic's paths begin at the root."""
    port, tls = (at, False) if isinstance(at, int) else (at.port, at.url.startswith("https"))
    path = "/v1" if kind in ("openai_compatible", "embedded") else ""
    return s.ChannelView(name, kind, "127.0.0.1", port, **({"tls": tls, "path": path} | changes))


def candidate(channel: str, model: str = "", **changes: Any) -> s.CandidateView:
    return s.CandidateView(
        **({"channel": channel, "model": model, "order": 0, "weight": 1, "prices": PRICED} | changes)
    )


def route(name: str, *candidates: s.CandidateView, **changes: Any) -> s.RouteView:
    return s.RouteView(name, candidates, **changes)


def keys(callers: dict[str, s.Caller]) -> dict[bytes, s.Caller]:
    return {sha256(key.encode()).digest(): caller for key, caller in callers.items()}


def snapshot(
    channels: list[s.ChannelView],
    routes: list[s.RouteView] | None = None,
    *,
    callers: dict[str, s.Caller] | None = None,
    limits: dict[str, Any] | None = None,
    **changes: Any,
) -> s.Snapshot:
    """Without routes every model goes to the first channel; without callers ``KEY`` may do everything."""
    if routes is None:
        routes = [route("*", candidate(channels[0].name))]
    if callers is None:
        callers = {KEY: s.Caller("k1", "acme", "shop")}
    first = s.Snapshot(
        1,
        config.Gateway(**({"port": 0, "drain_timeout_ms": 2_000} | (limits or {}))),
        config.Journal(),
        keys(callers),
        {one.name: one for one in channels},
        {one.name: one for one in routes},
    )
    return msgspec.structs.replace(first, **changes)


class KeptLog(Log):
    """A worker's log that keeps its lines instead of writing them."""

    def __init__(self, instance: str, now_ns: Callable[[], int]) -> None:
        super().__init__(instance, now_ns)
        self.lines: list[dict[str, Any]] = []

    def _write(self, level: str, event: str, message: str, fields: dict[str, object]) -> None:
        line = {"level": level, "event": event, "message": message, **fields}
        self.lines.append(json.loads(msgspec.json.encode(line)))


class _Windows(dict[str, Budget]):
    """Budgets by id; a window is made when it is first asked for, with the limit of its root."""

    def __init__(self, limits_pico: dict[str, int]) -> None:
        super().__init__({name: Budget(limit_pico) for name, limit_pico in limits_pico.items()})
        self._limits_pico = limits_pico

    def __missing__(self, name: str) -> Budget:
        return self.setdefault(name, Budget(self._limits_pico[name.partition("@")[0]]))


class SmallKeeper:
    """As much of a keeper as a worker needs: grants leases out of budgets, over the real socket."""

    def __init__(self, path: Path, limits_pico: dict[str, int]) -> None:
        self._path = path
        self.budgets = _Windows(limits_pico)
        self.heard: list[link.WorkerWord] = []
        self.slices = 1  # how many workers a grant leaves something for
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.close()

    def tell(self, word: link.KeeperWord) -> None:
        for writer in self._writers:
            writer.write(link.frame(word))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames, holder = link.FrameReader(), ""
        self._writers.add(writer)
        while data := await reader.read(65_536):
            for word in map(link.decode_worker_word, frames.feed(data)):
                self.heard.append(word)
                match word:
                    case link.Hello():
                        holder = word.instance
                        for name, (left, posted) in word.leases.items():
                            self.budgets[name].correct(holder, left, posted)
                    case link.LeaseAsk():
                        budget = self.budgets[word.budget]
                        budget.report(holder, word.posted_pico)
                        amount = budget.grant(holder, word.need_pico, self.slices)
                        grant = link.LeaseGrant(word.budget, amount, max(0, budget.rest_pico), budget.limit_pico)
                        writer.write(link.frame(grant))
                    case link.LeaseReturn():
                        self.budgets[word.budget].report(holder, word.posted_pico)
                        self.budgets[word.budget].give_back(holder, word.amount_pico)
                    case link.MetricsAsk():
                        writer.write(link.frame(link.MetricsText(word.request, "upeti_up 1\n")))
        self._writers.discard(writer)
        writer.close()


class Books:
    """What the journal of one data directory says."""

    def __init__(self, data_dir: Path) -> None:
        self.records: list[Record] = []
        for directory in instances(data_dir):
            digest = GENESIS
            for path in segments(directory):
                reading = read_segment(path, digest)
                digest = reading.digest
                self.records += reading.records
        self.opened = self._all(AttemptOpened)
        self.settled = self._all(AttemptSettled)
        self.refused = self._all(CallRefused)
        self.segments = self._all(SegmentOpened)

    def _all(self, kind: type[T]) -> list[T]:
        return [record for record in self.records if isinstance(record, kind)]

    def attempt(self) -> tuple[AttemptOpened, AttemptSettled]:
        """Return the only attempt there is."""
        (opened,), (settled,) = self.opened, self.settled
        assert (opened.call, opened.attempt) == (settled.call, settled.attempt)
        return opened, settled

    def outcomes(self) -> list[tuple[str, str]]:
        """Return (how it ended, how it was settled) of every attempt, in the order of the records."""
        return [(record.ended, record.outcome.value) for record in self.settled]


class Served:
    """A gateway that serves, for a test to talk to."""

    def __init__(
        self, data_dir: Path, first: s.Snapshot, tls: ssl.SSLContext | None, send_buffer_bytes: int | None
    ) -> None:
        self.data_dir = data_dir
        self.snapshot = first
        self._tls = tls
        self._send_buffer_bytes = send_buffer_bytes
        self.keeper: SmallKeeper | None = None
        self.crashes_allowed = False
        self.notices_allowed: set[str] = set()  # kinds of findings of the journal's check
        self._stopped = False
        self.port = 0

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        (self.data_dir / "run").mkdir(parents=True, exist_ok=True)
        s.write(self._snapshot_file, self.snapshot)
        self.gateway = Gateway(self.data_dir, 0, loop)
        self.log = KeptLog(self.gateway.instance, self.gateway.now_ns)
        self.gateway.log = self.log
        listener = socket.socket()
        if self._send_buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer_bytes)
        listener.bind(("127.0.0.1", 0))
        self._server = await loop.create_server(
            lambda: ClientConnection(self.gateway), sock=listener, ssl=self._tls, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._keeper_line = loop.create_task(self.gateway.keeper.run())
        self.gateway.tick()

    async def stop(self) -> None:
        """As a worker that is told to stop; the second time nothing is left to do."""
        if self._stopped:
            return
        self._stopped = True
        self._server.close()
        await self.gateway.drain()
        self._keeper_line.cancel()
        for live in self.gateway.view.channels.values():
            live.pool.close()
        if self.keeper is not None:
            await self.keeper.stop()

    @property
    def _snapshot_file(self) -> Path:
        return self.data_dir / "run" / "snapshot.msgpack"

    def swap(self, **changes: Any) -> None:
        """Leave a new snapshot and take it, as when the keeper tells of one."""
        self.snapshot = msgspec.structs.replace(self.snapshot, version=self.snapshot.version + 1, **changes)
        s.write(self._snapshot_file, self.snapshot)
        self.gateway.swap()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def books(self) -> Books:
        return Books(self.data_dir)

    def events(self) -> Counter[str]:
        """Return how often each event was logged."""
        return Counter(line["event"] for line in self.log.lines)

    def purse(self, budget: str) -> Purse:
        return self.gateway.holds.purse(budget)

    def openai(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**({"base_url": self.url + "/v1"} | _CLIENT | options))

    def azure(self, **options: Any) -> openai.AsyncAzureOpenAI:
        return openai.AsyncAzureOpenAI(
            **({"azure_endpoint": self.url, "api_version": "2024-10-21"} | _CLIENT | options)
        )

    def anthropic(self, **options: Any) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(**({"base_url": self.url} | _CLIENT | options))

    async def connect(self) -> Line:
        return Line(*await asyncio.open_connection("127.0.0.1", self.port))

    async def talk(self, data: bytes) -> bytes:
        """Send ``data`` on a connection of its own; return all that comes until the gateway closes it."""
        line = await self.connect()
        try:
            line.send(data)
            return await line.rest()
        finally:
            line.close()

    async def ask(self, data: bytes) -> Heard:
        """Send one request on a connection of its own; return its answer."""
        line = await self.connect()
        try:
            line.send(data)
            return await line.answer()
        finally:
            line.close()

    async def healthy(self) -> bool:
        return (await self.ask(b"GET /healthz HTTP/1.1\r\nhost: u\r\n\r\n")).status == 200

    def check_books(self) -> None:
        """Everything that must hold when nothing is under way any more."""
        if not self.crashes_allowed:
            assert not self.events()["crashed"], self.log.lines
        assert not self.gateway.open_attempts
        assert not self.gateway.fibers
        result = verify(self.data_dir)
        assert result.sound, result.findings
        assert [(one.open, one.torn_bytes, one.ended) for one in result.instances] == [(0, 0, True)]
        assert not [one for one in result.findings if one.kind not in self.notices_allowed], result.findings
        books = self.books()
        posted: Counter[str] = Counter()
        budgets = {(one.call, one.attempt): one.budgets for one in books.opened}
        for settled in books.settled:
            for budget in budgets[settled.call, settled.attempt]:
                posted[budget] += settled.cost_pico
            assert (settled.outcome is Outcome.POSTED) <= (settled.cost_pico >= 0)
        for budget, sum_pico in posted.items():
            assert self.purse(budget).posted == sum_pico
        for purse in self.gateway.holds._purses.values():
            assert (purse.budget, purse.held) == (purse.budget, 0)


class Heard:
    """One answer, as it came."""

    def __init__(self, head: bytes, body: bytes, raw_body: bytes) -> None:
        self.head = head
        self.body = body
        self.raw_body = raw_body
        first, *lines = head.split(b"\r\n")
        self.status = int(first.split()[1])
        pairs = [line.partition(b": ") for line in lines if line]
        self.headers = {name.decode().lower(): value.decode("latin-1") for name, _, value in pairs}

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error in OpenAI's shape; every field of it must be there."""
        error = self.json["error"]
        assert error.keys() == {"message", "type", "param", "code", "request_id"}
        assert error["request_id"] == self.headers["x-request-id"]
        return str(error["code"])


class Line:
    """A client's connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, seconds: float = 5.0) -> Heard:
        """Read one answer: by its length, in chunks, or to the end of the connection."""
        async with asyncio.timeout(seconds):
            head = await self.reader.readuntil(b"\r\n\r\n")
            answer = Heard(head, b"", b"")
            if answer.status == 100:
                return answer
            if (length := answer.headers.get("content-length")) is not None:
                body = raw = await self.reader.readexactly(int(length))
            elif answer.headers.get("transfer-encoding") == "chunked":
                body, raw = await self._chunks()
            elif answer.status == 204:
                body = raw = b""
            else:
                body = raw = await self.reader.read()
            return Heard(head, body, raw)

    async def _chunks(self) -> tuple[bytes, bytes]:
        body, raw = b"", b""
        while True:
            size = await self.reader.readuntil(b"\r\n")
            data = await self.reader.readexactly(int(size, 16) + 2)
            raw += size + data
            if size == b"0\r\n":
                return body, raw
            body += data[:-2]

    async def rest(self, seconds: float = 5.0) -> bytes:
        """Return what comes until the other side closes."""
        async with asyncio.timeout(seconds):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Leave so that the gateway notices at once: a plain end is taken for a half-closed connection."""
        peer = self.writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def request(
    body: object = None,
    path: str = "/v1/chat/completions",
    *,
    method: str = "POST",
    key: str | None = KEY,
    headers: str = "",
) -> bytes:
    """One request as bytes; ``body`` is sent as JSON unless it is bytes."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = f"{method} {path} HTTP/1.1\r\nHost: upeti\r\n"
    if key is not None:
        lines += f"Authorization: Bearer {key}\r\n"
    if body is not None:
        lines += f"Content-Length: {len(data)}\r\n"
        if "content-type" not in headers.lower():
            lines += "Content-Type: application/json\r\n"
    return (lines + headers + "\r\n").encode() + data


def chat(model: str = "m", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Halo dunia, 漢字 🙂"}], **fields}


@asynccontextmanager
async def serving(
    data_dir: Path,
    first: s.Snapshot,
    *,
    limits_pico: dict[str, int] | None = None,
    tls: ssl.SSLContext | None = None,
    send_buffer_bytes: int | None = None,
) -> AsyncIterator[Served]:
    """Serve from ``first``, with a keeper when there are limits; check the books when it is over.

    ``send_buffer_bytes`` is what the system keeps for a client; left alone it grows to megabytes.
    """
    served = Served(data_dir, first, tls, send_buffer_bytes)
    if limits_pico is not None:
        (data_dir / "run").mkdir(parents=True, exist_ok=True)
        served.keeper = SmallKeeper(data_dir / "run" / "keeper.sock", limits_pico)
        await served.keeper.start()
    await served.start()
    try:
        yield served
    finally:
        await served.stop()
    served.check_books()
