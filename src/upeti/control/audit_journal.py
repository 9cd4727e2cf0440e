"""The journal of audits of one certificate on one node: lines that are only ever added.

Rules: an observation is on the disk before anybody else may act on it; it has a number that rises by one, and counts once
wherever it is read. Each line carries its checksum. What a killed process left of a last line is cut off by the next one;
whatever else does not fit is refused, and the student with it: what is not known of the audits cannot be promised about.
No text of a call is in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from upeti.core.errors import UpetiError
from upeti.learning.audit import Observation

FOLDER: Final = "audits"  # in the data directory
_SUM: Final = 8  # hexadecimal digits before each line


class AuditJournalError(UpetiError):
    """A journal of audits cannot be trusted. The message names the line and the cure."""


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """A process begins: whom it draws follows from ``seed`` and how many answers there were since."""

    at_ns: int
    seed: str


class Drawn(msgspec.Struct, frozen=True, tag="drawn"):
    """An answer was drawn: the teacher is asked the same."""

    at_ns: int
    id: str
    place: int  # among the answers since the process began


class Seen(msgspec.Struct, frozen=True, tag="seen"):
    """What was seen since the entry before. ``call`` is the gateway's id of the audit's call."""

    at_ns: int
    observation: Observation
    answered: int  # answers since the entry before, of which some were drawn
    deferred: int
    id: str = ""
    call: str = ""


class Lost(msgspec.Struct, frozen=True, tag="lost"):
    """A drawn answer that was never audited: it says nothing of the promise."""

    at_ns: int
    id: str
    why: str


Entry = Opened | Drawn | Seen | Lost
_decoder: Final = msgspec.json.Decoder(Entry)


def path_of(data_dir: Path, certificate: str) -> Path:
    return data_dir / FOLDER / f"{certificate}.jsonl"


class AuditJournal:
    """The journal of a certificate, open for adding. One process at a time has it; any thread may call it, one at a time."""

    def __init__(self, path: Path) -> None:
        """Open it, made where there is none. Raises ``AuditJournalError``, ``OSError``."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self.entries, end = read(path)
        except (AuditJournalError, OSError):
            os.close(self._file)
            raise
        os.ftruncate(self._file, end)  # a line that its writer was killed in
        self.number = max((one.observation.number for one in self.entries if isinstance(one, Seen)), default=0)

    def add(self, entry: Entry, *, durable: bool) -> None:
        """Add an entry; ``durable``: it is on the disk when this returns. Raises ``OSError``: then it is not there."""
        line = _line(entry)
        start = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(28, "No space left on device")
            if durable:
                os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, start)
            raise

    def close(self) -> None:
        os.close(self._file)


def read(path: Path, start: int = 0) -> tuple[list[Entry], int]:
    """Return the entries from the byte ``start`` on, and where they end; a last line that is not whole is left out.

    Raises ``AuditJournalError``, ``OSError``.
    """
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return list(_entries(path, whole, start)), start + len(whole)


def _line(entry: Entry) -> bytes:
    data = msgspec.json.encode(entry)
    return b"%08x %b\n" % (crc32(data), data)


def _entries(path: Path, data: bytes, start: int) -> Iterator[Entry]:
    place = start
    for line in data.splitlines(keepends=True):
        body = line[_SUM + 1 : -1]
        try:
            if line[: _SUM + 1] != b"%08x " % crc32(body):
                raise ValueError("its checksum does not fit")
            yield _decoder.decode(body)
        except (ValueError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise AuditJournalError(
                f"{path} is damaged at byte {place} ({error}): restore it from a copy, or move it away and certify the student "
                "anew, whose audits then begin anew"
            ) from None
        place += len(line)
