"""When a worker has ended: its journal is read to the end, what is open is posted, its leases come back.

Rules: an instance is closed only when its process is surely gone; once closed it is never heard again. Done
twice, or broken off and done again, the result is the same: attempts recovered before are not recovered
again, and the posted sum is the journal's own. A journal that is damaged leaves its instance as it is,
leases included, until somebody has restored it: too much stays reserved, nothing is overspent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from upeti.control.ledger import Instance, Ledger
from upeti.control.processes import holds_open, is_alive
from upeti.core.errors import JournalError
from upeti.core.events import AttemptRecovered
from upeti.journal.blocks import KEEPER_PREFIX, instance_dir
from upeti.journal.reader import InstanceFold, instances, segments
from upeti.journal.recovery import recover
from upeti.journal.writer import SyncJournal

# A worker that goes on to its next segment has none open for some microseconds: it is looked at twice.
_LOOK_AGAIN_S = 0.05


class Recovery:
    """Closes dead instances. Used by one thread at a time."""

    def __init__(self, data_dir: Path, ledger: Ledger, keeper_instance: str, now_ns: Callable[[], int]) -> None:
        self._data_dir = data_dir
        self._ledger = ledger
        self._keeper_instance = keeper_instance
        self._now_ns = now_ns
        self._journal: SyncJournal | None = None  # begun when there is something to write
        self.damaged: dict[str, str] = {}  # instance → what is wrong with its journal
        self.recovered = 0  # attempts

    def dead(self) -> list[Instance]:
        """Return the known instances that are not closed though their process is gone."""
        return [
            instance
            for instance in self._ledger.instances()
            if instance.instance not in self.damaged and not is_alive(instance.pid, instance.process)
        ]

    def strangers(self) -> list[Instance]:
        """Return instances that have a journal and are not in the state, and whose process is gone.

        They ended before they could say hello, or the state is younger than the journal.
        """
        known = self._ledger.closed_instances() | {each.instance for each in self._ledger.instances()}
        unknown = [
            directory
            for directory in instances(self._data_dir)
            if not directory.name.startswith(KEEPER_PREFIX) and directory.name not in known | self.damaged.keys()
        ]
        # A directory without a file is that of a worker that is starting, or died then: nothing was opened in it.
        unheld = [directory for directory in unknown if any(directory.iterdir()) and not holds_open(directory)]
        if unheld:
            time.sleep(_LOOK_AGAIN_S)
        return [
            Instance(directory.name, worker=-1, pid=0, process="") for directory in unheld if not holds_open(directory)
        ]

    def close(self, instance: Instance) -> int:
        """Read the journal of a dead ``instance`` to its end and close it; return how many attempts were
        open.

        Raises ``JournalError`` when that journal is damaged, or the keeper's own cannot be written.
        """
        directory = instance_dir(self._data_dir, instance.instance)
        fold = InstanceFold(directory)
        try:
            fold.advance()
            records = recover(directory, self._now_ns(), fold=fold) if fold.open else []
        except JournalError as error:
            self.damaged[instance.instance] = str(error)
            raise
        if records:
            self._write(records)
        posted_pico = dict(fold.posted_pico)
        # All that is open, also what an earlier try had recovered before it broke off.
        for opened in fold.open.values():
            for budget in opened.budgets:
                posted_pico[budget] = posted_pico.get(budget, 0) + opened.bound_pico
        self._ledger.close(instance, posted_pico)
        self.recovered += len(records)
        return len(records)

    def closable(self) -> tuple[frozenset[str], int]:
        """Return what is different once there is a closed segment more: files, and closed instances.

        A segment is closed by the file that follows it, or with its instance.
        """
        files = frozenset(
            f"{directory.name}/{path.name}" for directory in instances(self._data_dir) for path in segments(directory)
        )
        return files, len(self._ledger.closed_instances())

    def end(self) -> None:
        """End the keeper's own journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _write(self, records: list[AttemptRecovered]) -> None:
        if self._journal is None:
            self._journal = SyncJournal(self._data_dir, self._keeper_instance, self._now_ns)
        self._journal.append(list(records))
        with suppress(JournalError):  # what is written is written; the next time ends this segment too
            self._journal.rotate()
