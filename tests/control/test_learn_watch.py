"""The keeper runs what is due in a process of its own, says how it ended, and does not run it again at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from support.capture_side import TERMS
from support.job_side import rows
from support.learn_side import BY, CONFIG, LearnSide
from upeti.control import learn_runs
from upeti.control.learn_watch import LearnWatch
from upeti.control.tables_learning import schedules
from upeti.core.config_learning import Learning
from upeti.gateway.log import Log


async def test_what_is_due_is_run_in_a_process_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "upeti.toml").write_text(CONFIG)
    side = LearnSide(tmp_path, TERMS)
    side.calls(rows()[:40])
    side.declare()
    learn_runs.schedule(side.store, "intents", 3600, **BY)
    with side.store.writing() as connection:
        connection.execute(schedules.update().values(since_ns=0))
    log = Log("keeper", lambda: 0)
    watch = LearnWatch(tmp_path / "upeti.toml", side.store, Learning, log, look_s=0.05)
    said: list[str] = []
    task = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(60):
            while not said:
                await asyncio.sleep(0.2)
                said += capfd.readouterr().err.splitlines()
        await asyncio.sleep(0.5)
    finally:
        task.cancel()
    said += capfd.readouterr().err.splitlines()
    told = [json.loads(line) for line in said]
    assert [(one["event"], one["outcome"]) for one in told] == [("learning_ran", "needs_calls")]  # once
    assert "the cycle of intents: needs " in told[0]["message"]
