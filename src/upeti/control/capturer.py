"""The process that takes exchanges from workers: ``python -m upeti.control.capturer``. Started by the keeper.

It gives each exchange to its sinks: one keeps what may be kept, redacted; one watches conduct. Nothing unredacted is
written anywhere. It may be killed at any moment: workers go on, and what is lost is what it had not kept yet. When it
cannot follow, workers drop; calls never wait for it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from upeti.control import config_file
from upeti.control.capture_sink import CaptureSink
from upeti.control.conduct import ConductSink
from upeti.control.database import URL_VARIABLE
from upeti.control.places import Places, TakenError
from upeti.control.rights import terms_in_force
from upeti.control.store import Store
from upeti.core.config import Config
from upeti.core.errors import ConfigError, UpetiError
from upeti.gateway.capture import FRAME_BYTES_MAX, Exchange, decode_exchange
from upeti.gateway.keeper_link import FRAME_HEAD
from upeti.gateway.log import Log
from upeti.rights.terms import Terms

EXIT_TAKEN: Final = 3
_NICENESS: Final = 10  # below the workers, which share the machine
_FLUSH_S: Final = 0.1  # how much is lost when it is killed
_LOOK_S: Final = 0.25  # a consent that was withdrawn is heeded within this


class Sink(Protocol):
    """Somebody who wants exchanges. A sink must not raise for what an exchange holds."""

    def learn(self, config: Config, terms: Terms) -> None:
        """Take what holds from now on."""

    def take(self, exchange: Exchange) -> None: ...

    def flush(self) -> None:
        """Called several times a second: write what was taken."""

    def close(self) -> None: ...


class Capturer:
    """Reads exchanges and gives them to the sinks."""

    def __init__(self, places: Places, store: Store, sinks: list[Sink], config: Callable[[], Config], log: Log) -> None:
        """``config`` reads the configuration in force. Raises ``ConfigError``."""
        self._places = places
        self._store = store
        self._sinks = sinks
        self._config = config
        self._log = log
        self._changes = -1
        self._read_s = 0.0
        self._stopping = asyncio.Event()
        self._readers: set[asyncio.StreamWriter] = set()
        self._learn()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        path = self._places.run / "capture.sock"
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, path, limit=1 << 20)
        path.chmod(0o600)
        self._log.info("capture_ready", "exchanges are taken")
        while not self._stopping.is_set():
            self._look()
            self._flush()
            try:
                async with asyncio.timeout(_FLUSH_S):
                    await self._stopping.wait()
            except TimeoutError:
                pass
        server.close()
        for writer in list(self._readers):
            writer.close()
        for sink in self._sinks:
            sink.flush()
            sink.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One worker. A peer that breaks the form is cut off."""
        self._readers.add(writer)
        try:
            while True:
                (length,) = FRAME_HEAD.unpack(await reader.readexactly(FRAME_HEAD.size))
                if length > FRAME_BYTES_MAX:
                    raise ValueError(f"a frame of {length} bytes")
                exchange = decode_exchange(await reader.readexactly(length))
                for sink in self._sinks:
                    sink.take(exchange)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the worker has ended
        except (ValueError, msgspec.MsgspecError) as error:
            self._log.warning("bad_peer", f"a worker's line was cut: {error}")
        finally:
            self._readers.discard(writer)
            writer.close()

    def _look(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s < self._read_s + _LOOK_S:
            return
        self._read_s = now_s
        try:
            if self._store.changes() != self._changes:
                self._learn()
        except (ConfigError, SQLAlchemyError) as error:  # a database that is away, a file that is being edited
            self._log.error("capture_old_terms", f"{error}; what was in force before stays so")

    def _learn(self) -> None:
        changes = self._store.changes()
        config = self._config()
        terms = terms_in_force(self._store, config)
        for sink in self._sinks:
            sink.learn(config, terms)
        self._changes = changes

    def _flush(self) -> None:
        for sink in self._sinks:
            try:
                sink.flush()
            except (UpetiError, SQLAlchemyError, OSError) as error:
                self._log.error("capture_failed", f"what was taken could not be kept: {type(error).__name__}: {error}")


def sinks_of(places: Places, store: Store, config: Config, log: Log) -> list[Sink]:
    """Return who wants exchanges under ``config``. Raises ``ConfigError``."""
    sinks: list[Sink] = []
    if config.capture.enabled:
        sinks.append(CaptureSink(places.data_dir, store, config.capture, log))
    sinks.append(ConductSink(places.data_dir, store, log))  # asleep unless [conduct] is on
    return sinks


def main() -> int:
    parser = argparse.ArgumentParser(prog="upeti-capture", description="Takes exchanges; started by the keeper.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument(
        "--settings", default="", help="a digest: with other settings the keeper starts another process"
    )
    arguments = parser.parse_args()
    os.umask(0o077)
    os.nice(_NICENESS)
    places = Places(arguments.data_dir)
    log = Log("capture", time.time_ns)

    def config() -> Config:
        return config_file.parse(places.good_config.read_text(), arguments.config).config

    try:
        places.make()
        places.lock("capture")
        store = Store(arguments.data_dir, url=os.environ.get(URL_VARIABLE, ""))
        try:
            capturer = Capturer(places, store, sinks_of(places, store, config(), log), config, log)
            asyncio.run(capturer.run())
        finally:
            store.close()
    except TakenError as error:
        log.warning("capture_taken", str(error))
        return EXIT_TAKEN
    except ConfigError as error:
        log.error("capture_refused", str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
