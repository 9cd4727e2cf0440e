"""Writing corrections: each is a record of the journal first; event, posting and usage follow from it.

Rules: the same correction is written once, however often it is asked for; what is written is on the disk when the
call returns. They have a journal of their own, named like a keeper's, because no worker process stands behind it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Final

import msgspec

from upeti.control.places import Places, TakenError
from upeti.core.errors import JournalError
from upeti.core.events import CostCorrected
from upeti.journal.blocks import KEEPER_PREFIX, instance_dir
from upeti.journal.reader import corrections
from upeti.journal.writer import SyncJournal

CORRECTIONS_PREFIX: Final = f"{KEEPER_PREFIX}corrections-"

_BLOCK_RECORDS: Final = 1_000
_WAIT_S: Final = 30.0
_POLL_S: Final = 0.05


def write_corrections(data_dir: Path, records: Sequence[CostCorrected]) -> int:
    """Write the ``records`` that no journal of this data directory has yet; return how many.

    Raises ``JournalError`` for the id of another correction, or when the disk refuses; ``TakenError`` when somebody
    else goes on writing corrections for half a minute.
    """
    Places(data_dir).make()
    with writing_corrections(data_dir):
        known = {record.correction_id: record for record in corrections(data_dir)}
        fresh: list[CostCorrected] = []
        for record in records:
            before = known.setdefault(record.correction_id, record)
            if before is record:
                fresh.append(record)
            elif msgspec.structs.replace(before, at_ns=record.at_ns) != record:
                raise JournalError(
                    f"correction {record.correction_id} is in the journal already and says something else: "
                    "give a new correction a new id"
                )
        if fresh:
            _write(data_dir, fresh)
    return len(fresh)


@contextmanager
def writing_corrections(data_dir: Path) -> Iterator[None]:
    """While this is held no corrections are being written to this data directory. Raises ``TakenError``."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            descriptor = Places(data_dir).lock("corrections")
            break
        except TakenError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
    try:
        yield
    finally:
        os.close(descriptor)


def _write(data_dir: Path, records: list[CostCorrected]) -> None:
    instance = f"{CORRECTIONS_PREFIX}{token_hex(8)}"
    try:
        journal = SyncJournal(data_dir, instance, time.time_ns)
    except OSError as error:
        raise JournalError(f"corrections cannot be written: {error}") from error
    for start in range(0, len(records), _BLOCK_RECORDS):
        journal.append(list(records[start : start + _BLOCK_RECORDS]))
    journal.close()
    # The names, too: a file that a power loss makes unfindable is no record.
    for directory in (instance_dir(data_dir, instance), instance_dir(data_dir, instance).parent):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
