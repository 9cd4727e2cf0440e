"""The known-good probe: a small request that is known to be right, with the channel's own credential.

Rules: the smallest request of a wire and model that the channel has answered well, or that a route names. It is an attempt
like any other: held, journaled, settled, for the tenant ``upeti`` and the feature ``known-good-probe``. One at a time for
each channel: calls that come meanwhile wait for the same verdict. What was found is remembered, so that a client who sends
garbage all day does not make the operator pay for a probe per call: at most one for each client key in ``KEY_EVERY_S``, and
one in ``EVERY_S`` for all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from upeti.core.errors import CallError, JournalError
from upeti.core.events import AttemptOpened
from upeti.gateway.call import Call
from upeti.gateway.failure import Answer, ClientLeft, TimedOut
from upeti.gateway.fiber import NEVER_S, Fiber, parked
from upeti.gateway.headers import AMAZON_ERROR, provider_request_id, request_headers
from upeti.gateway.holds import RECORDED_MAX, Attempt, Ended
from upeti.gateway.latch import Scope, Subject
from upeti.gateway.live import Lane, LiveChannel
from upeti.gateway.paths import target_of
from upeti.gateway.relay import ENDED_BY_KIND, readable
from upeti.gateway.snapshot import Caller, CandidateView
from upeti.gateway.upstream import UpstreamConnection, UpstreamError
from upeti.money.price import bound_of
from upeti.providers.signals import Meaning, Reaction, Signal, Signals
from upeti.wire.error_body import Said, error_code, read_error
from upeti.wire.scrub import excerpt
from upeti.wire.usage import usage_of_answer

if TYPE_CHECKING:
    from upeti.gateway.gateway import Gateway

TENANT: Final = "upeti"
FEATURE: Final = "known-good-probe"
CALLER: Final = Caller("", TENANT, "", FEATURE)
EVERY_S: Final = 1.0
KEY_EVERY_S: Final = 10.0
_TIMEOUT_S: Final = 10.0  # a generation of one token takes a second; a provider that is silent tells nothing
_KEYS_MAX: Final = 1_000
PROBED: Final = frozenset({400, 401, 402, 403, 404})
_ACCOUNT: Final = frozenset({401, 402, 403})
_CUTS: Final = frozenset({Reaction.LATCH_KEY, Reaction.LATCH_CHANNEL, Reaction.QUARANTINE_TENANT, Reaction.PROBE})
_WORD: Final = "ping"
_CAP: Final = 1
_CAP_RESPONSES: Final = 16  # "max_output_tokens: minimum 16", OpenAI API reference, responses
_TARGETS: Final = {
    name: target_of(b"POST", f"/v1{path}".encode())
    for name, path in (
        ("chat_completions", "/chat/completions"),
        ("responses", "/responses"),
        ("completions", "/completions"),
        ("embeddings", "/embeddings"),
        ("messages", "/messages"),
    )
}
# What differs from one answer to the next although it says the same: quoted names, numbers, ids.
_VARIES: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\S*\d\S*")


class Verdict(StrEnum):
    SOUND = "sound"  # the channel serves: the client was wrong
    CUT = "cut"
    UNSURE = "unsure"  # no probe could be sent, or its answer tells nothing


class Found(msgspec.Struct, frozen=True):
    """What a probe was answered. ``status`` 0: nothing."""

    status: int = 0
    said: Said = Said()
    signal: Signal | None = None
    model: str = ""
    what: str = "no probe could be sent"

    def verdict(self, status: int = 0, said: Said | None = None) -> Verdict:
        """Return what it means for a call that was answered ``status`` and ``said``; without them, for a latch."""
        if 200 <= self.status < 300:
            return Verdict.SOUND
        if self.signal is not None:
            if self.signal.meaning in (Meaning.BAD_REQUEST, Meaning.CONTENT):
                return Verdict.SOUND  # it was read: whoever is cut off is told that first
            return Verdict.CUT if self.signal.reaction in _CUTS else Verdict.UNSURE
        if self.status in _ACCOUNT:
            return Verdict.CUT
        if self.status in PROBED and self.status == status and said is not None and alike(said, self.said):
            return Verdict.CUT
        return Verdict.UNSURE


class Asked(msgspec.Struct, frozen=True):
    """A verdict for one call."""

    verdict: Verdict
    signal: Signal | None = None
    of_model: bool = False  # only the model that the call asked for is known to be gone
    fresh: bool = False  # the probe was made for this call


class _Probe:
    """A probe under way, and who waits for it. Also the owner of its fiber."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.waiting: list[tuple[Fiber, int]] = []

    def park(self, fiber: Fiber, ticket: int) -> None:
        self.waiting.append((fiber, ticket))

    def crashed(self) -> None:
        """A fault of ours; it is logged, and who waits was told."""


