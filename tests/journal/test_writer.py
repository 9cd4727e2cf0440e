"""The journal's writer: one block per turn of the loop, durable before anyone goes on, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from upeti.core.errors import JournalError
from upeti.core.events import AttemptOpened, AttemptSettled, Outcome, Record, SegmentClosed, SegmentOpened
from upeti.gateway.fiber import Fiber
from upeti.journal.blocks import GENESIS, decode_blocks, instance_dir, segment_path
from upeti.journal.reader import open_attempts
from upeti.journal.verify import verify
from upeti.journal.writer import JournalWriter, SyncJournal


def opened(call: int) -> AttemptOpened:
    return AttemptOpened(
        call, 0, call, f"req_{call}", "acme", "", "k1", "", "", "m", "c", "m", "chat_completions", False, (), 100
    )


def settled(call: int, outcome: Outcome = Outcome.POSTED) -> AttemptSettled:
    return AttemptSettled(call, 0, call + 1, outcome, "answered", 200, {"input": 1}, 7)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ns = 1_000

    def __call__(self) -> int:
        return self.ns


class Worker:
    """A writer with the open attempts of a worker beside it."""

    def __init__(self, data_dir: Path, **options: Any) -> None:
        self.clock = Clock()
        self.open: dict[int, AttemptOpened] = {}
        self.data_dir = data_dir
        self.writer = JournalWriter(
            data_dir,
            "w0-test",
            loop=asyncio.get_running_loop(),
            now_ns=self.clock,
            open_attempts=lambda: tuple(self.open.values()),
            **options,
        )

    def begin(self, call: int) -> None:
        self.open[call] = opened(call)
        self.writer.append(self.open[call])

    def end(self, call: int) -> None:
        del self.open[call]
        self.writer.append(settled(call))

    async def written(self) -> None:
        """Wait as a call does: in a fiber. Raises what the writer raises."""
        done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

        async def wait() -> None:
            await self.writer

        Fiber(lambda _, error: done.set_result(error), self).start(wait())
        error = await done
        if error is not None:
            raise error

    def blocks(self, number: int = 0, digest: bytes = GENESIS) -> list[list[Record]]:
        path = segment_path(instance_dir(self.data_dir, "w0-test"), number)
        return [records for _, _, _, records in decode_blocks(path.read_bytes(), digest)]


async def test_what_one_turn_of_the_loop_queues_is_one_block(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    for call in range(50):
        worker.begin(call)
    await worker.written()
    assert [len(records) for records in worker.blocks()] == [1, 50]
    worker.end(0)
    await worker.written()
    assert [len(records) for records in worker.blocks()] == [1, 50, 1]


async def test_nobody_goes_on_before_it_is_written(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    worker.begin(1)
    assert len(worker.blocks()) == 1  # the segment's own
    await worker.written()
    assert worker.blocks()[1] == [opened(1)]


async def test_waiting_with_nothing_queued_does_not_wait(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    await asyncio.wait_for(worker.written(), 1)


async def test_what_waits_without_a_fiber_is_told_when_it_is_written(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    told: list[tuple[bool, int]] = []

    def written() -> int:
        return segment_path(instance_dir(tmp_path, "w0-test"), 0).stat().st_size

    worker.writer.when_durable(lambda durable: told.append((durable, written())))
    before = written()
    assert told == [(True, before)]  # nothing was queued
    worker.writer.append(opened(1))
    worker.writer.when_durable(lambda durable: told.append((durable, written())))
    assert len(told) == 1
    await asyncio.sleep(0.05)
    assert told[1] == (True, written())
    assert written() > before
    worker.writer.append(settled(1))
    worker.writer.when_durable(lambda durable: told.append((durable, written())))
    worker.writer.close()
    assert told[2] == (True, written())


async def test_durable_means_synced_before_anyone_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(tmp_path, durable=True)
    let_go, synced = threading.Event(), []

    def slow_disk(descriptor: int) -> None:
        let_go.wait(5)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fdatasync", slow_disk)
    worker.begin(1)
    waiting = asyncio.ensure_future(worker.written())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    worker.begin(2)  # while the disk is busy: goes out with the next block
    second = asyncio.ensure_future(worker.written())
    let_go.set()
    await waiting
    await second
    assert len(synced) == 2
    assert [len(records) for records in worker.blocks()] == [1, 1, 1]
    worker.writer.close()


async def test_rotation_carries_what_is_open(tmp_path: Path) -> None:
    worker = Worker(tmp_path, segment_bytes=2_000)
    for call in range(40):
        worker.begin(call)
        await worker.written()
        if call % 4:
            worker.end(call)
            await worker.written()
    segments = sorted(instance_dir(tmp_path, "w0-test").iterdir())
    assert len(segments) > 2
    assert list(open_attempts(instance_dir(tmp_path, "w0-test"))) == [(call, 0) for call in range(0, 40, 4)]
    for call in list(worker.open):
        worker.end(call)
    worker.writer.close()
    result = verify(tmp_path)
    assert result.sound
    assert not result.findings


async def test_durable_rotation_under_load_loses_nothing(tmp_path: Path) -> None:
    worker = Worker(tmp_path, segment_bytes=3_000, durable=True)

    async def call(number: int) -> None:
        worker.begin(number)
        await worker.written()
        await asyncio.sleep(0.001 * (number % 7))
        worker.end(number)
        await worker.written()

    await asyncio.gather(*(call(number) for number in range(200)))
    worker.writer.close()
    assert len(list(instance_dir(tmp_path, "w0-test").iterdir())) > 1  # how many blocks there are depends on the disk
    result = verify(tmp_path)
    assert result.sound
    assert not result.findings
    assert not open_attempts(instance_dir(tmp_path, "w0-test"))


async def test_an_old_segment_is_ended_a_young_or_empty_one_is_not(tmp_path: Path) -> None:
    worker = Worker(tmp_path, segment_seconds=10)
    folder = instance_dir(tmp_path, "w0-test")
    worker.clock.ns += 11 * 10**9
    worker.writer.rotate_when_old()
    await asyncio.sleep(0)
    assert len(list(folder.iterdir())) == 1  # nothing in it
    for call in range(100):
        worker.begin(call)
    await worker.written()
    worker.writer.rotate_when_old()
    await asyncio.sleep(0.01)
    assert len(list(folder.iterdir())) == 2
    records = [record for block in worker.blocks() for record in block]
    assert isinstance(records[-1], SegmentClosed)
    assert not records[-1].final
    worker.writer.rotate_when_old()
    await asyncio.sleep(0.01)
    assert len(list(folder.iterdir())) == 2


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Make the disk full at ``size`` bytes a file, for this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_fails_who_waits_and_leaves_no_half_block(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    worker.begin(1)
    await worker.written()
    size = segment_path(instance_dir(tmp_path, "w0-test"), 0).stat().st_size
    with file_size_limit(size + 10):
        worker.begin(2)
        with pytest.raises(JournalError, match="Free disk space"):
            await worker.written()
    assert segment_path(instance_dir(tmp_path, "w0-test"), 0).stat().st_size == size
    del worker.open[2]  # its call was refused
    worker.begin(3)
    await worker.written()
    assert [len(records) for records in worker.blocks()] == [1, 1, 1]


async def test_what_is_owed_is_written_when_the_disk_is_free_again(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    worker.begin(1)
    await worker.written()
    size = segment_path(instance_dir(tmp_path, "w0-test"), 0).stat().st_size
    with file_size_limit(size + 10):
        worker.end(1)
        with pytest.raises(JournalError):
            await worker.written()
    worker.begin(2)
    await worker.written()
    assert worker.blocks()[-1] == [settled(1), opened(2)]


async def test_close_writes_what_is_queued_and_ends_the_instance(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    worker.begin(1)
    worker.end(1)
    worker.writer.close()
    blocks = worker.blocks()
    assert blocks[1] == [opened(1), settled(1)]
    assert isinstance(blocks[2][0], SegmentClosed)
    assert blocks[2][0].final


async def test_two_instances_never_share_a_file(tmp_path: Path) -> None:
    Worker(tmp_path)
    with pytest.raises(FileExistsError):
        Worker(tmp_path)


def test_the_keepers_journal_is_on_the_disk_when_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SyncJournal(tmp_path, "keeper-1", Clock())
    synced = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    journal.append([opened(1), settled(1)])
    path = segment_path(instance_dir(tmp_path, "keeper-1"), 0)
    assert synced == [path.stat().st_size]
    blocks = [records for _, _, _, records in decode_blocks(path.read_bytes(), GENESIS)]
    assert isinstance(blocks[0][0], SegmentOpened)
    assert blocks[1] == [opened(1), settled(1)]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("room", [0, 40, 120, 400])
async def test_a_disk_that_is_full_at_the_end_of_a_segment_leaves_nobody_waiting(
    tmp_path: Path, durable: bool, room: int
) -> None:
    """The records are there, so their waiters go on; the segment is ended when there is room for that."""
    worker = Worker(tmp_path, durable=durable, segment_bytes=4_000)
    folder = instance_dir(tmp_path, "w0-test")
    for call in range(100):
        worker.begin(call)
    await worker.written()
    worker.end(0)
    block_bytes = 150  # of one settlement, rounded up
    with file_size_limit(segment_path(folder, 0).stat().st_size + block_bytes + room):
        await worker.written()
    for call in range(1, 4):
        worker.end(call)
        await worker.written()
    assert segment_path(folder, 1).exists()
    for call in range(4, 100):
        worker.end(call)
    worker.writer.close()
    result = verify(tmp_path)
    assert result.sound, result.findings
    assert not result.findings
    assert not open_attempts(folder)


@pytest.mark.parametrize("durable", [False, True])
async def test_a_segment_that_cannot_be_begun_is_begun_later(
    tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file descriptor is left, or no inode: the segment that is full is written on meanwhile."""
    worker = Worker(tmp_path, durable=durable, segment_bytes=3_000)

    def none_left(*arguments: Any) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", none_left)
        for call in range(60):
            worker.begin(call)
            await worker.written()
    assert len(list(instance_dir(tmp_path, "w0-test").iterdir())) == 1
    for call in range(60):
        worker.end(call)
    await worker.written()
    assert len(list(instance_dir(tmp_path, "w0-test").iterdir())) == 2
    worker.writer.close()
    result = verify(tmp_path)
    assert result.sound, result.findings
    assert not open_attempts(instance_dir(tmp_path, "w0-test"))


