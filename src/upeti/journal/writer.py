"""Writing the journal: one writer per process, one block per turn of the event loop.

Rules: ``append`` queues a record; at the end of the loop's turn all queued records become one block, one write. ``await
writer`` returns when everything queued before it is as durable as configured: handed to the kernel (``process``:
survives kill -9) or on the disk (``power``). A block that could not be written whole is cut off again and its waiters
fail: nothing counts as written that is not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from upeti.core.errors import JournalError
from upeti.core.events import (
    JOURNAL_VERSION,
    AttemptOpened,
    AttemptSettled,
    Outcome,
    Record,
    SegmentClosed,
    SegmentOpened,
)
from upeti.journal.blocks import GENESIS, encode_block, instance_dir, segment_path

# A segment that holds little more than its own header is not worth closing for its age; but the books wait for it, so
# one with any record is closed after an hour.
_WORTH_CLOSING_BYTES = 4096
_CLOSED_AFTER_NS = 3600 * 10**9
# A disk that has just failed is not tried again at once.
_RETRY_S = 0.05


class Waiter(Protocol):
    """Who can wait for the writer: the gateway's fibers, resumed inside the flush."""

    def resume(self, ticket: int, value: object = None) -> None: ...

    def fail(self, ticket: int, error: BaseException) -> None: ...


class _Afterwards:
    """A plain function that waits for the writer; it is told whether what it waited for is durable."""

    def __init__(self, act: Callable[[bool], None]) -> None:
        self._act = act

    def resume(self, ticket: int, value: object = None) -> None:
        self._act(True)

    def fail(self, ticket: int, error: BaseException) -> None:
        self._act(False)


