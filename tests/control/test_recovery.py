"""Workers that died: what was open is posted at its bound, the rest of the lease comes back, once."""

from __future__ import annotations

import subprocess
import sys
import time

from support.keeper_side import KeeperProcess, until
from upeti.core.events import AttemptRecovered
from upeti.journal.reader import recovered_attempts

WORKER = """
import socket, sys, time
from pathlib import Path
from upeti.core.events import AttemptOpened, AttemptSettled, Outcome
from upeti.gateway import keeper_link as link
from upeti.journal.writer import SyncJournal

data_dir, instance = Path(sys.argv[1]), sys.argv[2]
journal = SyncJournal(data_dir, instance, time.time_ns)
if "silent" not in sys.argv:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(data_dir / "run" / "keeper.sock"))
    connection.sendall(link.frame(link.Hello(instance, 0, 1)) + link.frame(link.LeaseAsk("key:k1", 400, 0)))
def opened(call, bound):
    return AttemptOpened(call, 0, time.time_ns(), f"r{call}", "acme", "", "k1", "", "", "m", "up", "m",
                         "chat_completions", False, ("key:k1",), bound)
def settled(call, cost):
    return AttemptSettled(call, 0, time.time_ns(), Outcome.POSTED, "answered", 200, {"input": 1}, cost)
journal.append([opened(1, 100), opened(2, 150)])
journal.append([settled(1, 60), opened(3, 70)])
print("written", flush=True)
time.sleep(60)
"""


def start_worker(keeper: KeeperProcess, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(keeper.data_dir), *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    return process


def recovered(keeper: KeeperProcess) -> list[tuple[str, int, int]]:
    records: list[AttemptRecovered] = list(recovered_attempts(keeper.data_dir))
    return [(record.instance, record.opened.call, record.cost_pico) for record in records]


OPEN = [("w0-a", 2, 150), ("w0-a", 3, 70)]
POSTED = {"spent": "0.00000000028", "leased": "0"}  # 60 settled, 150 and 70 open


def test_a_killed_worker_is_posted_at_its_bound_and_its_lease_comes_back(keeper: KeeperProcess) -> None:
    process = start_worker(keeper, "w0-a")
    until(lambda: keeper.budget()["leased"] == "0.0000000005")
    process.kill()
    process.wait()
    until(lambda: keeper.budget()["leased"] == "0", seconds=5)
    assert keeper.budget().items() >= POSTED.items()
    assert recovered(keeper) == OPEN
    assert keeper.stop() == 0
    assert recovered(keeper) == OPEN


def test_a_worker_that_died_while_there_was_no_keeper(keeper: KeeperProcess) -> None:
    process = start_worker(keeper, "w0-a")
    until(lambda: keeper.budget()["leased"] == "0.0000000005")
    keeper.kill()
    process.kill()
    process.wait()
    keeper.start()
    assert keeper.budget().items() >= POSTED.items()
    assert recovered(keeper) == OPEN


def test_a_lost_link_alone_is_no_death(keeper: KeeperProcess) -> None:
    process = start_worker(keeper, "w0-a")
    until(lambda: keeper.budget()["leased"] == "0.0000000005")
    keeper.kill()
    keeper.start()
    time.sleep(1.2)
    assert keeper.budget()["leased"] == "0.0000000005"
    assert recovered(keeper) == []
    process.kill()
    process.wait()
    until(lambda: recovered(keeper) == OPEN, seconds=5)


def test_a_recovery_that_broke_off_is_finished_once(keeper: KeeperProcess) -> None:
    """The records were written, the state was not: as after a kill between the two."""
    process = start_worker(keeper, "w0-a")
    until(lambda: keeper.budget()["leased"] == "0.0000000005")
    keeper.kill()
    process.kill()
    process.wait()
    restore = keeper.saved_state()
    keeper.start()
    assert recovered(keeper) == OPEN
    keeper.kill()
    restore()
    keeper.start()
    assert keeper.budget().items() >= POSTED.items()
    assert recovered(keeper) == OPEN


def test_a_worker_that_never_said_hello(keeper: KeeperProcess) -> None:
    """It is left alone while its process holds its journal; then what it left open is posted, on a budget it had no
    lease of."""
    process = start_worker(keeper, "w0-a", "silent")
    keeper.kill()
    keeper.start()
    time.sleep(0.5)
    assert recovered(keeper) == []
    process.kill()
    process.wait()
    until(lambda: recovered(keeper) == OPEN, seconds=10)
    until(lambda: keeper.budget().items() >= POSTED.items())


def test_a_stopping_keeper_leaves_nothing_open(keeper: KeeperProcess) -> None:
    process = start_worker(keeper, "w0-a", "silent")
    process.kill()
    process.wait()
    assert keeper.stop() == 0
    assert recovered(keeper) == OPEN


def test_a_damaged_journal_keeps_its_lease_and_is_named(keeper: KeeperProcess) -> None:
    process = start_worker(keeper, "w0-a")
    until(lambda: keeper.budget()["leased"] == "0.0000000005")
    file = keeper.data_dir / "journal" / "w0-a" / "00000000.upj"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    process.kill()
    process.wait()
    until(lambda: "w0-a" in keeper.get("/v1/status")["damaged_journals"])
    assert keeper.budget()["leased"] == "0.0000000005"
    assert recovered(keeper) == []
