"""Reading the journal: segments in order, the chain checked on the way, and folds that can go on.

A segment that is being written may end in a torn tail; so may the last segment of a dead instance. An earlier
segment may not: it was ended with SegmentClosed. What is read is always a prefix of what was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from upeti.core.errors import JournalError
from upeti.core.events import (
    AttemptOpened,
    AttemptRecovered,
    AttemptSettled,
    CostCorrected,
    Outcome,
    Record,
    SegmentClosed,
    SegmentOpened,
)
from upeti.journal.blocks import (
    GENESIS,
    HEADER,
    KEEPER_PREFIX,
    MAGIC,
    SEGMENT_SUFFIX,
    TailDamageError,
    decode_blocks,
    ends_closed,
    journal_dir,
    segment_number,
)

_LAST_BYTES = 1024  # a block with nothing but SegmentClosed has about 70

AttemptName = tuple[int, int]  # call, attempt: unique within an instance


def instances(data_dir: Path) -> list[Path]:
    """Return the directories of all instances that have a journal, by name."""
    root = journal_dir(data_dir)
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def segments(directory: Path) -> list[Path]:
    """Return an instance's segment files, by number. Raises ``JournalError`` for a file with a wrong name.

    Empty files at the end do not count: the process was killed between making one and writing to it.
    """
    paths = sorted(directory.glob(f"*{SEGMENT_SUFFIX}"), key=segment_number)
    while paths and not paths[-1].stat().st_size:
        paths.pop()
    return paths


class SegmentScan:
    """Blocks of one segment as lists of records; knows afterwards where and how the segment ended.

    Start from a known ``offset`` and the digest of the block before it to follow a file that grows.
    Raises ``JournalError`` while iterating when the file is damaged before its last block.
    """

    def __init__(self, path: Path, previous_digest: bytes, *, offset: int = 0) -> None:
        self.path = path
        self.end = offset  # of the last sound block
        self.digest = previous_digest  # of the last sound block
        self.torn_bytes = 0  # after the last sound block
        self.tail_damage = ""  # why the last block, though complete, cannot be read

    def __iter__(self) -> Iterator[list[Record]]:
        start = self.end
        with self.path.open("rb") as file:
            file.seek(start)
            data = file.read()
        try:
            for _, end, digest, records in decode_blocks(data, self.digest, base=start):
                self.end, self.digest = end, digest
                yield records
        except TailDamageError as error:
            self.tail_damage = f"{self.path.parent.name}/{self.path.name}: {error}"
        except JournalError as error:
            raise JournalError(f"{self.path.parent.name}/{self.path.name}: {error}") from error
        self.torn_bytes = start + len(data) - self.end

    def check_whole(self) -> None:
        """Raise ``JournalError`` when the segment, though not the last, does not end with a whole block."""
        if self.torn_bytes:
            where = f"{self.path.parent.name}/{self.path.name}: byte {self.end}: the end is torn"
            cure = "a later segment follows, so this is damage: restore the file from a copy"
            raise JournalError(f"{self.tail_damage or where}; {cure}")


class SegmentReading(msgspec.Struct, frozen=True):
    """All records of one segment, or of its part after an offset."""

    path: Path
    records: list[Record]
    end: int  # offset past the last sound block
    digest: bytes
    torn_bytes: int
    tail_damage: str = ""

    @property
    def opened(self) -> SegmentOpened | None:
        """The segment's first record; None when reading began later or nothing is there."""
        first = self.records[0] if self.records else None
        return first if isinstance(first, SegmentOpened) else None

    @property
    def closed(self) -> SegmentClosed | None:
        """The segment's last record, when it was ended on purpose."""
        last = self.records[-1] if self.records else None
        return last if isinstance(last, SegmentClosed) else None


def read_segment(path: Path, previous_digest: bytes, *, offset: int = 0) -> SegmentReading:
    """Read a segment whole. Raises ``JournalError`` for damage before its last block."""
    scan = SegmentScan(path, previous_digest, offset=offset)
    records = [record for block in scan for record in block]
    return SegmentReading(path, records, scan.end, scan.digest, scan.torn_bytes, scan.tail_damage)


