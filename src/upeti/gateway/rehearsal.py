"""A drill in this worker: what calls of its share meet in a channel's place, and what follows for these calls alone.

Rules: an attempt that meets a fault is voided, as ``drill``: nothing was sent and nothing is owed. Everything behind it is the
real path: the table of signals, retry, failover, deadline. Only where it takes effect is another place: a drill has a breaker,
latches and signs of its own, which other calls never look at, and which tell nobody; a probe within a drill finds the
channel cut, because that is what is rehearsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from upeti.core.errors import DeadlineExceeded, Overloaded, UpstreamFailed
from upeti.gateway.call import Call
from upeti.gateway.failure import Answer, Failure, TimedOut
from upeti.gateway.faults import Fault, Kind
from upeti.gateway.fiber import NEVER_S, Gate
from upeti.gateway.health import Breaker
from upeti.gateway.holds import Attempt, Ended
from upeti.gateway.latch import Event, Latch, Latches, Scope, State, Subject
from upeti.gateway.live import Lane, LiveChannel, LiveView
from upeti.gateway.probe import Asked, Verdict
from upeti.gateway.signs import Signs
from upeti.money.window import iso_time
from upeti.providers.signals import MEANS, Meaning, Signal, Signals

if TYPE_CHECKING:
    from upeti.gateway.gateway import Gateway

_NO_ANSWER: Final = {
    Kind.REFUSED: "no connection to it can be made",
    Kind.RESET: "the provider closed the connection before it answered",
}


class Rehearsal:
    """One drill on one channel. It also stands where ``CutOff`` stands when an error is judged (``reaction``)."""

    def __init__(self, fault: Fault, channel: LiveChannel, signals: Signals) -> None:
        view = channel.view
        self.fault = fault
        self.breaker = Breaker(view.breaker_failures, view.breaker_pause_ms / 1000)
        self.latches = Latches()
        self.signs = Signs()
        self.signals = signals
        self.prober = _FindsCut()

    def bars(self, lane: Lane) -> Latch | None:
        """Return the drill's latch that keeps a candidate out."""
        return self.latches.covering(lane.channel.name, lane.channel.key_id, lane.model)

    # -- as ``CutOff`` ----------------------------------------------------------------------------------------------------

    def latch(
        self,
        call: Call,
        lane: Lane,
        answer: Answer,
        scope: Scope,
        event: Event,
        signal: Signal | None,
        verdict: Verdict | None = None,
    ) -> Latch:
        """Latch for the calls of the share."""
        meaning = signal.meaning if signal is not None else Meaning.UNEXPECTED
        subject = Subject(
            scope, lane.channel.name, {Scope.MODEL: lane.model, Scope.KEY: lane.channel.key_id}.get(scope, "")
        )
        why = f"{MEANS[meaning]} (status {answer.status}), as the drill {self.fault.drill} says"
        new = Latch(subject, State.USABLE, call.gateway.now_ns(), self.fault.drill, meaning, why)
        return self.latches.happened(new, event)[0]

    def hold_suspect(self, channel: str, incident: str) -> None:
        """No tenant is held for what nobody blocked."""

    def record(
        self,
        call: Call,
        lane: Lane,
        answer: Answer,
        signal: Signal | None,
        verdict: Verdict | None = None,
        incident: str = "",
    ) -> None:
        """The attempt's own record says that it is a drill's."""

    def refusal(self, latch: Latch) -> Overloaded:
        """Return the refusal of a call whose every candidate is out."""
        fault = self.fault
        return Overloaded(
            "channel_latched",
            f"Every candidate is out: {latch.subject.words} is cut off for this call by the drill {fault.drill}, at the latest "
            f"until {iso_time(fault.until_ns, 'UTC')}; `upeti drill end {fault.drill}` ends it.",
        )


class _FindsCut:
    """The prober of a drill: what is rehearsed is that the channel is cut."""

    async def verdict(self, call: Call, lane: Lane, answer: Answer) -> Asked:
        return Asked(Verdict.CUT)


