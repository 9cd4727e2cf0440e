"""A process that the keeper keeps running beside it: started when it is wanted, replaced when it is to be another one.

Whatever happens to it, calls go on: it is only started again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

from upeti.control import child
from upeti.control.database import URL_VARIABLE
from upeti.gateway.log import Log

_LOOK_S: Final = 0.5
_AGAIN_S: Final = 5.0
_REFUSED_S: Final = 60.0  # the configuration is wrong, or a package is missing
_STOP_S: Final = 5.0


class KeptChild:
    """Keeps one process of a module running with the present arguments."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Callable[[], Sequence[str] | None],
        url: str,
        log: Log,
        hangs: Callable[[int], bool] = lambda pid: False,
    ) -> None:
        """``arguments`` gives those that are wanted now, None for no process. ``url`` is of the state, "" for SQLite. ``hangs``
        tells whether the process of a pid is there but does nothing any more: then another one takes its place.
        """
        self._name = name
        self._module = module
        self._arguments = arguments
        self._url = url
        self._log = log
        self._hangs = hangs

    async def run(self) -> None:
        while True:
            wanted = self._arguments()
            if wanted is None:
                await asyncio.sleep(_LOOK_S)
                continue
            process = await self._start(wanted)
            try:
                pause_s = await self._watch(process, wanted)
            finally:
                await _end(process)
            await self._changed(wanted, pause_s)

    async def _start(self, wanted: Sequence[str]) -> asyncio.subprocess.Process:
        program = [sys.executable, "-m", self._module, *wanted]
        return await asyncio.create_subprocess_exec(
            *child.command(program, signal.SIGTERM), env=os.environ | {URL_VARIABLE: self._url}
        )

    async def _watch(self, process: asyncio.subprocess.Process, wanted: Sequence[str]) -> float:
        """Return, once the process has ended or has the wrong arguments, how long to wait before the next."""
        ended = asyncio.create_task(process.wait())
        while True:
            done, _ = await asyncio.wait({ended}, timeout=_LOOK_S)
            if done:
                pause_s = _REFUSED_S if process.returncode == 2 else _AGAIN_S
                self._log.warning(
                    f"{self._name}_ended",
                    f"{self._name} ended with status {process.returncode}; it is started again",
                    pause_s=pause_s,
                )
                return pause_s
            hangs = self._hangs(process.pid)
            if hangs:
                self._log.warning(f"{self._name}_hangs", f"{self._name} does nothing any more; it is started again")
            if hangs or self._arguments() != wanted:
                ended.cancel()
                return 0.0

    async def _changed(self, wanted: Sequence[str], pause_s: float) -> None:
        """Wait for the pause, or until the arguments are others."""
        deadline_s = asyncio.get_running_loop().time() + pause_s
        while asyncio.get_running_loop().time() < deadline_s and self._arguments() == wanted:
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