def is_closed(path: Path) -> bool:
    """Tell from its last bytes whether a segment was ended on purpose (rotation, graceful stop)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LAST_BYTES))
        tail = file.read()
    try:
        return ends_closed(tail)
    except msgspec.DecodeError as error:
        raise JournalError(f"{path.parent.name}/{path.name}: the last block holds no records ({error})") from error


def digest_at_end(path: Path) -> bytes:
    """Return the digest of a segment's last block from its headers alone; the payloads are not checked.

    It is what the next segment is chained to, so a wrong one shows there. Raises ``JournalError`` when the
    file holds no block or does not end with one.
    """
    digest = b""
    data = path.read_bytes()
    offset = 0
    while offset + HEADER.size <= len(data):
        magic, length, _, digest = HEADER.unpack_from(data, offset)
        if magic != MAGIC:
            break
        offset += HEADER.size + length
    if not digest or offset != len(data):
        raise JournalError(
            f"{path.parent.name}/{path.name} does not end with a whole block, though a later segment "
            "follows; see `upeti journal verify`"
        )
    return digest


def digest_before(paths: list[Path], index: int) -> bytes:
    """Return what segment ``paths[index]`` of an instance is chained to. Raises ``JournalError``."""
    return digest_at_end(paths[index - 1]) if index else GENESIS


class Follower:
    """Reads an instance's journal on from where it was, over segments, however often it is asked."""

    def __init__(self, directory: Path, *, from_last_segment: bool = False) -> None:
        """Raises ``JournalError`` when the segment before the last one does not end well."""
        self.directory = directory
        self._segment = 0
        self._offset = 0
        self._digest = GENESIS
        paths = segments(directory) if from_last_segment else []
        if len(paths) > 1:
            self._segment = len(paths) - 1
            self._digest = digest_before(paths, self._segment)

    def read(self) -> Iterator[list[Record]]:
        """Yield what is new, block by block. Raises ``JournalError`` when the journal is damaged."""
        paths = segments(self.directory)
        if self._segment and len(paths) <= self._segment:
            self._missing(len(paths))
        for index in range(self._segment, len(paths)):
            if segment_number(paths[index]) != index:
                self._missing(index)
            if index > self._segment:
                self._segment, self._offset = index, 0
            scan = SegmentScan(paths[index], self._digest, offset=self._offset)
            for records in scan:
                self._offset, self._digest = scan.end, scan.digest
                yield records
            if index < len(paths) - 1:
                scan.check_whole()

    def _missing(self, number: int) -> NoReturn:
        raise JournalError(f"{self.directory.name}: segment {number} is missing; restore it from a copy")


class InstanceFold:
    """What an instance's journal says by now: attempts still open, money posted by budget.

    ``advance`` reads what is new since the last time, so the keeper can hold one per live worker and know
    at once what a dead one left behind.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.open: dict[AttemptName, AttemptOpened] = {}
        self.posted_pico: dict[str, int] = {}  # budget → posted and estimated costs
        self.ended = False  # by SegmentClosed(final=True)
        self._follower = Follower(directory)

    def advance(self) -> None:
        """Read on to the present end. Raises ``JournalError`` when the journal is damaged."""
        for records in self._follower.read():
            self._take(records)

    def _take(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, AttemptOpened):
                self.open[record.call, record.attempt] = record
            elif isinstance(record, AttemptSettled):
                opened = self.open.pop((record.call, record.attempt), None)
                if opened is None:
                    self._check_unopened(record)
                    continue
                if record.cost_pico:
                    for budget in opened.budgets:
                        self.posted_pico[budget] = self.posted_pico.get(budget, 0) + record.cost_pico
            elif isinstance(record, SegmentClosed):
                self.ended = record.final

    def _check_unopened(self, record: AttemptSettled) -> None:
        # When the disk is full the opening is not written, the attempt is not made, and its hold is voided.
        if record.outcome is not Outcome.VOIDED:
            raise JournalError(
                f"{self.directory.name}: attempt {record.call}-{record.attempt} was settled without "
                "being open; see `upeti journal verify`"
            )


def open_attempts(directory: Path) -> dict[AttemptName, AttemptOpened]:
    """Return the attempts of an instance that were opened and not settled. Raises ``JournalError``."""
    fold = InstanceFold(directory)
    fold.advance()
    return fold.open


def posted_by_budget(directory: Path) -> dict[str, int]:
    """Return what an instance posted by budget, estimates included, in pico. Raises ``JournalError``."""
    fold = InstanceFold(directory)
    fold.advance()
    return fold.posted_pico


def recovered_attempts(data_dir: Path) -> Iterator[AttemptRecovered]:
    """Yield every AttemptRecovered record of all keepers. Raises ``JournalError``."""
    for record in _keepers_records(data_dir):
        if isinstance(record, AttemptRecovered):
            yield record


def corrections(data_dir: Path) -> Iterator[CostCorrected]:
    """Yield every correction in this data directory. Raises ``JournalError``."""
    for record in _keepers_records(data_dir):
        if isinstance(record, CostCorrected):
            yield record


def _keepers_records(data_dir: Path) -> Iterator[Record]:
    for directory in instances(data_dir):
        if not directory.name.startswith(KEEPER_PREFIX):
            continue
        digest = GENESIS
        for path in segments(directory):
            scan = SegmentScan(path, digest)
            for records in scan:
                yield from records
            digest = scan.digest