class Rehearsals:
    """All drills of one worker; they outlive the views that look at them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._by_drill: dict[str, Rehearsal] = {}

    def put_on(self, view: LiveView) -> None:
        """Put the faults of a new view's snapshot on its channels."""
        kept = {}
        for fault in view.snapshot.faults:
            channel = view.channels.get(fault.channel)
            if channel is None:
                continue
            before = self._by_drill.get(fault.drill)
            if before is None or before.fault != fault:
                before = Rehearsal(fault, channel, self._gateway.cut_off.signals)
            kept[fault.drill] = channel.rehearsal = before
        self._by_drill = kept
        view.rehearsed = bool(kept)


def rehearsal_of(call: Call, lane: Lane) -> Rehearsal | None:
    """Return the drill that this call meets at this candidate."""
    rehearsal = lane.channel.rehearsal
    if rehearsal is None or not rehearsal.fault.takes(call.id, call.gateway.now_ns()):
        return None
    return rehearsal


def left_of(call: Call, lanes: Sequence[Lane]) -> Sequence[Lane]:
    """Return the candidates that a drill under way leaves to this call. Raises ``Overloaded`` when it leaves none."""
    left = []
    refusal = None
    for lane in lanes:
        rehearsal = rehearsal_of(call, lane)
        latch = rehearsal.bars(lane) if rehearsal is not None else None
        if latch is None:
            left.append(lane)
        elif refusal is None and rehearsal is not None:
            refusal = rehearsal.refusal(latch)
    if refusal is not None and not left:
        raise refusal
    return left


def bars(call: Call, lane: Lane) -> bool:
    """Whether a drill has latched this candidate for this call."""
    rehearsal = rehearsal_of(call, lane)
    return rehearsal is not None and rehearsal.bars(lane) is not None


def breaker_of(call: Call, lane: Lane) -> Breaker:
    """Return the breaker that this call looks at."""
    rehearsal = rehearsal_of(call, lane)
    return lane.channel.breaker if rehearsal is None else rehearsal.breaker


async def meet(call: Call, lane: Lane, attempt: Attempt, rehearsal: Rehearsal) -> Failure | None:
    """Let an attempt meet the fault in the provider's place; None: it goes on to the provider after all, late.

    ``call.fiber.deadline`` is the attempt's. Raises ``ClientLeft``.
    """
    fault, channel, loop = rehearsal.fault, lane.channel, call.gateway.loop
    if fault.kind is Kind.ERROR:
        attempt.settle(Ended.DRILL)
        await call.gateway.journal
        headers = {name.lower().encode(): value.encode() for name, value in fault.headers.items()}
        headers.setdefault(b"content-type", b"application/json")
        return Failure(answer=Answer(attempt, lane, fault.status, headers, "", fault.body, rehearsal))
    if fault.kind in (Kind.SILENT, Kind.SLOW):
        in_time = await _silence(call, fault.delay_ms / 1000 if fault.kind is Kind.SLOW else NEVER_S)
        if in_time:
            return None
        rehearsal.breaker.failed(loop.time())
        attempt.settle(Ended.DRILL)
        late = f"The channel {channel.name!r} did not answer in time (drill {fault.drill})."
        return Failure(error=DeadlineExceeded("upstream_timeout", late))
    rehearsal.breaker.failed(loop.time())
    attempt.settle(Ended.DRILL)
    what = f"The channel {channel.name!r} failed: {_NO_ANSWER[fault.kind]} (drill {fault.drill})."
    return Failure(error=UpstreamFailed("upstream_failed", what), again=True)


async def _silence(call: Call, seconds: float) -> bool:
    """Wait; return whether the attempt's time was longer."""
    gate = Gate()
    timer = call.gateway.loop.call_later(seconds, gate.open) if seconds != NEVER_S else None
    try:
        await gate
    except TimedOut:
        return False
    finally:
        if timer is not None:
            timer.cancel()
    return True
