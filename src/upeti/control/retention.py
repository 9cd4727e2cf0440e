"""The keeper's clock of captured bodies: what is older than it may be kept is erased, by rule, at least once an hour."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from upeti.control import pairs
from upeti.control.store import Store
from upeti.core.config import Capture
from upeti.gateway.log import Log
from upeti.journal.bodies import bodies_at

_FIRST_S: Final = 5.0
_LOOK_S: Final = 600.0
_NS_PER_DAY: Final = 86_400 * 10**9


class Retention:
    """Erases what is due, also when capture is switched off: what was kept under it still has its term."""

    def __init__(self, store: Store, data_dir: Path, settings: Callable[[], Capture], log: Log) -> None:
        self._store = store
        self._data_dir = data_dir
        self._settings = settings
        self._log = log

    async def run(self) -> None:
        pause_s = _FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = _LOOK_S
            try:
                await asyncio.to_thread(self.look, time.time_ns())
            except Exception as error:  # a full disk, a database or a bucket that is away: it may pass
                self._log.error("retention_failed", f"{type(error).__name__}: {error}; it is tried again")

    def look(self, now_ns: int) -> pairs.Erased:
        """Erase what is due at ``now_ns``, and bodies that belong to nothing. Raises ``UpetiError``, ``OSError``."""
        settings = self._settings()
        if not pairs.counts(self._store):
            return pairs.Erased()
        bodies = bodies_at(self._data_dir, settings.url)
        erased = pairs.expire(self._store, bodies, before_ns=now_ns - settings.retention_days * _NS_PER_DAY)
        pairs.sweep(self._store, bodies, now_s=now_ns / 10**9)
        if erased.pairs:
            self._log.info("expired", "captured pairs were erased: their time was over", pairs=len(erased.pairs))
        return erased
