"""A provider that is exact about usage and misbehaves on request: ``python -m upeti.sim.provider --port P``.

Rules: it speaks the OpenAI, Azure and Anthropic wires, plain and streamed; the model's name or the header
``x-sim`` says how (see ``behaviours``). With a log it appends one JSON line when a request has arrived
whole, before any byte of an answer, and one when it is done with it; each line is one write to a file
opened for appending, so several providers can share a log and a kill -9 loses nothing that was written. An
auditor compares the log with the gateway's journal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import TracebackType

import uvloop

from upeti.sim import answers
from upeti.sim.behaviours import Behaviour, behaviour_of
from upeti.sim.delivery import Delivery, Hold, Pause, Reset, delivery_of
from upeti.sim.http import NotHttp, Request, RequestReader, Served
from upeti.sim.values import Answer

READ_BYTES = 1 << 18
BACKLOG = 4096
STATUS_NONE = 0  # nothing that is HTTP was answered
# POST words here, and they hold for every request from then on; it is no request itself. Answered with the moment, in ns.
ALWAYS_PATH = "/sim/always"
CUT_PATH = "/sim/cut"  # the same, and what is under way on other connections is cut off


class ProviderLog:
    """Lines in a file that others append to at the same time."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, line: dict[str, object]) -> None:
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


