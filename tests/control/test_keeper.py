"""The keeper as a process: its files, its restarts, one at a time."""

from __future__ import annotations

import asyncio
import hashlib
import stat
from pathlib import Path

import pytest

from support.journal_files import JournalFiles, opened, settled
from support.keeper_side import KEY, Connect, KeeperProcess, running_keeper, until
from upeti.control.keeper import within
from upeti.control.places import Places, TakenError
from upeti.gateway import keeper_link as link

LIMIT = 1000


def test_files_of_a_run_are_the_owners_alone(shared: KeeperProcess) -> None:
    run = shared.data_dir / "run"
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in run.iterdir()}
    assert modes.keys() >= {"snapshot.msgpack", "keeper.sock", "admin-token", "control-address"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(run.stat().st_mode) == 0o700


def test_the_snapshot_says_what_the_configuration_says(shared: KeeperProcess) -> None:
    snapshot = shared.snapshot()
    caller = snapshot.keys[hashlib.sha256(KEY.encode()).digest()]
    assert (caller.key, caller.tenant, caller.budgets) == ("k1", "acme", ("key:k1",))
    assert snapshot.default_channel == "up"
    assert KEY.encode() not in (shared.data_dir / "run" / "snapshot.msgpack").read_bytes()


async def test_a_grant_outlives_the_keeper_and_the_worker_goes_on(keeper: KeeperProcess, connect: Connect) -> None:
    worker = await connect(keeper, "key:k1", instance="w0-1")
    first = await worker.ask(10)
    keeper.kill()
    keeper.start()
    again = await connect(keeper, "key:k1", instance="w0-1")
    second = await again.ask(LIMIT, posted_pico=30)
    assert first.amount_pico + second.amount_pico == LIMIT
    assert keeper.budget()["spent"] == "0.00000000003"
    third = await connect(keeper, "key:k1", instance="w0-1", leases={"key:k1": (70, 30)})
    assert await third.ask(LIMIT, posted_pico=30) == link.LeaseGrant("key:k1", 900, 0, LIMIT)


def test_a_second_keeper_is_refused(shared: KeeperProcess) -> None:
    with pytest.raises(TakenError, match=r"another keeper \(process \d+\) runs on .*; stop it"):
        Places(shared.data_dir).lock("keeper")


async def test_a_state_that_cannot_be_written_is_no_lack_of_money(keeper: KeeperProcess, connect: Connect) -> None:
    """Who asks is cut off, so that it says the keeper is unreachable; nobody is told that a budget is empty."""
    worker = await connect(keeper, "key:k1")
    tables = {"leases": "away", "counters": "gone", "instances": "missing"}
    keeper.change_state(*(f"ALTER TABLE {table} RENAME TO {other}" for table, other in tables.items()))
    worker.say(link.LeaseAsk("key:k1", 1, 0))
    with pytest.raises((EOFError, ConnectionError)):
        await worker.hear()
    until(lambda: {"ledger_failed", "snapshot_failed", "recovery_failed"} <= set(keeper.events()))
    keeper.change_state(*(f"ALTER TABLE {other} RENAME TO {table}" for table, other in tables.items()))
    assert (await (await connect(keeper, "key:k1")).ask(1)).amount_pico > 0


def test_closed_segments_become_parquet(tmp_path: Path) -> None:
    journal = JournalFiles(tmp_path / "data", "w0-1")
    journal.append(opened(1), settled(1))
    journal.close()
    with running_keeper(tmp_path):
        until(lambda: (tmp_path / "data" / "events" / "w0-1-00000000.parquet").exists(), seconds=20)


@pytest.mark.parametrize("turns", range(6))
async def test_a_wait_does_not_forget_that_it_was_cancelled(turns: int) -> None:
    """A keeper that stops cancels its parts, just when the links that it closes wake one of them."""
    event = asyncio.Event()

    async def part() -> None:
        while True:
            await within(5, event)
            event.clear()

    task = asyncio.create_task(part())
    await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=1)
    assert done
    assert task.cancelled()
