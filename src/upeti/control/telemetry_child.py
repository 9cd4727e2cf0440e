"""The keeper's telemetry process: started when there is somewhere to send to, replaced when the settings change.

Whatever happens to it, calls go on: it is only started again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

import msgspec

from upeti.control import child
from upeti.control.database import URL_VARIABLE
from upeti.control.places import Places
from upeti.core.config import Telemetry
from upeti.gateway.log import Log

_LOOK_S: Final = 0.5
_AGAIN_S: Final = 5.0
_REFUSED_S: Final = 60.0  # the configuration is wrong, or a package is missing
_STOP_S: Final = 5.0


class TelemetryChild:
    """Keeps one telemetry process running with the present settings."""

    def __init__(self, settings: Callable[[], Telemetry], places: Places, url: str, node: str, log: Log) -> None:
        """``url`` is of the state, "" for SQLite."""
        self._settings = settings
        self._places = places
        self._url = url
        self._node = node
        self._log = log

    async def run(self) -> None:
        while True:
            settings = self._settings()
            if not settings.otlp_endpoint:
                await asyncio.sleep(_LOOK_S)
                continue
            process = await self._start(settings)
            try:
                pause_s = await self._watch(process, settings)
            finally:
                await _end(process)
            await self._changed(settings, pause_s)

    async def _start(self, settings: Telemetry) -> asyncio.subprocess.Process:
        program = [sys.executable, "-m", "upeti.control.telemetry", "--data-dir", str(self._places.data_dir)]
        program += ["--settings", msgspec.json.encode(settings).decode(), "--node", self._node]
        return await asyncio.create_subprocess_exec(
            *child.command(program, signal.SIGTERM), env=os.environ | {URL_VARIABLE: self._url}
        )

    async def _watch(self, process: asyncio.subprocess.Process, settings: Telemetry) -> float:
        """Return, once the process has ended or has the wrong settings, how long to wait before the next."""
        ended = asyncio.create_task(process.wait())
        while True:
            done, _ = await asyncio.wait({ended}, timeout=_LOOK_S)
            if done:
                refused = process.returncode == 2
                self._log.warning(
                    "telemetry_ended",
                    f"telemetry ended with status {process.returncode}; it is started again",
                    pause_s=_REFUSED_S if refused else _AGAIN_S,
                )
                return _REFUSED_S if refused else _AGAIN_S
            if self._settings() != settings:
                ended.cancel()
                return 0.0

    async def _changed(self, settings: Telemetry, pause_s: float) -> None:
        """Wait for the pause, or until the settings are others."""
        deadline_s = asyncio.get_running_loop().time() + pause_s
        while asyncio.get_running_loop().time() < deadline_s and self._settings() == settings:
            await asyncio.sleep(_LOOK_S)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
