"""The keeper's look at audits: what processes wrote down goes into the state, and stages follow from it.

Rules: an observation counts once, whoever reads its journal how often (its number is in the state, in the same transaction).
What the state says of audits decides, not what was just read: a keeper that is killed in between moves the stage when it is
back. With the alarm the students' process has stopped the student already; here it leaves the snapshot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import select, update

from upeti.control import rollout
from upeti.control.audit_journal import FOLDER, Seen, read
from upeti.control.store import Store, raise_counter
from upeti.control.students import Student, all_students, locked
from upeti.control.tables_students import student_certificates, students
from upeti.core.config_learning import Learning
from upeti.core.errors import UpetiError
from upeti.gateway.log import Log
from upeti.learning.target import Target
from upeti.rights.stage import SERVES, answers

if TYPE_CHECKING:
    from upeti.learning.audit import State

_LOOK_S: Final = 0.25
_RULES_S: Final = 1.0
_RETRY_S: Final = 5.0
_HEARD_NS: Final = 3_600 * 10**9  # how coarsely it is known when a certificate was last audited
_PORTION: Final = 2_000  # observations in one transaction


class AuditWatch:
    """Follows the audit journals of one data directory. Used by one thread at a time."""

    def __init__(self, store: Store, learning: Callable[[], Learning], refresh: Callable[[], None], log: Log) -> None:
        self._store = store
        self._learning = learning
        self._refresh = refresh
        self._log = log
        self._ends: dict[Path, int] = {}  # of journals, up to where they are in the state
        self._refused: set[Path] = set()
        self._rules_s = 0.0

    async def run(self) -> None:
        while True:
            try:
                if await asyncio.to_thread(self.look):
                    self._refresh()
            except Exception as error:  # a locked state, a full disk: it may pass
                self._log.error("audits_failed", f"{type(error).__name__}: {error}; it is tried again")
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(_LOOK_S)

    def look(self, now_ns: int | None = None) -> bool:
        """Take what is new into the state and move what is to be moved; return whether a stage has changed."""
        now_ns = time.time_ns() if now_ns is None else now_ns
        new = False
        for path in sorted((self._store.data_dir / FOLDER).glob("*.jsonl")):
            new |= self._follow(path)
        if not new and time.monotonic() - self._rules_s < _RULES_S:
            return False
        self._rules_s = time.monotonic()
        return self.move(now_ns)

    def _follow(self, path: Path) -> bool:
        start = self._ends.get(path, 0)
        try:
            if path in self._refused or path.stat().st_size <= start:
                return False
            entries, end = read(path, start)
            seen = [one for one in entries if isinstance(one, Seen)]
            for place in range(0, len(seen), _PORTION):
                fold(self._store, path.stem, seen[place : place + _PORTION])
        except UpetiError as error:
            self._refused.add(path)
            self._log.error("audits_refused", f"{error}; these audits count no more until the keeper is started again")
            return False
        except OSError as error:
            self._log.error("audits_refused", f"{path} cannot be read: {error}")
            return False
        self._ends[path] = end
        return bool(seen)

    def move(self, now_ns: int) -> bool:
        """Roll back what rang, end what lapsed, promote what is due."""
        moved = False
        for one in all_students(self._store):
            if one.certificate is None or one.model.stage not in SERVES:
                continue
            try:
                moved |= self._moved(one, now_ns)
            except UpetiError as error:  # such as a place that another version has
                self._log.warning("not_moved", f"{one.model.id}: {error}")
        return moved

    def _moved(self, one: Student, now_ns: int) -> bool:
        from upeti.control.students_view import audited

        certificate = one.certificate
        assert certificate is not None
        if certificate.audits["alarm"] is not None:
            now = rollout.alarm(self._store, one, _why(certificate.audits, certificate.delta))
        elif answers(one.model.stage) and rollout.lapses_ns(one) <= now_ns:
            days = certificate.lapses_after_days
            now = rollout.lapse(self._store, one, f"none of its answers was audited for {days} days")
        elif why := rollout.due(one, audited(certificate), self._learning(), now_ns):
            now = rollout.promote(self._store, one.model.id, by=rollout.RULE_STEPS, why=why)
        else:
            return False
        if now.model.stage is one.model.stage:
            return False
        self._log.warning("stage", f"{one.model.id} is {now.model.stage}: {now.model.stage_why}", was=one.model.stage)
        return True


def fold(store: Store, certificate: str, seen: list[Seen]) -> State:
    """Take observations of a certificate's journal into the state; those that count already change nothing.

    Raises ``StoreError`` for a certificate that nobody knows, ``AuditError`` when observations are missing.
    """
    from upeti.learning.audit import State, observe

    with store.writing() as connection:
        row = locked(connection, certificate)
        target = msgspec.convert(row["target"], Target)
        state = msgspec.convert(row["audits"], State)
        counted: dict[str, dict[str, int]] = row["counted"]
        heard_ns = 0
        for one in seen:
            after = observe(state, target, row["delta"], one.observation)
            if after is state:
                continue
            state = after
            node = counted.setdefault(one.observation.journal, {"answered": 0, "deferred": 0})
            node["answered"] += one.answered
            node["deferred"] += one.deferred
            if one.observation.audited is not None:
                heard_ns = one.at_ns
        changes: dict[str, Any] = {"audits": msgspec.to_builtins(state), "counted": counted}
        where = student_certificates.c.id == certificate
        connection.execute(update(student_certificates).where(where).values(**changes))
        mine = students.c.certificate == certificate
        known_ns = connection.execute(select(students.c.heard_ns).where(mine)).scalar()
        if known_ns is not None and heard_ns >= known_ns + _HEARD_NS:
            connection.execute(update(students).where(mine).values(heard_ns=heard_ns))
            raise_counter(connection, "changes")  # the students' process must know how long the certificate goes on
    return state


def _why(audits: dict[str, Any], delta: float) -> str:
    from upeti.learning.audit import State, why_of_alarm

    return why_of_alarm(msgspec.convert(audits, State), delta)
