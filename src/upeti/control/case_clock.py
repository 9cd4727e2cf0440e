"""The keeper's clock of cases: what is to end by itself ends within a second of its time, on whichever node is first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from upeti.control.cases import end_clocks
from upeti.control.store import Store
from upeti.core.config import Conduct
from upeti.gateway.log import Log

_LOOK_S: Final = 1.0
_RETRY_S: Final = 5.0


class CaseClock:
    """Ends holds, throttles by rule and appeals that nobody decided."""

    def __init__(
        self, store: Store, data_dir: Path, settings: Callable[[], Conduct], refresh: Callable[[], None], log: Log
    ) -> None:
        self._store = store
        self._data_dir = data_dir
        self._settings = settings
        self._refresh = refresh
        self._log = log

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                settings = self._settings()
                ended = await asyncio.to_thread(end_clocks, self._store, self._data_dir, settings, time.time_ns())
            except Exception as error:  # a full disk, a database that is away: it may pass
                self._log.error("cases_failed", f"{type(error).__name__}: {error}; it is tried again")
                await asyncio.sleep(_RETRY_S)
                continue
            for case in ended:
                self._log.warning("case", f"the case {case.id} is {case.state} now: its time was over")
            if ended:
                self._refresh()
