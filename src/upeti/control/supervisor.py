"""``upeti serve``: starts the keeper, the embedded providers and the workers, and starts again what dies.

Rules: before it says "ready", whatever does not start ends the whole with its reason; after that, nothing
does but a signal. A worker may be killed at any moment: the others go on, a new one takes its place. Every
child ends with this process, however it ends. To stop: workers first, which finish their calls; then the
keeper, which closes their journals; then the providers.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec

from upeti import __version__
from upeti.control import child, config_file
from upeti.control.compile import Placement
from upeti.control.places import Places
from upeti.control.ports import free_port, hold
from upeti.core.config import Channel, Config
from upeti.core.errors import UpetiError
from upeti.gateway.log import Log

_START_S: Final = 60.0  # the keeper may have to read the journals of dead workers first
_LOAD_S: Final = 180.0  # a model of some hundred megabytes from a cold disk
_POLL_S: Final = 0.02
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_STEADY_S: Final = 2.0  # a child that lived this long had started well: its back-off begins anew
_DRAIN_EXTRA_S: Final = 5.0  # above the workers' own limit
_STOP_S: Final = 20.0


class StartError(UpetiError):
    """Something did not start; what it wrote above says why."""


class _Child:
    """One process that is to run, and is started again when it ends."""

    def __init__(self, name: str, command: Callable[[int], list[str]]) -> None:
        self.name = name
        self.command = command  # of how many times it was started before
        self.process: asyncio.subprocess.Process | None = None
        self.watch: asyncio.Task[None] | None = None  # ends when the process has ended and is not wanted any more
        self.starts = 0
        self.failures = 0  # in a row
        self._unwanted = asyncio.Event()

    def is_unwanted(self) -> bool:
        return self._unwanted.is_set()

    def end(self) -> None:
        self._unwanted.set()
        self.signal(signal.SIGTERM)

    async def pause(self, seconds: float) -> None:
        """Wait before another start, unless none is wanted."""
        try:
            async with asyncio.timeout(seconds):
                await self._unwanted.wait()
        except TimeoutError:
            pass

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)


class Supervisor:
    """The processes of one ``upeti serve``."""

    def __init__(self, path: Path, *, workers: int | None, port: int | None, out: TextIO) -> None:
        """Raises ``UpetiError`` when the configuration is wrong, a port is taken, or it runs already."""
        self._path = path.absolute()
        self._out = out
        self._config = config_file.load(self._path)
        self._log = Log("supervisor", time.time_ns)
        self._places = Places(Path(self._config.data_dir))
        self._places.make()
        self._places.lock("serve")
        gateway, control = self._config.gateway, self._config.control
        # Held, not used: they keep the ports while processes come and go.
        gateway_hold = hold(gateway.host, gateway.port if port is None else port, "[gateway] port (or --port)")
        control_hold = hold(control.host, control.port, "[control] port")
        students_hold = hold("127.0.0.1", 0, "a port for own models")
        self._holds = (gateway_hold, control_hold, students_hold)
        self._embedded = [
            channel for channel in self._config.channel if channel.kind == "embedded" and not channel.base_url
        ]
        self.placement = Placement(
            gateway_host=gateway.host,
            gateway_port=gateway_hold.getsockname()[1],
            control_host=control.host,
            control_port=control_hold.getsockname()[1],
            workers=workers or gateway.workers,
            embedded={channel.name: free_port() for channel in self._embedded},
            students=students_hold.getsockname()[1],
        )
        self._keeper = _Child("keeper", self._keeper_command)
        self._providers = [self._provider(channel) for channel in self._embedded]
        self._workers = [self._worker(index) for index in range(self.placement.workers)]
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._is_ready = False

    async def run(self) -> None:
        """Serve until a signal. Raises ``StartError``."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._keeper.signal(signal.SIGHUP))
        starting: asyncio.Future[Any] = loop.create_task(self._start())
        stopping: asyncio.Future[Any] = loop.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                self._is_ready = True
                print("ready", file=self._out, flush=True)
                await asyncio.wait({stopping, self._failed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            starting.cancel()
            stopping.cancel()
            await self._end()
        if self._failed.done():
            raise StartError(self._failed.result())

    # -- start
    # ----------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._say_where()
        self._watch(self._keeper)
        await self._until(self._keeper_listens, _START_S, "the keeper")
        for provider in self._providers:
            self._watch(provider)
        for worker in self._workers:
            self._watch(worker)
        await self._until(self._workers_serve, _START_S, "a worker")
        for channel, port in self.placement.embedded.items():
            await self._until(lambda at=port: _status(at) == 200, _LOAD_S, f"the provider of `{channel}`")  # type: ignore[misc]

    async def _until(self, look: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not await asyncio.to_thread(look):
            if time.monotonic() > deadline:
                raise StartError(f"{what} did not start within {seconds:.0f} s; its last words are above")
            await asyncio.sleep(_POLL_S)

    def _keeper_listens(self) -> bool:
        """It listens only when the snapshot is written; an old keeper's socket has another peer."""
        process = self._keeper.process
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._places.socket))
            except OSError:
                return False
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return process is not None and struct.unpack("3i", credentials)[0] == process.pid

    def _workers_serve(self) -> bool:
        place = self.placement
        answer = _get(_reachable(place.control_host), place.control_port, "/readyz")
        if answer is None or json.loads(answer[1]).get("workers", 0) < place.workers:
            return False
        try:
            socket.create_connection((_reachable(place.gateway_host), place.gateway_port), 1).close()
        except OSError:
            return False
        return True

    def _say_where(self) -> None:
        place = self.placement
        scheme = "https" if self._config.gateway.tls_certificate else "http"
        many = "1 worker" if place.workers == 1 else f"{place.workers} workers"
        print(
            f"Upeti {__version__}\n"
            f"  gateway   {scheme}://{_shown(place.gateway_host)}:{place.gateway_port}/v1   ({many})\n"
            f"  control   http://{_shown(place.control_host)}:{place.control_port}/docs   "
            f"(token: {self._places.admin_token})\n"
            f"  config    {self._path}\n"
            f"  a key     upeti keys create --tenant NAME --config {self._path}",
            file=self._out,
            flush=True,
        )

    # -- children
    # -------------------------------------------------------------------------------------------------

    def _keeper_command(self, starts: int) -> list[str]:
        placement = msgspec.json.encode(self.placement).decode()
        command = ["upeti.control.keeper", "--config", str(self._path), "--placement", placement]
        # Workers serve from what the last keeper left: a file that is broken just now must not stop the next.
        return [*command, "--resume", self._config.data_dir] if starts else command

    def _provider(self, channel: Channel) -> _Child:
        port = self.placement.embedded[channel.name]
        command = ["upeti.providers.embedded_server", "--port", str(port)]
        model = _model_of(self._config, channel.name)
        if channel.model_file:
            command += ["--model", channel.model_file, "--alias", model or channel.name]
        elif model:
            command += ["--model", model]
        return _Child(f"provider {channel.name}", lambda _: command)

    def _worker(self, index: int) -> _Child:
        command = ["upeti.gateway.worker", "--data-dir", self._config.data_dir, "--index", str(index)]
        return _Child(f"worker {index}", lambda _: command)

    def _watch(self, watched: _Child) -> None:
        watched.watch = asyncio.get_running_loop().create_task(self._keep_running(watched))

    async def _keep_running(self, watched: _Child) -> None:
        while not watched.is_unwanted():
            began = time.monotonic()
            how = await self._run_once(watched)
            if watched.is_unwanted():
                return
            if not self._is_ready:
                if not self._failed.done():
                    self._failed.set_result(f"{watched.name} ended while starting ({how})")
                return
            if time.monotonic() - began > _STEADY_S:
                watched.failures = 0
            pause_s = min(_BACKOFF_FIRST_S * 2**watched.failures, _BACKOFF_MAX_S)
            watched.failures += 1
            self._log.warning("restart", f"{watched.name} ended ({how}); it is started again", pause_s=pause_s)
            await watched.pause(pause_s)

    async def _run_once(self, watched: _Child) -> str:
        """Start a process and wait for its end; return how it ended."""
        program = [sys.executable, "-m", *watched.command(watched.starts)]
        # The child inherits this: a SIGHUP that comes before it is ready for one waits, in place of ending it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            watched.process = await asyncio.create_subprocess_exec(
                *child.command(program, signal.SIGTERM),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr,  # standard output is for the banner
                start_new_session=True,  # Ctrl-C in a terminal is for the supervisor, which stops them in order
            )
        except OSError as error:  # no memory, too many processes: it may pass
            return f"it could not be started: {error.strerror}"
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        watched.starts += 1
        if watched.is_unwanted():
            watched.end()  # told to end while it was being started
        return _ending(await watched.process.wait())

    # -- stop
    # -----------------------------------------------------------------------------------------------------

    def _told_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _end(self) -> None:
        drain_s = self._config.gateway.drain_timeout_ms / 1000 + _DRAIN_EXTRA_S
        await self._end_children(self._workers, drain_s)
        await self._end_children([self._keeper], _STOP_S)
        await self._end_children(self._providers, _STOP_S)
        for held in self._holds:
            held.close()

    async def _end_children(self, children: list[_Child], seconds: float) -> None:
        """End them by SIGTERM; by SIGKILL when that takes too long, or in a hurry."""
        for each in children:
            each.end()
        running = {each.watch: each for each in children if each.watch is not None}
        if not running:
            return
        hurry: asyncio.Future[Any] = asyncio.create_task(self._hurry.wait())
        done: asyncio.Future[Any] = asyncio.gather(*running)
        await asyncio.wait({done, hurry}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        for watch, each in running.items():
            if not watch.done():
                self._log.warning("killed", f"{each.name} had not stopped yet and was killed")
                each.signal(signal.SIGKILL)
        await done


def _model_of(config: Config, channel: str) -> str:
    """Return the model that the routes ask of an embedded channel; empty for the default one."""
    models = (
        candidate.model
        for route in config.route
        for candidate in route.candidate
        if candidate.channel == channel and candidate.model not in ("", "*")
    )
    return next(models, "")


def _get(host: str, port: int, path: str) -> tuple[int, bytes] | None:
    """Return status and body; None when nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _status(port: int) -> int:
    answer = _get("127.0.0.1", port, "/health")
    return answer[0] if answer is not None else 0


def _reachable(host: str) -> str:
    """Return an address that reaches a server listening on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def _shown(host: str) -> str:
    reachable = _reachable(host)
    return f"[{reachable}]" if ":" in reachable else reachable


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


async def serve(path: Path, *, workers: int | None = None, port: int | None = None) -> None:
    """Run ``upeti serve`` until it is told to stop. Raises ``UpetiError``."""
    os.umask(0o077)
    await Supervisor(path, workers=workers, port=port, out=sys.stdout).run()
