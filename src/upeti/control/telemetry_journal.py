"""Settled attempts out of the journals, each once, from a position that is kept.

Rules: the journal is the queue. Nothing is read ahead of what is being sent, so memory holds the attempts that are open
and one segment at most, however long the collector is away. A position is the end of a block; to go on from it, its
segment is read again from its beginning for the attempts that were open there. An instance whose journal is damaged is
left where it is, and said once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from upeti.core.errors import JournalError
from upeti.core.events import (
    AttemptOpened,
    AttemptRecovered,
    AttemptSettled,
    CallRefused,
    Outcome,
    Record,
    SegmentClosed,
    SegmentOpened,
)
from upeti.journal.blocks import GENESIS, segment_number
from upeti.journal.reader import AttemptName, SegmentScan, digest_before, instances, segments


class Attempt(msgspec.Struct, frozen=True):
    """One attempt that has ended."""

    instance: str
    opened: AttemptOpened
    settled: AttemptSettled


class Position(msgspec.Struct, frozen=True, array_like=True):
    segment: int
    offset: int


class InstanceReader:
    """Reads one instance on from ``position``; from its beginning when that is None."""

    def __init__(self, directory: Path, position: Position | None) -> None:
        self.directory = directory
        self.position = position or Position(0, 0)
        self.ended = False
        self.refused: list[CallRefused] | None = None  # a list, for who wants the calls that were told an error of ours
        self._open: dict[AttemptName, AttemptOpened] = {}
        self._digest: bytes | None = None if self.position.offset or self.position.segment else GENESIS

    def read(self) -> Iterator[list[Attempt]]:
        """Yield the attempts of each new block; ``position`` is then past it. Raises ``JournalError``."""
        paths = segments(self.directory)
        if len(paths) <= self.position.segment:
            return
        for index, path in enumerate(paths[self.position.segment :], self.position.segment):
            if segment_number(path) != index:
                raise JournalError(f"{self.directory.name}: segment {index} is missing; restore it from a copy")
        if self._digest is None:
            self._catch_up(paths)
        assert self._digest is not None
        for number in range(self.position.segment, len(paths)):
            offset = self.position.offset if number == self.position.segment else 0
            if offset and number == len(paths) - 1 and paths[number].stat().st_size <= offset:
                return
            scan = SegmentScan(paths[number], self._digest, offset=offset)
            for records in scan:
                self._digest = scan.digest
                self.position = Position(number, scan.end)
                yield self._take(records)
            if number < len(paths) - 1:
                scan.check_whole()

    @property
    def pending(self) -> frozenset[str]:
        """The calls that have an attempt under way."""
        return frozenset(opened.call_id for opened in self._open.values())

    def skip_to_end(self) -> None:
        """Go to the present end without telling of what is before it. Raises ``JournalError``."""
        paths = segments(self.directory)
        if paths:
            self.position = Position(len(paths) - 1, 0)
            self._digest = digest_before(paths, len(paths) - 1)
            for _ in self.read():
                pass

    def _catch_up(self, paths: list[Path]) -> None:
        """Learn what was open at the position."""
        number, end = self.position.segment, self.position.offset
        self._digest = digest_before(paths, number)
        scan = SegmentScan(paths[number], self._digest)
        for records in scan:
            if scan.end > end:
                return
            self._take(records)
            self._digest = scan.digest

    def _take(self, records: list[Record]) -> list[Attempt]:
        found = []
        for record in records:
            if isinstance(record, AttemptSettled):
                opened = self._open.pop((record.call, record.attempt), None)
                if opened is not None:
                    found.append(Attempt(self.directory.name, opened, record))
            elif isinstance(record, AttemptOpened):
                self._open[record.call, record.attempt] = record
            elif isinstance(record, AttemptRecovered):
                found.append(_recovered(record))
            elif isinstance(record, SegmentOpened):
                self._open.update(((one.call, one.attempt), one) for one in record.carried)
            elif isinstance(record, CallRefused):
                if self.refused is not None:
                    self.refused.append(record)
            elif isinstance(record, SegmentClosed):
                self.ended = record.final
        return found


def _recovered(record: AttemptRecovered) -> Attempt:
    """Return an attempt whose worker died, as the keeper settled it."""
    opened = record.opened
    settled = AttemptSettled(
        call=opened.call,
        attempt=opened.attempt,
        at_ns=record.at_ns,
        outcome=Outcome.ESTIMATED,
        ended="worker_died",
        status=0,
        meters=None,
        cost_pico=record.cost_pico,
    )
    return Attempt(record.instance, opened, settled)


class JournalsReader:
    """All instances of a data directory."""

    def __init__(self, data_dir: Path, positions: dict[str, Position] | None) -> None:
        """Without ``positions`` what is there already is skipped: telemetry begins now."""
        self._data_dir = data_dir
        self._readers: dict[str, InstanceReader] = {}
        self.damaged: dict[str, str] = {}  # instance → what is wrong
        for directory in instances(data_dir):
            reader = InstanceReader(directory, (positions or {}).get(directory.name))
            self._readers[directory.name] = reader
            if positions is None:
                try:
                    reader.skip_to_end()
                except (JournalError, OSError) as error:
                    self.damaged[directory.name] = str(error)

    def read(self) -> Iterator[list[Attempt]]:
        """Yield what is new in all journals, block by block."""
        for directory in instances(self._data_dir):
            name = directory.name
            reader = self._readers.get(name)
            if reader is None:
                reader = self._readers[name] = InstanceReader(directory, None)
            if reader.ended or name in self.damaged:
                continue
            try:
                yield from reader.read()
            except (JournalError, OSError) as error:
                self.damaged[name] = str(error)

    def positions(self) -> dict[str, Position]:
        return {name: reader.position for name, reader in self._readers.items()}
