"""What a dead instance left open is posted at its bound, as estimated: never voided, never lost.

Pure in its effect: it reads journals and returns records; whoever calls writes them. Asked again after the
records were written it returns nothing, so a keeper that dies half-way repeats it safely.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from upeti.core.events import AttemptRecovered
from upeti.journal.reader import InstanceFold, open_attempts, recovered_attempts

RecoveredName = tuple[str, int, int]  # instance, call, attempt


def recovered_names(data_dir: Path) -> set[RecoveredName]:
    """Return which attempts the keepers' journals already recovered. Raises ``JournalError``."""
    return {(record.instance, record.opened.call, record.opened.attempt) for record in recovered_attempts(data_dir)}


def recover(
    directory: Path,
    at_ns: int,
    *,
    already: Collection[RecoveredName] | None = None,
    fold: InstanceFold | None = None,
) -> list[AttemptRecovered]:
    """Return one record per attempt that the dead instance of ``directory`` left open, oldest first.

    The instance must be dead. ``already`` (default: read from the keepers' journals beside it) is left out.
    ``fold`` saves a second reading: a fold of this journal that was advanced after the death.
    Raises ``JournalError`` when a journal is damaged before its end.
    """
    if already is None:
        already = recovered_names(directory.parent.parent)
    instance = directory.name
    left_open = open_attempts(directory) if fold is None else fold.open
    return [
        AttemptRecovered(instance=instance, opened=opened, at_ns=at_ns, cost_pico=opened.bound_pico)
        for (call, attempt), opened in sorted(left_open.items())
        if (instance, call, attempt) not in already
    ]
