"""What follows from a provider's error: is it the client's, a matter of waiting, or is somebody cut off?

Rules: the table of signals decides (``providers.signals``). An error that no row knows: of a server in trouble another
candidate may do better, and so may the same one a moment later; after an unexpected 400, 401, 402, 403 or 404 a request that
is known to be good tells whether the client was wrong or the channel is cut off; everything else is the client's. What
is the client's goes back as it came.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from upeti.gateway.call import Call
from upeti.gateway.failure import Answer, Failure
from upeti.gateway.headers import AMAZON_ERROR
from upeti.gateway.latch import Event, Scope
from upeti.gateway.live import Lane
from upeti.gateway.probe import PROBED, Verdict
from upeti.gateway.refusals import tenant_held
from upeti.gateway.relay import readable
from upeti.providers.signals import LATCHES, Meaning, Reaction, Signal
from upeti.wire.error_body import read_error
from upeti.wire.wires import OTHER

if TYPE_CHECKING:
    from upeti.gateway.cut_off import CutOff
    from upeti.gateway.rehearsal import Rehearsal

# Answers after which another candidate, or the same one a moment later, may do better.
RETRYABLE: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_RETRY_S: Final = 0.1  # before an overloaded provider is asked once more, less up to a half that is drawn
_SCOPES: Final = {
    Reaction.LATCH_KEY: Scope.KEY,
    Reaction.LATCH_CHANNEL: Scope.CHANNEL,
    Reaction.LATCH_MODEL: Scope.MODEL,
    Reaction.QUARANTINE_TENANT: Scope.CHANNEL,
}


async def react(call: Call, lane: Lane, answer: Answer) -> Failure | None:
    """Return what is to be done about an error, or None when it is the client's and goes back to him as it came."""
    cut_off, channel = _place_of_effects(call, answer), lane.channel
    breaker = channel.breaker if answer.rehearsal is None else answer.rehearsal.breaker
    said = read_error(readable(answer), answer.headers.get(AMAZON_ERROR, b""))
    signal = cut_off.signals.find(channel.view.kind, channel.signals_host, answer.status, said)
    reaction = signal.reaction if signal is not None else _usual(call, lane, answer.status)
    now_s = call.gateway.loop.time()
    if signal is not None and signal.meaning is Meaning.CONTENT:
        assert call.caller is not None
        cut_off.signs.refused(channel.name, call.caller.tenant, now_s)
        if call.way.route.content_failover:
            reaction = Reaction.FAIL_OVER
    if reaction is Reaction.PROBE:
        return await _probed(call, lane, answer, signal)
    if reaction is Reaction.GIVE_BACK:
        breaker.succeeded()  # it answers: what it refuses is this call
        return None
    if signal is not None and signal.meaning is Meaning.CONTENT:
        breaker.succeeded()
        return Failure(answer=answer)
    breaker.failed(now_s)
    if signal is None:
        return Failure(answer=answer, again=True)
    if reaction in LATCHES:
        return _cut(call, lane, answer, signal)
    if reaction is Reaction.RETRY_ONCE:
        return Failure(answer=answer, again=True, soon_s=_RETRY_S * (0.5 + call.gateway.draw() / 2))
    if reaction is Reaction.WAIT_OR_FAIL_OVER:
        wait_s = retry_after_s(answer.headers)
        waits = wait_s is not None and wait_s <= call.way.throttle_wait_s
        return Failure(answer=answer, soon_s=wait_s if waits else None)
    cut_off.record(call, lane, answer, signal)
    return Failure(answer=answer)


def _usual(call: Call, lane: Lane, status: int) -> Reaction:
    """What is done about an error that no row knows."""
    if status in RETRYABLE:
        return Reaction.FAIL_OVER
    # What is only relayed is about files and batches of the client's, and a model on this machine cuts nobody off.
    if status not in PROBED or call.target.wire is OTHER or lane.channel.view.kind == "embedded":
        return Reaction.GIVE_BACK
    return Reaction.PROBE


def _cut(call: Call, lane: Lane, answer: Answer, signal: Signal) -> Failure:
    """The error says that channel, key or model are cut off: latch; of an abuse block, hold the suspect first."""
    cut_off, caller = _place_of_effects(call, answer), call.caller
    assert caller is not None
    scope = _SCOPES[signal.reaction]
    if scope is Scope.MODEL and not lane.named:
        cut_off.record(call, lane, answer, signal)
        return Failure(answer=answer)  # a name that the client made up is no model that was taken away
    latch = cut_off.latch(call, lane, answer, scope, Event.SIGNAL, signal)
    if signal.reaction is Reaction.QUARANTINE_TENANT:
        cut_off.hold_suspect(lane.channel.name, latch.incident)
        hold = cut_off.signs.held.get(caller.tenant)
        if hold is not None:
            return Failure(error=tenant_held(hold.number, hold.until_ns), final=True)
    return Failure(error=cut_off.refusal(latch))


async def _probed(call: Call, lane: Lane, answer: Answer, signal: Signal | None) -> Failure | None:
    """Ask with a request that is known to be good whether the channel is cut off or the client was wrong."""
    cut_off, channel = _place_of_effects(call, answer), lane.channel
    breaker = channel.breaker if answer.rehearsal is None else answer.rehearsal.breaker
    asked = await cut_off.prober.verdict(call, lane, answer)
    if asked.verdict is not Verdict.CUT:
        if asked.fresh or answer.rehearsal is not None:  # once for each probe: a client's mistakes fill no journal
            cut_off.record(call, lane, answer, signal, asked.verdict)
        breaker.succeeded()
        return None
    breaker.failed(call.gateway.loop.time())
    scope = Scope.MODEL if asked.of_model else Scope.CHANNEL
    if scope is Scope.MODEL and not lane.named:
        return None
    latch = cut_off.latch(call, lane, answer, scope, Event.PROBE_FAILED, asked.signal or signal, asked.verdict)
    return Failure(error=cut_off.refusal(latch))


def _place_of_effects(call: Call, answer: Answer) -> CutOff | Rehearsal:
    """Return who latches, records and holds: of a drill's error it is the drill, so that nobody else meets it."""
    return call.gateway.cut_off if answer.rehearsal is None else answer.rehearsal


def retry_after_s(headers: dict[bytes, bytes]) -> float | None:
    """Return how long the provider says to wait; None when it does not say, or nothing that can be read."""
    for name, unit in ((b"retry-after-ms", 1e-3), (b"retry-after", 1.0)):
        text = headers.get(name, b"").decode("ascii", "replace").strip()
        if not text:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - time.time()
            except (TypeError, ValueError, OverflowError):
                continue
        if seconds == seconds and seconds < 1e9:  # no NaN, no century
            return max(0.0, seconds)
    return None