class SimProvider:
    """The fake provider, in this process: ``async with SimProvider() as provider: provider.url``.

    ``requests`` holds what arrived, byte for byte, in order; ``keep_requests=False`` keeps nothing, for
    long runs. With ``api_key`` a request that does not carry it (as bearer, ``api-key`` or ``x-api-key``)
    is answered 401. ``says`` answers in place of words made up here (see ``replay``).
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        log: Path | None = None,
        seed: int = 0,
        api_key: str | None = None,
        keep_requests: bool = True,
        tls: ssl.SSLContext | None = None,
        says: Callable[[Request, Behaviour], Answer] = answers.answer,
    ) -> None:
        self.host = host
        self.port = port
        self.requests: list[Request] = []
        self.seen = 0  # requests that arrived whole
        self.connections_total = 0
        self.connections_open = 0
        self.always = ""  # words that hold for every request
        self._next: deque[str] = deque()
        self._log = ProviderLog(log) if log is not None else None
        self._seed = seed
        self._api_key = api_key
        self._keep_requests = keep_requests
        self._tls = tls
        self._says = says
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Condition()

    @property
    def url(self) -> str:
        """``http://host:port``, without a path. OpenAI's base URL is this and ``/v1``."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def next(self, *words: str) -> None:
        """The next requests behave like this, whatever their model: ``next("err500", "")``."""
        self._next.extend(words)

    async def start(self) -> None:
        """Listen; a second start after ``stop`` takes the same port. Raises ``OSError`` when it is taken."""
        self._server = await asyncio.start_server(
            self._connected, self.host, self.port, backlog=BACKLOG, limit=READ_BYTES, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and cut the open ones, as a provider that goes down does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_for(self, count: int, timeout_s: float = 10) -> None:
        """Wait until ``count`` requests have arrived. Raises ``TimeoutError``."""
        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(lambda: self.seen >= count)

    async def __aenter__(self) -> SimProvider:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if self._log is not None:
            self._log.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_total += 1
        task = asyncio.ensure_future(self._serve(self.connections_total, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests one after the other, pipelined ones too."""
        requests = RequestReader()
        self.connections_open += 1
        try:
            while True:
                request = requests.next()
                if request is None:
                    if requests.waits_for_continue:
                        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    data = await reader.read(READ_BYTES)
                    if not data:
                        return
                    requests.feed(data)
                elif not await self._exchange(connection, request, reader, writer):
                    return
        except NotHttp as error:
            writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self._write_log({"event": "not_http", "at_ns": time.time_ns(), "reason": str(error)})
        except OSError:
            pass  # the other side is gone
        finally:
            self.connections_open -= 1
            writer.close()

    async def _exchange(
        self, connection: int, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request. Returns whether the connection goes on."""
        if request.path in (ALWAYS_PATH, CUT_PATH):
            self.always = request.body.decode()
            if request.path == CUT_PATH:
                for task in self._tasks - {asyncio.current_task()}:
                    task.cancel()
            at = b"%d" % time.time_ns()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(at), at))
            return True
        self.seen += 1
        request.number, request.connection, request.at_ns = self.seen, connection, time.time_ns()
        behaviour = self._behaviour(request)
        answer = self._answer(request, behaviour)
        random = Random(self._seed * 1_000_003 + request.number)  # noqa: S311 - repeatable, not secret
        delivery = delivery_of(answer, behaviour, random)
        if (request.header("connection") or "").lower() == "close":
            delivery.keeps_open = False
        self._log_seen(request, behaviour)
        if self._keep_requests:
            self.requests.append(request)
        async with self._arrived:
            self._arrived.notify_all()
        complete = False
        try:
            complete = await _deliver(delivery, reader, writer)
        finally:
            request.served = Served(delivery.status, complete, delivery.billed)
            self._log_served(request)
        return complete and delivery.keeps_open

    def _behaviour(self, request: Request) -> Behaviour:
        if self._next:
            return behaviour_of(self._next.popleft())
        return behaviour_of(self.always, answers.model_of(request), request.header("x-sim") or "")

    def _answer(self, request: Request, behaviour: Behaviour) -> Answer:
        if self._api_key is not None:
            given = (request.header("authorization") or "").removeprefix("Bearer ")
            if self._api_key not in (given, request.header("api-key"), request.header("x-api-key")):
                return answers.error(401, answers.wire_of(request.path))
        return self._says(request, behaviour)

    def _log_seen(self, request: Request, behaviour: Behaviour) -> None:
        self._write_log(
            {
                "event": "seen",
                "request": request.number,
                "at_ns": request.at_ns,
                "client_request_id": request.header("x-client-request-id"),
                "method": request.method,
                "path": request.path,
                "wire": answers.wire_of(request.path),
                "model": answers.model_of(request),
                "stream": request.json.get("stream") is True,
                "body_bytes": len(request.body),
                "words": sorted(behaviour.words),
            }
        )

    def _log_served(self, request: Request) -> None:
        served = request.served
        assert served is not None
        self._write_log(
            {
                "event": "served",
                "request": request.number,
                "at_ns": time.time_ns(),
                "client_request_id": request.header("x-client-request-id"),
                "path": request.path,
                "model": answers.model_of(request),
                "status": served.status,
                "complete": served.complete,
                "billed": served.billed,
            }
        )

    def _write_log(self, line: dict[str, object]) -> None:
        if self._log is not None:
            self._log.write({"pid": os.getpid(), "port": self.port, **line})


async def _deliver(delivery: Delivery, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Carry the steps out; returns whether the whole answer went out. ``delivery.billed`` grows with it."""
    for step in delivery.steps:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
        elif isinstance(step, Hold):
            await _until_gone(reader)
            return False
        elif isinstance(step, Reset):
            _reset(writer)
            return False
        else:
            if writer.is_closing():
                return False
            delivery.billed = step.billed or delivery.billed
            writer.write(step.data)
            await writer.drain()
    return delivery.whole


async def _until_gone(reader: asyncio.StreamReader) -> None:
    while await reader.read(READ_BYTES):
        pass


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset, not an end."""
    peer = writer.get_extra_info("socket")
    if peer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def run(provider: SimProvider) -> None:
    """Serve until SIGTERM or SIGINT, after one JSON line that says where."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with provider:
        print(json.dumps({"event": "ready", "url": provider.url, "pid": os.getpid()}), flush=True)
        await stopped.wait()


def parse_arguments(arguments: Sequence[str]) -> SimProvider:
    parser = argparse.ArgumentParser(
        prog="python -m upeti.sim.provider", description="A fake model provider for tests and drills."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: the system chooses; the ready line says which")
    parser.add_argument("--log", type=Path, help="file to append a line to for every request seen and served")
    parser.add_argument("--seed", type=int, default=0, help="of the places where `split` cuts")
    parser.add_argument("--api-key", help="answer 401 without it")
    parser.add_argument("--always", default="", help="words that hold for every request, e.g. err503")
    parser.add_argument("--tls-certificate", type=Path)
    parser.add_argument("--tls-key", type=Path)
    found = parser.parse_args(arguments)
    tls = None
    if found.tls_certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(found.tls_certificate, found.tls_key)
    provider = SimProvider(
        host=found.host,
        port=found.port,
        log=found.log,
        seed=found.seed,
        api_key=found.api_key,
        keep_requests=False,
        tls=tls,
    )
    provider.always = found.always
    return provider


def main(arguments: Sequence[str] | None = None) -> None:
    uvloop.run(run(parse_arguments(sys.argv[1:] if arguments is None else arguments)))


if __name__ == "__main__":
    main()
