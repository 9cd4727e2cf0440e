"""What a worker knows of being cut off, and tells: latches, holds of tenants, probes, records.

Rules: a latch holds here before anyone is told; the keeper is told at once and again after each connection until a snapshot
has it; while there is no keeper the latch stays. What leaves the worker is scrubbed.
"""

from __future__ import annotations

from hashlib import sha256
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from upeti.core.errors import Overloaded
from upeti.core.events import ChannelSignalled
from upeti.gateway import keeper_link as words
from upeti.gateway.call import Call
from upeti.gateway.failure import Answer
from upeti.gateway.latch import Event, Latch, Latches, Scope, State, Subject
from upeti.gateway.live import Lane
from upeti.gateway.probe import Found, Prober, Verdict
from upeti.gateway.refusals import latched
from upeti.gateway.relay import readable
from upeti.gateway.signs import HOLD_S, Signs
from upeti.providers.signals import MEANS, Meaning, Reaction, Signal, shipped
from upeti.wire.scrub import excerpt

if TYPE_CHECKING:
    from upeti.gateway.gateway import Gateway

_NS: Final = 10**9


class CutOff:
    """One worker's. ``latches`` and ``signs`` outlive the views that look at them."""

    def __init__(self, gateway: Gateway, latches: Latches, signs: Signs) -> None:
        self._gateway = gateway
        self.latches = latches
        self.signs = signs
        self.signals = shipped()
        self.prober = Prober(gateway, self.signals)
        self._unheard: dict[Subject, words.Latched] = {}  # what the keeper may not have heard of

    # -- what calls find ----------------------------------------------------------------------------------------------

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
        """Latch what ``answer`` says is cut off; return the latch that holds."""
        channel, now_ns = lane.channel, self._gateway.now_ns()
        meaning = signal.meaning if signal is not None else Meaning.UNEXPECTED
        known = f", {signal.id}" if signal is not None else ""
        worked = channel.worked or (lane if lane.named else None)
        new = Latch(
            _subject(scope, lane),
            State.USABLE,
            now_ns,
            f"inc_{token_hex(8)}",
            meaning,
            f"{MEANS[meaning]} (status {answer.status}{known})",
            wire=worked.target.wire.name if worked is not None else "",
            model=worked.model if worked is not None else "",
        )
        latch, changed = self.latches.happened(new, event)
        self.latches.met(latch)
        self.record(call, lane, answer, signal, verdict, latch.incident)
        if changed:
            self._gateway.view.forget_ways()
            self.prober.forget(channel.name)
            text = excerpt(readable(answer), channel.secrets, call.body)
            told = words.Latched(latch, signal.id if signal else "", answer.status, _digest(answer), text)
            self._unheard[latch.subject] = told
            self._gateway.keeper.say(told)
            self._gateway.log.error(
                "channel_latched",
                f"{latch.subject.words} is latched: {latch.why}; `upeti incidents show {latch.incident}`",
                channel=channel.name,
                incident=latch.incident,
                call=call.id,
            )
        return latch

    def refusal(self, latch: Latch) -> Overloaded:
        """Return the refusal of a call whose every candidate is out, one of them by ``latch``."""
        return latched(latch)

    def hold_suspect(self, channel: str, incident: str) -> None:
        """Hold the tenant that a provider most likely blocked ``channel`` for, before anything of his goes elsewhere."""
        gateway = self._gateway
        tenant, refusals = self.signs.suspect(channel, gateway.loop.time())
        until_ns = gateway.now_ns() + int(HOLD_S * _NS)
        if tenant and tenant not in self.signs.held:
            self.signs.hold(tenant, f"incident {incident}", until_ns)
            gateway.view.forget_ways()
            gateway.keeper.say(words.AbuseBlocked(tenant, channel, incident, refusals, until_ns))
            gateway.log.error(
                "tenant_held",
                f"the tenant {tenant} is held: the channel {channel} was blocked for abuse, and content filters had refused "
                f"{refusals} of its calls there; `upeti conduct` has the case",
                channel=channel,
                incident=incident,
            )

    def record(
        self,
        call: Call,
        lane: Lane,
        answer: Answer,
        signal: Signal | None,
        verdict: Verdict | None = None,
        incident: str = "",
    ) -> None:
        """Journal an error that is more than one call's."""
        self._gateway.journal.append(
            ChannelSignalled(
                call.number,
                answer.attempt.opened.attempt,
                self._gateway.now_ns(),
                call.id,
                lane.channel.name,
                lane.model,
                answer.status,
                signal.id if signal is not None else "",
                signal.meaning if signal is not None else Meaning.UNEXPECTED,
                signal.reaction if signal is not None else Reaction.PROBE,
                verdict or "",
                incident,
                _digest(answer),
                excerpt(readable(answer), lane.channel.secrets, call.body),
            )
        )

    # -- what the keeper says -------------------------------------------------------------------------------------------

    def heard(self, word: words.CutOffOrder) -> None:
        match word:
            case words.LatchShut(latch):
                self._unheard.pop(latch.subject, None)
                if self.latches.shut(latch):
                    self._gateway.view.forget_ways()
            case words.LatchOpened(subject):
                self._unheard.pop(subject, None)
                self.prober.forget(subject.channel)
                if self.latches.opened(subject):
                    self._gateway.view.forget_ways()
            case words.TenantHeld(tenant, number, until_ns):
                self.signs.hold(tenant, number, until_ns)
                self._gateway.view.forget_ways()
            case words.Refusals(seen):
                now_s = self._gateway.loop.time()
                for channel, tenant, count in seen:
                    self.signs.add(channel, tenant, count, now_s)
            case words.ProbeAsk():
                self._probe(word)

    def _probe(self, word: words.ProbeAsk) -> None:
        def done(found: Found) -> None:
            verdict = found.verdict()
            self._gateway.keeper.say(words.Probed(word.request, verdict, found.status, found.what))

        self.prober.ask(word.subject, word.wire, word.model, done)

    def connected(self) -> None:
        """The keeper is there (again): it may not have heard, or be another one."""
        waiting = {latch.subject for latch in self.latches.unconfirmed}
        self._unheard = {subject: told for subject, told in self._unheard.items() if subject in waiting}
        for told in self._unheard.values():
            self._gateway.keeper.say(told)

    def tick(self) -> None:
        """Once a second: say how many calls met latches; end holds."""
        affected = self.latches.affected
        if affected and self._gateway.keeper.say(words.Affected(affected)):
            self.latches.told()
        unsaid = self.signs.unsaid
        if unsaid:
            seen = [(channel, tenant, count) for (channel, tenant), count in unsaid.items()]
            if self._gateway.keeper.say(words.Refusals(seen)):
                unsaid.clear()
        if self.signs.held and self.signs.release_ended(self._gateway.now_ns()):
            self._gateway.view.forget_ways()

    def samples(self) -> dict[str, float]:
        """Return what metrics say of it."""
        values: dict[str, float] = {}
        for name in self._gateway.view.channels:
            values[f'upeti_channel_latched{{channel="{name}"}}'] = 0.0
        for latch in self.latches:
            if latch.subject.scope is not Scope.MODEL:
                values[f'upeti_channel_latched{{channel="{latch.subject.channel}"}}'] = 1.0
        models = sum(1 for latch in self.latches if latch.subject.scope is Scope.MODEL)
        values["upeti_models_latched"] = models
        values["upeti_tenants_held"] = len(self.signs.held)
        for name, count in self.prober.counts.items():
            values[f'upeti_probes_total{{verdict="{name}"}}'] = count
        for channel, count in self.signs.refusals_total.items():
            values[f'upeti_content_refusals_total{{channel="{channel}"}}'] = count
        return values


def _subject(scope: Scope, lane: Lane) -> Subject:
    channel = lane.channel
    if scope is Scope.MODEL:
        return Subject(scope, channel.name, lane.model)
    if scope is Scope.KEY and channel.key_id:
        return Subject(scope, channel.name, channel.key_id)
    return Subject(Scope.CHANNEL, channel.name)


def _digest(answer: Answer) -> str:
    return sha256(answer.body).hexdigest()
