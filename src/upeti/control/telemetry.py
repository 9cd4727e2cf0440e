"""Telemetry: ``python -m upeti.control.telemetry``. One process per data directory, started by the keeper.

It follows the journals and sends what was settled to an OpenTelemetry collector; no call waits for it, and none is made
slower than by reading a file. At least once: a position is kept only after spans and metrics were taken, and after a
restart it goes on from there. While the collector is away the same batch is tried again, less and less often; nothing is
read ahead. Its ``[telemetry]`` settings come from the keeper, secrets as references.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from upeti.control.places import Places, TakenError, write_private
from upeti.control.telemetry_export import Endpoint, Exporter, require_sdk, sampled
from upeti.control.telemetry_journal import Attempt, JournalsReader, Position
from upeti.control.telemetry_names import VERSIONS
from upeti.core.config import Telemetry
from upeti.core.errors import ConfigError, UpetiError
from upeti.gateway import snapshot as snapshot_file
from upeti.gateway.log import Log
from upeti.gateway.secrets import header_value
from upeti.gateway.snapshot import SecretRef

BATCH: Final = 512
EXIT_TAKEN: Final = 3
_NICENESS: Final = 10  # below the workers, which share the machine
_IDLE_S: Final = 0.5
_METRICS_S: Final = 10.0
_RETRY_FIRST_S: Final = 1.0
_RETRY_MAX_S: Final = 60.0


class Kept(msgspec.Struct, frozen=True):
    """What is kept between two runs."""

    positions: dict[str, Position]


class Pump:
    """Reads, sends, keeps the position; until it is told to stop."""

    def __init__(self, places: Places, settings: Telemetry, exporter: Exporter, log: Log) -> None:
        self._places = places
        self._settings = settings
        self._exporter = exporter
        self._log = log
        self._stop = threading.Event()
        self._away = False
        self._told: set[str] = set()
        self._snapshot_ns = 0
        self._metrics_due_s = 0.0
        self._dirty = False
        self.file = places.data_dir / "telemetry.json"
        kept = _kept(self.file)
        self._journals = JournalsReader(places.data_dir, None if kept is None else kept.positions)
        self._sent = self._journals.positions()  # up to where the collector has all spans
        if kept is None:
            self._keep()

    def stop(self) -> None:
        self._stop.set()
        self._exporter.close(metrics=self._away)

    def run(self) -> None:
        self._pump()
        if self._dirty and not self._away and self._exporter.send_metrics():
            self._keep()

    def _pump(self) -> None:
        while not self._stop.is_set():
            self._learn_endpoints()
            batch: list[Attempt] = []
            for found in self._journals.read():
                batch += found
                if len(batch) >= BATCH:
                    if not self._send(batch):
                        return
                    batch = []
            if batch and not self._send(batch):
                return
            self._tell_damage()
            if self._dirty and not self._send_metrics(force=False):
                return
            if not batch:
                self._stop.wait(_IDLE_S)

    def _send(self, batch: list[Attempt]) -> bool:
        """Send a batch, however long it takes; False when told to stop before the collector had it."""
        share = self._settings.sample_share
        spans = [one for one in batch if sampled(one.opened.call_id, share)]
        if not self._persist(lambda: self._exporter.send_spans(spans)):
            return False
        self._sent = self._journals.positions()
        for attempt in batch:
            self._exporter.record(attempt)
        self._dirty = True
        return self._send_metrics(force=False)

    def _send_metrics(self, *, force: bool) -> bool:
        if not force and time.monotonic() < self._metrics_due_s:
            return True
        if not self._persist(self._exporter.send_metrics):
            return False
        self._metrics_due_s = time.monotonic() + _METRICS_S
        self._dirty = False
        self._keep()
        return True

    def _persist(self, send: Callable[[], bool]) -> bool:
        pause_s = _RETRY_FIRST_S
        while not self._stop.is_set():
            if send():
                if self._away:
                    self._away = False
                    self._log.info("telemetry_resumed", "the collector takes telemetry again")
                return True
            if not self._away and not self._stop.is_set():
                self._away = True
                self._log.warning(
                    "telemetry_unreachable",
                    f"{self._settings.otlp_endpoint} does not take telemetry; it is tried again, nothing is lost",
                )
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)
        return False

    def _keep(self) -> None:
        write_private(self.file, msgspec.json.encode(Kept(self._sent)).decode())

    def _learn_endpoints(self) -> None:
        """Read the channels' hosts from the snapshot that workers serve from, when there is a newer one."""
        try:
            changed_ns = self._places.snapshot.stat().st_mtime_ns
            if changed_ns != self._snapshot_ns:
                channels = snapshot_file.read(self._places.snapshot).channels.values()
                self._exporter.endpoints = {one.name: Endpoint(one.kind, one.host, one.port) for one in channels}
                self._snapshot_ns = changed_ns
        except (OSError, msgspec.MsgspecError):
            pass  # there is none yet, or it is just being replaced: spans have no address then

    def _tell_damage(self) -> None:
        for name, what in self._journals.damaged.items():
            if name not in self._told:
                self._told.add(name)
                self._log.error("telemetry_journal_damaged", f"{what}; its attempts are not sent on", worker=name)


def _kept(path: Path) -> Kept | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kept)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); remove it, and telemetry begins anew") from error


def _headers(settings: Telemetry, data_dir: Path) -> dict[str, str]:
    sealed: dict[str, bytes] = {}
    if any(place.startswith("stored:") for place in settings.headers.values()):
        from upeti.control.database import URL_VARIABLE
        from upeti.control.store import Store

        store = Store(data_dir, url=os.environ.get(URL_VARIABLE, ""))
        try:
            sealed = store.sealed_secrets()
        finally:
            store.close()
    headers = {}
    for name, place in settings.headers.items():
        kind, _, where = place.partition(":")
        if kind == "stored" and where not in sealed:
            raise ConfigError(f"there is no stored secret `{where}`; `upeti secrets set {where}` stores it")
        headers[name] = header_value(SecretRef(kind, where, sealed.get(where, b"")), data_dir)
    return headers


def run(data_dir: Path, settings: Telemetry, node: str) -> None:
    """Send until told to stop. Raises ``UpetiError``."""
    require_sdk()
    places = Places(data_dir)
    places.make()
    places.lock("telemetry")
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    logging.getLogger("opentelemetry").propagate = False  # our own log says what matters, once
    names = VERSIONS[settings.semconv]
    delta = settings.temporality == "delta"
    headers = _headers(settings, data_dir)
    exporter = Exporter(settings.otlp_endpoint, headers, names, settings.service_name, node, delta=delta)
    pump = Pump(places, settings, exporter, Log("telemetry", time.time_ns))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: pump.stop())
    pump.run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="upeti-telemetry", description="Telemetry; started by the keeper.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--settings", required=True, help="[telemetry] as JSON")
    parser.add_argument("--node", default="")
    arguments = parser.parse_args()
    os.nice(_NICENESS)
    try:
        run(arguments.data_dir, msgspec.json.decode(arguments.settings, type=Telemetry), arguments.node)
    except TakenError:
        return EXIT_TAKEN
    except UpetiError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
