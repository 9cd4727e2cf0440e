"""Students on the OpenAI wire: each call is answered, or deferred with a reason.

Rules: what decides is asked in one order: is the student there, does its promise hold, can a student do what is asked, is
the call of its task, is it like what it was trained on, is it sure. A student is swapped by answering with another one: the
old one finishes what it has begun. Nothing of a call is kept or logged. No numerical library is imported here: a student
brings its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from secrets import token_hex
from typing import Any, Final

import httptools
import msgspec

from upeti.core.config_learning import Learning
from upeti.learning.answers import UNREADABLE, AnswerForm, Values, answer_text, tokens_of, write_answer
from upeti.learning.batching import Batcher, BusyError, Predicted
from upeti.learning.ladder import Ladder, Student
from upeti.learning.served import Served
from upeti.learning.template import match, prompt_of, text_of
from upeti.wire.deferral import HEADER, STATUS, Reason

BODY_BYTES_MAX: Final = 32 * 1024 * 1024
_IN_TIME: Final = 0.8  # of the time that a gateway waits: the rest is for the way
_WARM_UP: Final = "How a text of the task may look: some words, a name, a number 12."
_WARM_UPS: Final = 5
_WARM_UP_S: Final = 0.2
_SAID: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Content",
}


class Serving:
    """A student that answers, with what waits for it."""

    def __init__(self, served: Served, student: Student, batchers: Sequence[Batcher]) -> None:
        """``batchers`` are one for each student: of a ladder the quick one's comes first."""
        self.served = served
        self.student = student
        self.batchers = batchers
        self.only = frozenset(served.only)
        self.stopped = ""  # why it answers nothing any more
        self.answered = 0
        self.deferred: Counter[Reason] = Counter()


def _warmed_up(student: Student) -> float:
    """Return what a text takes a student, in seconds: the first ones take longer."""
    student.predict([_WARM_UP])
    times: list[float] = []
    while len(times) < _WARM_UPS and sum(times) < _WARM_UP_S:
        began_s = time.perf_counter()
        student.predict([_WARM_UP])
        times.append(time.perf_counter() - began_s)
    return min(times)