class _Standing:
    """What is known of one channel."""

    __slots__ = ("found", "keys", "probe", "until_s")

    def __init__(self) -> None:
        self.probe: _Probe | None = None
        self.found = Found()
        self.until_s = 0.0  # until then nobody asks again
        self.keys: dict[str, float] = {}  # … and until then not for this key


class Prober:
    """One worker's probes."""

    def __init__(self, gateway: Gateway, signals: Signals) -> None:
        self._gateway = gateway
        self._signals = signals
        self._channels: dict[str, _Standing] = {}
        self.counts: Counter[str] = Counter()  # verdict → probes, for metrics

    async def verdict(self, call: Call, lane: Lane, answer: Answer) -> Asked:
        """Return whether the channel of ``lane`` is cut off or the call was wrong, by what a good request is answered."""
        assert call.caller is not None
        standing = self._channels.setdefault(lane.channel.name, _Standing())
        now_s, key = self._gateway.loop.time(), call.caller.key
        fresh = False
        if standing.probe is None and now_s >= max(standing.until_s, standing.keys.get(key, 0.0)):
            good = self._good(lane.channel, lane)
            if good is None:
                return Asked(Verdict.UNSURE)
            if len(standing.keys) >= _KEYS_MAX:
                standing.keys.clear()
            standing.keys[key] = now_s + KEY_EVERY_S
            standing.until_s = now_s + EVERY_S
            fresh = True
            self._start(standing, good)
        found = standing.found
        if standing.probe is not None:
            call.fiber.deadline = call.deadline_s
            try:
                found = await parked(standing.probe)
            except TimedOut:
                return Asked(Verdict.UNSURE)
            finally:
                call.fiber.deadline = NEVER_S
        said = read_error(readable(answer), answer.headers.get(AMAZON_ERROR, b""))
        verdict = found.verdict(answer.status, said)
        of_model = verdict is Verdict.CUT and found.status == 404 and found.model == lane.model
        return Asked(verdict, found.signal, of_model, fresh)

    def ask(self, subject: Subject, wire: str, model: str, done: Callable[[Found], None]) -> None:
        """Probe for the keeper; ``done`` is called with what was found."""
        channel = self._gateway.view.channels.get(subject.channel)
        good = None
        if channel is not None:
            if subject.scope is Scope.MODEL:
                good = self._lane(channel, wire or _wire_of(channel, subject.detail), subject.detail)
            else:
                good = self._lane(channel, wire, model) if wire and model else None
                good = good or self._good(channel, None)
        if good is None:
            done(Found(what="no request is known that the channel has answered, and no route names a model of it"))
            return
        self._run_fiber(_Probe(good), done)

    def forget(self, channel: str) -> None:
        """What was found of a channel is of before its latch was shut or opened."""
        standing = self._channels.get(channel)
        if standing is not None and standing.probe is None:
            del self._channels[channel]

    # -- which request is good ----------------------------------------------------------------------------------------

    def _good(self, channel: LiveChannel, lane: Lane | None) -> Lane | None:
        """Return a lane for a probe: what has worked, what the call's route names, what any route names.

        A name that a client chose, and that has never worked, is not known to be good.
        """
        latches, wanted = self._gateway.view.latches, lane.model if lane is not None else ""
        tried: list[tuple[str, str]] = []
        if channel.worked is not None:
            tried.append((channel.worked.target.wire.name, channel.worked.model))
        if lane is not None and lane.named:
            tried.append((lane.target.wire.name, lane.model))
        for route in self._gateway.view.routes.values():
            for one in route.candidates:
                if one.channel == channel.name and one.model not in ("", "*"):
                    tried.append((_wire_of(channel, one.model), one.model))
        # Another model than the call's first: should only that one be gone, the channel is not.
        for wire, model in sorted(tried, key=lambda one: one[1] == wanted):
            if latches.on(Subject(Scope.MODEL, channel.name, model)) is None:
                found = self._lane(channel, wire, model)
                if found is not None:
                    return found
        return None

    def _lane(self, channel: LiveChannel, wire: str, model: str) -> Lane | None:
        view = self._gateway.view
        target = _TARGETS.get(wire)
        candidates = [
            one
            for route in view.routes.values()
            for one in route.candidates
            if one.channel == channel.name and one.model in (model, "", "*")
        ]
        if target is None or not candidates or not channel.speaks(target):
            return None
        named: CandidateView = max(candidates, key=lambda one: one.model == model)
        return Lane(named, channel, target, model, view.snapshot.output_tokens_default, _TIMEOUT_S)

    # -- the probe ----------------------------------------------------------------------------------------------------

    def _start(self, standing: _Standing, lane: Lane) -> None:
        probe = standing.probe = _Probe(lane)

        def done(found: Found) -> None:
            standing.found = found
            standing.probe = None
            for fiber, ticket in probe.waiting:
                self._gateway.loop.call_soon(fiber.resume, ticket, found)

        self._run_fiber(probe, done)

    def _run_fiber(self, probe: _Probe, done: Callable[[Found], None]) -> None:
        fiber = Fiber(self._gateway.ended, probe)
        self._gateway.fibers.add(fiber)
        fiber.start(self._run(fiber, probe.lane, done))

    async def _run(self, fiber: Fiber, lane: Lane, done: Callable[[Found], None]) -> None:
        found = Found()
        try:
            found = await self._send(fiber, lane)
        except (CallError, JournalError) as error:
            found = Found(what=f"no probe could be sent: {error}")
        except (TimedOut, ClientLeft):
            pass  # there is no money for it, or the worker stops
        finally:
            self.counts[found.verdict()] += 1
            done(found)

    async def _send(self, fiber: Fiber, lane: Lane) -> Found:
        """Hold, journal, send, settle. Raises ``CallError`` when it may not be sent."""
        gateway, wire = self._gateway, lane.target.wire
        fiber.deadline = gateway.loop.time() + _TIMEOUT_S
        now_ns = gateway.now_ns()
        if now_ns >= lane.until_ns:
            lane.look_up_prices(now_ns)
        tariff = lane.tariff(None)
        cap = (_CAP_RESPONSES if wire.name == "responses" else _CAP) if wire.cap_fields else 0
        body = _body(lane, cap)
        bound_pico = 0
        if tariff is not None:
            limits = {"input_tokens_max": len(body), "output_tokens_max": cap, "choices": 1}
            bound_pico = min(RECORDED_MAX, max(bound_of(price, **limits) for price in tariff.reach))
        elif gateway.view.refuse_unpriced:
            return Found(what="the model has no price")
        currency = tariff.price.currency if tariff is not None else lane.currency
        money = gateway.view.purses.find(CALLER, FEATURE, currency, now_ns, gateway.holds)
        if money.stopped:
            money.check(bound_pico, currency)
        await gateway.holds.place_with_more(money.purses, bound_pico)
        number, call_id = gateway.next_call()
        opened = AttemptOpened(
            number,
            0,
            gateway.now_ns(),
            call_id,
            TENANT,
            "",
            "",
            FEATURE,
            "",
            "",
            lane.channel.name,
            lane.model,
            wire.name,
            False,
            money.budgets,
            bound_pico,
            currency,
            tariff is not None,
        )
        price = tariff.price if tariff is not None else None
        with Attempt(opened, price, money.purses, gateway, lane.prices_by_tier, lane.usual_tier(None)) as attempt:
            await gateway.journal
            return await self._exchange(fiber, lane, attempt, body)

    async def _exchange(self, fiber: Fiber, lane: Lane, attempt: Attempt, body: bytes) -> Found:
        gateway, channel = self._gateway, lane.channel
        reply: UpstreamConnection | None = None
        sent_s = gateway.loop.time()
        try:
            reply = channel.pool.idle() or await channel.pool.connect()
            attempt.sent = True
            head = channel.head_for(lane.target, lane.model_upstream) + request_headers(
                {b"content-type": b"application/json"}, channel.provider.headers
            )
            request = b"%bx-client-request-id: %b-0\r\ncontent-length: %d\r\n\r\n%b" % (
                head,
                attempt.opened.call_id.encode(),
                len(body),
                body,
            )
            reply.begin(request, gateway.limits.answer_bytes_max, fiber.deadline, _TIMEOUT_S)
            await reply
            parts = [] if not reply.complete else [reply.whole_body()]
            while not reply.complete and (data := await reply.read()):
                parts.append(data)
        except UpstreamError as error:
            attempt.settle(ENDED_BY_KIND.get(error.kind, Ended.NOT_SENT))
            return Found(model=lane.model, what=str(error))
        except TimedOut:
            attempt.settle(Ended.TIMED_OUT)
            return Found(model=lane.model, what=f"no answer within {_TIMEOUT_S:.0f} s")
        finally:
            fiber.deadline = NEVER_S
            if reply is not None:
                reply.release()
        return await self._settle(lane, attempt, reply, b"".join(parts), sent_s)

    async def _settle(
        self, lane: Lane, attempt: Attempt, reply: UpstreamConnection, answered: bytes, sent_s: float
    ) -> Found:
        status, headers = reply.status, reply.headers
        request_id = provider_request_id(headers)
        if status < 400:
            usage = usage_of_answer(answered)
            meters = lane.target.wire.meters(usage) if usage is not None else None
            tier = usage.tier if usage is not None and not lane.provisioned else None
            attempt.settle(Ended.ANSWERED, meters, reply, sent_s, request_id, tier)
        else:
            unsure = lane.channel.provider.may_charge(status, error_code(answered))
            attempt.settle(Ended.REFUSED_UNSURE if unsure else Ended.REFUSED, None, reply, sent_s, request_id)
        await self._gateway.journal
        if status < 400:
            return Found(status, model=lane.model, what="answered")
        said = read_error(answered, headers.get(AMAZON_ERROR, b""))
        channel = lane.channel
        signal = self._signals.find(channel.view.kind, channel.signals_host, status, said)
        return Found(status, said, signal, lane.model, excerpt(answered, channel.secrets))


def alike(first: Said, second: Said) -> bool:
    """Whether two errors say the same, names and numbers aside."""
    return (first.type, first.code, _shape(first.message)) == (second.type, second.code, _shape(second.message))


def _shape(message: str) -> str:
    return " ".join(_VARIES.sub("", message.lower()).split())


def _wire_of(channel: LiveChannel, model: str) -> str:
    """Return on which wire a model is asked of which nothing is known but its name."""
    if "messages" in channel.provider.wires:
        return "messages"
    return "embeddings" if "embed" in model.lower() else "chat_completions"


def _body(lane: Lane, cap: int) -> bytes:
    """Return the smallest request of a lane's wire."""
    name = lane.target.wire.name
    fields: dict[str, object] = {"model": lane.model_upstream}
    if name in ("chat_completions", "messages"):
        fields["messages"] = [{"role": "user", "content": _WORD}]
    elif name == "completions":
        fields["prompt"] = _WORD
    else:
        fields["input"] = _WORD
    if name == "responses":
        fields["store"] = False
    if cap:
        fields[lane.cap_field] = cap
    return msgspec.json.encode(fields)
