"""The journal of acts: who decided what, when and why, one hash chain for each data directory.

Rules: an act is on the disk (fsync) before anything follows from it, so nothing takes effect that nobody signed for. One
writer at a time, by a lock; what a killed writer left of a block is cut off by the next one. It is read like a worker's
journal: ``{data_dir}/acts`` is a directory of one segment in the same format.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import msgspec

from upeti.core.errors import JournalError
from upeti.core.events import JOURNAL_VERSION, ActDone, Record, SegmentOpened
from upeti.journal.blocks import GENESIS, encode_block, segment_path
from upeti.journal.reader import Follower, SegmentScan

INSTANCE = "acts"


def acts_dir(data_dir: Path) -> Path:
    return data_dir / INSTANCE


def act(at_ns: int, actor: str, kind: str, subject: str, reason: str, **detail: Any) -> ActDone:
    """Return an act with a new id. ``detail`` is what JSON can hold."""
    text = msgspec.json.encode(detail, order="deterministic").decode()
    return ActDone(f"act_{token_hex(10)}", at_ns, actor, kind, subject, reason, text)


def record_acts(data_dir: Path, *acts: ActDone) -> None:
    """Append ``acts`` in one block; they are on the disk when this returns. Raises ``JournalError``: then none is."""
    directory = acts_dir(data_dir)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(directory):
            _append(segment_path(directory, 0), list(acts))
    except OSError as error:
        raise JournalError(
            f"acts cannot be recorded in {directory}: {error.strerror or error}; nothing was changed"
        ) from error


def read_acts(data_dir: Path) -> Iterator[ActDone]:
    """Yield all acts, oldest first. Raises ``JournalError`` when the journal is damaged."""
    for block in Follower(acts_dir(data_dir)).read():
        for record in block:
            if isinstance(record, ActDone):
                yield record


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _append(path: Path, acts: list[ActDone]) -> None:
    records: list[Record] = list(acts)
    end, digest = 0, GENESIS
    if path.exists() and path.stat().st_size:
        scan = SegmentScan(path, GENESIS)
        for _ in scan:
            pass
        if scan.tail_damage:
            raise JournalError(f"{scan.tail_damage}; restore it from a copy before anything new is decided")
        end, digest = scan.end, scan.digest
    if not end:
        records.insert(0, SegmentOpened(JOURNAL_VERSION, INSTANCE, 0, acts[0].at_ns))
    block, _ = encode_block(digest, records)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, end)  # a block that its writer was killed in
        written = 0
        while written < len(block):
            written += os.pwrite(descriptor, block[written:], end + written)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not end:  # the name, too: a file that a power loss makes unfindable is no record
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
