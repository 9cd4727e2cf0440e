"""The keeper's look at the students' process: a student whose files are refused is an incident until it is loaded again.

Rules: what the process says of its students is in one file; it is looked at once a second. One incident for each student and
node while it lasts. Calls need nothing of this: a refused student leaves them to their routes' next candidates by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Final

import msgspec
from sqlalchemy import insert, select, update

from upeti.control.rollout import INCIDENT_SCOPE
from upeti.control.store import Store
from upeti.control.students import all_students
from upeti.control.tables_latches import incidents
from upeti.gateway.log import Log
from upeti.journal.acts import act, record_acts
from upeti.learning.served import STATUS_FILE

RULE: Final = "rule:files"
HANGS_S: Final = 20.0  # the process says once a second that it is there
REFUSED: Final = "files_refused"
_LOOK_S: Final = 1.0
_RETRY_S: Final = 5.0


class Told(msgspec.Struct, frozen=True):
    """What the process says of one student."""

    state: str
    sha256: str
    why: str = ""


class _Status(msgspec.Struct, frozen=True):
    students: dict[str, Told]
    pid: int = 0
    alive_s: float = 0  # by the machine's clock since its start, which is one for all processes


class StudentsWatch:
    """One per keeper."""

    def __init__(self, store: Store, data_dir: Path, node: str, log: Log) -> None:
        self._store = store
        self._data_dir = data_dir
        self._node = node
        self._log = log
        self._taken: dict[str, Told] | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            told = read_status(self._data_dir / "run")
            if told is None or told == self._taken:
                continue
            try:
                await asyncio.to_thread(take, self._store, self._data_dir, self._node, told, time.time_ns())
                self._taken = told
            except Exception as error:  # a full disk, a database that is away: it may pass
                self._log.error("students_watch_failed", f"{type(error).__name__}: {error}; it is tried again")
                await asyncio.sleep(_RETRY_S)


def read_status(run: Path) -> dict[str, Told] | None:
    """Return what the process says of each student; None while it says nothing that can be read."""
    status = _read(run)
    return status.students if status is not None else None


def hangs(run: Path, pid: int, now_s: float) -> bool:
    """Whether the process of this pid has said something once, and nothing for long. ``now_s`` is ``time.monotonic``'s."""
    status = _read(run)
    return status is not None and status.pid == pid and now_s - status.alive_s > HANGS_S


def _read(run: Path) -> _Status | None:
    try:
        return msgspec.json.decode((run / STATUS_FILE).read_bytes(), type=_Status)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def take(store: Store, data_dir: Path, node: str, told: Mapping[str, Told], now_ns: int) -> None:
    """Open an incident for each student that is refused and has none, and end those of students that are loaded again."""
    known = {(one.model.model, one.sha256): one.model for one in all_students(store)}
    where = f"node {node}"
    mine = (incidents.c.scope == INCIDENT_SCOPE) & (incidents.c.meaning == REFUSED) & (incidents.c.excerpt == where)
    with store.writing() as connection:
        rows = connection.execute(
            select(incidents.c.id, incidents.c.detail).where(mine & (incidents.c.recovered_ns == 0))
        )
        still_open = {row.detail: row.id for row in rows}
        for name, one in told.items():
            model = known.get((name, one.sha256))
            if model is None:
                continue
            if one.state == "refused" and model.id not in still_open:
                incident = f"inc_{token_hex(10)}"
                record_acts(
                    data_dir, act(now_ns, RULE, "student.refused", incident, one.why, model=model.id, node=node)
                )
                row = dict.fromkeys(("signal", "recovered_by"), "") | dict.fromkeys(("status", "calls", "probes"), 0)
                row |= {"id": incident, "scope": INCIDENT_SCOPE, "channel": model.channel, "detail": model.id}
                row |= {"opened_ns": now_ns, "recovered_ns": 0, "meaning": REFUSED, "why": one.why}
                connection.execute(insert(incidents).values(**row, sha256=one.sha256, excerpt=where))
            elif one.state == "ready" and model.id in still_open:
                incident = still_open[model.id]
                record_acts(
                    data_dir, act(now_ns, RULE, "student.loaded", incident, "it is loaded", model=model.id, node=node)
                )
                over = update(incidents).where(incidents.c.id == incident)
                connection.execute(over.values(recovered_ns=now_ns, recovered_by=RULE))