class Students:
    """All students of one process. Everything in it lives in one thread, but for loading and predicting."""

    def __init__(
        self,
        load: Callable[[Served], Student],
        settings: Learning,
        executor: Executor,
        *,
        refused: Callable[[Served, Exception], None] = lambda served, error: None,
        failed: Callable[[Served, Exception], None] = lambda served, error: None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``load`` is called in a thread and may raise anything: then ``refused`` is told, and the other students go on.
        ``failed`` is told when a student raises while it predicts.
        """
        self._load = load
        self._settings = settings
        self._executor = executor
        self._refused = refused
        self.failed = failed
        self.now_ns = now_ns
        self.within_s = settings.answer_within_ms / 1000 * _IN_TIME
        self.by_model: dict[str, Serving] = {}
        self.refusals: dict[str, str] = {}  # model -> why it was not loaded
        self.wanted: tuple[Served, ...] = ()
        # Told of each answer that was given, or would have been: whose it is, the request's body, what was predicted.
        self.on_answer: Callable[[Served, bytes, Predicted], None] | None = None
        # Told of each call of the task that is left because of what was predicted.
        self.on_deferred: Callable[[Served, bytes], None] | None = None

    async def take(self, wanted: Sequence[Served]) -> None:
        """Serve these from now on, and no others. One that cannot be loaded is left out; what it was before goes too."""
        self.wanted = tuple(wanted)
        self.refusals = {}
        names = {one.model for one in wanted}
        for model in [model for model in self.by_model if model not in names]:
            del self.by_model[model]
        for served in wanted:
            before = self.by_model.get(served.model)
            if before is not None and before.served == served:
                continue
            try:
                self.by_model[served.model] = await self._serving(served, before)
            except Exception as error:
                self.by_model.pop(served.model, None)
                self.refuse(served, error)

    def refuse(self, served: Served, error: Exception) -> None:
        """Say that a student is wanted and cannot be served."""
        if served not in self.wanted:
            self.wanted = (*self.wanted, served)
        self.refusals[served.model] = str(error)
        self._refused(served, error)

    async def _serving(self, served: Served, before: Serving | None) -> Serving:
        same = ("folder", "sha256", "first")
        if before is not None and all(getattr(before.served, name) == getattr(served, name) for name in same):
            again = Serving(served, before.student, before.batchers)  # only what it may answer has changed
            if served.certificate == before.served.certificate:
                again.stopped = before.stopped
            return again
        loop = asyncio.get_running_loop()
        student = await loop.run_in_executor(None, self._load, served)
        steps = (student.first, student.then) if isinstance(student, Ladder) else (student,)
        batchers = []
        for step in steps:
            text_s = await loop.run_in_executor(None, _warmed_up, step)
            batchers.append(self._batcher(step, text_s))
        return Serving(served, student, batchers)

    def _batcher(self, student: Student, text_s: float) -> Batcher:
        settings = self._settings
        return Batcher(
            student.predict,
            self._executor,
            text_s=text_s,
            batch_max=settings.batch_max,
            queue_max=settings.queue_max,
            wait_s=settings.batch_wait_ms / 1000,
            at_once=settings.threads,
        )

    def stop(self, model: str, why: str) -> None:
        """Have a student answer nothing any more, at once: an alarm. It stays so until it is served anew."""
        serving = self.by_model.get(model)
        if serving is not None:
            serving.stopped = why

    # -- one call ---------------------------------------------------------------------------------------------------------

    def chat(self, body: bytes, reply: Reply) -> None:
        """Answer or defer a ``chat.completions`` call, now or later."""
        try:
            asked = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            reply.error(400, f"The body is no JSON object: {error}.")
            return
        serving = self.by_model.get(asked.get("model", ""))
        if serving is None:
            reply.defer(Reason.NOT_READY)
            return
        text = self._text(serving, asked)
        if isinstance(text, Reason):
            serving.deferred[text] += 1
            reply.defer(text)
            return
        until_s = asyncio.get_running_loop().time() + self.within_s
        one = _Asking(self, serving, asked, body, text, until_s, reply)
        one.ask()

    def _text(self, serving: Serving, asked: Mapping[str, Any]) -> str | Reason:
        """Return what the student reads, or why it leaves the call."""
        served = serving.served
        if serving.stopped:
            return Reason.STOPPED
        if served.lapses_ns and self.now_ns() >= served.lapses_ns:
            return Reason.LAPSED
        if _beyond(asked):
            return Reason.CANNOT
        prompt = prompt_of(asked)
        if prompt is None:
            return Reason.CANNOT
        slots = match(served.template, prompt)
        if not slots:
            return Reason.CANNOT if prompt.form != served.template.form else Reason.OTHER_TEMPLATE
        return text_of(slots)

    def status(self) -> dict[str, Any]:
        """Return what each student is doing, by model."""
        seen: dict[str, Any] = {}
        for served in self.wanted:
            model = served.model
            serving = self.by_model.get(model)
            state, why = "loading", ""
            if model in self.refusals:
                state, why = "refused", self.refusals[model]
            elif serving is not None:
                state, why = ("stopped", serving.stopped) if serving.stopped else ("ready", "")
            seen[model] = {"state": state, "why": why, "task": served.task, "sha256": served.sha256}
            if serving is not None:
                seen[model] |= {
                    "answered": serving.answered,
                    "deferred": dict(serving.deferred),
                    "steps": [
                        {"batches": one.batches, "texts": one.texts, "text_us": round(one.text_s * 1e6)}
                        for one in serving.batchers
                    ],
                }
        return seen


def _beyond(asked: Mapping[str, Any]) -> bool:
    """Whether a call asks for what no student does."""
    return (
        asked.get("n") not in (None, 1)
        or bool(asked.get("logprobs"))
        or bool(asked.get("top_logprobs"))
        or asked.get("modalities") not in (None, ["text"])
        or asked.get("audio") is not None
        or asked.get("web_search_options") is not None
    )


class _Asking:
    """One call that waits for its prediction."""

    __slots__ = ("_asked", "_body", "_reply", "_serving", "_step", "_students", "text", "until_s")

    def __init__(
        self,
        students: Students,
        serving: Serving,
        asked: Mapping[str, Any],
        body: bytes,
        text: str,
        until_s: float,
        reply: Reply,
    ) -> None:
        self._students = students
        self._serving = serving
        self._asked = asked
        self._body = body
        self._reply = reply
        self._step = 0  # which of a ladder's students is asked
        self.text = text
        self.until_s = until_s

    @property
    def wanted(self) -> bool:
        return not self._reply.gone

    def ask(self) -> None:
        """Wait for the student whose turn it is."""
        try:
            self._serving.batchers[self._step].submit(self)
        except BusyError as error:
            self.failed(error)

    def failed(self, error: Exception) -> None:
        busy = isinstance(error, BusyError)
        if not busy:
            self._students.failed(self._serving.served, error)
        self._defer(Reason.BUSY if busy else Reason.NOT_READY)

    def _defer(self, reason: Reason) -> None:
        self._serving.deferred[reason] += 1
        self._reply.defer(reason)

    def _leave(self, reason: Reason) -> None:
        self._defer(reason)
        if self._students.on_deferred is not None:
            self._students.on_deferred(self._serving.served, self._body)

    def told(self, predicted: Predicted) -> None:
        serving = self._serving
        served, student = serving.served, serving.student
        ladder = student if isinstance(student, Ladder) and self._step == 0 else None
        if ladder is not None and not ladder.speaks(predicted.confidence, predicted.in_scope):
            self._step = 1
            self.ask()
            return
        if serving.stopped:
            self._defer(Reason.STOPPED)
        elif served.out_of_scope and not predicted.in_scope:
            self._leave(Reason.OUT_OF_SCOPE)
        elif not predicted.confidence >= served.threshold or not self._may_say(predicted.values):
            self._leave(Reason.NOT_SURE)
        elif not self._fits(student.form, predicted):
            self._leave(Reason.CANNOT)
        elif served.shadow:
            self._defer(Reason.SHADOW)
            self._tell(predicted)
        else:
            self._answer(predicted)

    def _may_say(self, values: Values) -> bool:
        only = self._serving.only
        return values != UNREADABLE and (not only or values in only)

    def _fits(self, form: AnswerForm, predicted: Predicted) -> bool:
        """Whether the teacher could have said all of it: a cap or a stop word of the call may cut it short."""
        asked = self._asked
        stops = asked.get("stop") or ()
        caps = [asked[name] for name in ("max_tokens", "max_completion_tokens") if asked.get(name) is not None]
        if not stops and not caps:
            return True
        text = answer_text(form, predicted.values)
        if any(isinstance(stop, str) and stop in text for stop in ([stops] if isinstance(stops, str) else stops)):
            return False
        return all(isinstance(cap, int) and tokens_of(text) <= cap for cap in caps)

    def _answer(self, predicted: Predicted) -> None:
        serving, asked = self._serving, self._asked
        stream = asked.get("stream") is True
        options = asked.get("stream_options")
        data = write_answer(
            serving.student.form,
            predicted.values,
            model=serving.served.model,
            id=f"chatcmpl-{token_hex(12)}",
            created=self._students.now_ns() // 10**9,
            prompt_tokens=tokens_of(self.text),
            stream=stream,
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        )
        serving.answered += 1
        self._reply.send(200, data, b"text/event-stream" if stream else b"application/json")
        self._tell(predicted)

    def _tell(self, predicted: Predicted) -> None:
        if self._students.on_answer is not None:
            self._students.on_answer(self._serving.served, self._body, predicted)


# -- HTTP ------------------------------------------------------------------------------------------------------------------


class Reply:
    """Where the answer of one request goes."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._connection.closed

    def send(self, status: int, body: bytes, content_type: bytes = b"application/json", lines: bytes = b"") -> None:
        self._connection.answered(
            b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n%b"
            % (status, _SAID.get(status, "Error").encode(), content_type, lines, len(body), body)
        )

    def defer(self, reason: Reason) -> None:
        """Leave the call to the next candidate."""
        self.send(STATUS, _DEFERRED[reason], lines=_DEFERRED_LINES[reason])

    def error(self, status: int, message: str) -> None:
        self.send(status, _error_body(message, "invalid_request"))


def _error_body(message: str, code: str) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": "student", "code": code, "param": None}})


_DEFERRED: Final = {reason: _error_body(f"Left to the next candidate: {reason}.", "deferred") for reason in Reason}
_DEFERRED_LINES: Final = {reason: f"{HEADER}: {reason}\r\n".encode() for reason in Reason}


class Connection(asyncio.Protocol):
    """One connection of a gateway's worker: one request after the other."""

    def __init__(self, students: Students, connections: set[Connection]) -> None:
        self._students = students
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[bytes, bytes, bytes]] = (
            deque()
        )  # method, address, body: sent before it was their turn
        self._url = b""
        self._parts: list[bytes] = []
        self._size = 0
        self._closing = False  # after the answer that is under way
        self.busy = False
        self.closed = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.abort()

    # llhttp's side

    def on_message_begin(self) -> None:
        self._url = b""
        self._parts = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > BODY_BYTES_MAX:
            self._transport.abort()
            return
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self.closed:
            return
        if not self._parser.should_keep_alive():
            self._closing = True
        request = (self._parser.get_method(), self._url, b"".join(self._parts))
        if self.busy:
            self._waiting.append(request)
        else:
            self._begin(request)

    # ours

    def _begin(self, request: tuple[bytes, bytes, bytes]) -> None:
        self.busy = True
        method, url, body = request
        path = url.partition(b"?")[0]
        reply = Reply(self)
        if path == b"/v1/chat/completions":
            if method == b"POST":
                self._students.chat(body, reply)
            else:
                reply.error(405, "Send it by POST.")
        elif method == b"GET" and path == b"/health":
            reply.send(200, msgspec.json.encode({"status": "ok", "students": self._students.status()}))
        elif method == b"GET" and path == b"/v1/models":
            models = [{"id": model, "object": "model", "created": 0, "owned_by": "upeti"} for model in self._ready()]
            reply.send(200, msgspec.json.encode({"object": "list", "data": models}))
        else:
            reply.error(404, "There is /v1/chat/completions, /v1/models and /health.")

    def _ready(self) -> list[str]:
        return sorted(self._students.by_model)

    def answered(self, data: bytes) -> None:
        """Send the answer of the request that is under way; begin the next."""
        if self.closed:
            return
        self._transport.write(data)
        self.busy = False
        if self._waiting:
            self.busy = True
            asyncio.get_running_loop().call_soon(self._begin, self._waiting.popleft())
        elif self._closing:
            self._transport.close()

    def end(self) -> None:
        """Close after the answer that is under way."""
        self._closing = True
        if not self.busy:
            self._transport.close()