@pytest.mark.parametrize("durable", [False, True])
async def test_a_new_segment_whose_first_record_cannot_be_written_begins_with_the_next_block(
    tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(tmp_path, durable=durable, segment_bytes=1_000)
    folder = instance_dir(tmp_path, "w0-test")
    for call in range(60):
        worker.begin(call)
    await worker.written()
    write = os.write

    def no_room_for_another_file(descriptor: int, data: bytes) -> int:
        if not os.fstat(descriptor).st_size:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_room_for_another_file)
        worker.end(0)
        await worker.written()
        worker.begin(60)
        with pytest.raises(JournalError):
            await worker.written()
        del worker.open[60]  # its call was refused
        assert segment_path(folder, 1).stat().st_size == 0
        assert list(open_attempts(folder)) == [(call, 0) for call in range(1, 60)]
    for call in list(worker.open):
        worker.end(call)
    await worker.written()
    worker.writer.close()
    result = verify(tmp_path)
    assert result.sound, result.findings
    assert not open_attempts(folder)


async def test_a_full_disk_is_not_tried_without_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is owed waits for room, and does not burn the worker's time meanwhile."""
    worker = Worker(tmp_path, durable=True)
    worker.begin(1)
    await worker.written()
    tries = []

    def full(descriptor: int, data: bytes) -> int:
        tries.append(len(data))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        worker.end(1)
        with pytest.raises(JournalError):
            await worker.written()
        await asyncio.sleep(0.2)
        assert len(tries) < 20
    worker.begin(2)
    await worker.written()
    assert [record for block in worker.blocks() for record in block][-2:] == [settled(1), opened(2)]
    worker.end(2)
    worker.writer.close()
