"""The keeper's part of the learning cycle: what is due is run in a process of its own, one at a time.

``python -m upeti.control.learn_watch`` is that process. It opens the state, goes through the cycle and ends; the training
itself is a process below it (or a Ray task), so neither the keeper nor a worker ever imports a numerical library for it.
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
from typing import Final

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from upeti.control import child, learn_runs
from upeti.control.database import URL_VARIABLE
from upeti.control.learn_runs import Ended, Schedule
from upeti.control.rights import terms_in_force
from upeti.control.store import Store
from upeti.core.config_learning import Learning
from upeti.core.errors import UpetiError
from upeti.gateway.log import Log
from upeti.journal.bodies import bodies_at

_LOOK_S: Final = 60.0
_AGAIN_S: Final = 3_600.0  # after a run that did nothing or failed
_NICENESS: Final = 10


class LearnWatch:
    """Runs what is due, until cancelled."""

    def __init__(
        self, config: Path, store: Store, learning: Callable[[], Learning], log: Log, *, look_s: float = _LOOK_S
    ) -> None:
        self._config = config
        self._store = store
        self._learning = learning
        self._log = log
        self._look_s = look_s
        self._tried_s: dict[str, float] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            try:
                due = await asyncio.to_thread(
                    learn_runs.due, self._store, self._learning().retrain_hours, time.time_ns()
                )
            except Exception as error:  # a database that is away: it may pass
                self._log.error("learning_failed", f"{type(error).__name__}: {error}; it is tried again")
                continue
            for one in due:
                now_s = time.monotonic()
                if self._learning().enabled and now_s >= self._tried_s.get(one.task, 0.0):
                    self._tried_s[one.task] = now_s + min(_AGAIN_S, one.every_s)
                    await self._run(one)

    async def _run(self, one: Schedule) -> None:
        program = [sys.executable, "-m", "upeti.control.learn_watch", "--config", str(self._config)]
        program += ["--data-dir", str(self._store.data_dir), "--task", one.task, "--by", one.by, "--why", one.why]
        program += ["--every-s", str(one.every_s)]
        process = await asyncio.create_subprocess_exec(
            *child.command(program, signal.SIGTERM),
            env=os.environ | {URL_VARIABLE: self._store.url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, errors = await process.communicate()
        except asyncio.CancelledError:
            process.terminate()
            raise
        if process.returncode:
            said = errors.decode(errors="replace").strip()[-500:]
            self._log.error("learning_failed", f"the cycle of {one.task} could not run: {said}", task=one.task)
            return
        ran = msgspec.json.decode(out, type=learn_runs.Ran)
        told = self._log.info if ran.outcome in (Ended.SHADOW, Ended.NOTHING_NEW) else self._log.warning
        told("learning_ran", f"the cycle of {one.task}: {ran.why}", task=one.task, outcome=str(ran.outcome))


def main() -> int:
    # Only here: numerical libraries come with them.
    from upeti.control import learn_cycle
    from upeti.control.drill_job import document_of
    from upeti.control.training import Wanted

    parser = argparse.ArgumentParser(prog="upeti-learn", description="A job of the keeper; started by it.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    for name in ("--task", "--by", "--why"):
        parser.add_argument(name, required=True)
    parser.add_argument("--every-s", type=int, required=True)
    arguments = parser.parse_args()
    os.nice(_NICENESS)
    try:
        settings = document_of(arguments.config, arguments.data_dir).config
        store = Store(arguments.data_dir, url=os.environ.get(URL_VARIABLE, ""))
        try:
            channel = next((one.name for one in settings.channel if one.kind == "student"), "")
            ran = learn_cycle.run(
                store,
                terms_in_force(store, settings),
                bodies_at(store.data_dir, settings.capture.url),
                Wanted(task=arguments.task, channel=channel),
                by=arguments.by,
                why=arguments.why,
                capturing=settings.capture.enabled,
                again_after_hours=arguments.every_s / 3600,
                lapses_after_days=settings.learning.lapse_days,
                ray=settings.learning.ray,
            )
        finally:
            store.close()
    except (UpetiError, SQLAlchemyError) as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(ran))
    return 0


if __name__ == "__main__":
    sys.exit(main())