class _Segments:
    """The files of one instance: the current one, its size, age and chain."""

    def __init__(self, data_dir: Path, instance: str, now_ns: Callable[[], int]) -> None:
        self._data_dir = data_dir
        self._instance = instance
        self._now_ns = now_ns
        self._descriptor = -1
        self._digest = GENESIS
        self._number = -1
        self._first: SegmentOpened | None = None  # record of a segment, until it is written
        self.bytes = 0
        self.carried_bytes = 0  # of which the first record: what is open may be more than a small segment holds
        self.opened_ns = 0

    def begin(self) -> None:
        """Open the first segment. Raises ``OSError``, and ``JournalError`` when nothing can be written to it."""
        self._path(0).parent.mkdir(parents=True, exist_ok=True)
        self._use(self._open(0), ())
        self.write([])

    def rotate(self, carried: tuple[AttemptOpened, ...]) -> None:
        """End this segment and begin the next. Raises ``JournalError`` when that cannot be done now; this one goes on."""
        number = self._number + 1
        try:
            descriptor = self._open(number)
        except OSError as error:
            raise JournalError(f"the journal's next segment cannot be begun: {error}") from error
        try:
            self.end(final=False)
        except JournalError:
            os.close(descriptor)
            self._path(number).unlink()
            raise
        self._use(descriptor, carried)
        try:
            self.write([])
        except JournalError:
            pass  # the first record goes out with the next block

    def _path(self, number: int) -> Path:
        return segment_path(instance_dir(self._data_dir, self._instance), number)

    def _open(self, number: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        return os.open(self._path(number), flags, 0o600)

    def _use(self, descriptor: int, carried: tuple[AttemptOpened, ...]) -> None:
        self._descriptor = descriptor
        self._number += 1
        self.bytes = 0
        self.opened_ns = self._now_ns()
        self._first = SegmentOpened(JOURNAL_VERSION, self._instance, self._number, self.opened_ns, carried)

    def end(self, *, final: bool) -> None:
        self.write([SegmentClosed(self._now_ns(), final)])
        self.sync()
        os.close(self._descriptor)
        self._descriptor = -1

    def write(self, records: list[Record]) -> None:
        """Append one block. Raises ``JournalError`` with nothing of it left in the file."""
        if self._first is not None:
            records = [self._first, *records]
        block, digest = encode_block(self._digest, records)
        try:
            written = os.write(self._descriptor, block)
            while written < len(block):
                written += os.write(self._descriptor, block[written:])
        except OSError as error:
            try:
                os.ftruncate(self._descriptor, self.bytes)
            except OSError as second:
                # The file now ends in a torn block: readers stop there, so this process must not go on writing behind it.
                raise SystemExit(f"the journal cannot be written nor repaired: {error}; {second}") from second
            raise JournalError(
                f"the journal cannot be written: {error}. Free disk space in the data directory."
            ) from error
        self._digest = digest
        self.bytes += len(block)
        if self._first is not None:
            self._first = None
            self.carried_bytes = self.bytes

    def sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            # After a failed sync the kernel may have dropped the pages: what is on the disk is unknown (fsyncgate, 2018).
            raise SystemExit(f"the journal cannot be synced: {error}") from error


class JournalWriter:
    """The journal of one worker, within its event loop."""

    def __init__(
        self,
        data_dir: Path,
        instance: str,
        *,
        loop: asyncio.AbstractEventLoop,
        now_ns: Callable[[], int],
        open_attempts: Callable[[], tuple[AttemptOpened, ...]],
        durable: bool = False,
        segment_bytes: int = 64 * 1024 * 1024,
        segment_seconds: int = 300,
    ) -> None:
        """``durable``: fsync each block (durability "power"). ``open_attempts`` names what a new segment carries over."""
        self._loop = loop
        self._now_ns = now_ns
        self._open_attempts = open_attempts
        self._segment_bytes = segment_bytes
        self._segment_ns = segment_seconds * 10**9
        self._records: list[Record] = []
        self._waiters: list[tuple[Waiter, int]] = []
        self._scheduled = False
        self._rotation_due = False
        self._closed = False
        self._syncer = ThreadPoolExecutor(1, "journal-sync") if durable else None
        self._segments = _Segments(data_dir, instance, now_ns)
        self._segments.begin()

    def append(self, record: Record) -> None:
        """Queue a record for this turn's block."""
        self._records.append(record)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def park(self, fiber: Waiter, ticket: int) -> None:
        self._waiters.append((fiber, ticket))

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until every record queued so far is durable. Raises ``JournalError`` when it cannot be made so."""
        if self._scheduled:
            yield self

    def when_durable(self, act: Callable[[bool], None]) -> None:
        """Call ``act(True)`` once every record queued so far is durable, or ``act(False)`` when it cannot be made so."""
        if not self._scheduled and not self._records:
            act(True)
            return
        self._waiters.append((_Afterwards(act), 0))
        if not self._scheduled:  # what an earlier write could not take is queued still
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def rotate_when_old(self) -> None:
        """Called now and then: end a segment past its age, so that readers can treat it as closed."""
        age_ns = self._now_ns() - self._segments.opened_ns
        content_bytes = self._segments.bytes - self._segments.carried_bytes
        is_old = age_ns >= max(self._segment_ns, _CLOSED_AFTER_NS) and content_bytes > 0
        if is_old or (age_ns >= self._segment_ns and content_bytes > _WORTH_CLOSING_BYTES):
            self._rotation_due = True
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Write what is queued and end the journal of this instance. Nothing can be appended afterwards."""
        self._closed = True
        if self._syncer is not None:
            self._syncer.shutdown(wait=True)
        if self._records:
            self._segments.write(self._records)
            self._records = []
        self._segments.end(final=True)
        waiters, self._waiters = self._waiters, []
        self._release(waiters, None)

    def _flush(self) -> None:
        if self._closed:
            return  # asked for before the end: ``close`` has written what there was
        records, self._records = self._records, []
        waiters, self._waiters = self._waiters, []
        # What is open is asked at the same moment at which the queue is taken: every record up to now goes into the old
        # segment, every later one into the new.
        carried = None
        if self._rotation_due or self._segments.bytes - self._segments.carried_bytes >= self._segment_bytes:
            self._rotation_due = False
            carried = self._open_attempts()
        if self._syncer is None:
            self._scheduled = False
            self._release(waiters, self._write(records, carried))
        else:
            # Stays scheduled: what is queued during the sync goes out together when it is done.
            future = self._loop.run_in_executor(self._syncer, self._write, records, carried)
            future.add_done_callback(lambda done: self._synced(waiters, done.result()))

    def _write(self, records: list[Record], carried: tuple[AttemptOpened, ...] | None) -> JournalError | None:
        try:
            if records:
                self._segments.write(records)
                if self._syncer is not None:
                    self._segments.sync()
        except JournalError as error:
            self._keep_settlements(records)
            return error
        if carried is not None:
            try:
                self._segments.rotate(carried)
            except JournalError:
                self._rotation_due = True  # what was queued is written; the segment is ended when there is room
        return None

    def _keep_settlements(self, records: list[Record]) -> None:
        """What was owed before the disk failed is still owed: it goes out with the next block.

        Attempts that could not be opened were not dispatched, so nothing is lost with them; nor can this list grow, as no
        call gets past its opening while the disk fails.
        """
        kept = [r for r in records if isinstance(r, AttemptSettled) and r.outcome is not Outcome.VOIDED]
        self._records[:0] = kept

    def _synced(self, waiters: list[tuple[Waiter, int]], error: JournalError | None) -> None:
        if error is not None:
            self._loop.call_later(_RETRY_S, self._flush)
        elif self._records or self._waiters:
            self._flush()
        else:
            self._scheduled = False
        self._release(waiters, error)

    def _release(self, waiters: list[tuple[Waiter, int]], error: JournalError | None) -> None:
        for fiber, ticket in waiters:
            if error is None:
                fiber.resume(ticket)
            else:
                fiber.fail(ticket, error)


class SyncJournal:
    """A journal written without an event loop: each ``append`` is one block, on the disk when it returns."""

    def __init__(self, data_dir: Path, instance: str, now_ns: Callable[[], int]) -> None:
        self._segments = _Segments(data_dir, instance, now_ns)
        self._segments.begin()

    def append(self, records: list[Record]) -> None:
        """Raises ``JournalError`` with nothing written."""
        self._segments.write(records)
        self._segments.sync()

    def rotate(self) -> None:
        """End the segment, so that what is in it is posted. Raises ``JournalError``; then this one goes on."""
        self._segments.rotate(())

    def close(self) -> None:
        self._segments.end(final=True)
