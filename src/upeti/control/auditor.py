"""Audits within the students' process: which answers are drawn, what the teacher says to the same, and the alarm.

Rules: an answer is drawn before anyone looks at it, by a seed that is in the journal. The teacher is asked in the background, by
the gateway and a route of its own, so an audit is metered, has budgets and is in the bill. An observation counts once it is in
the journal; with the alarm the student is stopped before that, so that the very next call goes to the teacher. What cannot be
asked waits, and is given up after an hour: no student waits for its audits. Bodies are in memory only.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import msgspec

from upeti.control.audit_journal import AuditJournal, AuditJournalError, Drawn, Lost, Opened, Seen, path_of
from upeti.control.audit_line import line_in
from upeti.control.keys import audit_key
from upeti.gateway.log import Log
from upeti.learning.answers import UNREADABLE, AnswerForm, Values, read_answer
from upeti.learning.audit import Audited, Deferred, Observation, begin, evidence, observe, why_of_alarm
from upeti.learning.batching import Predicted
from upeti.learning.served import AuditTerms, Served
from upeti.learning.target import Kind

_FLUSH_S: Final = 2.0  # how much of what was not drawn a kill can lose
_ASKS: Final = 2  # at a time
_WAITING_MAX: Final = 1_000
_WAIT_S: Final = 3_600.0
_PAUSE_FIRST_S: Final = 0.5
_PAUSE_MAX_S: Final = 60.0
_ANSWER_S: Final = 120.0
_SAY_AGAIN_S: Final = 60.0
_NEVER: Final = frozenset({400, 413, 415, 422})  # asking the same again gives the same


class Answer(msgspec.Struct, frozen=True):
    """What the gateway said to an audit."""

    status: int
    body: bytes
    call: str


class _Pending(msgspec.Struct):
    id: str
    served: Served
    form: AnswerForm
    body: bytes
    student: Values | None  # None: the call was deferred
    since_s: float


class _Watched:
    """The audits of one certificate."""

    def __init__(self, served: Served, terms: AuditTerms, journal: AuditJournal, node: str, now_ns: int) -> None:
        self.served = served
        self.terms = terms
        self.journal = journal
        self.node = node
        self.seed = token_hex(16)
        self.place = 0
        self.answered = 0  # since the last entry
        self.deferred = 0
        self.writing = asyncio.Lock()
        self.state = begin(terms.target)
        for entry in journal.entries:
            if isinstance(entry, Seen):
                self.state = observe(self.state, terms.target, terms.delta, entry.observation)
        journal.entries = []
        journal.add(Opened(now_ns, self.seed), durable=False)

    @property
    def by_class(self) -> bool:
        return self.terms.target.kind is Kind.CLASS

    def drawn(self) -> bool:
        """Say whether the next one is drawn."""
        self.place += 1
        word = blake2b(f"{self.seed}/{self.place}".encode(), digest_size=8).digest()
        return int.from_bytes(word) < self.terms.share * 2**64

    def taken(
        self, share: float, audited: Audited | None, deferred: Deferred | None = None
    ) -> tuple[Observation, int, int]:
        """Return the next observation, which takes what has been counted with it, and what was counted."""
        answered, calls = self.answered, self.deferred
        self.answered = self.deferred = 0
        self.journal.number += 1
        seen: tuple[Deferred, ...] = ()
        if deferred is not None:
            seen = (deferred,)
        elif calls and not self.by_class:
            seen = (Deferred((), calls),)
        return Observation(self.node, self.journal.number, share, seen, audited), answered, calls


class Auditor:
    """The audits of all students of one process. Lives in the process's loop; files and the gateway are for threads."""

    def __init__(
        self,
        data_dir: Path,
        node: str,
        stop: Callable[[str, str], None],
        form_of: Callable[[str], AnswerForm | None],
        log: Log,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``stop`` is told a model and why, once its audits give the alarm; ``form_of`` gives the form of its answers."""
        self._data_dir = data_dir
        self._node = node
        self._stop = stop
        self._form_of = form_of
        self._log = log
        self._now_ns = now_ns
        self._watched: dict[str, _Watched] = {}  # by model
        self._queue: asyncio.Queue[_Pending] = asyncio.Queue(_WAITING_MAX)
        self._said_s = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    # -- which students there are
    # ---------------------------------------------------------------------------------------------------

    async def take(self, wanted: Sequence[Served]) -> dict[str, str]:
        """Audit these from now on; return model → why it must not answer: its journal cannot be trusted."""
        refused = {}
        names = {one.model for one in wanted if one.audit is not None}
        for model in [model for model in self._watched if model not in names]:
            await self._end(model)
        for served in wanted:
            if served.audit is None:
                continue
            before = self._watched.get(served.model)
            if before is not None and before.served.certificate == served.certificate:
                if before.terms != served.audit:
                    await self._flush(before)  # what was counted was drawn with the share from before
                    before.terms = served.audit
                before.served = served
                continue
            if before is not None:
                await self._end(served.model)
            try:
                self._watched[served.model] = await asyncio.to_thread(self._begun, served, served.audit)
            except (AuditJournalError, OSError) as error:
                refused[served.model] = str(error)
        return refused

    def _begun(self, served: Served, terms: AuditTerms) -> _Watched:
        journal = AuditJournal(path_of(self._data_dir, served.certificate))
        return _Watched(served, terms, journal, self._node, self._now_ns())

    async def _end(self, model: str) -> None:
        watched = self._watched.pop(model)
        await self._flush(watched)
        watched.journal.close()

    def stop_where_it_rang(self) -> None:
        """Stop the students whose audits gave the alarm in an earlier process."""
        for model, watched in self._watched.items():
            if watched.state.alarm is not None:
                self._stop(model, why_of_alarm(watched.state, watched.terms.delta))

    # -- calls
    # ---------------------------------------------------------------------------------------------------

    def answered(self, served: Served, body: bytes, predicted: Predicted) -> None:
        """Take an answer into account, and draw."""
        watched = self._watched.get(served.model)
        if watched is None or watched.served.certificate != served.certificate:
            return
        watched.answered += 1
        if watched.drawn():
            self._ask(watched, served, body, predicted.values)

    def deferred(self, served: Served, body: bytes) -> None:
        """Take a call into account that was left to the teacher; for promises of classes its answer must be known."""
        watched = self._watched.get(served.model)
        if watched is None or watched.served.certificate != served.certificate:
            return
        watched.deferred += 1
        if watched.by_class and watched.drawn():
            self._ask(watched, served, body, None)

    def _ask(self, watched: _Watched, served: Served, body: bytes, student: Values | None) -> None:
        form = self._form_of(served.model)
        if form is None:
            return
        one = _Pending(f"aud_{token_hex(10)}", served, form, body, student, time.monotonic())
        try:
            watched.journal.add(Drawn(self._now_ns(), one.id, watched.place), durable=False)
            self._queue.put_nowait(one)
        except asyncio.QueueFull:
            self._lose(watched, one, "too many audits wait")
        except OSError as error:
            self._say(f"no audit can be recorded: {error}")

    def _lose(self, watched: _Watched, one: _Pending, why: str) -> None:
        try:
            watched.journal.add(Lost(self._now_ns(), one.id, why), durable=False)
        except OSError as error:
            self._say(f"no audit can be recorded: {error}")

    # -- in the background
    # ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(_ASKS)]
        self._tasks.append(asyncio.create_task(self._flush_all()))

    async def end(self) -> None:
        """Write what was counted; what waits is given up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for model in list(self._watched):
            await self._end(model)

    async def _flush_all(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            for watched in list(self._watched.values()):
                await self._flush(watched)

    async def _flush(self, watched: _Watched) -> None:
        async with watched.writing:
            if watched.answered or watched.deferred:
                await self._record(watched, watched.terms.share, None, "", "")

    async def _work(self) -> None:
        while True:
            one = await self._queue.get()
            try:
                await self._audit(one)
            except Exception as error:  # one audit that fails is one that lapses
                self._say(f"an audit failed: {type(error).__name__}: {error}")

    async def _audit(self, one: _Pending) -> None:
        pause_s = _PAUSE_FIRST_S
        while (watched := self._of(one)) is not None:
            answer = await asyncio.to_thread(self._asked, one)
            if answer is not None and answer.status == 200:
                teacher = read_answer(one.form, answer.body)
                await self._seen(one, UNREADABLE if teacher is None else teacher, answer.call)
                return
            if answer is not None and answer.status in _NEVER:
                self._lose(watched, one, f"the teacher answered with the status {answer.status}")
                return
            if time.monotonic() - one.since_s > _WAIT_S:
                self._lose(watched, one, "nobody answered for an hour")
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    def _of(self, one: _Pending) -> _Watched | None:
        """Return the audits that a drawn answer is for; None when its certificate is not in force any more."""
        watched = self._watched.get(one.served.model)
        return watched if watched is not None and watched.served.certificate == one.served.certificate else None

    async def _seen(self, one: _Pending, teacher: Values, call: str) -> None:
        watched = self._of(one)
        if watched is None:
            return
        async with watched.writing:
            if one.student is not None:
                await self._record(watched, watched.terms.share, Audited(one.student, teacher), one.id, call)
            else:  # drawn with its share, so it counts whole
                await self._record(watched, 1.0, None, one.id, call, Deferred(teacher, 1))

    async def _record(
        self,
        watched: _Watched,
        share: float,
        audited: Audited | None,
        audit_id: str,
        call: str,
        deferred: Deferred | None = None,
    ) -> None:
        """Count an observation, act upon it, and write it down, in this order. ``watched.writing`` is held."""
        observation, answered, calls = watched.taken(share, audited, deferred)
        rang = watched.state.alarm is not None
        watched.state = observe(watched.state, watched.terms.target, watched.terms.delta, observation)
        if watched.state.alarm is not None and not rang:
            why = why_of_alarm(watched.state, watched.terms.delta)
            self._stop(watched.served.model, why)
            self._log.error("student_stopped", f"{watched.served.model} answers nothing any more: {why}")
        entry = Seen(self._now_ns(), observation, answered, calls, audit_id, call)
        while True:
            try:
                await asyncio.to_thread(watched.journal.add, entry, durable=audited is not None or deferred is not None)
                return
            except OSError as error:  # a full disk: until it is in the journal nothing else of this certificate counts
                self._say(f"no audit can be recorded: {error}; it is tried again")
                await asyncio.sleep(_PAUSE_FIRST_S)

    def _asked(self, one: _Pending) -> Answer | None:
        """Ask the teacher by the gateway; None when nobody answered."""
        assert one.served.audit is not None
        try:
            line = line_in(self._data_dir / "run")
        except (OSError, msgspec.MsgspecError) as error:
            self._say(f"the keeper has not said where audits are asked: {error}")
            return None
        request = urllib.request.Request(  # noqa: S310 - the keeper's own address
            f"{line.base_url}/v1/chat/completions",
            data=_body(one.body, one.served.audit.route),
            headers={
                "authorization": f"Bearer {audit_key(line.secret, one.served.task)}",
                "content-type": "application/json",
                "x-upeti-feature": "audit",
                "x-upeti-task": one.served.task,
            },
        )
        context = None
        if line.ca_file:  # our own gateway on this machine: its certificate names the outside
            context = ssl.create_default_context(cafile=line.ca_file)
            context.check_hostname = False
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S, context=context) as reply:  # noqa: S310
                return Answer(reply.status, reply.read(), reply.headers.get("x-request-id", ""))
        except urllib.error.HTTPError as error:
            with error:
                self._say(f"an audit was answered with {error.code} ({_code(error.read())}): it waits, or is given up")
            return Answer(error.code, b"", "")
        except (OSError, http.client.HTTPException) as error:
            self._say(f"audits wait: the gateway does not answer: {error}")
            return None

    def _say(self, what: str) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s >= _SAY_AGAIN_S or not self._said_s:
            self._said_s = now_s
            self._log.warning("audit", what)

    def status(self) -> dict[str, Any]:
        """Return by model how many audits wait and what they have shown."""
        return {
            model: {"evidence": evidence(watched.state), "observations": watched.journal.number}
            for model, watched in self._watched.items()
        }


def _code(body: bytes) -> str:
    """Return the code of an error, and nothing else of it: a message may hold a part of the call."""
    try:
        return str(msgspec.json.decode(body, type=dict[str, dict[str, Any]])["error"]["code"])
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        return "no code"


def _body(body: bytes, route: str) -> bytes:
    """Return the same request for the teacher: whole in place of a stream."""
    asked = msgspec.json.decode(body, type=dict[str, Any])
    asked["model"] = route
    asked.pop("stream", None)
    asked.pop("stream_options", None)
    return msgspec.json.encode(asked)
